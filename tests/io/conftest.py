"""The fixtures of the tests with fakes."""

from __future__ import annotations

import asyncio
import gc
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from aistemsplitter_async.testing import FakeClock
from tests.io.fakes import FakeAPI, World, open_files

T = TypeVar("T")
MEMORY = Path("/dev/shm")  # noqa: S108  # a file system in memory, on Linux


def _world(*, autojump: bool) -> Iterator[World]:
    clock = FakeClock(autojump=autojump)
    world = World(clock, FakeAPI(clock), [])
    yield world
    assert world.api.unused == {}, "a queued answer was never asked for"
    assert world.api.open_replies == 0, "a reply was never let go"


@pytest.fixture
def world() -> Iterator[World]:
    """Time moves by itself: only for code without threads, or with `inline_threads`."""
    yield from _world(autojump=True)


@pytest.fixture
def still() -> Iterator[World]:
    """Time stands still until a test moves it."""
    yield from _world(autojump=False)


@pytest.fixture
def inline_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run what would run in a thread in the next turn of the loop, cancelled or not, so that fake time can see it."""

    def run(loop: asyncio.AbstractEventLoop, _: object, function: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        future: asyncio.Future[T] = loop.create_future()

        def work() -> None:
            try:
                result = function(*args)
            except Exception as error:  # noqa: BLE001  # as a thread would
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)

        loop.call_soon(work)
        return future

    monkeypatch.setattr(asyncio.BaseEventLoop, "run_in_executor", run)


@pytest.fixture(scope="session")
def memory() -> Iterator[str | None]:
    """A folder in memory, `None` where there is no such thing."""
    if not os.access(MEMORY, os.W_OK):
        yield None
        return
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="io-tests-", ignore_cleanup_errors=True) as folder:
        yield folder


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest, tmp_path: Path, memory: str | None) -> Iterator[Path]:
    """On the disk where files are the subject, else in memory: to sync hours of virtual time takes long."""
    if memory is None or request.path.parent.name in ("journal", "transfer"):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory, prefix=f"{tmp_path.name}-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture
def no_open_files(tmp_path: Path) -> Iterator[None]:
    """Fail if a descriptor into the test's folder is left open."""
    yield
    if any(name.startswith(str(tmp_path)) for name in open_files()):
        gc.collect()  # only what has no references any more
    assert [name for name in open_files() if name.startswith(str(tmp_path))] == []


@pytest.fixture(autouse=True)
async def nothing_left_running() -> AsyncIterator[None]:
    """Fail if a test leaves a task behind."""
    before = asyncio.all_tasks()
    yield
    left: set[asyncio.Task[object]] = set()
    for _ in range(200):  # turns that a task on its way out may take
        left = asyncio.all_tasks() - before - {asyncio.current_task()}
        if not left:
            break
        await asyncio.sleep(0)
    assert left == set()
