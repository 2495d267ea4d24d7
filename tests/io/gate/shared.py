"""Several shared gates on one store in one event loop, and a server that judges them, in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import attrs

from aistemsplitter_async._gate.lanes import Priority, Rank
from aistemsplitter_async._gate.shared_gate import SharedGate
from aistemsplitter_async.config import RateLimit
from aistemsplitter_async.events import Event
from aistemsplitter_async.testing import FakeClock
from tests.gate_stores import MemoryGateStore

OWNER = {"api": "https://api.test", "key": "0123456789abcdef"}


@attrs.define
class Judge:
    """A server with a sliding window: independent of the code that is judged."""

    clock: FakeClock
    limit: int
    per: float = 60.0
    latency: Callable[[], float] = lambda: 0.02
    accepted: list[tuple[float, str]] = attrs.field(factory=list[tuple[float, str]])
    refused: list[float] = attrs.field(factory=list[float])
    retry_after: float | None = None

    def judge(self, who: str = "") -> bool:
        now = self.clock.monotonic()
        if sum(1 for at, _ in self.accepted if now - self.per < at <= now) >= self.limit:
            self.refused.append(now)
            return False
        self.accepted.append((now, who))
        return True

    async def request(
        self, gate: SharedGate, who: str = "", priority: Priority = "interactive", rank: Rank = Rank.RESERVE
    ) -> float:
        """Send one request, as often as it is refused; return how long it took."""
        began = self.clock.monotonic()
        while True:
            slot = await gate.admit(priority, rank)
            there = self.latency() / 2
            await self.clock.sleep(there)
            is_accepted = self.judge(who)
            await self.clock.sleep(there)
            if is_accepted:
                slot.settle()
                return self.clock.monotonic() - began
            slot.refuse(self.retry_after)


@attrs.define
class Fleet:
    """Some gates of one key on one store."""

    clock: FakeClock
    store: MemoryGateStore
    gates: list[SharedGate]
    events: list[list[Event]]

    @classmethod
    def start(cls, number: int, limit: RateLimit, *, seed: int = 1, **options: Any) -> Fleet:
        clock = FakeClock(autojump=True)
        store = MemoryGateStore(clock)
        store.delay = 0.001
        rng = random.Random(seed)  # noqa: S311  # not cryptography
        gates, heard = [], []
        for _ in range(number):
            events: list[Event] = []
            gate = SharedGate(store, limit, clock=clock, on_event=events.append, random=rng.random, **options)
            gate.serve(OWNER)
            gates.append(gate)
            heard.append(events)
        return cls(clock, store, gates, heard)

    async def stop(self) -> None:
        await asyncio.gather(*(gate.aclose() for gate in self.gates))
