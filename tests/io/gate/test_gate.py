"""The gate keeps the key's limit, in order, and loses no slot no matter which waiter gives up when."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import attrs
import pytest

from aistemsplitter_async._gate.gate import Gate
from aistemsplitter_async._gate.lanes import Lane, Order, Priority, Rank, Turns
from aistemsplitter_async._gate.slot import Slot
from aistemsplitter_async._gate.window import CountingWindow
from aistemsplitter_async.config import RateLimit
from aistemsplitter_async.testing import FakeClock


def most_in_any(window: float, moments: list[float]) -> int:
    """The largest number of moments within any half-open window of this length."""
    moments = sorted(moments)
    return max(sum(1 for other in moments if moment <= other < moment + window) for moment in moments)


async def run_traffic(
    gate: Gate, clock: FakeClock, *, requests: int, latency: Callable[[], float], arrival: Callable[[], float]
) -> list[float]:
    """Send requests that reach the server at a random moment of their latency; return those moments."""
    counted: list[float] = []

    async def request() -> None:
        await clock.sleep(arrival())
        slot = await gate.admit()
        takes = latency()
        there = takes * random.random()  # noqa: S311  # not cryptography
        await clock.sleep(there)
        counted.append(clock.monotonic())
        await clock.sleep(takes - there)
        slot.settle()

    await asyncio.gather(*(request() for _ in range(requests)))
    return counted


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("slowest", [0.0, 3.0, 90.0])
async def test_no_window_of_the_server_ever_holds_more_than_the_limit_whatever_the_latencies(
    seed: int, slowest: float
) -> None:
    random.seed(seed)
    clock = FakeClock(autojump=True)
    gate = Gate(RateLimit(5, per=60.0), clock=clock)
    counted = await run_traffic(
        gate,
        clock,
        requests=40,
        latency=lambda: random.uniform(0, slowest),  # noqa: S311
        arrival=lambda: random.uniform(0, 100),  # noqa: S311
    )
    assert most_in_any(60.0, counted) <= 5
    assert gate.snapshot().used <= 5


async def test_the_check_above_would_notice_a_slot_given_back_when_the_request_leaves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The negative control: a window counted from sending lets a slow server see six."""

    def take(self: CountingWindow, now: float) -> None:
        self._frees.append(now + self.per)

    def settle(_self: CountingWindow, _now: float) -> None: ...

    monkeypatch.setattr(CountingWindow, "take", take)
    monkeypatch.setattr(CountingWindow, "settle", settle)
    worst = 0
    for seed in range(4):
        random.seed(seed)
        clock = FakeClock(autojump=True)
        gate = Gate(RateLimit(5, per=60.0), clock=clock)
        counted = await run_traffic(
            gate,
            clock,
            requests=40,
            latency=lambda: random.uniform(0, 90.0),  # noqa: S311
            arrival=lambda: random.uniform(0, 100),  # noqa: S311
        )
        worst = max(worst, most_in_any(60.0, counted))
    assert worst > 5


async def test_the_budget_is_used_up_not_only_respected() -> None:
    clock = FakeClock(autojump=True)
    gate = Gate(RateLimit(10, per=60.0), clock=clock)
    counted = await run_traffic(gate, clock, requests=40, latency=lambda: 0.0, arrival=lambda: 0.0)
    assert max(counted) - 1000.0 == pytest.approx(180.0)


async def collect(
    gate: Gate, got: list[str], name: str, priority: Priority = "interactive", rank: Rank = Rank.POLL
) -> None:
    slot = await gate.admit(priority, rank)
    got.append(name)
    slot.settle()


async def test_within_a_rank_who_came_first_goes_first() -> None:
    clock = FakeClock(autojump=True)
    gate = Gate(RateLimit(1, per=10.0), clock=clock)
    got: list[str] = []
    await asyncio.gather(*(collect(gate, got, str(n)) for n in range(12)))
    assert got == [str(n) for n in range(12)]


async def test_the_interactive_lane_goes_before_the_bulk_lane_and_creates_before_reserves_before_polls() -> None:
    clock = FakeClock()
    gate = Gate(RateLimit(1, per=10.0), clock=clock)
    (await gate.admit()).settle()
    got: list[str] = []
    lanes: list[Priority] = ["bulk", "interactive"]
    tasks = [
        asyncio.create_task(collect(gate, got, f"{lane} {rank.name}", lane, rank))
        for lane in lanes
        for rank in reversed(Rank)
    ]
    await clock.advance(100)
    await asyncio.gather(*tasks)
    assert got == [f"{lane} {rank.name}" for lane in reversed(lanes) for rank in Rank]


