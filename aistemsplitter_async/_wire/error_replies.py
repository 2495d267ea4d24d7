"""Turns an error reply into the error that a caller catches."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from aistemsplitter_async._plain import redact_text
from aistemsplitter_async._wire.codec import parse_reply
from aistemsplitter_async._wire.dates import parse_retry_after
from aistemsplitter_async._wire.encodings import decode_text
from aistemsplitter_async._wire.messages import Origin, Reply
from aistemsplitter_async.config import ERROR_TEXT_CAP_BYTES
from aistemsplitter_async.errors import (
    APIStatusError,
    AuthenticationError,
    InsufficientCreditsError,
    ProtocolError,
    RateLimitedError,
    ServerError,
    ValidationError,
)

_BY_STATUS: dict[int, type[APIStatusError]] = {
    401: AuthenticationError,
    402: InsufficientCreditsError,
    403: AuthenticationError,
    422: ValidationError,
    429: RateLimitedError,
}
_OF_THE_KEY = frozenset({AuthenticationError, InsufficientCreditsError})  # others than the API do not see it
_SERVER_ERRORS = range(500, 600)
# The status that a code comes with, for a failure that comes with a 2xx.
_STATUS_OF = {
    "UNAUTHORIZED": 401,
    "INSUFFICIENT_CREDITS": 402,
    "VALIDATION_ERROR": 422,
    "RATE_LIMITED": 429,
    "SERVER_ERROR": 500,
}
NO_CODE = (
    "UNSPECIFIED"  # the code of a failure that the API reports without one; an answer that is not its own has none
)
_OTHER_REFUSAL, _OTHER_SERVER_ERROR = 400, 500
_OF_THE_SERVER = re.compile("SERVER|INTERNAL|TIMEOUT|UNAVAILABLE|GATEWAY")  # codes that a refusal would not have
_REQUEST_IDS = ("x-request-id", "request-id", "cf-ray")

# Escape sequences, control characters and bidirectional marks would affect the terminal that shows the message.
_UNPRINTABLE = re.compile(
    "\x1b\\[[0-?]*[ -/]*[@-~]|\x1b.?"
    "|[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff\U000e0000-\U000e007f]+"
)
_CODE_CAP = 100  # characters; the API's codes are a few words


def clean_text(text: str) -> str:
    """Return server text made safe to show on one line, at most 2 KiB."""
    shown = " ".join(_UNPRINTABLE.sub(" ", text[:ERROR_TEXT_CAP_BYTES]).split())
    return shown.encode()[:ERROR_TEXT_CAP_BYTES].decode("utf-8", "ignore")


def request_id(headers: Mapping[str, str]) -> str | None:
    """Return the server's id of the request that a reply with these headers answers, if it sent one."""
    ids = (clean_text(headers[name]) for name in _REQUEST_IDS if name in headers)
    return next(filter(None, ids), None)


def build_status_error(reply: Reply, *, what: str, now: float, origin: Origin = Origin.API) -> APIStatusError:
    """Return the error for a reply that is not 2xx.

    Args:
        reply: the API's, the upload worker's, or anything that a proxy may send instead.
        what: the call, for the message, such as "create a split".
        now: POSIX seconds, for Retry-After dates.
        origin: whom was asked; a refusal of any other than the API says nothing about the key.
    """
    envelope = _envelope(reply)
    code, detail = _code_and_message(envelope, reply)
    own = code or (NO_CODE if envelope is not None and envelope.get("success") is False else None)
    return _build(reply.status, reply, own, detail, what=what, now=now, origin=origin)


def build_refusal(reply: Reply, *, what: str, now: float, origin: Origin = Origin.API) -> APIStatusError | None:
    """Return the error that a 2xx reply reports in its envelope, `None` if it reports none.

    Its class and `status_code` are those that its code stands for; an unknown code is a refusal. The arguments are
    those of `build_status_error`.
    """
    envelope = _envelope(reply)
    if envelope is None:
        return None
    code, detail = _code_and_message(envelope, reply)
    status = _STATUS_OF.get(code or "")
    if status is None:
        if envelope.get("success") is not False:
            return None
        status = _OTHER_SERVER_ERROR if _OF_THE_SERVER.search((code or "").upper()) else _OTHER_REFUSAL
    reason = detail or "a failure without a reason" * (code is None)
    return _build(status, reply, code or NO_CODE, reason, what=what, now=now, origin=origin)


def _build(
    status: int, reply: Reply, code: str | None, detail: str, *, what: str, now: float, origin: Origin
) -> APIStatusError:
    cls = _BY_STATUS.get(status) or (ServerError if status in _SERVER_ERRORS else APIStatusError)
    if origin is not Origin.API and cls in _OF_THE_KEY:
        cls = APIStatusError
    reason = ": ".join(part for part in (code if code != NO_CODE else None, detail) if part)
    return cls(
        f"could not {what}: HTTP {reply.status}" + (f", {reason}" if reason else ""),
        code=code,
        status_code=status,
        request_id=request_id(reply.headers),
        retry_after=parse_retry_after(reply.headers.get("retry-after"), date=reply.headers.get("date"), now=now),
        detail=redact_text(detail),
    )


def _envelope(reply: Reply) -> dict[str, Any] | None:
    try:
        envelope = parse_reply(reply)
    except ProtocolError:
        return None
    return envelope if isinstance(envelope, dict) else None


def _code_and_message(envelope: dict[str, Any] | None, reply: Reply) -> tuple[str | None, str]:
    if envelope is None:
        return None, _summarize(reply)
    error, message = envelope.get("error"), envelope.get("message")
    code = None
    if isinstance(error, dict):  # the API's
        code, message = error.get("code"), error.get("message")
    elif envelope.get("success") is False:  # the upload worker's, which is flat
        code = error
    elif isinstance(error, str) and not isinstance(message, str):  # of a gateway that speaks JSON; it has no codes
        message = error
    return (
        clean_text(code)[:_CODE_CAP] or None if isinstance(code, str) else None,
        clean_text(message) if isinstance(message, str) else "",
    )


def _summarize(reply: Reply) -> str:
    """Summarize a body that is not an envelope: usually a proxy's page, whose title says enough."""
    try:
        text = decode_text(reply.body, reply.headers)[:ERROR_TEXT_CAP_BYTES]
    except ProtocolError:
        text = reply.body[:ERROR_TEXT_CAP_BYTES].decode("utf-8", "replace")
    title = re.search(r"<title>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
    if title:
        return f"a web page titled “{clean_text(title[1])}”"
    return "a web page" if "<html" in text.lower() else clean_text(text)[:200]
