"""Calls a function at one moment, which may be changed until then."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from aistemsplitter_async._tasks import start_aside
from aistemsplitter_async.clock import Clock


class Timer:
    """The timer of a gate.

    Args:
        clock: where time comes from.
        on_due: called when it is time.
    """

    def __init__(self, clock: Clock, on_due: Callable[[], None]) -> None:
        self._clock = clock
        self._on_due = on_due
        self._task: asyncio.Task[None] | None = None
        self._at = math.inf

    def set(self, when: float) -> None:
        """Call the function at `when` (monotonic seconds) instead of another moment; never, if that is infinity."""
        task = self._task
        if task is not None and (self._at != when or task.done()):  # done: it was cancelled from outside
            task.cancel()
            self._task = None
        if self._task is None and math.isfinite(when):
            self._at = when
            self._task = start_aside(self._sleep_until(when), "gate timer")

    async def _sleep_until(self, when: float) -> None:
        await self._clock.sleep(when - self._clock.monotonic())
        self._task = None
        self._on_due()
