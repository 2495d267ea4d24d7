"""The key's budget: when may the next request be sent?

A slot is taken before sending and comes back one window after the reply *arrived* (or the attempt was aborted). The
server counted the request at some moment between the two, so neither a fixed nor a sliding window of the same length
can ever contain more than the limit, at any latency.

A bucket is modelled in the same conservative way: its level refills only up to the capacity minus the requests in
flight, so the model never has more tokens than the server.

All times are monotonic seconds and must not run backwards.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import accumulate, chain, compress, repeat
from operator import mul, sub
from typing import Any, Self

from aistemsplitter_async._gate.packed_times import PackedTimes

_GRAINS = 2.0**13  # of a window, to which dumped times are rounded up: 7.8 ms of a minute
_ROUNDING = 1e-9  # tokens; a level that should be exactly one may differ in the last bits of a float


class CountingWindow:
    """At most `requests` in any `per` seconds: exact for sliding windows, safe for fixed ones."""

    def __init__(self, requests: float, per: float) -> None:
        self.requests = requests
        self.in_flight = 0
        self.per = per
        self._frees: deque[float] | PackedTimes = deque()  # when each settled slot comes back, oldest first

    def free_at(self, now: float, *, spare: int = 0) -> float:
        """Return when a slot and `spare` more are free: `now` or earlier if at once, infinity if only after a reply."""
        self._forget(now)
        spare = min(spare, max(0, math.ceil(self.requests) - 1)) if math.isfinite(self.requests) else 0
        excess = self.in_flight + len(self._frees) + spare - self.requests
        if excess < 0:
            return now
        # If the limit was lowered, several slots must come back before one is free.
        return self._frees[int(excess)] if excess < len(self._frees) else math.inf

    def free_within(self, now: float, seconds: float) -> float:
        """Return how many requests may be sent in the next `seconds`; beyond one window, the mean rate."""
        self._forget(now)
        back = bisect_right(self._frees, now + seconds)
        later = self.requests * (seconds / self.per - 1) if seconds > self.per else 0.0
        return max(0.0, self.requests - self.in_flight - len(self._frees) + back + later)

    def take(self, now: float) -> None:
        self._forget(now)
        self.in_flight += 1

    def settle(self, now: float) -> None:
        self.in_flight -= 1
        self._frees.append(now + self.per)

    def refuse(self) -> None:
        """Note that the server refused a request, and so did not count it."""
        self.in_flight -= 1

    def restore(self) -> None:
        self.in_flight -= 1

    def set_per(self, per: float) -> None:
        """Change the length of the window, also for slots that are occupied now."""
        self._frees = deque(at - self.per + per for at in self._frees)
        self.per = per

    def ages(self, now: float) -> list[float]:
        """Return the seconds since the reply of each occupied slot arrived; 0 for requests in flight."""
        return self.settled_ages(now) + [0.0] * self.in_flight

    def settled_ages(self, now: float) -> list[float]:
        """Return the same without requests in flight."""
        self._forget(now)
        return [now - at + self.per for at in self._frees]

    def occupy(self, ages: Iterable[float], now: float) -> None:
        """Occupy slots of another process or an earlier run, given the seconds since their replies arrived."""
        self._frees = deque(sorted([*self._frees, *(now - age + self.per for age in ages)]))
        self._forget(now)

    def accepted(self, now: float) -> int:
        """Return how many requests were accepted within the trailing window."""
        self._forget(now)
        return len(self._frees)

    def used(self, now: float) -> int:
        return self.in_flight + self.accepted(now)

    def backdate(self, seconds: float) -> None:
        """Note that the reply of the slot settled last had come so many seconds before; less than none is later."""
        at = self._frees.pop() - seconds
        self._frees.insert(bisect_right(self._frees, at), at)

    def fill(self, count: int, now: float) -> None:
        """Occupy `count` slots as if their replies came now, in the place of those that are occupied."""
        self._frees = deque([now + self.per]) * count

    def shift(self, seconds: float) -> None:
        """Move all times to another clock."""
        if isinstance(self._frees, PackedTimes):
            self._frees.shift(seconds)
        else:
            self._frees = deque([at + seconds for at in self._frees])

    def dump(self) -> list[Any]:
        """Return the whole state as plain JSON. Slots come back up to a 5,000th of the window later, never earlier."""
        requests = self.requests if math.isfinite(self.requests) else None
        packed = self._frees
        if not isinstance(packed, PackedTimes):
            packed = PackedTimes(packed, grain_of(self.per))
        return [requests, self.per, self.in_flight, packed.dump()]

    @classmethod
    def load(cls, dumped: Sequence[Any]) -> Self:
        """Return a window as it was dumped."""
        requests, per, in_flight, frees = dumped
        window = cls(math.inf if requests is None else int(requests), float(per))
        window.in_flight = int(in_flight)
        if window.in_flight < 0:
            raise ValueError("no such window")
        window._frees = PackedTimes.load(frees, grain_of(window.per))
        return window

    def _forget(self, now: float) -> None:
        while self._frees and self._frees[0] <= now:
            self._frees.popleft()


class BucketWindow:
    """A bucket of `requests` tokens that refills evenly within `per` seconds."""

    def __init__(self, requests: int, per: float, now: float) -> None:
        self.in_flight = 0
        self._capacity = float(requests)
        self._rate = requests / per
        self._level = float(requests)
        self._at = now

    def free_at(self, now: float, *, spare: int = 0) -> float:
        """Return when there is a token and `spare` more, or as many as the bucket holds besides those in flight."""
        self._refill(now)
        room = self._capacity - self.in_flight
        if room < 1 - _ROUNDING:
            return math.inf
        missing = min(1.0 + spare, room) - self._level
        return now + missing / self._rate if missing > _ROUNDING else now

    def free_within(self, now: float, seconds: float) -> float:
        """Return how many requests may be sent in the next `seconds`."""
        self._refill(now)
        return max(0.0, self._level + seconds * self._rate)

    def take(self, now: float) -> None:
        self._refill(now)
        self._level -= 1
        self.in_flight += 1

    def settle(self, now: float) -> None:
        self._refill(now)
        self.in_flight -= 1

    def restore(self) -> None:
        self.in_flight -= 1
        self._level += 1

    def empty(self, now: float, *, capacity: float) -> None:
        """Start over with no tokens and a capacity of at most `capacity`: the server's bucket was empty."""
        self._refill(now)
        self._level = min(self._level, 0.0)
        self._capacity = min(self._capacity, capacity)

    def set_rate(self, rate: float, now: float, *, capacity: float) -> None:
        """Refill with `rate` tokens a second from now on, up to `capacity`."""
        self._refill(now)
        self._rate = rate
        self._capacity = capacity

    def full_in(self, now: float) -> float:
        """Return the seconds until it is full if nothing is sent."""
        self._refill(now)
        return (self._capacity - self._level) / self._rate

    def drain(self, seconds: float, now: float) -> None:
        """Remove the tokens of `seconds` of refill, so that it takes at least that long until it is full."""
        self._refill(now)
        self._level = min(self._level, self._capacity - seconds * self._rate)

    def restart(self, now: float) -> None:
        """Start over with no tokens on a new clock."""
        self.in_flight, self._level, self._at = 0, 0.0, now

    def shift(self, seconds: float) -> None:
        """Move all times to another clock."""
        self._at += seconds

    def dump(self) -> list[Any]:
        """Return the whole state as plain JSON."""
        return [self.in_flight, self._capacity, self._rate, self._level, self._at]

    @classmethod
    def load(cls, dumped: Sequence[Any]) -> Self:
        """Return a bucket as it was dumped."""
        in_flight, capacity, rate, level, at = dumped
        bucket = cls(1, 1.0, float(at))
        bucket.in_flight = int(in_flight)
        bucket._capacity, bucket._rate, bucket._level = float(capacity), float(rate), float(level)
        if not bucket._rate > 0 or bucket.in_flight < 0:
            raise ValueError("no such bucket")
        return bucket

    def _refill(self, now: float) -> None:
        refilled = self._level + (now - self._at) * self._rate
        self._level = max(self._level, min(self._capacity - self.in_flight, refilled))
        self._at = now


