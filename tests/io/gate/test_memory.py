"""What a gate knows survives a restart, and a file that lies does no harm."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import attrs
import pytest
from hypothesis import given, settings, strategies as st

from aistemsplitter_async._gate.gate import Gate
from aistemsplitter_async._gate.memory import parse_gate_memory
from aistemsplitter_async.config import RateLimit
from aistemsplitter_async.testing import FakeClock

LIMIT = 20


@attrs.define
class Server:
    """Counts by its own clock, the wall; fixed windows begin at `phase`, `None`: sliding."""

    phase: float | None
    log: list[float] = attrs.field(factory=list[float])
    counts: Counter[int] = attrs.field(factory=Counter[int])
    refused: int = 0

    def accepts(self, now: float) -> bool:
        if self.phase is None:
            accepted = sum(at > now - 60 for at in self.log) < LIMIT
            self.log += [now] * accepted
        else:
            window = int((now - self.phase) // 60)
            accepted = self.counts[window] < LIMIT
            self.counts[window] += accepted
        self.refused += not accepted
        return accepted


async def work(gate: Gate, clock: FakeClock, server: Server, *, seconds: float, trips: float = 0.5) -> dict[str, Any]:
    """Send all that the gate lets through, then die: return what had been exported last."""

    async def call() -> None:
        slot = await gate.admit()
        await clock.sleep(trips / 2)
        accepted = server.accepts(clock.now())
        await clock.sleep(trips / 2)
        if accepted:
            slot.settle()
        else:
            slot.refuse(None)

    calls = [asyncio.create_task(call()) for _ in range(100)]
    await clock.advance(seconds)
    exported = json.loads(json.dumps(gate.export()))
    for task in calls:
        task.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    return exported  # type: ignore[no-any-return]


async def refusals(
    server: Server, limit: RateLimit, *, first: float, pause: float, keep: bool = True, jump: float = 0.0
) -> int:
    """Work for `first` seconds, restart after `pause` and work on; return how many requests the server refused then."""
    clock = FakeClock(start=5000.0)
    gate = Gate(limit, clock=clock)
    exported = await work(gate, clock, server, seconds=first)
    before = server.refused
    later = FakeClock(start=3.0, now=clock.now() + pause + jump)
    gate = Gate(limit, clock=later)
    if keep:
        gate.restore(exported)
    server.log = [at + jump for at in server.log]
    await work(gate, later, server, seconds=130.0)
    return server.refused - before


@pytest.mark.parametrize("phase", [None, 0.0, 20.0, 41.3])
@pytest.mark.parametrize(("first", "pause"), [(0.25, 0.0), (5.0, 0.1), (30.0, 2.0), (62.0, 10.0), (70.0, 55.0)])
async def test_a_restart_in_the_middle_of_a_window_meets_no_429(
    phase: float | None, first: float, pause: float
) -> None:
    assert await refusals(Server(phase), RateLimit(LIMIT), first=first, pause=pause) == 0


async def test_the_check_above_would_notice_a_gate_that_forgets() -> None:
    assert await refusals(Server(None), RateLimit(LIMIT), first=5.0, pause=0.1, keep=False) > 0


async def test_a_limit_that_was_learned_is_not_learned_again() -> None:
    assert await refusals(Server(None), RateLimit(), first=70.0, pause=1.0, keep=False) > 0
    assert await refusals(Server(None), RateLimit(), first=70.0, pause=1.0) == 0


async def test_a_wall_clock_that_jumped_back_holds_slots_a_window_at_most() -> None:
    assert await refusals(Server(None), RateLimit(LIMIT), first=5.0, pause=1.0, jump=-86_400.0) == 0
    clock = FakeClock()
    gate = Gate(RateLimit(1), clock=clock)
    (await gate.admit()).settle()
    exported = gate.export()
    later = FakeClock(start=0.0, now=clock.now() - 1e6)
    gate = Gate(RateLimit(1), clock=later)
    gate.restore(exported)
    waiter = asyncio.create_task(gate.admit())
    await later.advance(60.0)
    (await waiter).restore()


async def test_a_closed_gate_stays_closed_and_one_request_asks_whether_it_is_over() -> None:
    clock = FakeClock()
    gate = Gate(RateLimit(5), clock=clock)
    (await gate.admit()).refuse(30.0)
    later = FakeClock(start=0.0, now=clock.now() + 10)
    gate2 = Gate(RateLimit(5), clock=later)
    gate2.restore(gate.export())
    assert gate2.snapshot().closed_for == pytest.approx(20.0)
    waiters = [asyncio.create_task(gate2.admit()) for _ in range(2)]
    await later.advance(20.0)
    assert [waiter.done() for waiter in waiters] == [True, False]
    (await waiters[0]).settle()
    (await waiters[1]).restore()


async def test_a_declared_limit_is_not_overruled_by_memory() -> None:
    clock = FakeClock()
    gate = Gate(RateLimit(30), clock=clock)
    gate.restore({"version": 1, "at": clock.now(), "per": 60.0, "believed": 500})
    assert gate.snapshot().limit == 30


async def test_a_bucket_is_as_empty_as_it_was() -> None:
    clock = FakeClock()
    limit = RateLimit(60, policy="bucket")
    gate = Gate(limit, clock=clock)
    for _ in range(60):
        await send(gate)
    later = FakeClock(start=0.0, now=clock.now() + 10)
    gate2 = Gate(limit, clock=later)
    gate2.restore(gate.export())
    waiters = [asyncio.create_task(send(gate2)) for _ in range(20)]
    await later.settle()
    assert sum(waiter.done() for waiter in waiters) == 10
    for waiter in waiters:
        waiter.cancel()
    await asyncio.gather(*waiters, return_exceptions=True)


async def send(gate: Gate) -> None:
    (await gate.admit()).settle()


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=6,
)
FIELDS = ("version", "at", "per", "believed", "paced", "full_in", "ages", "closed_for")
SENSE = {"version": 1, "at": 1_800_000_000.0, "per": 60.0}


@given(st.dictionaries(st.sampled_from(FIELDS), JSON))
@settings(max_examples=300)
def test_a_file_full_of_nonsense_is_harmless(nonsense: dict[str, Any]) -> None:
    for remembered in (nonsense, SENSE | {key: nonsense[key] for key in nonsense if key not in SENSE}):
        memory = parse_gate_memory(remembered, 1_800_000_010.0)
        if memory is None:
            continue
        gate = Gate(RateLimit(1), clock=FakeClock())
        gate._limiter.recall(memory, 1000.0)
        assert gate.snapshot().closed_for <= 3600
        at = max(1000.0, gate._limiter.closed_until)
        assert gate._limiter.free_at(at) <= max(at, 1000.0 + 62.0)  # the margin of even spreading
