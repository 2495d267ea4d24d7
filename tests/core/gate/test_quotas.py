"""Several limits of one key in virtual time: none of them is ever exceeded, and the tighter one is used."""

from __future__ import annotations

import itertools
import json
import math

import attrs
import pytest
from hypothesis import example, given, settings, strategies as st

from aistemsplitter_async._gate.limiter import Limiter
from aistemsplitter_async._gate.memory import GateMemory, QuotaMemory, parse_gate_memory
from aistemsplitter_async._gate.quota import Quota
from aistemsplitter_async._gate.quotas import Quotas
from aistemsplitter_async._gate.rate_headers import RateAdvice, parse_further_limits, parse_rate_headers
from aistemsplitter_async.config import RateLimit, RetryPolicy
from tests.core.gate.test_limiter import PER, Traffic, moments, pairs, run, steady, uneven


@attrs.define
class Window:
    """One limit at the server, sliding or fixed; `used` are the times of requests, also of others."""

    limit: int
    per: float
    fixed: bool = False
    used: list[float] = attrs.field(factory=list[float])

    def count(self, now: float) -> int:
        begin = now // self.per * self.per if self.fixed else now - self.per
        return sum(at >= begin if self.fixed else at > begin for at in self.used)

    def say(self, now: float) -> RateAdvice:
        reset = self.per - now % self.per if self.fixed else self.per
        return RateAdvice(
            requests=self.limit, per=self.per, remaining=max(0, self.limit - self.count(now)), reset=reset
        )


@attrs.define
class Both:
    """A server that counts in several windows; what one of them refuses, none counts."""

    windows: list[Window]
    limit: int = 0

    def accepts(self, now: float) -> bool:
        if any(window.count(now) >= window.limit for window in self.windows):
            return False
        for window in self.windows:
            window.used.append(now)
        return True

    def say(self, now: float) -> list[RateAdvice]:
        return [window.say(now) for window in self.windows[1:]]


def declared(*limits: tuple[int, float]) -> Limiter:
    first, *further = (RateLimit(requests, per) for requests, per in limits)
    return Limiter(attrs.evolve(first, further=tuple(further)), RetryPolicy(), now=0.0)


def server(*limits: tuple[int, float], fixed: bool = False) -> Both:
    return Both([Window(requests, per, fixed) for requests, per in limits])


@settings(max_examples=40, deadline=None)
@given(
    minute=st.integers(1, 6),
    other=st.integers(1, 9),
    per=st.sampled_from([1.0, 10.0, 3 * PER, 10 * PER]),
    fixed=st.booleans(),
    latencies=pairs,
)
def test_no_window_is_ever_exceeded_whatever_the_latencies(
    minute: int, other: int, per: float, fixed: bool, latencies: list[tuple[float, float]]
) -> None:
    limits = (minute, PER), (other, per)
    latency = itertools.cycle(latencies).__next__
    traffic = run(declared(*limits), server(*limits, fixed=fixed), until=math.inf, latency=latency, most=30)
    assert traffic.refused == []


@pytest.mark.parametrize(
    ("limits", "bound"),
    [
        (((60, PER), (100, 5 * PER)), 400),  # the longer one is the tighter
        (((60, PER), (1000, 5 * PER)), 1200),  # the shorter one is
        (((60, PER), (2, 1.0)), 1200),
        (((60, PER), (1, 2.0), (300, 10 * PER)), 600),
    ],
)
def test_the_tighter_limit_of_any_moment_is_used_to_the_last_slot(
    limits: tuple[tuple[int, float], ...], bound: int
) -> None:
    traffic = run(declared(*limits), server(*limits), until=20 * PER - 1, latency=steady(), most=10**5)
    assert bound * 0.95 <= len(traffic.sent) <= bound
    assert traffic.refused == []


def test_a_limiter_that_knows_one_limit_only_is_refused_by_such_a_server() -> None:
    """The negative control."""
    limits = (60, PER), (100, 5 * PER)
    assert run(declared(limits[0]), server(*limits), until=20 * PER).refused


ROUND_TRIP = 0.2  # s, at most


def announced(*limits: tuple[int, float], fixed: bool, others: int, seed: int) -> Traffic:
    there = server(*limits, fixed=fixed)
    there.windows[1].used += [0.0] * others
    limiter = declared(limits[0])
    return run(limiter, there, until=30 * PER, latency=uneven(seed), told=there.say, most=10**5)


@settings(max_examples=25, deadline=None)
@given(others=st.integers(0, 99), fixed=st.booleans(), seed=st.integers(0, 99))
def test_an_announced_limit_is_kept_from_the_first_word_of_it_also_if_others_use_it(
    others: int, fixed: bool, seed: int
) -> None:
    traffic = announced((20, PER), (100, 10 * PER), fixed=fixed, others=others, seed=seed)
    assert [at for at in traffic.refused if at > 2 * ROUND_TRIP] == []  # what was sent before the first word came
    assert len(traffic.sent) >= 0.85 * (300 - others)


