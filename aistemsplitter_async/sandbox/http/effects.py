"""How a fault changes a reply: pure, a reply in and another one out."""

from __future__ import annotations

import json
from collections.abc import Callable
from email.utils import formatdate
from functools import singledispatch
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


@singledispatch
def change_reply(fault: Fault, reply: Reply) -> Reply | None:
    """Return `reply` as `fault` changes it; `None` if the fault cannot apply to it."""
    del fault, reply
    return None


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


@change_reply.register
def _(fault: Body, reply: Reply) -> Reply | None:
    headers = dict(reply.headers)
    if fault.body == "html":
        headers["Content-Type"] = "text/html"
    if fault.body == "truncated":
        if not isinstance(reply.body, bytes):
            return None
        body = reply.body[: len(reply.body) // 2]
    else:
        body = _BODIES[fault.body](fault)
    return attrs.evolve(reply, status=fault.status or reply.status, body=body, headers=headers)


@change_reply.register
def _(fault: ContentType, reply: Reply) -> Reply:
    return attrs.evolve(reply, headers={**reply.headers, "Content-Type": fault.content_type})


@change_reply.register
def _(fault: Header, reply: Reply) -> Reply:
    return attrs.evolve(reply, headers={**reply.headers, fault.name: fault.value})


@change_reply.register
def _(fault: MissingField, reply: Reply) -> Reply | None:
    def remove(parent: dict[str, Any], name: str) -> None:
        del parent[name]

    return _edit(reply, fault.path, remove)


@change_reply.register
def _(fault: ChangedField, reply: Reply) -> Reply | None:
    def change(parent: dict[str, Any], name: str) -> None:
        parent[name] = fault.value

    return _edit(reply, fault.path, change)


@change_reply.register
def _(fault: ExtraFields, reply: Reply) -> Reply | None:
    del fault
    value = _parse(reply)
    return None if value is None else attrs.evolve(reply, body=dump(_with_extras(value)))


@change_reply.register
def _(fault: HostileStems, reply: Reply) -> Reply | None:
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


@change_reply.register
def _(fault: WrongContentRange, reply: Reply) -> Reply | None:
    real = reply.headers.get("Content-Range", "")
    if reply.status != _PARTIAL:
        return None
    first, _, rest = real.removeprefix("bytes ").partition("-")
    return attrs.evolve(
        reply, headers={**reply.headers, "Content-Range": fault.value or f"bytes {int(first) + 1}-{rest}"}
    )


@change_reply.register
def _(fault: Drip, reply: Reply) -> Reply:
    manner = reply.manner or Manner()
    return attrs.evolve(reply, manner=attrs.evolve(manner, piece_bytes=fault.piece_bytes, every=float(fault.every)))


@change_reply.register
def _(fault: Stall, reply: Reply) -> Reply:
    manner = reply.manner or Manner()
    return attrs.evolve(reply, manner=attrs.evolve(manner, stop_after=fault.after_bytes, then="stall"))


@change_reply.register
def _(fault: Cut, reply: Reply) -> Reply:
    manner = reply.manner or Manner()
    return attrs.evolve(
        reply,
        manner=attrs.evolve(manner, stop_after=fault.after_bytes, then=fault.how, framing=fault.framing),
    )


@change_reply.register
def _(fault: Reset, reply: Reply) -> Reply:
    # The operation was carried out, but no answer says so.
    return attrs.evolve(reply, status=0, manner=Manner(then=fault.how))


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


def _edit(reply: Reply, path: str, change: Callable[[dict[str, Any], str], None]) -> Reply | None:
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
