"""What is still to come of a batch: counted beside it, for the time left and for the credits that will be missing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aistemsplitter_async.batch.outcome import Skipped
from aistemsplitter_async.batch.runner import Batch
from aistemsplitter_async.cli.library import Library, Survey
from aistemsplitter_async.cli.screen.batch_view import Meter, plan_eta
from aistemsplitter_async.cli.screen.render import number, price
from aistemsplitter_async.cli.screen.terminal import Terminal
from aistemsplitter_async.client import AsyncAIStemSplitter
from aistemsplitter_async.errors import AIStemSplitterError
from aistemsplitter_async.journal.record import StageName, plan_reopening

_BUYING: tuple[StageName, ...] = ("upload", "create")
_TICK = 1.0  # s between two forecasts for those who ask with --status


class Forecast:
    """Looks ahead of a batch, in the background.

    Args:
        batch: that runs.
        survey: filled with what there is.
        meter: how fast it goes.
        client: that knows the balance.
        terminal: where it is said that the balance will not do.
        retry_failed: whether the batch tries again what failed for good.
    """

    def __init__(
        self,
        batch: Batch,
        survey: Survey,
        meter: Meter,
        client: AsyncAIStemSplitter,
        terminal: Terminal,
        *,
        retry_failed: bool,
    ) -> None:
        self._batch = batch
        self._survey = survey
        self._meter = meter
        self._client = client
        self._terminal = terminal
        self._retry_failed = retry_failed
        self._began = time.time()
        self._settled: set[str] = set()
        self._shared = 0.0  # credits that the survey took for needed, of audio that is paid for under another name

    @asynccontextmanager
    async def beside(self, library: Library) -> AsyncIterator[None]:
        """Look ahead for the time of the block, if the library can be read twice."""
        counting = None
        if library.is_repeatable:
            self._settled = await self._find_settled()
            counting = asyncio.create_task(self._look_ahead(library), name="survey")
        try:
            yield
        finally:
            if counting is not None:
                counting.cancel()
                await asyncio.wait([counting])
                if not counting.cancelled():
                    counting.exception()  # a folder that went away is told of by the batch itself

    def note(self, outcome: Skipped) -> None:
        """Take note of what needs not be bought although the survey could not know that."""
        if outcome.split is not None and str(outcome.source) not in self._settled:
            self._shared += outcome.split.credits_used

    async def tell_shortage(self, *, stopped: bool = False) -> None:
        """Say so if the credits will not do for what was counted and is not paid for, by this run or an earlier one.

        Audio under several names is counted as often until the batch has come across them, so it may say too much.
        """
        try:
            balance = (await self._client.get_credits(priority="bulk")).balance
        except AIStemSplitterError:
            return  # the batch meets the same trouble, and tells of it
        needed = max(0.0, self._survey.credits_to_buy - self._batch.progress().credits_used - self._shared)
        if needed > balance:
            ending = "" if stopped else "; the batch stops when they run out"
            self._terminal.say(
                f"the rest needs about {price(needed)} and there are {number(balance)}: "
                f"{number(needed - balance)} are missing{ending}"
            )

    async def _look_ahead(self, library: Library) -> None:
        await self._survey.count(library, self._settled)
        asked = False
        while True:
            progress = self._batch.progress()
            if not asked and any(progress.stages.get(stage) for stage in _BUYING):
                asked = True  # a library that is finished needs no credits, and no request to see them
                await self.tell_shortage()
            left = plan_eta(progress, self._survey, self._meter.pace)
            self._batch.expect(total=self._survey.tracks, seconds_left=left)
            await asyncio.sleep(_TICK)

    async def _find_settled(self) -> set[str]:
        """Return the sources that nothing is to be bought for any more: paid for, or not tried again unasked."""
        again, settled = self._retry_failed, set[str]()
        async for record in self._batch.records():
            failure = record.failure
            stays = failure is not None and not failure.passing and not again
            reopened = failure is not None and again and plan_reopening(failure)
            paid = record.split_id is not None and not reopened and (record.created_at or 0.0) < self._began
            if stays or paid:
                settled.add(record.source)
        return settled
