"""Servers that count in different ways, none of them ours, and a client that must never be refused by them.

Times are whole numbers of milliseconds where a count is exact, so that no float decides a test.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from typing import Protocol

import pytest
from hypothesis import example, given, settings, strategies as st

from aistemsplitter_async._gate.window import BucketWindow, CountingWindow

Window = CountingWindow | BucketWindow


def build_window(requests: int, per: float, *, bucket: bool) -> Window:
    return BucketWindow(requests, per, 0.0) if bucket else CountingWindow(requests, per)


def used(window: Window, now: float, limit: int) -> int:
    """How many slots or tokens are occupied; in a bucket, those that have not been refilled."""
    if isinstance(window, CountingWindow):
        return window.used(now)
    return math.ceil(limit - window.free_within(now, 0.0) - 1e-9)


class Server(Protocol):
    def accepts(self, now: float) -> bool: ...


class FixedWindow:
    """Counts per calendar window, which begins at any phase."""

    def __init__(self, limit: int, per: int, phase: int) -> None:
        self.limit, self.per, self.phase = limit, per, phase
        self.counts: dict[float, int] = {}

    def accepts(self, now: float) -> bool:
        index = (now - self.phase) // self.per
        self.counts[index] = self.counts.get(index, 0) + 1
        return self.counts[index] <= self.limit


class SlidingLog:
    """Remembers when each request came, refused ones too."""

    def __init__(self, limit: int, per: int) -> None:
        self.limit, self.per = limit, per
        self.log: list[float] = []

    def accepts(self, now: float) -> bool:
        self.log = [*(at for at in self.log if at > now - self.per), now]
        return len(self.log) <= self.limit


class TokenBucket:
    """Holds `limit` tokens at most and gains as many per window, evenly."""

    def __init__(self, limit: int, per: int) -> None:
        self.limit, self.per = limit, per
        self.level, self.at = float(limit), 0.0

    def accepts(self, now: float) -> bool:
        self.level = min(self.limit, self.level + (now - self.at) * self.limit / self.per)
        self.at = now
        if self.level < 1 - 1e-6:  # rounding of floats is not the limit
            return False
        self.level -= 1
        return True


Latency = Callable[[], tuple[int, int]]  # milliseconds to the server, and back


def simulate(window: Window, server: Server, requests: int, latency: Latency) -> tuple[int, list[float]]:
    """Send as fast as the window lets; return how many the server refused, and when each was sent."""
    refused, now = 0, 0.0
    sent: list[float] = []
    events: list[tuple[float, int, str]] = []
    order = itertools.count()
    while len(sent) < requests:
        free_at = window.free_at(now)
        due = events[0][0] if events else math.inf
        if free_at <= now and due > now:
            window.take(now)
            sent.append(now)
            there, back = latency()
            heapq.heappush(events, (now + there, next(order), "count"))
            heapq.heappush(events, (now + there + back, next(order), "settle"))
            continue
        assert min(free_at, due) < math.inf, "nothing will ever free a slot"
        if due <= max(free_at, now):
            now, _, what = heapq.heappop(events)
            if what == "settle":
                window.settle(now)
            else:
                refused += not server.accepts(now)
        else:
            now = max(now, free_at)
    return refused, sent


limits = st.integers(1, 8)
pers = st.sampled_from([100, 1000, 60_000])
latencies = st.lists(
    st.tuples(st.integers(0, 300) | st.integers(0, 90_000), st.integers(0, 300) | st.integers(0, 90_000)),
    min_size=1,
    max_size=6,
)


def cycle(pairs: list[tuple[int, int]]) -> Latency:
    return itertools.cycle(pairs).__next__


@settings(max_examples=50)
@given(limit=limits, per=pers, phase=st.integers(0, 60_000), pairs=latencies)
def test_a_fixed_window_of_any_phase_never_refuses(
    limit: int, per: int, phase: int, pairs: list[tuple[int, int]]
) -> None:
    refused, _ = simulate(CountingWindow(limit, per), FixedWindow(limit, per, phase), limit * 4, cycle(pairs))
    assert refused == 0


@settings(max_examples=50)
@given(limit=limits, per=pers, pairs=latencies)
def test_a_sliding_log_never_refuses(limit: int, per: int, pairs: list[tuple[int, int]]) -> None:
    refused, _ = simulate(CountingWindow(limit, per), SlidingLog(limit, per), limit * 4, cycle(pairs))
    assert refused == 0


@settings(max_examples=50)
@given(limit=limits, per=pers, pairs=latencies)
@example(limit=1, per=100, pairs=[(0, 0)])
def test_a_declared_bucket_never_refuses(limit: int, per: int, pairs: list[tuple[int, int]]) -> None:
    window = BucketWindow(limit, float(per), 0.0)
    refused, _ = simulate(window, TokenBucket(limit, per), limit * 5, cycle(pairs))
    assert refused == 0


class SlotsFromSending(CountingWindow):
    """The obvious mistake: a slot comes back one window after it was *taken*."""

    def take(self, now: float) -> None:
        super().take(now)
        super().settle(now)

    def settle(self, now: float) -> None:
        pass


@pytest.mark.parametrize("server", [FixedWindow(5, 60_000, 30_000), SlidingLog(5, 60_000)], ids=["fixed", "sliding"])
def test_slots_counted_from_sending_are_refused_by_the_very_same_servers(server: Server) -> None:
    refused, _ = simulate(SlotsFromSending(5, 60_000), server, 40, cycle([(50_000, 0), (0, 0), (7, 0)]))
    assert refused > 0


class UncappedBucket(BucketWindow):
    """The mistake for buckets: the level refills to the brim while requests are still on their way."""

    def _refill(self, now: float) -> None:
        self._level = min(float(self._capacity), self._level + (now - self._at) * self._rate)
        self._at = now


def test_a_bucket_that_forgets_what_is_in_flight_is_refused() -> None:
    pairs = [(60_000, 0)] * 5 + [(0, 0)] * 5
    refused, _ = simulate(UncappedBucket(5, 60_000.0, 0.0), TokenBucket(5, 60_000), 40, cycle(pairs))
    assert refused > 0
    refused, _ = simulate(BucketWindow(5, 60_000.0, 0.0), TokenBucket(5, 60_000), 40, cycle(pairs))
    assert refused == 0


@pytest.mark.parametrize("limit", [1, 2, 7, 60])
def test_without_latency_exactly_the_limit_is_sent_in_each_window(limit: int) -> None:
    _, sent = simulate(CountingWindow(limit, 60_000), SlidingLog(limit, 60_000), limit * 10, lambda: (0, 0))
    assert sent == [60_000 * (n // limit) for n in range(limit * 10)]


@pytest.mark.parametrize("limit", [1, 2, 7, 60])
def test_without_latency_a_bucket_is_emptied_at_once_and_then_used_as_it_fills(limit: int) -> None:
    _, sent = simulate(BucketWindow(limit, 60_000.0, 0.0), TokenBucket(limit, 60_000), limit * 10, lambda: (0, 0))
    assert sent == pytest.approx([max(0.0, 60_000 / limit * (n - limit + 1)) for n in range(limit * 10)])


@settings(max_examples=50)
@given(limit=limits, pairs=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400)), min_size=1, max_size=9))
def test_latency_costs_no_more_throughput_than_itself(limit: int, pairs: list[tuple[int, int]]) -> None:
    worst = max(there + back for there, back in pairs)
    _, sent = simulate(CountingWindow(limit, 60_000), SlidingLog(limit, 60_000), limit * 6, cycle(pairs))
    assert sent[-1] <= 5 * (60_000 + worst)


@pytest.mark.parametrize("policy", ["window", "bucket"])
def test_a_restored_slot_is_free_at_once_and_a_settled_one_is_not(policy: str) -> None:
    window = build_window(2, 60.0, bucket=policy == "bucket")
    window.take(0.0)
    window.take(0.0)
    assert window.free_at(0.0) == math.inf, "only a reply can tell when a slot is free"
    assert used(window, 0.0, 2) == 2
    window.restore()
    assert window.free_at(0.0) <= 0.0
    assert used(window, 0.0, 2) == 1
    window.take(0.0)
    window.settle(10.0)
    assert window.free_at(10.0) == (40.0 if policy == "bucket" else 70.0)
    assert used(window, 10.0, 2) == 2
    assert window.free_at(70.0) <= 70.0


@given(st.lists(st.sampled_from(["take", "settle", "restore", "later"]), max_size=60), limits, st.booleans())
def test_slots_are_conserved_whatever_happens_to_them(steps: list[str], limit: int, bucket: bool) -> None:
    window = build_window(limit, 60.0, bucket=bucket)
    now, flying = 0.0, 0
    for step in steps:
        if step == "later":
            now += 7.0
        elif step == "take" and window.free_at(now) <= now:
            window.take(now)
            flying += 1
        elif step == "settle" and flying:
            window.settle(now)
            flying -= 1
        elif step == "restore" and flying:
            window.restore()
            flying -= 1
        assert flying <= used(window, now, limit) <= limit
    for _ in range(flying):
        window.settle(now)
    now += 60.0
    assert used(window, now, limit) == 0, "a window after the last reply everything is free again"
    assert window.free_at(now) <= now


def test_requests_that_come_free_are_counted_when_they_do() -> None:
    window = CountingWindow(3, 60.0)
    for sent in (0.0, 1.0, 20.0):
        window.take(sent)
        if sent < 20:
            window.settle(sent + 0.5)
    assert [window.free_within(21.0, within) for within in (0.0, 39.4, 39.6, 41.0, 60.0)] == [0, 0, 1, 2, 2]
    assert window.free_within(21.0, 120.0) == 2 + 3  # what is further off, on average


def test_where_nothing_is_known_there_is_always_a_request() -> None:
    assert CountingWindow(math.inf, 60.0).free_within(0.0, 0.0) == math.inf
    assert CountingWindow(math.inf, 60.0).free_within(0.0, 100.0) == math.inf


def test_a_bucket_gives_what_it_holds_and_what_flows_in() -> None:
    bucket = BucketWindow(60, 60.0, 0.0)
    for _ in range(60):
        bucket.take(0.0)
        bucket.settle(0.0)
    assert bucket.free_within(0.0, 0.0) == 0
    assert bucket.free_within(10.0, 5.0) == pytest.approx(15.0)
