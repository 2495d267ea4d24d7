"""Webhook signatures: the genuine ones pass, and everything else is a WebhookError and nothing else."""

from __future__ import annotations

import hashlib
import hmac
import pickle
from typing import Any

import pytest
from hypothesis import example, given, strategies as st

from aistemsplitter_async._wire.signature import Keys, sign, verify
from aistemsplitter_async.config import Secret
from aistemsplitter_async.errors import ConfigurationError, WebhookError

SECRET = "whsec_0123456789abcdef"
OTHER = "whsec_other"
BODY = b'{"event": "audio.split.completed", "data": {"id": "split_123", "status": "succeeded"}}\n'
NOW = 1_800_000_000
GENUINE = f"t={NOW}," + "v1=" + hmac.new(SECRET.encode(), f"{NOW}.".encode() + BODY, hashlib.sha256).hexdigest()
V1 = GENUINE.partition(",")[2]


def code_of(body: bytes, header: Any, *, secrets: Any = SECRET, now: float = NOW, tolerance: float = 300.0) -> str:
    """Return the code of the refusal, or `""`."""
    try:
        verify(body, header, secrets, now, tolerance)
    except WebhookError as error:
        refusal = error
    else:
        return ""
    assert SECRET not in f"{refusal!r}"
    return str(refusal.code)


def test_what_is_signed_is_the_timestamp_a_dot_and_the_raw_body() -> None:
    assert sign(BODY, SECRET, NOW) == GENUINE
    assert verify(BODY, GENUINE, SECRET, NOW) == NOW


def test_a_known_answer_that_was_not_computed_here() -> None:
    # printf '1800000000.{}' | openssl dgst -sha256 -hmac whsec_test
    digest = "482e6337ac5272392d375c6fdc4d52a7e615dc2facedab0ffe155ddfd6a56e66"
    assert verify(b"{}", f"t=1800000000,v1={digest}", "whsec_test", NOW) == NOW