def pack_times(times: Sequence[float], grain: float) -> list[Any]:
    """Return ascending times, rounded up to grains: the first as a number, of each how many grains later it is."""
    if not times:
        return []
    first = math.ceil(times[0] / grain)
    later = map(sub, times, repeat(first * grain))  # small numbers are quicker, and exact as well
    grains = list(map(math.ceil, map(mul, later, repeat(1 / grain))))
    steps = [_STEPS[step] if step < _TABLED else _step(step) for step in map(sub, grains[1:], grains)]
    return [first, "".join(steps)]


def unpack_times(packed: Sequence[Any], grain: float) -> list[float]:
    """Return the times that were packed with this grain, a power of two: packing them again changes nothing.

    Raises:
        ValueError: they were not packed so.
    """
    if not packed:
        return []
    first, text = packed
    steps = text.encode("ascii").translate(_DECODED)
    if max(steps, default=0) > _FURTHER:
        raise ValueError("no such steps")
    at = accumulate(map(_FLOATS.__getitem__, steps), initial=float(first))
    kept = chain((True,), map(_FURTHER.__ne__, steps)) if _FURTHER in steps else None
    return list(map(mul, at if kept is None else compress(at, kept), repeat(grain)))


def _step(grains: int) -> str:
    further, rest = divmod(grains, _FURTHER)
    return "~" * further + _ALPHABET[rest]


_ALPHABET = "".join(map(chr, range(35, 126))).replace(
    "\\", ""
)  # a letter for up to 89 grains; JSON escapes none of them
_FURTHER = len(_ALPHABET)  # grains of a "~", which is no slot
_DECODED = bytes((_ALPHABET + "~").find(chr(code)) & 0xFF for code in range(256))
_FLOATS = [float(grains) for grains in range(_FURTHER + 1)]
_TABLED = 8 * _FURTHER
_STEPS = [_step(grains) for grains in range(_TABLED)]


def grain_of(per: float) -> float:
    """Return the seconds to which the times of a window of so many are rounded: a part of some 8,000."""
    return 2.0 ** round(math.log2(per)) / _GRAINS  # a power of two: exact, however often it is packed
