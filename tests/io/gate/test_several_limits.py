"""A gate under two limits, in virtual time: it holds the tighter one, says so, and remembers both."""

from __future__ import annotations

import asyncio
import json

import pytest

from aistemsplitter_async import Gate, RateLimit, RateLimitedError
from aistemsplitter_async.testing import FakeClock

BOTH = RateLimit(5, further=(RateLimit(12, 600.0),))


async def spend(gate: Gate, clock: FakeClock, requests: int, until: float) -> list[float]:
    """When each of so many bulk requests was admitted, up to a moment."""
    times: list[float] = []

    async def one() -> None:
        slot = await gate.admit("bulk")
        times.append(clock.monotonic())
        slot.settle()

    tasks = [asyncio.create_task(one()) for _ in range(requests)]
    while clock.monotonic() < until:
        await clock.advance(1.0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return times


async def test_the_tighter_of_two_limits_is_held_at_any_moment_and_over_a_restart() -> None:
    clock = FakeClock()
    gate = Gate(BOTH, clock=clock)
    begin = clock.monotonic()
    times = [round(at - begin) for at in await spend(gate, clock, 40, begin + 599)]
    assert times == [0] * 5 + [60] * 5 + [120] * 2  # by the minute, and then by ten of them
    (longer,) = gate.snapshot().further
    assert (longer.limit, longer.used, longer.per) == (12, 12, 600.0)

    again = Gate(BOTH, clock=clock)
    again.restore(json.loads(json.dumps(gate.export())))
    begin += 600
    times = [round(at - begin) for at in await spend(again, clock, 40, begin + 130)]
    assert times == [0] * 5 + [60] * 5 + [120] * 2 or times == [1] * 5 + [61] * 5 + [121] * 2


async def test_an_interactive_call_is_told_when_a_limit_is_used_up_for_long() -> None:
    clock = FakeClock()
    gate = Gate(RateLimit(60, further=(RateLimit(1, 86_400.0),)), clock=clock)
    (await gate.admit()).settle()
    with pytest.raises(RateLimitedError, match="used up for another 86400 s") as caught:
        await gate.admit()
    assert caught.value.retry_after == pytest.approx(86_400)
