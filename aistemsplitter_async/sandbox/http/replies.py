"""HTTP answers as values: decided by the handlers, changed by faults, sent by the origin."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import attrs

from aistemsplitter_async.sandbox.http.encode import build_failure, build_flat_failure, build_success
from aistemsplitter_async.sandbox.http.refusals import RefusalError, translate
from aistemsplitter_async.sandbox.service.errors import ServiceError

JSON_HEADERS: Final = {"Content-Type": "application/json; charset=utf-8"}


@attrs.frozen
class FilePart:
    """A part of a file on disk, sent in pieces."""

    path: Path
    start: int
    length: int


@attrs.frozen
class Manner:
    """The way an answer is sent, if a fault changes it.

    Attributes:
        piece_bytes: Size of the pieces of the body.
        every: Seconds between two pieces.
        stop_after: Bytes of the body to send before `then`; `None` for all of them.
        then: `finish` the answer, `stall` forever, `reset` the connection (RST) or `close` it (FIN).
        framing: How the body is delimited: by `length`, `chunked`, or by the `close` of the connection.
    """

    piece_bytes: int = 65_536
    every: float = 0.0
    stop_after: int | None = None
    then: Literal["finish", "stall", "reset", "close"] = "finish"
    framing: Literal["length", "chunked", "close"] = "length"


@attrs.frozen
class Reply:
    """One HTTP answer, decided but not sent. With status 0 nothing is sent: the connection is cut."""

    status: int
    body: bytes | FilePart = b""
    headers: Mapping[str, str] = attrs.field(factory=dict)
    manner: Manner | None = None
    split_id: str | None = None
    """The split it is about, for the ledger."""

    @property
    def length(self) -> int:
        """Bytes of the body."""
        return len(self.body) if isinstance(self.body, bytes) else self.body.length

    @property
    def sent_bytes(self) -> int:
        """Bytes of the body that are sent before a fault breaks it off."""
        stop = None if self.manner is None else self.manner.stop_after
        return self.length if stop is None else min(stop, self.length)


def build_data_reply(data: Mapping[str, Any]) -> Reply:
    """Return a 200 in the success envelope."""
    return Reply(200, build_success(data), JSON_HEADERS, split_id=data.get("id"))


def build_refusal_reply(error: RefusalError | ServiceError, *, flat: bool = False) -> Reply:
    """Return a refusal in the API's envelope, or in the flat one of upload worker and CDN."""
    refusal = error if isinstance(error, RefusalError) else translate(error)
    build = build_flat_failure if flat else build_failure
    return Reply(refusal.status, build(refusal.code, refusal.message), {**JSON_HEADERS, **refusal.headers})
