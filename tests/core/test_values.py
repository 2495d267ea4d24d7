"""Every value as plain JSON: one way everywhere, nothing that JSON lacks, nothing secret in what goes to logs."""

from __future__ import annotations

import enum
import inspect
import io
import json
import math
import re
from collections import UserDict
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, strategies as st

import aistemsplitter_async
from aistemsplitter_async import errors, events, models
from aistemsplitter_async._plain import Model, PlainValue, redact_text, to_plain
from aistemsplitter_async.batch import outcome, progress
from aistemsplitter_async.models import (
    CreatedSplit,
    Credits,
    DirectURL,
    Reservation,
    Split,
    SplitErrorDetail,
    Submission,
    Upload,
    UploadedFile,
    WorkerReceipt,
)
from tests.core.test_errors import CLASSES, build

AT = datetime(2026, 5, 4, 12, 30, tzinfo=timezone(timedelta(hours=2)))
SIGNED = "https://me:SECRET@cdn.example/v.mp3?token=SECRET#SECRET"
UPLOADED = UploadedFile("u", SIGNED, "k")
SPACED = "https://cdn.example/a song.mp3?token=SECRET"  # as some servers give them
SPLIT = Split("s", "succeeded", "4s", 214, AT, AT, "a.wav", math.nan, {"vocals": SIGNED}, SplitErrorDetail("C", "m"))
SUBMISSION = Submission("key", json.dumps({"input": {"url": SIGNED}}).encode())
MODELS: list[Model] = [
    Credits(3.5),
    Reservation("u", SIGNED, {"X-Token": "t"}, AT),
    WorkerReceipt(SIGNED, "k"),
    DirectURL(SIGNED),
    UPLOADED,
    Upload(UPLOADED, "a.wav", "audio/wav", 3, AT),
    SUBMISSION,
    Submission("key", bytes(range(256))),
    CreatedSplit("s", credits_used=214, created_at=AT),
    SplitErrorDetail("C", "m"),
    attrs.evolve(SPLIT, duration_seconds=3.0),
    Split("s", "queued"),
]
VALUES: list[PlainValue] = [
    *MODELS,
    SPLIT,
    outcome.Done(Path("caf\udce9.wav"), SPLIT, {"vocals": Path("out/v\udcff.wav")}),
    outcome.Failed(io.BytesIO(b"x"), "wait", errors.SplitFailedError(SPLIT)),
    outcome.Skipped(b"bytes", "finished"),
    outcome.BatchReport(done=1, failed=0, skipped=0, credits_used=math.inf, seconds=2.0),
    events.CreateAbandoned(submission=SUBMISSION, reason="r", at=1.0),
    events.BoughtBefore(source=SIGNED, split_id=None, delivered="4s/mp3", asked="6s/", at=1.0),
    *(build(cls) for cls in CLASSES),
]


def is_plain(value: object) -> bool:
    if isinstance(value, dict):
        return type(value) is dict and all(type(key) is str for key in value) and all(map(is_plain, value.values()))
    if isinstance(value, list):
        return type(value) is list and all(map(is_plain, value))
    if isinstance(value, str):
        value.encode()  # no lone surrogates
    return type(value) in (str, int, bool, type(None)) or (type(value) is float and math.isfinite(value))


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_every_value_is_plain_json_for_every_encoder(value: PlainValue) -> None:
    plain = value.to_dict()
    assert is_plain(plain)
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert dict(value) == {**value} == json.loads(json.dumps(value, default=dict)) == value.__json__() == plain
    schema = type(value).json_schema()
    assert set(schema["required"]) <= set(plain)


def test_every_public_model_outcome_event_and_error_is_a_plain_value() -> None:
    public = [getattr(aistemsplitter_async, name) for name in dir(aistemsplitter_async)]
    homes = {module.__name__ for module in (models, events, outcome, progress, errors)}
    kinds = [kind for kind in public if inspect.isclass(kind) and kind.__module__ in homes]
    assert len(kinds) > 50
    assert [kind for kind in kinds if not issubclass(kind, PlainValue)] == []


@pytest.mark.parametrize("model", MODELS, ids=lambda value: type(value).__name__)
def test_every_model_comes_back_from_its_json(model: Model) -> None:
    again = type(model).from_dict(json.loads(json.dumps(model.to_dict())) | {"added_later": 1})
    assert again == model


