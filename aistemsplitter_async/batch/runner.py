"""Many splits at a time, as an async context manager over a stream of outcomes.

```python
async with client.split_many(sources, into="stems/", journal="library.journal") as outcomes:
    async for outcome in outcomes:
        ...
```

A feeder takes sources one by one as places come free, and gives each a task of its own; bounds per stage are shared
(`works`). A failed track is an outcome and stops nobody. Leaving the block early stops the work: splits that exist go
on at the server, and the journal knows them.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from contextlib import aclosing, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from aistemsplitter_async._tasks import run_in_thread
from aistemsplitter_async.batch.item import BatchItem
from aistemsplitter_async.batch.options import BatchOptions
from aistemsplitter_async.batch.outcome import BatchReport, Done, Failed, Outcome, Skipped
from aistemsplitter_async.batch.progress import BatchProgress, BatchStatus, TrackProgress, write_status
from aistemsplitter_async.batch.track import Track, settle
from aistemsplitter_async.batch.works import Works
from aistemsplitter_async.clock import Clock
from aistemsplitter_async.errors import ConfigurationError, JournalError
from aistemsplitter_async.journal.file import status_path
from aistemsplitter_async.journal.journal import Journal
from aistemsplitter_async.journal.record import Record, StageName
from aistemsplitter_async.journal.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from aistemsplitter_async._engine import Stages
    from aistemsplitter_async._transfer.audio import Source

Sources = Iterable["Source | BatchItem"] | AsyncIterable["Source | BatchItem"]

_TICK = 1.0  # s between two looks at the limit
_STATUS_TICKS = 2  # ticks between two writes of the status file
_PAGE = 200  # records read at a time
_SHOWN = 30  # tracks a snapshot names
_TRANSFERS: tuple[StageName, ...] = ("upload", "download", "create", "prepare", "wait")  # most lively first


class Batch:
    """A batch that runs while its `async with` block does; iterate over it for the outcomes, as they come.

    `AsyncAIStemSplitter.split_many` makes one.
    """

    def __init__(
        self,
        stages: Callable[[], Stages],
        sources: Sources,
        options: BatchOptions,
        *,
        journal: Path | None,
        clock: Clock,
    ) -> None:
        if isinstance(sources, str | bytes | bytearray):  # iterable, but never what was meant
            raise ConfigurationError(f"sources is a single {type(sources).__name__}; give a list of sources")
        self._get_stages = stages
        self._sources = sources
        self._options = options
        self._journal_path = journal
        self._clock = clock
        self._works: Works | None = None
        self._tracks: dict[asyncio.Task[None], Track] = {}
        self._helpers: list[asyncio.Task[None]] = []
        self._feeder: asyncio.Task[None] | None = None
        self._closing = False
        self._outcomes: asyncio.Queue[Outcome | None] = asyncio.Queue(maxsize=100)
        self._counts: Counter[str] = Counter()
        self._exhausted = False
        self._ended = False
        self._closed = False
        self._fault: BaseException | None = None
        self._began = 0.0
        self._took: float | None = None
        self._total: int | None = None
        self._seconds_left: float | None = None

    async def __aenter__(self) -> Self:
        """Open the journal and begin.

        Raises:
            JournalLockedError: another process is running on the journal.
            JournalError: the journal cannot be used.
        """
        stages = self._get_stages()
        self._began = self._clock.monotonic()
        journal = await Journal.open(self._journal_path, owner=stages.owner)
        self._works = Works(
            stages, journal, self._options, clock=self._clock, random=stages.pipeline.random, stop=self._drop
        )
        try:
            await self._works.recall_gate()
        except BaseException:
            await journal.aclose()
            raise
        loop = asyncio.get_running_loop()
        self._feeder = loop.create_task(self._feed(), name="batch feeder")
        self._helpers = [
            self._feeder,
            loop.create_task(self._see_out(self._feeder), name="batch end"),
            loop.create_task(self._keep_up(), name="batch ticker"),
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop what is still running, and close the journal."""
        for helper in self._helpers:
            helper.cancel()
        self._stop()
        try:
            await asyncio.wait([*self._helpers, *self._tracks])
            self._close()
            await self._running.remember_gate()
            await self._write_status(ended=True)
        finally:
            await self._running.journal.aclose()

    def _close(self) -> None:
        """Let nobody wait for more outcomes than there are."""
        self._closed = True
        if self._took is None:
            self._took = self._clock.monotonic() - self._began
        if self._outcomes.empty():
            self._outcomes.put_nowait(None)

    def __aiter__(self) -> AsyncIterator[Outcome]:
        return self

    async def __anext__(self) -> Outcome:
        """Return the next outcome.

        Raises:
            ConfigurationError: the batch was not entered with `async with`.
            JournalError: the journal could not be written any more; nothing was sent after that.
            Exception: what the iterable of sources raised; everything before it was finished.
        """
        _ = self._running  # or it would wait for ever
        over = self._ended or (self._closed and self._outcomes.empty())
        outcome = None if over else await self._outcomes.get()
        if outcome is not None:
            return outcome
        self._ended = True
        if self._took is None:
            self._took = self._clock.monotonic() - self._began
        if self._fault is not None:
            raise self._fault
        raise StopAsyncIteration

    def drain(self) -> None:
        """Create no more splits; those that are paid for, or may be, are finished. Returns at once."""
        self._running.brake.pull()

    def expect(self, *, total: int | None, seconds_left: float | None = None) -> None:
        """Let `progress` and the status file say how many sources there are, and how long they still take."""
        self._total, self._seconds_left = total, seconds_left

    async def report(self) -> BatchReport:
        """Return the batch in numbers, once it has ended; outcomes nobody took until then are only counted."""
        async for _ in self:
            pass
        works = self._running
        return BatchReport(
            done=self._counts["done"],
            failed=self._counts["failed"],
            skipped=self._counts["skipped"],
            credits_used=works.purse.used,
            seconds=self._took or 0.0,
            stopped_by=works.brake.stopped_by,
        )

    async def records(self) -> AsyncGenerator[Record, None]:
        """Iterate over everything the journal knows, earlier runs included, in the order it was found."""
        after = 0
        while page := await self._running.journal.write(Store.page, after, _PAGE):
            for record in page:
                yield record
            after = page[-1].id

    def progress(self) -> BatchProgress:
        """Return where it stands, to be shown."""
        works, now = self._running, self._clock.monotonic()
        tracks = sorted(self._tracks.values(), key=lambda track: (_TRANSFERS.index(track.stage), track.since))
        return BatchProgress(
            seconds=self._took if self._took is not None else now - self._began,
            taken=self._counts["taken"],
            exhausted=self._exhausted,
            done=self._counts["done"],
            failed=self._counts["failed"],
            skipped=self._counts["skipped"],
            stages=dict(Counter(track.stage for track in tracks)),
            credits_used=works.purse.used,
            paid=sum(track.is_paid for track in tracks),
            active=tuple(
                TrackProgress(
                    label=track.label,
                    stage=track.stage,
                    seconds=now - track.since,
                    done_bytes=track.done_bytes,
                    total_bytes=track.total_bytes,
                    split_id=track.split_id,
                    position=track.position,
                )
                for track in tracks[:_SHOWN]
            ),
            notices=tuple(works.notices),
            draining=works.brake.on,
            gate=works.stages.pipeline.gate.snapshot(),
            processing=works.stages.poller.typical(),
            total=self._total,
            seconds_left=self._seconds_left,
        )

    @property
    def _running(self) -> Works:
        if self._works is None:
            raise ConfigurationError("a batch runs inside `async with`")
        return self._works

    def _stop(self) -> None:
        """Stop at once; a create that is under way is given a moment."""
        self._closing = True
        for task in (self._feeder, *self._tracks):
            if task is not None:
                task.cancel()

    def _drop(self) -> None:
        """Take no more sources, and let go of those that have cost nothing."""
        droppable = [task for task, track in self._tracks.items() if track.droppable]
        for task in (self._feeder, *droppable):
            if task is not None:
                task.cancel()

    async def _feed(self) -> None:
        """Give every source a task, as places come free."""
        works, loop = self._running, asyncio.get_running_loop()
        # What may be paid for comes first: its idempotency keys grow old, and its sources need not be met again.
        await asyncio.gather(*(settle(works, record) for record in await works.write(Store.open_creates)))
        before: asyncio.Event | None = None
        async with aclosing(_each(self._sources)) as sources:
            async for source in sources:
                item = source if isinstance(source, BatchItem) else BatchItem(source=source)
                track = Track(works, item, self._counts["taken"], before)
                await works.places.acquire()
                if works.brake.on:
                    works.places.release()
                    return
                self._counts["taken"] += 1
                task = loop.create_task(self._bring(track), name=f"track {track.position}")
                self._tracks[task] = track
                before = track.claiming
                task.add_done_callback(self._tracks.pop)
        self._exhausted = True

    async def _see_out(self, feeder: asyncio.Task[None]) -> None:
        """Wait until there are no more sources and no more tracks, and say so."""
        await asyncio.wait([feeder])
        if not feeder.cancelled():
            self._fault = self._fault or feeder.exception()
        while self._tracks:
            await asyncio.wait(self._tracks)
        if self._exhausted and self._fault is None and not self._running.brake.on:
            with suppress(JournalError):  # then a next run that splits anew goes on with this one
                await self._running.write(Store.finish)
        await self._outcomes.put(None)

    async def _bring(self, track: Track) -> None:
        works = self._running
        try:
            try:
                outcome = await track.run()
            except asyncio.CancelledError:
                if self._closing:
                    raise
                outcome = Skipped(track.item.source, "not begun", track.position)  # by `drain`
            kind = "done" if isinstance(outcome, Done) else "failed" if isinstance(outcome, Failed) else "skipped"
            self._counts[kind] += 1
            await self._outcomes.put(outcome)
        except Exception as error:  # noqa: BLE001  # the journal fails, or we are wrong: either way nothing may go on
            self._fault = self._fault or error
            self._stop()
        finally:
            works.places.release()

    async def _keep_up(self) -> None:
        """Follow the key's limit, and tell others how it goes."""
        ticks = 0
        while True:
            if ticks % _STATUS_TICKS == 0:
                await self._write_status(ended=False)
            await self._clock.sleep(_TICK)
            self._running.follow_the_limit()
            await self._running.remember_gate()
            ticks += 1

    async def _write_status(self, *, ended: bool) -> None:
        if self._journal_path is None:
            return
        works = self._running
        try:
            tracks = await works.journal.write(Store.count)
        except JournalError:  # whoever needs the journal is told
            return
        status = BatchStatus(
            at=self._clock.now(), pid=os.getpid(), ended=ended, tracks=tracks, progress=self.progress()
        )
        with suppress(OSError):  # a full disk has been told of elsewhere
            await run_in_thread(write_status, status_path(self._journal_path), status)


async def _each(sources: Sources) -> AsyncGenerator[Source | BatchItem, None]:
    """Iterate over either kind of iterable; a plain one is not let hog the loop."""
    if isinstance(sources, AsyncIterable):
        try:
            async for source in sources:
                yield source
        finally:
            if isinstance(sources, AsyncGenerator):
                await sources.aclose()
        return
    for source in sources:
        yield source
        await asyncio.sleep(0)
