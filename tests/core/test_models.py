"""The nouns as values, and the secrets that must not show in them."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import attrs
import pytest
from hypothesis import given, strategies as st

from aistemsplitter_async._wire.codec import decode
from aistemsplitter_async.config import Secret
from aistemsplitter_async.models import (
    DirectURL,
    Reservation,
    Split,
    Submission,
    Upload,
    UploadedFile,
    WorkerReceipt,
    redact_url,
)

SAMPLES = Path(__file__).parent.parent / "samples"


def golden(name: str, cls: type) -> object:
    return decode(json.loads((SAMPLES / f"{name}.json").read_bytes())["data"], cls)


def test_no_repr_shows_what_grants_access() -> None:
    reservation, receipt = golden("upload_reserved", Reservation), golden("upload_stored", WorkerReceipt)
    split = golden("split_succeeded", Split)
    assert isinstance(reservation, Reservation)
    assert isinstance(receipt, WorkerReceipt)
    uploaded = UploadedFile("u", receipt.url, receipt.key)
    upload = Upload(uploaded, "song.wav", "audio/wav", 17, reservation.expires_at)
    direct = DirectURL("https://me:SECRET@a.example/s.mp3?t=SECRET#SECRET")
    fragment = DirectURL("https://a.example/s.mp3#SECRET?x")
    for value in (reservation, receipt, split, uploaded, upload, direct, fragment, Submission("key", b"SECRET")):
        assert "SECRET" not in repr(value)
        assert "SECRET" not in f"{value} {value!s} {[value]}"
    assert "X-Upload-Token" in repr(reservation), "the names help and grant nothing"
    assert "https://a.example/s.mp3" in repr(direct)
    assert "vocals" in repr(split)


@given(st.text(), st.text())
def test_a_shown_url_ends_before_its_query(url: str, query: str) -> None:
    shown = redact_url(f"{url}?{query}")
    assert shown == redact_url(url)
    assert "?" not in shown
    assert "#" not in shown


def test_values_are_frozen_and_pickle() -> None:
    for value in (golden("upload_reserved", Reservation), golden("split_succeeded", Split), Submission("k", b"b")):
        assert pickle.loads(pickle.dumps(value)) == value  # noqa: S301  # our own bytes
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            value.id = "other"  # type: ignore[attr-defined]


KEY = "ast_canary_0123456789"


@attrs.frozen
class Holder:
    """Something of ours or a user's that keeps the key in a field."""

    key: Secret


def test_only_reveal_returns_a_secret() -> None:
    secret = Secret(KEY)
    assert secret.reveal() == KEY
    holder = Holder(secret)
    shown = [repr(secret), str(secret), f"{secret}", f"{secret!r:>40}", "%s %r" % (secret, secret), repr([secret])]  # noqa: UP031
    shown += [repr(holder), str(attrs.asdict(holder)), str(attrs.astuple(holder)), str(vars(Secret))]
    assert not any(KEY in text for text in shown)
    assert not hasattr(secret, "__dict__")


@pytest.mark.parametrize("value", [Secret(KEY), Holder(Secret(KEY)), [Secret(KEY)]], ids=["secret", "holder", "list"])
def test_a_secret_leaves_in_no_pickle_and_no_deep_copy(value: object) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="not pickled") as caught:
            pickle.dumps(value, protocol)
        assert KEY not in str(caught.value)
    with pytest.raises(TypeError):
        copy.deepcopy(value)
    with pytest.raises(TypeError):
        json.dumps(value)


def test_a_secret_is_not_copied_either() -> None:
    with pytest.raises(TypeError, match="not pickled"):
        copy.copy(Secret(KEY))
