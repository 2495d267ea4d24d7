"""The forms in which platforms give a webhook request, and the mistakes that are made with them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aistemsplitter_async.webhooks import SIGNATURE_HEADER, sign, verify
from aistemsplitter_async.webhooks.verdict import Sent

SECRET, NOW = "whsec_test", 1_700_000_000
BODY = '{"event": "audio.split.completed", "data": {"id": "split_\u00fc", "status": "succeeded"}}'.encode()
VALUE = sign(BODY, SECRET, NOW)


async def read_body() -> bytes:
    return BODY


@pytest.mark.parametrize("body", [BODY, bytearray(BODY), memoryview(BODY), BODY.decode()])
def test_a_body_is_bytes_of_any_kind_or_their_text(body: Any) -> None:
    assert verify(body, VALUE, SECRET, NOW) == NOW
    assert verify(body, VALUE.encode(), SECRET, NOW) == NOW
    assert sign(body, SECRET, NOW) == VALUE


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (json.loads(BODY), r"not dict; .* parsed JSON"),
        ([1], r"not list; .* parsed JSON"),
        (read_body, r"not function; call it"),
        (None, r"not NoneType$"),
        (7, r"not int$"),
    ],
)
def test_another_body_is_a_mistake_of_the_caller_and_says_which(body: Any, what: str) -> None:
    with pytest.raises(TypeError, match=what):
        verify(body, VALUE, SECRET, NOW)


def test_a_body_that_was_not_awaited_says_so() -> None:
    coroutine = read_body()
    with pytest.raises(TypeError, match="await it"):
        verify(coroutine, VALUE, SECRET, NOW)  # type: ignore[arg-type]
    coroutine.close()


@pytest.mark.parametrize("headers", [VALUE, VALUE.encode(), 7, 1.5, object()])
def test_headers_that_are_none_are_a_mistake_of_the_caller(headers: Any) -> None:
    with pytest.raises(TypeError, match="must be a mapping, or pairs"):
        Sent.parse(headers)


def test_a_header_that_is_all_headers_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(TypeError, match="must be the value of AIStemSplitter-Signature, not dict"):
        verify(BODY, {SIGNATURE_HEADER: VALUE}, SECRET, NOW)  # type: ignore[arg-type]


def test_a_wsgi_environ_is_read() -> None:
    environ = {
        "HTTP_AISTEMSPLITTER_SIGNATURE": VALUE,
        "CONTENT_LENGTH": "99",
        "HTTP_CONTENT_ENCODING": "gzip",
        "x": object(),
    }
    assert Sent.parse(environ) == Sent(VALUE, encoded=True, length=99)


def test_a_header_that_was_split_in_two_lines_is_one() -> None:
    time, signature = VALUE.split(",")
    sent = Sent.parse([(b"aistemsplitter-signature", time.encode()), (SIGNATURE_HEADER, signature)])
    assert verify(BODY, sent.signature, SECRET, NOW) == NOW
