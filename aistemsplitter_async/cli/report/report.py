"""`--report`: all tracks of a batch as one HTML page, written while the journal is read."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePath, PurePosixPath
from typing import TextIO
from urllib.parse import quote

import attrs

from aistemsplitter_async._files import fresh_path, make_folder, open_no_link, reason_of
from aistemsplitter_async._tasks import run_in_thread
from aistemsplitter_async.batch.batch import Batch
from aistemsplitter_async.batch.outcome import BatchReport
from aistemsplitter_async.cli.report.chart import build_chart
from aistemsplitter_async.cli.report.page import GENERATOR, NEXT_GROUP, Summary, Tally, build_frame
from aistemsplitter_async.cli.report.request_log import RequestLog
from aistemsplitter_async.cli.report.row import DUPLICATE, Stem, build_row, build_twin, parse_peaks
from aistemsplitter_async.cli.report.waveforms import Waveforms
from aistemsplitter_async.cli.screen.render import number
from aistemsplitter_async.errors import ConfigurationError
from aistemsplitter_async.journal.record import Record, StoredFailure

_HEAD = 1024  # bytes that name the generator of a report
_PAGE = 100  # rows written at a time, and laid out at a time by a browser
_HEARTBEAT = 10.0  # s between two lines about the waveforms that are still to be drawn


async def write_report(
    path: Path,
    batch: Batch,
    into: Path,
    requests: RequestLog,
    report: BatchReport,
    *,
    others: Mapping[str, StoredFailure | None],
    twins: Mapping[str, str],
    waveforms: Waveforms,
    not_begun: int = 0,
    workers: Sequence[str] = (),
    say: Callable[[str], None] = lambda _: None,
    now: Callable[[], float] = time.time,
) -> None:
    """Write the report of a batch that has ended and is not closed; an earlier report is replaced by a complete one.

    Args:
        path: of the page; its folder is created.
        batch: its journal holds the tracks.
        into: where the stems are.
        requests: of the newest run.
        report: of the newest run.
        others: sources that may not be in the journal, and why they failed, or `None` if one was not begun.
        twins: sources whose audio has another name too, and that name.
        waveforms: begun while the batch ran. Those of files in an earlier report are taken from there.
        not_begun: how many more sources there are.
        workers: others that are at work on the same journal, each in words.
        say: called with lines about the remaining work, if it takes long.
        now: POSIX seconds.

    Raises:
        ConfigurationError: the page cannot be written, or `path` is not a report.
        JournalError: the journal cannot be read.
    """
    problem = None
    fresh = fresh_path(path)
    try:
        await run_in_thread(check_report_path, path)
        known = await run_in_thread(_read_known_peaks, path)
        stems = _Stems(into, _address(into, path), known, waveforms, say)
        tally = Tally()
        async for record in _records(batch, others):
            tally.add(record)
            stems.begin(record)
        tally.kinds[DUPLICATE] += len(twins)
        gate = batch.progress().gate
        chart = await run_in_thread(build_chart, list(requests.sent), gate.limit, gate.per)
        summary = Summary(_title(into), now(), tally, report, requests.total, chart, not_begun, workers)
        await _write(fresh, build_frame(summary), _records(batch, others), twins, stems)
        await run_in_thread(fresh.replace, path)
    except OSError as error:
        problem = _unwritable(path, error)
    finally:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)  # one small step, and also when cancelled
    if problem is not None:
        raise problem


def check_report_path(path: Path) -> None:
    """Check that a report can be written to `path`, and create its folder.

    Raises:
        ConfigurationError: there is a file that is not a report, or nothing can be written.
    """
    try:
        if path.exists() and not _is_report(path):
            raise ConfigurationError(f"{path} exists and is not a report; give --report another name")
        fresh = fresh_path(path)
        _open(fresh).close()
        fresh.unlink()
    except OSError as error:
        raise _unwritable(path, error) from None


def _is_report(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(_HEAD)
    return not head or GENERATOR.encode() in head


def _unwritable(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"cannot write the report {path}: {reason_of(error)}")


async def _records(batch: Batch, others: Mapping[str, StoredFailure | None]) -> AsyncGenerator[Record, None]:
    """Iterate over the tracks of the journal, and then over the sources that are not in it."""
    unknown = dict(others)
    async for record in batch.records():
        if unknown.get(record.source) is None or record.failure is not None:  # or what failed has no row of its own
            unknown.pop(record.source, None)
        yield record
    for number_, (source, failure) in enumerate(unknown.items(), 1):
        yield Record(id=-number_, source=source, failure=failure)


async def _write(
    path: Path,
    frame: tuple[str, str],
    records: AsyncGenerator[Record, None],
    twins: Mapping[str, str],
    stems: _Stems,
) -> None:
    before, after = frame
    wanted, firsts = set(twins.values()), dict[str, int]()
    file = await run_in_thread(_open, path, undo=TextIO.close)
    try:
        rows: list[str] = []
        await run_in_thread(file.write, before)
        async for record in records:
            if record.source in wanted:
                firsts[record.source] = record.id
            rows.append(build_row(record, [await stems.get(record, name) for name in record.files]))
            if len(rows) >= _PAGE:
                await run_in_thread(file.write, "".join([*rows, NEXT_GROUP]))
                rows.clear()
        rows += [build_twin(source, first, firsts.get(first)) for source, first in twins.items()]
        await run_in_thread(file.write, "".join([*rows, after]))
    finally:
        await run_in_thread(file.close)


@attrs.define
class _Stems:
    """The stems of records, as the page shows them."""

    into: Path
    address: str  # of `into`, relative to the page
    known: Mapping[str, bytes]
    waveforms: Waveforms
    say: Callable[[str], None]
    said_at: float = attrs.field(factory=time.monotonic)

    def begin(self, record: Record) -> None:
        """Begin to draw the waveforms of a record."""
        stored = record.files.values()
        self.waveforms.add(self.into / file.path for file in stored if file.sha256 not in self.known)

    async def get(self, record: Record, name: str) -> Stem:
        stored = record.files[name]
        peaks = self.known.get(stored.sha256)
        if peaks is None:
            self._say_missing()
            peaks = await self.waveforms.get(self.into / stored.path)
        path = PurePosixPath(stored.path)
        return Stem(name, path.name, self.address + _quote(path), stored.size, stored.sha256, peaks)

    def _say_missing(self) -> None:
        """Write now and then how many waveforms are still to be drawn."""
        if time.monotonic() - self.said_at >= _HEARTBEAT and (missing := self.waveforms.missing):
            self.said_at = time.monotonic()
            self.say(f"report: {number(missing)} waveforms to draw")


def _open(path: Path) -> TextIO:
    make_folder(path.parent)
    return open(path, "w", encoding="utf-8", newline="\n", opener=open_no_link)


def _read_known_peaks(path: Path) -> dict[str, bytes]:
    """Return the waveforms in an earlier report, by the SHA-256 of their files."""
    known: dict[str, bytes] = {}
    with suppress(FileNotFoundError, ValueError, TypeError, KeyError), path.open(encoding="utf-8") as file:
        for line in file:
            known |= parse_peaks(line)
    return known


def _title(folder: Path) -> str:
    return folder.absolute().name or str(folder)


def _address(folder: Path, page: Path) -> str:
    """Return the address of a folder relative to a page, with a slash at the end; empty if the page is in it."""
    try:
        relative = os.path.relpath(folder.absolute(), page.absolute().parent)
    except ValueError:  # another drive of Windows
        return f"{folder.absolute().as_uri()}/"
    return "" if relative == os.curdir else f"{_quote(PurePath(relative))}/"


def _quote(path: PurePath) -> str:
    return "/".join(quote(os.fsencode(part), safe="") for part in path.parts)
