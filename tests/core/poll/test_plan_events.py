"""Splits for which a webhook event is expected: polled when it comes, and now and then in case it was lost."""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter
from statistics import NormalDist

import pytest

from aistemsplitter_async._gate.budget import Budget
from aistemsplitter_async._gate.lanes import Lane
from aistemsplitter_async._poll.plan import PollPlan
from aistemsplitter_async._poll.processing import log_credits
from aistemsplitter_async.config import PollPolicy

IDLE = Budget(limit=60, per=60.0)
FEW, MANY = 20, 300


def build(known: int = 0) -> PollPlan:
    plan = PollPlan(PollPolicy(jitter=0.0), random=lambda: 0.5)
    for _ in range(known):
        plan.model.learn(180, 60.0)
    return plan


def quantile(plan: PollPlan, fraction: float) -> float:
    """The age by which this fraction of the usual splits is done."""
    return plan.model.age_at(log_credits(180), NormalDist().inv_cdf(fraction))


def fill(plan: PollPlan, count: int, *, lane: Lane = Lane.BULK) -> None:
    for number in range(count):
        plan.add(f"{lane:d}-{number}", since=0.0, credits_used=180, lane=lane, expects_event=True)


def simulate(
    splits: int, *, lost: float, median: float, expects_event: bool = True
) -> tuple[Counter[str], dict[str, float]]:
    """Return how often each split was polled and when it was found, with a budget that never runs out."""
    rng = random.Random(splits)  # noqa: S311
    plan = PollPlan(PollPolicy(), random=rng.random)
    ends = {str(n): n * 0.1 + median * rng.lognormvariate(0, 0.25) for n in range(splits)}
    events = [(end + 0.2, name) for name, end in ends.items() if rng.random() >= lost]
    heapq.heapify(events)
    polls, found = Counter[str](), dict[str, float]()
    for n in range(splits):
        plan.add(str(n), since=n * 0.1, credits_used=180, lane=Lane.BULK, expects_event=expects_event)
    now = splits * 0.1
    while len(found) < splits:
        while events and events[0][0] <= now:
            plan.wake(heapq.heappop(events)[1])
        entry = plan.best(now, IDLE)
        if entry is None:
            now = min(plan.next_due(), events[0][0] if events else math.inf)
            continue
        name = entry.split_id
        polls[name] += 1
        plan.note_polling(entry)
        if now >= ends[name]:
            found[name] = now - ends[name]
            plan.note_done(name, ends[name] - entry.since, polled_at=now)
        else:
            plan.note_running(name, polled_at=now)
    return polls, found


@pytest.mark.parametrize("count", [FEW, MANY])
def test_a_split_whose_event_came_is_due_at_once_and_before_all_others_of_its_lane(count: int) -> None:
    plan = build(known=10)
    fill(plan, count)
    plan.add("overdue", since=-1000.0, credits_used=180, lane=Lane.BULK)
    plan.wake("1-7")
    plan.wake("1-3")
    chosen = [plan.best(1.0, IDLE)]
    plan.note_polling(chosen[0])  # type: ignore[arg-type]
    chosen.append(plan.best(1.0, IDLE))
    assert {entry and entry.split_id for entry in chosen} == {"1-7", "1-3"}


@pytest.mark.parametrize("count", [FEW, MANY])
def test_an_event_does_not_push_past_an_interactive_poll(count: int) -> None:
    plan = build(known=10)
    fill(plan, count)
    plan.add("urgent", since=0.0, credits_used=180, lane=Lane.INTERACTIVE, poll_at=0.0)
    plan.wake("1-7")
    best = plan.best(1.0, IDLE)
    assert best is not None
    assert best.split_id == "urgent"


@pytest.mark.parametrize("count", [FEW, MANY])
def test_an_event_that_comes_during_a_poll_causes_one_more(count: int) -> None:
    plan = build(known=10)
    fill(plan, count)
    plan.wake("1-0")
    entry = plan.best(1.0, IDLE)
    assert entry is not None
    plan.note_polling(entry)
    plan.wake("1-0")
    assert plan.best(1.0, IDLE) is None
    plan.note_running("1-0", polled_at=1.0)
    assert plan.best(1.1, IDLE) is entry


