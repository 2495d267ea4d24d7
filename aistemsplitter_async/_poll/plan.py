"""When to look at which running split.

Looks cost requests of the key, so they are made where they are likely to find something, and as often as the budget
allows beyond what creates need:

- Few splits: each is looked at whenever the time since its last look has grown to a share `g` of its age. The lag of a
  detection is then at most `g` of the processing time, whatever that is. `g` is as fine as the requests that are free
  until the splits should be done allow, but no finer than `PollPolicy.precision`.
- Many splits: each is looked at when it is done with probability `PollPolicy.confidence`, given that it was not at the
  last look. That comes to little more than one look a split. While there is no request to spare, the same is asked of
  few splits too, with more confidence: a look that comes too soon takes what a create or the last split needs.
- Nothing known yet, and requests to spare: the oldest split goes ahead as a pathfinder, with looks at ages that double.
- Announced by a webhook: a split is looked at when it was announced, ahead of everything in its lane. Events get lost,
  so one that is not announced is looked at when nearly all should be done (at twice that age while only the prior says
  when that is, but for the pathfinder), and then at ages that double; and once in any case shortly before somebody
  gives up waiting for it.

Times are monotonic seconds, passed in.
"""

from __future__ import annotations

import math
from collections import deque
from itertools import count, islice
from statistics import NormalDist

import attrs

from aistemsplitter_async._gate.budget import Budget
from aistemsplitter_async._gate.lanes import Lane
from aistemsplitter_async._poll.agenda import NO_LINE, Agenda
from aistemsplitter_async._poll.processing import TYPICAL_CREDITS, ProcessingModel, log_credits
from aistemsplitter_async.clock import Random
from aistemsplitter_async.config import PollPolicy

_CERTAIN = 0.95  # confidence in one look sufficing while requests are scarce: one too many may cost a whole window
_FEW = 200  # splits up to which every one is weighed at every decision
_SAMPLE = 64  # running splits that the model is shown
_SECOND_THOUGHTS = 8  # entries at most that one decision puts off because the model has moved
_REDATED = 2  # entries brought up to date with every look: the model moves while thousands wait
_EARLIEST = NormalDist().inv_cdf(0.02)  # of the splits are done by the age at which looks begin
_LATEST = NormalDist().inv_cdf(0.95)  # are done by the age until which the budget must last
_HEAD_START = 0.8  # of the earliest age: where the growing intervals are counted from
_LEAST_GROWTH = 0.1  # of an age beyond the latest: it may end any moment
_OVERTIME = 0.3  # of its age is what a split beyond the latest may still take
_HEALING = NormalDist().inv_cdf(0.99)  # are done by the age at which an announcement that did not come counts as lost
_ENOUGH = 10  # finished splits from which on the model knows what is long
_HEALING_GROWTH = 2.0  # of the age until the next look at a split whose announcement did not come
_LAST_LOOK = 5.0  # s before whoever waits for an announced split gives up: room for a request that is tried again
_LAST_LOOK_SHARE = 0.1  # of the time that was left: a long wait keeps a slot in the window for it
_COARSE = 0.5  # a share beyond which growing intervals say less than the odds
_SPENT = 0.74  # of the requests that are free: the rest is for what nobody foresaw


@attrs.define(eq=False)
class Entry:
    """One running split."""

    split_id: str
    credits_used: float
    since: float  # when it was created
    lane: Lane
    jitter: float  # around 1
    look_at: float | None = None  # instead of what the plan says
    seen: float = 0.0  # age at which it was last seen running
    due: float = 0.0
    told: bool = False  # its end will be announced
    last_looks: list[float] = attrs.field(factory=list[float])  # until when those who wait want it looked at
    woken: bool = False  # its end was announced, and no look has been made since
    looking: bool = False  # a request for it is on its way
    attached: bool = False  # `since` is when it came to the plan: it was created some time before
    line: int = NO_LINE  # the only one that counts in the agenda
    size: float = 0.0  # as the model sees it
    foreseen: int = -1  # the model's version that the following come from
    begin: float = 0.0  # age at which looks begin
    last: float = 0.0  # age by which it should be done
    sure: float = 0.0  # age at which a look most likely finds it done
    surer: float = 0.0  # the same, while there is no request to spare


