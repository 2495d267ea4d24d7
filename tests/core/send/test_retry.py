"""The fault matrix as it is written down, rule zero, and the arithmetic of waiting."""

from __future__ import annotations

import math
import random as random_module
from datetime import UTC, datetime
from email.utils import format_datetime

import attrs
import pytest
from hypothesis import given, settings, strategies as st

from aistemsplitter_async._send.reactions import Action, action_for, is_ambiguous
from aistemsplitter_async._send.retry import Ambiguity, Attempts, Retry, RetryQuota, plan_retry
from aistemsplitter_async._wire.dates import parse_retry_after
from aistemsplitter_async._wire.error_replies import build_status_error
from aistemsplitter_async._wire.messages import Reply, Stage
from aistemsplitter_async.config import CONFLICT_WINDOW, RetryPolicy
from aistemsplitter_async.errors import (
    AIStemSplitterError,
    APIConnectionError,
    APITimeoutError,
    ConfigurationError,
    IncompleteDownloadError,
    ProtocolError,
    RateLimitedError,
)

POLICY = RetryPolicy()
START = Attempts()
FAILED = Retry(0.0, START)
THROTTLED = Retry(0.0, START, throttled=True)
OWN = b'{"success": false, "error": {"code": "CODE", "message": "of the service itself"}}'
PAGE = b"<html><title>404 Not Found"


def status(code: int, retry_after: float | None = None, body: bytes = OWN) -> AIStemSplitterError:
    headers = {} if retry_after is None else {"retry-after": str(retry_after)}
    return build_status_error(Reply(status=code, headers=headers, body=body), what="test", now=0.0)


FAULTS: dict[str, AIStemSplitterError] = {
    "refused": APIConnectionError("x", may_have_arrived=False),
    "certificate": APIConnectionError("x", may_have_arrived=False, permanent=True),
    "reset": APIConnectionError("x"),
    "timeout": APITimeoutError("x"),
    "garbage": ProtocolError("x"),
    "incomplete": IncompleteDownloadError("x"),
}
CODES = [*range(300, 310), *range(400, 432), 451, 499, *range(500, 512), 599]
FAULTS |= {str(code): status(code) for code in CODES} | {f"{code}-page": status(code, body=PAGE) for code in CODES}

# The written matrix, word for word in short: r retry, 1 one retry, c conflict, o outlast, t throttle, x raise, n new
# reservation, f fresh URLs. Columns: reserve, upload, create, poll, download. Then: is a first create that ends so
# ambiguous?
MATRIX = """
    refused      r r r r r   sure
    certificate  x x x x x   sure
    reset        r r r r r   ambiguous
    timeout      r r r r r   ambiguous
    408          r r r r r   ambiguous
    409          1 n c 1 r   ambiguous
    423          1 n c 1 r   ambiguous
    429          t t t t t   sure
    500          r r r r r   ambiguous
    502          r r r r r   ambiguous
    503          r r r r r   ambiguous
    504          r r r r r   ambiguous
    401          x n x x f   sure
    403          x n x x f   sure
    404          x n x x f   sure
    410          x n x x f   sure
    400          x n x x f   sure
    402          x n x x f   sure
    422          x n x x f   sure
    400-page     o n o r f   ambiguous
    401-page     o n o r f   sure
    403-page     o n o r f   ambiguous
    404-page     o n o r f   ambiguous
    405-page     o n o r f   ambiguous
    410-page     o n o r f   ambiguous
    402-page     x n x x f   sure
    422-page     x n x x f   sure
    408-page     r r r r r   ambiguous
    409-page     1 n c 1 r   ambiguous
    429-page     t t t t t   sure
    503-page     r r r r r   ambiguous
    garbage      o n o r r   ambiguous
    301          x x x x x   ambiguous
    302          o x o r x   ambiguous
    303-page     o x o r x   ambiguous
    307          o x o r x   ambiguous
    308          x x x x x   ambiguous
"""
LETTERS = {
    "r": Action.RETRY,
    "1": Action.ONCE,
    "c": Action.CONFLICT,
    "o": Action.OUTLAST,
    "t": Action.THROTTLE,
    "x": Action.RAISE,
    "n": Action.RENEW,
    "f": Action.REFRESH,
}
COLUMNS = [Stage.RESERVE, Stage.UPLOAD, Stage.CREATE, Stage.GET, Stage.DOWNLOAD]
ROWS = [line.split() for line in MATRIX.strip().splitlines()]


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_the_fault_matrix_is_what_happens(row: list[str]) -> None:
    fault, *letters, ambiguous = row
    error = FAULTS[fault]
    for stage, letter in zip(COLUMNS, letters, strict=True):
        assert action_for(stage, error) is LETTERS[letter], stage
    assert action_for(Stage.CREDITS, error) is LETTERS[letters[0]]
    assert is_ambiguous(error) is (ambiguous == "ambiguous")


