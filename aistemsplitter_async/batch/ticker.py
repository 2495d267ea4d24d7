"""Once a second: adapts a batch to its key's limit, and saves what the next run and other processes want to know."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import attrs

from aistemsplitter_async._tasks import run_in_thread
from aistemsplitter_async.batch.context import BatchContext
from aistemsplitter_async.batch.progress import BatchProgress, BatchStatus, dump_status, write_status
from aistemsplitter_async.errors import JournalError
from aistemsplitter_async.journal.file import status_path
from aistemsplitter_async.journal.store import JournalStore

_TICK = 1.0  # s between two adaptations to the limit
_STATUS_TICKS = 2  # ticks between two writes of the status file


@attrs.frozen
class Ticker:
    """The ticker of one batch.

    Args:
        context: of the batch.
        progress: returns a snapshot of the batch.
    """

    _context: BatchContext
    _progress: Callable[[], BatchProgress]

    async def run(self) -> None:
        """Tick until cancelled."""
        ticks = 0
        while True:
            if ticks % _STATUS_TICKS == 0:
                await self._write_status(ended=False)
            await self._context.clock.sleep(_TICK)
            self._context.adapt_to_limit()
            self._context.release_left()
            with suppress(JournalError):  # it is asked again
                await self._context.note_spending()
            await self._context.save_gate()
            ticks += 1

    async def finish(self) -> None:
        """Save how the batch ended."""
        await self._context.save_gate()
        await self._write_status(ended=True)

    async def _write_status(self, *, ended: bool) -> None:
        """Write the status file beside the journal; in a shared one, show it there."""
        journal = self._context.journal
        if journal.path is None and not journal.is_shared:
            return
        with suppress(JournalError, OSError):  # what needs the journal or the disk fails with it
            tracks = {} if journal.is_shared else await journal.write(JournalStore.count)  # readers count these once
            now = self._context.clock.now()
            status = BatchStatus(at=now, pid=os.getpid(), ended=ended, tracks=tracks, progress=self._progress())
            if journal.path is None:
                await journal.write(JournalStore.show, dump_status(status))
            else:
                await run_in_thread(_write, journal.path, status)


def _write(journal: Path, status: BatchStatus) -> None:
    write_status(status_path(journal), status)
