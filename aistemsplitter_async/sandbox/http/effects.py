"""Applies a fault to a reply and returns the changed reply. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable
from email.utils import formatdate
from typing import Any, Final

import attrs

from aistemsplitter_async.sandbox.faults.base import Fault
from aistemsplitter_async.sandbox.faults.requests import (
    HOSTILE_NAMES,
    Body,
    ChangedField,
    ContentType,
    Cut,
    Drip,
    ExtraFields,
    Header,
    HostileStems,
    MissingField,
    Reset,
    Stall,
    Status,
    WrongContentRange,
)
from aistemsplitter_async.sandbox.http.encode import dump
from aistemsplitter_async.sandbox.http.refusals import RefusalError
from aistemsplitter_async.sandbox.http.replies import JSON_HEADERS, Manner, Reply, build_refusal_reply

_CODES: Final = {
    401: "UNAUTHORIZED",
    402: "INSUFFICIENT_CREDITS",
    404: "NOT_FOUND",
    422: "VALIDATION_ERROR",
    429: "RATE_LIMITED",
}
_PARTIAL = 206
_PROXY_PAGE: Final = b"<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"


def change_reply(fault: Fault, reply: Reply) -> Reply | None:
    """Return `reply` as `fault` changes it; `None` if the fault cannot apply to it."""
    match fault:
        case ContentType():
            return _set_header(reply, "Content-Type", fault.content_type)
        case Header():
            return _set_header(reply, fault.name, fault.value)
        case WrongContentRange() if reply.status == _PARTIAL:
            first, _, rest = reply.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")
            return _set_header(reply, "Content-Range", fault.value or f"bytes {int(first) + 1}-{rest}")
        case Drip():
            return _change_manner(reply, piece_bytes=fault.piece_bytes, every=float(fault.every))
        case Stall():
            return _change_manner(reply, stop_after=fault.after_bytes, then="stall")
        case Cut():
            return _change_manner(reply, stop_after=fault.after_bytes, then=fault.how, framing=fault.framing)
        case Reset():  # the operation was carried out, but no answer says so
            return attrs.evolve(reply, status=0, manner=Manner(then=fault.how))
        case _:
            return _change_body(fault, reply)


def replace_reply(fault: Fault, *, flat: bool, now: float) -> Reply | None:
    """Return the answer of a fault that prevents the operation; `None` for any other fault.

    `flat` chooses the error envelope of upload worker and CDN; `now` is POSIX seconds.
    """
    match fault:
        case Status(effect=False):
            return build_status_reply(fault, flat=flat, now=now)
        case Body(effect=False):
            return change_reply(fault, Reply(200, b"{}", JSON_HEADERS))
        case Reset(effect=False):
            return Reply(0, manner=Manner(then=fault.how))
        case _:
            return None


def build_status_reply(fault: Status, *, flat: bool, now: float) -> Reply:
    """Return the error that a `Status` fault answers with."""
    headers = {}
    if fault.retry_after is not None:
        headers["Retry-After"] = _format_retry_after(fault.retry_after, now)
    code = fault.code or _CODES.get(fault.status, "SERVER_ERROR")
    refusal = RefusalError(fault.status, code, f"Injected status {fault.status}.", headers)
    return build_refusal_reply(refusal, flat=flat)


def _change_body(fault: Fault, reply: Reply) -> Reply | None:
    match fault:
        case Body():
            return _replace_body(reply, fault)
        case MissingField():
            return _edit(reply, fault.path, lambda parent, name: parent.pop(name))
        case ChangedField():
            return _edit(reply, fault.path, lambda parent, name: parent.update({name: fault.value}))
        case ExtraFields():
            value = _parse(reply)
            return None if value is None else attrs.evolve(reply, body=dump(_with_extras(value)))
        case HostileStems():
            return _replace_stems(reply, fault)
        case _:
            return None


def _replace_body(reply: Reply, fault: Body) -> Reply | None:
    if fault.body == "html":
        reply = _set_header(reply, "Content-Type", "text/html")
    if fault.body != "truncated":
        body = _BODIES[fault.body](fault)
    elif isinstance(reply.body, bytes):
        body = reply.body[: len(reply.body) // 2]
    else:
        return None
    return attrs.evolve(reply, status=fault.status or reply.status, body=body)


def _replace_stems(reply: Reply, fault: HostileStems) -> Reply | None:
    value = _parse(reply)
    stems = value.get("data", {}).get("stems") if value is not None else None
    if value is None or not stems:
        return None
    names, urls = list(stems), list(stems.values())
    if fault.urls:
        named = [names[n] if n < len(names) else f"stem{n + 1}" for n in range(len(fault.urls))]
        value["data"]["stems"] = dict(zip(named, fault.urls, strict=True))
    else:
        hostile = fault.names or HOSTILE_NAMES
        value["data"]["stems"] = {name: urls[n % len(urls)] for n, name in enumerate(hostile)}
    return attrs.evolve(reply, body=dump(value))


def _set_header(reply: Reply, name: str, value: str) -> Reply:
    return attrs.evolve(reply, headers={**reply.headers, name: value})


def _change_manner(reply: Reply, **changes: Any) -> Reply:
    return attrs.evolve(reply, manner=attrs.evolve(reply.manner or Manner(), **changes))


def _format_retry_after(value: float | str, now: float) -> str:
    match value:
        case "date":
            return formatdate(now + 30, usegmt=True)
        case "past":
            return formatdate(now - 3600, usegmt=True)
        case "absurd":
            return "9999999999"
        case _:
            return f"{value:g}" if isinstance(value, (int, float)) else value


def _edit(reply: Reply, path: str, change: Callable[[dict[str, Any], str], object]) -> Reply | None:
    value = _parse(reply)
    *parents, last = path.split(".")
    target: Any = value
    for name in parents:
        target = target.get(name) if isinstance(target, dict) else None
    if not isinstance(target, dict) or last not in target:
        return None
    change(target, last)
    return attrs.evolve(reply, body=dump(value))


def _parse(reply: Reply) -> dict[str, Any] | None:
    if not isinstance(reply.body, bytes) or "json" not in reply.headers.get("Content-Type", ""):
        return None
    value = json.loads(reply.body)
    return value if isinstance(value, dict) else None


def _with_extras(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {name: _with_extras(inner) for name, inner in value.items()} | {"xExtra": {"deep": [1, None, "é"]}}


def _json_with(text: str) -> bytes:
    return f'{{"success":true,"data":{{"id":{text},"balance":{text},"status":{text}}}}}'.encode()


_BODIES: Final[dict[str, Callable[[Body], bytes]]] = {
    "html": lambda _: _PROXY_PAGE,
    "garbage": lambda _: bytes(range(256)) * 4,
    "huge": lambda fault: b'{"success":true,"data":{"id":"%b"}}' % (b"x" * fault.size_bytes),
    "deep": lambda _: b"[" * 200_000,
    "empty": lambda _: b"",
    "big_integer": lambda _: _json_with("9" * 5000),
    "nan": lambda _: _json_with("NaN"),
    "surrogate": lambda _: _json_with(r'"\ud800"'),
    "list": lambda _: b"[]",
}
