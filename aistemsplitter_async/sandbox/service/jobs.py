"""Takes splits from queued to finished: workers separate, the progression decides when the status changes."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from random import Random

import attrs

from aistemsplitter_async._tasks import cancel_and_wait
from aistemsplitter_async.sandbox.service import state
from aistemsplitter_async.sandbox.service.core import ServiceCore
from aistemsplitter_async.sandbox.service.errors import StorageFullError
from aistemsplitter_async.sandbox.service.progression import Instant, Timed, WaitingLine
from aistemsplitter_async.sandbox.service.separator import SeparationError
from aistemsplitter_async.sandbox.service.state import Split, SplitError, Status, Stem

_log = logging.getLogger(__name__)


@attrs.define(eq=False)
class _Job:
    """An unfinished split. It moves as far as the progression permits and its outcome allows."""

    split: Split
    permitted: Status = Status.QUEUED
    outcome: tuple[Stem, ...] | SplitError | None = None
    held: bool = False
    finished: asyncio.Event = attrs.field(factory=asyncio.Event)

    def advance(self, at: float) -> bool:
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
    """All unfinished splits. `on_change` is called with every split whose status changed."""

    def __init__(self, core: ServiceCore, *, on_change: Callable[[Split], None]) -> None:
        self._core = core
        self._on_change = on_change
        progression = core.settings.progression
        chance = Random(core.settings.seed)  # noqa: S311  for the model's jitter, not for secrets
        self._line = WaitingLine(progression, chance) if isinstance(progression, Timed) else None
        self._instant = isinstance(progression, Instant)
        self._jobs: dict[str, _Job] = {}
        self._waiting: deque[_Job] = deque()
        self._arrived = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start the separation workers."""
        workers = self._core.settings.limits.separation_workers
        self._tasks = [asyncio.create_task(self._work()) for _ in range(workers)]

    async def aclose(self) -> None:
        """Stop the workers and kill what they run; unfinished splits stay as they are."""
        await cancel_and_wait(*self._tasks)

    def submit(self, split: Split, *, held: bool = False, failure: SplitError | None = None) -> None:
        """Take a queued split.

        Args:
            split: The split.
            held: Never let it go beyond processing.
            failure: Fail it with this error when it is due, without separation.
        """
        job = _Job(split, outcome=failure, held=held)
        self._jobs[split.id] = job
        if self._line is not None:
            starts, ends = self._line.plan(self._core.clock.monotonic(), split.seconds)
            self._core.timeline.at(starts, lambda at: self._permit(job, Status.PROCESSING, at))
            if not held:
                self._core.timeline.at(ends, lambda at: self._permit(job, Status.SUCCEEDED, at))
        elif held and self._instant:
            self._permit(job, Status.PROCESSING)
        if held:
            return
        if failure is not None:
            if self._instant:
                self._permit(job, Status.SUCCEEDED)
            return
        self._waiting.append(job)
        self._arrived.set()

    async def step(self, split_id: str) -> Status:
        """Advance a split by one status, and return that; to finish it, wait for its separation.

        Raises:
            KeyError: There is no such unfinished split.
        """
        job = self._jobs[split_id]
        if job.split.status is Status.QUEUED:
            self._permit(job, Status.PROCESSING)
        elif not job.held:
            self._permit(job, Status.SUCCEEDED)
            await job.finished.wait()
        return job.split.status

    def _permit(self, job: _Job, status: Status, at: float | None = None) -> None:
        job.permitted = status
        self._advance(job, self._core.clock.now() if at is None else at)

    def _advance(self, job: _Job, at: float) -> None:
        before = job.split.status
        if job.advance(at):
            self._jobs.pop(job.split.id, None)
            job.finished.set()
        if job.split.status is not before:
            try:
                self._on_change(job.split)
            except Exception:  # noqa: BLE001  a full disk, say, must stop neither the worker nor the timeline
                _log.exception("the end of %s could not be saved", job.split.id)

    async def _work(self) -> None:
        while True:
            while not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
            job = self._waiting.popleft()
            if self._instant:
                self._permit(job, Status.PROCESSING)
            job.outcome = await self._separate(job.split)
            if self._instant:
                job.permitted = Status.SUCCEEDED
            self._advance(job, self._core.clock.now())

    async def _separate(self, split: Split) -> tuple[Stem, ...] | SplitError:
        storage = self._core.storage
        source, into = storage.source_path(split.source), storage.stem_folder(split.id)
        try:
            stems = await self._core.separator.separate(
                source,
                into,
                seconds=split.seconds,
                stem_model=split.stem_model,
                output_format=split.output_format,
            )
            if into.exists():
                storage.book(split.id, sum(stem.size_bytes for stem in stems))
        except (SeparationError, StorageFullError) as error:
            message = str(error)
        except Exception:  # noqa: BLE001  one bad file must not stop the worker
            _log.exception("separation of %s failed", split.id)
            message = "The separation failed unexpectedly."
        else:
            return stems
        storage.drop_stems(split.id)
        return SplitError("PROCESSING_FAILED", message)
