"""Lists of songs: m3u and m3u8 playlists, pls playlists, plain text, CSV.

Lists of any length are parsed lazily, line by line. `possible_paths` returns the paths that an entry may stand for;
`library.search` checks which of them exists.

There is no standard for m3u; this follows what players agree on: a line is a path or a URL, `#EXTINF:seconds,title`
precedes it, other lines with `#` are comments. The file is UTF-8; a line that is not is read as Windows-1252.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import chain
from urllib.parse import unquote

import attrs

LINE_CAP_BYTES = 64 * 1024  # no path or URL is longer; a file with longer lines is not a list
_COLUMNS = ("url", "path", "file", "source")  # of a CSV, by preference
_DELIMITERS = ",;\t"
_EXTINF = re.compile(r"#EXTINF:\s*(-?\d+(?:\.\d+)?)?[^,]*(?:,(.*))?", re.IGNORECASE | re.DOTALL)
_PLS_LINE = re.compile(r"(file|title|length)(\d{1,9})\s*=(.*)", re.IGNORECASE | re.DOTALL)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")  # at least two letters: C:// is a drive
_WINDOWS_URL = re.compile(r"/[A-Za-z]:[\\/]")
_LONGEST = 7 * 86400.0  # s; anything longer is a mistake in the list


@attrs.frozen
class PlaylistEntry:
    """One song of a list.

    Attributes:
        text: the path or URL as written.
        line: its line, counted from 1.
        title: its title, if the list states one.
        seconds: its length, if the list states it.
    """

    text: str
    line: int
    title: str | None = None
    seconds: float | None = None


@attrs.frozen
class Problem:
    """A mistake in a line of a list. The lines after it are still parsed, unless the iterator ends with it."""

    line: int
    reason: str


Entries = Iterator[PlaylistEntry | Problem]
Parse = Callable[[Iterable[bytes]], Entries]


def parse_text(lines: Iterable[bytes]) -> Entries:
    """Parse a plain list: one path or URL per line; blank lines and lines that start with `#` are skipped."""
    for number, line in _read(lines):
        if isinstance(line, Problem):
            yield line
        elif not line.startswith("#"):
            yield PlaylistEntry(line, number)


def parse_m3u(lines: Iterable[bytes]) -> Entries:
    """Parse an m3u or m3u8 playlist."""
    title: str | None = None
    seconds: float | None = None
    for number, line in _read(lines):
        if isinstance(line, Problem):
            yield line
        elif line.upper().startswith("#EXT-X-"):
            yield Problem(number, "this is an HLS stream, not a list of songs")
            return
        elif match := _EXTINF.match(line):
            title, seconds = (match[2] or "").strip() or None, _parse_seconds(match[1])
        elif not line.startswith("#"):
            yield PlaylistEntry(line, number, title, seconds)
            title = seconds = None


def parse_pls(lines: Iterable[bytes]) -> Entries:
    """Parse a pls playlist: `File1=`, with `Title1=` and `Length1=` after it."""
    entry, current = None, ""
    for number, line in _read(lines):
        if isinstance(line, Problem):
            yield line
            continue
        match = _PLS_LINE.fullmatch(line)
        if match is None:
            continue  # [playlist], NumberOfEntries=, Version=, comments
        key, value = match[1].lower(), match[3].strip()
        if key == "file":
            if entry is not None:
                yield entry
            entry, current = (PlaylistEntry(value, number), match[2]) if value else (None, "")
        elif entry is not None and match[2] == current:
            entry = attrs.evolve(entry, **{"title": value} if key == "title" else {"seconds": _parse_seconds(value)})
    if entry is not None:
        yield entry


def parse_csv(lines: Iterable[bytes]) -> Entries:
    """Parse a CSV: the column called url, path, file or source, or the first column if there is no such header.

    The delimiter (comma, semicolon or tab) is the one that occurs most often in the first line.
    """
    problems: list[Problem] = []
    rest = _csv_lines(lines, problems)
    first = next(rest, "")
    delimiter = max(_DELIMITERS, key=first.count)
    reader = csv.reader(chain([first], rest), delimiter=delimiter, skipinitialspace=True)
    column: int | None = None
    try:
        for row in reader:
            yield from problems
            problems.clear()
            if column is None:
                names = [cell.strip().lower() for cell in row]
                column = next((names.index(name) for name in _COLUMNS if name in names), 0)
                if names[column : column + 1] and names[column] in _COLUMNS:
                    continue
            cell = row[column].strip() if column < len(row) else ""
            if cell and not (column == 0 and cell.startswith("#")):
                yield PlaylistEntry(cell, reader.line_num)
            elif any(other.strip() for other in row) and not cell:
                yield Problem(reader.line_num, f"column {column + 1} is empty")
    except csv.Error as error:
        problems.append(Problem(reader.line_num, f"this is not CSV: {error}"))
    yield from problems


PARSERS: dict[str, Parse] = {
    "csv": parse_csv,
    "m3u": parse_m3u,
    "m3u8": parse_m3u,
    "pls": parse_pls,
    "tsv": parse_csv,
    "txt": parse_text,
}


def parser_for(filename: str) -> Parse | None:
    """Return the parser for a list called `filename`, or `None` if its extension is not that of a list."""
    return PARSERS.get(filename.rpartition(".")[2].lower()) if "." in filename else None


def possible_paths(text: str) -> tuple[str, ...] | Problem:
    """Return the paths that an entry may stand for, the likeliest first, or why there are none (on line 0).

    A playlist may have been written on Windows, and its entries may or may not be percent-encoded, so the caller has to
    try which path exists. Only a `file:` URL is always encoded.
    """
    if "\x00" in unquote(text):
        return Problem(0, "this is not a path")
    if text[:5].lower() == "file:":
        return _path_of_url(text)
    if scheme := _SCHEME.match(text):
        return Problem(0, f"{scheme[1]} URLs cannot be read, only http, https and file")
    swapped = text.replace("\\", "/")
    return tuple(dict.fromkeys([text, _unquote(text), swapped, _unquote(swapped)]))


def _path_of_url(url: str) -> tuple[str] | Problem:
    """Return the path of a `file:` URL. Few programs encode `?` and `#`, so they are ordinary characters here."""
    rest = url[len("file:") :]
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        if host.lower() not in ("", "localhost"):
            return Problem(0, f"it is on another machine ({host})")
        rest = slash + path
    decoded = _unquote(rest)
    return (decoded[1:] if _WINDOWS_URL.match(decoded) else decoded,)


def _unquote(text: str) -> str:
    return unquote(text, errors="surrogateescape")  # file names need not be UTF-8


def _read(lines: Iterable[bytes]) -> Iterator[tuple[int, str | Problem]]:
    """Yield the lines that are not blank, stripped, with their numbers."""
    for number, line in _decoded(lines):
        if isinstance(line, Problem):
            yield number, line
        elif stripped := line.strip():
            yield number, stripped


def _decoded(lines: Iterable[bytes]) -> Iterator[tuple[int, str | Problem]]:
    """Yield the lines as text, with their numbers, up to the first that is not text."""
    number = 0
    for raw in lines:
        for piece in raw.splitlines() or [raw]:  # files from old Macs have only carriage returns
            number += 1
            line = _decode(piece, number)
            yield number, line
            if isinstance(line, Problem):
                return


def _decode(raw: bytes, number: int) -> str | Problem:
    if number == 1:
        if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
            return Problem(1, "the list is UTF-16; save it as UTF-8")
        raw = raw.removeprefix(b"\xef\xbb\xbf")
    if len(raw) > LINE_CAP_BYTES or b"\x00" in raw:
        return Problem(number, "this is not text; the rest of the list was not read")
    for encoding in ("utf-8", "cp1252"):  # the latter is what many Windows players write
        with suppress(UnicodeDecodeError):
            return raw.decode(encoding)
    return raw.decode("latin-1")  # five bytes are undefined in cp1252


def _csv_lines(lines: Iterable[bytes], problems: list[Problem]) -> Iterator[str]:
    for _, line in _decoded(lines):
        if isinstance(line, Problem):
            problems.append(line)
        else:
            yield f"{line}\n"


def _parse_seconds(text: str | None) -> float | None:
    """Return a plausible length, `None` for any other; -1 and 0 mean unknown."""
    try:
        seconds = float(text or 0)
    except ValueError:
        return None
    return seconds if 0 < seconds < _LONGEST else None
