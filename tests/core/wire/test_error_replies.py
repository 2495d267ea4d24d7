"""From an error reply of any form, the caller gets the right error with text that is safe to show."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from aistemsplitter_async._wire.error_replies import build_status_error, clean_text, request_id
from aistemsplitter_async._wire.messages import Reply
from aistemsplitter_async.config import ERROR_TEXT_CAP_BYTES
from aistemsplitter_async.errors import (
    APIStatusError,
    AuthenticationError,
    InsufficientCreditsError,
    RateLimitedError,
    ServerError,
    ValidationError,
)

SAMPLES = Path(__file__).parents[2] / "samples"
KINDS = {
    401: AuthenticationError,
    402: InsufficientCreditsError,
    403: AuthenticationError,
    422: ValidationError,
    429: RateLimitedError,
}


def failure(status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> APIStatusError:
    return build_status_error(
        Reply(status=status, headers=headers or {}, body=body), what="create the split", now=1_777_888_800.0
    )


def test_every_status_has_its_error_class() -> None:
    for status in [*range(100, 200), *range(300, 1000)]:
        expected = KINDS.get(status, ServerError if 500 <= status < 600 else APIStatusError)
        error = failure(status)
        assert type(error) is expected
        assert error.status_code == status
        assert str(error) == f"could not create the split: HTTP {status}"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, "UNAUTHORIZED"),
        (402, "INSUFFICIENT_CREDITS"),
        (422, "VALIDATION_ERROR"),
        (429, "RATE_LIMITED"),
        (500, "SERVER_ERROR"),
    ],
)
def test_the_apis_own_envelope_gives_code_and_message(status: int, code: str) -> None:
    error = failure(status, (SAMPLES / f"error_{status}.json").read_bytes())
    assert error.code == code
    assert error.detail
    assert str(error) == f"could not create the split: HTTP {status}, {code}: {error.detail}"


def test_the_upload_workers_flat_envelope_gives_code_and_message() -> None:
    error = failure(403, (SAMPLES / "error_worker.json").read_bytes())
    assert (error.code, error.detail) == ("UPLOAD_TOKEN_INVALID", "The upload token is not valid.")


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"", ""),
        (b"<html><head><TITLE>\n 502 Bad\tGateway </TITLE></head></html>", "a web page titled “502 Bad Gateway”"),
        (b"<!doctype html><HTML><body>x</body>", "a web page"),
        (b"upstream connect error", "upstream connect error"),
        (b"\xff\xfe\x00binary", "\ufffd\ufffd binary"),
        (b"[1, 2]", "[1, 2]"),
        (b'{"success": false', '{"success": false'),
        (b"x" * 5000, "x" * 200),
    ],
)
def test_a_proxys_body_is_reduced_to_its_gist(body: bytes, detail: str) -> None:
    error = failure(502, body)
    assert (error.code, error.detail) == (None, detail)


@pytest.mark.parametrize(
    "body",
    [
        b'{"error": null}',
        b'{"error": 5, "message": 6}',
        b'{"error": {"code": null, "message": ["x"]}}',
        b'{"error": ["UNAUTHORIZED"], "message": {"a": 1}}',
        b'{"error": {}}',
        b'{"error": "", "message": ""}',
        b'{"error": {"code": "\\u001b[31m", "message": " "}}',
        b"{}",
    ],
)
def test_envelopes_of_the_wrong_types_give_no_code_and_no_detail(body: bytes) -> None:
    error = failure(500, body)
    assert (error.code, error.detail) == (None, "")
    assert str(error) == "could not create the split: HTTP 500"


HOSTILE = [
    ("\x1b[31mred\x1b[0m", "red"),
    ("\x1b[38;5;196mred", "red"),
    ("a\x1b]0;title\x07b", "a 0;title b"),
    ("a\x9b31mb", "a 31mb"),
    ("two\r\nlines\ttab\x00nul", "two lines tab nul"),
    ("txt.\u202egpj\u202c", "txt. gpj"),
    ("\u2066a\u2069\u061cb\u200fc\u200ed", "a b c d"),
    ("zero\u200bwidth\ufeff\u2060x", "zero width x"),
    ("tag\U000e0041s", "tag s"),
    ("lone\ud800", "lone"),
    ("\x1b", ""),
    ("Grüße, 世界 🎵", "Grüße, 世界 🎵"),
]


@pytest.mark.parametrize(("text", "shown"), HOSTILE)
def test_what_would_act_on_a_terminal_is_taken_out(text: str, shown: str) -> None:
    assert clean_text(text) == shown


@given(st.text(max_size=3000) | st.text("\x1b[;]0mA\u202e\u2028é🎵 ", max_size=3000))
def test_cleaned_text_is_one_short_encodable_line_without_controls(text: str) -> None:
    shown = clean_text(text)
    assert len(shown.encode()) <= ERROR_TEXT_CAP_BYTES
    assert not any(ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0 for character in shown)
    assert not any(
        character in "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069" for character in shown
    )
    assert len(shown.splitlines()) <= 1


def test_the_text_kept_of_any_reply_is_bounded_in_bytes() -> None:
    loud = '{"error": {"code": "%s", "message": "%s"}}' % ("C" * 5000, "🎵" * 5000)  # noqa: UP031  # braces
    error = failure(422, loud.encode(), {"x-request-id": "i" * 9000})
    assert error.code == "C" * 100
    assert len(error.detail.encode()) <= ERROR_TEXT_CAP_BYTES
    assert len(str(error).encode()) <= ERROR_TEXT_CAP_BYTES + 200
    assert len(error.request_id or "") <= ERROR_TEXT_CAP_BYTES


@given(status=st.integers(300, 599), body=st.binary(max_size=300), after=st.text(max_size=20))
def test_any_reply_makes_an_error_that_pickles(status: int, body: bytes, after: str) -> None:
    error = failure(status, body, {"Retry-After": after, "Date": after})
    assert pickle.loads(pickle.dumps(error)).__dict__ == error.__dict__  # noqa: S301  # our own bytes


@pytest.mark.parametrize("name", ["X-Request-Id", "x-request-id", "Request-Id", "CF-RAY"])
def test_the_servers_request_id_is_found_under_the_usual_names(name: str) -> None:
    assert failure(500, headers={name: " req_1\x1b[0m "}).request_id == "req_1"


def test_an_empty_request_id_is_none_and_does_not_hide_a_better_one() -> None:
    assert request_id({"x-request-id": " "}) is None
    assert request_id({"x-request-id": "", "cf-ray": "ray"}) == "ray"


def test_retry_after_is_read_against_the_replys_own_date() -> None:
    headers = {"Retry-After": "Mon, 04 May 2026 10:00:30 GMT", "Date": "Mon, 04 May 2026 10:00:00 GMT"}
    assert failure(429, headers=headers).retry_after == 30
    assert failure(503, headers={"Retry-After": "7"}).retry_after == 7
    assert failure(429).retry_after is None
