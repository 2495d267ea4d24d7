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
from collections.abc import Iterable

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

    def _add(self, requests: int, per: float, now: float, in_flight: int) -> Quota:
        quota = self._quotas[per] = Quota(requests, per, declared=False, now=now)
        quota.in_flight = in_flight
        return quota

    def _kept(self, now: float) -> list[Quota]:
        return [quota for quota in self._quotas.values() if quota.is_kept(now)]