def test_keys_are_attribute_names_and_dates_are_utc() -> None:
    assert SPLIT.to_dict() == {
        "id": "s",
        "status": "succeeded",
        "stem_model": "4s",
        "credits_used": 214,
        "created_at": "2026-05-04T10:30:00Z",
        "updated_at": "2026-05-04T10:30:00Z",
        "filename": "a.wav",
        "duration_seconds": None,
        "stems": {"vocals": SIGNED},
        "error": {"code": "C", "message": "m"},
    }
    assert [value.to_dict()["type"] for value in VALUES if isinstance(value, outcome._Outcome | events._Event)] == [
        "Done",
        "Failed",
        "Skipped",
        "CreateAbandoned",
        "BoughtBefore",
    ]
    assert (DirectURL("u").to_dict()["type"], UPLOADED.to_dict()["type"]) == ("direct_url", "uploaded_file")


def test_what_is_needed_keeps_its_query_and_what_goes_to_logs_does_not() -> None:
    for value in VALUES:
        text = json.dumps(value.to_dict())
        if isinstance(value, events._Event | errors.AIStemSplitterError):
            assert "SECRET" not in text
    error = errors.SubmissionUncertainError("text", submission=SUBMISSION)
    assert "SECRET" not in json.dumps([error.args, outcome.Failed("x", "create", error).to_dict()])
    assert "SECRET" not in json.dumps(errors.WaitTimeoutError("s", SPLIT).args)
    assert "SECRET" in json.dumps([SPLIT.to_dict(), SUBMISSION.to_dict(), UPLOADED.to_dict()])


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({}, "Split.id is missing"),
        ({"id": None, "status": "x"}, "Split.id should be text, not null"),
        ({"id": "s", "status": "x", "credits_used": True}, "Split.credits_used should be a number, not bool"),
        ({"id": "s", "status": "x", "created_at": "soon"}, "Split.created_at should be a time in ISO 8601, not other"),
        ({"id": "s", "status": "x", "stems": ["v"]}, "Split.stems should be an object of texts, not list"),
        ({"id": "s", "status": "x", "error": 3}, "SplitErrorDetail should be an object, not int"),
        ([], "Split should be an object, not list"),
    ],
)
def test_what_is_wrong_in_json_is_named(data: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Split.from_dict(data)
    with pytest.raises(ValueError, match=r"DirectURL\.type should be 'direct_url', not 'uploaded_file'"):
        DirectURL.from_dict(UPLOADED.to_dict())
    with pytest.raises(ValueError, match=r"Submission\.body should be text of one character a byte"):
        Submission.from_dict({"idempotency_key": "key", "body": "\u0416"})


@given(st.recursive(st.none() | st.floats() | st.text() | st.binary() | st.dates(), st.lists, max_leaves=5))
def test_anything_becomes_plain(value: object) -> None:
    assert is_plain(to_plain(value))


def test_what_json_lacks_is_null_or_named() -> None:
    class Model(str, enum.Enum):  # noqa: UP042  # whose `str` is another text
        FOUR = "4s"

    class Hidden:
        @property
        def name(self) -> str:
            raise RuntimeError

    class Lazy(UserDict[str, str]):
        def __getitem__(self, key: str) -> str:
            raise ConnectionError(key)

    endless: list[Any] = []
    endless.append(endless)
    assert to_plain([Model.FOUR, 2**64, 10**5000, Hidden(), {b"k": 1}]) == ["4s", None, None, "<Hidden>", {"b'k'": 1}]
    assert to_plain([Lazy(k="v")]) == ["<Lazy>"]
    assert "<list>" in json.dumps(to_plain(endless))
    assert to_plain(datetime(1, 1, 1, tzinfo=AT.tzinfo)) == "0001-01-01T00:00:00+02:00"  # no such day in UTC
    assert to_plain(AT.replace(tzinfo=None)) == "2026-05-04T12:30:00Z"
    assert is_plain(errors.UploadError("cannot read caf\udce9.wav").to_dict())
    assert errors.UploadError("cannot read caf\udce9\ud800.wav").args == (
        "cannot read caf\\xe9\\ud800.wav",
    )  # for `print`


@pytest.mark.parametrize("body", [json.dumps([SIGNED]), json.dumps({"a": [{"b": f"see {SIGNED}"}]}), "[" * 100_000])
def test_no_body_that_grants_access_or_cannot_be_read_goes_to_logs(body: str) -> None:
    assert Submission("key", body.encode()).to_plain(shown=True)["body"] == ""


def test_no_url_in_an_error_grants_access_whoever_wrote_it() -> None:
    said = f"cannot fetch '{SIGNED}', or <{SPACED.replace(' ', '%20')}>."
    failed = Split("s", "failed", stems={"v": SPACED}, error=SplitErrorDetail("C", said))
    for error in (
        errors.ServerError(f"could not create: {said}", detail=said),
        errors.SplitFailedError(failed),
        errors.WaitTimeoutError("s", failed),
    ):
        shown = [str(error), repr(error), json.dumps(error.args), json.dumps(error.to_dict())]
        assert [text for text in shown if "SECRET" in text or "token" in text] == []
    assert (
        str(errors.ServerError(said))
        == "cannot fetch 'https://cdn.example/v.mp3', or <https://cdn.example/a%20song.mp3>."
    )
    assert str(errors.ServerError("a:// b:/c? http://x/y.")) == "a:// b:/c? http://x/y."


@pytest.mark.parametrize("password", ["pa#SECRET", "pa?SECRET", "pa/SECRET", "p@a#SECRET", "SECRET"])
def test_no_part_of_a_password_is_shown(password: str) -> None:
    shown = models.redact_url(f"https://user:{password}@host:8443/a.wav?b=c")
    assert not {"pa", "SECRET", "user"} & set(re.split(r"\W", shown))


@pytest.mark.parametrize(
    "text",
    [
        "GET /stems/v.mp3?X-Amz-Signature={}&x=1 was denied",
        r"https:\/\/cdn.test\/v.mp3?sig={}",
        "https%3A%2F%2Fcdn.test%2Fv.mp3%3Fsig%3D{}",
        "cdn.test/v.mp3?a=1&amp;token={}",
        "https://cdn.test/a b.mp3?token={}",
    ],
)
def test_what_servers_write_of_a_signed_url_does_not_show_its_signature(text: str) -> None:
    secret = "5EC4E75EC4E75EC4E7"
    assert secret in text.format(secret)
    for shown in (redact_text(text.format(secret)), redact_text(text.format(f"{secret}.{secret}.{secret}"))):
        assert "5EC4E7" not in shown
        assert "v.mp3" in shown or "/a b.mp3" in shown
    assert redact_text("no sound in watch?v=dQw4w9WgXcQ.mp3?") == "no sound in watch?v=dQw4w9WgXcQ.mp3?"


@given(st.text(), st.text())
def test_redacting_is_done_after_once(before: str, after: str) -> None:
    text = redact_text(f"{before}https://a.example/b?SECRET {after}")
    assert redact_text(text) == text
    assert "SECRET" not in text.removeprefix(before)


def test_a_value_is_no_list() -> None:
    value: Any = SPLIT
    with pytest.raises(TypeError):
        list(value)
    assert not isinstance(value, Iterable)
    assert not hasattr(value, "__dict__"), "it takes no more memory than its fields"


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_is_made_again_from_its_args_as_task_queues_do(cls: Any) -> None:
    error = build(cls)
    error.request_id, error.idempotency_key = "req-2", "key-2"  # as calls add them later
    args = json.loads(json.dumps(error.args))
    again = cls(*args)
    assert (str(again), repr(again), vars(again)) == (str(error), repr(error), vars(error))
    assert again.args == error.args
    assert args[0] == str(error)


def test_an_error_that_says_nothing_more_has_only_its_message() -> None:
    assert errors.ConfigurationError("text").args == ("text",)
    assert repr(errors.ConfigurationError("text", code="C")) == "ConfigurationError('text')"


def test_what_a_queue_returns_replaces_no_method() -> None:
    error = errors.ConfigurationError("text", {"to_dict": "x", "__class__": "x", "args": [], "code": "C", "mine": 1})
    assert error.args == ("text", {"code": "C", "mine": 1})
    assert error.to_dict()["message"] == "text"


def test_a_body_that_was_not_kept_is_not_sent() -> None:
    error: Any = errors.SubmissionUncertainError("text", submission=SUBMISSION)
    assert type(error)(*error.args).submission == Submission("key", b"")
    assert error.submission == SUBMISSION
