"""Whether the machine was asleep between two moments. Its connections may be dead then, and nothing on them says so."""

from __future__ import annotations

import time

import attrs

from aistemsplitter_async.clock import Clock
from aistemsplitter_async.config import ASLEEP

_SLEEP_CLOCK: int | None = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))  # the 2nd on macOS


@attrs.frozen
class Readings:
    """The machine's clocks at one moment.

    Attributes:
        timers: seconds on the clock that timers run on (`time.monotonic`); it stands still during sleep on Linux and
            macOS, and goes on on Windows.
        awake_or_not: seconds on a clock that goes on during sleep, and is not set by anybody; where there is none,
            `timers` again.
        wall: POSIX seconds; they also jump when a virtual machine goes on that was suspended from outside.
    """

    timers: float
    awake_or_not: float
    wall: float


def read_clocks() -> Readings:
    """Return what the machine's clocks say now."""
    timers = time.monotonic()
    return Readings(timers, timers if _SLEEP_CLOCK is None else time.clock_gettime(_SLEEP_CLOCK), time.time())


def read_from(clock: Clock) -> Readings:
    """Return what a clock says that is not the machine's, for tests."""
    now = clock.monotonic()
    return Readings(now, now, clock.now())


def has_slept(before: Readings, now: Readings) -> bool:
    """Return whether more time has passed since `before` than the timers have counted.

    A wall clock that was put forward looks the same: then a few connections are opened that need not have been.
    """
    return seconds_between(before, now) - (now.timers - before.timers) > ASLEEP


def seconds_between(before: Readings, now: Readings) -> float:
    """Return how many seconds have passed, asleep or not; too many if a wall clock was put forward."""
    return max(now.timers - before.timers, now.awake_or_not - before.awake_or_not, now.wall - before.wall)
