"""Songs in CSV files, as spreadsheets and players export them."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator

import attrs

from aistemsplitter_async.library.entries import Entries, PlaylistEntry
from aistemsplitter_async.library.records import Lines, Problem

# Headers, by preference. A name without its folder is not enough where there is a column for that.
_WHOLE = ("url", "uri", "path", "file", "location", "file path", "filepath", "full path", "source")
_NAMES = ("filename", "file name")
_FOLDERS = ("folder", "directory", "path", "location")
_DELIMITERS = ",;\t"
_NONE = "\x1f"  # of a table with one column: in no name
_SEP = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE | re.DOTALL)


def starts_table(first: bytes) -> bool:
    """Return whether a text is a table by its first line: it says so, or has a header of several columns."""
    line = _text(first)
    if _SEP.fullmatch(line):
        return True
    cells = [cell.strip(' "').lower() for cell in line.split(max(_DELIMITERS, key=line.count))]
    return len(cells) > 1 and not {*cells}.isdisjoint((*_WHOLE, *_NAMES)) and not re.search(r"[./\\]", line)


def parse_table(lines: Lines) -> Entries:
    """Parse a CSV: the columns called url, path, file, filename, location and so on, or the first if there are none.

    The delimiter (comma, semicolon or tab) is what `sep=` says, or the one that occurs most often in the first line.
    """
    first, lines = lines.peek()
    if separated := _SEP.fullmatch(_text(first)):
        delimiter = separated[1]
        next(lines.rest)
    else:
        counted = max(_DELIMITERS, key=_text(first).count)
        delimiter = counted if counted in _text(first) else _NONE
    source = _Source(lines)
    reader = csv.reader(source, delimiter=delimiter, skipinitialspace=delimiter != _NONE)
    columns: _Columns | None = None
    while True:
        source.begin()
        try:
            row = next(reader, None)
        except csv.Error as error:
            yield from source.problems
            yield Problem(source.line, f"this is not CSV from here on: {error}; the rest of the list was not read")
            return
        yield from source.problems
        if row is None:
            return
        if columns is None:
            columns = _Columns.among(row)
            if columns is not None:
                continue
            columns = _Columns()
        if any(cell.strip() for cell in row):
            yield columns.entry(row, source)


@attrs.frozen
class _Columns:
    """Which columns of a table name the song."""

    whole: tuple[int, ...] = ()
    names: tuple[int, ...] = ()
    folders: tuple[int, ...] = ()
    count: int = 0
    titles: tuple[str, ...] = ()

    @classmethod
    def among(cls, header: list[str]) -> _Columns | None:
        cells = [cell.strip().lower() for cell in header]
        whole, names, folders = (
            tuple(cells.index(name) for name in known if name in cells) for known in (_WHOLE, _NAMES, _FOLDERS)
        )
        return cls(whole, names, folders if names else (), len(cells), tuple(header)) if whole or names else None

    def entry(self, row: list[str], source: _Source) -> PlaylistEntry | Problem:
        def cells(columns: tuple[int, ...]) -> list[str]:
            return [row[column] for column in columns if column < len(row) and row[column].strip()]

        if not self.count:  # without a header, a comma may be a part of the name
            named = [row[0], source.raw] if row[0].strip() else []
        else:
            files = cells(self.names)
            joined = [f"{folder.strip()}/{name.strip()}" for folder in cells(self.folders) for name in files]
            named = [*joined, *cells(self.whole), *files]
        starts_comment = source.raw.lstrip().startswith("#")
        if not named and not starts_comment:
            what = " or ".join(dict.fromkeys(self.titles[column].strip() for column in (*self.whole, *self.names)))
            return Problem(source.line, f"it has no {what or 'first cell'}")
        hint = None if self.count or len(row) == 1 else "of a table, the column called path or url is read"
        return PlaylistEntry(
            tuple(dict.fromkeys(name.encode("utf-8", "surrogateescape") for name in named or [source.raw])),
            source.line,
            may_be_comment=starts_comment and len(row) != max(2, self.count),
            hint=f"a quote in line {source.line} may not be closed" if source.taken > 1 else hint,
        )


@attrs.define
class _Source:
    """The lines as text for `csv`; bytes that are not text survive in it."""

    lines: Lines
    line: int = 0  # at which the row begins
    raw: str = ""  # the lines of the row
    taken: int = 0
    problems: list[Problem] = attrs.field(factory=list)

    def begin(self) -> None:
        self.raw, self.taken = "", 0
        self.problems = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        for number, line in self.lines:
            if isinstance(line, Problem):
                self.problems.append(line)
                continue
            text = _text(line)
            self.line = number if not self.taken else self.line
            self.raw = f"{self.raw}\n{text}" if self.taken else text
            self.taken += 1
            return f"{text}\n"
        raise StopIteration


def _text(line: bytes) -> str:
    return line.decode("utf-8", "surrogateescape")
