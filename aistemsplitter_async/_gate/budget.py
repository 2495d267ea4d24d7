"""The request budget that polls are planned with."""

from __future__ import annotations

import math
from collections.abc import Callable

import attrs


def _unused(budget: Budget) -> Callable[[float], float]:
    if budget.limit is None:
        return lambda _: math.inf
    limit, per = budget.limit, budget.per
    return lambda within: limit * max(1.0, within / per)


@attrs.frozen(kw_only=True)
class Budget:
    """The requests that the gate can grant.

    Attributes:
        limit: requests per window, `None` if unknown.
        per: length of the window in seconds.
        wanted: waiting requests that go before polls.
        free: returns how many requests the limit allows within a number of seconds. Slots come back in bursts, as they
            were taken: a mean rate would promise slots that are not there yet. By default no slot is in use.
        holders: processes that share the limit. `free` is this one's part of it, `limit` is that of all.
    """

    limit: int | None
    per: float
    wanted: int = 0
    free: Callable[[float], float] = attrs.field(default=attrs.Factory(_unused, takes_self=True), repr=False)
    holders: int = 1

    def available(self, within: float) -> float:
        """Return how many requests can be spared in the next `within` seconds."""
        return self.free(within) - self.wanted

    def steady(self, within: float) -> float:
        """Return the same, assuming that slots come back evenly over a window."""
        if within >= self.per or self.limit is None:
            return self.available(within)
        at_once = self.available(0.0)
        return at_once + (self.available(self.per) - at_once) * within / self.per
