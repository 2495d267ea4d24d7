"""Calls and their attempts as listeners hear of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Self

import attrs

from aistemsplitter_async._listeners import Emitter, describe_error
from aistemsplitter_async._send.transport import StreamedReply
from aistemsplitter_async._urls import parse_http_url
from aistemsplitter_async._wire.error_replies import request_id
from aistemsplitter_async._wire.messages import Origin, Reply, Request, Stage
from aistemsplitter_async._wire.operations import Operation
from aistemsplitter_async.errors import AIStemSplitterError, RateLimitedError
from aistemsplitter_async.events import AttemptStarted, RequestSent, RetryPlanned, Throttled
from aistemsplitter_async.models import redact_url


@attrs.define(eq=False)
class Call:
    """A call, and how often it was tried.

    Attributes:
        operation: the API's name for it.
        stage: the step that it belongs to.
        split_id: the split that it is about, if there is one.
        stem: the stem that it downloads.
        attempt: the number of the newest attempt, from 1; 0 before the first.
    """

    operation: str
    stage: Stage
    split_id: str | None = None
    stem: str | None = None
    attempt: int = 0

    @classmethod
    def of(cls, operation: Operation[Any]) -> Self:
        """Return the call that makes an operation."""
        return cls(operation.name, operation.stage, operation.split_id)

    def fields(self) -> dict[str, Any]:
        """Return what every event of the call says."""
        return {
            "operation": self.operation,
            "stage": self.stage,
            "split_id": self.split_id,
            "stem": self.stem,
            "attempt": max(1, self.attempt),
        }

    def describe_retry(self, delay: float, failure: AIStemSplitterError, *, at: float) -> RetryPlanned:
        """Return the event of a failure after which the call goes on."""
        return RetryPlanned(
            **self.fields(),
            delay=delay,
            reason=str(failure),
            error=type(failure).__name__,
            code=failure.code,
            status=failure.status_code,
            request_id=failure.request_id,
            at=at,
        )

    def describe_throttling(self, failure: RateLimitedError, *, at: float) -> Throttled:
        """Return the event of a 429."""
        asked = failure.retry_after
        return Throttled(**self.fields(), retry_after=asked, request_id=failure.request_id, at=at)


class Attempt:
    """One attempt of a call: a context manager that tells how it begins and what comes of it.

    Args:
        call: whose it is.
        request: what is sent.
        emit: tells the listeners.
        gate_wait: seconds that it waited at the gate.

    Attributes:
        status: of the reply, once there is one.
        sent: bytes of the body that were handed over.
        received: bytes of the reply's body.
        started: when it began (monotonic seconds).
    """

    __slots__ = (
        "_call",
        "_emit",
        "_gate_wait",
        "_headers",
        "_known",
        "_request",
        "received",
        "sent",
        "started",
        "status",
    )

    def __init__(self, call: Call, request: Request, emit: Emitter, *, gate_wait: float = 0.0) -> None:
        self.status: int | None = None
        self.sent: int = len(request.body) if isinstance(request.body, bytes) else 0
        self.received: int = 0
        self.started: float = emit.clock.monotonic()
        self._headers: Mapping[str, str] = {}
        self._call = call
        self._request = request
        self._emit = emit
        self._gate_wait = gate_wait
        self._known: dict[str, Any] | None = None

    def note_head(self, status: int, headers: Mapping[str, str]) -> None:
        """Note how a reply begins; names of `headers` are in lower case."""
        self.status, self._headers = status, headers

    def note_reply(self, reply: Reply) -> None:
        """Note a whole reply."""
        self.note_head(reply.status, reply.headers)
        self.received = len(reply.body)

    def __enter__(self) -> Self:
        self._emit(AttemptStarted, lambda: AttemptStarted(**self._fields(), at=self.started))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._emit(RequestSent, lambda: self._describe_end(error))

    def _describe_end(self, error: BaseException | None) -> RequestSent:
        return RequestSent(
            **self._fields(),
            status=self.status,
            duration=self._emit.clock.monotonic() - self.started,
            request_id=request_id(self._headers),
            bytes_sent=self.sent,
            bytes_received=self.received,
            **describe_error(error),
            at=self.started,
        )

    def _fields(self) -> dict[str, Any]:
        """Return what both events say; made only if one is."""
        if self._known is None:
            wait, request = self._gate_wait, self._request
            self._known = self._call.fields() | {"method": request.method, "url": _show(request), "gate_wait": wait}
        return self._known


class Counted:
    """A reply whose bytes are counted as those of an attempt."""

    def __init__(self, reply: StreamedReply, attempt: Attempt) -> None:
        self.status = reply.status
        self.headers = reply.headers
        self._reply = reply
        self._attempt = attempt

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives. Raises what the reply raises."""
        async for chunk in self._reply.chunks():
            self._attempt.received += len(chunk)
            yield chunk


def _show(request: Request) -> str:
    """Return where a request goes: the API's address without query, of others the scheme and host."""
    if request.origin is Origin.API:
        return redact_url(request.url)
    try:
        return parse_http_url(request.url).origin
    except ValueError:
        return ""