@pytest.mark.parametrize("lanes", [("interactive", "bulk"), ("bulk", "bulk")])
async def test_a_steady_stream_of_better_calls_starves_none_and_loses_little(
    lanes: tuple[Priority, Priority],
) -> None:
    """Calls of one order come faster than the limit lets them go, for ever; others wait behind them."""
    clock = FakeClock()
    gate = Gate(RateLimit(10, per=10.0), clock=clock)
    got: list[str] = []
    await asyncio.gather(*(collect(gate, [], "first") for _ in range(10)))
    behind = [asyncio.create_task(collect(gate, got, f"poll {n}", lanes[1], Rank.POLL)) for n in range(5)]
    stream = []
    for _ in range(120):
        stream += [asyncio.create_task(collect(gate, got, "create", lanes[0], Rank.CREATE)) for _ in range(2)]
        await clock.advance(1)
    polls = [n for n, name in enumerate(got) if name != "create"]
    assert [got[n] for n in polls] == [f"poll {n}" for n in range(5)], "in the order they came"
    assert all(later - before == 21 for before, later in pairwise(polls))
    for task in [*stream, *behind]:
        task.cancel()
    await asyncio.gather(*stream, return_exceptions=True)


async def test_the_check_above_would_notice_a_gate_of_strict_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control."""
    monkeypatch.setattr(Turns, "is_over", lambda *_: False)
    clock = FakeClock()
    gate = Gate(RateLimit(10, per=10.0), clock=clock)
    got: list[str] = []
    await asyncio.gather(*(collect(gate, [], "first") for _ in range(10)))
    tasks = [asyncio.create_task(collect(gate, got, "poll", "bulk", Rank.POLL))]
    for _ in range(60):
        tasks += [asyncio.create_task(collect(gate, got, "create", "bulk", Rank.CREATE)) for _ in range(2)]
        await clock.advance(1)
    assert "poll" not in got
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@attrs.define
class Candidates:
    """A source of the gate with a list of candidates that a test changes as it likes."""

    ready: list[str] = attrs.field(factory=list[str])
    order = Order(Lane.INTERACTIVE, Rank.POLL)
    changes_at: float = math.inf
    granted: list[tuple[str, Slot]] = attrs.field(factory=list[Any])
    asked_at: list[float] = attrs.field(factory=list[float])

    def best(self, now: float, after: Order | None = None) -> Order | None:
        self.asked_at.append(now)
        return self.order if self.ready and (after is None or self.order > after) else None

    def alike(self, order: Order, now: float) -> int:
        assert now >= 0
        return len(self.ready) if order == self.order else 0

    def next_change(self, now: float) -> float:
        assert now >= 0
        return self.changes_at

    def grant(self, order: Order, slot: Slot) -> None:
        assert order == self.order
        self.granted.append((self.ready.pop(0), slot))

    def refuse(self, build: Callable[[], Exception]) -> None: ...


async def test_an_attached_source_is_asked_at_the_moment_a_slot_is_granted_and_not_before() -> None:
    clock = FakeClock()
    gate = Gate(RateLimit(1, per=60.0), clock=clock)
    (await gate.admit()).settle()
    source = Candidates(ready=["stale"])
    gate.attach(source)
    await clock.advance(59.0)
    assert source.granted == []
    source.ready[:] = ["fresh", "next"]
    await clock.advance(1.0)
    assert [name for name, _ in source.granted] == ["fresh"]
    gate.detach(source)
    source.granted[0][1].settle()
    await clock.advance(600)
    assert [name for name, _ in source.granted] == ["fresh"]


async def test_a_source_that_has_nothing_yet_is_asked_again_when_it_said() -> None:
    clock = FakeClock()
    gate = Gate(RateLimit(5), clock=clock)
    source = Candidates(changes_at=1007.0)
    gate.attach(source)
    asked = len(source.asked_at)
    await clock.advance(6.9)
    assert len(source.asked_at) == asked
    source.ready.append("ripe")
    source.changes_at = math.inf
    await clock.advance(0.2)
    assert [name for name, _ in source.granted] == ["ripe"]
    gate.detach(source)


async def test_the_better_of_a_source_and_the_waiting_calls_gets_the_slot() -> None:
    clock = FakeClock()
    gate = Gate(RateLimit(1, per=10.0), clock=clock)
    (await gate.admit()).settle()
    source = Candidates(ready=["poll"])
    gate.attach(source)
    got: list[str] = []
    task = asyncio.create_task(collect(gate, got, "create", "interactive", Rank.CREATE))
    await clock.advance(10)
    assert (got, source.granted) == (["create"], [])
    await clock.advance(10)
    assert len(source.granted) == 1
    await task
    gate.detach(source)


async def test_a_waiter_that_gives_up_leaves_its_slot_to_the_next() -> None:
    clock = FakeClock()
    gate = Gate(RateLimit(1, per=10.0), clock=clock)
    (await gate.admit()).settle()
    got: list[str] = []
    first, second = (asyncio.create_task(collect(gate, got, name)) for name in ("first", "second"))
    await clock.settle()
    first.cancel()
    await clock.advance(10)
    assert got == ["second"]
    await second
    assert gate.snapshot().waiting == {"interactive": 0, "bulk": 0}


@pytest.mark.parametrize("turns", range(8))
async def test_cancelling_around_the_moment_of_the_grant_loses_no_slot(turns: int) -> None:
    clock = FakeClock()
    gate = Gate(RateLimit(1, per=10.0), clock=clock)
    held = await gate.admit()
    got: list[str] = []
    first, second = (asyncio.create_task(collect(gate, got, name)) for name in ("first", "second"))
    await clock.settle()
    held.restore()  # grants the first waiter, which has not run yet
    for _ in range(turns):
        await asyncio.sleep(0)
    first.cancel()
    await clock.advance(10)
    await asyncio.gather(first, second, return_exceptions=True)
    assert got in (["second"], ["first", "second"])
    await clock.advance(10)
    assert gate.snapshot().used == 0


async def test_the_check_above_would_notice_a_gate_that_forgets_a_grant_that_was_not_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The negative control: without giving back what was granted and cancelled at once, the slot is gone."""
    monkeypatch.setattr(Slot, "restore", lambda _: None)
    clock = FakeClock()
    gate = Gate(RateLimit(1, per=10.0), clock=clock)
    held = await gate.admit()
    waiter = asyncio.create_task(gate.admit())
    await clock.settle()
    held.settle()
    await clock.advance(9.0)
    clock._time += 1.0  # the moment itself, before any task ran
    gate.pump()
    waiter.cancel()
    await clock.advance(1000)
    assert gate.snapshot().used == 1


