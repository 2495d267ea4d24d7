"""The cost of a batch, and the time that the key's limit makes it take."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given, settings, strategies as st

from aistemsplitter_async.batch.preflight import charged_credits, plan_wall_seconds
from aistemsplitter_async.config import RateLimit

PER_MINUTE = RateLimit(60)


def test_each_track_is_charged_by_itself_and_rounded_up() -> None:
    assert [charged_credits(seconds) for seconds in (180.0, 180.5, 0.25)] == [180, 181, 1]


def test_a_batch_of_nothing_takes_no_time() -> None:
    assert plan_wall_seconds(PER_MINUTE, uploads=0, urls=0, processing=60) == 0.0


@pytest.mark.parametrize("limit", [None, RateLimit()])
def test_without_a_limit_no_time_is_promised(limit: RateLimit | None) -> None:
    assert plan_wall_seconds(limit, uploads=1, urls=1, processing=60) is None


@pytest.mark.parametrize(
    ("limit", "uploads", "urls", "seconds"),
    [
        (PER_MINUTE, 0, 1, 60),  # the processing time alone
        (PER_MINUTE, 0, 30, 60),  # 60 requests fit a window
        (PER_MINUTE, 0, 60, 60),  # 120 do not, but the last 60 are polls
        (PER_MINUTE, 0, 61, 120),  # the last create is in the second window
        (PER_MINUTE, 0, 100, 180),  # 200 requests: three windows have passed
        (PER_MINUTE, 40, 0, 120),
        (PER_MINUTE, 90, 0, 240),  # 270 requests are four windows; the last create comes after two
        (RateLimit(1), 0, 2, 180),
        (RateLimit(60, policy="bucket"), 0, 30, 60),
        (RateLimit(60, policy="bucket"), 0, 100, 140),
        (PER_MINUTE.scaled(0.1), 0, 100, 66),
    ],
)
def test_the_time_is_the_bound_of_the_keys_limit(limit: RateLimit, uploads: int, urls: int, seconds: float) -> None:
    assert plan_wall_seconds(limit, uploads=uploads, urls=urls, processing=60) == pytest.approx(seconds)


@settings(max_examples=60)
@given(st.integers(1, 8), st.integers(0, 6), st.integers(0, 6), st.sampled_from([0.5, 7.0, 25.0]))
def test_no_schedule_that_keeps_the_limit_is_quicker(requests: int, uploads: int, urls: int, processing: float) -> None:
    """Simulate the greedy schedule: every create as early as the window lets it, then the polls."""
    bound = plan_wall_seconds(RateLimit(requests, 10.0), uploads=uploads, urls=urls, processing=processing)
    sent: deque[float] = deque()

    def send(earliest: float) -> float:
        """Send a request as soon as fewer than the limit are in the sliding window."""
        at = max(earliest, sent[-requests] + 10.0 if len(sent) >= requests else 0.0)
        sent.append(at)
        return at

    ready = [max(send(0.0) for _ in range(2)) + processing for _ in range(uploads)]
    ready += [send(0.0) + processing for _ in range(urls)]
    makespan = max((send(at) for at in sorted(ready)), default=0.0)
    assert bound is not None
    assert makespan >= bound


def test_of_several_limits_the_tightest_bounds_the_time() -> None:
    both = RateLimit(60, further=(RateLimit(1000, 86_400.0),))
    days = [plan_wall_seconds(both, uploads=count, urls=0, processing=60) for count in (100, 334, 1000)]
    assert days == [plan_wall_seconds(PER_MINUTE, uploads=100, urls=0, processing=60), 86_400.0, 2 * 86_400.0]