@pytest.mark.parametrize("code", [100, 103, 304, 399, 600, 999])
def test_an_undefined_status_is_raised_and_leaves_a_create_ambiguous(code: int) -> None:
    assert {action_for(stage, status(code)) for stage in Stage} == {Action.RAISE}
    assert is_ambiguous(status(code))


def test_what_never_left_this_machine_is_not_ambiguous() -> None:
    assert not is_ambiguous(ConfigurationError("the hook refused"))


def plan(
    stage: Stage, error: AIStemSplitterError, attempts: Attempts = START, *, now: float = 0.0, random: float = 0.5
) -> Retry | None:
    return plan_retry(POLICY, stage, attempts, error, now=now, random=lambda: random)


def exhaust(stage: Stage, error: AIStemSplitterError) -> int:
    """Return how many attempts are made before giving up, if all end in `error`."""
    attempts, now = START, 0.0
    for made in range(1, 1000):
        decision = plan(stage, error, attempts, now=now)
        if decision is None:
            return made
        attempts, now = decision.attempts, now + decision.delay
    raise AssertionError


def is_open_after(faults: list[str], *, replay: bool = False) -> bool:
    """Return whether a create may have happened once its attempts ended like this."""
    ambiguity = Ambiguity(open=replay)
    for fault in faults:
        ambiguity.note_sent()
        assert ambiguity.open, "not known yet"
        ambiguity.note_failure(FAULTS[fault])
    return ambiguity.open


@pytest.mark.parametrize(
    ("stage", "fault", "made"),
    [
        (Stage.CREDITS, "reset", 4),
        (Stage.RESERVE, "500", 4),
        (Stage.UPLOAD, "timeout", 4),
        (Stage.CREATE, "reset", 5),
        (Stage.CREATE, "garbage", 10),
        (Stage.CREATE, "404-page", 10),
        (Stage.RESERVE, "403-page", 7),
        (Stage.GET, "503", 4),
        (Stage.DOWNLOAD, "incomplete", 4),
        (Stage.GET, "409", 2),
        (Stage.RESERVE, "garbage", 7),
        (Stage.CREATE, "certificate", 1),
        (Stage.CREATE, "308", 1),
        (Stage.UPLOAD, "403", 1),
        (Stage.DOWNLOAD, "404", 1),
        (Stage.GET, "429", 7),
        (Stage.CREATE, "429", 7),
    ],
)
def test_each_fault_is_tried_as_often_as_written(stage: Stage, fault: str, made: int) -> None:
    assert exhaust(stage, FAULTS[fault]) == made


def test_rule_zero_no_failure_of_a_replay_ever_settles_the_ambiguity() -> None:
    for fault in FAULTS:
        assert is_open_after([fault], replay=True), fault
        assert is_open_after(["reset", fault]), fault


@given(st.lists(st.sampled_from(sorted(FAULTS)), max_size=12), st.booleans())
def test_ambiguity_begins_with_the_first_ambiguous_failure_and_stays(faults: list[str], replay: bool) -> None:
    assert is_open_after(faults, replay=replay) is (replay or any(is_ambiguous(FAULTS[fault]) for fault in faults))


def test_only_an_answer_settles_the_ambiguity() -> None:
    ambiguity = Ambiguity(open=True)
    ambiguity.note_sent()
    ambiguity.note_success()
    assert not ambiguity.open


@pytest.mark.parametrize("fault", ["401", "402", "403", "422", "429", "refused", "certificate"])
def test_a_first_create_that_was_refused_is_certain_not_to_have_happened(fault: str) -> None:
    assert not is_open_after([fault])


def test_a_conflict_is_replayed_for_a_minute_however_long_the_call_had_waited_before() -> None:
    first = plan(Stage.CREATE, FAULTS["409"], now=0.0)
    assert isinstance(first, Retry), "an hour at the gate is no reason to give up on a twin"
    assert plan(Stage.CREATE, FAULTS["423"], first.attempts, now=CONFLICT_WINDOW - 0.1)
    assert plan(Stage.CREATE, FAULTS["409"], first.attempts, now=CONFLICT_WINDOW) is None


