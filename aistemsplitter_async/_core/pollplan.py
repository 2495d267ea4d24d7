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

from aistemsplitter_async._core.processing import TYPICAL_CREDITS, ProcessingModel
from aistemsplitter_async._core.retry import Random
from aistemsplitter_async.config import PollPolicy

_FEW = 200  # splits up to which every one is weighed at every decision
_SAMPLE = 64  # running splits that the model is shown
_SECOND_THOUGHTS = 8  # entries at most that one decision puts off because the model has moved
_MOVED = 4  # lines that a long agenda gives to its successor with every change
_STALE = 512  # lines more than twice the entries make an agenda long
_NO_LINE = -1
_REDATED = 2  # entries brought up to date with every decision: the model moves while thousands wait
_EARLIEST = 0.02  # of the splits are done by the age at which looks begin
_LATEST = 0.95  # are done by the age until which the budget must last
_HEAD_START = 0.8  # of the earliest age: where the growing intervals are counted from
_LEAST_GROWTH = 0.1  # of an age beyond the latest: it may end any moment
_OVERTIME = 0.3  # of its age is what a split beyond the latest may still take
_ALMOST_ALL = 1 - 1e-9  # the quantile of certainty is infinite
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
    lane: int  # 0 interactive, 1 bulk
    jitter: float  # around 1
    look_at: float | None = None  # instead of what the plan says
    seen: float = 0.0  # age at which it was last seen running
    due: float = 0.0
    looking: bool = False  # a request for it is on its way
    attached: bool = False  # `since` is when it came to the plan: it was created some time before
    line: int = _NO_LINE  # the only one that counts in the agenda


class _Agenda:
    """Entries by due time: a heap of lines, of which only the newest of an entry counts.

    The others stay where they are, for taking them out is dear. When they have become many, every line that counts
    moves to a new heap, a few with each change, so that no change takes long. (A heap without its last line is a heap.)
    """

    def __init__(self) -> None:
        self._lines: list[tuple[float, int, Entry]] = []
        self._old: list[tuple[float, int, Entry]] = []

    def __len__(self) -> int:
        return len(self._lines) + len(self._old)

    def put(self, entry: Entry, line: int) -> None:
        entry.line = line
        heapq.heappush(self._lines, (entry.due, line, entry))

    def first(self) -> Entry | None:
        best: tuple[float, int, Entry] | None = None
        for lines in (self._lines, self._old):
            while lines and lines[0][2].line != lines[0][1]:
                heapq.heappop(lines)
            if lines and (best is None or lines[0] < best):
                best = lines[0]
        return best[2] if best is not None else None

    def tidy(self, entries: int) -> None:
        """Move a few lines if there are many more than `entries`."""
        if not self._old and len(self._lines) > 2 * entries + _STALE:
            self._lines, self._old = [], self._lines
        for _ in range(min(_MOVED, len(self._old))):
            line = self._old.pop()
            if line[2].line == line[1]:
                heapq.heappush(self._lines, line)