class PollPlan:
    """The running splits and when each is worth a request."""

    def __init__(self, policy: PollPolicy, *, random: Random) -> None:
        self._policy = policy
        self._random = random
        self.model = ProcessingModel(policy.typical)
        self._entries: dict[str, Entry] = {}
        self._agendas = (Agenda[Entry](), Agenda[Entry]())  # one per lane; used while there are many splits
        self._order = count()
        self._turns = deque[Entry]()  # in which order entries are brought up to date

    def add(
        self,
        split_id: str,
        *,
        since: float,
        credits_used: float | None = None,
        lane: Lane = Lane.INTERACTIVE,
        look_at: float | None = None,
        told: bool = False,
    ) -> None:
        """Begin to plan looks at a split.

        Args:
            split_id: which one.
            since: when it was created.
            credits_used: its price, if known.
            lane: an interactive split goes before a bulk one.
            look_at: when the first look is to be made, whatever the plan would say. Such a split was created some
                time before `since`.
            told: whether its end will be announced with `wake`.
        """
        jitter = 1 + self._policy.jitter * (2 * self._random() - 1)
        entry = Entry(split_id, credits_used or TYPICAL_CREDITS, since, lane, jitter, look_at)
        entry.attached = look_at is not None
        entry.told = told
        entry.size = log_credits(entry.credits_used)
        self.remove(split_id)
        self._entries[split_id] = entry
        if len(self._entries) == _FEW + 1:
            self._turns.extend(self._entries.values())
            for waiting in self._entries.values():
                self._date(waiting)
        elif len(self._entries) > _FEW:
            self._turns.append(entry)
            self._date(entry)

    def remove(self, split_id: str) -> None:
        """Forget a split. One that is not known is forgotten already, here and in what follows."""
        entry = self._entries.pop(split_id, None)
        if entry is None:
            return
        entry.line = NO_LINE
        if len(self._entries) > _FEW:
            self._agendas[entry.lane].tidy(len(self._entries))
        elif len(self._entries) == _FEW:
            self._agendas = (Agenda[Entry](), Agenda[Entry]())
            self._turns.clear()
            for waiting in self._entries.values():
                waiting.foreseen = -1

    def raise_lane(self, split_id: str) -> None:
        """Let a split go with the interactive ones."""
        entry = self._entries.get(split_id)
        if entry is not None:
            entry.lane = Lane.INTERACTIVE
            self._date(entry)

    def wake(self, split_id: str) -> None:
        """Note that the end of a split was announced: it is due at once, and if it is being looked at, once more."""
        entry = self._entries.get(split_id)
        if entry is not None:
            entry.woken = True
            entry.told = False  # there will be no second announcement
            entry.look_at = None
            self._date(entry)

    def note_deadline(self, split_id: str, *, now: float, deadline: float) -> None:
        """Note that somebody waits for a split until `deadline`, and must not give up without a look at it."""
        entry = self._entries.get(split_id)
        if entry is not None:
            left = max(0.0, deadline - now)
            entry.last_looks.append(deadline - min(left / 2, max(_LAST_LOOK, _LAST_LOOK_SHARE * left)))
            self._date(entry)

    def note_looking(self, entry: Entry) -> None:
        """Note that a request for a split is being sent: it is no candidate until what came of it is noted."""
        entry.looking = True
        entry.woken = False
        entry.look_at = None
        entry.line = NO_LINE

    def note_running(self, split_id: str, *, looked_at: float, age: float = 0.0) -> None:
        """Note that a look sent at `looked_at` found the split still running.

        Args:
            split_id: which one.
            looked_at: when the look was sent.
            age: how old it was then by two clocks, the server's and ours. It is taken for a split whose beginning was
                not seen, but for no more than most splits take: the clocks may differ by anything.
        """
        entry = self._entries.get(split_id)
        if entry is None:
            return
        entry.looking = False
        if entry.attached:
            most = self.model.age_at(entry.size, _LATEST)
            entry.since = min(entry.since, looked_at - min(age, most))
        entry.seen = max(entry.seen, looked_at - entry.since)
        entry.last_looks = [at for at in entry.last_looks if at > looked_at]
        entry.foreseen = -1
        if entry.seen > self.model.median(entry.credits_used):
            self.model.refit(self._sample())
        self._date(entry)
        self._redate()

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
        self._redate()

    def find(self, split_id: str) -> Entry | None:
        """Return what is planned for a split, if it is known. What `due` says is as new as the last `best`."""
        return self._entries.get(split_id)

    def best(self, now: float, budget: Budget, first_lane: Lane = Lane.INTERACTIVE) -> Entry | None:
        """Return the split most worth a look at `now`, if any is; lanes before `first_lane` are left out."""
        return self._weigh(now, budget, first_lane) if len(self._entries) <= _FEW else self._top(now, first_lane)

    def next_due(self) -> float:
        """Return when `best` may answer differently; ask it right after `best`."""
        if len(self._entries) <= _FEW:
            return min((entry.due for entry in self._entries.values() if not entry.looking), default=math.inf)
        return min((entry.due for agenda in self._agendas if (entry := agenda.first())), default=math.inf)

    def _weigh(self, now: float, budget: Budget, first_lane: Lane) -> Entry | None:
        """Date every entry by the budget there is now; return the one that is due first, interactive before bulk."""
        waiting = [entry for entry in self._entries.values() if not entry.looking]
        if not waiting:
            return None
        share = self._affordable_share(now, budget)
        least = self._least_gap(budget)
        for entry in waiting:
            entry.due = self._due_by_share(entry, share, least)
        pathfinder = min(self._entries.values(), key=lambda entry: entry.since)
        if share < 1 and not self.model.observations and pathfinder.look_at is None:
            ahead = self._healing_age(pathfinder) if pathfinder.told else max(self._policy.first, 2 * pathfinder.seen)
            pathfinder.due = min(pathfinder.due, pathfinder.since + ahead)
        due = (entry for entry in waiting if entry.due <= now and entry.lane >= first_lane)
        return min(due, key=lambda entry: (entry.lane, entry.due), default=None)

    def _due_by_share(self, entry: Entry, share: float, least: float) -> float:
        if (settled := self._settled_due(entry)) is not None:
            return settled
        self._foresee(entry)
        counted_from = max(entry.seen, _HEAD_START * entry.begin)
        gap = counted_from * share / (1 - share) * entry.jitter if share < 1 else math.inf
        age = max(entry.begin, counted_from + gap)
        if share > _COARSE:
            age = min(age, entry.sure if share < 1 else entry.surer)
        return entry.since + max(age, entry.seen + least, self._policy.first)

    def _affordable_share(self, now: float, budget: Budget) -> float:
        """Return the share `g` of its age after which a split can be looked at again, until all should be done.

        Every look multiplies an age by 1/(1-g). So splits whose ages have to grow by factors f take the sum of
        ln(f) / -ln(1-g) looks, which must fit into the requests that are free beyond one for each.
        """
        growth = 0.0
        longest = 0.0
        for entry in self._entries.values():
            if entry.told:
                continue
            self._foresee(entry)
            age = max(now - entry.since, entry.begin)
            growth += max(_LEAST_GROWTH, math.log(entry.last / age))
            longest = max(longest, entry.last - (now - entry.since), _OVERTIME * entry.seen)
        if budget.available(longest) <= len(self._entries):
            return 1.0
        free = _SPENT * (budget.steady(longest) - len(self._entries))
        return max(self._policy.precision, -math.expm1(-growth / free)) if free > 0 else 1.0

    def _least_gap(self, budget: Budget) -> float:
        """Return the seconds between two looks at one split: it never takes more than its part of the budget."""
        if budget.limit is None:
            return self._policy.shortest
        return max(self._policy.shortest, budget.per / (budget.limit * self._policy.budget_share))

    def _foresee(self, entry: Entry) -> None:
        """Bring what is predicted about a split up to the model's date."""
        model, policy = self.model, self._policy
        if entry.foreseen == model.version:
            return
        entry.foreseen = model.version
        sure = model.age_when_done(entry.size, policy.confidence, seen=entry.seen)
        entry.sure = max(sure, entry.seen * (1 + policy.precision) + policy.shortest)
        if len(self._entries) <= _FEW:
            entry.begin = model.age_at(entry.size, _EARLIEST)
            entry.last = model.age_at(entry.size, _LATEST)
            entry.surer = max(entry.sure, model.age_when_done(entry.size, _CERTAIN, seen=entry.seen))

    def _top(self, now: float, first_lane: Lane) -> Entry | None:
        """Return the first of the agendas that is due, by the model as it is now."""
        for agenda in self._agendas[first_lane:]:
            first = agenda.first()
            for _ in range(_SECOND_THOUGHTS):
                if first is None or first.due > now:
                    break
                if self._due_when_sure(first) <= now:
                    return first
                self._date(first)
                first = agenda.first()
            if first is not None and first.due <= now:
                return first
        return None

    def _due_when_sure(self, entry: Entry) -> float:
        settled = self._settled_due(entry)
        if settled is not None:
            return settled
        self._foresee(entry)
        return entry.since + entry.sure

    def _settled_due(self, entry: Entry) -> float | None:
        """Return when a split is due whatever the budget, if that is so."""
        if entry.woken:
            return -math.inf
        if entry.look_at is not None or not entry.told:
            return entry.look_at
        # While what is long is a guess, the pathfinder alone goes by it: events seldom get lost.
        patience = 1.0 if self.model.observations >= _ENOUGH else _HEALING_GROWTH
        return min([entry.since + patience * self._healing_age(entry), *entry.last_looks])

    def _healing_age(self, entry: Entry) -> float:
        """Return the age at which the announcement of a split counts as lost."""
        return max(entry.jitter * self.model.age_at(entry.size, _HEALING), _HEALING_GROWTH * entry.seen)

    def _redate(self) -> None:
        """Bring some entries up to the model's date, so that none becomes due much too late."""
        for _ in range(min(_REDATED, len(self._turns))):
            entry = self._turns.popleft()
            if self._entries.get(entry.split_id) is not entry:
                continue
            self._turns.append(entry)
            if not entry.looking and entry.foreseen != self.model.version and self._due_when_sure(entry) < entry.due:
                self._date(entry)  # those that are due later are put off when their time comes

    def _date(self, entry: Entry) -> None:
        if len(self._entries) > _FEW and not entry.looking:
            entry.due = self._due_when_sure(entry)
            self._agendas[entry.lane].put(entry, next(self._order))
            self._agendas[entry.lane].tidy(len(self._entries))

    def _sample(self) -> list[tuple[float, float]]:
        entries = islice(self._entries.values(), _SAMPLE)
        return [(entry.credits_used, entry.seen) for entry in entries if not entry.attached]
