"""The per-key limit: counts requests in a window, by the four policies that real services use.

The service publishes neither its number nor its policy, so a client has to be right under each:

- `fixed`: counts restart at zero every `minute`, counted from the sandbox's start.
- `sliding`: at most `limit` requests in *any* period of a `minute` (a log of times).
- `counter`: sliding-window counter, the last window's count weighted by how much of it still overlaps.
- `bucket`: `limit` tokens are added evenly over a `minute`, and up to `burst` of them are kept.

A refused request consumes nothing under any of them.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final, Protocol

import attrs


@attrs.frozen
class Verdict:
    """A window's decision on one request. Delays are seconds from then."""

    admitted: bool
    limit: int
    remaining: int
    retry_after: float
    """Until the next request could be admitted; 0.0 if one could be now."""
    reset_after: float
    """Until the whole budget is available again, if nothing is sent."""


class Window(Protocol):
    """One key's budget."""

    def admit(self, now: float, *, take: bool = True) -> Verdict:
        """Admit or refuse a request at monotonic time `now`; count an admitted one, unless `take` is false."""
        ...


class _Counts:
    """Counts the requests admitted in the present window and in the one before."""

    def __init__(self, limit: int, minute: float, origin: float) -> None:
        self._limit = limit
        self._minute = minute
        self._origin = origin
        self._index = 0
        self._count = 0
        self._last = 0

    def _enter(self, now: float) -> float:
        """Begin the window of `now`, if it is a new one; return the seconds passed in it."""
        index = math.floor((now - self._origin) / self._minute)
        if index != self._index:
            self._last = self._count if index == self._index + 1 else 0
            self._index, self._count = index, 0
        return now - (self._origin + index * self._minute)


class FixedWindow(_Counts):
    """Counts from zero in each window."""

    def admit(self, now: float, *, take: bool = True) -> Verdict:
        """See `Window`."""
        rest = self._minute - self._enter(now)
        admitted = self._count < self._limit
        self._count += admitted and take
        remaining = self._limit - self._count
        return Verdict(admitted, self._limit, remaining, rest if not remaining else 0.0, rest)


class SlidingWindow:
    """Keeps the time of each request; exact, and the strictest of the four."""

    def __init__(self, limit: int, minute: float) -> None:
        self._limit = limit
        self._minute = minute
        self._times: deque[float] = deque()

    def admit(self, now: float, *, take: bool = True) -> Verdict:
        """See `Window`."""
        times = self._times
        while times and times[0] + self._minute <= now:
            times.popleft()
        admitted = len(times) < self._limit
        if admitted and take:
            times.append(now)
        remaining = self._limit - len(times)
        retry = times[0] + self._minute - now if not remaining else 0.0
        reset = times[-1] + self._minute - now if times else 0.0
        return Verdict(admitted, self._limit, remaining, retry, reset)


class CounterWindow(_Counts):
    """Two counts, the older one fading; edge networks use it because it needs no log."""

    def admit(self, now: float, *, take: bool = True) -> Verdict:
        """See `Window`."""
        passed = self._enter(now)
        faded = self._last * (1 - passed / self._minute)
        admitted = faded + self._count + 1 <= self._limit
        self._count += admitted and take
        remaining = max(0, math.floor(self._limit - faded - self._count))
        retry = self._until_room(passed) if not remaining else 0.0
        return Verdict(admitted, self._limit, remaining, retry, 2 * self._minute - passed)

    def _until_room(self, passed: float) -> float:
        room = self._limit - self._count - 1
        if room >= 0 and self._last:
            overlap = room / self._last  # the older count may weigh at most this share
            if overlap < 1:
                return max(0.0, self._minute * (1 - overlap) - passed)
        # Nothing more fits in this window; in the next one this window's own count has to fade.
        fade = self._minute * (1 - (self._limit - 1) / self._count) if self._count else 0.0
        return self._minute - passed + max(0.0, fade)


class BucketWindow:
    """A token bucket. A burst below the limit refuses a client that sends a minute's requests at once."""

    def __init__(self, limit: int, minute: float, burst: int, origin: float) -> None:
        self._limit = limit
        self._rate = limit / minute
        self._burst = burst
        self._tokens = float(burst)
        self._at = origin

    def admit(self, now: float, *, take: bool = True) -> Verdict:
        """See `Window`."""
        self._tokens = min(float(self._burst), self._tokens + (now - self._at) * self._rate)
        self._at = now
        admitted = self._tokens >= 1 - 1e-9  # tenths of a token may not add up to exactly one
        if admitted and take:
            self._tokens = max(0.0, self._tokens - 1)
        remaining = math.floor(self._tokens + 1e-9)
        retry = (1 - self._tokens) / self._rate if not remaining else 0.0
        return Verdict(admitted, self._limit, remaining, retry, (self._burst - self._tokens) / self._rate)


POLICIES: Final = ("fixed", "sliding", "counter", "bucket")


def build_window(policy: str, *, limit: int, minute: float, burst: int | None = None, origin: float = 0.0) -> Window:
    """Return an empty window.

    Args:
        policy: One of `POLICIES`.
        limit: Requests per `minute`, at least 1.
        minute: Length of the window in seconds, more than zero.
        burst: Size of a `bucket`; `limit` if not given. No other policy takes it.
        origin: Monotonic time from which fixed windows are counted.

    Raises:
        ValueError: An argument is out of its range.
    """
    if limit < 1 or not minute > 0 or (burst is not None and burst < 1):
        raise ValueError("limit and burst must be at least 1 and minute more than 0")
    if burst is not None and policy != "bucket":
        raise ValueError("only the bucket policy has a burst")
    match policy:
        case "fixed":
            return FixedWindow(limit, minute, origin)
        case "sliding":
            return SlidingWindow(limit, minute)
        case "counter":
            return CounterWindow(limit, minute, origin)
        case "bucket":
            return BucketWindow(limit, minute, limit if burst is None else burst, origin)
        case _:
            raise ValueError(f"window must be one of {', '.join(POLICIES)}, not {policy!r}")
