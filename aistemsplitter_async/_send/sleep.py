"""Whether the machine was asleep between two moments. Its connections may be dead then, and nothing on them says so."""

from __future__ import annotations

import attrs

from aistemsplitter_async.config import ASLEEP


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


def has_slept(before: Readings, now: Readings) -> bool:
    """Return whether more time has passed since `before` than the timers have counted.

    A wall clock that was put forward looks the same: then a few connections are opened that need not have been.
    """
    counted = now.timers - before.timers
    passed = max(now.awake_or_not - before.awake_or_not, now.wall - before.wall)
    return passed - counted > ASLEEP
