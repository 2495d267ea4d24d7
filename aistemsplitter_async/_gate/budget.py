"""What there is to plan polls with."""

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
    """What the gate has to give.

    Attributes:
        limit: requests per window, `None` if unknown.
        per: length of the window in seconds.
        wanted: requests that wait and go first.
        free: returns how many requests the limit allows in the next so many seconds. Slots come back in bursts, as
            they were taken: a mean rate would promise what is not there yet. By default nothing is used.
    """

    limit: int | None
    per: float
    wanted: int = 0
    free: Callable[[float], float] = attrs.field(default=attrs.Factory(_unused, takes_self=True), repr=False)

    def available(self, within: float) -> float:
        """Return how many requests can be spared in the next `within` seconds."""
        return self.free(within) - self.wanted

    def steady(self, within: float) -> float:
        """Return the same as if slots came back steadily within a window."""
        if within >= self.per or self.limit is None:
            return self.available(within)
        at_once = self.available(0.0)
        return at_once + (self.available(self.per) - at_once) * within / self.per
