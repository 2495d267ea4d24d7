"""A batch whose block is left by a cancellation, of either kind: everything is recorded and closed."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import anyio
import pytest

from aistemsplitter_async import RateLimit
from aistemsplitter_async.journal.file import status_path
from tests.io.fakes import World

pytestmark = pytest.mark.usefixtures("inline_threads", "no_open_files")


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.mark.parametrize("kind", ["asyncio", "anyio"])
async def test_a_create_under_way_is_recorded_and_the_journal_is_closed(
    still: World, tmp_path: Path, kind: str
) -> None:
    async def slowly(exchange: Any) -> Any:
        reply = still.api.do_create(exchange)
        await still.clock.sleep(4)
        return reply

    still.api.always("create", slowly)
    path = tmp_path / "journal"
    sources = [f"https://example.com/{number}.mp3" for number in range(3)]
    ready: list[anyio.CancelScope] = []

    async def run() -> None:
        async with still.client(rate_limit=RateLimit(100)) as client:
            with anyio.CancelScope() as scope:
                async with client.split_many(sources, journal=path) as batch:
                    ready.append(scope)
                    async for _ in batch:
                        pass

    task = asyncio.create_task(run())
    for _ in range(20):
        await still.clock.settle()
    assert len(still.api.created) == 3
    if kind == "anyio":
        ready[0].cancel()
    for _ in range(30):
        if kind == "asyncio":
            task.cancel()
        await still.clock.advance(0.1)
    assert not task.done()
    await still.clock.advance(10)
    assert task.done()
    assert task.cancelled() is (kind == "asyncio")
    assert json.loads(status_path(path).read_text())["ended"] is True

    still.api.always("create", None)  # a second run has nothing to create
    resumed = asyncio.create_task(finish(still, sources, path))
    await still.clock.advance(200)
    assert await resumed == 3
    assert still.api.count("create") == 3


async def finish(world: World, sources: list[str], path: Path) -> int:
    async with (
        world.client(rate_limit=RateLimit(100)) as client,
        client.split_many(sources, journal=path) as batch,
    ):
        return len([outcome async for outcome in batch])
