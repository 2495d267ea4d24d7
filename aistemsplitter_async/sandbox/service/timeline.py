"""The sandbox's time: a clock that can be moved forward, and callbacks by due time."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from itertools import count

from aistemsplitter_async.clock import Clock

_FURTHEST = 100 * 365.25 * 86_400  # s; dates end with the year 9999, and lifetimes are added to them


class SandboxClock:
    """Another clock plus the time that `advance` added; sleepers whose time was skipped wake at once."""

    def __init__(self, base: Clock) -> None:
        self._base = base
        self._ahead = 0.0
        self._naps: set[asyncio.Future[None]] = set()

    def monotonic(self) -> float:
        """Return monotonic seconds."""
        return self._base.monotonic() + self._ahead

    def now(self) -> float:
        """Return POSIX seconds."""
        return self._base.now() + self._ahead

    async def sleep(self, seconds: float) -> None:
        """Wait until `seconds` of this clock have passed."""
        deadline = self.monotonic() + seconds
        while True:
            await self.nap(deadline)
            if self.monotonic() >= deadline:
                return

    async def nap(self, deadline: float) -> None:
        """Wait until `deadline`, or until `wake` is called."""
        napping = asyncio.ensure_future(self._base.sleep(deadline - self.monotonic()))
        self._naps.add(napping)
        try:
            await asyncio.wait({napping})
        finally:
            self._naps.discard(napping)
            napping.cancel()

    def wake(self) -> None:
        """End every nap."""
        for napping in self._naps:
            napping.cancel()

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass at once.

        Raises:
            ValueError: `seconds` is negative, or the time would be more than a century ahead.
        """
        if not seconds >= 0:
            raise ValueError("time can only be moved forward")
        if self._ahead + seconds > _FURTHEST:
            raise ValueError("time cannot be moved forward by more than a hundred years")
        self._ahead += seconds
        self.wake()

    def timeout_at(self, deadline: float | None) -> AbstractAsyncContextManager[object]:
        """Return the other clock's timeout for the time left."""
        left = None if deadline is None else deadline - self._ahead
        return self._base.timeout_at(left)


class Timeline:
    """Callbacks in the order of their due times.

    Every request calls `run_due` first, so that everything due by then has happened, each at its own time.
    `drive` runs callbacks while no request comes.
    """

    def __init__(self, clock: SandboxClock) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = count()
        self._changed = asyncio.Event()

    def at(self, due: float, callback: Callable[[float], None]) -> None:
        """Call `callback` at monotonic time `due`, with that moment as POSIX time."""
        first = not self._heap or due < self._heap[0][0]
        heapq.heappush(self._heap, (due, next(self._order), callback))
        if first:
            self._changed.set()
            self._clock.wake()

    def run_due(self) -> None:
        """Call everything that is due."""
        while self._heap and self._heap[0][0] <= (moment := self._clock.monotonic()):
            due, _, callback = heapq.heappop(self._heap)
            callback(self._clock.now() - (moment - due))

    async def drive(self) -> None:
        """Run callbacks as they become due, until cancelled."""
        while True:
            self._changed.clear()
            self.run_due()
            if self._heap:
                await self._clock.nap(self._heap[0][0])
            else:
                await self._changed.wait()


def format_timestamp(posix: float) -> str:
    """Return ISO-8601 in UTC with milliseconds and `Z`."""
    text = datetime.fromtimestamp(posix, UTC).isoformat(timespec="milliseconds")
    return text.removesuffix("+00:00") + "Z"
