"""Writes the service's answers as bytes, in every form that services, and what stands before them, send."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import attrs

from benchmarks.trials.scenario import Fault

REFUSAL = {"code": "VALIDATION_ERROR", "message": "this song is not for splitting"}
_CREATED = re.compile(r'"createdAt": "[^"]*"')
_CHUNKED = ("Transfer-Encoding", "chunked")
_COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "raw-deflate": lambda data: zlib.compress(data)[2:-4],
}
_WAITS: dict[str, Callable[[float, float], str]] = {
    "seconds": lambda seconds, _: f"{seconds:.0f}",
    "fraction": lambda seconds, _: f"{seconds:.3f}",
    "spaces": lambda seconds, _: f"  {seconds:.0f} ",
    "date": lambda seconds, now: formatdate(now + seconds, usegmt=True),
    "zone": lambda seconds, now: formatdate(now + seconds, usegmt=True).replace("GMT", "+0000"),
    "epoch": lambda seconds, now: f"{now + seconds:.0f}",
    "epoch-millis": lambda seconds, now: f"{(now + seconds) * 1000:.0f}",
}
_MISSING = {"created-missing": "createdAt", "credits-missing": "creditsUsed", "status-missing": "status"}
_CREATED_AS = {
    "created-epoch": "1800000000",
    "created-millis": "1800000000123",
    "created-basic": '"20270115T080000Z"',
    "created-nano": '"2027-01-15T08:00:00.123456789Z"',
    "created-naive": '"2027-01-15 08:00:00"',
    "created-null": "null",
}
_NO_JSON = {"page": "<html><title>Wait</title>...</html>", "empty": "", "nan": '{"success": true, "data": NaN}'}


@attrs.frozen
class Answer:
    """What the service answers: a value as JSON, or bytes."""

    status: int
    value: Any = None
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


def success(value: dict[str, Any]) -> Answer:
    return Answer(200, {"success": True, "data": value})


def failure(status: int, code: str, message: str) -> Answer:
    return Answer(status, {"success": False, "error": {"code": code, "message": message}})


def write_wait(fault: Fault, now: float) -> str:
    """Return the `Retry-After` of a fault at a time (POSIX seconds)."""
    form, at = fault.retry_after, fault.retry_after.startswith("@")
    return _WAITS[form[1:]](fault.at_least, now) if at else form


def write_reply(usual: Answer, fault: Fault, now: float) -> bytes:
    """Return the bytes that are sent in place of the usual answer at a time (POSIX seconds)."""
    answer = _spoil(usual, fault, now)
    headers, body = [*answer.headers, *_further_headers(fault.headers)], answer.body
    headers += [("Date", formatdate(now, usegmt=True))] if fault.date else []
    if answer.value is not None:
        body, coding = _encode(answer.value, fault.body)
        headers += [("Content-Type", "text/html" if fault.body == "page" else "application/json"), *coding]
    elif fault.body in _COMPRESS and answer.status == 200:
        body, headers = _COMPRESS[fault.body](body), [*headers, ("Content-Encoding", fault.body)]
    if fault.body == "chunked" and _CHUNKED not in headers:
        headers.append(_CHUNKED)
    if answer.status == 204:
        body = b""
    elif _CHUNKED in headers:
        body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:100], body[100:]) if part) + b"0\r\n\r\n"
    else:
        headers.append(("Content-Length", str(len(body))))
    head = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return f"HTTP/1.1 {answer.status} Said\r\n{head}\r\n".encode("latin-1") + body


def _spoil(answer: Answer, fault: Fault, now: float) -> Answer:
    if fault.body == "refusal":
        return Answer(fault.status or 200, {"success": False, "error": REFUSAL})
    if fault.status is None and fault.effect:
        instead = answer.value is None and fault.body in _NO_JSON  # of a stem
        return Answer(200, {"no": "stem"}) if instead else answer
    status = fault.status or 503
    headers = (("Retry-After", write_wait(fault, now)),) if fault.retry_after else ()
    location = (("Location", "/elsewhere"),) if status // 100 == 3 else ()
    said = failure(status, f"CODE_{status}", f"no, says {status}")
    return attrs.evolve(said, headers=(*headers, *location))


def _further_headers(form: str) -> list[tuple[str, str]]:
    kind, _, size = form.partition("-")
    if kind == "coding":
        return [("Content-Encoding", name) for name in size.split("|")]
    if kind == "huge":
        return [("X-Policy", "p" * int(size))]
    if kind == "many":
        return [(f"X-Field-{number}", "x") for number in range(int(size))]
    if kind == "repeated":
        return [("Set-Cookie", f"c{number}=1; Path=/") for number in range(60)]
    return [("X-Name", "caf\xe9")] if kind == "latin" else []


def _encode(value: dict[str, Any], form: str) -> tuple[bytes, list[tuple[str, str]]]:
    """Return a JSON body and what its head says of it."""
    body = _dress(value, form).encode("utf-8-sig" if form == "bom" else "utf-8")
    if form in _COMPRESS:
        return _COMPRESS[form](body), [("Content-Encoding", form.removeprefix("raw-"))]
    return body[: len(body) * 2 // 3] if form == "truncated" else body, []


def _dress(value: dict[str, Any], form: str) -> str:
    data = value.get("data")
    if isinstance(data, dict):
        is_poll = "stems" in data
        if form in _MISSING and not (is_poll and form == "status-missing"):
            data.pop(_MISSING[form], None)
        if form == "credits-negative":
            data["creditsUsed"] = -1000
        if form == "extra":
            data |= {"queue": {"position": [1, 2, None]}, "x": "\u2603"}
    text = json.dumps(value)
    if form in _CREATED_AS:
        return _CREATED.sub(f'"createdAt": {_CREATED_AS[form]}', text)
    return _NO_JSON.get(form, text)
