"""The limiter in virtual time, against servers that count in their own ways, none of them ours."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable
from typing import Protocol

import attrs
import pytest
from hypothesis import given, settings, strategies as st

from aistemsplitter_async._gate.limiter import Limiter
from aistemsplitter_async._gate.rate_headers import RateAdvice
from aistemsplitter_async.config import RateLimit, RetryPolicy

PER = 60.0


class Server(Protocol):
    limit: int

    def accepts(self, now: float) -> bool: ...


@attrs.define
class Fixed:
    limit: int
    phase: float = 0.0
    counts: dict[float, int] = attrs.field(factory=dict[float, int])

    def accepts(self, now: float) -> bool:
        index = (now - self.phase) // PER
        if self.counts.get(index, 0) >= self.limit:
            return False
        self.counts[index] = self.counts.get(index, 0) + 1
        return True


@attrs.define
class Sliding:
    limit: int
    log: list[float] = attrs.field(factory=list[float])

    def accepts(self, now: float) -> bool:
        self.log = [at for at in self.log if at > now - PER]
        if len(self.log) >= self.limit:
            return False
        self.log.append(now)
        return True


@attrs.define
class Weighted:
    """The last calendar window counts by the part of it that the trailing window covers."""

    limit: int
    phase: float = 0.0
    counts: dict[float, int] = attrs.field(factory=dict[float, int])

    def accepts(self, now: float) -> bool:
        index, into = divmod(now - self.phase, PER)
        weighed = self.counts.get(index - 1, 0) * (1 - into / PER) + self.counts.get(index, 0)
        if weighed + 1 > self.limit + 1e-6:
            return False
        self.counts[index] = self.counts.get(index, 0) + 1
        return True


@attrs.define
class Bucket:
    limit: int
    burst: float
    level: float = attrs.field(init=False)
    at: float = 0.0

    def __attrs_post_init__(self) -> None:
        self.level = self.burst

    def accepts(self, now: float) -> bool:
        self.level = min(self.burst, self.level + (now - self.at) * self.limit / PER)
        self.at = now
        if self.level < 1 - 1e-6:
            return False
        self.level -= 1
        return True


Latency = Callable[[], tuple[float, float]]  # seconds to the server, and back


@attrs.define
class Traffic:
    """What a client with endless demand did: when it sent, what was let in, when replies said no."""

    sent: list[float] = attrs.field(factory=list[float])
    let_in: list[float] = attrs.field(factory=list[float])  # at the server
    refused: list[float] = attrs.field(factory=list[float])  # at the client
    learned: list[tuple[float, int | None]] = attrs.field(factory=list[tuple[float, int | None]])
    most_in_flight: int = 0

    def let_in_between(self, begin: float, end: float) -> int:
        return sum(begin <= at < end for at in self.let_in)

    def refused_between(self, begin: float, end: float) -> int:
        return sum(begin <= at < end for at in self.refused)


def steady(there: float = 0.02, back: float = 0.02) -> Latency:
    return lambda: (there, back)


def uneven(seed: int, most: float = 0.1) -> Latency:
    rng = random.Random(seed)  # noqa: S311
    return lambda: (rng.uniform(0, most), rng.uniform(0, most))


def run(  # noqa: C901  # a small world: its parts are short
    limiter: Limiter,
    server: Server,
    *,
    until: float,
    latency: Latency | None = None,
    changes: dict[float, int] | None = None,
    retry_after: Callable[[float], float | None] = lambda _: None,
    most: int = 5000,
    told: Callable[[float], list[RateAdvice]] = lambda _: [],
) -> Traffic:
    """Send whenever the limiter lets, until `until`, or until `most` were sent."""
    latency = latency or steady()
    traffic, now, order = Traffic(), 0.0, itertools.count()
    events: list[tuple[float, int, Callable[[], None]]] = []

    def at(when: float, what: Callable[[], None]) -> None:
        heapq.heappush(events, (when, next(order), what))

    def send() -> None:
        sent = now
        assert sent >= limiter.closed_until, "sent while closed"
        limiter.take(sent)
        traffic.sent.append(sent)
        traffic.most_in_flight = max(traffic.most_in_flight, limiter.in_flight)
        there, back = latency()
        at(sent + there, lambda: arrive(sent, back))

    def arrive(sent: float, back: float) -> None:
        let_in = server.accepts(now)
        if let_in:
            traffic.let_in.append(now)
        named = told(now)
        at(now + back, lambda: reply(sent, named, let_in=let_in))

    def reply(sent: float, named: list[RateAdvice], *, let_in: bool) -> None:
        if named:
            limiter.adopt(None, now, further=named, sent=sent)
        if let_in:
            limiter.settle(now, sent=sent)
        else:
            traffic.refused.append(now)
            limiter.refuse(now, sent=sent, retry_after=retry_after(now))
        traffic.learned.append((now, limiter.believed))

    for when, limit in (changes or {}).items():
        at(when, lambda limit=limit: setattr(server, "limit", limit))  # type: ignore[misc]
    idle = 0
    while now <= until and len(traffic.sent) < most:
        free_at = limiter.free_at(now)
        due = events[0][0] if events else math.inf
        if free_at <= now and due > now:
            send()
            idle = 0
            continue
        idle += 1
        assert min(free_at, due) < math.inf, "nothing will ever free a slot"
        assert idle < 1000, "time stands still"
        if due <= max(free_at, now):
            now, _, what = heapq.heappop(events)
            what()
            idle = 0
        else:
            now = free_at
    return traffic


def declared(requests: int, policy: str = "window") -> Limiter:
    limit = RateLimit(requests, policy="bucket" if policy == "bucket" else "window")
    return Limiter(limit, RetryPolicy(), now=0.0)


def unknown() -> Limiter:
    return Limiter(RateLimit(), RetryPolicy(), now=0.0)


# Sixty-fourths of a second add up exactly: no limit depends on a float's last bits.
moments = st.integers(0, 90 * 64).map(lambda ticks: ticks / 64)
pairs = st.lists(st.tuples(moments, moments) | st.just((0.0, 0.0)), min_size=1, max_size=6)


@settings(max_examples=60)
@given(limit=st.integers(1, 9), phase=moments, latencies=pairs)
def test_a_declared_window_is_never_refused_whatever_the_latencies(
    limit: int, phase: float, latencies: list[tuple[float, float]]
) -> None:
    servers: list[Server] = [Fixed(limit, phase), Sliding(limit)]
    for server in servers:
        traffic = run(declared(limit), server, until=math.inf, latency=itertools.cycle(latencies).__next__, most=40)
        assert traffic.refused == []


@pytest.mark.parametrize("limit", [1, 2, 7, 60, 300])
def test_a_declared_window_is_used_to_the_last_slot(limit: int) -> None:
    traffic = run(declared(limit), Sliding(limit), until=5 * PER - 1)
    assert len(traffic.sent) == 5 * limit


@pytest.mark.parametrize(("limit", "seconds"), [(60, 5.0), (300, 1.0), (300, 4.0), (1200, 5.0)])
def test_slow_replies_do_not_keep_a_declared_limit_from_being_used(limit: int, seconds: float) -> None:
    """So many must be in flight as are sent while a reply takes its time, proven limit or not."""
    traffic = run(declared(limit), Sliding(limit), until=6 * PER, latency=steady(seconds / 2, seconds / 2), most=10**5)
    assert traffic.let_in_between(2 * PER, 5 * PER) >= 3 * limit * 0.9
    assert traffic.refused == []


def exact(limit: int, seed: int) -> Traffic:
    limiter = unknown()
    traffic = run(limiter, Sliding(limit), until=30 * PER, latency=uneven(seed), most=10**5)
    assert limiter.believed == limit
    return traffic


@pytest.mark.parametrize("limit", [1, 2, 5, 20, 60, 300])
@pytest.mark.parametrize("seed", range(3))
def test_an_unknown_limit_is_learned_exactly_with_six_refusals_and_then_one_in_five_windows(
    limit: int, seed: int
) -> None:
    traffic = exact(limit, seed)
    learned_at = next(
        at for at, believed in traffic.learned if believed == limit and traffic.refused and at >= traffic.refused[0]
    )
    assert learned_at < 8 * PER
    assert traffic.refused_between(0, 2 * PER) <= 6
    for begin in range(2, 25):
        assert traffic.refused_between(begin * PER, (begin + 4.9) * PER) <= 1
    assert traffic.let_in_between(10 * PER, 30 * PER) >= 20 * limit * 0.9


@pytest.mark.parametrize("seed", range(6))
def test_a_fixed_window_of_any_phase_is_learned_too(seed: int) -> None:
    limiter = unknown()
    traffic = run(limiter, Fixed(20, seed * 10.0 + 0.05), until=30 * PER, latency=uneven(seed))
    assert traffic.refused_between(0, 2 * PER) <= 6
    assert traffic.let_in_between(10 * PER, 30 * PER) >= 20 * 20 * 0.9
    assert limiter.believed in range(18, 22)


@pytest.mark.parametrize(
    "build",
    [lambda: Bucket(60, 60), lambda: Bucket(60, 30), lambda: Weighted(60, 17.0)],
    ids=["bucket of N", "bucket of N/2", "weighted"],
)
@pytest.mark.parametrize("policy", ["window", "bucket"])
def test_servers_that_do_not_count_in_windows_refuse_little_and_still_get_most_of_their_limit(
    build: Callable[[], Server], policy: str
) -> None:
    limiter = declared(60, policy)
    traffic = run(limiter, build(), until=20 * PER, latency=uneven(1))
    assert len(traffic.refused) <= 10
    assert traffic.let_in_between(3 * PER, 20 * PER) >= 17 * 60 * 0.85
    assert limiter.believed == 60


@settings(max_examples=40, deadline=None)
@given(
    limit=st.integers(1, 12),
    true=st.integers(1, 12),
    seed=st.integers(0, 99),
    kind=st.sampled_from([Fixed, Sliding, Weighted]),
)
def test_a_declared_limit_is_never_exceeded_even_when_it_is_searched_again(
    limit: int, true: int, seed: int, kind: type[Fixed | Sliding | Weighted]
) -> None:
    limiter = declared(limit)
    traffic = run(limiter, kind(true), until=20 * PER, latency=uneven(seed), changes={7 * PER: 50})
    counted = traffic.let_in
    assert all(later - first > PER - 0.2 for first, later in zip(counted, counted[limit:], strict=False))
    assert limiter.believed is not None
    assert limiter.believed <= limit


@pytest.mark.parametrize("known", [True, False], ids=["declared", "unknown"])
def test_a_limit_that_drops_is_settled_in_two_windows_and_its_return_found_in_six(known: bool) -> None:
    drop, rise = 3.5 * PER, 15 * PER
    limiter = declared(60) if known else unknown()
    traffic = run(limiter, Sliding(60), until=25 * PER, latency=uneven(2), changes={drop: 20, rise: 60})
    assert traffic.refused_between(drop + 2 * PER, drop + 6 * PER) <= 1
    assert traffic.let_in_between(drop + 2 * PER, drop + 6 * PER) >= 4 * 20 * 0.85
    assert traffic.refused_between(drop, rise) <= 12
    assert limiter.believed == 60
    assert traffic.let_in_between(rise + 6 * PER, rise + 9 * PER) >= 3 * 60 * 0.9


@settings(max_examples=60, deadline=None)
@given(
    limit=st.integers(1, 3),
    believed=st.none() | st.integers(1, 5),
    policy=st.sampled_from(["window", "bucket"]),
    latencies=st.lists(st.tuples(st.floats(0, 5), st.floats(0, 5)), min_size=1, max_size=4),
    kind=st.sampled_from([Fixed, Sliding, Weighted, lambda limit: Bucket(limit, limit)]),
)
def test_while_there_is_demand_something_is_let_in_sooner_or_later(
    limit: int,
    believed: int | None,
    policy: str,
    latencies: list[tuple[float, float]],
    kind: Callable[[int], Server],
) -> None:
    """The smallest limits, declared rightly, wrongly or not at all, are starved by no kind of server."""
    limiter = unknown() if believed is None else declared(believed, policy)
    traffic = run(limiter, kind(limit), until=20 * PER, latency=itertools.cycle(latencies).__next__)
    for begin in range(0, 16, 4):
        assert traffic.let_in_between(begin * PER, (begin + 4) * PER) >= 1
    assert len(traffic.refused) <= 6 * len(traffic.let_in) + 10  # a weighted limit of 1 is one in two windows


def test_after_a_refusal_one_request_probes_alone_and_the_others_follow_when_it_was_let_in() -> None:
    limiter = declared(10)
    for _ in range(3):
        limiter.take(0.0)
    limiter.settle(0.1, sent=0.0)
    limiter.refuse(0.2, sent=0.0, retry_after=5.0)
    limiter.settle(0.3, sent=0.0)  # under way all the time: says nothing about now
    assert limiter.free_at(1.0) == pytest.approx(5.2)
    now = limiter.free_at(10.0)
    assert now == 10.0
    limiter.take(now)
    assert limiter.free_at(now) == math.inf
    limiter.settle(now + 1, sent=now)
    assert limiter.free_at(now + 1) < math.inf


def test_a_probe_that_was_never_sent_leaves_its_slot_to_another() -> None:
    limiter = declared(10)
    limiter.take(0.0)
    limiter.refuse(0.1, sent=0.0, retry_after=1.0)
    limiter.take(2.0)
    assert limiter.free_at(2.0) == math.inf
    limiter.restore()
    assert limiter.free_at(2.0) == 2.0


@pytest.mark.parametrize("asked", [0.5, 17.0, 90.0])
def test_nothing_is_sent_before_retry_after_is_over(asked: float) -> None:
    limiter, server = unknown(), Sliding(5)
    traffic = run(limiter, server, until=10 * PER, retry_after=lambda _: asked)
    for refused in traffic.refused:
        assert not [at for at in traffic.sent if refused <= at < refused + asked]


@pytest.mark.parametrize("nonsense", [7200.0, 120_000.0, 1_800_001_100.0, 1e20])
def test_after_an_hour_one_request_asks_whatever_retry_after_says(nonsense: float) -> None:
    limiter = declared(5)
    limiter.take(0.0)
    limiter.refuse(1.0, sent=0.0, retry_after=nonsense)
    assert limiter.free_at(1.0) == 3601.0
    limiter.take(3601.0)
    assert limiter.free_at(3601.0) == math.inf  # until that one is answered


def test_an_answer_to_try_again_at_once_is_not_taken_at_its_word() -> None:
    traffic = run(unknown(), Sliding(5), until=5 * PER, retry_after=lambda _: 0.0)
    assert len(traffic.refused) <= 30
    limiter = declared(5)
    limiter.take(0.0)
    limiter.refuse(1.0, sent=0.0, retry_after=0.0)
    assert limiter.free_at(1.0) >= 3.0


def test_refusals_of_what_was_already_under_way_count_once() -> None:
    limiter = unknown()
    for number in range(10):
        limiter.take(number * 0.1)
        limiter.settle(number * 0.1 + 0.05, sent=number * 0.1)
    for _ in range(3):
        limiter.take(1.0)
    limiter.refuse(1.1, sent=1.0, retry_after=None)
    once = limiter.believed
    backoff = limiter.closed_until
    limiter.refuse(1.1, sent=1.0, retry_after=None)
    limiter.refuse(1.1, sent=1.0, retry_after=None)
    assert limiter.believed == once == 10
    assert limiter.closed_until == backoff


def test_a_refusal_when_nothing_was_let_in_for_a_window_teaches_no_limit() -> None:
    """The key was used a moment ago by another client, the last run of the same program perhaps."""
    server = Sliding(60, [0.0] * 60)
    limiter = unknown()
    traffic = run(limiter, server, until=4 * PER)
    assert limiter.believed == 60
    assert traffic.let_in_between(PER, 4 * PER) >= 150
    busy = declared(60)
    run(busy, Sliding(60, [0.0] * 60), until=4 * PER)
    assert busy.believed == 60


def test_a_server_that_refuses_for_days_is_asked_now_and_then_and_no_number_overflows() -> None:
    limiter = unknown()
    traffic = run(limiter, Sliding(0), until=2 * 86_400.0)
    assert 2000 < len(traffic.refused) < 6000


@pytest.mark.parametrize("mode", ["unknown", "declared", "bucket", "paced"])
def test_everything_is_free_again_a_window_after_the_last_reply(mode: str) -> None:
    limiter = unknown() if mode == "unknown" else declared(20, mode)
    rng = random.Random(3)  # noqa: S311
    now, flying = 0.0, list[float]()
    for step in range(2000):
        now += rng.uniform(0, 2.0)
        if limiter.free_at(now) <= now:
            limiter.take(now)
            flying.append(now)
        if flying and rng.random() < 0.6:
            sent = flying.pop(rng.randrange(len(flying)))
            chosen = rng.random()
            if chosen < 0.2:
                limiter.restore()
            elif chosen < 0.25 and (mode == "paced" or step % 7 == 0):
                limiter.refuse(now, sent=sent, retry_after=0.5)
            else:
                limiter.settle(now, sent=sent)
        assert limiter.in_flight == len(flying) <= limiter.used(now)
    for sent in flying:
        limiter.settle(now, sent=sent)
    now = max(now + PER, limiter.closed_until)
    assert (limiter.used(now), limiter.in_flight) == (0, 0)
    assert limiter.free_at(now) <= now + PER
    if limiter._bucket is not None:
        assert limiter._bucket.in_flight == 0


def test_a_header_is_believed_and_never_gone_beyond() -> None:
    limiter = unknown()
    limiter.adopt(RateAdvice(requests=20), 0.0)
    assert limiter.believed == 20
    traffic = run(limiter, Sliding(20), until=20 * PER)
    assert traffic.refused == []
    assert len(traffic.let_in) >= 20 * 20


def test_a_header_raises_no_declared_limit_and_lowers_it() -> None:
    limiter = declared(30)
    limiter.adopt(RateAdvice(requests=100), 0.0)
    assert limiter.believed == 30
    limiter.adopt(RateAdvice(requests=10), 0.0)
    assert limiter.believed == 10
    limiter.adopt(RateAdvice(requests=30), 1.0)
    assert limiter.believed == 30


def test_an_exhausted_key_that_should_have_room_is_left_alone_until_its_reset() -> None:
    limiter = declared(30)
    limiter.adopt(RateAdvice(remaining=0, reset=7.0), 0.0)
    assert limiter.free_at(1.0) == 7.0
    limiter.adopt(RateAdvice(remaining=0, reset=1e9), 7.0)
    assert limiter.free_at(8.0) == 7.0 + PER


def test_an_exhausted_key_without_room_waits_for_its_own_slots_and_no_longer() -> None:
    limiter = declared(1)
    limiter.take(0.0)
    limiter.settle(1.0, sent=0.0)
    limiter.adopt(RateAdvice(remaining=0, reset=1e9), 1.0)
    assert limiter.free_at(2.0) == 1.0 + PER


def test_a_named_window_of_another_length_goes_for_the_slots_in_use_too() -> None:
    limiter = unknown()
    limiter.take(0.0)
    limiter.settle(0.0, sent=0.0)
    limiter.adopt(RateAdvice(requests=1, per=10.0), 0.0)
    assert limiter.free_at(0.0) == 10.0
    limiter.adopt(RateAdvice(requests=1, per=20.0), 1.0)
    assert limiter.free_at(1.0) == 20.0


def test_of_a_declared_and_a_named_window_the_slower_one_counts() -> None:
    limiter = declared(30)
    limiter.adopt(RateAdvice(requests=10, per=10.0), 0.0)
    assert (limiter.believed, limiter.per) == (30, PER)
    limiter.adopt(RateAdvice(requests=2, per=10.0), 0.0)
    assert (limiter.believed, limiter.per) == (2, 10.0)


def test_a_header_that_says_what_was_declared_leaves_a_bucket_its_burst() -> None:
    limiter = declared(60, "bucket")
    limiter.adopt(RateAdvice(requests=60), 0.0)
    traffic = run(limiter, Bucket(60, 60), until=1.0, latency=steady(0.0, 0.001))
    assert len(traffic.let_in) >= 60


def test_a_header_that_promises_too_much_is_not_believed_again_with_every_reply() -> None:
    limiter, server = unknown(), Sliding(20)
    limiter.adopt(RateAdvice(requests=100), 0.0)
    refused = 0
    for begin in range(12):  # the header comes again and again
        traffic = run_from(limiter, server, begin * PER, (begin + 1) * PER)
        refused += traffic if begin >= 4 else 0
        limiter.adopt(RateAdvice(requests=100), (begin + 1) * PER)
    assert refused <= 4


def run_from(limiter: Limiter, server: Server, begin: float, end: float) -> int:
    """Send one request after the other; return how many were refused."""
    refused, now = 0, begin
    while now < end:
        if (free_at := limiter.free_at(now)) > now:
            now = free_at
            continue
        limiter.take(now)
        if server.accepts(now):
            limiter.settle(now + 0.01, sent=now)
        else:
            refused += 1
            limiter.refuse(now + 0.01, sent=now, retry_after=None)
        now += 0.01
    return refused


@pytest.mark.parametrize("limit", [1, 2, 3, 60])
@pytest.mark.parametrize("policy", ["window", "bucket"])
def test_more_to_spare_than_there_is_stalls_no_call_for_ever(limit: int, policy: str) -> None:
    limiter = declared(limit, policy)
    assert limiter.free_at(0.0, spare=100) == 0.0
    limiter.take(0.0)
    limiter.settle(1.0, sent=0.0)
    assert limiter.free_at(1.0, spare=100) <= 1.0 + PER


def test_what_must_stay_free_is_not_used_up_by_the_search_for_more() -> None:
    limiter = unknown()
    limiter.adopt(RateAdvice(requests=20), 0.0)
    limiter._ceiling = None  # learned, and long ago
    for _ in range(18):
        limiter.take(0.0)
        limiter.settle(0.0, sent=0.0)
    assert limiter.free_at(1.0, spare=2) == PER
    assert limiter.free_at(1.0) == 1.0


@pytest.mark.parametrize("start", [0.0, 1e5, 1e9, 3e9])
@pytest.mark.parametrize("policy", ["window", "bucket"])
@pytest.mark.parametrize("per", [0.7, 60.0, 3600.0])
def test_waiting_until_it_said_is_enough_however_long_the_machine_has_been_up(
    start: float, policy: str, per: float
) -> None:
    """Rounding may ask for another moment, but never for moments without end."""
    limit = RateLimit(7, per=per, policy="bucket" if policy == "bucket" else "window")
    limiter = Limiter(limit, RetryPolicy(), now=start)
    now, waits = start, 0
    for _ in range(300):
        waited = 0
        while (free_at := limiter.free_at(now)) > now:
            now = free_at
            waited += 1
            assert waited < 5
        waits += waited
        limiter.take(now)
        limiter.settle(now + 1e-3, sent=now)
        now += 1e-3
    assert 0 < waits <= 600


def test_one_stray_refusal_of_a_declared_window_does_not_pace_for_ever() -> None:
    limiter = declared(30)
    limiter.take(0.0)
    limiter.settle(0.0, sent=0.0)
    limiter.take(1.0)
    limiter.refuse(1.0, sent=1.0, retry_after=None)
    assert at_once(limiter, 3 * PER) <= 3, "evenly for a while"
    assert at_once(limiter, 6.1 * PER) == 30


def test_a_server_that_keeps_refusing_bursts_is_tempted_less_and_less_often() -> None:
    limiter, refused = declared(60), list[float]()
    server = Bucket(60, 20)
    for minute in range(200):  # a burst of what the window would allow, after a pause that fills the bucket
        now = minute * PER
        for _ in range(60):
            if limiter.free_at(now) > now:
                break
            limiter.take(now)
            if server.accepts(now):
                limiter.settle(now, sent=now)
            else:
                limiter.refuse(now, sent=now, retry_after=None)
                refused.append(minute)
    assert len(refused) <= 8


def at_once(limiter: Limiter, now: float) -> int:
    """Send what goes without waiting; return how many that was."""
    sent = 0
    while limiter.free_at(now) <= now:
        limiter.take(now)
        limiter.settle(now, sent=now)
        sent += 1
    return sent


def test_a_limit_learned_while_others_used_the_key_is_tested_after_a_window() -> None:
    server = Fixed(60)
    server.counts[0.0] = 56  # another client's, just before
    limiter = unknown()
    traffic = run(limiter, server, until=4 * PER)
    assert any(believed == 4 for _, believed in traffic.learned), "what the first refusal teaches"
    assert limiter.believed == 60
    assert len(traffic.refused) <= 6


def test_a_limit_that_is_small_indeed_is_tested_early_only_once() -> None:
    limiter = unknown()
    traffic = run(limiter, Fixed(5), until=21 * PER)
    assert limiter.believed == 5
    assert len(traffic.refused) <= 6 + 20 / 5


def send_all(limiter: Limiter, now: float) -> int:
    """Send what goes without waiting for a reply; return how many that was."""
    sent = 0
    while limiter.free_at(now) <= now:
        limiter.take(now)
        sent += 1
    return sent


def let_in(limiter: Limiter, requests: int, now: float) -> None:
    for _ in range(requests):
        limiter.settle(now, sent=now - 0.1)


def test_a_second_window_begins_with_few_at_once_until_they_were_let_in() -> None:
    """A server that weighs the last window refuses nothing in the first, and most of a burst in the second."""
    limiter = declared(60)
    while sent := send_all(limiter, 0.0):
        let_in(limiter, sent, 0.1)
    assert limiter.used(1.0) == 60
    assert send_all(limiter, 61.0) == 4
    let_in(limiter, 4, 61.1)
    assert send_all(limiter, 61.1) == 60 - 4  # the rest of the limit


def test_after_a_refusal_the_number_at_once_grows_with_what_is_let_in() -> None:
    limiter = unknown()
    assert send_all(limiter, 0.0) == 3
    for _ in range(3):
        limiter.refuse(0.1, sent=0.0, retry_after=1.0)
    sent = []
    for now in (2.0, 3.0, 4.0, 5.0):
        sent.append(send_all(limiter, now))
        let_in(limiter, sent[-1], now + 0.1)
    assert sent == [1, 2, 3, 3]


def test_refusals_right_after_a_burst_do_not_lower_a_declared_limit_and_later_ones_do() -> None:
    """A counter that weighs its last window refuses until that has faded, though the limit is right."""
    limiter = declared(60)
    while sent := send_all(limiter, 0.0):
        let_in(limiter, sent, 0.1)
    for refused_at in (62.0, 65.0):
        limiter.take(refused_at)
        limiter.refuse(refused_at, sent=refused_at, retry_after=1.0)
        limiter.take(refused_at + 2)
        let_in(limiter, 1, refused_at + 2.1)
    assert limiter.believed == 60
    limiter.take(90.0)
    limiter.refuse(90.0, sent=90.0, retry_after=1.0)
    assert limiter.believed is not None
    assert limiter.believed < 60