def test_conflicts_are_not_limited_by_the_number_of_attempts() -> None:
    assert exhaust(Stage.CREATE, FAULTS["409"]) > POLICY.create_attempts


@given(failures=st.integers(0, 60), chance=st.floats(0, 1, exclude_max=True))
def test_the_backoff_is_full_jitter_below_its_ceiling(failures: int, chance: float) -> None:
    policy = RetryPolicy(attempts=100)
    attempts = Attempts(failures=failures)
    decision = plan_retry(policy, Stage.GET, attempts, FAULTS["500"], now=0.0, random=lambda: chance)
    assert isinstance(decision, Retry)
    assert decision.delay == pytest.approx(chance * min(8.0, 0.5 * 2.0**failures))
    assert decision.attempts.failures == failures + 1
    assert not decision.throttled


@given(throttles=st.integers(0, 5), chance=st.floats(0, 1, exclude_max=True))
def test_a_throttle_without_retry_after_backs_off_less_up_to_a_quarter(throttles: int, chance: float) -> None:
    attempts = Attempts(throttles=throttles)
    decision = plan(Stage.GET, FAULTS["429"], attempts, random=chance)
    assert isinstance(decision, Retry)
    ceiling = min(32.0, 2.0 * 2.0**throttles)
    assert 0.75 * ceiling <= decision.delay <= ceiling
    assert decision.throttled
    assert decision.attempts.failures == 0, "a busy key is not a broken service"


@given(
    asked=st.floats(0.001, 120), chance=st.floats(0, 1, exclude_max=True), code=st.sampled_from([408, 429, 500, 503])
)
def test_a_usable_retry_after_is_never_shortened_and_stretched_by_a_tenth_at_most(
    asked: float, chance: float, code: int
) -> None:
    error = attrs_like(code, asked)
    decision = plan(Stage.GET, error, random=chance)
    assert isinstance(decision, Retry)
    assert decision.delay >= asked
    assert decision.delay <= max(asked * 1.1 + 1e-9, 0.5)


def attrs_like(code: int, asked: float) -> AIStemSplitterError:
    error = build_status_error(Reply(status=code), what="test", now=0.0)
    error.retry_after = asked
    return error


@pytest.mark.parametrize("code", [429, 500, 503])
@pytest.mark.parametrize("asked", [120.1, 3600.0, 1e12, math.inf])
def test_a_retry_after_above_the_inline_cap_is_the_callers_to_decide(code: int, asked: float) -> None:
    assert plan(Stage.GET, attrs_like(code, asked)) is None


def test_throttle_waits_are_counted_and_summed_apart_from_failures() -> None:
    worn = Attempts(failures=3, throttles=5)
    assert isinstance(plan(Stage.GET, FAULTS["429"], worn), Retry)
    assert plan(Stage.GET, FAULTS["429"], attrs.evolve(worn, throttles=6)) is None
    assert plan(Stage.GET, FAULTS["500"], attrs.evolve(worn, throttles=6)) is None
    assert isinstance(plan(Stage.GET, status(429, 100), Attempts(throttled=180), random=0.0), Retry)
    assert plan(Stage.GET, status(429, 100), Attempts(throttled=201), random=0.0) is None


NOON = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", None),
        ("1", 1.0),
        (" 120 ", 120.0),
        ("000000000000005", 5.0),
        ("1.5", 1.5),
        ("0.3333333333333333", 0.3333333333333333),
        (".5", 0.5),
        ("3.", 3.0),
        ("-5", None),
        ("+5", None),
        ("1e3", None),
        ("1_000", None),
        ("0x10", None),
        ("٣", None),
        ("³", None),
        ("", None),
        (" ", None),
        (".", None),
        ("1.2.3", None),
        ("soon", None),
        ("inf", None),
        ("nan", None),
        ("Mon, 04 May 2026 12:00:30 GMT", 30.0),
        ("Mon, 04 May 2026 12:00:30 -0000", 30.0),
        ("Mon, 04 May 2026 12:00:30 +0000", 30.0),
        ("Mon, 04 May 2026 14:00:30 +0200", 30.0),
        ("Monday, 04-May-26 12:00:30 GMT", 30.0),
        ("Mon May  4 12:00:30 2026", 30.0),
        ("Mon, 04 May 2026 12:00:00 GMT", None),
        ("Mon, 04 May 2026 11:59:59 GMT", None),
        ("Thu, 01 Jan 1970 00:00:00 GMT", None),
        ("Mon, 04 May 99999 12:00:30 GMT", None),
        ("Mon, 99 May 2026 12:00:30 GMT", None),
        ("Mon, 04 May 2026 12:00:30 +9999", None),
    ],
)
def test_the_retry_after_table(value: str, seconds: float | None) -> None:
    date = format_datetime(NOON, usegmt=True)
    assert parse_retry_after(value, date=date, now=0.0) == seconds, "against the reply's own Date"
    assert parse_retry_after(value, now=NOON.timestamp()) == seconds, "against our clock where there is no Date"
    assert parse_retry_after(value, date="garbage", now=NOON.timestamp()) == seconds


