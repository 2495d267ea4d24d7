from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from aistemsplitter_async.sandbox.service.window import POLICIES, Window, build_window

# Multiples of 1/64 are exact in binary, so the properties hold to the last bit.
gaps = st.lists(st.integers(0, 64 * 20).map(lambda n: n / 64), min_size=1, max_size=120)
limits = st.integers(1, 12)
MINUTE = 16.0


def run(window: Window, gaps: list[float]) -> list[float]:
    now, admitted = 0.0, []
    for gap in gaps:
        now += gap
        if window.admit(now).admitted:
            admitted.append(now)
    return admitted


def most_in_any_stretch(times: list[float], length: float) -> int:
    return max((sum(t <= u < t + length for u in times) for t in times), default=0)


@given(gaps, limits)
def test_no_period_of_a_minute_has_more_than_the_limit_under_a_sliding_window(gaps: list[float], limit: int) -> None:
    admitted = run(build_window("sliding", limit=limit, minute=MINUTE), gaps)
    assert most_in_any_stretch(admitted, MINUTE) <= limit


def test_a_fixed_window_admits_a_double_burst_so_the_sliding_proof_can_fail() -> None:
    window = build_window("fixed", limit=3, minute=MINUTE)
    admitted = run(window, [15.0, 0.25, 0.25, 0.5, 0.25, 0.25])
    assert most_in_any_stretch(admitted, MINUTE) == 6


@given(gaps, limits)
def test_no_fixed_window_holds_more_than_the_limit(gaps: list[float], limit: int) -> None:
    admitted = run(build_window("fixed", limit=limit, minute=MINUTE), gaps)
    for time in admitted:
        assert sum(int(other // MINUTE) == int(time // MINUTE) for other in admitted) <= limit


@given(gaps, limits, st.integers(1, 6))
def test_a_bucket_never_admits_more_than_its_burst_and_its_refill(gaps: list[float], limit: int, burst: int) -> None:
    admitted = run(build_window("bucket", limit=limit, minute=MINUTE, burst=burst), gaps)
    for i, first in enumerate(admitted):
        for n, last in enumerate(admitted[i:], start=1):
            assert n <= burst + (last - first) * limit / MINUTE + 1e-6


@given(gaps, limits)
def test_a_counter_window_stays_below_twice_the_limit_in_any_period(gaps: list[float], limit: int) -> None:
    admitted = run(build_window("counter", limit=limit, minute=MINUTE), gaps)
    assert most_in_any_stretch(admitted, MINUTE) < 2 * limit + 1
    for time in admitted:
        assert sum(int(other // MINUTE) == int(time // MINUTE) for other in admitted) <= limit


@given(st.sampled_from(POLICIES), gaps, limits)
def test_waiting_out_retry_after_is_always_enough(policy: str, gaps: list[float], limit: int) -> None:
    window = build_window(policy, limit=limit, minute=MINUTE)
    now = 0.0
    for gap in gaps:
        now += gap
        verdict = window.admit(now)
        if not verdict.admitted:
            assert verdict.retry_after > 0
            now += verdict.retry_after + 1e-6  # headers are rounded up to a millisecond at least
            assert window.admit(now).admitted


@given(st.sampled_from(("fixed", "sliding")), gaps, limits)
def test_retry_after_is_not_longer_than_needed(policy: str, gaps: list[float], limit: int) -> None:
    window = build_window(policy, limit=limit, minute=MINUTE)
    now = 0.0
    for gap in gaps:
        now += gap
        verdict = window.admit(now)
        if not verdict.admitted:
            assert not window.admit(now + verdict.retry_after - 1 / 128).admitted
            return


@given(st.sampled_from(POLICIES), limits)
def test_a_refused_request_takes_no_slot(policy: str, limit: int) -> None:
    polite, stubborn = (build_window(policy, limit=limit, minute=MINUTE) for _ in range(2))
    for window in (polite, stubborn):
        for _ in range(limit):
            window.admit(0.0)
    verdict = polite.admit(1 / 64)
    for n in range(50):
        stubborn.admit(1 / 64 + n / 6400)
    later = 1 / 64 + verdict.retry_after + 1e-6
    assert polite.admit(later).admitted
    assert stubborn.admit(later).admitted


@given(st.sampled_from(POLICIES), gaps, limits)
def test_a_verdict_counts_down_and_resets(policy: str, gaps: list[float], limit: int) -> None:
    window = build_window(policy, limit=limit, minute=MINUTE)
    now = 0.0
    for gap in gaps:
        now += gap
        verdict = window.admit(now)
        assert 0 <= verdict.remaining <= limit
        assert (verdict.retry_after > 0) == (verdict.remaining == 0)
        assert 0 <= verdict.reset_after <= 2 * MINUTE


def test_a_burst_smaller_than_the_rate_refuses_a_minutes_worth_at_once() -> None:
    window = build_window("bucket", limit=60, minute=60.0, burst=5)
    assert sum(window.admit(0.0).admitted for _ in range(60)) == 5
    assert window.admit(1.0).admitted


@pytest.mark.parametrize(
    "arguments",
    [
        {"policy": "sliding", "limit": 0, "minute": 60.0},
        {"policy": "sliding", "limit": 1, "minute": 0.0},
        {"policy": "sliding", "limit": 1, "minute": float("nan")},
        {"policy": "bucket", "limit": 1, "minute": 60.0, "burst": 0},
        {"policy": "fixed", "limit": 1, "minute": 60.0, "burst": 2},
        {"policy": "leaky", "limit": 1, "minute": 60.0},
    ],
)
def test_a_window_that_makes_no_sense_is_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must be|only the bucket"):
        build_window(**arguments)  # type: ignore[arg-type]
