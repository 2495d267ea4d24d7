"""`batch --status`: shows the progress of a batch in another terminal, without touching its journal."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import cattrs

from aistemsplitter_async.batch.progress import BatchProgress, BatchStatus, read_status
from aistemsplitter_async.cli.failures import Exit
from aistemsplitter_async.cli.results import print_json
from aistemsplitter_async.cli.screen.batch_view import describe_budget, describe_stages, describe_track, over
from aistemsplitter_async.cli.screen.render import clock, columns, quote, show, shown_source, words
from aistemsplitter_async.cli.screen.terminal import Terminal
from aistemsplitter_async.errors import AIStemSplitterError, JournalLockedError
from aistemsplitter_async.journal.file import status_path
from aistemsplitter_async.journal.lock import is_locked

_FRESH = 15.0  # s after which a status is old: it is written every two
_STATES = (  # of the journal, in the order of a track's life
    ("found", "not begun"),
    ("uploaded", "uploaded"),
    ("intent", "being created"),
    ("uncertain", "perhaps created"),
    ("needs_review", "needs review"),
    ("created", "being split"),
    ("succeeded", "to be downloaded"),
    ("downloaded", "finished"),
    ("failed", "failed"),
)


async def show_status(journal: Path, terminal: Terminal, *, as_json: bool) -> int:
    """Show the progress of the batch on `journal`, and return the exit code."""
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
    rows += [(name, f"{status.tracks[key]:,}") for key, name in _STATES if status.tracks.get(key)]
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


async def report_owner(error: AIStemSplitterError, journal: Path, terminal: Terminal) -> None:
    """If a journal is locked, write by which process."""
    if not isinstance(error, JournalLockedError):
        return
    try:
        status = await asyncio.to_thread(read_status, status_path(journal))
    except (OSError, ValueError):
        return
    terminal.say(f"process {status.pid} has it; see its progress with: batch --status --journal {quote(str(journal))}")
