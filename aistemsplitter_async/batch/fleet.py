"""What a batch on a shared journal does beside its own songs.

All workers walk through the same sources, and each song is the work of one of them at a time. A source whose song
another worker has in hand takes up no place among those that this worker is busy with. It is kept here, and taken again
once the other worker has let go of the song: because it is finished, or because that worker has died. One question to
the journal, every few seconds, is about all of them.

A worker that died may also have left creates whose sources nobody has: their idempotency keys grow old, so each is
resolved by whichever worker comes first.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress

from aistemsplitter_async._gate.gate import Gate
from aistemsplitter_async._logs.loggers import Log
from aistemsplitter_async.batch.context import BatchContext
from aistemsplitter_async.batch.create import resolve_create
from aistemsplitter_async.batch.elsewhere import Elsewhere
from aistemsplitter_async.batch.shared_folder import check_shared_folder
from aistemsplitter_async.config import FLEET_LOOK, FLEET_MEND, MOST_ELSEWHERE
from aistemsplitter_async.errors import JournalError
from aistemsplitter_async.journal.store import JournalStore

_log = Log("batch")


class Fleet:
    """The other workers, as this one sees them. On a journal of one process there are none, and no source is here.

    Args:
        context: of this worker's batch.
        take: takes a source again, once there is room for it; returns whether it did, rather than stop first.
    """

    def __init__(self, context: BatchContext, take: Callable[[Elsewhere], Awaitable[bool]]) -> None:
        self._context = context
        self._take = take
        self._sources: dict[int, Elsewhere] = {}  # by position
        self._changed = asyncio.Event()
        self._tried: set[int] = set()  # rows whose create this worker could not resolve

    def __len__(self) -> int:
        """Return how many sources are here."""
        return len(self._sources)

    def add(self, source: Elsewhere) -> None:
        """Keep a source until the other worker has let go of its song."""
        self._sources[source.position] = source

    def drop(self) -> list[Elsewhere]:
        """Return all sources, and wait for them no longer."""
        dropped = [*self._sources.values()]
        self._sources.clear()
        return dropped

    def wake(self) -> None:
        """Let those that wait for a change see what has become of it."""
        self._changed.set()

    async def wait_for_change(self) -> None:
        """Wait until a source was taken again, or `wake` was called."""
        self._changed.clear()
        await self._changed.wait()

    async def wait_for_room(self) -> None:
        """Wait until so few sources are here that more may be found."""
        while len(self) >= MOST_ELSEWHERE:
            await self.wait_for_change()

    async def watch(self) -> None:
        """Take sources again as their songs come free, until cancelled."""
        while True:
            await self._pause(FLEET_LOOK)
            with suppress(JournalError):  # it is asked again
                await self._take_free()

    async def mend(self) -> None:
        """Resolve what workers that died have left open, until cancelled."""
        while True:
            await self._pause(FLEET_MEND)
            with suppress(JournalError):  # a track that needs the journal fails with it
                await self.resolve_open_creates()

    async def resolve_open_creates(self) -> None:
        """Find out about creates that may be paid for: their keys grow old, and their sources may not be given again.

        Raises:
            JournalError: an answer cannot be recorded.
        """
        context = self._context
        taken = await context.write(JournalStore.open_creates, besides=tuple(self._tried))
        left = [record for record in taken if record.id not in context.running]  # its own track resolves it
        for record in left:  # at once: a track that has claimed one meanwhile goes on right after this
            context.hold(record.id)
        await asyncio.gather(*(resolve_create(context, record) for record in left))
        self._tried |= {record.id for record in left if not context.is_resolved(record)}

    async def _take_free(self) -> None:
        """Take again the sources that no other worker has in hand now."""
        rows = [source.row for source in self._sources.values() if source.row is not None]
        taken = await self._context.journal.write(JournalStore.busy_elsewhere, rows) if rows else set[int]()
        for source in [source for source in self._sources.values() if source.row not in taken]:
            if await self._take(source):  # that it is here as well meanwhile keeps the batch from ending
                self._sources.pop(source.position, None)
                self.wake()

    async def _pause(self, seconds: float) -> None:
        jitter = self._context.engine.pipeline.random()  # or all workers would ask at once
        await self._context.clock.sleep(seconds * (0.5 + jitter))


async def join_fleet(context: BatchContext) -> None:
    """Check that a batch on a shared journal may run beside the other workers; on one of its own it may.

    Raises:
        ConfigurationError: its stems would go to another folder than theirs.
        JournalError: the journal cannot be used.
    """
    journal = context.journal
    if not journal.is_shared:
        return
    most = context.options.max_credits
    await journal.write(JournalStore.join_budget, math.inf if most is None else most)
    await context.note_spending()
    if context.options.into is not None:
        await check_shared_folder(journal, context.options.into, context.clock)
    is_private = type(context.gate) is Gate
    if is_private and context.gate.budget().limit is None and len(await journal.write(JournalStore.workers)) > 1:
        _log.warning(
            "other workers send requests with this key too, and each learns its limit by itself, from refusals: with "
            "shared= (--shared) they keep to it together"
        )