async def test_a_restored_slot_is_free_at_once_and_a_settled_one_a_window_later_and_each_only_once() -> None:
    clock = FakeClock()
    gate = Gate(RateLimit(2, per=30.0), clock=clock)
    first, second = await gate.admit(), await gate.admit()
    assert gate.snapshot().used == 2
    first.restore()
    first.restore()
    first.settle()
    assert gate.snapshot().used == 1
    second.settle()
    second.restore()
    second.settle()
    assert gate.snapshot().used == 1
    await clock.advance(29.9)
    assert gate.snapshot().used == 1
    await clock.advance(0.2)
    assert gate.snapshot().used == 0


async def test_a_request_still_on_its_way_keeps_its_slot_however_long_it_takes() -> None:
    clock = FakeClock()
    gate = Gate(RateLimit(1, per=30.0), clock=clock)
    slot = await gate.admit()
    waiter = asyncio.create_task(gate.admit())
    await clock.advance(3000)
    assert not waiter.done()
    slot.settle()
    await clock.advance(29)
    assert not waiter.done()
    await clock.advance(1)
    (await waiter).restore()


async def test_closing_holds_back_every_call_and_a_shorter_close_changes_nothing() -> None:
    clock = FakeClock()
    gate = Gate(clock=clock)
    early, late = await gate.admit(), await gate.admit()
    early.refuse(30.0)
    late.refuse(5.0)
    assert gate.snapshot().closed_for == 30.0
    source = Candidates(ready=["poll"])
    gate.attach(source)
    waiters = [asyncio.create_task(gate.admit()) for _ in range(2)]
    await clock.advance(29.9)
    assert not any(waiter.done() for waiter in waiters)
    assert source.granted == []
    assert gate.snapshot().closed_for == pytest.approx(0.1)
    await clock.advance(0.1)
    assert [waiter.done() for waiter in waiters] == [True, False]  # one goes ahead
    (await waiters[0]).settle()
    await clock.settle()
    assert waiters[1].done()
    assert len(source.granted) == 1
    gate.detach(source)


async def test_a_close_during_the_wait_moves_the_wait_on() -> None:
    clock = FakeClock()
    gate = Gate(RateLimit(2, per=10.0), clock=clock)
    (await gate.admit()).settle()
    slot = await gate.admit()
    waiter = asyncio.create_task(gate.admit())
    await clock.advance(5)
    slot.refuse(60)
    await clock.advance(59)
    assert not waiter.done()
    await clock.advance(1)
    assert waiter.done()


