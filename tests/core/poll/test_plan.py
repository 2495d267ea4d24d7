"""When the plan polls which split, and that no order of calls makes it lose a split or grow."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from statistics import NormalDist

import pytest
from hypothesis import given, settings, strategies as st

from aistemsplitter_async._gate.budget import Budget
from aistemsplitter_async._gate.lanes import Lane
from aistemsplitter_async._poll.entry import PlanEntry
from aistemsplitter_async._poll.plan import PollPlan
from aistemsplitter_async._poll.processing import log_credits
from aistemsplitter_async.config import PollPolicy

IDLE = Budget(limit=60, per=60.0)
SCARCE = Budget(limit=60, per=60.0, wanted=10_000, free=lambda within: within)
FEW, MANY = 20, 300


def middle() -> float:
    return 0.5


def build(*, known: int = 0, median: float = 60.0, random: Callable[[], float] = middle) -> PollPlan:
    plan = PollPlan(PollPolicy(), random=random)
    for _ in range(known):
        plan.model.learn(180, median)
    return plan


def quantile(plan: PollPlan, fraction: float) -> float:
    """The age by which this fraction of the usual splits is done."""
    return plan.model.age_at(log_credits(180), NormalDist().inv_cdf(fraction))


def polls_of_one(plan: PollPlan, budget: Budget, *, done_at: float) -> list[float]:
    """Return the ages at which a single split is polled until it is done."""
    plan.add("one", since=0.0, credits_used=180)
    polls, now = list[float](), 0.0
    while now < 100 * done_at + 100:
        entry = plan.best(now, budget)
        if entry is None:
            assert plan.next_due() > now
            now = plan.next_due()
            continue
        polls.append(now)
        plan.note_polling(entry)
        if now >= done_at:
            plan.note_done("one", done_at, polled_at=now)
            return polls
        plan.note_running("one", polled_at=now)
    raise AssertionError("never found")


def drain(plan: PollPlan, now: float, budget: Budget = IDLE) -> list[str]:
    """Return the splits that are due at `now`, best first; every poll fails."""
    found = list[str]()
    while (entry := plan.best(now, budget)) is not None:
        found.append(entry.split_id)
        plan.note_polling(entry)
        plan.note_no_answer(entry.split_id, poll_at=math.inf)
    return found


def fill(plan: PollPlan, count: int, *, lane: Lane = Lane.BULK, since: float = 0.0) -> None:
    for number in range(count):
        plan.add(f"{lane:d}-{number}", since=since + number * 0.01, credits_used=180, lane=lane)


def test_an_empty_plan_has_nothing_and_waits_for_nothing() -> None:
    assert build().best(0.0, IDLE) is None
    assert build().next_due() == math.inf


def test_the_first_poll_comes_when_a_split_can_be_done_and_not_before() -> None:
    plan = build(known=30)
    polls = polls_of_one(plan, IDLE, done_at=60)
    assert quantile(plan, 0.01) < polls[0] <= quantile(plan, 0.1)


def test_no_split_is_polled_before_the_least_age_however_quick_the_server() -> None:
    polls = polls_of_one(build(known=60, median=0.01), IDLE, done_at=0.01)
    assert polls == [pytest.approx(1.67, abs=0.1)]  # as long as its part of the budget takes


@pytest.mark.parametrize("done_at", [40.0, 60.0, 90.0, 300.0])
def test_with_budget_to_spare_a_detection_lags_by_little_of_the_processing_time(done_at: float) -> None:
    polls = polls_of_one(build(known=30, median=done_at), IDLE, done_at=done_at)
    assert polls[-1] - done_at <= max(0.045 * done_at, 1.8)


def test_one_split_never_takes_more_than_its_part_of_the_budget() -> None:
    policy = PollPolicy()
    polls = polls_of_one(build(), IDLE, done_at=200)
    for begin in range(0, 200, 5):
        assert sum(begin <= at < begin + 60 for at in polls) <= policy.budget_share * 60 + 1


@pytest.mark.parametrize("limit", [1, 2, 5, None])
def test_the_smallest_budgets_still_find_it(limit: int | None) -> None:
    for known in (0, 30):
        polls = polls_of_one(build(known=known), Budget(limit=limit, per=60.0), done_at=60)
        assert polls[-1] <= 60 * 5
        if limit is not None and known:  # a pathfinder goes ahead with little, but not with nothing
            assert len(polls) <= 1 + limit * polls[-1] / 60


def test_a_scarce_budget_polls_when_the_split_is_done_with_the_confidence_asked_for() -> None:
    plan = build(known=40)
    polls = polls_of_one(plan, SCARCE, done_at=50)
    assert polls[0] == pytest.approx(quantile(plan, PollPolicy().confidence), rel=0.1)
    assert len(polls) == 1


def first_polls(budget: Budget, splits: int = 10) -> list[tuple[str, float]]:
    """Return which of the splits, created within ten seconds, are polled until the prior says that some may be done."""
    plan = build()
    for number in range(splits):
        plan.add(str(number), since=10.0 * number / splits, credits_used=180)
    polls, now = list[tuple[str, float]](), 9.0
    while now < 26:
        entry = plan.best(now, budget)
        if entry is None:
            assert plan.next_due() > now
            now = plan.next_due()
            continue
        polls.append((entry.split_id, now))
        plan.note_polling(entry)
        assert plan.best(now, budget) is None
        plan.note_running(entry.split_id, polled_at=now)
    return polls


@pytest.mark.parametrize("splits", [10, MANY])
def test_with_nothing_known_the_oldest_goes_ahead_at_ages_that_double(splits: int) -> None:
    polls = first_polls(Budget(limit=60, per=60.0, free=lambda within: 20 + within), splits)
    assert {split for split, _ in polls} == {"0"}
    ages = [age for _, age in polls]
    assert 2 <= len(ages) <= 4
    assert all(later >= 1.9 * earlier for earlier, later in itertools.pairwise(ages))


@pytest.mark.parametrize("splits", [10, MANY])
def test_no_split_goes_ahead_while_no_request_is_to_spare(splits: int) -> None:
    assert first_polls(SCARCE, splits) == []


def test_what_one_of_many_has_shown_makes_all_due_that_are_old_enough() -> None:
    """All slots of a window were needed to create them: when some are free again, all have long been done."""
    plan = build()
    fill(plan, MANY)
    plan.remove("1-0")  # it failed, and taught nothing
    now, polls, budget = 60.0, 0, Budget(limit=600, per=60.0)
    while (entry := plan.best(now, budget)) is not None:
        plan.note_polling(entry)
        plan.note_done(entry.split_id, 20.0, polled_at=now)
        polls += 1
    assert polls == MANY - 1


@pytest.mark.parametrize("count", [FEW, MANY])
def test_the_interactive_lane_goes_before_the_bulk_lane(count: int) -> None:
    plan = build(known=30)
    fill(plan, count, lane=Lane.BULK)
    fill(plan, count, lane=Lane.INTERACTIVE, since=1.0)
    found = drain(plan, 1000.0)
    assert len(found) == 2 * count
    assert {split[0] for split in found[:count]} == {"0"}


@pytest.mark.parametrize("count", [FEW, MANY])
def test_a_raised_split_goes_with_the_interactive_ones_and_only_once(count: int) -> None:
    plan = build(known=30)
    fill(plan, count)
    plan.raise_lane("1-7")
    plan.raise_lane("1-7")
    found = drain(plan, 1000.0)
    assert found[0] == "1-7"
    assert len(found) == len(set(found)) == count


@pytest.mark.parametrize("count", [FEW, MANY])
def test_a_poll_at_a_given_time_is_made_then_whatever_the_plan_says(count: int) -> None:
    plan = build(known=30)
    fill(plan, count)
    plan.add("now", since=5.0, poll_at=5.0, lane=Lane.BULK)
    assert drain(plan, 5.0) == ["now"]
    plan.note_no_answer("now", poll_at=17.0)
    assert plan.best(16.9, IDLE) is None
    assert plan.next_due() == pytest.approx(17.0)
    assert drain(plan, 17.0) == ["now"]


@pytest.mark.parametrize("count", [FEW, MANY])
def test_a_split_with_a_poll_on_its_way_is_not_due(count: int) -> None:
    plan = build(known=30)
    fill(plan, count)
    seen = set[str]()
    while (entry := plan.best(1000.0, IDLE)) is not None:
        assert entry.split_id not in seen
        seen.add(entry.split_id)
        plan.note_polling(entry)
    assert len(seen) == count
    assert plan.next_due() == math.inf


@pytest.mark.parametrize("count", [FEW, MANY])
def test_what_is_noted_about_a_removed_split_is_ignored(count: int) -> None:
    """A waiter may leave, and another come, while a poll is on its way."""
    plan = build(known=30)
    fill(plan, count)
    before = plan.model.median(180)
    for split_id in ("1-3", "never known"):
        plan.remove(split_id)
        plan.remove(split_id)
        plan.raise_lane(split_id)
        plan.note_running(split_id, polled_at=10.0)
        plan.note_no_answer(split_id, poll_at=10.0)
        plan.note_done(split_id, 1e6, polled_at=10.0)
    assert plan.model.median(180) == before
    assert "1-3" not in drain(plan, 1000.0)


@pytest.mark.parametrize("count", [FEW, MANY])
def test_a_split_that_comes_again_is_one_split(count: int) -> None:
    plan = build(known=30)
    fill(plan, count)
    fill(plan, count)
    found = drain(plan, 1000.0)
    assert sorted(found) == sorted(set(found))
    assert len(found) == count


def test_the_server_s_time_is_believed_only_between_our_own_polls() -> None:
    for said, believed in ((1e6, 90.0), (5.0, 80.0), (85.0, 85.0)):
        plan = build()
        plan.add("one", since=0.0, credits_used=180)
        plan.note_running("one", polled_at=80.0)
        plan.note_done("one", said, polled_at=90.0)
        assert plan.model._finished[0][1] == pytest.approx(math.log(believed))


@pytest.mark.parametrize("seconds", [0.0, -3.0])
def test_a_clock_without_resolution_leaves_the_model_as_good_as_our_own_polls(seconds: float) -> None:
    plan = build()
    for number in range(30):
        name, since = str(number), number * 200.0
        plan.add(name, since=since, credits_used=180)
        now = since
        while True:
            now = max(now, plan.next_due() if plan.best(now, IDLE) is None else now)
            entry = plan.best(now, IDLE)
            if entry is None:
                continue
            plan.note_polling(entry)
            if now - since >= 100:
                plan.note_done(name, seconds, polled_at=now)
                break
            plan.note_running(name, polled_at=now)
    assert plan.model.median(180) == pytest.approx(100, rel=0.1)


def test_splits_taken_over_after_a_restart_do_not_teach_that_everything_is_done_at_once() -> None:
    """They were created before `since`, so that the first poll finds them done says nothing about how long it took."""
    plan = build(known=10)
    for number in range(60):
        now = 1000.0 + number
        plan.add(str(number), since=now, poll_at=now)
        entry = plan.best(now, IDLE)
        assert entry is not None
        plan.note_polling(entry)
        plan.note_done(str(number), 62.0 if number % 2 else 0.0, polled_at=now + 0.1)
    assert plan.model.median(180) == pytest.approx(60, rel=0.1)


def test_a_model_that_becomes_quicker_makes_waiting_splits_due_earlier() -> None:
    plan = build(known=30, median=600.0)
    fill(plan, MANY)
    assert plan.best(100.0, IDLE) is None
    for _ in range(64):
        plan.model.learn(180, 30.0)
    for _ in range(MANY):  # a few are rescheduled with every poll
        plan.note_running("1-0", polled_at=1.0)
    assert len(drain(plan, 100.0)) > MANY / 2


def test_a_model_that_becomes_slower_postpones_waiting_splits() -> None:
    plan = build(known=30, median=30.0)
    fill(plan, MANY)
    for _ in range(64):
        plan.model.learn(180, 600.0)
    found = 0
    for _ in range(MANY):
        found += plan.best(100.0, IDLE) is not None
    assert plan.best(100.0, IDLE) is None
    assert found < MANY / 4
    assert plan.next_due() > 300


@pytest.mark.parametrize("turns", [1, 5])
def test_nothing_is_lost_when_few_become_many_and_many_few(turns: int) -> None:
    plan = build(known=30)
    alive = set[str]()
    for turn in range(turns):
        for number in range(MANY):
            name = f"{turn}-{number}"
            plan.add(name, since=0.0, credits_used=180, lane=Lane(number % 2))
            alive.add(name)
            if number % 3 == 0:  # some are on their way at the moment of the change
                entry = plan.best(1000.0, IDLE)
                assert entry is not None
                plan.note_polling(entry)
                plan.note_running(entry.split_id, polled_at=float(number))
        for name in sorted(alive)[:-FEW]:
            plan.remove(name)
            alive.discard(name)
        assert plan.best(1e6, IDLE) is not None
    assert set(drain(plan, 1e9)) == alive


def test_few_and_many_agree_on_when_a_scarce_budget_polls() -> None:
    few, many = build(known=40), build(known=40)
    few.add("0-0", since=0.0, credits_used=180)
    fill(many, MANY, lane=Lane.INTERACTIVE)
    assert few.best(0.0, SCARCE) is None
    assert many.best(0.0, SCARCE) is None
    assert few.next_due() == pytest.approx(many.next_due(), rel=0.06)


def lines(plan: PollPlan) -> int:
    return sum(len(agenda) for agenda in plan._agendas)


def test_the_agendas_do_not_grow_with_what_came_and_went() -> None:
    plan = build(known=30, median=1e5)  # nothing is due for a day, so that nothing clears itself away
    fill(plan, MANY)
    for number in range(100_000):
        plan.add(f"passing-{number}", since=0.0, credits_used=180, lane=Lane(number % 2))
        plan.remove(f"passing-{number}")
    assert lines(plan) <= 12 * MANY + 4096
    assert len(plan._entries) == MANY


def test_the_agendas_do_not_grow_with_polls() -> None:
    plan = build(known=30)
    rng = random.Random(4)  # noqa: S311
    fill(plan, MANY)
    most = 0
    for step in range(20_000):
        name = f"1-{rng.randrange(MANY)}"
        plan.note_no_answer(name, poll_at=1e6 + rng.random())
        if step % 10 == 0:
            plan.best(float(step), IDLE)
        most = max(most, lines(plan))
    assert most <= 12 * MANY + 4096


def test_a_decision_postpones_no_more_than_a_few() -> None:
    """However many have to be postponed when the model changes, no single decision reschedules more than a handful."""
    plan = build(known=30, median=30.0)
    fill(plan, 3000)
    for _ in range(64):
        plan.model.learn(180, 600.0)
    rescheduled = list[PlanEntry]()
    original = plan._reschedule
    plan._reschedule = lambda entry: (rescheduled.append(entry), original(entry))[1]  # type: ignore[method-assign,func-returns-value]
    plan.best(100.0, IDLE)
    assert 0 < len(rescheduled) <= 40


calls = st.lists(
    st.tuples(
        st.sampled_from(["add", "attach", "remove", "raise", "poll", "running", "nothing", "done", "later"]),
        st.integers(0, 11),
        st.floats(-10, 400),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(calls=calls, many=st.booleans(), scarce=st.booleans())
def test_whatever_the_order_of_calls_every_split_stays_in_the_plan_until_it_is_removed(  # noqa: C901
    calls: list[tuple[str, int, float]], many: bool, scarce: bool
) -> None:
    plan, now, budget = build(), 0.0, SCARCE if scarce else IDLE
    if many:
        fill(plan, 196)
    alive = set[str]()
    for what, number, value in calls:
        name = f"split-{number}"
        if what in ("add", "attach"):
            plan.add(
                name, since=now, credits_used=value, lane=Lane(number % 2), poll_at=now if what == "attach" else None
            )
            alive.add(name)
        elif what == "remove":
            plan.remove(name)
            alive.discard(name)
        elif what == "raise":
            plan.raise_lane(name)
        elif what == "poll" and (entry := plan.best(now, budget)) is not None:
            assert not entry.polling
            assert plan._entries[entry.split_id] is entry
            plan.note_polling(entry)
        elif what == "running":
            plan.note_running(name, polled_at=now + value)
        elif what == "nothing":
            plan.note_no_answer(name, poll_at=now + value)
        elif what == "done":
            plan.note_done(name, value, polled_at=now)
            alive.discard(name)
        elif what == "later":
            now += abs(value)
        assert not math.isnan(plan.next_due())
    for name in alive:
        plan.note_running(name, polled_at=now)
    assert alive <= set(drain(plan, 1e12, budget))