class PollPlan:
    """The running splits and when each is worth a request."""

    def __init__(self, policy: PollPolicy, *, random: Random) -> None:
        self._policy = policy
        self._random = random
        self.model = ProcessingModel()
        self._entries: dict[str, Entry] = {}
        self._agendas = (_Agenda(), _Agenda())  # one per lane; used while there are many splits
        self._order = count()
        self._redating: Iterator[Entry] = iter(())

    def add(
        self,
        split_id: str,
        *,
        since: float,
        credits_used: float | None = None,
        lane: int = 0,
        look_at: float | None = None,
    ) -> None:
        """Begin to plan looks at a split.

        Args:
            split_id: which one.
            since: when it was created.
            credits_used: its price, if known.
            lane: 0 goes before 1.
            look_at: when the first look is to be made, whatever the plan would say. Such a split was created some
                time before `since`.
        """
        jitter = 1 + self._policy.jitter * (2 * self._random() - 1)
        entry = Entry(split_id, credits_used or TYPICAL_CREDITS, since, lane, jitter, look_at)
        entry.attached = look_at is not None
        self.remove(split_id)
        self._entries[split_id] = entry
        if len(self._entries) == _FEW + 1:
            for waiting in self._entries.values():
                self._date(waiting)
        else:
            self._date(entry)

    def remove(self, split_id: str) -> None:
        """Forget a split. One that is not known is forgotten already, here and in what follows."""
        entry = self._entries.pop(split_id, None)
        if entry is None:
            return
        entry.line = _NO_LINE
        if len(self._entries) > _FEW:
            self._agendas[entry.lane].tidy(len(self._entries))
        elif len(self._entries) == _FEW:
            self._agendas = (_Agenda(), _Agenda())

    def raise_lane(self, split_id: str) -> None:
        """Let a split go with the interactive ones."""
        entry = self._entries.get(split_id)
        if entry is not None:
            entry.lane = 0
            self._date(entry)

    def note_looking(self, entry: Entry) -> None:
        """Note that a request for a split is being sent: it is no candidate until what came of it is noted."""
        entry.looking = True
        entry.look_at = None
        entry.line = _NO_LINE

    def note_running(self, split_id: str, *, looked_at: float) -> None:
        """Note that a look sent at `looked_at` found the split still running."""
        entry = self._entries.get(split_id)
        if entry is None:
            return
        entry.looking = False
        entry.seen = max(entry.seen, looked_at - entry.since)
        if entry.seen > self.model.median(entry.credits_used):
            self.model.refit(self._sample())
        self._date(entry)

    def note_nothing(self, split_id: str, *, look_at: float) -> None:
        """Note that a look brought no answer, and make the next one at `look_at`."""
        entry = self._entries.get(split_id)
        if entry is None:
            return
        entry.looking = False
        entry.look_at = look_at
        self._date(entry)

    def note_done(self, split_id: str, seconds: float, *, looked_at: float) -> None:
        """Note that a look sent at `looked_at` found the split finished after `seconds`, and forget it.

        The time is corrected to what our own looks prove: the server's clock may have no resolution, or none at all.
        """
        entry = self._entries.get(split_id)
        if entry is None:
            return
        self.remove(split_id)
        latest = max(entry.seen, looked_at - entry.since) if not entry.attached else math.inf
        if seconds > 0:
            proven = min(max(seconds, entry.seen), latest)
        elif not entry.attached:
            proven = (entry.seen + latest) / 2
        else:
            return
        self.model.learn(entry.credits_used, proven, running=self._sample())

    def best(self, now: float, budget: Budget) -> Entry | None:
        """Return the split most worth a look at `now`, if any is."""
        return self._weigh(now, budget) if len(self._entries) <= _FEW else self._top(now)

    def next_due(self) -> float:
        """Return when `best` may answer differently; ask it right after `best`."""
        if len(self._entries) <= _FEW:
            return min((entry.due for entry in self._entries.values() if not entry.looking), default=math.inf)
        return min((entry.due for agenda in self._agendas if (entry := agenda.first())), default=math.inf)

    def _weigh(self, now: float, budget: Budget) -> Entry | None:
        """Date every entry by the budget there is now; return the one that is due first, interactive before bulk."""
        waiting = [entry for entry in self._entries.values() if not entry.looking]
        if not waiting:
            return None
        share = self._affordable_share(now, budget)
        least = self._least_gap(budget)
        for entry in waiting:
            entry.due = self._due_by_share(entry, share, least)
        pathfinder = min(self._entries.values(), key=lambda entry: entry.since)
        if not self.model.observations and pathfinder.look_at is None:
            pathfinder.due = min(pathfinder.due, pathfinder.since + max(self._policy.first, 2 * pathfinder.seen))
        return min((entry for entry in waiting if entry.due <= now), key=lambda e: (e.lane, e.due), default=None)

    def _due_by_share(self, entry: Entry, share: float, least: float) -> float:
        if entry.look_at is not None:
            return entry.look_at
        begin = self.model.quantile(entry.credits_used, _EARLIEST)
        counted_from = max(entry.seen, _HEAD_START * begin)
        gap = counted_from * share / (1 - share) * entry.jitter if share < 1 else math.inf
        age = max(begin, counted_from + gap)
        if share > _COARSE:
            age = min(age, self._age_when_sure(entry))
        return entry.since + max(age, entry.seen + least, self._policy.first)

    def _affordable_share(self, now: float, budget: Budget) -> float:
        """Return the share `g` of its age after which a split can be looked at again, until all should be done.

        Every look multiplies an age by 1/(1-g). So splits whose ages have to grow by factors f take the sum of
        ln(f) / -ln(1-g) looks, which must fit into the requests that are free beyond one for each.
        """
        growth = 0.0
        longest = 0.0
        for entry in self._entries.values():
            age = max(now - entry.since, self.model.quantile(entry.credits_used, _EARLIEST))
            last = self.model.quantile(entry.credits_used, _LATEST)
            growth += max(_LEAST_GROWTH, math.log(last / age))
            longest = max(longest, last - (now - entry.since), _OVERTIME * age)
        free = _SPENT * (budget.available(longest) - len(self._entries))
        return max(self._policy.precision, -math.expm1(-growth / free)) if free > 0 else 1.0

    def _least_gap(self, budget: Budget) -> float:
        """Return the seconds between two looks at one split: it never takes more than its part of the budget."""
        if budget.limit is None:
            return self._policy.shortest
        return max(self._policy.shortest, budget.per / (budget.limit * self._policy.budget_share))

    def _age_when_sure(self, entry: Entry) -> float:
        """Return the age at which it is done with probability `confidence`, given that it was not when last seen."""
        model, credits_used = self.model, entry.credits_used
        before = model.fraction_done(credits_used, entry.seen) if entry.seen else 0.0
        fraction = min(before + self._policy.confidence * (1 - before), _ALMOST_ALL)
        least = entry.seen * (1 + self._policy.precision) + self._policy.shortest
        return max(model.quantile(credits_used, fraction), least)

    def _top(self, now: float) -> Entry | None:
        """Return the first of the agendas that is due, by the model as it is now."""
        for entry in self._next_to_redate():
            if self._due_when_sure(entry) < entry.due:  # later ones are put off when their time comes
                self._date(entry)
        for agenda in self._agendas:
            for _ in range(_SECOND_THOUGHTS):
                first = agenda.first()
                if first is None or first.due > now or self._due_when_sure(first) <= now:
                    break
                self._date(first)
            first = agenda.first()
            if first is not None and first.due <= now:
                return first
        return None

    def _due_when_sure(self, entry: Entry) -> float:
        return entry.look_at if entry.look_at is not None else entry.since + self._age_when_sure(entry)

    def _next_to_redate(self) -> list[Entry]:
        chosen = list(islice(self._redating, _REDATED))
        if not chosen:
            self._redating = iter(list(self._entries.values()))
        return [entry for entry in chosen if not entry.looking and self._entries.get(entry.split_id) is entry]

    def _date(self, entry: Entry) -> None:
        if len(self._entries) > _FEW and not entry.looking:
            entry.due = self._due_when_sure(entry)
            self._agendas[entry.lane].put(entry, next(self._order))
            self._agendas[entry.lane].tidy(len(self._entries))

    def _sample(self) -> list[tuple[float, float]]:
        return [(entry.credits_used, entry.seen) for entry in islice(self._entries.values(), _SAMPLE)]