async def test_the_snapshot_has_limit_use_waiting_per_lane_and_closing() -> None:
    clock = FakeClock()
    gate = Gate(RateLimit(2, per=10.0), clock=clock)
    (await gate.admit()).settle()
    slot = await gate.admit()
    lanes: list[Priority] = ["bulk", "bulk", "interactive"]
    waiters = [asyncio.create_task(gate.admit(lane)) for lane in lanes]
    await clock.settle()
    slot.refuse(3.0)
    seen = gate.snapshot()
    assert (seen.limit, seen.used, seen.waiting, seen.closed_for) == (2, 1, {"interactive": 1, "bulk": 2}, 3.0)
    for waiter in waiters:
        waiter.cancel()
    await clock.settle()
    assert gate.snapshot().waiting == {"interactive": 0, "bulk": 0}
    assert Gate(clock=clock).snapshot().limit is None


async def test_no_timer_is_left_when_no_call_waits() -> None:
    clock = FakeClock()
    gate = Gate(RateLimit(1, per=10.0), clock=clock)
    (await gate.admit()).settle()
    waiter = asyncio.create_task(gate.admit())
    await clock.settle()
    assert len(asyncio.all_tasks()) == 3  # this one, the waiter, the timer
    waiter.cancel()
    await clock.settle()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await clock.advance(10)
    (await gate.admit()).settle()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_gate_whose_timer_was_cancelled_from_outside_still_wakes_its_waiters() -> None:
    clock = FakeClock()
    gate = Gate(RateLimit(1, per=10.0), clock=clock)
    (await gate.admit()).settle()
    first = asyncio.create_task(gate.admit())
    await clock.settle()
    for task in asyncio.all_tasks():
        if task.get_name() == "gate timer":
            task.cancel()  # as a careless shutdown does
    await clock.settle()
    second = asyncio.create_task(gate.admit())  # the next call notices
    await clock.advance(10)
    assert first.done()
    second.cancel()
    await clock.settle()


async def test_a_thousand_cancelled_waiters_do_not_hold_up_those_behind_them() -> None:
    clock = FakeClock()
    gate = Gate(RateLimit(1, per=10.0), clock=clock)
    (await gate.admit()).settle()
    crowd = [asyncio.create_task(gate.admit()) for _ in range(1000)]
    last = asyncio.create_task(gate.admit())
    await clock.settle()
    for waiter in crowd:
        waiter.cancel()
    await clock.advance(10)
    assert last.done()


async def time_of(waiters: int) -> float:
    clock = FakeClock()
    gate = Gate(RateLimit(1, per=10.0), clock=clock)
    held = await gate.admit()
    tasks = [asyncio.create_task(gate.admit()) for _ in range(waiters)]
    began = time.process_time()
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    await asyncio.sleep(0)
    for task in tasks[1::2]:
        held.restore()
        held = await task
    took = time.process_time() - began
    held.restore()
    return took


async def test_ten_thousand_waiters_take_about_ten_times_as_long_as_a_thousand() -> None:
    """Joining, giving up and being granted are all cheap: a quadratic gate would take a hundred times as long."""
    small = min([await time_of(1000) for _ in range(2)])
    assert await time_of(10_000) < max(small, 0.005) * 40


async def test_polls_leave_room_for_the_requests_that_a_batch_is_about_to_make() -> None:
    clock = FakeClock()
    gate = Gate(RateLimit(10), clock=clock)
    got: list[str] = []
    for _ in range(4):
        await collect(gate, [], "create", "bulk", Rank.CREATE)
    gate.expected = 100  # no more than the four there were lately are believed in
    polls = [asyncio.create_task(collect(gate, got, "poll", "bulk", Rank.POLL)) for _ in range(6)]
    await clock.settle()
    assert got == ["poll"] * 2
    urgent = asyncio.create_task(collect(gate, got, "urgent", "interactive", Rank.POLL))
    await clock.settle()
    assert got[2:] == ["urgent"]
    gate.expected = 0
    gate.pump()
    await clock.settle()
    assert got[3:] == ["poll"] * 3
    await clock.advance(61)
    await asyncio.gather(urgent, *polls)


async def test_a_batch_that_makes_none_of_the_requests_it_expects_does_not_hold_polls_back() -> None:
    clock = FakeClock()
    gate = Gate(RateLimit(10), clock=clock)
    got: list[str] = []
    await collect(gate, [], "create", "bulk", Rank.CREATE)
    gate.expected = 9
    await clock.advance(61)
    await asyncio.gather(*(collect(gate, got, "poll", "bulk", Rank.POLL) for _ in range(10)))
    assert got == ["poll"] * 10
