"""One answer of a CDN that is handed over as it comes: its bytes decoded, and compared with earlier ones."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AsyncExitStack

from aistemsplitter_async._send.transport import StreamedReply
from aistemsplitter_async._tasks import run_in_thread
from aistemsplitter_async._transfer.contents import Body, build_too_long, check_stem
from aistemsplitter_async._transfer.meter import Meter
from aistemsplitter_async._transfer.ranges import Incoming
from aistemsplitter_async.clock import Clock
from aistemsplitter_async.errors import DownloadError, IncompleteDownloadError

_HEAD_BYTES = 1024  # enough to tell a page of text from a stem, blank lines before it included


class StemAnswer:
    """What comes of one answer.

    Args:
        stem: the stem's name.
        reply: the answer.
        incoming: what its headers say.
        held: bytes of the stem that were handed over before; an answer that begins at the beginning repeats them.
        cap: bytes that it may have.
        meter: counts while a reader waits for bytes.
        opened: what to close with it.

    Attributes:
        is_over: whether all of it is here.
        is_known: whether it is a stem's, of the file whose beginning was handed over.
    """

    def __init__(
        self,
        stem: str,
        reply: StreamedReply,
        incoming: Incoming,
        *,
        held: int,
        cap: int,
        meter: Meter,
        opened: AsyncExitStack,
    ) -> None:
        self.is_over = False
        self.is_known = incoming.start > 0
        self.incoming = incoming
        self.opened = opened
        self.meter = meter
        self._stem = stem
        self._chunks = _closed_by(opened, reply.chunks())
        self._cap = cap
        self._body = Body(incoming.codings)
        self._pieces: Iterator[bytes | bytearray] = iter(())
        self._gathered = bytearray()
        self._sent = 0  # bytes, as they were sent
        self._is_last = False
        self._is_checked = incoming.start > 0
        self._repeats = held - incoming.start
        self._repeated = hashlib.sha256()
        self._paused_at = 0.0

    def pause(self, *, now: float) -> None:
        """Note that no reader waits for bytes any more."""
        self._paused_at = now

    def resume(self, *, now: float) -> None:
        """Note that a reader waits for bytes again. The time since the last one did is no stall of the server."""
        self.meter.skip(now - self._paused_at)

    async def receive(self, clock: Clock) -> None:
        """Receive more for `take`, as soon as it comes, or the end.

        Raises:
            APIConnectionError: the connection broke.
            IncompleteDownloadError: it is shorter or longer than it said, or encoded wrongly.
            DownloadError: it is too long, or encoded in an unknown way.
        """
        while len(self._gathered) < (1 if self._is_checked else _HEAD_BYTES):
            piece = await self._decode()
            if piece:
                self._gathered += piece
            elif self._is_last:
                self.is_over = True
                return
            else:
                await self._read(clock)

    async def _decode(self) -> bytes | bytearray:
        """Return more of what was read, decoded; nothing if more must be read."""
        if self.incoming.codings:  # a few bytes may stand for many
            return await run_in_thread(next, self._pieces, b"")
        return next(self._pieces, b"")

    async def _read(self, clock: Clock) -> None:
        chunk, length = await anext(self._chunks, None), self.incoming.length
        self._is_last = chunk is None
        data = chunk or b""
        self.meter.add(len(data), now=clock.monotonic())
        self._sent += len(data)
        if length is not None and (self._sent > length or (self._is_last and self._sent < length)):
            raise IncompleteDownloadError(f"{self._stem} ended after {self._sent} of {length} bytes")
        if self._sent > self._cap:
            raise build_too_long(self._stem, self._cap)
        self._pieces = self._body.decode(data, last=self._is_last)

    def take(self, handed_over: bytes) -> bytearray:
        """Return what was received, without what it repeats.

        Args:
            handed_over: the SHA-256 of all bytes that were handed over.

        Raises:
            IncompleteDownloadError: it is no stem.
            DownloadError: it is not the file whose beginning was handed over (`code` is `CHANGED`).
        """
        data, self._gathered = self._gathered, bytearray()
        if data and not self._is_checked:  # any bytes may follow others
            check_stem(self._stem, data)
            self._is_checked = True
        if self._repeats:
            again = data[: self._repeats]
            del data[: self._repeats]
            self._repeated.update(again)
            self._repeats -= len(again)
            if self._repeats and not self.is_over:
                return data
            if self._repeats or self._repeated.digest() != handed_over:
                raise build_changed(self._stem)
        self.is_known = self.is_known or self._is_checked
        return data


def build_changed(stem: str) -> DownloadError:
    """Return the error for a stem that is another file than the one whose beginning was handed over."""
    return DownloadError(
        f"the stem {stem!r} changed at the server after its beginning was handed over; what was made of that must be "
        "discarded. Open the stem again for all of the new one",
        code="CHANGED",
    )


def _closed_by(opened: AsyncExitStack, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if isinstance(chunks, AsyncGenerator):  # another transport's may be no generator
        opened.push_async_callback(chunks.aclose)
    return chunks