def test_a_refusal_by_a_used_up_limit_teaches_nothing_about_the_other() -> None:
    limiter = declared((60, PER))
    for number in range(5):
        limiter.take(float(number))
        limiter.settle(number + 0.1, sent=float(number))
    limiter.take(5.0)
    day = RateAdvice(requests=1000, per=86_400.0, remaining=0, reset=3000.0)
    limiter.adopt(None, 5.1, further=[day], sent=5.0)
    limiter.refuse(5.1, sent=5.0, retry_after=None)
    assert limiter.believed == 60
    assert limiter.free_at(6.0) == pytest.approx(3005.1)
    assert limiter.free_within(6.0, 60.0) == 0


def test_after_an_hour_one_request_asks_whether_an_announced_limit_is_still_used_up() -> None:
    quota = Quota(10, 86_400.0, declared=False, now=0.0)
    quota.occupy([(0.0, 10)], 0.0)
    assert quota.free_at(1.0) == 3600.0
    quota.take(3600.0)
    assert quota.free_at(3600.0) == 86_400.0
    quota.note(RateAdvice(requests=10, per=86_400.0, remaining=9), 3601.0, sent=3600.0)
    quota.settle(3601.0)
    assert quota.used(3601.0) == 1  # the server had begun a new day
    told = Quota(10, 86_400.0, declared=True, now=0.0)
    told.occupy([(0.0, 10)], 0.0)
    assert told.free_at(1.0) == 86_400.0


def test_what_no_reply_names_for_a_whole_window_is_forgotten() -> None:
    quotas = Quotas((), now=0.0)
    quotas.adopt([RateAdvice(requests=1, per=100.0)], 0.0, sent=0.0, in_flight=0, ages=[])
    quotas.take(0.0)
    quotas.settle(0.0)
    assert quotas.free_at(50.0) == 100.0
    quotas.take(100.5)
    assert quotas.uses(100.5) == ()
    assert quotas.free_at(100.5) == 100.5


def test_the_memory_of_a_long_window_is_small_and_never_too_early() -> None:
    quota = Quota(100_000, 86_400.0, declared=True, now=0.0)
    for number in range(100_000):
        quota.take(number * 0.8)
        quota.settle(number * 0.8)
    assert len(quota.export(80_000.0).slots) <= 1001
    assert 86_400.0 <= quota.free_at(80_000.0) <= 86_400.0 * 1.001


def test_both_limits_survive_a_restart() -> None:
    limits = (60, PER), (100, 86_400.0)
    limiter = declared(*limits)
    run(limiter, server(*limits), until=90.0)
    dumped = json.loads(json.dumps(limiter.export(90.0).dump(1e9)))
    for later, known in ((10.0, limits), (500.0, limits[:1])):
        memory = parse_gate_memory(dumped, 1e9 + later)
        assert memory is not None
        again = declared(*known)
        again.recall(memory, 0.0)
        (day,) = again.quotas.uses(0.0)
        assert (day.limit, day.used) == (100, 100)
        assert again.free_at(1.0) > 80_000 or later == 500.0  # one that was not declared is asked about every hour
    assert not parse_gate_memory(dumped | {"further": [{"requests": "x"}, 5, {"requests": 1, "per": -1}]}, 1e9).further  # type: ignore[union-attr]


DAY = 86_400.0


def test_a_limit_of_a_week_survives_a_restart() -> None:
    limiter = declared((5, 7 * DAY))
    limiter.take(0.0)
    memory = parse_gate_memory(limiter.export(0.0).dump(1e9), 1e9)
    assert memory is not None
    assert memory.ages == (0.0,)


words = st.builds(
    RateAdvice,
    requests=st.integers(1, 9),
    per=st.sampled_from([1.0, 2 * PER, DAY]),
    remaining=st.none() | st.integers(0, 9),
    reset=st.none() | st.floats(0, 2 * DAY),
)
deeds = st.one_of(
    st.sampled_from(["take", "settle", "refuse", "restore", "restart", "recall"]), st.floats(0.0, 5000.0), words
)


