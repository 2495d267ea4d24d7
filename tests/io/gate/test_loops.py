"""A gate and a batch in two event loops: refused where a wait would never end, and usable again where that is safe."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from aistemsplitter_async import AsyncAIStemSplitter, ConfigurationError, Gate, RateLimit
from aistemsplitter_async._gate.slot import Slot

GIVE_UP = 5.0  # s of real time, in which a gate of another loop would have let nobody in


@contextmanager
def loop_in_a_thread() -> Iterator[Callable[[Any], Any]]:
    """A loop that runs in another thread; what is entered runs a coroutine there and returns its result."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield lambda work: asyncio.run_coroutine_threadsafe(work, loop).result(GIVE_UP)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(cancel_all())
        loop.close()


async def cancel_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def admit(gate: Gate) -> Slot:
    return await asyncio.wait_for(gate.admit(), GIVE_UP)


def test_a_gate_in_the_loops_of_two_threads_is_refused() -> None:
    gate = Gate(RateLimit(1, per=0.2))
    with loop_in_a_thread() as elsewhere:
        slot = elsewhere(admit(gate))
        with pytest.raises(ConfigurationError, match="a gate belongs to the event loop of its first call"):
            asyncio.run(admit(gate))
        elsewhere(asyncio.sleep(0))
        with pytest.raises(ConfigurationError):
            asyncio.run(give_back(slot))
        with pytest.raises(ConfigurationError):
            gate_restored_here(gate)


async def give_back(slot: Slot) -> None:
    slot.settle()


def gate_restored_here(gate: Gate) -> None:
    async def restore() -> None:
        gate.restore(gate.export())

    asyncio.run(restore())


def test_clients_of_one_gate_in_two_threads_are_told() -> None:
    gate = Gate(RateLimit(1, per=0.2))

    async def credits_of_nobody() -> None:
        async with AsyncAIStemSplitter("ast_x", base_url="http://127.0.0.1:9/v1", gate=gate) as client:
            await client.get_credits(timeout=GIVE_UP)

    with loop_in_a_thread() as elsewhere:
        elsewhere(admit(gate))  # and holds it
        with pytest.raises(ConfigurationError, match="a gate belongs"):
            asyncio.run(credits_of_nobody())


def test_a_gate_of_a_module_may_be_used_by_one_run_after_the_other_and_remembers_the_key() -> None:
    gate = Gate(RateLimit(2, per=3600.0))

    async def use() -> None:
        (await admit(gate)).settle()

    asyncio.run(use())
    asyncio.run(use())
    assert gate.snapshot().used == 2

    async def wait_in_vain() -> None:
        await asyncio.wait_for(gate.admit(), 0.05)

    with pytest.raises(TimeoutError):
        asyncio.run(wait_in_vain())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_waited_in_a_loop_that_was_closed_without_a_word_is_in_nobodys_way() -> None:
    gate = Gate(RateLimit(1, per=0.1))
    loop = asyncio.new_event_loop()
    slot = loop.run_until_complete(gate.admit())
    waiting = loop.create_task(gate.admit())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()

    async def go_on() -> None:
        later = asyncio.ensure_future(admit(gate))
        await asyncio.sleep(0)
        slot.settle()
        (await later).settle()

    asyncio.run(go_on())
    assert not waiting.done()
    waiting._log_destroy_pending = False  # type: ignore[attr-defined]


def test_a_gate_is_restored_where_no_loop_runs() -> None:
    first, second = Gate(RateLimit(5)), Gate(RateLimit(5))

    async def use() -> None:
        (await admit(first)).settle()

    asyncio.run(use())
    second.restore(first.export())
    first.restore(second.export())
    assert second.snapshot().used == 1


def test_a_batch_is_iterated_where_it_was_entered() -> None:
    with loop_in_a_thread() as elsewhere:

        async def enter() -> Any:
            client = AsyncAIStemSplitter("ast_x", base_url="http://127.0.0.1:9/v1")
            return await client.split_many(endless()).__aenter__(), client

        batch, client = elsewhere(enter())

        async def take() -> None:
            await asyncio.wait_for(anext(batch), GIVE_UP)

        try:
            with pytest.raises(ConfigurationError, match="event loop"):
                asyncio.run(take())
        finally:
            elsewhere(batch.__aexit__(None, None, None))
            elsewhere(client.aclose())


async def endless() -> Any:
    await asyncio.Event().wait()
    yield ""


async def test_a_batch_is_entered_once() -> None:
    async with AsyncAIStemSplitter("ast_x", base_url="http://127.0.0.1:9/v1") as client:
        async with client.split_many([]) as batch:
            with pytest.raises(ConfigurationError, match="entered once"):
                await batch.__aenter__()
        with pytest.raises(ConfigurationError, match="entered once"):
            await batch.__aenter__()


async def test_two_tasks_may_wait_for_the_outcomes_of_one_batch() -> None:
    async def take(batch: Any) -> list[Any]:
        return [outcome async for outcome in batch]

    async with (
        AsyncAIStemSplitter("ast_x", base_url="http://127.0.0.1:9/v1") as client,
        client.split_many(["/nowhere/1.wav", "/nowhere/2.wav"]) as batch,
    ):
        taken = await asyncio.wait_for(asyncio.gather(*(take(batch) for _ in range(3))), GIVE_UP)
    assert sum(map(len, taken)) == 2
