"""`credits`, `get`, `wait` and `download`: commands about what exists already."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from aistemsplitter_async.cli.connect import connected
from aistemsplitter_async.cli.failures import Exit, Failure, Place, explain
from aistemsplitter_async.cli.options import Common
from aistemsplitter_async.cli.results import Result, hand_out, hand_out_json, hand_out_state, tell_interrupted
from aistemsplitter_async.cli.screen.board import DONE, STARTING, Board, Track
from aistemsplitter_async.cli.screen.following import count_waiting, follow, stop_tasks
from aistemsplitter_async.cli.screen.live import shown
from aistemsplitter_async.cli.screen.render import number, price, show, words
from aistemsplitter_async.cli.screen.terminal import Terminal
from aistemsplitter_async.client import AsyncAIStemSplitter
from aistemsplitter_async.errors import AIStemSplitterError, SplitFailedError
from aistemsplitter_async.models import Split


async def show_credits(common: Common, terminal: Terminal) -> int:
    """Show what the key may still spend."""
    board = Board([Track("credits")], now=time.monotonic)
    try:
        async with _working(board, common, terminal) as client:
            balance = await client.get_credits()
    except AIStemSplitterError as error:
        failure = explain(error, Place(lasting=False))
        if common.json:
            hand_out_json({"balance": None, "unit": None, "error": failure.as_json()}, terminal)
        terminal.error(failure.message)
        return failure.exit_code
    if common.json:
        hand_out_json({"balance": balance.balance, "unit": balance.unit, "error": None}, terminal)
    elif balance.unit == "seconds":
        terminal.result(f"{price(balance.balance)} ({words(balance.balance)} of audio)")
    else:
        terminal.result(f"{number(balance.balance)} {show(balance.unit)}")
    return Exit.DONE


async def show_split(split_id: str, common: Common, terminal: Terminal) -> int:
    """Show a split as it is now."""
    board = Board([Track(split_id, split_id=split_id)], now=time.monotonic)
    try:
        async with _working(board, common, terminal) as client:
            split = await client.get_split(split_id)
    except AIStemSplitterError as error:
        return _fail(error, Place(lasting=False), split_id, terminal, as_json=common.json)
    result = _result(split, error=_reason(split))
    if common.json:
        hand_out_json(result.as_json(), terminal)
    else:
        hand_out_state(result, terminal)
        if result.error is not None:
            terminal.result(f"reason  {result.error.message}")
    return Exit.DONE


async def wait(split_id: str, timeout: float | None, common: Common, terminal: Terminal) -> int:
    """Wait until a split is finished, and show how it ended."""
    board = Board([Track(split_id, split_id=split_id)], now=time.monotonic)
    place = _place(common)
    try:
        async with _working(board, common, terminal, follow_it=True) as client:
            split = await client.wait_for_split(split_id, timeout=timeout)
    except AIStemSplitterError as error:
        return _fail(error, place, split_id, terminal, as_json=common.json)
    except asyncio.CancelledError:
        return _interrupt(place, split_id, terminal, as_json=common.json)
    if common.json:
        hand_out_json(_result(split).as_json(), terminal)
    else:
        hand_out_state(_result(split), terminal)
    return Exit.DONE


async def download(
    split_id: str,
    common: Common,
    terminal: Terminal,
    *,
    into: str,
    name: str | None,
    overwrite: bool,
    timeout: float | None,
) -> int:
    """Wait until a split is finished if it is not, and fetch its stems."""
    board = Board([Track(split_id, split_id=split_id)], now=time.monotonic)
    place = Place(into=into, name=name, base_url=common.base_url, api_key_file=common.api_key_file)
    try:
        async with _working(board, common, terminal, follow_it=True) as client:
            split = await client.wait_for_split(split_id, timeout=timeout)
            note_bytes = partial(board.note_bytes, board.tracks[0])
            files = await client.download_stems(split, into, name=name, overwrite=overwrite, on_progress=note_bytes)
    except AIStemSplitterError as error:
        return _fail(error, place, split_id, terminal, as_json=common.json)
    except asyncio.CancelledError:
        return _interrupt(place, split_id, terminal, as_json=common.json)
    hand_out(_result(split, stems=files), terminal, as_json=common.json)
    return Exit.DONE


@asynccontextmanager
async def _working(
    board: Board, common: Common, terminal: Terminal, *, follow_it: bool = False
) -> AsyncIterator[AsyncAIStemSplitter]:
    """Give a client whose doings are shown; with `follow_it` the states of the board's one split too."""
    track = board.tracks[0]
    async with connected(common, terminal, on_event=board.on_event) as client, shown(board, terminal):
        board.queue_length = partial(count_waiting, client)
        track.enter(STARTING, board.now())
        following = {asyncio.create_task(follow(client, board, track))} if follow_it else set()
        try:
            yield client
        finally:
            await stop_tasks(following)
            board.enter(track, DONE)


def _place(common: Common) -> Place:
    return Place(base_url=common.base_url, api_key_file=common.api_key_file)


def _result(split: Split, *, stems: Any = None, error: Failure | None = None) -> Result:
    return Result(
        source=split.filename,
        id=split.id,
        status=split.status,
        stems=split.stems if stems is None else stems,
        credits_used=split.credits_used,
        seconds=split.duration_seconds,
        error=error,
    )


def _reason(split: Split) -> Failure | None:
    if split.error is None:
        return None
    return Failure(code=split.error.code, message=show(split.error.message), exit_code=Exit.FAILED, split_id=split.id)


def _fail(error: AIStemSplitterError, place: Place, split_id: str, terminal: Terminal, *, as_json: bool) -> int:
    failure = explain(error, place)
    ended = error.split if isinstance(error, SplitFailedError) else None
    result = _result(ended, error=failure) if ended else Result(source=None, id=split_id, error=failure)
    hand_out(result, terminal, as_json=as_json)
    return failure.exit_code


def _interrupt(place: Place, split_id: str, terminal: Terminal, *, as_json: bool) -> int:
    if as_json:
        failure = Failure(code="INTERRUPTED", message="interrupted", exit_code=Exit.INTERRUPTED, split_id=split_id)
        hand_out_json(Result(source=None, id=split_id, error=failure).as_json(), terminal)
    tell_interrupted(f"{split_id} goes on; continue with:", place.ways_on(split_id), terminal)
    return Exit.INTERRUPTED
