"""Time stands still until it is moved; then all waiters wake in order."""

from __future__ import annotations

import asyncio

import pytest

from aistemsplitter_async.testing import FakeClock


async def test_sleepers_wake_in_order_at_their_own_times() -> None:
    clock = FakeClock()
    woken: list[tuple[str, float]] = []

    async def sleeper(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((name, clock.monotonic() - 1000.0))

    async with asyncio.TaskGroup() as group:
        group.create_task(sleeper("late", 20))
        group.create_task(sleeper("early", 5))
        await clock.advance(4.9)
        assert woken == []
        await clock.advance(30)
    assert woken == [("early", 5), ("late", 20)]


async def test_a_timeout_strikes_at_its_deadline_and_not_before() -> None:
    clock = FakeClock()

    async def limited() -> None:
        async with clock.timeout_at(clock.monotonic() + 10):
            await clock.sleep(100)

    task = asyncio.create_task(limited())
    await clock.advance(9.9)
    assert not task.done()
    await clock.advance(0.2)
    with pytest.raises(TimeoutError):
        await task


async def test_with_autojump_time_moves_only_to_moments_that_a_task_waits_for() -> None:
    clock = FakeClock(autojump=True)
    async with clock.timeout_at(clock.monotonic() + 500):
        await clock.sleep(30)
    await clock.sleep(3600)
    assert clock.monotonic() == 1000.0 + 3630


async def test_the_wall_clock_moves_along() -> None:
    clock = FakeClock(now=5.0)
    await clock.advance(60)
    assert clock.now() == 65.0
