"""The limiter as several processes share it: as plain JSON and back with nothing lost, and what only sharing needs.

Its times are those of the store's clock. What is dumped is everything: a loaded limiter answers every later call as the
one that was dumped would have (settled slots come back up to a 5,000th of the window later, never earlier).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Literal, Self

from aistemsplitter_async._gate.limiter import Limiter
from aistemsplitter_async._gate.quotas import Quotas
from aistemsplitter_async._gate.window import BucketWindow, CountingWindow
from aistemsplitter_async.config import RateLimit, RetryPolicy

_MOST_IN_FLIGHT = 1_000_000  # a text that says more is none
Declared = tuple[
    Any, ...
]  # a `RateLimit` as plain JSON: requests, per, policy, then per and requests of each further one


class SharedLimiter(Limiter):
    """A limiter that can be dumped and loaded, on another clock too."""

    def dump(self) -> list[Any]:
        """Return the whole state as plain JSON."""
        return [
            dump_limit(self._declared),
            self._counted.dump(),
            None if self._bucket is None else self._bucket.dump(),
            self.quotas.dump(),
            [None if math.isinf(at) else at for at in (self.closed_until, self._refused_at, self._paced_at)],
            *(self.believed, self._ceiling, self._named, self.per, self._refusals, self._accepted, self._paced_for),
            *(self._searching, self._refused_within_limit, self._may_be_too_low, self._latency, self.changes),
        ]

    @classmethod
    def load(cls, dumped: Sequence[Any], retry: RetryPolicy, *, shift: float = 0.0) -> Self:
        """Return a limiter as it was dumped.

        Args:
            dumped: what `dump` returned, also after a trip through JSON.
            retry: as for a new one.
            shift: seconds that are added to every time, to look at it on another clock.

        Raises:
            TypeError, ValueError, OverflowError, ArithmeticError: it is not of that form.
            ConfigurationError: the declared limit is none.
        """
        declared, counted, bucket, quotas, (closed_until, refused_at, paced_at), *rest = dumped
        limiter = cls(load_limit(tuple(declared)), retry, now=0.0)
        limiter._counted = CountingWindow.load(counted)
        limiter._bucket = None if bucket is None else BucketWindow.load(bucket)
        limiter.quotas = Quotas.load(quotas)
        limiter.closed_until, limiter._refused_at, limiter._paced_at = map(_past, (closed_until, refused_at, paced_at))
        believed, ceiling, named, per, refusals, accepted, paced_for, *rest = rest
        limiter.believed, limiter._ceiling = _count(believed), _count(ceiling)
        limiter._named = None if named is None else (int(named[0]), float(named[1]))
        limiter.per, limiter._paced_for = float(per), float(paced_for)
        limiter._refusals, limiter._accepted = int(refusals), int(accepted)
        searching, refused_within_limit, may_be_too_low, latency, changes = rest
        limiter._searching, limiter._refused_within_limit = bool(searching), bool(refused_within_limit)
        limiter._may_be_too_low, limiter._latency, limiter.changes = bool(may_be_too_low), float(latency), int(changes)
        limiter._check()
        if shift:
            limiter.shift(shift)
        return limiter

    def _check(self) -> None:
        """Raise `ValueError` if no limiter can be so."""
        counts = (self.believed or 1, self._ceiling or 1, *(self._named or (1,)), self.per, self._paced_for)
        if min(counts) <= 0 or self.per != self._counted.per or self._counted.requests < 1:
            raise ValueError(counts)
        if not 0 <= self.in_flight <= _MOST_IN_FLIGHT:
            raise ValueError(counts)

    def shift(self, seconds: float) -> None:
        """Move all times to another clock."""
        self._counted.shift(seconds)
        self.quotas.shift(seconds)
        if self._bucket is not None:
            self._bucket.shift(seconds)
        self.closed_until += seconds
        self._refused_at += seconds
        self._paced_at += seconds

    @property
    def latency(self) -> float:
        """Seconds from sending to the reply, smoothed."""
        return self._latency

    @property
    def at_once(self) -> int:
        """How many requests may be in flight."""
        return self._at_once()

    @property
    def room(self) -> int:
        """How many more may be in flight."""
        return max(0, self._at_once() - self.in_flight)

    def settle_late(self, now: float, *, sent: float, age: float) -> None:
        """Settle a request whose reply came `age` seconds ago."""
        self.settle(now, sent=sent)
        self._counted.backdate(age)

    def occupy(self, age: float, now: float) -> None:
        """Count a request that was answered `age` seconds ago, and for which no slot was taken."""
        self._counted.occupy([age], now)
        self.quotas.occupy(1, age, now)

    def reap(self, count: int, age: float, now: float) -> None:
        """Settle `count` requests of a process that died: they may have been sent until `age` seconds ago."""
        self.changes += 1
        for _ in range(count):
            self._counted.restore()
            if self._bucket is not None:
                self._bucket.settle(now)
        self._counted.occupy([age] * count, now)
        self.quotas.reap(count, age, now)

    def restart(self, now: float) -> None:
        """Start a new clock: what was learned holds, and the window counts as full once."""
        in_use = self._counted.used(-math.inf)
        full = in_use if self.believed is None else max(in_use, self.believed)
        self._counted.in_flight = 0
        self._counted.fill(full, now)
        self.quotas.fill(self.believed or 0, now)
        if self._bucket is not None:
            self._bucket.restart(now)
        self.closed_until = self._paced_at = -math.inf
        self._refused_at = now  # so that a higher limit is not searched for at once
        self._accepted = 0  # a probe first, in case the gate was closed

    def declare(self, limit: RateLimit, now: float) -> None:
        """Keep `limit` as the declared one from now on, and what was learned below it."""
        if limit == self._declared:
            return
        self.changes += 1
        self.quotas.declare(limit.further, now, in_flight=self.in_flight, ages=self._counted.settled_ages(now))
        was_ceiling, self._declared = self._ceiling, limit
        requests, per = limit.requests, limit.per
        if self._named is not None and (requests is None or self._named[0] / self._named[1] < requests / per):
            requests, per = self._named
        if requests is None:
            per = self.per
        elif per != self.per:
            self.per = per
            self._counted.set_per(per)
        self._ceiling = requests
        self._searching = False
        self._change_policy(limit, now)
        if requests is None:
            self._refused_at = max(self._refused_at, now)
        elif self.believed is None or self.believed > requests or self.believed == was_ceiling:
            self._believe(requests, now)

    def _change_policy(self, limit: RateLimit, now: float) -> None:
        is_bucket = limit.policy == "bucket" and limit.requests is not None
        if is_bucket and not self._is_bucket and limit.requests:
            self._bucket = BucketWindow(limit.requests, limit.per, now)
            for _ in range(self.used(now)):
                self._bucket.take(now)
            self._bucket.in_flight = self.in_flight
        elif self._is_bucket and not is_bucket:
            self._bucket = None
        self._is_bucket = is_bucket


def dump_limit(limit: RateLimit) -> Declared:
    """Return `limit` as plain JSON."""
    further = (value for other in limit.further for value in (other.per, other.requests))
    return (limit.requests, limit.per, limit.policy, *further)


@lru_cache(maxsize=64)
def load_limit(dumped: Declared) -> RateLimit:
    """Return the limit that was dumped."""
    requests, per, policy, *rest = dumped
    further = tuple(RateLimit(int(count), float(window)) for window, count in zip(rest[::2], rest[1::2], strict=True))
    return RateLimit(_count(requests), float(per), policy, further=further)


def strictest(limits: Iterable[RateLimit]) -> RateLimit:
    """Return one limit that holds all of `limits`: the lowest rate, and of every other window the least requests."""
    distinct = list(dict.fromkeys(limits))
    if len(distinct) == 1:
        return distinct[0]
    known = [limit for limit in distinct if limit.requests is not None]
    least: dict[float, int] = {}
    for limit in (one for whole in distinct for one in (whole, *whole.further)):
        if limit.requests is not None:
            least[limit.per] = min(limit.requests, least.get(limit.per, limit.requests))
    if not known:
        per = max(limit.per for limit in distinct)
        return RateLimit(per=per, further=_windows(least, but=per))
    first = min(known, key=lambda limit: (least[limit.per] / limit.per, limit.policy != "window"))
    same = [limit.policy for limit in known if limit.per == first.per]
    policy: Literal["window", "bucket"] = "window" if "window" in same else "bucket"
    return RateLimit(least[first.per], first.per, policy, further=_windows(least, but=first.per))


def _windows(least: dict[float, int], *, but: float) -> tuple[RateLimit, ...]:
    return tuple(RateLimit(requests, per) for per, requests in sorted(least.items()) if per != but)


def _past(at: float | None) -> float:
    return -math.inf if at is None else float(at)


def _count(number: int | None) -> int | None:
    return None if number is None else int(number)
