"""Limits of one key besides the one that is learned: a day, an hour or a second next to the minute, all kept at once.

Each is a sliding window like the minute's: a slot comes back one window after its reply. A window may be long, so slots
that come back within a thousandth of it are kept as one, which is never too early.

A limit that replies name also says how many requests remain, other clients counted. That number is exact if nothing
of ours was answered while its request was under way: then the server may also have freed slots before we would. Else
it can only take slots. Where the server says when there will be more, one request asks at that moment, and one every
hour in any case. What no reply has named for a whole window of its own is forgotten.

All times are monotonic seconds and must not run backwards.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Self

from aistemsplitter_async._gate.memory import LONGEST_WINDOW, MOST_QUOTAS, QuotaMemory
from aistemsplitter_async._gate.quota import Quota
from aistemsplitter_async._gate.rate_headers import RateAdvice
from aistemsplitter_async._gate.snapshot import LimitUse
from aistemsplitter_async.config import RateLimit


class Quotas:
    """All such limits of a key: a request needs a slot of each."""

    def __init__(self, declared: Iterable[RateLimit], *, now: float) -> None:
        self._quotas = {
            limit.per: Quota(limit.requests, limit.per, declared=True, now=now)
            for limit in declared
            if limit.requests is not None
        }

    def free_at(self, now: float, *, spare: int = 0, per: float = 0.0) -> float:
        """Return when a slot is free in each, and `spare` more in those whose window is not shorter than `per`."""
        return max(
            (quota.free_at(now, spare=spare if quota.per >= per else 0) for quota in self._kept(now)), default=now
        )

    def free_within(self, now: float, seconds: float) -> float:
        """Return how many requests all of them allow in the next `seconds`: infinity if there is none."""
        return min((quota.free_within(now, seconds) for quota in self._kept(now)), default=math.inf)

    def is_full(self, now: float) -> bool:
        """Return whether one of them has no slot left, so that a refusal says nothing about other limits."""
        return any(quota.used(now) >= quota.requests for quota in self._kept(now))

    def take(self, now: float) -> None:
        self._quotas = {quota.per: quota for quota in self._kept(now)}
        for quota in self._quotas.values():
            quota.take(now)

    def settle(self, now: float) -> None:
        for quota in self._quotas.values():
            quota.settle(now)

    def restore(self) -> None:
        for quota in self._quotas.values():
            quota.restore()

    def window_of(self, requests: int) -> float | None:
        """Return the window of the limit of so many requests, if there is one: not every reply can tell it."""
        return next((per for per, quota in self._quotas.items() if quota.requests == requests), None)

    def adopt(
        self, limits: Iterable[RateAdvice], now: float, *, sent: float, in_flight: int, ages: list[float]
    ) -> None:
        """Keep the limits that a reply names, but none that is higher than declared.

        Args:
            limits: with their windows.
            now: monotonic seconds.
            sent: when the reply's request was sent.
            in_flight: requests under way.
            ages: seconds since the replies that are known, for a limit that is new.
        """
        for limit in limits:
            if limit.requests is None or limit.per is None or not 0 < limit.per <= LONGEST_WINDOW:
                continue
            quota = self._quotas.get(limit.per)
            if quota is None:
                if len(self._quotas) >= MOST_QUOTAS:
                    continue
                quota = self._add(limit.requests, limit.per, now, in_flight)
                quota.occupy(((age, 1) for age in sorted(ages, reverse=True) if age < limit.per), now)
            quota.note(limit, now, sent=sent)

    def uses(self, now: float) -> tuple[LimitUse, ...]:
        """Return how much of each is in use, the shortest window first."""
        return tuple(
            LimitUse(quota.requests, quota.used(now), quota.per)
            for quota in sorted(self._kept(now), key=lambda quota: quota.per)
        )

    def export(self, now: float) -> tuple[QuotaMemory, ...]:
        """Return the states that should survive a restart."""
        return tuple(quota.export(now) for quota in self._quotas.values())

    def recall(self, memories: Iterable[QuotaMemory], now: float, *, in_flight: int) -> None:
        """Restore exported states: the slots in use, and what replies had named, as long as it may still hold."""
        for memory in memories:
            quota = self._quotas.get(memory.per)
            if quota is None and memory.named <= memory.per and len(self._quotas) < MOST_QUOTAS:
                quota = self._add(memory.requests, memory.per, now, in_flight)
                quota.named_at = now - memory.named
            if quota is not None:
                quota.recall(memory.slots, now)

    def declare(self, limits: Iterable[RateLimit], now: float, *, in_flight: int, ages: list[float]) -> None:
        """Keep these limits as the declared ones. The others hold only as long as replies name them.

        `in_flight` and `ages` are those of `adopt`, for a limit that is new.
        """
        declared = {limit.per: limit.requests for limit in limits if limit.requests is not None}
        for quota in self._quotas.values():
            quota.declare(declared.get(quota.per))
        for per, requests in declared.items():
            if per not in self._quotas:
                quota = self._add(requests, per, now, in_flight)
                quota.declare(requests)
                quota.occupy(((age, 1) for age in sorted(ages, reverse=True) if age < per), now)

    def reap(self, count: int, age: float, now: float) -> None:
        """Settle `count` slots, as if their replies had come `age` seconds ago."""
        for quota in self._quotas.values():
            quota.in_flight -= count
        self.occupy(count, age, now)

    def occupy(self, count: int, age: float, now: float) -> None:
        """Count `count` requests that were answered `age` seconds ago."""
        for quota in self._quotas.values():
            quota.occupy([(age, count)], now)

    def fill(self, count: int, now: float) -> None:
        """Count all slots in use and `count` more as if their replies came now."""
        for quota in self._quotas.values():
            quota.fill(count, now)

    def shift(self, seconds: float) -> None:
        """Move all times to another clock."""
        for quota in self._quotas.values():
            quota.shift(seconds)

    def dump(self) -> list[list[Any]]:
        """Return the whole state as plain JSON."""
        return [quota.dump() for quota in self._quotas.values()]

    @classmethod
    def load(cls, dumped: Sequence[Sequence[Any]]) -> Self:
        """Return the limits as they were dumped."""
        quotas = cls((), now=0.0)
        quotas._quotas = {quota.per: quota for quota in map(Quota.load, dumped)}
        return quotas

    def _add(self, requests: int, per: float, now: float, in_flight: int) -> Quota:
        quota = self._quotas[per] = Quota(requests, per, declared=False, now=now)
        quota.in_flight = in_flight
        return quota

    def _kept(self, now: float) -> list[Quota]:
        return [quota for quota in self._quotas.values() if quota.is_kept(now)]
