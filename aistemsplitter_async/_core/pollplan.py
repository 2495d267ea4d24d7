"""When to look at which running split.

Looks cost requests of the key, so they are made where they are likely to find something, and as often as the budget
allows beyond what creates need:

- Few splits: each is looked at whenever the time since its last look has grown to a share `g` of its age. The lag of a
  detection is then at most `g` of the processing time, whatever that is. `g` is as fine as the requests that are free
  until the splits should be done allow, but no finer than `PollPolicy.precision`.
- Many splits: each is looked at when it is done with probability `PollPolicy.confidence`, given that it was not at the
  last look. That comes to little more than one look a split.
- Nothing known yet: the oldest split goes ahead as a pathfinder, with looks at ages that double.

Times are monotonic seconds, passed in.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from itertools import count, islice

import attrs

from aistemsplitter_async._core.processing import ProcessingModel
from aistemsplitter_async._core.retry import Random
from aistemsplitter_async.config import PollPolicy

_FEW = 200  # splits up to which every one is weighed at every decision
_SAMPLE = 64  # running splits that the model is shown
_REDATED = 2  # entries brought up to date with every decision: the model moves while thousands wait
_EARLIEST = 0.02  # of the splits are done by the age at which looks begin
_LATEST = 0.95  # are done by the age until which the budget must last
_HEAD_START = 0.8  # of the earliest age: where the growing intervals are counted from
_COARSE = 0.5  # a share beyond which growing intervals say less than the odds
_SPENT = 0.74  # of the requests that are free: the rest is for what nobody foresaw


@attrs.frozen(kw_only=True)
class Budget:
    """What the gate has to give.

    Attributes:
        limit: requests per window, `None` if unknown.
        per: length of the window in seconds.
        used: slots occupied now.
        wanted: requests that wait and go first.
    """

    limit: int | None
    per: float
    used: int = 0
    wanted: int = 0

    def available(self, within: float) -> float:
        """Return how many requests can be spared in the next `within` seconds."""
        if self.limit is None:
            return math.inf
        returning = min(self.used, self.limit) * min(1.0, within / self.per)
        later = max(0.0, within - self.per) * self.limit / self.per
        return max(0, self.limit - self.used) + returning + later - self.wanted


@attrs.define(eq=False)
class Entry:
    """One running split."""

    split_id: str
    credits_used: float
    since: float  # when it was created
    jitter: float  # around 1
    lane: int  # 0 interactive, 1 bulk
    seen: float = 0.0  # age at which it was last seen running
    due: float = 0.0
    looking: bool = False  # a request for it is on its way


class PollPlan:
    """The running splits and when each is worth a request."""

    def __init__(self, policy: PollPolicy, *, random: Random) -> None:
        self._policy = policy
        self._random = random
        self.model = ProcessingModel()
        self._entries: dict[str, Entry] = {}
        # For many splits, a heap by due time per lane; of an entry's lines only the one with its due time counts.
        self._agendas: tuple[list[tuple[float, int, Entry]], ...] = ([], [])
        self._order = count()
        self._redating: Iterator[Entry] = iter(())

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, split_id: str, *, credits_used: float, since: float, lane: int = 0) -> None:
        """Begin to plan looks at a split that was created at `since`; `lane` 0 goes before 1."""
        jitter = 1 + self._policy.jitter * (2 * self._random() - 1)
        entry = Entry(split_id, credits_used, since, jitter, lane)
        self._entries[split_id] = entry
        self._date(entry, since + self._policy.first)

    def remove(self, split_id: str) -> None:
        """Forget a split."""
        self._entries.pop(split_id, None)

    def raise_lane(self, split_id: str) -> None:
        """Let a split go with the interactive ones."""
        entry = self._entries[split_id]
        if entry.lane:
            entry.lane = 0
            self._date(entry, entry.due)

    def note_looking(self, split_id: str) -> None:
        """Note that a request for a split is being sent: it is no candidate until what came of it is noted."""
        self._entries[split_id].looking = True

    def note_nothing(self, split_id: str, *, now: float) -> None:
        """Note that a look brought no answer: the next one may come soon."""
        entry = self._entries.get(split_id)
        if entry is not None:
            entry.looking = False
            self._date(entry, now + self._policy.shortest)

    def note_running(self, split_id: str, *, looked_at: float) -> None:
        """Note that a look sent at `looked_at` found the split still running."""
        entry = self._entries.get(split_id)
        if entry is None:
            return
        entry.looking = False
        entry.seen = max(entry.seen, looked_at - entry.since)
        if entry.seen > self.model.median(entry.credits_used):
            self.model.refit(self._sample())
        self._date(entry, self._due_when_sure(entry))

    def note_done(self, split_id: str, seconds: float) -> None:
        """Note that a split took the server `seconds`, and forget it."""
        entry = self._entries.pop(split_id, None)
        if entry is not None:
            self.model.learn(entry.credits_used, seconds, running=self._sample())

    def best(self, now: float, budget: Budget) -> Entry | None:
        """Return the split most worth a look at `now`, if any is."""
        top = self._weigh(now, budget) if len(self._entries) <= _FEW else self._top(now)
        return top if top is not None and top.due <= now else None

    def next_due(self) -> float:
        """Return when `best` may answer differently; ask it right after `best`."""
        if len(self._entries) <= _FEW:
            return min((entry.due for entry in self._entries.values() if not entry.looking), default=math.inf)
        return min((agenda[0][0] for agenda in self._agendas if agenda), default=math.inf)

    def _weigh(self, now: float, budget: Budget) -> Entry | None:
        """Date every entry by the budget there is now; return the one that is due first, interactive before bulk."""
        if not self._entries:
            return None
        share = self._affordable_share(now, budget)
        least = self._least_gap(budget)
        pathfinder = None if self.model.observations else min(self._entries.values(), key=lambda entry: entry.since)
        best = None
        for entry in self._entries.values():
            if entry.looking:
                continue
            entry.due = self._due_by_share(entry, share, least)
            if entry is pathfinder:
                entry.due = min(entry.due, entry.since + max(self._policy.first, 2 * entry.seen))
            if entry.due <= now and (best is None or (entry.lane, entry.due) < (best.lane, best.due)):
                best = entry
        return best

    def _due_by_share(self, entry: Entry, share: float, least: float) -> float:
        begin = self.model.quantile(entry.credits_used, _EARLIEST)
        counted_from = max(entry.seen, _HEAD_START * begin)
        gap = counted_from * share / (1 - share) * entry.jitter if share < 1 else math.inf
        regular = max(begin, counted_from + gap)
        if share > _COARSE:
            regular = min(regular, self._due_when_sure(entry) - entry.since)
        return entry.since + max(regular, entry.seen + least, self._policy.first)

    def _affordable_share(self, now: float, budget: Budget) -> float:
        """Return the share `g` that lasts: every look multiplies an age by 1/(1-g), so n splits that have ages to grow
        by the factors f cost the sum of ln(f)/-ln(1-g) looks."""
        growth = 0.0
        longest = 0.0
        for entry in self._entries.values():
            age = max(now - entry.since, self.model.quantile(entry.credits_used, _EARLIEST))
            last = self.model.quantile(entry.credits_used, _LATEST)
            growth += max(0.1, math.log(last / age))
            longest = max(longest, last - (now - entry.since), 0.3 * age)
        spare = _SPENT * (budget.available(longest) - len(self._entries))
        if spare <= 0:
            return 1.0
        return max(self._policy.precision, -math.expm1(-growth / spare))

    def _least_gap(self, budget: Budget) -> float:
        """Return the seconds between two looks at one split: it never takes more than its part of the budget."""
        if budget.limit is None:
            return self._policy.shortest
        return max(self._policy.shortest, budget.per / (budget.limit * self._policy.budget_share))

    def _due_when_sure(self, entry: Entry) -> float:
        """Return when the split is done with probability `confidence`, given that it was not when last seen."""
        model, credits_used = self.model, entry.credits_used
        before = model.fraction_done(credits_used, entry.seen) if entry.seen else 0.0
        fraction = before + self._policy.confidence * (1 - before)
        least = entry.seen * (1 + self._policy.precision) + self._policy.shortest
        return entry.since + max(model.quantile(credits_used, min(fraction, 1 - 1e-9)), least)

    def _top(self, now: float) -> Entry | None:
        for entry in self._next_to_redate():
            self._date(entry, self._due_when_sure(entry))
        for agenda in self._agendas:
            while agenda:
                due, _, entry = agenda[0]
                if self._entries.get(entry.split_id) is not entry or entry.looking or entry.due != due:
                    heapq.heappop(agenda)
                elif due > now:
                    break
                elif (right := self._due_when_sure(entry)) > now:
                    heapq.heappop(agenda)
                    self._date(entry, right)
                else:
                    return entry
        return None

    def _next_to_redate(self) -> list[Entry]:
        due = list(islice(self._redating, _REDATED))
        if not due:
            self._redating = iter(list(self._entries.values()))
        return [entry for entry in due if self._entries.get(entry.split_id) is entry]

    def _date(self, entry: Entry, due: float) -> None:
        entry.due = due
        heapq.heappush(self._agendas[entry.lane], (due, next(self._order), entry))

    def _sample(self) -> list[tuple[float, float]]:
        return [(entry.credits_used, entry.seen) for entry in islice(self._entries.values(), _SAMPLE)]
