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
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Self

import attrs

from aistemsplitter_async._gate.memory import LONGEST_WINDOW, MOST_QUOTAS, QuotaMemory
from aistemsplitter_async._gate.rate_headers import RateAdvice
from aistemsplitter_async._gate.snapshot import LimitUse
from aistemsplitter_async.config import LONGEST_CLOSED, RateLimit

_GRAIN = 1e-3  # of the window, within which slots are kept as one


@attrs.define
class _Batch:
    first: float  # when the first of its slots would come back
    back: float  # when all of them do
    count: int


class Quota:
    """At most `requests` in any `per` seconds. `declared` limits are never forgotten, raised, nor exceeded to ask."""

    def __init__(self, requests: int, per: float, *, declared: bool, now: float) -> None:
        self.requests = requests
        self._most = requests if declared else math.inf
        self.per = per
        self.declared = declared
        self.named_at = now
        self.in_flight = 0
        self._batches = deque[_Batch]()
        self._settled = 0
        self._others = 0  # slots used by other clients, as far as known
        self._others_until = -math.inf
        self._changed_at = -math.inf  # when a reply last changed what is in use
        self._ask_at = math.inf  # when the server said that there will be more
        self._taken_at = now
        self._is_told = False  # what remains, by a reply

    def is_kept(self, now: float) -> bool:
        """Return whether it still holds: what no reply has named for a whole window is forgotten."""
        return self.declared or self.in_flight > 0 or now - self.named_at <= self.per

    def used(self, now: float) -> int:
        """Return how many slots are occupied, also by others."""
        self._forget(now)
        return self.in_flight + self._settled + self._others

    def free_at(self, now: float, *, spare: int = 0) -> float:
        """Return when a slot and `spare` more are free: `now` if at once, infinity if only after a reply."""
        missing = self.used(now) + 1 + min(spare, self.requests - 1) - self.requests
        if missing <= 0:
            return now
        at = self._back_at(missing)
        if self.declared or self.in_flight:
            return at
        return max(now, min(at, self._ask_at, self._taken_at + LONGEST_CLOSED))

    def free_within(self, now: float, seconds: float) -> float:
        """Return how many requests may be sent in the next `seconds`; beyond one window, the mean rate."""
        free = self.requests - self.used(now)
        back = sum(batch.count for batch in self._batches if batch.back <= now + seconds)
        back += self._others if self._others_until <= now + seconds else 0
        later = self.requests * (seconds / self.per - 1) if seconds > self.per else 0.0
        return max(0.0, free + back + later)

    def take(self, now: float) -> None:
        self.in_flight += 1
        self._taken_at = now
        if self._ask_at <= now:
            self._ask_at = math.inf

    def settle(self, now: float) -> None:
        self.in_flight -= 1
        self._changed_at = now
        self.occupy([(0.0, 1)], now)

    def restore(self) -> None:
        self.in_flight -= 1

    def occupy(self, slots: Iterable[tuple[float, int]], now: float) -> None:
        """Occupy slots, given how long ago their replies came and how many these were, the oldest first."""
        for age, count in slots:
            back = now - age + self.per
            last = self._batches[-1] if self._batches else None
            if last is not None and back - last.first <= _GRAIN * self.per:
                last.back = max(last.back, back)
                last.count += count
            else:
                self._batches.append(_Batch(back, back, count))
            self._settled += count

    def declare(self, requests: int | None) -> None:
        """Never allow more than `requests`; `None`: as many as replies name."""
        if requests != (self._most if self.declared else None):
            self.declared = requests is not None
            self._most = math.inf if requests is None else requests
            self.requests = self.requests if requests is None else requests

    def note(self, advice: RateAdvice, now: float, *, sent: float) -> None:
        """Note what a reply says; its own request was sent at `sent`, and is still in flight here."""
        self.named_at = now
        if advice.requests is not None:
            self.requests = int(min(self._most, advice.requests))
        if advice.remaining is None:
            return
        self._is_told = True
        self._forget(now)
        reset = min(self.per, advice.reset or self.per)
        known = self.requests - advice.remaining - (1 if advice.remaining else 0)
        is_exact = sent >= self._changed_at
        if is_exact:
            self._release(self._settled - max(0, known))
        others = max(0, known - self._settled)
        self._others = others if is_exact else max(self._others, others)
        self._others_until = now + reset
        self._changed_at = now
        self._ask_at = now + reset if advice.remaining == 0 and advice.reset else math.inf

    def recall(self, slots: Iterable[tuple[float, int]], now: float) -> None:
        """Occupy slots of an earlier run. What a reply of this one has said of others includes them."""
        self._forget(now)
        earlier = [(age, count) for age, count in slots if age < self.per]
        own = [(now - batch.back + self.per, batch.count) for batch in self._batches]
        self._batches.clear()
        self._settled = 0
        self.occupy(sorted([*earlier, *own], reverse=True), now)
        if self._is_told:
            count = sum(count for _, count in earlier)
            self._release(count - self._others)
            self._others = max(0, self._others - count)

    def export(self, now: float) -> QuotaMemory:
        """Return the state that should survive a restart."""
        self._forget(now)
        slots = [(now - batch.back + self.per, batch.count) for batch in self._batches]
        if self._others:
            slots.insert(0, (now - self._others_until + self.per, self._others))
        slots += [(0.0, self.in_flight)] * bool(self.in_flight)
        return QuotaMemory(requests=self.requests, per=self.per, slots=tuple(slots), named=now - self.named_at)

    def fill(self, count: int, now: float) -> None:
        """Count all occupied slots and `count` more as if their replies came now, as far as there are so many."""
        count = min(self.requests, self.in_flight + self._settled + self._others + count)
        self.in_flight = self._settled = self._others = 0
        self._batches.clear()
        self.occupy([(0.0, count)], now)
        self._taken_at = self.named_at = now
        self._changed_at, self._ask_at = now, math.inf

    def shift(self, seconds: float) -> None:
        """Move all times to another clock."""
        for batch in self._batches:
            batch.first += seconds
            batch.back += seconds
        self.named_at += seconds
        self._taken_at += seconds
        self._others_until += seconds
        self._changed_at += seconds
        self._ask_at += seconds

    def dump(self) -> list[Any]:
        """Return the whole state as plain JSON."""
        times = self.named_at, self._taken_at, self._others_until, self._changed_at, self._ask_at
        return [
            *(self.requests, self.per, self._most if self.declared else 0, self.in_flight, self._others, self._is_told),
            [at if math.isfinite(at) else None for at in times],
            [number for batch in self._batches for number in (batch.first, batch.back, batch.count)],
        ]

    @classmethod
    def load(cls, dumped: Sequence[Any]) -> Self:
        """Return a limit as it was dumped."""
        requests, per, declared, in_flight, others, is_told, times, batches = dumped  # 0: not declared
        named, taken, others_until, changed, ask = (None if at is None else float(at) for at in times)
        quota = cls(int(declared or requests), float(per), declared=bool(declared), now=named or 0.0)
        quota.requests = int(requests)
        quota.in_flight, quota._others, quota._is_told = int(in_flight), int(others), bool(is_told)
        quota._taken_at = taken or 0.0
        quota._others_until = -math.inf if others_until is None else others_until
        quota._changed_at = -math.inf if changed is None else changed
        quota._ask_at = math.inf if ask is None else ask
        numbers = iter(batches)
        for first, back, count in zip(numbers, numbers, numbers, strict=True):
            quota._batches.append(_Batch(float(first), float(back), int(count)))
            quota._settled += int(count)
        return quota

    def _back_at(self, missing: int) -> float:
        returns = [(batch.back, batch.count) for batch in self._batches] + [(self._others_until, self._others)]
        for back, count in sorted(returns):
            missing -= count
            if missing <= 0:
                return back
        return math.inf

    def _release(self, count: int) -> None:
        while count > 0 and self._batches:
            freed = min(count, self._batches[0].count)
            self._batches[0].count -= freed
            self._settled -= freed
            count -= freed
            if not self._batches[0].count:
                self._batches.popleft()

    def _forget(self, now: float) -> None:
        while self._batches and self._batches[0].back <= now:
            self._settled -= self._batches.popleft().count
        if self._others_until <= now:
            self._others = 0


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
