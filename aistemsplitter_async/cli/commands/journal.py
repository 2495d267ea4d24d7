"""`journal move` and `journal export`: what a journal has, at another place or as text."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Literal
from uuid import uuid4

import attrs

from aistemsplitter_async._files import reason_of, replacing
from aistemsplitter_async._tasks import run_in_thread
from aistemsplitter_async.cli.exported import build_row, format_csv, format_json
from aistemsplitter_async.cli.failures import Context, Exit, explain
from aistemsplitter_async.cli.places import find_password, name_of
from aistemsplitter_async.cli.screen.frame import Frame
from aistemsplitter_async.cli.screen.live import shown
from aistemsplitter_async.cli.screen.render import clock, command, number, show
from aistemsplitter_async.cli.screen.terminal import Terminal
from aistemsplitter_async.errors import AIStemSplitterError, ConfigurationError, JournalError
from aistemsplitter_async.journal.ends import open_end, open_reader
from aistemsplitter_async.journal.file import own_files
from aistemsplitter_async.journal.moving import End, Moved, move, stay
from aistemsplitter_async.journal.place import JournalURL, parse_journal
from aistemsplitter_async.journal.seal import build_sealed

Place = Path | JournalURL
Format = Literal["jsonl", "csv"]
_HEARTBEAT = 5.0  # s between two lines about a move where nothing can be redrawn


@attrs.define
class _Progress:
    """How far a move has come: rows are written, and then read again."""

    total: int = 0
    done: int = 0
    is_stopped: bool = False
    _began: float = attrs.field(factory=time.monotonic)
    _said: float = attrs.field(factory=time.monotonic)

    def note(self, rows: int) -> None:
        """Note how many rows were written or read; called in the thread that does it."""
        self.done = rows
        if self.is_stopped:
            raise JournalError("the move was interrupted")

    def frame(self) -> Frame:
        """Return what is shown on a live terminal."""
        fraction = min(1.0, self.done / (2 * self.total)) if self.total else None
        return Frame(title=self._describe(), fraction=fraction, time=clock(time.monotonic() - self._began))

    def due_lines(self) -> list[str]:
        """Return a line now and then where nothing can be redrawn."""
        if time.monotonic() - self._said < _HEARTBEAT:
            return []
        self._said = time.monotonic()
        return [self._describe()]

    def _describe(self) -> str:
        if not self.total:
            return "checking the journal"
        if self.done <= self.total:
            return f"moving {number(self.done)} of {number(self.total)} rows"
        return f"checking {number(self.done - self.total)} of {number(self.total)} rows"


async def move_journal(source: Place, target: Place, environment: Mapping[str, str], terminal: Terminal) -> int:
    """Move a journal, and say what was moved and how to go on; return the exit code."""
    from_name, to_name = name_of(source), name_of(target)
    progress = _Progress()
    moving = asyncio.ensure_future(run_in_thread(_move, source, target, environment, progress))
    try:
        async with shown(progress, terminal):
            moved = await asyncio.shield(moving)
    except asyncio.CancelledError:
        progress.is_stopped = True
        await asyncio.wait([moving])
        terminal.say(f"interrupted; nothing is lost, go on with: {command('journal', 'move', from_name, to_name)}")
        return Exit.INTERRUPTED
    except AIStemSplitterError as error:
        problem = explain(error, Context())
        terminal.error(problem.message)
        return problem.exit_code
    if moved is None:
        terminal.result(f"{show(to_name)} is not moved, and runs can use it")
        return Exit.DONE
    tracks, sources = moved.counts.get("tracks", 0), moved.counts.get("sources", 0)
    what = f"{number(tracks)} song{'s' * (tracks != 1)}, and what is known of {number(sources)} files"
    if moved.already:
        terminal.result(f"{show(from_name)} was moved to {show(to_name)} before; that has {what}")
    else:
        terminal.result(f"moved {what}, every byte compared, to {show(to_name)}")
    terminal.result(f"{show(from_name)} is sealed: runs on it are refused, with the new place")
    terminal.result(f"go on with: {command('batch', '...', '--journal', to_name)}")
    return Exit.DONE


def _move(source: Place, target: Place, environment: Mapping[str, str], progress: _Progress) -> Moved | None:
    """Move a journal; return `None` if source and target are the same, so that only a seal is taken off."""

    @contextmanager
    def open_other(place: str) -> Iterator[End]:
        with open_end(find_password(parse_journal(place), environment)) as end:
            yield end

    if name_of(source) == name_of(target):
        with open_end(source) as end:
            if not stay(end, open_other):
                raise ConfigurationError(f"{name_of(source)} is no place to move it to: it is there")
            return None
    with open_end(source) as giving, open_end(target, create=True) as taking:
        progress.total = giving.size()
        return move(giving, taking, open_other, new_move=lambda: uuid4().hex, on_rows=progress.note)


async def export_journal(place: Place, form: Format, output: Path | None, terminal: Terminal) -> int:
    """Write what a journal has, a row a line, to a file or as the result; return the exit code."""
    over = threading.Event()
    terminal.on_reader_gone = terminal.on_output_lost = over.set
    try:
        count = await run_in_thread(_export, place, form, output, terminal, over)
    except AIStemSplitterError as error:
        problem = explain(error, Context())
        terminal.error(problem.message)
        return problem.exit_code
    if output is not None:
        terminal.say(f"{number(count)} row{'s' * (count != 1)} written to {show(output)}")
    return Exit.DONE


def _export(place: Place, form: Format, output: Path | None, terminal: Terminal, over: threading.Event) -> int:
    if output is not None and isinstance(place, Path) and {output, output.resolve()} & {place, *own_files(place)}:
        raise ConfigurationError(f"{output} belongs to the journal; give --output another name")
    count = 0
    with open_reader(place) as reader, _opened(output, terminal) as write:
        if (seal := reader.seal()) is not None:
            terminal.say(f"{build_sealed(name_of(place), seal)}; this is what it had then")
        if form == "csv":
            write(format_csv([], header=True))
        for page in reader.pages():
            rows = [build_row(record) for record in page]
            write(format_csv(rows, header=False) if form == "csv" else format_json(rows))
            count += len(rows)
            if over.is_set():
                break
    return count


@contextmanager
def _opened(output: Path | None, terminal: Terminal) -> Iterator[Callable[[str], object]]:
    if output is None:
        yield lambda text: terminal.result(text.removesuffix("\n")) if text else None
        return
    writing: AbstractContextManager[IO[str]] = replacing(output, mode=0o666)
    try:
        with writing as file:
            yield file.write
    except OSError as error:
        raise ConfigurationError(f"cannot write {output}: {reason_of(error)}") from None
