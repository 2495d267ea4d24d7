"""What may pass: told by who said it, waited out with growing pauses, and never for longer than it says."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from aistemsplitter_async._send.reactions import Action, action_for, is_ambiguous, is_outage, is_refused, wait_time
from aistemsplitter_async._send.retry import Attempts, Streak, plan_pause, plan_retry
from aistemsplitter_async._wire.error_replies import build_status_error
from aistemsplitter_async._wire.messages import Reply, Stage
from aistemsplitter_async.config import MOST_PAUSES, RetryPolicy
from aistemsplitter_async.errors import (
    AIStemSplitterError,
    APIConnectionError,
    APIStatusError,
    AuthenticationError,
    ProtocolError,
    StemsExpiredError,
    SubmissionUncertainError,
)
from aistemsplitter_async.models import Submission

POLICY = RetryPolicy()
OWN = [
    b'{"success": false, "error": {"code": "NOT_FOUND", "message": "no"}}',
    b'{"error": {"code": "NOT_FOUND"}}',
    b'{"success": false, "error": "NOT_FOUND", "message": "flat, as the upload worker says it"}',
    b'{"success": false, "error": {"message": "without a code"}}',
    b'{"success": false}',
]
PAGES = [
    b"",
    b"<html><head><title>403 Forbidden</title></head></html>",
    b"Access denied",
    b'{"message": "Forbidden"}',
    b'{"timestamp": "2026-05-04T10:00:00Z", "status": 404, "error": "Not Found", "path": "/v1/audio/splits"}',
    b'{"detail": "Not Found"}',
    b'{"error": {"code": 404, "message": "no such route"}}',
    b"[]",
    b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
]
GATEWAYS = [400, 401, 403, 404, 405, 410, 413, 421, 431, 451]


def status(code: int, body: bytes, **headers: str) -> APIStatusError:
    return build_status_error(Reply(status=code, headers=headers, body=body), what="test", now=0.0)


@pytest.mark.parametrize("code", GATEWAYS)
@pytest.mark.parametrize("body", OWN)
def test_the_apis_own_word_is_final_and_definite(code: int, body: bytes) -> None:
    error = status(code, body)
    assert error.code is not None
    assert action_for(Stage.CREATE, error) is action_for(Stage.RESERVE, error) is Action.RAISE
    assert not is_ambiguous(error)
    assert not is_outage(error)
    assert is_refused(error) is (code not in (401, 403))


@pytest.mark.parametrize("code", GATEWAYS)
def test_a_page_is_not_the_apis_word_so_it_may_pass_and_settles_nothing(code: int) -> None:
    for error in (status(code, body) for body in PAGES):
        assert error.code is None
        assert action_for(Stage.CREATE, error) is action_for(Stage.RESERVE, error) is Action.OUTLAST
        assert is_ambiguous(error) is (code != 401)
        assert is_outage(error)
        assert not is_refused(error)
        assert isinstance(error, AuthenticationError) is (code in (401, 403)), "the class is told by the status alone"


def test_a_replay_is_judged_as_the_answer_it_got() -> None:
    for code in GATEWAYS:
        for word, passes in ((None, True), ("NO", False)):
            uncertain = SubmissionUncertainError("?", submission=Submission("k", b""), status_code=code, code=word)
            assert is_outage(uncertain) is passes


@pytest.mark.parametrize(
    ("error", "known", "unknown"),
    [
        (status(404, OWN[0]), 120, 5),
        (status(410, OWN[0]), 120, 5),
        (status(404, PAGES[1]), 120, 5),
        (status(403, PAGES[1]), 120, 120),
        (status(401, OWN[0]), 0, 0),
        (status(403, OWN[0]), 0, 0),
        (status(400, OWN[0]), 0, 0),
        (status(422, OWN[0]), 0, 0),
        (status(302, b""), 120, 120),
        (status(301, b""), 0, 0),
        (status(409, OWN[0]), 120, 120),
        (ProtocolError("a web page"), 120, 120),
        (status(503, b""), math.inf, math.inf),
        (status(408, b""), math.inf, math.inf),
        (status(425, b""), math.inf, math.inf),
        (status(429, b""), math.inf, math.inf),
        (APIConnectionError("reset"), math.inf, math.inf),
        (APIConnectionError("certificate", permanent=True), 0, 0),
        (StemsExpiredError("refused", status_code=404), 0, 0),
    ],
)
def test_how_long_a_wait_outlasts_each_failure(error: AIStemSplitterError, known: float, unknown: float) -> None:
    assert wait_time(POLICY, error, is_known=True) == known
    assert wait_time(POLICY, error, is_known=False) == unknown


policies = st.builds(
    RetryPolicy,
    pause=st.floats(0, 10),
    pause_cap=st.floats(0.1, 100),
    passing=st.floats(0, 1000),
    passing_paid=st.floats(0, 1000),
)
chances = st.lists(st.floats(0, 1, exclude_max=True), min_size=MOST_PAUSES, max_size=MOST_PAUSES)


@given(policies, chances, st.floats(0, 1000), st.floats(0, 60))
def test_pauses_grow_end_in_time_and_are_bounded_in_number(
    policy: RetryPolicy, chances: list[float], longest: float, took: float
) -> None:
    """Whatever the jitter, and however long each try takes."""
    now, streak, dice, pauses = 1000.0, Streak(since=1000.0), iter(chances), list[float]()
    while (pause := plan_pause(policy, streak, longest=longest, now=now, random=lambda: next(dice))) is not None:
        assert 0 <= pause <= policy.pause_cap
        pauses.append(pause)
        now += pause
        assert now <= 1000.0 + longest + 1e-6, "no try is begun later"
        now += took
        streak = Streak(since=1000.0, pauses=len(pauses))
    assert len(pauses) <= MOST_PAUSES
    least = [0.75 * min(policy.pause_cap, policy.pause * 2.0**n) for n in range(len(pauses))]
    assert all(pause >= low - 1e-9 for pause, low in zip(pauses[:-1], least, strict=False)), "only the last is cut"


@pytest.mark.parametrize("random", [0.0, 0.5, 0.999])
def test_with_the_defaults_two_minutes_take_few_tries_and_the_last_is_at_the_end(random: float) -> None:
    now, pauses = 0.0, 0
    while (pause := plan_pause(POLICY, Streak(0.0, pauses), longest=120, now=now, random=lambda: random)) is not None:
        now, pauses = now + pause, pauses + 1
    assert now == pytest.approx(120)
    assert 8 <= pauses <= 11


def test_a_server_that_says_when_is_not_asked_earlier() -> None:
    assert plan_pause(POLICY, Streak(0.0), longest=5, now=0.0, random=lambda: 0.5, asked=90.0) == 90.0


@pytest.mark.parametrize(("stage", "seconds"), [(Stage.RESERVE, 30), (Stage.CREDITS, 30), (Stage.CREATE, 120)])
@pytest.mark.parametrize("error", [status(403, PAGES[1]), ProtocolError("a web page"), status(307, b"")])
def test_a_call_outlasts_what_may_pass(stage: Stage, seconds: float, error: AIStemSplitterError) -> None:
    attempts, now, tries = Attempts(), 50.0, 1
    while (retry := plan_retry(POLICY, stage, attempts, error, now=now, random=lambda: 0.5)) is not None:
        attempts, now, tries = retry.attempts, now + retry.delay, tries + 1
    assert now == pytest.approx(50.0 + seconds)
    assert tries <= 12


def test_who_wants_no_second_attempt_gets_none() -> None:
    policy = RetryPolicy(attempts=1, create_attempts=1)
    for stage in (Stage.RESERVE, Stage.CREATE):
        assert plan_retry(policy, stage, Attempts(), status(403, b""), now=0.0, random=lambda: 0.5) is None


def test_nobody_else_decides_by_the_class_of_an_error_what_passes() -> None:
    """The poller and the batch had lists of their own, and the lists differed."""
    package = Path(action_for.__code__.co_filename).parents[1]
    for module in ("_poll/poller.py", "batch/patience.py"):
        assert "ServerError" not in (package / module).read_text("utf-8")
