"""The bounds of a batch: splits in flight, credits to spend, and whether it still creates splits."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

import attrs

from aistemsplitter_async.batch.preflight import Price
from aistemsplitter_async.errors import AIStemSplitterError, SpendLimitError

_MOST_IN_FLIGHT = 2000  # each costs about 10 kB here; more would help only keys of several thousand requests a minute
_UNKNOWN_LIMIT = 60  # requests a window, until the limit is learned
_ROUNDING = 1.0  # credits: two programs may measure the same song on either side of a whole second
# The codes of `SpendLimitError`: the limit is reached; a source has no price; the service charged more than expected.
SPEND_LIMIT, LENGTH_UNKNOWN, CHARGED_MORE = "SPEND_LIMIT", "LENGTH_UNKNOWN", "CHARGED_MORE"


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


def charged(credits_used: float | None, reserved: float | None) -> float:
    """Return what a create cost: the service's own figure, or what was reserved if that is missing, NaN or negative."""
    if credits_used is not None and 0 <= credits_used < math.inf:
        return credits_used
    return reserved or 0.0


@attrs.frozen
class SpentElsewhere:
    """What other workers on the same journal have of the credits that all may spend together.

    Attributes:
        used: credits of the splits they created so far.
        reserved: credits of creates whose price is not known yet, or that may have happened.
        kept: those of the latter: nothing will give their price back.
    """

    used: float = 0.0
    reserved: float = 0.0
    kept: float = 0.0


class CreditBudget:
    """The credits that a run may still spend, and those it has spent.

    Before a create its price is reserved; the answer replaces that by what the service charged. What is spent and what
    is reserved are never more than the limit together, so a service that charges by duration cannot exceed it.

    Several workers spend them together. Each knows what the others had a moment ago, and decides by that whether a
    create waits or is too dear; what keeps all of them within the limit is the journal, where a create's price is set
    aside with its intent.

    Attributes:
        used: credits of the splits created so far, by this worker.

    Args:
        most: credits the run may spend; `None` or infinity for no limit.
        on_overrun: called with the reason if the service charges more than it should, so that the limit cannot be kept.
    """

    def __init__(self, most: float | None, on_overrun: Callable[[SpendLimitError], None]) -> None:
        self.used: float = 0.0
        self._most = math.inf if most is None else most
        self._on_overrun = on_overrun
        self._reserved: dict[int, float] = {}  # by journal row
        self._kept: set[int] = set()  # rows whose create may have happened: nothing will give their price back
        self._elsewhere = SpentElsewhere()
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()

    @property
    def is_limited(self) -> bool:
        """Whether each create needs a price."""
        return self._most < math.inf

    @property
    def reserved(self) -> float:
        """Credits of creates of this worker whose price is not known yet, or that may have happened."""
        return sum(self._reserved.values())

    @property
    def used_by_all(self) -> float:
        """Credits of the splits created so far by all workers."""
        return self.used + self._elsewhere.used

    def note_elsewhere(self, elsewhere: SpentElsewhere) -> None:
        """Note what the other workers have."""
        self._elsewhere = elsewhere
        self._changed.set()

    def check(self, price: Price | None) -> None:
        """Check, under a limit, that a source has a price, and that its length is certain enough for one that may fit.

        Raises:
            SpendLimitError: it concerns this source alone (`LENGTH_UNKNOWN`).
        """
        if self.is_limited and price is None:
            raise SpendLimitError(
                "its length is not known, so it could cost more than this run may spend; give its length with "
                "BatchItem(seconds=..), convert it to a format that states it, or split it without max_credits",
                code=LENGTH_UNKNOWN,
            )
        if price is not None and not price.is_certain and price.credits > self._left(settled=True):
            raise self._too_dear(price)

    async def reserve(self, row: int, price: Price | None) -> None:
        """Set aside what a create may cost. Without that, none is sent under a limit.

        A price that fits only if the creates in progress turn out cheaper than their prices waits until that is known.
        Those after it wait too, or small ones could keep a large one waiting forever.

        Raises:
            SpendLimitError: it may cost more than the run may still spend (`SPEND_LIMIT`), or how much is not known
                (`LENGTH_UNKNOWN`).
        """
        self.check(price)
        if price is None or not self.is_limited:
            return
        async with self._turn:
            while self._left() < price.credits <= self._left(settled=True):
                self._changed.clear()
                await self._changed.wait()
            if self._left() < price.credits:
                raise self._too_dear(price)
            self._reserved[row] = price.credits

    def charge(self, row: int, credits_used: float | None) -> float:
        """Record and return what a create cost."""
        reserved = self._reserved.get(row)
        self.settle(row, may_have_happened=False)
        cost = charged(credits_used, reserved)
        self.used += cost
        self._check_overrun(cost, reserved)
        return cost

    def correct(self, cost: float, credits_used: float | None) -> float:
        """Record that a split for which `cost` was charged costs more in the end, if it does; return how much more."""
        latest = max(cost, charged(credits_used, cost))
        self.used += latest - cost
        self._check_overrun(latest, cost)
        return latest - cost

    def settle(self, row: int, *, may_have_happened: bool) -> None:
        """End a create without a charge: what was reserved is given back, unless it may have happened all the same."""
        if may_have_happened and row in self._reserved:
            self._kept.add(row)
        else:
            self._kept.discard(row)
            self._reserved.pop(row, None)
        self._changed.set()

    def _left(self, *, settled: bool = False) -> float:
        """Return what no create has cost or may still cost; if `settled`, with those in progress left out."""
        others = self._elsewhere
        bound = sum(self._reserved[row] for row in self._kept) if settled else self.reserved
        return self._most - self.used_by_all - bound - (others.kept if settled else others.reserved)

    def _too_dear(self, price: Price) -> SpendLimitError:
        spent = f"the {self._most:g} credits this run may spend ({self.used_by_all:g} are spent)"
        if price.is_certain:
            return SpendLimitError(
                f"the next split, of {price.credits:,} credits, would exceed {spent}; raise the limit to go on",
                code=SPEND_LIMIT,
            )
        return SpendLimitError(
            f"its length is not certain, so it could cost up to {price.credits:,} credits and exceed {spent}; "
            "convert it to a format that states its length, or raise the limit",
            code=LENGTH_UNKNOWN,
        )

    def _check_overrun(self, cost: float, expected: float | None) -> None:
        if not self.is_limited or expected is None or cost <= expected:
            return
        if cost > expected + _ROUNDING or self._left() < 0:
            self._on_overrun(
                SpendLimitError(
                    f"the service charged {cost:g} credits for a split that was to cost {expected:g}, so the limit "
                    f"of {self._most:g} credits cannot be kept ({self.used_by_all:g} are spent); no more splits are "
                    "created",
                    code=CHARGED_MORE,
                )
            )


class CreatingStoppedError(Exception):
    """The batch creates no more splits, and this track has none yet."""


class OverbookedError(Exception):
    """Other workers were quicker: with what they have set aside, a create does not fit what all may spend for now."""


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
        self.is_on: bool = False
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
