"""Runs a batch: feeds it with sources, carries them out, and queues their outcomes.

A feeder takes sources one by one, as earlier ones end; each gets a task of its own; bounds per stage are shared
(`context`). A failed source is an outcome and stops no other. Leaving the block early stops the work: splits that exist
continue at the server, and are in the journal.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Coroutine, Iterable
from contextlib import ExitStack, suppress
from contextvars import Context, copy_context
from pathlib import Path
from types import TracebackType
from typing import Any
from weakref import WeakSet

from aistemsplitter_async._engine import Engine
from aistemsplitter_async._tasks import run_in_thread, run_to_end, wait_out
from aistemsplitter_async._transfer.audio import Source
from aistemsplitter_async.batch.call import Call
from aistemsplitter_async.batch.context import BatchContext
from aistemsplitter_async.batch.course import BatchCourse, run_track
from aistemsplitter_async.batch.elsewhere import Elsewhere
from aistemsplitter_async.batch.feeder import Feeder, Sources
from aistemsplitter_async.batch.fleet import Fleet, join_fleet
from aistemsplitter_async.batch.item import BatchItem
from aistemsplitter_async.batch.new_key import open_journal
from aistemsplitter_async.batch.options import BatchOptions
from aistemsplitter_async.batch.outcome import BatchReport, Failed, Outcome, kind_of
from aistemsplitter_async.batch.progress import BatchProgress
from aistemsplitter_async.batch.refusals import describe_cancelled
from aistemsplitter_async.batch.snapshot import build_report, take_snapshot
from aistemsplitter_async.batch.ticker import Ticker
from aistemsplitter_async.batch.track import BatchTrack
from aistemsplitter_async.clock import Clock
from aistemsplitter_async.errors import JournalError
from aistemsplitter_async.journal.file import is_exposed, own_files
from aistemsplitter_async.journal.place import JournalURL
from aistemsplitter_async.journal.record import Record, build_failure
from aistemsplitter_async.journal.store import JournalStore

_PAGE = 200  # records read at a time


class Runner:
    """What an entered batch runs on. Arguments are those of `Batch`; all methods are for the loop of `start`."""

    def __init__(
        self,
        engine: Engine,
        sources: Sources,
        options: BatchOptions,
        *,
        journal: Path | JournalURL | None,
        clock: Clock,
    ) -> None:
        self._engine = engine
        self._options = options
        self._place = journal
        self._clock = clock
        self._started: BatchContext | None = None
        self._others: Fleet | None = None
        self._tracks: dict[asyncio.Task[None], BatchTrack] = {}
        self._helpers: list[asyncio.Task[None]] = []
        self._feeder = Feeder(sources, self._take, clock=clock)
        self._cancelled = WeakSet[asyncio.Task[None]]()  # by this batch, and not by its sources
        self._closing = False
        self._outcomes: asyncio.Queue[Outcome | None] = asyncio.Queue(maxsize=100)
        self._counts: Counter[str] = Counter()
        self._last_claim: asyncio.Event | None = None  # of the source taken last
        self._ended = False
        self._closed = False
        self._fault: BaseException | None = None
        self._course = ExitStack()  # tells of the end of the batch
        self._callers = Context()  # from which each track has a copy
        self._began = 0.0
        self._took: float | None = None
        self._expected: tuple[int | None, float | None] = None, None

    async def start(self) -> None:
        """Open the journal and start. Raises like `Batch.__aenter__`."""
        with ExitStack() as undo:
            undo.enter_context(BatchCourse(self._engine.pipeline.emit, self._counts))
            self._callers = copy_context()
            await self._open()
            self._course = undo.pop_all()
        self._feeder.start(self._fleet.resolve_open_creates)
        self._help(self._end(), "end")
        self._help(Ticker(self._context, self.progress).run(), "ticker")
        if self._context.journal.is_shared:
            self._help(self._fleet.watch(), "watch")
            self._help(self._fleet.mend(), "mending")

    def _help(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=f"batch {name}")
        self._helpers.append(task)
        task.add_done_callback(self._note_help)

    def _note_help(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:  # a bug: nothing may wait for it
            self._fault = self._fault or error
            self._stop()

    async def _open(self) -> None:
        await self._engine.collector.check_mixes(self._options.selection)
        self._began = self._clock.monotonic()
        own = await run_in_thread(own_files, self._place) if isinstance(self._place, Path) else ()
        journal = await open_journal(self._place, self._engine, new_key=self._options.new_key)
        context = BatchContext(
            self._engine,
            journal,
            self._options,
            own_files=own,
            clock=self._clock,
            on_stop=self._cancel_unpaid,
        )
        self._started = context
        self._others = Fleet(context, self._take_again)
        try:
            await context.restore_gate()
            await join_fleet(context)
        except BaseException:
            await journal.aclose()
            raise

    async def stop(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop what is still running, and close the journal; the batch ended in `error`, if in any."""
        self._stop()
        for helper in self._helpers:
            helper.cancel()
        try:
            await run_to_end(self._wind_up())
        finally:
            self._course.__exit__(kind, error, trace)

    async def _wind_up(self) -> None:
        try:
            await self._feeder.wait_out()
            await wait_out(*self._helpers, *self._tracks)
            self._close()
            await Ticker(self._context, self.progress).finish()
        finally:
            await self._context.journal.aclose()

    def _close(self) -> None:
        """Let no caller wait for outcomes that will not come."""
        self._closed = True
        self._stop_timing()
        if self._outcomes.empty():
            self._outcomes.put_nowait(None)

    async def next_outcome(self) -> Outcome | None:
        """Return the next outcome, `None` once there are no more. Raises like `Batch.__anext__`."""
        over = self._ended or (self._closed and self._outcomes.empty())
        outcome = None if over else await self._outcomes.get()
        if outcome is not None:
            return outcome
        self._ended = True
        if self._outcomes.empty():
            self._outcomes.put_nowait(None)  # for another task that waits for the next outcome, too
        self._stop_timing()
        if self._fault is not None:
            raise self._fault
        return None

    def drain(self) -> None:
        """See `Batch.drain`."""
        self._context.stop_switch.stop()

    async def finish(self, within: float) -> None:
        """Create no more splits, and wait for the end of those that are, or may be, paid for, at most `within` seconds.

        Somebody must take the outcomes meanwhile.
        """
        self.drain()
        with suppress(TimeoutError):
            async with self._clock.timeout_at(self._clock.monotonic() + within):
                await asyncio.wait(self._helpers[:1])

    @property
    def stopped_by(self) -> BaseException | None:
        """See `Batch.stopped_by`."""
        return self._fault or self._context.stop_switch.reason

    def expect(self, total: int | None, seconds_left: float | None) -> None:
        """See `Batch.expect`."""
        self._expected = total, seconds_left

    def report(self) -> BatchReport:
        """Return the totals of a batch that has ended."""
        return build_report(self._context, self._counts, self._took or 0.0)

    async def records(self) -> AsyncGenerator[Record, None]:
        """See `Batch.records`."""
        after = 0
        while page := await self._context.journal.write(JournalStore.page, after, _PAGE):
            for record in page:
                yield record
            after = page[-1].id

    async def unrecognised(self) -> list[str]:
        """See `Batch.unrecognised`."""
        return await self._context.journal.write(JournalStore.unrecognised)

    async def exposed_folder(self) -> Path | None:
        """See `Batch.exposed_folder`."""
        path = self._place
        return path.parent if isinstance(path, Path) and await run_in_thread(is_exposed, path) else None

    def progress(self) -> BatchProgress:
        """See `Batch.progress`."""
        now = self._clock.monotonic()
        return take_snapshot(
            self._context,
            [track.standing for track in self._tracks.values()],
            self._counts,
            now=now,
            seconds=self._took if self._took is not None else now - self._began,
            exhausted=self._feeder.exhausted,
            elsewhere=len(self._fleet),
            expected=self._expected,
        )

    @property
    def _fleet(self) -> Fleet:
        assert self._others is not None  # noqa: S101  # made with the context
        return self._others

    @property
    def _context(self) -> BatchContext:
        assert self._started is not None  # noqa: S101  # started first of all
        return self._started

    def _stop_timing(self) -> None:
        if self._took is None:
            self._took = self._clock.monotonic() - self._began

    def _stop(self) -> None:
        """Stop at once; a create in progress gets a few seconds to finish."""
        self._closing = True
        self._cancel(self._tracks)

    def _cancel_unpaid(self) -> None:
        """Take no more sources, and cancel those that have cost nothing. The track that stops it says why."""
        free = {task for task, track in self._tracks.items() if track.standing.cancellable}
        self._cancel(free - {asyncio.current_task()})

    def _cancel(self, tracks: Iterable[asyncio.Task[None]]) -> None:
        self._feeder.stop()
        for task in tracks:
            self._cancelled.add(task)
            task.cancel()
        self._fleet.wake()

    async def _take(self, source: Source | BatchItem) -> bool:
        """Start a task for a source as soon as there is room for it; return whether to go on."""
        item = source if isinstance(source, BatchItem) else BatchItem(source=source)
        track = BatchTrack(self._context, item, self._counts["taken"], self._last_claim)
        await self._fleet.wait_for_room()
        if not await self._start_track(track):
            return False
        self._counts["taken"] += 1
        if not isinstance(item, Call):
            self._last_claim = track.has_claimed
        return True

    async def _take_again(self, source: Elsewhere) -> bool:
        """Start another task for a source whose song another worker had in hand; return whether to go on."""
        return await self._start_track(BatchTrack(self._context, source.item, source.position, again=source))

    async def _start_track(self, track: BatchTrack) -> bool:
        """Start the task of a track as soon as there is room for it; return `False` if the batch stopped first."""
        context = self._context
        await context.sources.acquire()
        if context.stop_switch.is_on:
            context.sources.release()
            return False
        call = track.standing.item if isinstance(track.standing.item, Call) else None
        task = asyncio.get_running_loop().create_task(
            self._run(track),
            name=f"track {track.standing.position}",
            context=self._callers.copy() if call is None else call.context.copy(),
        )
        self._tracks[task] = track
        task.add_done_callback(self._tracks.pop)
        if call is not None:
            call.answer.add_done_callback(lambda _: self._withdraw(task))
        return True

    def _withdraw(self, task: asyncio.Task[None]) -> None:
        """Cancel a track if nobody waits for it, and it has cost nothing."""
        track = self._tracks.get(task)
        if track is not None and track.is_withdrawn and track.standing.cancellable:
            self._cancelled.add(task)
            task.cancel()

    async def _end(self) -> None:
        """Wait until there are no more sources and no more tracks, and end the outcomes."""
        fault = await self._feeder.find_fault()
        self._fault = self._fault or fault
        while self._tracks or self._fleet:
            if self._tracks:
                await asyncio.wait(self._tracks)
            elif self._context.stop_switch.is_on or self._closing:
                for source in self._fleet.drop():
                    await self._deliver(source.item, source.skip())
            else:
                await self._fleet.wait_for_change()
        complete = self._feeder.exhausted and self._fault is None
        if complete and not (self._context.stop_switch.is_on or self._counts["passing"]):
            with suppress(JournalError):  # a re-split not marked as finished is continued by the next run
                await self._context.write(JournalStore.finish_resplit)
        await self._outcomes.put(None)

    async def _run(self, track: BatchTrack) -> None:
        try:
            try:
                outcome = await run_track(track, self._context.engine.pipeline.emit, self._options)
            except asyncio.CancelledError:
                if self._closing:
                    raise
                outcome = describe_cancelled(track.standing, by_batch=asyncio.current_task() in self._cancelled)
            if isinstance(outcome, Elsewhere):
                self._fleet.add(outcome)
                return
            await self._deliver(track.standing.item, outcome)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # the journal failed, or this is a bug: nothing may go on
            self._fault = self._fault or error
            self._stop()
            if isinstance(error, KeyboardInterrupt | SystemExit):  # raised by the event loop at once
                raise
        finally:
            self._context.sources.release()

    async def _deliver(self, item: BatchItem, outcome: Outcome) -> None:
        self._counts[kind_of(outcome)] += 1
        if isinstance(outcome, Failed):
            self._counts["passing"] += build_failure(outcome.stage, outcome.error).passing
        if isinstance(item, Call):
            item.settle(outcome)
        else:
            await self._outcomes.put(outcome)
