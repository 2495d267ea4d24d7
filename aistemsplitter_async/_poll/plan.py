"""Decides when to poll which running split.

Polls cost requests of the key, so they are made when they are likely to find a split done, and as often as the budget
allows beyond what creates need:

- Few splits: each is polled when the time since its last poll has grown to a share `g` of its age. Its end is then
  detected late by at most `g` of the processing time, however long that is. `g` is as small as the requests that are
  free until the splits should be done allow, but not smaller than `PollPolicy.precision`.
- Many splits: each is polled when it is done with probability `PollPolicy.confidence`, given that it was not done at
  the last poll. That takes little more than one poll per split. Few splits are treated the same, with a higher
  confidence, while no request is to spare: a poll that comes too early takes one that a create or the last split needs.
- Nothing known yet, and requests to spare: the oldest split is polled first, as a pathfinder, at ages that double.
- Splits with a webhook: one is polled when its event arrives, ahead of everything in its lane. Events get lost, so a
  split whose event has not arrived is polled at the age by which nearly all should be done (twice that age while only
  the prior says what it is, except for the pathfinder), then at ages that double, and also shortly before the deadline
  of every caller that waits for it.

Times are monotonic seconds, passed in.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from itertools import count, islice

from aistemsplitter_async._gate.budget import Budget
from aistemsplitter_async._gate.lanes import Lane
from aistemsplitter_async._poll.agenda import NOT_LISTED, Agenda
from aistemsplitter_async._poll.entry import PlanEntry
from aistemsplitter_async._poll.processing import TYPICAL_CREDITS, ProcessingModel, log_credits
from aistemsplitter_async.clock import Random
from aistemsplitter_async.config import PollPolicy

_FEW = 200  # up to this many splits, every decision considers each of them
_SAMPLE = 64  # running splits that the model gets
_MOST_POSTPONED = 8  # entries that one decision postpones because the model has changed
_RESCHEDULED = 2  # entries rescheduled with every poll: the model changes while thousands wait
_MOST_PASSED = 8  # entries looked at for that: those that are gone since make no other one wait
_HEAD_START = 0.8  # of the earliest age: where the growing intervals start
_LEAST_GROWTH = 0.1  # of an age beyond the latest: the split may end any moment
_OVERTIME = 0.3  # of its age: what a split beyond the latest age may still take
_FINAL_POLL = 5.0  # s before the deadline of a caller that expects an event: enough for a retry
_FINAL_POLL_SHARE = 0.1  # of the time left, if that is more, so that a slot comes free before the deadline
_COARSE = 0.5  # a share above which growing intervals are worse than the predicted age
_SPENDABLE = 0.74  # of the requests that are free: the rest is a reserve


class PollPlan:
    """The running splits, and when to poll each."""

    def __init__(self, policy: PollPolicy, *, random: Random) -> None:
        self._policy = policy
        self._random = random
        self.model = ProcessingModel(policy.typical)
        self._entries = OrderedDict[str, PlanEntry]()  # a dict looks for its first one behind all that were removed
        self._agendas = (Agenda[PlanEntry](), Agenda[PlanEntry]())  # one per lane; used while there are many splits
        self._order = count()
        self._rotation = deque[PlanEntry]()  # the order in which entries are rescheduled
        self._ahead_at = math.inf  # when the pathfinder of many splits is due, if after the last `best`

    def add(
        self,
        split_id: str,
        *,
        since: float,
        credits_used: float | None = None,
        lane: Lane = Lane.INTERACTIVE,
        poll_at: float | None = None,
        expects_event: bool = False,
    ) -> None:
        """Begin to plan polls of a split.

        Args:
            split_id: its id.
            since: when it was created.
            credits_used: its price, if known.
            lane: interactive splits go before bulk ones.
            poll_at: when to poll it first, instead of the plan's time. Such a split was created some time before
                `since`.
            expects_event: whether `wake` should be called when it is done.
        """
        jitter = 1 + self._policy.jitter * (2 * self._random() - 1)
        entry = PlanEntry(split_id, credits_used or TYPICAL_CREDITS, since, lane, jitter, poll_at)
        entry.attached = poll_at is not None
        entry.expects_event = expects_event
        entry.size = log_credits(entry.credits_used)
        self.remove(split_id)
        self._entries[split_id] = entry
        if len(self._entries) == _FEW + 1:
            self._rotation.extend(self._entries.values())
            for waiting in self._entries.values():
                self._reschedule(waiting)
        elif len(self._entries) > _FEW:
            self._rotation.append(entry)
            self._reschedule(entry)

    def remove(self, split_id: str) -> None:
        """Remove a split. Here and in the methods below, one that is unknown has been removed already."""
        entry = self._entries.pop(split_id, None)
        if entry is None:
            return
        entry.version = NOT_LISTED
        if len(self._entries) > _FEW:
            self._agendas[entry.lane].tidy(len(self._entries))
        elif len(self._entries) == _FEW:
            self._agendas = (Agenda[PlanEntry](), Agenda[PlanEntry]())
            self._rotation.clear()
            for waiting in self._entries.values():
                waiting.model_version = -1

    def raise_lane(self, split_id: str) -> None:
        """Move a split to the interactive lane."""
        entry = self._entries.get(split_id)
        if entry is not None:
            entry.lane = Lane.INTERACTIVE
            self._reschedule(entry)

    def wake(self, split_id: str) -> None:
        """Note that an event said that a split is done: it is due at once, or again after a poll on its way."""
        entry = self._entries.get(split_id)
        if entry is not None:
            entry.notified = True
            entry.expects_event = False  # there will not be a second one
            entry.poll_at = None
            self._reschedule(entry)

    def note_deadline(self, split_id: str, *, now: float, deadline: float) -> None:
        """Note that a caller waits for a split until `deadline`; it is polled shortly before."""
        entry = self._entries.get(split_id)
        if entry is not None:
            left = max(0.0, deadline - now)
            entry.final_polls.append(deadline - min(left / 2, max(_FINAL_POLL, _FINAL_POLL_SHARE * left)))
            self._reschedule(entry)

    def note_polling(self, entry: PlanEntry) -> None:
        """Note that a poll of a split is being sent: it is not due again until the result is noted."""
        entry.polling = True
        entry.notified = False
        entry.poll_at = None
        entry.version = NOT_LISTED

    def note_running(self, split_id: str, *, polled_at: float, age: float = 0.0) -> None:
        """Note that a poll sent at `polled_at` found the split still running.

        Args:
            split_id: its id.
            polled_at: when the poll was sent.
            age: its age then, by two clocks, the server's and ours. It is used for a split whose creation was not seen,
                up to the time that most splits take, since the clocks may differ by anything.
        """
        entry = self._entries.get(split_id)
        if entry is None:
            return
        entry.polling = False
        if entry.attached:
            entry.backdate(polled_at, age, self.model)
        entry.seen = max(entry.seen, polled_at - entry.since)
        entry.final_polls = [at for at in entry.final_polls if at > polled_at]
        entry.model_version = -1
        if entry.seen > self.model.median(entry.credits_used):
            self.model.refit(self._sample())
        self._reschedule(entry)
        self._reschedule_some()

    def note_no_answer(self, split_id: str, *, poll_at: float) -> None:
        """Note that a poll failed, and make the next one at `poll_at`."""
        entry = self._entries.get(split_id)
        if entry is None:
            return
        entry.polling = False
        entry.poll_at = poll_at
        self._reschedule(entry)

    def note_done(self, split_id: str, seconds: float, *, polled_at: float) -> None:
        """Note that a poll sent at `polled_at` found the split finished after `seconds` (0: unknown), and remove it.

        The time is limited to what our own polls prove: the server's clock may be coarse or wrong.
        """
        entry = self._entries.get(split_id)
        if entry is None:
            return
        self.remove(split_id)
        latest = max(entry.seen, polled_at - entry.since) if not entry.attached else math.inf
        if seconds > 0:
            proven = min(max(seconds, entry.seen), latest)
        elif not entry.attached:
            proven = (entry.seen + latest) / 2
        else:
            return
        self.model.learn(entry.credits_used, proven, running=self._sample())
        self._reschedule_some()

    def find(self, split_id: str) -> PlanEntry | None:
        """Return a split's entry, if it is known. Its `due` is as of the last `best`."""
        return self._entries.get(split_id)

    def has_lost_event(self, split_id: str, now: float) -> bool:
        """Return whether an event was expected, and should have come by `now` if the split is done."""
        entry = self._entries.get(split_id)
        return entry is not None and entry.expects_event and now >= entry.since + entry.overdue_age(self.model)

    def best(self, now: float, budget: Budget, first_lane: Lane = Lane.INTERACTIVE) -> PlanEntry | None:
        """Return the split to poll first at `now`, if any is due; lanes before `first_lane` are left out."""
        self._ahead_at = math.inf
        if len(self._entries) <= _FEW:
            return self._best_of_few(now, budget, first_lane)
        return self._best_of_many(now, first_lane) or self._find_ahead(now, budget, first_lane)

    def count_due(self, now: float, lane: Lane) -> int:
        """Return how many splits of a lane are due, as of the last `best`; of many, perhaps too few."""
        if len(self._entries) > _FEW:
            return self._agendas[lane].count_due(now)
        return sum(entry.lane is lane and not entry.polling and entry.due <= now for entry in self._entries.values())

    def next_due(self) -> float:
        """Return when the result of `best` may change; call it right after `best`."""
        if len(self._entries) <= _FEW:
            return min((entry.due for entry in self._entries.values() if not entry.polling), default=math.inf)
        firsts = (entry.due for agenda in self._agendas if (entry := agenda.first()))
        return min(self._ahead_at, min(firsts, default=math.inf))

    def _best_of_few(self, now: float, budget: Budget, first_lane: Lane) -> PlanEntry | None:
        """Schedule every entry by the present budget; return the one that is due first, interactive before bulk."""
        waiting = [entry for entry in self._entries.values() if not entry.polling]
        if not waiting:
            return None
        share = self._affordable_share(now, budget)
        least = self._least_gap(budget)
        for entry in waiting:
            entry.due = self._due_by_share(entry, share, least)
        pathfinder = min(self._entries.values(), key=lambda entry: entry.since)
        if share < 1 and not self.model.observations and pathfinder.poll_at is None:
            pathfinder.due = min(pathfinder.due, self._ahead_due(pathfinder))
        due = (entry for entry in waiting if entry.due <= now and entry.lane >= first_lane)
        return min(due, key=lambda entry: (entry.lane, entry.due), default=None)

    def _ahead_due(self, pathfinder: PlanEntry) -> float:
        if pathfinder.expects_event:
            return pathfinder.since + pathfinder.overdue_age(self.model)
        return pathfinder.since + max(self._policy.first, 2 * pathfinder.seen)

    def _due_by_share(self, entry: PlanEntry, share: float, least: float) -> float:
        if (fixed := entry.fixed_due(self.model)) is not None:
            return fixed
        entry.predict(self.model, self._policy, fully=True)
        counted_from = max(entry.seen, _HEAD_START * entry.earliest)
        gap = counted_from * share / (1 - share) * entry.jitter if share < 1 else math.inf
        age = max(entry.earliest, counted_from + gap)
        if share > _COARSE:
            age = min(age, entry.likely if share < 1 else entry.certain)
        return entry.since + max(age, entry.seen + least, self._policy.first)

    def _affordable_share(self, now: float, budget: Budget) -> float:
        """Return the share `g` of its age after which a split can be polled again, until all should be done.

        Every poll multiplies an age by 1/(1-g). So splits whose ages have to grow by factors f take the sum of
        ln(f) / -ln(1-g) polls, which must fit into the requests that are free beyond one for each.
        """
        growth = 0.0
        longest = 0.0
        for entry in self._entries.values():
            if entry.expects_event:
                continue
            entry.predict(self.model, self._policy, fully=True)
            age = max(now - entry.since, entry.earliest)
            growth += max(_LEAST_GROWTH, math.log(entry.latest / age))
            longest = max(longest, entry.latest - (now - entry.since), _OVERTIME * entry.seen)
        if budget.available(longest) <= len(self._entries):
            return 1.0
        free = _SPENDABLE * (budget.steady(longest) - len(self._entries))
        return max(self._policy.precision, -math.expm1(-growth / free)) if free > 0 else 1.0

    def _least_gap(self, budget: Budget) -> float:
        """Return the least seconds between two polls of one split, so that it never exceeds its share of the budget."""
        if budget.limit is None:
            return self._policy.shortest
        return max(self._policy.shortest, budget.per / (budget.limit * self._policy.budget_share))

    def _best_of_many(self, now: float, first_lane: Lane) -> PlanEntry | None:
        """Return the first entry of the agendas that is due, by the model as it is now."""
        for agenda in self._agendas[first_lane:]:
            first = agenda.first()
            for _ in range(_MOST_POSTPONED):
                if first is None or first.due > now:
                    break
                if first.likely_due(self.model, self._policy) <= now:
                    return first
                self._reschedule(first)
                first = agenda.first()
            if first is not None and first.due <= now:
                return first
        return None

    def _find_ahead(self, now: float, budget: Budget, first_lane: Lane) -> PlanEntry | None:
        """Return the split that was added first, while nothing is known, if its age and the budget allow it."""
        if self.model.observations:
            return None
        pathfinder = next(iter(self._entries.values()))
        if pathfinder.polling or pathfinder.poll_at is not None or pathfinder.lane < first_lane:
            return None
        due = self._ahead_due(pathfinder)
        if due <= now and budget.available(0.0) < 1:
            # A slot may be free then that no call wants; without calls that wait, nothing else asks.
            due = now + max(self._policy.first, budget.per / (budget.limit or 1))
        if due > now:
            self._ahead_at = due
            return None
        pathfinder.due = due
        return pathfinder

    def _reschedule_some(self) -> None:
        """Reschedule some entries by the present model, so that none becomes due much too late."""
        rescheduled = 0
        for _ in range(min(_MOST_PASSED, len(self._rotation))):
            entry = self._rotation.popleft()
            if self._entries.get(entry.split_id) is not entry:
                continue
            self._rotation.append(entry)
            is_outdated = not entry.polling and entry.model_version != self.model.version
            if is_outdated and entry.likely_due(self.model, self._policy) < entry.due:
                self._reschedule(entry)  # an entry that is due later now is postponed when its time comes
            rescheduled += 1
            if rescheduled == _RESCHEDULED:
                break

    def _reschedule(self, entry: PlanEntry) -> None:
        if len(self._entries) > _FEW and not entry.polling:
            entry.due = entry.likely_due(self.model, self._policy)
            self._agendas[entry.lane].put(entry, next(self._order))
            self._agendas[entry.lane].tidy(len(self._entries))

    def _sample(self) -> list[tuple[float, float]]:
        entries = islice(self._entries.values(), _SAMPLE)
        return [(entry.credits_used, entry.seen) for entry in entries if not entry.attached]
