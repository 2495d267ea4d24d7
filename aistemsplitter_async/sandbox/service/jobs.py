"""From queued to finished: separation workers do the work, the progression decides how far it may show."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING

import attrs

from aistemsplitter_async.sandbox.service import state
from aistemsplitter_async.sandbox.service.progression import Instant, Progression, Timed, WaitingLine
from aistemsplitter_async.sandbox.service.separator import SeparationError, Separator
from aistemsplitter_async.sandbox.service.state import Split, SplitError, Status, Stem
from aistemsplitter_async.sandbox.service.storage import StorageFullError

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from aistemsplitter_async.sandbox.service.storage import Storage
    from aistemsplitter_async.sandbox.service.timeline import SandboxClock, Timeline

_log = logging.getLogger(__name__)


@attrs.define(eq=False)
class _Job:
    """A split on its way. It moves when both allow it: what `permitted` says and what the work has come to."""

    split: Split
    permitted: Status = Status.QUEUED
    outcome: tuple[Stem, ...] | SplitError | None = None
    held: bool = False
    finished: asyncio.Event = attrs.field(factory=asyncio.Event)

    def settle(self, at: float) -> bool:
        """Move the split as far as it may go; return whether it is finished now."""
        split = self.split
        if split.status is Status.QUEUED and self.permitted is not Status.QUEUED:
            state.start(split, at)
        if self.permitted is Status.SUCCEEDED and self.outcome is not None:
            if isinstance(self.outcome, SplitError):
                state.fail(split, self.outcome, at)
            else:
                state.succeed(split, self.outcome, at)
        return split.finished


class Jobs:
    """All unfinished splits. `on_change` hears of every split whose status changed."""

    def __init__(
        self,
        *,
        clock: SandboxClock,
        timeline: Timeline,
        separator: Separator,
        storage: Storage,
        progression: Progression,
        workers: int,
        random: Random,
        on_change: Callable[[Split], None],
    ) -> None:
        self._clock = clock
        self._timeline = timeline
        self._separator = separator
        self._storage = storage
        self._progression = progression
        self._workers = workers
        self._on_change = on_change
        self._line = WaitingLine(progression, random) if isinstance(progression, Timed) else None
        self._jobs: dict[str, _Job] = {}
        self._waiting: deque[_Job] = deque()
        self._arrived = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start the separation workers."""
        self._tasks = [asyncio.create_task(self._work()) for _ in range(self._workers)]

    async def aclose(self) -> None:
        """Stop the workers and kill what they run; unfinished splits stay as they are."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def submit(self, split: Split, *, held: bool = False, doom: SplitError | None = None) -> None:
        """Take on a queued split.

        Args:
            split: The split.
            held: Never let it go beyond processing.
            doom: Fail it with this error when its time has come, whatever the work says.
        """
        job = _Job(split, outcome=doom, held=held)
        self._jobs[split.id] = job
        if self._line is not None:
            starts, ends = self._line.plan(self._clock.monotonic(), split.seconds)
            self._timeline.at(starts, lambda at: self._permit(job, Status.PROCESSING, at))
            if not held:
                self._timeline.at(ends, lambda at: self._permit(job, Status.SUCCEEDED, at))
        elif held and isinstance(self._progression, Instant):
            self._permit(job, Status.PROCESSING, self._clock.now())
        if held:
            return
        if doom is not None:
            if isinstance(self._progression, Instant):
                self._permit(job, Status.SUCCEEDED, self._clock.now())
            return
        self._waiting.append(job)
        self._arrived.set()

    async def step(self, split_id: str) -> Status:
        """Move a split on by one status, waiting for the separation where that is needed.

        Raises:
            KeyError: There is no such unfinished split.
        """
        job = self._jobs[split_id]
        if job.split.status is Status.QUEUED:
            self._permit(job, Status.PROCESSING, self._clock.now())
        elif not job.held:
            self._permit(job, Status.SUCCEEDED, self._clock.now())
            await job.finished.wait()
        return job.split.status

    def _permit(self, job: _Job, status: Status, at: float) -> None:
        job.permitted = status
        self._settle(job, at)

    def _settle(self, job: _Job, at: float) -> None:
        before = job.split.status
        if job.settle(at):
            self._jobs.pop(job.split.id, None)
            job.finished.set()
        if job.split.status is not before:
            try:
                self._on_change(job.split)
            except Exception:  # noqa: BLE001  a full disk, say, must stop neither the worker nor the clock
                _log.exception("the end of %s could not be written down", job.split.id)

    async def _work(self) -> None:
        while True:
            while not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
            job = self._waiting.popleft()
            hurried = isinstance(self._progression, Instant)
            if hurried:
                self._permit(job, Status.PROCESSING, self._clock.now())
            job.outcome = await self._separate(job.split)
            if hurried:
                job.permitted = Status.SUCCEEDED
            self._settle(job, self._clock.now())

    async def _separate(self, split: Split) -> tuple[Stem, ...] | SplitError:
        source, into = self._storage.source_path(split.source), self._storage.stem_folder(split.id)
        try:
            stems = await self._separator.separate(
                source, into, stem_model=split.stem_model, output_format=split.output_format
            )
            if into.exists():
                self._storage.book(split.id, sum(stem.size_bytes for stem in stems))
        except (SeparationError, StorageFullError) as error:
            message = str(error)
        except Exception:  # noqa: BLE001  one bad file must not stop the worker
            _log.exception("separation of %s failed", split.id)
            message = "The separation failed unexpectedly."
        else:
            return stems
        self._storage.drop_stems(split.id)
        return SplitError("PROCESSING_FAILED", message)
