"""`credits`, `get`, `wait` and `download`: commands about the account and about splits that exist already."""

from __future__ import annotations

import asyncio

import attrs

from aistemsplitter_async._tasks import run_in_thread
from aistemsplitter_async._transfer.mixing import load_audio, read_gains
from aistemsplitter_async.cli.connect import working
from aistemsplitter_async.cli.failures import Context, Exit, Problem, explain
from aistemsplitter_async.cli.options import Common, Selecting
from aistemsplitter_async.cli.results import (
    Result,
    build_interrupted,
    build_result,
    print_interrupted,
    print_json,
    print_result,
    print_split,
)
from aistemsplitter_async.cli.screen.board import Activity
from aistemsplitter_async.cli.screen.render import number, price, show, words
from aistemsplitter_async.cli.screen.terminal import Terminal
from aistemsplitter_async.errors import AIStemSplitterError, SplitFailedError
from aistemsplitter_async.models import Split


async def show_credits(common: Common, terminal: Terminal) -> int:
    """Show the credits that the key may still spend."""
    try:
        async with working(Activity("credits"), common, terminal) as (client, _):
            balance = await client.get_credits()
    except AIStemSplitterError as error:
        problem = explain(error, Context(resumable=False))
        if common.json:
            print_json({"balance": None, "unit": None, "error": problem.as_json()}, terminal)
        terminal.error(problem.message)
        return problem.exit_code
    if common.json:
        print_json({"balance": balance.balance, "unit": balance.unit, "error": None}, terminal)
    elif balance.unit == "seconds":
        terminal.result(f"{price(balance.balance)} ({words(balance.balance)} of audio)")
    else:
        terminal.result(f"{number(balance.balance)} {show(balance.unit)}")
    return Exit.DONE


async def show_split(split_id: str, common: Common, terminal: Terminal) -> int:
    """Show the current state of a split."""
    try:
        async with working(Activity(split_id, split_id=split_id), common, terminal) as (client, _):
            split = await client.get_split(split_id)
    except AIStemSplitterError as error:
        return _fail(error, Context(resumable=False), split_id, terminal, as_json=common.json)
    print_split(build_result(split, split.filename, error=_reason(split)), terminal, as_json=common.json)
    return Exit.DONE


async def wait(split_id: str, timeout: float | None, common: Common, terminal: Terminal) -> int:
    """Wait until a split is finished, and show how it ended."""
    context = Context(connection=common.connection)
    terminal.kept = "nothing is lost: the same command shows it again"
    try:
        async with working(Activity(split_id, split_id=split_id), common, terminal, follow=True) as (client, _):
            split = await client.wait_for_split(split_id, timeout=timeout)
    except AIStemSplitterError as error:
        return _fail(error, context, split_id, terminal, as_json=common.json)
    except asyncio.CancelledError:
        return _interrupt(context, split_id, terminal, as_json=common.json)
    print_split(build_result(split, split.filename), terminal, as_json=common.json)
    return Exit.DONE


async def download(
    split_id: str,
    common: Common,
    terminal: Terminal,
    *,
    into: str,
    name: str | None,
    selecting: Selecting,
    overwrite: bool,
    timeout: float | None,
) -> int:
    """Wait until a split is finished, and download its stems."""
    activity = Activity(split_id, split_id=split_id)
    terminal.kept = f"nothing is lost: the stems go to {into}"
    context = Context(into=into, name=name, selecting=selecting.given, connection=common.connection)
    try:
        if selecting.mixes:
            await run_in_thread(load_audio)  # or it raises before anything is asked for
        async with working(activity, common, terminal, follow=True) as (client, note_bytes):
            split = await client.wait_for_split(split_id, timeout=timeout)
            files = await client.download_stems(
                split,
                into,
                name=name,
                stems=selecting.stems,
                mixes=selecting.mixes,
                overwrite=overwrite,
                on_progress=note_bytes,
            )
            gains = await run_in_thread(read_gains, files, selecting.mixes)
    except AIStemSplitterError as error:
        return _fail(error, context, split_id, terminal, as_json=common.json)
    except asyncio.CancelledError:
        return _interrupt(context, split_id, terminal, as_json=common.json)
    print_result(build_result(split, split.filename, stems=files, gain_db=gains), terminal, as_json=common.json)
    return Exit.DONE


def _reason(split: Split) -> Problem | None:
    if split.error is None:
        return None
    return Problem(
        code=split.error.code,
        message=show(split.error.message or split.error.code),
        exit_code=Exit.FAILED,
        split_id=split.id,
    )


def _fail(error: AIStemSplitterError, context: Context, split_id: str, terminal: Terminal, *, as_json: bool) -> int:
    problem, result = explain(error, context), Result(source=None, id=split_id)
    if isinstance(error, SplitFailedError):
        result = build_result(error.split, error.split.filename)
    print_result(attrs.evolve(result, error=problem), terminal, as_json=as_json)
    return problem.exit_code


def _interrupt(context: Context, split_id: str, terminal: Terminal, *, as_json: bool) -> int:
    if as_json:
        print_json(Result(source=None, id=split_id, error=build_interrupted(split_id)).as_json(), terminal)
    print_interrupted(f"{split_id} is not affected; continue with:", context.continuations(split_id), terminal)
    return Exit.INTERRUPTED
