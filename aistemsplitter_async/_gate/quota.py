"""One further limit: a sliding window whose slots are kept in batches, with what replies said of it.

All times are monotonic seconds and must not run backwards.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Self

import attrs

from aistemsplitter_async._gate.memory import QuotaMemory
from aistemsplitter_async._gate.rate_headers import RateAdvice
from aistemsplitter_async._gate.window import grain_of, pack_times, unpack_times
from aistemsplitter_async.config import LONGEST_CLOSED

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
        named = 0.0 if self.declared else now - self.named_at
        return QuotaMemory(requests=self.requests, per=self.per, slots=tuple(slots), named=named)

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
        """Return the whole state as plain JSON. Slots come back up to a 5,000th of the window later, never earlier."""
        times = self.named_at, self._taken_at, self._others_until, self._changed_at, self._ask_at
        return [
            *(self.requests, self.per, self._most if self.declared else 0, self.in_flight, self._others, self._is_told),
            [at if math.isfinite(at) else None for at in times],
            self._batches[-1].first if self._batches else None,
            pack_times([batch.back for batch in self._batches], grain_of(self.per)),
            [batch.count for batch in self._batches],
        ]

    @classmethod
    def load(cls, dumped: Sequence[Any]) -> Self:
        """Return a limit as it was dumped."""
        requests, per, declared, in_flight, others, is_told, times, first, backs, counts = dumped  # 0: not declared
        named, taken, others_until, changed, ask = (None if at is None else float(at) for at in times)
        quota = cls(int(declared or requests), float(per), declared=bool(declared), now=named or 0.0)
        quota.requests = int(requests)
        quota.in_flight, quota._others, quota._is_told = int(in_flight), int(others), bool(is_told)
        quota._taken_at = taken or 0.0
        quota._others_until = -math.inf if others_until is None else others_until
        quota._changed_at = -math.inf if changed is None else changed
        quota._ask_at = math.inf if ask is None else ask
        for back, count in zip(unpack_times(backs, grain_of(quota.per)), counts, strict=True):
            quota._batches.append(_Batch(back, back, int(count)))
            quota._settled += int(count)
        if quota._batches:
            quota._batches[-1].first = float(first)
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
