"""Modules that load in a thread at the first call: once, for all who wait, and however the wait ends."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import attrs
import pytest

import aistemsplitter_async
from aistemsplitter_async import AsyncAIStemSplitter, ConfigurationError, _loading, client as client_module, testing
from aistemsplitter_async._loading import load
from aistemsplitter_async.batch import batch as batch_module
from aistemsplitter_async.testing import FakeTransport, json_reply
from tests.io.fakes import World

SLOW = "aistemsplitter_async.slow_module"


@attrs.define
class Import:
    """The import of a module, which takes until it is let go on."""

    begun: threading.Event = attrs.field(factory=threading.Event)
    go_on: threading.Event = attrs.field(factory=threading.Event)
    threads: list[int] = attrs.field(factory=list[int])

    def run(self) -> None:
        self.threads.append(threading.get_ident())
        self.begun.set()
        assert self.go_on.wait(60)

    async def begins(self) -> None:
        assert await asyncio.to_thread(self.begun.wait, 60)


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Import]:
    importing = Import()
    (tmp_path / "slow_module.py").write_text("import sys\n\nsys.slow_import()\nDONE = 1\n")
    monkeypatch.setattr(sys, "slow_import", importing.run, raising=False)
    monkeypatch.setattr(aistemsplitter_async, "__path__", [*aistemsplitter_async.__path__, str(tmp_path)])
    yield importing
    importing.go_on.set()
    sys.modules.pop(SLOW, None)
    vars(aistemsplitter_async).pop("slow_module", None)


async def test_all_who_need_a_module_wait_for_one_import_while_the_loop_goes_on(slow: Import) -> None:
    waits = [asyncio.create_task(load("slow_module", "DONE")) for _ in range(3)]
    await slow.begins()
    assert not any(wait.done() for wait in waits)
    slow.go_on.set()
    await asyncio.gather(*waits)
    assert len(slow.threads) == 1
    assert slow.threads[0] != threading.get_ident()
    assert sys.modules[SLOW].DONE == 1


async def test_who_is_cancelled_does_not_wait_and_stops_no_import(slow: Import) -> None:
    wait = asyncio.create_task(load("slow_module", "DONE"))
    await slow.begins()
    wait.cancel()
    await asyncio.wait([wait])
    assert wait.cancelled()
    slow.go_on.set()
    await load("slow_module", "DONE")
    assert len(slow.threads) == 1


async def test_what_is_loaded_takes_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    import_module("aistemsplitter_async._engine")
    monkeypatch.setattr(_loading, "Thread", None)
    await load("_engine", "Engine")


async def test_a_program_that_keeps_all_threads_of_the_loop_busy_does_not_hold_up_what_loads(slow: Import) -> None:
    loop, let_go = asyncio.get_running_loop(), threading.Event()
    loop.set_default_executor(ThreadPoolExecutor(1))
    busy = loop.run_in_executor(None, let_go.wait, 60)
    slow.go_on.set()
    try:
        async with asyncio.timeout(10):
            await load("slow_module", "DONE")
    finally:
        let_go.set()
    await busy


async def test_loops_in_several_threads_wait_for_one_import(slow: Import) -> None:
    """Also where the one that began it ends before the import does."""
    begun = threading.Thread(target=_give_up_loading)
    begun.start()
    await slow.begins()
    others = [asyncio.create_task(asyncio.to_thread(asyncio.run, load("slow_module", "DONE"))) for _ in range(3)]
    own = asyncio.create_task(load("slow_module", "DONE"))
    await asyncio.to_thread(begun.join, 10)
    assert not begun.is_alive()  # the end of its loop waits for no import
    slow.go_on.set()
    await asyncio.gather(own, *others)
    assert len(slow.threads) == 1


def _give_up_loading() -> None:
    async def give_up() -> None:
        loading = asyncio.create_task(load("slow_module", "DONE"))
        await asyncio.sleep(0)
        loading.cancel()
        await asyncio.wait([loading])

    asyncio.run(give_up())


async def test_an_import_that_fails_is_tried_again(slow: Import, monkeypatch: pytest.MonkeyPatch) -> None:
    slow.go_on.set()
    with monkeypatch.context() as broken:
        broken.setattr(sys, "slow_import", None)
        for _ in range(2):
            with pytest.raises(TypeError):
                await load("slow_module", "DONE")
    await load("slow_module", "DONE")


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Let the modules of a client and a batch be loaded only once this is set."""
    loaded = asyncio.Event()

    async def wait(*_: str) -> None:
        await loaded.wait()

    monkeypatch.setattr(client_module, "load", wait)
    monkeypatch.setattr(batch_module, "load", wait)
    return loaded


async def test_a_client_that_is_closed_while_it_loads_makes_no_request(held: asyncio.Event) -> None:
    transport = FakeTransport(lambda _: json_reply({"balance": 1, "unit": "seconds"}))
    client = AsyncAIStemSplitter("ast_x", transport=transport)
    calls = [asyncio.create_task(client.get_credits()) for _ in range(2)]
    await asyncio.sleep(0)
    await client.aclose()
    held.set()
    for call in calls:
        with pytest.raises(ConfigurationError, match="is closed"):
            await call
    assert transport.closed
    assert transport.exchanges == []


async def test_a_client_that_was_never_used_is_closed_without_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    transport = FakeTransport(lambda _: json_reply({}))
    client = AsyncAIStemSplitter("ast_x", transport=transport)
    monkeypatch.setattr(client, "_build_engine", None)
    await client.aclose()
    await client.aclose()
    assert transport.closed
    await AsyncAIStemSplitter("ast_x").aclose()


async def test_a_batch_whose_entering_was_cancelled_while_it_loaded_can_be_entered(
    world: World, held: asyncio.Event
) -> None:
    held.set()
    async with world.client() as client:
        held.clear()
        batch = client.split_many(["https://example.com/a.mp3"])
        entering = asyncio.create_task(batch.__aenter__())
        await asyncio.sleep(0)
        entering.cancel()
        await asyncio.wait([entering])
        held.set()
        async with batch:
            assert [type(outcome).__name__ async for outcome in batch] == ["Done"]


async def test_a_batch_that_two_tasks_enter_while_it_loads_starts_once(world: World, held: asyncio.Event) -> None:
    held.set()
    async with world.client() as client:
        held.clear()
        batch = client.split_many(["https://example.com/a.mp3"])
        entering: list[Any] = [asyncio.create_task(batch.__aenter__()) for _ in range(2)]
        await asyncio.sleep(0)
        held.set()
        await asyncio.wait(entering)
        assert sorted(str(task.exception()) for task in entering)[1].startswith("a batch is entered once")
        assert len([outcome async for outcome in batch]) == 1
        await batch.__aexit__(None, None, None)


def test_a_clock_that_jumps_by_itself_leaves_nothing_to_be_loaded_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot see threads, and would jump over whatever is due while one loads."""
    loaded: list[str] = []
    monkeypatch.setattr(testing, "import_module", loaded.append)
    testing.FakeClock()
    assert loaded == []
    testing.FakeClock(autojump=True)
    assert loaded == ["aistemsplitter_async.batch.runner"]
    import_module(loaded[0])
    assert "aistemsplitter_async._engine" in sys.modules


async def test_entering_a_client_loads_what_its_calls_need(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[tuple[str, ...]] = []

    async def note(*module: str) -> None:
        loaded.append(module)

    monkeypatch.setattr(client_module, "load", note)
    async with AsyncAIStemSplitter("ast_x") as client:
        assert loaded == [("_engine", "Engine")]
        client.gate.snapshot()
        client.job("split_1").updates()
    assert len(loaded) == 1
