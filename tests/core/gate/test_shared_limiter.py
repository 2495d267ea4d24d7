"""A limiter goes through plain JSON, and to another clock, with nothing lost."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings, strategies as st

from aistemsplitter_async._gate.rate_headers import RateAdvice
from aistemsplitter_async._gate.shared_limiter import SharedLimiter, dump_limit, load_limit, strictest
from aistemsplitter_async._gate.window import CountingWindow
from aistemsplitter_async.config import RateLimit, RetryPolicy

PER = 64.0  # with its parts exact in binary, so that a shifted time is the same to the last bit
RETRY = RetryPolicy()
SHIFT = 2.0**20

limits = st.builds(
    RateLimit,
    st.none() | st.integers(1, 6),
    st.just(PER),
    st.sampled_from(["window", "bucket"]),
    further=st.sampled_from([(), (RateLimit(4, 8.0),), (RateLimit(9, 4 * PER), RateLimit(2, 1.0))]),
)
named = st.builds(
    RateAdvice,
    requests=st.integers(1, 6),
    per=st.sampled_from([None, PER, 8.0, 512.0]),
    remaining=st.none() | st.integers(0, 3),
    reset=st.none() | st.sampled_from([1.0, 16.0]),
)
calls = st.one_of(
    st.tuples(st.just("pass"), st.integers(1, 16 * 256).map(lambda parts: parts / 16)),
    st.tuples(st.sampled_from(["take", "settle", "restore", "refuse"]), st.none() | st.sampled_from([0.0, 4.0])),
    st.tuples(st.just("adopt"), named),
)


class Life:
    """A limiter, what it has in flight, and its clock."""

    def __init__(self, limiter: SharedLimiter, now: float, sent: list[float]) -> None:
        self.limiter, self.now, self.sent = limiter, now, sent

    def do(self, call: tuple[str, float | RateAdvice | None]) -> None:
        match call:
            case "pass", float(seconds):
                self.now += seconds
            case "take", _:
                self.limiter.take(self.now)
                self.sent.append(self.now)
            case "adopt", RateAdvice() as advice:
                self.limiter.adopt(advice, self.now, further=(advice,), sent=self.now - 0.5)
            case "settle", _ if self.sent:
                self.limiter.settle(self.now, sent=self.sent.pop(0))
            case "restore", _ if self.sent:
                self.sent.pop()
                self.limiter.restore()
            case "refuse", float() | None as wait if self.sent:
                self.limiter.refuse(self.now, sent=self.sent.pop(0), retry_after=wait)
            case _:
                pass

    def answers(self, shift: float) -> list[float]:
        limiter, now = self.limiter, self.now
        frees = [limiter.free_at(now, spare=spare) - shift for spare in (0, 1, 3)]
        within = [limiter.free_within(now, seconds) for seconds in (0.0, 16.0, 3 * PER)]
        rest = (
            limiter.used(now),
            limiter.believed or 0,
            limiter.per,
            limiter.in_flight,
            limiter.changes,
            limiter.latency,
        )
        further = [number for use in limiter.quotas.uses(now) for number in (use.limit, use.used, use.per)]
        return [*frees, *within, *rest, limiter.closed_until - shift, *further]


@settings(max_examples=60, deadline=None)
@given(limit=limits, before=st.lists(calls, max_size=25), after=st.lists(calls, max_size=15))
def test_a_loaded_limiter_goes_on_as_the_one_that_was_dumped(
    limit: RateLimit, before: list[tuple[str, float | RateAdvice | None]], after: list[tuple[str, RateAdvice | None]]
) -> None:
    first = Life(SharedLimiter(limit, RETRY, now=0.0), 0.0, [])
    for call in before:
        first.do(call)
    dumped = json.loads(json.dumps(first.limiter.dump()))
    loaded = SharedLimiter.load(dumped, RETRY, shift=SHIFT)
    second = Life(loaded, first.now + SHIFT, [at + SHIFT for at in first.sent])
    for call in after:
        assert second.answers(SHIFT) == pytest.approx(first.answers(0.0), abs=1e-6)
        first.do(call)
        second.do(call)
    assert second.answers(SHIFT) == pytest.approx(first.answers(0.0), abs=1e-6)
    assert SharedLimiter.load(loaded.dump(), RETRY).dump() == loaded.dump()


@given(per=st.floats(0.05, 1e6), times=st.lists(st.floats(0, 1), max_size=20), at=st.floats(0, 2e9))
def test_settled_slots_come_back_little_later_never_earlier_however_often_they_are_dumped(
    per: float, times: list[float], at: float
) -> None:
    window = CountingWindow(100, per)
    window.occupy([(1 - part) * per * 0.99 for part in times], at)
    real = sorted(window.settled_ages(at))
    for _ in range(3):
        window = CountingWindow.load(json.loads(json.dumps(window.dump())))
    ages = sorted(window.settled_ages(at))
    assert len(ages) == len(real)
    grain = per / 4096
    assert all(-grain - 1e-6 <= age - was <= 1e-6 for age, was in zip(ages, real, strict=True))


def test_a_full_window_of_1200_is_small() -> None:
    limiter = SharedLimiter(RateLimit(1200), RETRY, now=0.0)
    for number in range(1200):
        now = 1.7e9 + number * 0.05 + 0.013 * math.sin(number)
        limiter.take(now)
        limiter.settle(now, sent=now - 0.05)
    assert len(json.dumps(limiter.dump(), separators=(",", ":"))) < 3500


def test_a_full_day_besides_is_small() -> None:
    limiter = SharedLimiter(RateLimit(60, further=(RateLimit(50_000, per=86_400.0),)), RETRY, now=0.0)
    now = 0.0
    for number in range(4000):
        now = 1.7e9 + number * 20.0
        limiter.take(now)
        limiter.settle(now, sent=now)
    assert len(json.dumps(limiter.dump(), separators=(",", ":"))) < 6000
    loaded = SharedLimiter.load(limiter.dump(), RETRY)
    assert loaded.quotas.uses(now) == limiter.quotas.uses(now)


@pytest.mark.parametrize(
    ("declared", "whole"),
    [
        ([RateLimit(60), RateLimit(60)], RateLimit(60)),
        ([RateLimit(60), RateLimit(30), RateLimit()], RateLimit(30)),
        ([RateLimit(60), RateLimit(2, 1.0)], RateLimit(60, further=(RateLimit(2, 1.0),))),
        ([RateLimit(60, policy="bucket"), RateLimit(90)], RateLimit(60)),
        (
            [RateLimit(60, further=(RateLimit(900, 86_400),)), RateLimit(90, further=(RateLimit(800, 86_400),))],
            RateLimit(60, further=(RateLimit(800, 86_400),)),
        ),
    ],
)
def test_of_different_declared_limits_all_hold(declared: list[RateLimit], whole: RateLimit) -> None:
    assert strictest(declared) == strictest(reversed(declared)) == whole
    assert load_limit(tuple(json.loads(json.dumps(dump_limit(whole))))) == whole


def full(limiter: SharedLimiter, now: float) -> int:
    """Return how many slots it gives at `now`, each settled at once."""
    taken = 0
    while limiter.free_at(now) <= now and taken < 1000:
        limiter.take(now)
        limiter.settle(now, sent=now)
        taken += 1
    return taken


def test_a_stricter_limit_holds_at_once_and_a_laxer_one_again_when_it_is_gone() -> None:
    limiter = SharedLimiter(RateLimit(60), RETRY, now=0.0)
    assert full(limiter, 0.0) == 60
    limiter.declare(RateLimit(30, further=(RateLimit(2, 1.0),)), 30.0)
    assert limiter.free_at(30.0) == 60.0
    assert full(limiter, 60.0) == 2
    limiter.declare(RateLimit(60), 70.0)
    assert full(limiter, 130.0) == 60
    limiter.declare(RateLimit(), 131.0)  # nobody knows any more: what was known stays believed
    assert limiter.believed == 60
    assert limiter.free_at(131.0) == 190.0


def test_what_was_learned_below_the_limit_stays_when_another_is_declared() -> None:
    limiter = SharedLimiter(RateLimit(), RETRY, now=0.0)
    for _ in range(2):
        full_at = limiter.free_at(0.0)
        assert full_at == 0.0
        limiter.take(0.0)
        limiter.settle(0.0, sent=0.0)
    limiter.take(1.0)
    limiter.refuse(1.0, sent=1.0, retry_after=None)
    assert limiter.believed == 2
    limiter.declare(RateLimit(60), 2.0)
    assert limiter.believed == 2


ENDS: list[Callable[[SharedLimiter], None]] = [
    lambda limiter: limiter.restart(5.0),
    lambda limiter: limiter.reap(3, 0.0, 5.0),
]


@pytest.mark.parametrize("policy", ["window", "bucket"])
@pytest.mark.parametrize("end", ENDS)
def test_after_a_restart_or_the_death_of_who_held_all_the_window_is_full_once(
    policy: str, end: Callable[[SharedLimiter], None]
) -> None:
    limit = RateLimit(3, further=(RateLimit(7, 600.0),))
    if policy == "bucket":
        limit = RateLimit(3, policy="bucket")
    limiter = SharedLimiter(limit, RETRY, now=0.0)
    for _ in range(3):
        limiter.take(0.0)
    end(limiter)
    assert limiter.in_flight == 0
    assert limiter.free_at(5.0) > 5.0
    assert limiter.free_at(limiter.free_at(5.0)) <= 65.0
    # A restart counts a whole window for the further limit, too: the last word may have been lost.
    assert full(limiter, 66.0) == (1 if end is ENDS[0] and policy == "window" else 3)