def test_nothing_is_polled_before_nearly_all_should_be_done() -> None:
    plan = build(known=30)
    plan.add("one", since=0.0, credits_used=180, expects_event=True)
    assert plan.best(0.0, IDLE) is None
    assert plan.next_due() == pytest.approx(quantile(plan, 0.99))


@pytest.mark.parametrize(("timeout", "at"), [(4.0, 2.0), (12.0, 7.0), (30.0, 25.0), (60.0, 54.0), (3600.0, None)])
@pytest.mark.parametrize("count", [0, MANY])
def test_a_split_is_polled_shortly_before_a_deadline(count: int, timeout: float, at: float | None) -> None:
    plan = build(known=30)
    fill(plan, count)
    plan.add("one", since=0.0, credits_used=180, expects_event=True)
    plan.note_deadline("one", now=0.0, deadline=timeout)
    overdue = quantile(plan, 0.99)
    due = overdue if at is None else at
    assert plan.best(due - 0.1, IDLE) is None
    entry = plan.best(due, IDLE)
    assert entry is not None
    assert entry.split_id == "one" or due == overdue
    if due < overdue:
        plan.note_polling(entry)
        plan.note_running("one", polled_at=due)
        assert plan.best(due, IDLE) is None
        assert plan.next_due() > due  # once is enough


def test_a_split_is_polled_before_the_deadline_of_each_waiter() -> None:
    plan = build(known=30)
    plan.add("one", since=0.0, credits_used=180, expects_event=True)
    for timeout in (60.0, 10.0, 30.0):
        plan.note_deadline("one", now=0.0, deadline=timeout)
    polls = []
    for now in range(60):
        if (entry := plan.best(float(now), IDLE)) is not None:
            plan.note_polling(entry)
            plan.note_running("one", polled_at=float(now))
            polls.append(now)
    assert polls == [5, 25, 54]


def test_after_a_wrong_event_a_split_is_polled_like_any_other() -> None:
    plan = build(known=30)
    plan.add("one", since=0.0, credits_used=180, expects_event=True)
    plan.wake("one")
    entry = plan.best(30.0, IDLE)
    assert entry is not None
    plan.note_polling(entry)
    plan.note_running("one", polled_at=30.0)
    assert plan.best(30.0, IDLE) is None
    assert plan.next_due() < 62.0


@pytest.mark.parametrize("median", [3.0, 60.0, 200.0])
@pytest.mark.parametrize("splits", [50, 1000])
def test_with_every_fifth_event_lost_no_split_is_polled_more_than_three_times(splits: int, median: float) -> None:
    polls, _ = simulate(splits, lost=0.2, median=median)
    assert max(polls.values()) <= 3
    assert sum(polls.values()) <= 1.1 * splits


def test_without_events_the_same_splits_are_polled_more_often() -> None:
    polls, _ = simulate(50, lost=1.0, median=60.0, expects_event=False)
    assert max(polls.values()) > 3


def test_with_every_event_arriving_each_split_is_polled_at_once_and_hardly_ever_before() -> None:
    polls, found = simulate(200, lost=0.0, median=60.0)
    assert sum(polls.values()) <= 1.08 * 200  # before anything is known, some events count as lost too early
    assert sorted(found.values())[190] <= 0.21


def test_lost_events_are_found_out_by_the_time_nearly_all_should_be_done() -> None:
    _, found = simulate(200, lost=0.2, median=60.0)
    assert max(found.values()) <= 2.5 * 60.0


def test_an_event_of_an_unknown_split_changes_nothing() -> None:
    plan = build()
    plan.wake("unknown")
    assert plan.best(0.0, IDLE) is None


def test_while_the_overdue_age_is_a_guess_only_the_pathfinder_is_polled_at_it() -> None:
    plan = build()
    fill(plan, FEW)
    long = quantile(plan, 0.99)
    first = plan.best(long, IDLE)
    assert first is not None
    plan.note_polling(first)
    assert plan.best(1.9 * long, IDLE) is None  # no other, until its result is known
    plan.note_running(first.split_id, polled_at=long)
    assert plan.best(long, IDLE) is None  # and the first result holds for all
    assert plan.next_due() >= 1.9 * long


def test_once_enough_is_known_every_missing_event_counts_as_lost_at_the_same_age() -> None:
    plan = build(known=30)
    fill(plan, FEW)
    assert plan.best(1.01 * quantile(plan, 0.99), IDLE) is not None
