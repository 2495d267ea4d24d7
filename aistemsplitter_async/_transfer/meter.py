"""Detects stalled transfers: a slow one is not stalled, only one in which (next to) nothing moves any more."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from aistemsplitter_async._plain import PlainValue
from aistemsplitter_async.config import ASLEEP, Timeouts


@attrs.frozen
class Progress(PlainValue):
    """How far a transfer has got.

    Attributes:
        name: what moves: the source's file name, or the stem's name.
        done_bytes: how much of it has been moved; falls back when an attempt starts over.
        total_bytes: how much there is, or `None` if the server did not say.
    """

    name: str
    done_bytes: int
    total_bytes: int | None


OnProgress = Callable[[Progress], None]


class Meter:
    """Detects a stalled transfer: `stall` seconds without a byte, or fewer than `floor_bytes` a second over as long."""

    def __init__(self, timeouts: Timeouts, *, now: float) -> None:
        self._stall = timeouts.stall
        self._quorum = timeouts.floor_bytes * timeouts.stall
        self._period_start = now
        self._period_bytes = 0
        self._last_byte = now
        self._all_moved = False

    def add(self, count: int, *, now: float) -> None:
        """Note that `count` bytes moved."""
        self._period_bytes += count
        self._last_byte = now

    def skip(self, seconds: float) -> None:
        """Do not count `seconds` that have just passed, in which no reader waited for bytes."""
        self._period_start += seconds
        self._last_byte += seconds

    def finish(self, *, now: float) -> None:
        """Note that every byte has moved: from now on only the answer is waited for."""
        self._all_moved = True
        self._last_byte = now

    def deadline(self) -> float:
        """Return when to ask `is_stalled` next (monotonic seconds)."""
        silent_at = self._last_byte + self._stall
        return silent_at if self._all_moved else min(silent_at, self._period_start + self._stall)

    def is_stalled(self, *, now: float) -> bool:
        """Return whether the transfer has stalled; begins a new period if enough moved in the old one.

        Nobody could look while the machine slept or the process was stopped. What came meanwhile is not known yet, and
        gets a moment to show.
        """
        grace = min(ASLEEP, self._stall)
        if now > self.deadline() + grace:
            self._last_byte = now - self._stall + grace
            self._period_start, self._period_bytes = now, 0
            return False
        if now >= self._last_byte + self._stall:
            return True
        if self._all_moved or now < self._period_start + self._stall:
            return False
        if self._period_bytes < self._quorum:
            return True
        self._period_start, self._period_bytes = now, 0
        return False