def test_no_retry_after_asks_for_nothing() -> None:
    assert parse_retry_after(None) is None


def test_an_absurd_retry_after_is_longer_than_any_cap() -> None:
    for value in ("9" * 12, "9" * 20, "9" * 5000, "Fri, 31 Dec 9999 23:59:59 GMT"):
        assert (parse_retry_after(value, now=NOON.timestamp()) or 0) > 3600


@settings(max_examples=50)
@given(
    st.text(max_size=40)
    | st.from_regex(
        r"(Mon, )?[0-9]{1,3} (Jan|Feb|xyz) [0-9]{1,6} [0-9]{1,3}:[0-9]{2}( [+-]?[0-9]{1,6})?", fullmatch=True
    ),
    st.text(max_size=20),
)
def test_any_header_text_gives_positive_seconds_or_nothing(value: str, date: str) -> None:
    seconds = parse_retry_after(value, date=date, now=0.0)
    assert seconds is None or seconds > 0


class Service:
    """A client's steady traffic, a call a second, against a service that fails with some probability."""

    def __init__(self, failing: float, policy: RetryPolicy = POLICY) -> None:
        self.quota = RetryQuota(policy, now=0.0)
        self.dice = random_module.Random(7)  # noqa: S311  # the same every time
        self.failing = failing
        self.denied = self.retries = 0

    def run(self, begin: int, end: int) -> None:
        for second in range(begin, end):
            for _ in range(POLICY.attempts):
                if self.dice.random() >= self.failing:
                    self.quota.succeed()
                    break
                if not self.quota.take(FAILED, now=float(second)):
                    self.denied += 1
                    break
                self.retries += 1


def test_a_steady_eight_percent_of_failures_never_dries_the_quota_out() -> None:
    service = Service(failing=0.08)
    service.run(0, 24 * 3600)
    assert service.retries > 6000
    assert service.denied == 0


def test_without_the_refill_the_same_failures_do_dry_it_out() -> None:
    service = Service(failing=0.08, policy=RetryPolicy(refill=0.0))
    service.run(0, 24 * 3600)
    assert service.denied > 0


def test_a_total_outage_is_multiplied_by_little_and_forgotten_soon() -> None:
    service = Service(failing=1.0)
    service.run(0, 600)
    assert service.retries <= (500 + 600 * 5) / 14 + 1, "600 calls, each of which would have made 3 retries"
    service.failing = 0.08
    denied = service.denied
    service.run(660, 1260)
    assert service.denied == denied, "a minute later it is as if nothing had been"


def test_a_throttle_costs_less_than_a_failure_and_a_success_earns() -> None:
    quota = RetryQuota(RetryPolicy(quota=14.0, refill=0.0), now=0.0)
    assert quota.take(THROTTLED, now=0.0)
    assert quota.take(THROTTLED, now=0.0)
    assert not quota.take(THROTTLED, now=0.0)
    assert not quota.take(FAILED, now=0.0)
    quota.succeed()
    assert quota.take(THROTTLED, now=0.0)
    for _ in range(100):
        quota.succeed()
    assert quota.take(FAILED, now=0.0)
    assert not quota.take(FAILED, now=0.0), "it never holds more than it began with"


def test_a_throttle_is_paid_once_for_all_the_calls_it_refuses() -> None:
    quota = RetryQuota(RetryPolicy(quota=10.0, refill=0.0), now=0.0)
    refused = Retry(30.0, START, throttled=True)
    assert all(quota.take(refused, now=1.0 + n / 100) for n in range(1000))
    assert quota.take(refused, now=31.0)
    assert not quota.take(refused, now=61.0)


def test_a_rate_limited_error_keeps_what_the_server_asked_for() -> None:
    error = status(429, 3600)
    assert isinstance(error, RateLimitedError)
    assert error.retry_after == 3600
