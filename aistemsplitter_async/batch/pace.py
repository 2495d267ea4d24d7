"""How many splits to have in the works."""

from __future__ import annotations

import math

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
