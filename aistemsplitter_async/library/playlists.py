"""Lists of songs: m3u and m3u8 playlists, pls playlists, plain text, CSV.

Lists of any length are parsed lazily, line by line. What an entry means on this machine is for `batch.library` to say:
here is only what may be meant.

There is no standard for m3u; this follows what players agree on: a line is a path or a URL, `#EXTINF:seconds,title`
goes before it, other lines with `#` are comments. The file is UTF-8 or, where a line is not,
Windows-1252.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import chain
from urllib.parse import unquote

import attrs

LINE_CAP_BYTES = 64 * 1024  # no path or URL is longer; what is, is no list
_COLUMNS = ("url", "path", "file", "source")  # of a CSV, the best first
_DELIMITERS = ",;\t"
_EXTINF = re.compile(r"#EXTINF:\s*(-?\d+(?:\.\d+)?)?[^,]*(?:,(.*))?", re.IGNORECASE | re.DOTALL)
_PLS_LINE = re.compile(r"(file|title|length)(\d{1,9})\s*=(.*)", re.IGNORECASE | re.DOTALL)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")  # of two letters at least: C:// is a drive
_WINDOWS_URL = re.compile(r"/[A-Za-z]:[\\/]")
_LONGEST = 7 * 86400.0  # s; more is a list's mistake


@attrs.frozen
class Entry:
    """One song of a list.

    Attributes:
        text: the path or URL as it stands there.
        line: where, counted from 1.
        title: what the list calls it.
        seconds: how long it is, if the list says so.
    """

    text: str
    line: int
    title: str | None = None
    seconds: float | None = None


@attrs.frozen
class Complaint:
    """What is wrong with a line of a list. Its other lines are none the worse, unless it is the last one given."""

    line: int
    reason: str


Found = Iterator[Entry | Complaint]
Parse = Callable[[Iterable[bytes]], Found]


def parse_text(lines: Iterable[bytes]) -> Found:
    """Parse a plain list: a path or URL a line, blank lines and lines with `#` at their start left out."""
    for number, line in _read(lines):
        if isinstance(line, Complaint):
            yield line
        elif not line.startswith("#"):
            yield Entry(line, number)


def parse_m3u(lines: Iterable[bytes]) -> Found:
    """Parse an m3u or m3u8 playlist."""
    title: str | None = None
    seconds: float | None = None
    for number, line in _read(lines):
        if isinstance(line, Complaint):
            yield line
        elif line.upper().startswith("#EXT-X-"):
            yield Complaint(number, "this is an HLS stream, not a list of songs")
            return
        elif match := _EXTINF.match(line):
            title, seconds = (match[2] or "").strip() or None, _parse_seconds(match[1])
        elif not line.startswith("#"):
            yield Entry(line, number, title, seconds)
            title = seconds = None


def parse_pls(lines: Iterable[bytes]) -> Found:
    """Parse a pls playlist: `File1=`, with `Title1=` and `Length1=` after it."""
    entry, current = None, ""
    for number, line in _read(lines):
        if isinstance(line, Complaint):
            yield line
            continue
        match = _PLS_LINE.fullmatch(line)
        if match is None:
            continue  # [playlist], NumberOfEntries=, Version=, comments
        key, value = match[1].lower(), match[3].strip()
        if key == "file":
            if entry is not None:
                yield entry
            entry, current = (Entry(value, number), match[2]) if value else (None, "")
        elif entry is not None and match[2] == current:
            entry = attrs.evolve(entry, **{"title": value} if key == "title" else {"seconds": _parse_seconds(value)})
    if entry is not None:
        yield entry


def parse_csv(lines: Iterable[bytes]) -> Found:
    """Parse a CSV: the column called url, path, file or source, else the first one of a file without such a header.

    The delimiter (comma, semicolon or tab) is the one that the first line has most of.
    """
    complaints: list[Complaint] = []
    rest = _csv_lines(lines, complaints)
    first = next(rest, "")
    delimiter = max(_DELIMITERS, key=first.count)
    reader = csv.reader(chain([first], rest), delimiter=delimiter, skipinitialspace=True)
    column: int | None = None
    try:
        for row in reader:
            yield from complaints
            complaints.clear()
            if column is None:
                names = [cell.strip().lower() for cell in row]
                column = next((names.index(name) for name in _COLUMNS if name in names), 0)
                if names[column : column + 1] and names[column] in _COLUMNS:
                    continue
            cell = row[column].strip() if column < len(row) else ""
            if cell and not (column == 0 and cell.startswith("#")):
                yield Entry(cell, reader.line_num)
            elif any(other.strip() for other in row) and not cell:
                yield Complaint(reader.line_num, f"column {column + 1} is empty")
    except csv.Error as error:
        complaints.append(Complaint(reader.line_num, f"this is no CSV: {error}"))
    yield from complaints


PARSERS: dict[str, Parse] = {
    "csv": parse_csv,
    "m3u": parse_m3u,
    "m3u8": parse_m3u,
    "pls": parse_pls,
    "tsv": parse_csv,
    "txt": parse_text,
}


def parser_for(filename: str) -> Parse | None:
    """Return what parses a list called `filename`, or `None` if it is no list by its extension."""
    return PARSERS.get(filename.rpartition(".")[2].lower()) if "." in filename else None


def is_url(text: str) -> bool:
    """Return whether an entry is a URL that the service fetches by itself."""
    return text[:8].lower().startswith(("http://", "https://"))


def possible_paths(text: str) -> tuple[str, ...] | Complaint:
    """Return the paths that an entry may mean, the likeliest first, or why it means none (on line 0).

    A playlist may have been written on Windows, and may or may not have percent-encoded its entries, so what exists
    must decide. Only a `file:` URL is always encoded.
    """
    if "\x00" in unquote(text):
        return Complaint(0, "this is no path")
    if text[:5].lower() == "file:":
        return _path_of_url(text)
    if scheme := _SCHEME.match(text):
        return Complaint(0, f"{scheme[1]} URLs cannot be read, only http, https and file")
    swapped = text.replace("\\", "/")
    return tuple(dict.fromkeys([text, _unquote(text), swapped, _unquote(swapped)]))


def _path_of_url(url: str) -> tuple[str] | Complaint:
    """Return the path of a `file:` URL. Few writers encode `?` and `#`, so they are ordinary characters here."""
    rest = url[len("file:") :]
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        if host.lower() not in ("", "localhost"):
            return Complaint(0, f"it is on another machine ({host})")
        rest = slash + path
    decoded = _unquote(rest)
    return (decoded[1:] if _WINDOWS_URL.match(decoded) else decoded,)


def _unquote(text: str) -> str:
    return unquote(text, errors="surrogateescape")  # file names need not be UTF-8


def _read(lines: Iterable[bytes]) -> Iterator[tuple[int, str | Complaint]]:
    """Return the lines that are not blank, stripped, with their numbers."""
    for number, line in _decoded(lines):
        if isinstance(line, Complaint):
            yield number, line
        elif stripped := line.strip():
            yield number, stripped


def _decoded(lines: Iterable[bytes]) -> Iterator[tuple[int, str | Complaint]]:
    """Return the lines as text, with their numbers, up to the first that is none."""
    number = 0
    for raw in lines:
        for piece in raw.splitlines() or [raw]:  # a file from an old Mac has no newlines
            number += 1
            line = _decode(piece, number)
            yield number, line
            if isinstance(line, Complaint):
                return


def _decode(raw: bytes, number: int) -> str | Complaint:
    if number == 1:
        if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
            return Complaint(1, "the list is UTF-16; save it as UTF-8")
        raw = raw.removeprefix(b"\xef\xbb\xbf")
    if len(raw) > LINE_CAP_BYTES or b"\x00" in raw:
        return Complaint(number, "this is no text; the rest of the list was not read")
    for encoding in ("utf-8", "cp1252"):  # the latter is what Windows players write in much of the world
        with suppress(UnicodeDecodeError):
            return raw.decode(encoding)
    return raw.decode("latin-1")  # cp1252 leaves five bytes undefined


def _csv_lines(lines: Iterable[bytes], complaints: list[Complaint]) -> Iterator[str]:
    for _, line in _decoded(lines):
        if isinstance(line, Complaint):
            complaints.append(line)
        else:
            yield f"{line}\n"


def _parse_seconds(text: str | None) -> float | None:
    """Return a length that makes sense; -1 and 0 stand for an unknown one."""
    try:
        seconds = float(text or 0)
    except ValueError:
        return None
    return seconds if 0 < seconds < _LONGEST else None
