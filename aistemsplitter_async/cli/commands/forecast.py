"""Forecasts a running batch: counts its library to predict the time left and missing credits."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs

from aistemsplitter_async._tasks import cancel_and_wait
from aistemsplitter_async.batch.batch import Batch
from aistemsplitter_async.batch.outcome import Done, Outcome, Skipped
from aistemsplitter_async.batch.progress import BatchProgress
from aistemsplitter_async.cli.library import Library, Survey
from aistemsplitter_async.cli.screen.batch_view import over
from aistemsplitter_async.cli.screen.render import number, price
from aistemsplitter_async.cli.screen.terminal import Terminal
from aistemsplitter_async.client import AsyncAIStemSplitter
from aistemsplitter_async.errors import AIStemSplitterError
from aistemsplitter_async.journal.matching import Fit, fit
from aistemsplitter_async.journal.record import StageName, Variant, plan_reopening

_BUYING: tuple[StageName, ...] = ("upload", "create")
_TICK = 1.0  # s between two forecasts in the status file
_RECENT = 300.0  # s of finished tracks from which the pace is taken
_MIN_FINISHED = 5  # tracks before their pace means anything
# The requests that a track still needs, in each stage; a new file needs three and a new URL two.
_REQUESTS_LEFT: dict[StageName, int] = {"prepare": 3, "upload": 2, "create": 2, "wait": 1, "download": 0, "mix": 0}


def plan_eta(progress: BatchProgress, survey: Survey, pace: float | None) -> float | None:
    """Return the seconds a batch will still take, `None` if it cannot be estimated: not yet, or not during an outage.

    The key's limit allows no less than `requests left / limit` windows and the processing of the last split; if
    tracks have been finishing more slowly than that, they are expected to continue at that pace.

    Args:
        progress: of the batch.
        survey: how much there is.
        pace: tracks finished per second lately.
    """
    # A draining batch does not finish the library, and how long an outage lasts is not known.
    if not survey.complete or progress.draining or progress.notices:
        return None
    left = survey.tracks - over(progress)
    if left <= 0:
        return 0.0
    estimates = [left / pace] if pace else []
    gate = progress.gate
    if gate.limit is not None or gate.further:
        new = max(0, survey.tracks - progress.taken)
        each = (3 * survey.files + 2 * survey.urls) / survey.tracks
        requests = new * each + sum(_REQUESTS_LEFT[stage] * count for stage, count in progress.stages.items())
        waits = [requests / gate.limit * gate.per] if gate.limit is not None else []
        # A long window is seldom used up: what is left of it can be sent at once.
        waits += [max(0.0, requests - (one.limit - one.used)) / one.limit * one.per for one in gate.further]
        estimates.append(max(waits) + (progress.processing or 0.0))
    return max(estimates, default=None)


class Pace:
    """Measures how fast tracks finish."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._times: deque[float] = deque()

    def note(self, outcome: Outcome) -> None:
        """Record an outcome; one that needed no work, such as a track that was finished earlier, does not count."""
        if not isinstance(outcome, Done):
            return
        self._times.append(self._now())
        while self._now() - self._times[0] > _RECENT:
            self._times.popleft()

    @property
    def per_second(self) -> float | None:
        """Return tracks per second lately, `None` while too few have finished."""
        if len(self._times) < _MIN_FINISHED:
            return None
        return (len(self._times) - 1) / max(1e-3, self._now() - self._times[0])


class Forecast:
    """Forecasts a batch, in the background.

    Attributes:
        survey: how much the library holds, filled as it is counted.

    Args:
        batch: the running one.
        client: gets the balance.
        terminal: shows that credits are missing.
        wanted: what is asked of every source.
        retry_failed: whether the batch tries again what failed for good.
    """

    def __init__(
        self,
        batch: Batch,
        client: AsyncAIStemSplitter,
        survey: Survey,
        terminal: Terminal,
        *,
        wanted: Variant,
        retry_failed: bool,
    ) -> None:
        self.survey = survey
        self._batch = batch
        self._client = client
        self._terminal = terminal
        self._wanted = wanted
        self._retry_failed = retry_failed
        self._pace = Pace()
        self._began = time.time()
        self._paid: set[str] = set()
        self._shared = 0.0  # credits that the survey counted, of audio that is paid for under another name

    @asynccontextmanager
    async def running(self, library: Library) -> AsyncIterator[None]:
        """Count for as long as the block runs, if the library can be read twice."""
        counting = []
        if library.is_repeatable:
            self._paid = await self._find_paid()
            counting.append(asyncio.create_task(self._count_library(library), name="survey"))
        try:
            yield
        finally:
            await cancel_and_wait(*counting)  # a folder that cannot be read any more is reported by the batch itself

    def note(self, outcome: Outcome) -> None:
        """Record an outcome, and the credits that the survey counted for a track that is already paid for."""
        self._pace.note(outcome)
        if isinstance(outcome, Skipped) and outcome.split is not None and str(outcome.source) not in self._paid:
            self._shared += outcome.split.credits_used or 0.0

    def progress(self) -> BatchProgress:
        """Return the batch's progress, with the total and the time left as far as they are known now."""
        progress, survey = self._batch.progress(), self.survey
        return attrs.evolve(
            progress,
            total=survey.tracks if survey.complete else None,
            seconds_left=plan_eta(progress, survey, self._pace.per_second),
        )

    async def report_shortage(self, *, stopped: bool = False) -> None:
        """Write that credits are missing, if the balance does not cover the tracks that are counted and not paid for.

        Audio under several names is counted several times until the batch has reached it, so the figure may be too
        high.
        """
        try:
            balance = (await self._client.get_credits(priority="bulk")).balance
        except AIStemSplitterError:
            return  # the batch runs into the same error, and reports it
        needed = max(0.0, self.survey.credits_to_buy - self._batch.progress().credits_used - self._shared)
        if needed > balance:
            ending = "" if stopped else "; the batch stops when they run out"
            self._terminal.say(
                f"the rest needs about {price(needed)}, and the balance is {number(balance)}: "
                f"{number(needed - balance)} are missing{ending}"
            )

    async def _count_library(self, library: Library) -> None:
        await self.survey.count(library, self._paid)
        asked = False
        while True:
            progress = self.progress()
            if not asked and any(progress.stages.get(stage) for stage in _BUYING):
                asked = True  # only now: a library that is finished needs no credits, and so no request for them
                await self.report_shortage()
                progress = self.progress()
            self._batch.expect(total=progress.total, seconds_left=progress.seconds_left)
            await asyncio.sleep(_TICK)

    async def _find_paid(self) -> set[str]:
        """Return the sources that need no more credits: paid for by an earlier run, or failed and not tried again."""
        paid = set[str]()
        async for record in self._batch.records():
            failure = record.failure
            given_up = failure is not None and not failure.passing and not self._retry_failed
            reopened = failure is not None and self._retry_failed and plan_reopening(failure)
            bought = record.split_id is not None and not reopened and (record.created_at or 0.0) < self._began
            if (given_up or bought) and fit(record, self._wanted) is not Fit.OTHER:
                paid.add(record.source)
        return paid
