"""The key's budget: when may the next request be sent?

A slot is taken before sending and given back one window after the reply *arrived* (or the attempt was aborted). The
server counted the request at some moment between the two, so neither a fixed nor a sliding window of the same length
can ever hold more than the limit, whatever the latency.

A bucket is modelled the same way round: its level refills only up to what is left beside the requests in flight, so
the model never holds more tokens than the server does.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Protocol

from aistemsplitter_async.config import RateLimit

_ROUNDING = 1e-9  # tokens; a level computed to reach one may miss it by a float's last bits


class Window(Protocol):
    """A model of the server's limit. All times are monotonic seconds and must not run backwards."""

    def free_at(self, now: float) -> float:
        """Return when a slot is free: `now` or earlier if one is, infinity if only a reply can free one."""
        ...

    def take(self, now: float) -> None:
        """Occupy a slot; only when `free_at(now) <= now`."""
        ...

    def settle(self, now: float) -> None:
        """Note that the reply to one taken slot arrived, or that its attempt was given up."""
        ...

    def restore(self) -> None:
        """Give back a slot whose request was never sent."""
        ...

    def used(self, now: float) -> int:
        """Return how many slots are occupied."""
        ...


def build_window(limit: RateLimit, now: float) -> Window:
    """Return the model that `limit` calls for."""
    if limit.policy == "bucket" and limit.requests is not None:
        return BucketWindow(limit.requests, limit.per, now)
    return CountingWindow(limit.requests if limit.requests is not None else math.inf, limit.per)


class CountingWindow:
    """At most `requests` in any `per` seconds: exact for sliding windows, safe for fixed ones."""

    def __init__(self, requests: float, per: float) -> None:
        self._requests = requests
        self._per = per
        self._in_flight = 0
        self._frees: deque[float] = deque()  # when each settled slot comes back, oldest first

    def free_at(self, now: float) -> float:
        self._forget(now)
        if self._in_flight + len(self._frees) < self._requests:
            return now
        return self._frees[0] if self._frees else math.inf

    def take(self, now: float) -> None:
        self._forget(now)
        self._in_flight += 1

    def settle(self, now: float) -> None:
        self._in_flight -= 1
        self._frees.append(now + self._per)

    def restore(self) -> None:
        self._in_flight -= 1

    def used(self, now: float) -> int:
        self._forget(now)
        return self._in_flight + len(self._frees)

    def _forget(self, now: float) -> None:
        while self._frees and self._frees[0] <= now:
            self._frees.popleft()


class BucketWindow:
    """A bucket of `requests` tokens that refills evenly within `per` seconds."""

    def __init__(self, requests: int, per: float, now: float) -> None:
        self._capacity = requests
        self._rate = requests / per
        self._level = float(requests)
        self._in_flight = 0
        self._at = now

    def free_at(self, now: float) -> float:
        self._refill(now)
        if self._level >= 1 - _ROUNDING:
            return now
        if self._capacity - self._in_flight < 1:
            return math.inf
        return now + (1 - self._level) / self._rate

    def take(self, now: float) -> None:
        self._refill(now)
        self._level -= 1
        self._in_flight += 1

    def settle(self, now: float) -> None:
        self._refill(now)
        self._in_flight -= 1

    def restore(self) -> None:
        self._in_flight -= 1
        self._level += 1

    def used(self, now: float) -> int:
        self._refill(now)
        return self._capacity - math.floor(self._level)

    def _refill(self, now: float) -> None:
        self._level = min(float(self._capacity - self._in_flight), self._level + (now - self._at) * self._rate)
        self._at = now
