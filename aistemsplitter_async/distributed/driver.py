"""Hands the songs of a run out to the workers of a cluster, and queues their outcomes.

The scheduler keeps its tasks in memory, and so a bounded number is out at a time; the journal knows what is done. What
a worker that was killed had in hand is given out again by Dask, and what the scheduler forgot, by this.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from itertools import count
from typing import Any, Final

import attrs
from distributed import Security

from aistemsplitter_async._logs.loggers import Log
from aistemsplitter_async._tasks import cancel_and_wait, run_to_end, wait_out
from aistemsplitter_async._transfer.audio import Source
from aistemsplitter_async.batch.capacity import Capacity
from aistemsplitter_async.batch.feeder import Feeder, Sources
from aistemsplitter_async.batch.item import BatchItem
from aistemsplitter_async.batch.outcome import BatchReport, Done, Failed, Outcome, Skipped, kind_of
from aistemsplitter_async.clock import Clock
from aistemsplitter_async.config import MOST_TASKS, TASKS_PER_WORKER
from aistemsplitter_async.distributed.link import GoneError, Link, WorkerDiedError
from aistemsplitter_async.distributed.tasks import Task, Terms, pack
from aistemsplitter_async.errors import AIStemSplitterError

_log = Log("batch")
_TICK: Final = 1.0  # s between two counts of the workers
_MOST_DEATHS: Final = 5  # times that Dask gave a song up: of workers, each is four; then it may be the song
_AGAIN: Final = 0.2  # s before a song is given out again


class Driver:
    """What an entered `ClusterBatch` runs on, with the same arguments."""

    def __init__(
        self,
        address: str,
        sources: Sources,
        terms: Terms,
        *,
        patience: float,
        security: Security | None,
        clock: Clock,
    ) -> None:
        self.stopped_by: BaseException | None = None
        self.taken: int = 0
        self._terms = terms
        self._clock = clock
        self._link = Link(address, patience, security, clock)
        self._feeder = Feeder(sources, self._take, clock=clock)
        self._room = Capacity(TASKS_PER_WORKER)
        self._songs = set[asyncio.Task[None]]()
        self._helpers = set[asyncio.Task[None]]()
        self._numbers = count()
        self._outcomes: asyncio.Queue[Outcome | None] = asyncio.Queue(maxsize=100)
        self._counts: Counter[str] = Counter()
        self._credits = 0.0
        self._is_draining = False
        self._has_ended = False
        self._fault: BaseException | None = None
        self._began = clock.monotonic()

    async def start(self) -> None:
        """Connect and start. Raises like `ClusterBatch.__aenter__`."""
        try:
            await self._link.connect()
        except BaseException:
            await self._link.close()
            raise
        self._room.resize(plan_out(await self._link.count_workers()))
        self._feeder.start(_nothing)
        self._help(self._end())
        self._help(self._adapt())

    async def stop(self) -> None:
        """Give nothing out any more, tell the workers, and disconnect."""
        self._feeder.stop()
        await run_to_end(self._wind_up())

    async def next_outcome(self) -> Outcome | None:
        """Return the next outcome, `None` once there are no more. Raises like `ClusterBatch.__anext__`."""
        outcome = None if self._has_ended else await self._outcomes.get()
        if outcome is not None:
            return outcome
        self._has_ended = True
        if self._outcomes.empty():
            self._outcomes.put_nowait(None)  # for another task that waits for the next outcome, too
        if self._fault is not None:
            raise self._fault
        return None

    def drain(self) -> None:
        """See `ClusterBatch.drain`."""
        if not self._is_draining:
            self._is_draining = True
            self._feeder.stop()
            self._help(self._tell_to_drain())

    def report(self) -> BatchReport:
        """Return the totals of a run that has ended."""
        return BatchReport(
            done=self._counts["done"],
            failed=self._counts["failed"],
            skipped=self._counts["skipped"],
            credits_used=self._credits,
            seconds=self._clock.monotonic() - self._began,
            stopped_by=self.stopped_by if isinstance(self.stopped_by, AIStemSplitterError) else None,
        )

    async def _take(self, source: Source | BatchItem) -> bool:
        """Give a source out as soon as there is room for it; return whether to go on."""
        await self._room.acquire()
        if self._is_draining:
            self._room.release()
            return False
        item = source if isinstance(source, BatchItem) else BatchItem(source=source)
        song = asyncio.get_running_loop().create_task(self._run(item, self.taken), name=f"song {self.taken}")
        self.taken += 1
        self._songs.add(song)
        song.add_done_callback(self._songs.discard)
        return True

    async def _run(self, item: BatchItem, position: int) -> None:
        try:
            outcome = await self._split(item, position)
            self._counts[kind_of(outcome)] += 1
            if isinstance(outcome, Done):
                self._credits += outcome.split.credits_used or 0.0
            await self._outcomes.put(outcome)
        except BaseException as error:
            if not isinstance(error, asyncio.CancelledError):
                self._fault = self._fault or error
                self._cancel()
            if not isinstance(error, Exception):
                raise
        finally:
            self._room.release()

    async def _split(self, item: BatchItem, position: int) -> Outcome:
        """Give a song out, again as often as it is needed, and return its outcome."""
        deaths = 0
        try:
            source, options = pack(item)
        except AIStemSplitterError as error:
            return Failed(item.source, "prepare", error, position)
        while True:
            task = Task(terms=self._terms, number=next(self._numbers), source=source, song=options)
            try:
                reply = await self._link.ask(task)
            except GoneError:
                await self._link.connect()
            except WorkerDiedError as error:
                deaths += 1
                if deaths == _MOST_DEATHS:
                    return Failed(item.source, "prepare", _build_deadly(source, error), position)
            else:
                if isinstance(reply, Done | Failed | Skipped):
                    return attrs.evolve(reply, source=item.source, position=position)
                if reply is not None:  # of the station, or of a worker that is not fit for the run
                    self.stopped_by = self.stopped_by or reply
                    self.drain()
            if self._is_draining:
                return Skipped(item.source, "not begun", position)
            await self._clock.sleep(_AGAIN)

    async def _end(self) -> None:
        """Wait until there are no more sources and no more songs, and end the outcomes."""
        fault = await self._feeder.find_fault()
        self._fault = self._fault or fault
        while self._songs:
            await asyncio.wait(self._songs)
        await self._outcomes.put(None)

    async def _adapt(self) -> None:
        """Give out as many songs as the workers that there are can use."""
        has_workers = True
        while True:
            await self._clock.sleep(_TICK)
            workers = await self._link.count_workers()
            self._room.resize(plan_out(workers))
            if has_workers and not workers:
                _log.warning("no Dask worker is connected; songs wait for one")
            has_workers = workers > 0

    async def _tell_to_drain(self) -> None:
        """Tell the workers, again and again: one may have come meanwhile."""
        while self._songs:
            await self._link.end(self._terms.run, "drain")
            await self._clock.sleep(_TICK)

    async def _wind_up(self) -> None:
        try:
            await self._feeder.wait_out()
            self._cancel()
            await wait_out(*self._songs)
            await cancel_and_wait(*self._helpers)
            if self._outcomes.empty():
                self._outcomes.put_nowait(None)
            await self._link.end(self._terms.run, "stop")
        finally:
            await self._link.close()

    def _cancel(self) -> None:
        self._feeder.stop()
        for song in self._songs - {asyncio.current_task()}:
            song.cancel()

    def _help(self, work: Coroutine[Any, Any, None]) -> None:
        helper = asyncio.get_running_loop().create_task(work)
        self._helpers.add(helper)
        helper.add_done_callback(self._note_help)

    def _note_help(self, helper: asyncio.Task[None]) -> None:
        self._helpers.discard(helper)
        if not helper.cancelled() and (error := helper.exception()) is not None:  # a bug: nothing may wait for it
            self._fault = self._fault or error
            self._cancel()


def plan_out(workers: int) -> int:
    """Return how many songs are out at a time. Without a worker some wait for the first one."""
    return min(MOST_TASKS, TASKS_PER_WORKER * max(1, workers))


def _build_deadly(source: str, error: WorkerDiedError) -> AIStemSplitterError:
    return AIStemSplitterError(
        f"every worker that had {source} died, so it may be this song that kills them: {error}; run it again, or "
        "split it alone",
        code="WORKER_DIED",
    )


async def _nothing() -> None:
    """Do nothing before the first source."""
