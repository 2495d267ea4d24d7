"""Pauses of the upload worker and the CDN after a 429."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, strategies as st

from aistemsplitter_async import RateLimitedError, RetryPolicy
from aistemsplitter_async._send.pauses import HostPauses
from aistemsplitter_async._send.retry import Attempts, Retry

POLICY = RetryPolicy()
HOST = "cdn.test"


def refused(asked: float | None, *, at: float = 0.0, retry: Retry | None = None) -> HostPauses:
    pauses = HostPauses(POLICY)
    pauses.note_refusal(HOST, asked, retry, now=at)
    return pauses


@given(st.floats(0.001, 1e12), st.floats(0, 1e4))
def test_nothing_is_sent_before_the_host_wants_it_up_to_an_hour(asked: float, later: float) -> None:
    pauses = refused(asked)
    left = min(asked, 3600.0) - later
    if left > POLICY.retry_after_cap:
        with pytest.raises(RateLimitedError) as caught:
            pauses.enter(HOST, now=later)
        assert caught.value.retry_after == pytest.approx(left)
    else:
        assert pauses.enter(HOST, now=later) == pytest.approx(max(0.0, left))
    assert pauses.enter("other.test", now=later) == 0


def test_after_a_long_pause_one_asks_and_the_others_follow_its_answer() -> None:
    pauses = refused(math.inf)
    assert pauses.enter(HOST, now=3600) == 0
    assert [pauses.enter(HOST, now=3600 + later) for later in (0, 1, 31)] == [32, 31, 1]
    pauses.note_answer(HOST)
    assert pauses.enter(HOST, now=3601) == 0


def test_if_there_is_no_answer_the_others_follow_after_a_while() -> None:
    pauses = refused(5000)
    pauses.enter(HOST, now=3600)
    assert pauses.enter(HOST, now=3632) == pauses.enter(HOST, now=3632) == 0


def test_if_it_is_refused_again_the_pause_begins_again() -> None:
    pauses = refused(5000)
    pauses.enter(HOST, now=3600)
    pauses.note_refusal(HOST, 5000, None, now=3605)
    with pytest.raises(RateLimitedError):
        pauses.enter(HOST, now=3606)
    assert pauses.enter(HOST, now=3605 + 3600) == 0


def test_an_answer_that_was_on_its_way_ends_no_pause() -> None:
    pauses = refused(60)
    pauses.note_answer(HOST)
    assert pauses.enter(HOST, now=1) == 59


def test_after_a_short_pause_all_go_on() -> None:
    pauses = refused(60)
    assert [pauses.enter(HOST, now=60) for _ in range(3)] == [0, 0, 0]


def test_a_shorter_pause_does_not_shorten_a_longer_one() -> None:
    pauses = refused(60)
    pauses.note_refusal(HOST, 5, None, now=1)
    assert pauses.enter(HOST, now=2) == 58


def test_without_a_retry_after_the_plan_of_the_call_counts_or_the_backoff() -> None:
    assert refused(None, retry=Retry(9.0, Attempts(), throttled=True)).enter(HOST, now=0) == 9
    assert refused(None).enter(HOST, now=0) == POLICY.throttle_backoff
