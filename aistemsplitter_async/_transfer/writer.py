"""Writes a stem to its part from the event loop, and keeps in the manifest how much of it is durable.

Everything that touches the disk runs in a thread. A large stem is synced every now and then, while more of it arrives.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from types import TracebackType
from typing import Self

import attrs

from aistemsplitter_async._tasks import join, own, run_in_thread, run_to_end
from aistemsplitter_async._transfer.contents import Body, build_too_long, check_stem
from aistemsplitter_async._transfer.manifest import StemRecord
from aistemsplitter_async._transfer.partfile import PartFile
from aistemsplitter_async._transfer.ranges import Held, Incoming
from aistemsplitter_async._transfer.saver import ManifestSaver
from aistemsplitter_async.config import CHECKPOINT_BYTES
from aistemsplitter_async.errors import DownloadError, IncompleteDownloadError

_WRITE_BYTES = 1024 * 1024  # gathered before a thread writes it: every call of a thread costs


class StemWriter:
    """One stem on its way to the disk. As a context, it closes the part at its end, and keeps what a failure left.

    What the manifest calls durable is never changed: before other bytes take the place of those, it says so.

    Args:
        part: of the stem, just opened.
        stem: its name.
        saver: of the manifest.
        cap: bytes that it may have.

    Attributes:
        record: what is known of the stem whose bytes the part has.
    """

    def __init__(self, part: PartFile, stem: str, saver: ManifestSaver, *, cap: int) -> None:
        self.record = saver.manifest.stems.get(stem, StemRecord(file=""))
        self._part = part
        self._stem = stem
        self._saver = saver
        self._cap = cap
        self._body = Body()
        self._gathered = bytearray()
        self._received = 0  # bytes of this answer, as they were sent
        self._coming: tuple[StemRecord, Incoming] | None = None  # until the first bytes of an answer are here
        self._checkpoint: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await run_to_end(self._end(failed=error is not None))

    @property
    def held(self) -> Held:
        """What the part has, and may be continued."""
        return Held(offset=self._part.size, etag=self.record.etag, total=self.record.total)

    def forget(self) -> None:
        """Take nothing of what the part has for good. It is overwritten once there is something better."""
        self._gathered.clear()
        self._part.size = 0

    def begin(self, record: StemRecord, incoming: Incoming) -> None:
        """Continue with an answer that has bytes of `record`. The part is as it was until the first of them is written.

        Raises:
            DownloadError: they are more than it may have (`code` is `TOO_LONG`).
        """
        if incoming.start + (incoming.length or 0) > self._cap:
            raise build_too_long(self._stem, self._cap)
        self._gathered.clear()
        self._received = 0
        self._body = Body(incoming.codings)
        self._coming = record, incoming

    async def add(self, chunk: bytes) -> None:
        """Write `chunk` now or later.

        Raises:
            IncompleteDownloadError: it is not a stem's, or encoded wrongly.
            DownloadError: the disk refuses it or is full, it is too long, or encoded in an unknown way.
        """
        self._received += len(chunk)
        if self._received > self._cap:  # without end, though nothing may come of it, such as zeros behind gzip's end
            raise await run_in_thread(self._give_up)
        self._gathered += chunk
        if len(self._gathered) >= _WRITE_BYTES:
            await self.flush()

    async def flush(self, *, last: bool = False) -> None:
        """Write all that was added; it is the `last` of a body that has ended. Raises like `add`."""
        if self._checkpoint is not None and self._checkpoint.done():
            await self._wait_for_checkpoint()
        if not self._gathered and not last:
            return
        data, self._gathered = self._gathered, bytearray()
        pieces = self._body.decode(data, last=last)
        if self._coming is not None:
            first = await run_in_thread(next, pieces, b"")
            if not first:
                return
            if not self._coming[1].start:  # any bytes may follow others
                check_stem(self._stem, first)
            await self._prepare(*self._coming)
            pieces = chain((first,), pieces)
        await run_in_thread(self._write, pieces)
        due = self._part.size - (self.record.durable or 0) >= CHECKPOINT_BYTES
        if due and self.held.is_resumable and self._checkpoint is None:
            self._checkpoint = own(self._make_durable())

    async def end(self) -> None:
        """Write what was added of a body that has ended. Raises like `add`."""
        await self.flush(last=True)
        if self._coming is not None:
            self._coming = None
            raise IncompleteDownloadError(f"the server sent nothing instead of the stem {self._stem!r}")

    async def complete(self) -> None:
        """Record that the part is the whole file, once it is durable. Raises like `add`."""
        await self._wait_for_checkpoint()
        self.record = attrs.evolve(self.record, total=self._part.size)
        await self._make_durable()

    async def _prepare(self, record: StemRecord, incoming: Incoming) -> None:
        await self._wait_for_checkpoint()
        await run_in_thread(self._part.check_room, incoming.length or 0)
        durable = self.record.durable or 0
        if incoming.start < durable:
            durable = 0
            await self._saver.record(self._stem, attrs.evolve(record, durable=0))
        self.record, self._coming = attrs.evolve(record, durable=durable), None
        await run_in_thread(self._part.start_at, incoming.start)

    def _write(self, pieces: Iterator[bytes | bytearray]) -> None:
        for piece in pieces:
            if self._part.size + len(piece) > self._cap:
                raise self._give_up()
            self._part.write(piece)

    def _give_up(self) -> DownloadError:
        self._part.discard()
        return build_too_long(self._stem, self._cap)

    async def _make_durable(self) -> None:
        durable = await run_in_thread(self._part.sync, pool=self._saver.syncs)
        record = attrs.evolve(self.record, durable=durable)
        await self._saver.record(self._stem, record)
        self.record = record

    async def _wait_for_checkpoint(self) -> None:
        if self._checkpoint is not None:
            await join(self._checkpoint)
            self._checkpoint = None

    async def _end(self, *, failed: bool) -> None:
        try:
            if failed:
                with suppress(DownloadError):
                    await self._keep()
        finally:
            await run_in_thread(self._part.close)

    async def _keep(self) -> None:
        """Make what came durable, for an attempt of another day."""
        try:
            await self.flush()
        finally:
            await self._wait_for_checkpoint()
        if self.held.is_resumable and not self._part.broken and self._part.size > (self.record.durable or 0):
            await self._make_durable()