def test_every_flipped_bit_of_the_body_is_refused() -> None:
    for place in range(len(BODY) * 8):
        flipped = bytearray(BODY)
        flipped[place // 8] ^= 1 << place % 8
        assert code_of(bytes(flipped), GENUINE) == "SIGNATURE_MISMATCH", place


def test_every_flipped_bit_of_the_header_is_refused() -> None:
    raw = GENUINE.encode()
    for place in range(len(raw) * 8):
        flipped = bytearray(raw)
        flipped[place // 8] ^= 1 << place % 8
        assert code_of(BODY, flipped.decode("latin-1")).startswith("SIGNATURE_"), flipped


def test_the_test_above_would_notice_digits_that_are_read_leniently() -> None:
    """The negative control: a bit makes a digit of the signature a capital letter, which still means the same."""
    lenient = GENUINE.replace("a", "A", 1)
    assert bytes.fromhex(lenient.rpartition("=")[2]) == bytes.fromhex(GENUINE.rpartition("=")[2])
    assert code_of(BODY, lenient) == "SIGNATURE_MALFORMED"


@pytest.mark.parametrize(
    ("off", "code"),
    [
        (0, ""),
        (299, ""),
        (300, ""),
        (301, "TIMESTAMP_STALE"),
        (-299, ""),
        (-300, ""),
        (-301, "TIMESTAMP_FUTURE"),
        (10**9, "TIMESTAMP_STALE"),
        (-(10**9), "TIMESTAMP_FUTURE"),
        (float("inf"), "TIMESTAMP_STALE"),
        (float("-inf"), "TIMESTAMP_FUTURE"),
        (float("nan"), "TIMESTAMP_FUTURE"),
    ],
)
def test_a_genuine_signature_is_good_for_so_long_both_ways(off: float, code: str) -> None:
    assert code_of(BODY, GENUINE, now=NOW + off) == code


def test_a_tolerance_of_nan_tolerates_nothing_but_the_very_second() -> None:
    assert code_of(BODY, GENUINE, now=NOW + 1, tolerance=float("nan")) == "TIMESTAMP_STALE"
    assert code_of(BODY, GENUINE, now=NOW - 1, tolerance=float("nan")) == "TIMESTAMP_FUTURE"


def test_the_error_for_a_forgery_does_not_reveal_whether_its_timestamp_is_valid() -> None:
    forged = f"t={NOW - 9999},v1={'0' * 64}"
    assert code_of(BODY, forged) == "SIGNATURE_MISMATCH"


MALFORMED = {
    "empty": "",
    "blank": "   ",
    "no timestamp": V1,
    "no signature": f"t={NOW}",
    "two timestamps": f"t={NOW},{GENUINE}",
    "the same timestamp twice": f"{GENUINE},t={NOW}",
    "the whole header twice": f"{GENUINE},{GENUINE}",
    "nine signatures": f"t={NOW}" + f",{V1}" * 9,
    "a thousand signatures": f"t={NOW}" + f",{V1}" * 1000,
    "a million commas": "," * 10**6,
    "one good and one short": f"{GENUINE},v1=00",
    "capital letters": f"t={NOW},{V1.upper()}".replace("V1", "v1"),
    "63 digits": GENUINE[:-1],
    "65 digits": GENUINE + "0",
    "base64": f"t={NOW},v1=" + "A" * 43 + "=",
    "a sign": GENUINE.replace("t=", "t=+"),
    "a minus": GENUINE.replace("t=", "t=-"),
    "a fraction": GENUINE.replace(f"t={NOW}", f"t={NOW}.0"),
    "an exponent": GENUINE.replace(f"t={NOW}", "t=1e9"),
    "an underscore": GENUINE.replace(f"t={NOW}", "t=1_800_000_000"),
    "hexadecimal": GENUINE.replace(f"t={NOW}", "t=0x6b49d200"),
    "arabic digits": GENUINE.replace(f"t={NOW}", "t=١٨٠٠٠٠٠٠٠٠"),
    "a superscript": GENUINE.replace(f"t={NOW}", "t=²"),
    "fullwidth digits": GENUINE.replace("v1=" + V1[3], "v1=\uff11"),
    "thirteen digits": GENUINE.replace(f"t={NOW}", f"t={NOW}000"),
    "five thousand digits": GENUINE.replace(f"t={NOW}", "t=" + "9" * 5000),
    "no digits": GENUINE.replace(f"t={NOW}", "t="),
    "not a number": GENUINE.replace(f"t={NOW}", "t=nan"),
    "a line break": GENUINE.replace(",", ",\r\n"),
    "a tab": GENUINE.replace("t=", "\tt="),
    "NUL": GENUINE + "\0",
    "a lone surrogate": GENUINE + "\udc80",
    "an emoji": "\N{LOCK}" * 64,
    "another scheme only": f"t={NOW},v0={'0' * 64}",
    "names in capitals": GENUINE.replace("t=", "T="),
    "semicolons": GENUINE.replace(",", ";"),
}


@pytest.mark.parametrize("header", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_header_is_refused_as_such(header: str) -> None:
    assert code_of(BODY, header) == "SIGNATURE_MALFORMED"


def test_no_header_is_refused_as_such() -> None:
    assert code_of(BODY, None) == "SIGNATURE_MISSING"


@pytest.mark.parametrize(
    "header",
    [
        GENUINE,
        GENUINE.replace(",", ", "),
        f"{V1},t={NOW}",
        f"{GENUINE},v1={'0' * 64}",
        f"t={NOW},v1={'0' * 64},{V1}",
        f"t={NOW}" + f",v1={'f' * 64}" * 7 + f",{V1}",
        f"{GENUINE},v2=something-new",
    ],
)
def test_what_means_the_same_is_accepted(header: str) -> None:
    assert verify(BODY, header, SECRET, NOW) == NOW


def test_while_a_secret_is_rotated_both_are_good() -> None:
    for secret in (SECRET, OTHER):
        header = sign(BODY, secret, NOW)
        assert verify(BODY, header, [SECRET, OTHER], NOW) == NOW
        assert verify(BODY, header, (Secret(OTHER), Secret(SECRET)), NOW) == NOW
    assert code_of(BODY, sign(BODY, OTHER, NOW)) == "SIGNATURE_MISMATCH"


@pytest.mark.parametrize("secrets", ["", "  ", [], [""], [SECRET, ""], [SECRET, " \n"], Secret("")])
def test_no_secret_and_an_empty_one_are_refused_before_the_header_is_read(secrets: Any) -> None:
    with pytest.raises(ConfigurationError, match="secret is missing or empty"):
        verify(BODY, sign(BODY, "x", NOW), secrets, NOW)
    with pytest.raises(ConfigurationError):
        verify(BODY, None, secrets, NOW)


def test_one_secret_as_text_is_not_a_collection_of_letters() -> None:
    assert len(list(Keys("abc"))) == 1
    assert code_of(BODY, sign(BODY, "w", NOW), secrets="whsec") == "SIGNATURE_MISMATCH"


def test_keys_are_neither_shown_nor_pickled() -> None:
    keys = Keys([SECRET, OTHER])
    assert verify(BODY, GENUINE, keys, NOW) == NOW
    assert repr(keys) == "Keys(***)"
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(keys)


def test_the_line_break_at_the_end_of_a_secrets_file_does_not_count() -> None:
    assert verify(BODY, GENUINE, SECRET + "\n", NOW) == NOW


@given(st.binary(), st.text(max_size=40).filter(str.strip), st.integers(0, 10**12 - 1))
def test_whatever_was_signed_is_verified(body: bytes, secret: str, timestamp: int) -> None:
    assert verify(body, sign(body, Secret(secret), timestamp), secret, timestamp) == timestamp


pieces = st.sampled_from(
    ["t", "v1", "v2", "=", ",", " ", ";", f"t={NOW}", V1, GENUINE, "0" * 64, "\0", "\ud800", "é", "\u0661", "\r\n", '"']
)


@given(st.binary(max_size=200), st.one_of(st.text(), st.lists(pieces, max_size=30).map("".join)))
@example(b"", "t=" + "0" * 12 + ",v1=" + "0" * 64)
def test_whatever_comes_in_is_refused_with_a_webhook_error_and_nothing_else(body: bytes, header: str) -> None:
    assert code_of(body, header) in ("SIGNATURE_MALFORMED", "SIGNATURE_MISMATCH")


@given(st.lists(pieces, max_size=12).map("".join), st.floats())
def test_no_clock_makes_it_raise_anything_else(header: str, now: float) -> None:
    assert code_of(BODY, header, now=now) in (
        "",
        "SIGNATURE_MALFORMED",
        "SIGNATURE_MISMATCH",
        "TIMESTAMP_STALE",
        "TIMESTAMP_FUTURE",
    )
