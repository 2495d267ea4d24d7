"""A transfer, of however many attempts, as listeners hear of it."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from aistemsplitter_async._listeners import Emitter, describe_error
from aistemsplitter_async._send.attempt import Call
from aistemsplitter_async.events import TransferFinished


class Transfer:
    """A context manager around all attempts of one transfer.

    Args:
        call: that makes them.
        emit: tells the listeners.
        source: the name of the file that is uploaded.
        resumed_from: bytes that were there before.

    Attributes:
        bytes: moved by all attempts so far.
    """

    def __init__(self, call: Call, emit: Emitter, *, source: str | None = None, resumed_from: int = 0) -> None:
        self.call = call
        self.bytes = 0
        self._is_over = False
        self._error = describe_error(None)
        self._source = source
        self._emit = emit
        self._resumed_from = resumed_from
        self._began = emit.clock.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.note(error)
        self.finish()

    def note(self, error: BaseException | None) -> None:
        """Note the error that it ends in unless it goes on, or that it went on."""
        self._error = describe_error(error)

    def finish(self) -> None:
        """Tell that it has ended; once."""
        if not self._is_over:
            self._is_over = True
            self._emit(TransferFinished, self._describe)

    def _describe(self) -> TransferFinished:
        now = self._emit.clock.monotonic()
        return TransferFinished(
            **self.call.fields(),
            source=self._source,
            bytes=self.bytes,
            resumed_from=self._resumed_from,
            seconds=now - self._began,
            **self._error,
            at=now,
        )
