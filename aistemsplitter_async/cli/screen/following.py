"""Tasks beside the one that matters: keeping the board up to date while a split is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from aistemsplitter_async.cli.screen.board import Board, Track
from aistemsplitter_async.client import AsyncAIStemSplitter
from aistemsplitter_async.errors import AIStemSplitterError


def count_waiting(client: AsyncAIStemSplitter) -> int:
    """Return how many calls wait for a slot of the key's limit."""
    return sum(client.gate.snapshot().waiting.values())


async def follow(client: AsyncAIStemSplitter, board: Board, track: Track, *, since: float | None = None) -> None:
    """Keep the board up to date about a split. Its looks are those of whoever waits for it: they cost nothing."""
    try:
        async for state in client.updates(track.split_id or "", since=since):
            board.note_split(track, state)
    except AIStemSplitterError:
        pass  # whoever waits for the split is told too, and tells it


async def run_together(works: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Await all of `works`; cancelling cancels each, and waits until it has ended."""
    tasks = {asyncio.ensure_future(work) for work in works}
    try:
        await asyncio.gather(*tasks)
    finally:
        await stop_tasks(tasks)


async def stop_tasks(tasks: set[asyncio.Task[None]]) -> None:
    """Cancel what still runs and wait until it has ended."""
    for task in (left := set(tasks)):
        task.cancel()
    if left:
        await asyncio.wait(left)