@settings(max_examples=25, deadline=None)
@given(st.lists(deeds, max_size=40), st.booleans())
@example(["take", "recall"], False)
def test_whatever_happens_in_whatever_order_the_gate_opens_again(  # noqa: C901  # one branch for each deed
    deeds: list[str | float | RateAdvice], is_declared: bool
) -> None:
    limiter, now = declared((60, PER), *[(5, DAY)] * is_declared), 0.0
    limiter.adopt(None, now, further=[RateAdvice(requests=5, per=10 * PER)], sent=now)
    dumped = limiter.export(now).dump(now)
    limiter.quotas = Quotas([RateLimit(5, DAY)] * is_declared, now=now)
    for deed in deeds:
        match deed:
            case float():
                now += deed
            case RateAdvice():
                limiter.adopt(None, now, further=[deed], sent=now)
            case "restart":
                dumped, limiter = limiter.export(now).dump(now), declared((60, PER), *[(5, DAY)] * is_declared)
                limiter.quotas = Quotas([RateLimit(5, DAY)] * is_declared, now=now)
            case "recall":
                memory = parse_gate_memory(json.loads(json.dumps(dumped)), now)
                assert memory is not None
                limiter.recall(memory, now)
            case "take":
                limiter.take(now)
            case _ if limiter.in_flight:
                match deed:
                    case "settle":
                        limiter.settle(now, sent=now)
                    case "refuse":
                        limiter.refuse(now, sent=now, retry_after=None)
                    case _:
                        limiter.restore()
        exported = limiter.export(now)
        assert all(
            sum(age == 0 and count for age, count in quota.slots) >= limiter.in_flight for quota in exported.further
        )
        assert all(use.used >= limiter.in_flight for use in limiter.quotas.uses(now))
    while limiter.in_flight:
        limiter.settle(now, sent=now)
    opens = limiter.free_at(now)
    assert opens <= now + (1.002 * DAY if is_declared else 3600)
    limiter.take(opens)
    limiter.settle(opens, sent=opens)
    assert limiter.free_at(opens + 2.1 * DAY) == opens + 2.1 * DAY


def test_what_is_restored_late_keeps_its_own_age_and_is_not_counted_twice() -> None:
    for is_declared in (True, False):
        limiter = declared((60, PER), *[(1000, DAY)] * is_declared)
        limiter.take(0.0)  # a look at the credits, before the journal is opened
        word = RateAdvice(requests=1000, per=DAY, remaining=0 if is_declared else 400)
        limiter.adopt(None, 0.5, further=[word], sent=0.0)
        limiter.settle(0.5, sent=0.0)
        limiter.take(0.5)
        earlier = QuotaMemory(requests=1000, per=DAY, slots=((80_000.0, 599),))
        limiter.recall(GateMemory(believed=60, per=PER, further=(earlier,)), 1.0)
        limiter.settle(1.5, sent=0.5)
        (day,) = limiter.quotas.uses(2.0)
        assert day.used == (1002 if is_declared else 601)  # as a reply has said, and two of our own
        assert limiter.free_at(2.0) == (DAY - 79_999 if is_declared else 2.0)


def test_an_announced_limit_may_rise_again_up_to_what_was_declared() -> None:
    limiter = declared((60, PER), (1000, DAY))
    for named, held in ((10, 10), (500, 500), (5000, 1000)):
        limiter.adopt(None, 1.0, further=[RateAdvice(requests=named, per=DAY)], sent=1.0)
        assert [use.limit for use in limiter.quotas.uses(1.0)] == [held]


def test_a_named_limit_of_another_window_is_held_beside_a_declared_one() -> None:
    limiter = declared((60, PER))
    headers = {"ratelimit-policy": '"burst";q=5;w=1, "day";q=1000;w=86400'}
    limiter.adopt(
        parse_rate_headers(headers, per=PER, now=0.0), 0.0, further=parse_further_limits(headers, per=PER, now=0.0)
    )
    assert (limiter.believed, limiter.per) == (60, PER)
    assert [(use.limit, use.per) for use in limiter.quotas.uses(0.0)] == [(5, 1.0), (1000, DAY)]


def test_slots_left_free_for_others_are_those_of_the_minute_not_of_a_second() -> None:
    limiter = declared((600, PER), (10, 1.0), (1000, DAY))
    limiter.take(0.0)
    limiter.settle(0.0, sent=0.0)
    assert limiter.free_at(0.0, spare=60) == 0.0  # and not after a second, one a time
    limiter.quotas.recall([QuotaMemory(requests=1000, per=DAY, slots=((1000.0, 940),))], 0.0, in_flight=0)
    assert limiter.free_at(0.0, spare=60) == DAY - 1000.0


@given(st.lists(st.tuples(moments, st.integers(1, 5)), max_size=20), st.integers(1, 9))
def test_kept_as_one_or_not_the_slots_are_as_many(slots: list[tuple[float, int]], requests: int) -> None:
    quota = Quota(requests, PER, declared=True, now=100.0)
    quota.occupy(sorted(slots, reverse=True), 100.0)
    exact = sum(count for age, count in slots if age < PER)
    assert quota.used(100.0) >= exact
    assert quota.used(100.0 + PER * 1.001) == 0
