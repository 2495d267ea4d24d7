"""Time as a dependency that is passed in, so that tests never wait for real time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol, Self


class Clock(Protocol):
    """The time functions that this package needs. `SystemClock` is the real one."""

    def monotonic(self) -> float:
        """Return seconds on a clock that never jumps; only differences have a meaning."""
        ...

    def now(self) -> float:
        """Return the wall clock as POSIX seconds; it may jump."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait `seconds`; zero or less still lets other tasks run once."""
        ...

    def timeout_at(self, deadline: float | None) -> AbstractAsyncContextManager[object]:
        """Return a context that is cancelled, raising `TimeoutError`, when `monotonic()` reaches `deadline`."""
        ...


class SystemClock:
    """The machine's clocks and asyncio's timers."""

    def monotonic(self) -> float:
        """Return `time.monotonic()`."""
        return time.monotonic()

    def now(self) -> float:
        """Return `time.time()`."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Wait with `asyncio.sleep`."""
        await asyncio.sleep(max(0.0, seconds))

    def timeout_at(self, deadline: float | None) -> asyncio.Timeout:
        """Return `asyncio.timeout` for what is left until `deadline` (`None`: no limit)."""
        return asyncio.timeout(None if deadline is None else deadline - time.monotonic())


class Deadline:
    """The moment by which a call must have ended.

    Args:
        clock: what it is measured on.
        at: monotonic seconds, `None` for no limit.
    """

    def __init__(self, clock: Clock, at: float | None) -> None:
        self.at = at
        self._clock = clock

    @classmethod
    def after(cls, clock: Clock, seconds: float | None) -> Self:
        """Return the deadline `seconds` from now; `None` stands for no limit."""
        return cls(clock, None if seconds is None else clock.monotonic() + seconds)

    @property
    def is_past(self) -> bool:
        """Whether the time has run out."""
        return self.at is not None and self._clock.monotonic() >= self.at

    @property
    def left(self) -> float | None:
        """Seconds until then, never below 0; `None` if there is no limit."""
        return None if self.at is None else max(0.0, self.at - self._clock.monotonic())

    def scope(self) -> AbstractAsyncContextManager[object]:
        """Return a context that is cancelled, raising `TimeoutError`, when the time runs out."""
        return self._clock.timeout_at(self.at)


Random = Callable[[], float]
"""Returns a number uniform in [0, 1)."""
