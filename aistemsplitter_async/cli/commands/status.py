"""`batch --status`: shows the progress of a batch in another terminal, without touching its journal."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from pathlib import Path

import cattrs

from aistemsplitter_async._tasks import run_in_thread
from aistemsplitter_async.batch.progress import BatchProgress, BatchStatus, read_status
from aistemsplitter_async.cli.failures import Context, Exit, explain
from aistemsplitter_async.cli.places import Place
from aistemsplitter_async.cli.results import print_json
from aistemsplitter_async.cli.screen.batch_view import describe_budget, describe_stages, describe_track, over
from aistemsplitter_async.cli.screen.fleet import Fleet, describe_counts, describe_others
from aistemsplitter_async.cli.screen.render import clock, columns, quote, show, shown_source, words
from aistemsplitter_async.cli.screen.terminal import Terminal
from aistemsplitter_async.errors import AIStemSplitterError, JournalError, JournalLockedError
from aistemsplitter_async.journal.file import status_path
from aistemsplitter_async.journal.lock import is_locked
from aistemsplitter_async.journal.place import JournalURL
from aistemsplitter_async.journal.postgres_reading import PostgresReader
from aistemsplitter_async.journal.reading import FileReader
from aistemsplitter_async.journal.seal import Seal, build_sealed

_FRESH = 15.0  # s after which a status is old: it is written every two


async def show_status(journal: Place, terminal: Terminal, *, as_json: bool) -> int:
    """Show the progress of the batch on `journal`, or of all workers on a shared one, and return the exit code."""
    if isinstance(journal, JournalURL):
        return await _show_fleet(journal, terminal, as_json=as_json)
    if (seal := await asyncio.to_thread(_find_seal, journal)) is not None:
        terminal.error(str(build_sealed(journal, seal)))
        return Exit.FAILED
    try:
        status = await asyncio.to_thread(read_status, status_path(journal))
    except OSError:
        terminal.error(f"there is no batch on {show(journal)}; give the --journal or --into it runs with")
        return Exit.FAILED
    except ValueError as error:
        terminal.error(show(error))
        return Exit.FAILED
    running = is_running(status, time.time(), locked=await asyncio.to_thread(is_locked, journal))
    if as_json:
        extra = {"running": running, "percent": _percent(status.progress)}
        print_json(cattrs.unstructure(status) | extra, terminal)
        return Exit.DONE
    for line in describe(status, time.time(), running=running):
        terminal.result(line)
    return Exit.DONE


def _find_seal(journal: Path) -> Seal | None:
    """Return what says that a journal was moved, if anything can be read."""
    try:
        with FileReader(journal) as reader:
            return reader.seal()
    except JournalError:
        return None


async def _show_fleet(journal: JournalURL, terminal: Terminal, *, as_json: bool) -> int:
    try:
        fleet = await run_in_thread(_read_fleet, journal)
    except AIStemSplitterError as error:
        problem = explain(error, Context())
        terminal.error(problem.message)
        return problem.exit_code
    if as_json:
        print_json(fleet.as_json(), terminal)
        return Exit.DONE
    for line in fleet.describe(time.time()):
        terminal.result(line)
    return Exit.DONE


def _read_fleet(journal: JournalURL) -> Fleet:
    with PostgresReader(journal) as reader:
        if (seal := reader.seal()) is not None:
            raise build_sealed(journal.database.shown, seal)
        return Fleet(reader.workers(), reader.count(), reader.credits())


async def find_others(journal: Place) -> list[str]:
    """Return who else is at work on a journal, each in words; nobody where that cannot be found out."""
    if isinstance(journal, Path):
        return []
    try:
        fleet = await run_in_thread(_read_fleet, journal)
    except AIStemSplitterError:  # the report has the rest
        return []
    return describe_others(fleet.workers, socket.gethostname(), os.getpid())


def is_running(status: BatchStatus, now: float, *, locked: bool | None) -> bool:
    """Return whether the process of a batch is still running, as far as that can be known.

    The age of a status proves nothing: a batch that waits for space on the disk cannot write one. Nor does the process
    id alone, which may belong to another process by now; but only the batch has its journal locked.
    """
    if status.ended or (now - status.at > _FRESH and not locked):
        return False
    try:
        os.kill(status.pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to another user
        return True
    return True


def describe(status: BatchStatus, now: float, *, running: bool) -> list[str]:
    """Return the progress of a batch, a line per fact."""
    progress = status.progress
    age = words(max(0.0, now - status.at))
    state = f"running for {clock(progress.seconds)} (process {status.pid})" if running else f"ended {age} ago"
    if running and progress.draining:
        state += ", finishing what is paid for"
    if running and now - status.at > _FRESH:
        state += f"; this status is {age} old, perhaps because the disk is full"
    if not running and not status.ended:
        state = f"killed, last seen {age} ago; run the same command again to continue (without --retry-failed)"
    rows = [("state", state)]
    if running and progress.total is not None:
        left = f", about {words(progress.seconds_left)} left" if progress.seconds_left else ""
        rows.append(("done", f"{over(progress):,} of {progress.total:,} ({_percent(progress)} %){left}"))
    rows += describe_counts(status.tracks)
    if running:
        rows += [("now", describe_stages(progress)), ("budget", describe_budget(progress))]
        rows += [
            ("", show(f"{shown_source(track.label)}: {describe_track(track)}"))
            for track in progress.active[:10]
            if track.label
        ]
        rows += [("", show(notice)) for notice in progress.notices]
    return columns(rows, indent="")


def _percent(progress: BatchProgress) -> int | None:
    return min(100, 100 * over(progress) // progress.total) if progress.total else None


async def report_owner(error: AIStemSplitterError, journal: Place, terminal: Terminal) -> None:
    """If a journal's file is locked, write by which process."""
    if not isinstance(error, JournalLockedError) or not isinstance(journal, Path):
        return
    try:
        status = await asyncio.to_thread(read_status, status_path(journal))
    except (OSError, ValueError):
        return
    terminal.say(f"process {status.pid} has it; see its progress with: batch --status --journal {quote(str(journal))}")
