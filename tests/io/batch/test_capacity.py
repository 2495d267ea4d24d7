"""A resizable limit: admitted in order, and nothing is lost when a waiter is cancelled."""

from __future__ import annotations

import asyncio

import pytest

from aistemsplitter_async.batch.capacity import Capacity


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_waiters_are_admitted_in_order_as_the_size_and_the_holders_allow() -> None:
    capacity, admitted = Capacity(1), list[int]()

    async def hold(number: int) -> None:
        await capacity.acquire()
        admitted.append(number)

    tasks = [asyncio.create_task(hold(number)) for number in range(6)]
    await settle()
    assert admitted == [0]
    capacity.resize(3)
    await settle()
    assert admitted == [0, 1, 2]
    capacity.resize(2)
    capacity.release()
    await settle()
    assert admitted == [0, 1, 2], "3 held, one left, 2 allowed"
    capacity.release()
    capacity.release()
    await settle()
    assert admitted == [0, 1, 2, 3, 4]
    tasks[5].cancel()
    await asyncio.wait(tasks)
    capacity.release()
    await capacity.acquire()  # the cancelled one is not in the way


@pytest.mark.parametrize("admitted_first", [False, True])
async def test_a_cancelled_waiter_holds_nothing(admitted_first: bool) -> None:
    capacity = Capacity(1)
    await capacity.acquire()
    waiter, follower = (asyncio.create_task(capacity.acquire()) for _ in range(2))
    await settle()
    if admitted_first:
        capacity.release()
        waiter.cancel()
    else:
        waiter.cancel()
        capacity.release()
    await asyncio.wait([waiter, follower])
    assert waiter.cancelled()
    assert not follower.cancelled()
