"""Looks at a split follow its age, within bounds."""

from __future__ import annotations

from hypothesis import given, strategies as st

from aistemsplitter_async._core.pollplan import plan_look
from aistemsplitter_async.config import PollPolicy

POLICY = PollPolicy(first=1.0, growth=0.1, shortest=1.0, longest=30.0, jitter=0.1)


def test_the_wait_is_a_tenth_of_the_age_between_the_shortest_and_the_longest() -> None:
    waits = [plan_look(POLICY, elapsed=elapsed, random=lambda: 0.5) for elapsed in (0, 5, 10, 60, 100, 300, 1e6)]
    assert waits == [1, 1, 1, 6, 10, 30, 30]


@given(elapsed=st.floats(0, 1e7), chance=st.floats(0, 1, exclude_max=True))
def test_the_jitter_is_at_most_a_tenth_both_ways(elapsed: float, chance: float) -> None:
    exact = plan_look(POLICY, elapsed=elapsed, random=lambda: 0.5)
    assert 0.9 * exact - 1e-9 <= plan_look(POLICY, elapsed=elapsed, random=lambda: chance) <= 1.1 * exact + 1e-9


def test_a_split_of_five_minutes_is_seen_done_within_a_tenth_of_its_time_after_few_looks() -> None:
    elapsed, looks = POLICY.first, 1
    while elapsed < 300:
        elapsed += plan_look(POLICY, elapsed=elapsed, random=lambda: 0.5)
        looks += 1
    assert elapsed - 300 <= 30
    assert looks < 50
