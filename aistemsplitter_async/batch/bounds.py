"""The bounds of a batch: splits in flight, credits to spend, and whether it still creates splits."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext

from aistemsplitter_async.batch.preflight import charged_credits
from aistemsplitter_async.errors import AIStemSplitterError, SpendLimitError

_MOST_IN_FLIGHT = 2000  # each costs about 10 kB here; more would help only keys of several thousand requests a minute
_UNKNOWN_LIMIT = 60  # requests a window, until the limit is learned


def plan_in_flight(limit: int | None, per: float, processing: float | None) -> int:
    """Return how many splits keep a key busy: `2 R max(1, p / W)`, at most 2,000.

    By Little's law `R / 2` URL tracks a window, each in flight for `p` and the wait for its poll, need about half of
    that; the rest is slack for slow ones.

    Args:
        limit: requests a window (R), if it is known.
        per: seconds of a window (W).
        processing: seconds a split usually takes (p), if that is known.
    """
    windows = max(1.0, (processing or 0.0) / per)
    return min(_MOST_IN_FLIGHT, math.ceil(2 * (limit or _UNKNOWN_LIMIT) * windows))


class CreditBudget:
    """The credits that a run may still spend, and those it has spent.

    Attributes:
        used: credits of the splits created so far.

    Args:
        most: credits the run may spend, `None` without a limit.
    """

    def __init__(self, most: float | None) -> None:
        self.used = 0.0
        self._most = most
        self._unknown_price = asyncio.Lock()
        self._reserved: dict[int, float] = {}
        self._largest = 1.0  # no split costs less

    def lock(self, seconds: float | None) -> AbstractAsyncContextManager[object]:
        """Return the lock to hold from `reserve` to `charge`: under a limit, creates of unknown price take turns."""
        return self._unknown_price if self._most is not None and seconds is None else nullcontext()

    def reserve(self, row: int, seconds: float | None) -> None:
        """Set aside what a create will cost; if that is not known, as much as the most expensive split so far.

        A split of unknown length may cost more than any before; the limit can be exceeded by that much, once.

        Raises:
            SpendLimitError: that would be more than the run may spend.
        """
        self.release(row)
        if self._most is None:
            return
        price = self._largest if seconds is None else charged_credits(seconds)
        if self.used + sum(self._reserved.values()) + price > self._most:
            raise SpendLimitError(
                f"the next split would exceed the {self._most:g} credits this run may spend "
                f"({self.used:g} are spent); raise the limit to go on",
                code="SPEND_LIMIT",
            )
        self._reserved[row] = price

    def charge(self, row: int, credits_used: float | None) -> None:
        """Record what a create cost; if the server did not say it, what was set aside for it."""
        reserved = self._reserved.pop(row, 0.0)
        cost = reserved if credits_used is None else credits_used
        self.used += cost
        self._largest = max(self._largest, cost)

    def release(self, row: int) -> None:
        """Give back what was set aside for a create that did not happen."""
        self._reserved.pop(row, None)


class CreatingStoppedError(Exception):
    """The batch creates no more splits, and this track has none yet."""


class OutdatedError(Exception):
    """While a create waited to be sent, it became the wrong step: its upload expired, or its key is too old."""


class StopSwitch:
    """Whether the batch still creates splits.

    Attributes:
        is_on: whether it creates no more splits.
        reason: the error that stopped it, if one did.

    Args:
        on_stop: called once, when it is switched on.
    """

    def __init__(self, on_stop: Callable[[], None]) -> None:
        self.is_on = False
        self.reason: AIStemSplitterError | None = None
        self._on_stop = on_stop

    def stop(self, reason: AIStemSplitterError | None = None) -> None:
        """Create no more splits; those that are paid for are finished."""
        self.reason = self.reason or reason
        if not self.is_on:
            self.is_on = True
            self._on_stop()

    def check(self) -> None:
        """Check that splits may be created.

        Raises:
            CreatingStoppedError: they may not.
        """
        if self.is_on:
            raise CreatingStoppedError
