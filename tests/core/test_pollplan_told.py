"""Splits whose end a webhook announces: looked at when told, and now and then in case the event was lost."""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter

import pytest

from aistemsplitter_async._gate.budget import Budget
from aistemsplitter_async._gate.lanes import Lane
from aistemsplitter_async._poll.plan import PollPlan
from aistemsplitter_async.config import PollPolicy

IDLE = Budget(limit=60, per=60.0)
FEW, MANY = 20, 300


def build(known: int = 0) -> PollPlan:
    plan = PollPlan(PollPolicy(jitter=0.0), random=lambda: 0.5)
    for _ in range(known):
        plan.model.learn(180, 60.0)
    return plan


def fill(plan: PollPlan, count: int, *, lane: Lane = Lane.BULK) -> None:
    for number in range(count):
        plan.add(f"{lane:d}-{number}", since=0.0, credits_used=180, lane=lane, told=True)


def simulate(splits: int, *, lost: float, median: float, told: bool = True) -> tuple[Counter[str], dict[str, float]]:
    """Return how often each split was looked at and when it was found, with a budget that never runs out."""
    rng = random.Random(splits)  # noqa: S311
    plan = PollPlan(PollPolicy(), random=rng.random)
    ends = {str(n): n * 0.1 + median * rng.lognormvariate(0, 0.25) for n in range(splits)}
    announced = [(end + 0.2, name) for name, end in ends.items() if rng.random() >= lost]
    heapq.heapify(announced)
    looks, found = Counter[str](), dict[str, float]()
    for n in range(splits):
        plan.add(str(n), since=n * 0.1, credits_used=180, lane=Lane.BULK, told=told)
    now = splits * 0.1
    while len(found) < splits:
        while announced and announced[0][0] <= now:
            plan.wake(heapq.heappop(announced)[1])
        entry = plan.best(now, IDLE)
        if entry is None:
            now = min(plan.next_due(), announced[0][0] if announced else math.inf)
            continue
        name = entry.split_id
        looks[name] += 1
        plan.note_looking(entry)
        if now >= ends[name]:
            found[name] = now - ends[name]
            plan.note_done(name, ends[name] - entry.since, looked_at=now)
        else:
            plan.note_running(name, looked_at=now)
    return looks, found


@pytest.mark.parametrize("count", [FEW, MANY])
def test_an_announced_split_is_due_at_once_and_before_all_others_of_its_lane(count: int) -> None:
    plan = build(known=10)
    fill(plan, count)
    plan.add("overdue", since=-1000.0, credits_used=180, lane=Lane.BULK)
    plan.wake("1-7")
    plan.wake("1-3")
    chosen = [plan.best(1.0, IDLE)]
    plan.note_looking(chosen[0])  # type: ignore[arg-type]
    chosen.append(plan.best(1.0, IDLE))
    assert {entry and entry.split_id for entry in chosen} == {"1-7", "1-3"}


@pytest.mark.parametrize("count", [FEW, MANY])
def test_an_announcement_does_not_push_past_an_interactive_look(count: int) -> None:
    plan = build(known=10)
    fill(plan, count)
    plan.add("urgent", since=0.0, credits_used=180, lane=Lane.INTERACTIVE, look_at=0.0)
    plan.wake("1-7")
    best = plan.best(1.0, IDLE)
    assert best is not None
    assert best.split_id == "urgent"


@pytest.mark.parametrize("count", [FEW, MANY])
def test_a_split_announced_while_a_look_is_under_way_is_looked_at_once_more(count: int) -> None:
    plan = build(known=10)
    fill(plan, count)
    plan.wake("1-0")
    entry = plan.best(1.0, IDLE)
    assert entry is not None
    plan.note_looking(entry)
    plan.wake("1-0")
    assert plan.best(1.0, IDLE) is None
    plan.note_running("1-0", looked_at=1.0)
    assert plan.best(1.1, IDLE) is entry


def test_nothing_is_looked_at_before_nearly_all_should_be_done() -> None:
    plan = build(known=30)
    plan.add("one", since=0.0, credits_used=180, told=True)
    assert plan.best(0.0, IDLE) is None
    assert plan.next_due() == pytest.approx(plan.model.quantile(180, 0.99))


