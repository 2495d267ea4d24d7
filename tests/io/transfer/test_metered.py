"""Transfers under a meter: a stalled transfer is cancelled, a slow one is not, and nothing is left behind."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aistemsplitter_async._tasks import run_in_thread, wait_out
from aistemsplitter_async._transfer.meter import Meter
from aistemsplitter_async._transfer.metered import run_metered
from aistemsplitter_async.config import Timeouts
from aistemsplitter_async.errors import APIConnectionError, APITimeoutError
from aistemsplitter_async.testing import FakeClock

CALM = Timeouts(stall=10.0, floor_bytes=100.0)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(autojump=True)


@pytest.fixture
def meter(clock: FakeClock) -> Meter:
    return Meter(CALM, now=clock.monotonic())


async def move(clock: FakeClock, meter: Meter, *, every: float, count: int, times: int) -> str:
    for _ in range(times):
        await clock.sleep(every)
        meter.add(count, now=clock.monotonic())
    return "done"


async def test_what_moves_may_take_as_long_as_it_likes(clock: FakeClock, meter: Meter) -> None:
    work = move(clock, meter, every=9.0, count=2000, times=100)
    assert await run_metered(work, meter, clock=clock, what="x") == "done"
    assert clock.monotonic() == 1900.0


async def test_silence_is_a_stall(clock: FakeClock, meter: Meter) -> None:
    with pytest.raises(APITimeoutError) as caught:
        await run_metered(clock.sleep(1e6), meter, clock=clock, what="the upload")
    assert caught.value.code == "STALLED"
    assert clock.monotonic() == 1010.0


async def test_a_drip_is_a_stall(clock: FakeClock, meter: Meter) -> None:
    with pytest.raises(APITimeoutError):
        await run_metered(move(clock, meter, every=1.0, count=50, times=1000), meter, clock=clock, what="x")
    assert clock.monotonic() == 1010.0


async def test_a_failure_of_the_work_comes_out_as_it_is(clock: FakeClock, meter: Meter) -> None:
    error = APIConnectionError("reset")

    async def fail() -> None:
        await clock.sleep(1)
        raise error

    with pytest.raises(APIConnectionError) as caught:
        await run_metered(fail(), meter, clock=clock, what="x")
    assert caught.value is error


async def test_cancelling_waits_until_the_work_has_let_go_however_often_it_is_repeated() -> None:
    clock = FakeClock()
    let_go = asyncio.Event()
    ended: list[str] = []

    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await let_go.wait()
            ended.append("work")

    task = asyncio.create_task(
        run_metered(stubborn(), Meter(CALM, now=clock.monotonic()), clock=clock, what="x"), name="watchman"
    )
    await clock.settle()
    for _ in range(3):
        task.cancel()
        await clock.settle()
        assert not task.done()
    let_go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["work"]


async def test_a_failure_in_the_turn_of_a_cancellation_is_not_complained_about() -> None:
    clock = FakeClock()
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    go = asyncio.Event()

    async def fail() -> None:
        await go.wait()
        raise APIConnectionError("reset")

    for turns in range(6):
        go.clear()
        task = asyncio.create_task(run_metered(fail(), Meter(CALM, now=1000.0), clock=clock, what="x"))
        await clock.settle()
        go.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() or isinstance(task.exception(), APIConnectionError)
        del task
    await clock.settle()
    assert complaints == []


async def test_a_thread_is_waited_for_and_what_it_opened_is_undone_when_it_is_not_taken() -> None:
    undone: list[str] = []
    task = asyncio.create_task(run_in_thread(str, "opened", undo=undone.append))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert undone == ["opened"]
    assert await run_in_thread(str, "taken", undo=undone.append) == "taken"
    assert undone == ["opened"]


async def test_the_failure_of_a_thread_without_a_waiter_is_not_complained_about() -> None:
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    task = asyncio.create_task(run_in_thread(int, "no number"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ValueError, match="invalid literal"):
        await run_in_thread(int, "no number")
    assert complaints == []


async def test_waiting_for_nothing_takes_no_time() -> None:
    await wait_out()
