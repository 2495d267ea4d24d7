"""One running split: what is known about it, and what the model predicts."""

from __future__ import annotations

import math
from statistics import NormalDist

import attrs

from aistemsplitter_async._gate.lanes import Lane
from aistemsplitter_async._poll.agenda import NOT_LISTED
from aistemsplitter_async._poll.processing import ProcessingModel
from aistemsplitter_async.config import PollPolicy

_CERTAIN = 0.95  # confidence that one poll suffices while requests are scarce: a second one may cost a whole window
_EARLIEST = NormalDist().inv_cdf(0.02)  # of the splits are done by the age at which polls begin
_LATEST = NormalDist().inv_cdf(0.95)  # are done by the age until which the budget must last
_OVERDUE = NormalDist().inv_cdf(0.99)  # are done by the age at which a missing event counts as lost
_ENOUGH = 10  # finished splits, after which the model's high quantiles are trusted
_OVERDUE_GROWTH = 2.0  # factor on the age until the next poll of a split whose event did not arrive


@attrs.define(eq=False)
class PlanEntry:
    """One running split."""

    split_id: str
    credits_used: float
    since: float  # when it was created
    lane: Lane
    jitter: float  # a factor around 1
    poll_at: float | None = None  # overrides the plan
    seen: float = 0.0  # age at which it was last seen running
    due: float = 0.0
    expects_event: bool = False  # a webhook should notify us when it is done
    final_polls: list[float] = attrs.field(factory=list[float])  # one before the deadline of every caller
    notified: bool = False  # an event said that it is done, and it was not polled since
    polling: bool = False  # a request for it is on its way
    attached: bool = False  # `since` is when it was added: it was created some time before
    version: int = NOT_LISTED  # of its item in the agenda
    size: float = 0.0  # as the model sees it
    model_version: int = -1  # the model's version that the following come from
    earliest: float = 0.0  # age at which polls begin
    latest: float = 0.0  # age by which it should be done
    likely: float = 0.0  # age at which a poll most likely finds it done
    certain: float = 0.0  # the same, while no request is to spare

    def backdate(self, polled_at: float, age: float, model: ProcessingModel) -> None:
        """Take in an age that the split had at `polled_at`, up to the time that most splits take."""
        self.since = min(self.since, polled_at - min(age, model.age_at(self.size, _LATEST)))

    def predict(self, model: ProcessingModel, policy: PollPolicy, *, fully: bool) -> None:
        """Update the predictions if the model has changed; all of them or only `likely`."""
        if self.model_version == model.version:
            return
        self.model_version = model.version
        likely = model.age_when_done(self.size, policy.confidence, seen=self.seen)
        self.likely = max(likely, self.seen * (1 + policy.precision) + policy.shortest)
        if fully:
            self.earliest = model.age_at(self.size, _EARLIEST)
            self.latest = model.age_at(self.size, _LATEST)
            self.certain = max(self.likely, model.age_when_done(self.size, _CERTAIN, seen=self.seen))

    def likely_due(self, model: ProcessingModel, policy: PollPolicy) -> float:
        """Return when one poll most likely suffices, or when the split is due in any case."""
        if (fixed := self.fixed_due(model)) is not None:
            return fixed
        self.predict(model, policy, fully=False)
        return self.since + self.likely

    def fixed_due(self, model: ProcessingModel) -> float | None:
        """Return when the split is due if that does not depend on the budget."""
        if self.notified:
            return -math.inf
        if self.poll_at is not None or not self.expects_event:
            return self.poll_at
        # While the age is only a guess, no split but the pathfinder is polled at it: events are rarely lost.
        patience = 1.0 if model.observations >= _ENOUGH else _OVERDUE_GROWTH
        return min([self.since + patience * self.overdue_age(model), *self.final_polls])

    def overdue_age(self, model: ProcessingModel) -> float:
        """Return the age at which a missing event counts as lost."""
        return max(self.jitter * model.age_at(self.size, _OVERDUE), _OVERDUE_GROWTH * self.seen)