@pytest.mark.parametrize(("timeout", "at"), [(4.0, 2.0), (12.0, 7.0), (30.0, 25.0), (60.0, 54.0), (3600.0, None)])
@pytest.mark.parametrize("count", [0, MANY])
def test_nobody_gives_up_without_a_look_shortly_before(count: int, timeout: float, at: float | None) -> None:
    plan = build(known=30)
    fill(plan, count)
    plan.add("one", since=0.0, credits_used=180, told=True)
    plan.note_deadline("one", now=0.0, deadline=timeout)
    healing = plan.model.quantile(180, 0.99)
    due = healing if at is None else at
    assert plan.best(due - 0.1, IDLE) is None
    entry = plan.best(due, IDLE)
    assert entry is not None
    assert entry.split_id == "one" or due == healing
    if due < healing:
        plan.note_looking(entry)
        plan.note_running("one", looked_at=due)
        assert plan.best(due, IDLE) is None
        assert plan.next_due() > due  # once is enough


def test_each_of_those_who_wait_for_one_split_has_a_look_before_giving_up() -> None:
    plan = build(known=30)
    plan.add("one", since=0.0, credits_used=180, told=True)
    for timeout in (60.0, 10.0, 30.0):
        plan.note_deadline("one", now=0.0, deadline=timeout)
    looks = []
    for now in range(60):
        if (entry := plan.best(float(now), IDLE)) is not None:
            plan.note_looking(entry)
            plan.note_running("one", looked_at=float(now))
            looks.append(now)
    assert looks == [5, 25, 54]


def test_an_announcement_that_was_wrong_leaves_an_ordinary_split() -> None:
    plan = build(known=30)
    plan.add("one", since=0.0, credits_used=180, told=True)
    plan.wake("one")
    entry = plan.best(30.0, IDLE)
    assert entry is not None
    plan.note_looking(entry)
    plan.note_running("one", looked_at=30.0)
    assert plan.best(30.0, IDLE) is None
    assert plan.next_due() < 62.0


@pytest.mark.parametrize("median", [3.0, 60.0, 200.0])
@pytest.mark.parametrize("splits", [50, 1000])
def test_with_every_fifth_event_lost_no_split_is_looked_at_more_than_three_times(splits: int, median: float) -> None:
    looks, _ = simulate(splits, lost=0.2, median=median)
    assert max(looks.values()) <= 3
    assert sum(looks.values()) <= 1.1 * splits


def test_without_announcements_the_same_splits_are_looked_at_more_often() -> None:
    looks, _ = simulate(50, lost=1.0, median=60.0, told=False)
    assert max(looks.values()) > 3


def test_with_every_event_arriving_each_split_is_looked_at_at_once_and_hardly_ever_before() -> None:
    looks, found = simulate(200, lost=0.0, median=60.0)
    assert sum(looks.values()) <= 1.08 * 200  # before anything is known, the healing look comes early for some
    assert sorted(found.values())[190] <= 0.21


def test_lost_events_are_found_out_by_the_time_nearly_all_should_be_done() -> None:
    _, found = simulate(200, lost=0.2, median=60.0)
    assert max(found.values()) <= 2.5 * 60.0


def test_announcing_an_unknown_split_changes_nothing() -> None:
    plan = build()
    plan.wake("nobody")
    assert plan.best(0.0, IDLE) is None


def test_while_what_is_long_is_a_guess_only_the_pathfinder_goes_by_it() -> None:
    plan = build()
    fill(plan, FEW)
    long = plan.model.quantile(180, 0.99)
    first = plan.best(long, IDLE)
    assert first is not None
    plan.note_looking(first)
    assert plan.best(1.9 * long, IDLE) is None  # nobody else, until it is known what it found
    plan.note_running(first.split_id, looked_at=long)
    assert plan.best(long, IDLE) is None  # and what the first look brought holds for all
    assert plan.next_due() >= 1.9 * long


def test_once_enough_is_known_every_announcement_counts_as_lost_at_the_same_age() -> None:
    plan = build(known=30)
    fill(plan, FEW)
    assert plan.best(1.01 * plan.model.quantile(180, 0.99), IDLE) is not None
