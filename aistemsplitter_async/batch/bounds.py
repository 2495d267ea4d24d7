"""What a batch may still spend, and whether it may still create."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING

from aistemsplitter_async.batch.preflight import charged_credits
from aistemsplitter_async.errors import AIStemSplitterError, SpendLimitError

if TYPE_CHECKING:
    pass


_MOST_IN_FLIGHT = 2000  # each costs about 10 kB here; more would help only keys of several thousand requests a minute
_UNKNOWN_LIMIT = 60  # requests a window, until it is learned


def plan_in_flight(limit: int | None, per: float, processing: float | None) -> int:
    """Return how many splits keep a key busy: `2 R max(1, p / W)`, at most 2,000.

    By Little's law `R / 2` URL tracks a window, each in the works for `p` and the wait for its poll, need about half
    of that; the rest is slack for slow ones.

    Args:
        limit: requests a window (R), if it is known.
        per: seconds of a window (W).
        processing: seconds a split usually takes (p), if that is known.
    """
    windows = max(1.0, (processing or 0.0) / per)
    return min(_MOST_IN_FLIGHT, math.ceil(2 * (limit or _UNKNOWN_LIMIT) * windows))


class Purse:
    """What a run may still spend, and what it has spent, in credits."""

    def __init__(self, most: float | None) -> None:
        self.used = 0.0
        self._turn = asyncio.Lock()
        self._most = most
        self._pending: dict[int, float] = {}
        self._largest = 1.0  # nothing costs less

    def turn(self, seconds: float | None) -> AbstractAsyncContextManager[object]:
        """Return what to hold from `reserve` to `pay`: where spending is limited, unknown prices come one by one."""
        return self._turn if self._most is not None and seconds is None else nullcontext()

    def reserve(self, track: int, seconds: float | None) -> None:
        """Set aside what a create will cost; if that is not known, as much as the dearest one so far.

        A split of unknown length may turn out dearer than any before: by that much the limit can be exceeded, once.

        Raises:
            SpendLimitError: that would be more than the run may spend.
        """
        self.release(track)
        price = self._largest if seconds is None else charged_credits(seconds)
        if self._most is not None and self.used + sum(self._pending.values()) + price > self._most:
            raise SpendLimitError(
                f"the next split would exceed the {self._most:g} credits this run may spend "
                f"({self.used:g} are spent); raise the limit to go on",
                code="SPEND_LIMIT",
            )
        if self._most is not None:
            self._pending[track] = price

    def pay(self, track: int, credits_used: float) -> None:
        """Note what a create did cost."""
        self._pending.pop(track, None)
        self.used += credits_used
        self._largest = max(self._largest, credits_used)

    def release(self, track: int) -> None:
        """Give back what was set aside for a create that did not happen."""
        self._pending.pop(track, None)


class NotBegunError(Exception):
    """The batch creates no more splits, and this track has none yet."""


class OutdatedError(Exception):
    """While a create waited to be sent, time made something else of it: its upload expired, or its key is too old."""


class Brake:
    """Whether the batch still creates splits.

    Args:
        stop: called once, when it does not any more.
    """

    def __init__(self, stop: Callable[[], None]) -> None:
        self.stopped_by: AIStemSplitterError | None = None
        self.on = False
        self._stop = stop

    def pull(self, reason: AIStemSplitterError | None = None) -> None:
        """Create no more splits; what is paid for is finished."""
        self.stopped_by = self.stopped_by or reason
        if not self.on:
            self.on = True
            self._stop()

    def check(self) -> None:
        """Check that splits may be created.

        Raises:
            NotBegunError: not any more.
        """
        if self.on:
            raise NotBegunError
