"""Gates of several processes on one store keep one limit, as one gate would, whatever becomes of any of them."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import pytest

from aistemsplitter_async._gate.gate import Gate
from aistemsplitter_async._gate.lanes import Rank
from aistemsplitter_async._gate.shared_gate import SharedGate
from aistemsplitter_async._gate.slot import Lease
from aistemsplitter_async._sleep import Readings
from aistemsplitter_async.config import RateLimit
from aistemsplitter_async.errors import ConfigurationError, RateLimitedError
from aistemsplitter_async.events import GateClosed, GateOpened, LimitLearned
from aistemsplitter_async.testing import FakeClock
from tests.io.gate.shared import OWNER, Fleet, Judge

LIMIT = RateLimit(20)


async def saturate(judge: Judge, gates: list[Any], requests: int, **options: Any) -> None:
    await asyncio.gather(
        *(judge.request(gate, str(number), **options) for number, gate in enumerate(gates) for _ in range(requests))
    )


async def test_four_processes_keep_a_declared_limit_and_use_it_in_full() -> None:
    fleet = Fleet.start(4, LIMIT)
    rng = random.Random(1)  # noqa: S311  # not cryptography
    judge = Judge(fleet.clock, 20, latency=lambda: rng.uniform(0.01, 1.0))
    await saturate(judge, fleet.gates, 20, priority="bulk")
    assert judge.refused == []
    times = sorted(at for at, _ in judge.accepted)
    assert times[-1] - times[0] < 190, "80 requests need three windows and the latencies"
    assert set(Counter(who for _, who in judge.accepted)) == {"0", "1", "2", "3"}
    await fleet.stop()


async def test_private_gates_would_be_refused() -> None:
    clock = FakeClock(autojump=True)
    judge = Judge(clock, 20)
    await saturate(judge, [Gate(LIMIT, clock=clock) for _ in range(4)], 10)
    assert len(judge.refused) > 4


async def test_what_one_process_learns_of_the_limit_all_know() -> None:
    async def refusals(gates: list[Any], clock: FakeClock) -> int:
        judge = Judge(clock, 20)
        await saturate(judge, gates, 60 // len(gates))
        return len(judge.refused)

    clock = FakeClock(autojump=True)
    alone = await refusals([Gate(clock=clock)], clock)
    fleet = Fleet.start(4, RateLimit())
    assert 0 < await refusals(fleet.gates, fleet.clock) <= alone
    for gate in fleet.gates:
        (await gate.admit()).restore()
    assert {gate.snapshot().limit for gate in fleet.gates} == {20}
    for events in fleet.events:
        assert [event.new for event in events if isinstance(event, LimitLearned)][-1] == 20
    await fleet.stop()


async def test_a_refusal_closes_the_gate_for_all_and_one_probe_opens_it() -> None:
    fleet = Fleet.start(3, LIMIT)
    slots = [await gate.admit() for gate in fleet.gates]
    slots[0].refuse(50.0)
    for slot in slots[1:]:
        slot.settle()
    began = fleet.clock.monotonic()
    answered = asyncio.Event()
    sent: list[float] = []

    async def request(gate: SharedGate) -> None:
        slot = await gate.admit()
        sent.append(fleet.clock.monotonic() - began)
        await answered.wait()
        slot.settle()

    waiting = [asyncio.ensure_future(request(gate)) for gate in fleet.gates for _ in range(2)]
    await fleet.clock.sleep(55)
    assert [int(at) for at in sent] == [50], "the others wait for its answer"
    answered.set()
    await asyncio.gather(*waiting)
    assert max(sent) < 60
    for events in fleet.events:
        told = [type(event) for event in events if isinstance(event, GateClosed | GateOpened)]
        assert told == [GateClosed, GateOpened]
    await fleet.stop()


async def test_a_refusal_that_asks_for_too_long_a_wait_fails_the_calls_of_every_process() -> None:
    fleet = Fleet.start(3, RateLimit(1))
    slot = await fleet.gates[0].admit()
    waiting = [asyncio.ensure_future(gate.admit()) for gate in fleet.gates]
    await fleet.clock.sleep(1)
    slot.refuse(600.0)
    for failure in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(failure, RateLimitedError)
        assert 580 < (failure.retry_after or 0.0) <= 600
    for gate in fleet.gates:
        with pytest.raises(RateLimitedError):
            await gate.admit()
    await fleet.stop()


async def test_calls_that_wait_for_a_full_window_hear_of_a_refusal_before_it_is_over() -> None:
    fleet = Fleet.start(3, RateLimit(3))
    slots = [await gate.admit() for gate in fleet.gates]
    for slot in slots[1:]:
        slot.settle()
    await fleet.clock.sleep(1)
    waiting = [asyncio.ensure_future(gate.admit()) for gate in fleet.gates]
    await fleet.clock.sleep(1)
    began = fleet.clock.monotonic()
    slots[0].refuse(600.0)
    for failure in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(failure, RateLimitedError)
    assert fleet.clock.monotonic() - began < 16
    await fleet.stop()


async def test_a_slot_goes_to_the_best_call_at_the_moment_when_it_is_granted() -> None:
    fleet = Fleet.start(1, RateLimit(20))
    gate = fleet.gates[0]
    fleet.store.delay = 1.0
    poll = asyncio.ensure_future(gate.admit("bulk", Rank.POLL))
    await fleet.clock.sleep(1.5)  # the question is on its way
    create = asyncio.ensure_future(gate.admit("interactive", Rank.CREATE))
    slot = await create
    assert not poll.done()
    (await poll).restore()
    slot.settle()
    await fleet.stop()


async def test_a_slot_that_nobody_wants_any_more_is_given_back() -> None:
    fleet = Fleet.start(2, RateLimit(1))
    fleet.store.delay = 0.5
    gone = asyncio.ensure_future(fleet.gates[0].admit())
    await fleet.clock.sleep(0.7)
    gone.cancel()
    await fleet.clock.sleep(3)
    async with fleet.clock.timeout_at(fleet.clock.monotonic() + 3):
        (await fleet.gates[1].admit()).settle()
    await fleet.stop()


@pytest.mark.parametrize("lost", [1, 2, 3])
async def test_answers_that_are_lost_lose_no_slot_and_count_none_twice(lost: int) -> None:
    fleet = Fleet.start(2, LIMIT)
    fleet.store.lose = lost
    slots = [await fleet.gates[0].admit() for _ in range(3)]
    assert fleet.gates[0].snapshot().used == 3
    for slot in slots:
        fleet.store.lose = lost
        slot.settle()
        for _ in range(lost + 1):
            await fleet.gates[0].flush()
        assert not fleet.gates[0]._holding.has_news
    (await fleet.gates[1].admit()).restore()
    assert fleet.gates[1].snapshot().used == 4, "three were sent, and its own"
    await fleet.stop()


async def test_a_conversation_that_is_cancelled_from_outside_loses_nothing() -> None:
    fleet = Fleet.start(2, LIMIT)
    gate = fleet.gates[0]
    slot = await gate.admit()
    fleet.store.delay = 1.0
    slot.settle()
    await fleet.clock.sleep(0.1)
    for task in asyncio.all_tasks():
        if task.get_name() == "gate talk":
            task.cancel()
    await fleet.clock.sleep(3)
    fleet.store.delay = 0.0
    gate.pump()
    await fleet.clock.sleep(1)
    (await fleet.gates[1].admit()).restore()
    snapshot = fleet.gates[1].snapshot()
    assert snapshot.used == 2
    await fleet.clock.sleep(70)
    (await fleet.gates[1].admit()).restore()
    assert fleet.gates[1].snapshot().used == 1, "it came back after a window"
    await fleet.stop()


async def test_the_slots_of_a_killed_process_come_back_after_its_lease_and_a_window() -> None:
    fleet = Fleet.start(2, RateLimit(2))
    dead, alive = fleet.gates
    for _ in range(2):
        await dead.admit()
    dead.pump = lambda: None  # type: ignore[method-assign]  # it never speaks again
    dead._timer.set(float("inf"))
    began = fleet.clock.monotonic()
    (await alive.admit()).settle()
    assert 75 <= fleet.clock.monotonic() - began < 80
    assert alive.snapshot().holders == 1
    await alive.aclose()


async def test_a_long_request_keeps_its_slot_and_an_idle_process_asks_nothing() -> None:
    fleet = Fleet.start(2, RateLimit(1))
    slot = await fleet.gates[0].admit()
    other = asyncio.ensure_future(fleet.gates[1].admit())
    await fleet.clock.sleep(100)
    assert not slot.is_stale
    assert not other.done()
    other.cancel()
    slot.settle()
    await fleet.clock.sleep(1)
    loads, tasks = fleet.store.loads, asyncio.all_tasks()
    await fleet.clock.sleep(1000)
    assert fleet.store.loads == loads
    assert tasks == {asyncio.current_task()}
    await fleet.stop()


async def test_without_heartbeats_the_slot_of_a_long_request_would_be_given_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(SharedGate, "_heartbeat_at", lambda _: float("inf"))
    fleet = Fleet.start(2, RateLimit(1))
    slot = await fleet.gates[0].admit()
    (await fleet.gates[1].admit()).settle()
    assert slot.is_stale
    await fleet.stop()


async def stopped(clock: FakeClock, seconds: float, *, asleep: bool) -> None:
    """The process, or the whole machine, stands still: timers fall behind."""
    if asleep:
        clock._now += seconds
    else:
        clock._time += seconds
    await asyncio.sleep(0)


@pytest.mark.parametrize("asleep", [False, True])
async def test_a_slot_is_stale_after_a_pause_even_once_the_process_has_spoken_again(asleep: bool) -> None:
    fleet = Fleet.start(1, RateLimit(5))
    gate = fleet.gates[0]
    slot = await gate.admit()
    stale = []
    for seconds in (14.0, 2.0):
        await stopped(fleet.clock, seconds, asleep=asleep)
        stale.append(slot.is_stale)
    fresh = await gate.admit()
    assert [*stale, slot.is_stale, fresh.is_stale] == [False, True, True, False]
    slot.restore()
    fresh.restore()
    await fleet.stop()


async def test_a_lease_that_is_renewed_in_time_goes_on() -> None:
    now = [0.0]
    lease = Lease(10.0, lambda: _readings(now[0]), _readings(0.0))
    now[0] = 9.0
    lease.renew(10.0, _readings(8.0))
    now[0] = 17.0
    assert not lease.is_over
    now[0] = 18.0
    assert lease.is_over


def _readings(now: float) -> Readings:
    return Readings(now, now, now)


async def test_that_a_slot_is_over_can_wait_for_others_while_there_are_enough() -> None:
    fleet = Fleet.start(1, RateLimit(100))
    slot = await fleet.gates[0].admit()
    swaps = [fleet.store.swaps]
    slot.settle()
    for _ in range(2):
        await fleet.clock.sleep(0.3)
        swaps.append(fleet.store.swaps)
    assert [later - swaps[0] for later in swaps] == [0, 0, 1]
    await fleet.stop()


async def test_each_process_plans_its_polls_with_its_part_of_the_budget() -> None:
    fleet = Fleet.start(4, RateLimit(40))
    for gate in fleet.gates:
        (await gate.admit()).restore()
    await fleet.clock.sleep(1.0)  # until all know of it
    first = fleet.gates[0]
    slot = await first.admit()
    budget = first.budget()
    assert (budget.limit, budget.holders) == (40, 4)
    assert budget.available(0.0) == pytest.approx(39 / 4)
    assert first.snapshot().holders == 4
    slot.restore()
    await fleet.stop()


async def test_interactive_calls_leave_bulk_behind_across_processes() -> None:
    fleet = Fleet.start(2, RateLimit(60))
    judge = Judge(fleet.clock, 60)
    bulk = asyncio.ensure_future(saturate(judge, fleet.gates[:1], 300, priority="bulk"))
    await judge.request(fleet.gates[1])  # from now on, others leave room for more
    await fleet.clock.sleep(70)
    waited = []
    for _ in range(6):
        waited.append(await judge.request(fleet.gates[1]))
        await fleet.clock.sleep(25)
    assert max(waited) < 0.1
    assert judge.refused == []
    bulk.cancel()
    await asyncio.gather(bulk, return_exceptions=True)
    await fleet.stop()


async def test_a_process_that_says_goodbye_leaves_its_slots_to_others_at_once() -> None:
    fleet = Fleet.start(2, RateLimit(1))
    await fleet.gates[0].admit()
    await fleet.gates[0].aclose()
    began = fleet.clock.monotonic()
    (await fleet.gates[1].admit()).settle()
    assert fleet.clock.monotonic() - began < 61, "a window, but no lease"
    with pytest.raises(ConfigurationError, match="closed"):
        await fleet.gates[0].admit()
    await fleet.stop()
    assert fleet.store.closed


async def test_a_gate_serves_one_key() -> None:
    fleet = Fleet.start(1, LIMIT)
    gate = fleet.gates[0]
    gate.serve(dict(OWNER))
    with pytest.raises(ConfigurationError, match="one key"):
        gate.serve(OWNER | {"key": "another"})
    assert OWNER["key"] not in str(vars(gate)), "only its hash is kept"
    with pytest.raises(ConfigurationError, match="give it to a client"):
        await SharedGate(fleet.store).admit()
    for lease in (0.0, float("inf"), float("nan")):
        with pytest.raises(ConfigurationError, match="lease"):
            SharedGate(fleet.store, lease=lease)
    with pytest.raises(ConfigurationError, match="shared="):
        SharedGate("host")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError):
        SharedGate(fleet.store, patience=-1.0)
    with pytest.raises(ConfigurationError):
        SharedGate(fleet.store, 60)  # type: ignore[arg-type]


async def test_it_neither_saves_nor_restores_what_the_store_remembers() -> None:
    fleet = Fleet.start(1, RateLimit())
    gate = fleet.gates[0]
    other = Gate(RateLimit(), clock=fleet.clock)
    other.restore({"version": 1, "at": fleet.clock.now(), "per": 60.0, "believed": 7})
    gate.restore(other.export())
    (await gate.admit()).settle()
    assert gate.snapshot().limit is None
    assert (gate.changes, gate.export()) == (0, {})
    await fleet.stop()
