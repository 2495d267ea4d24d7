"""Lists of songs: m3u, m3u8, pls, XSPF, WPL, the XML of iTunes and rekordbox, plain text, CSV. Bytes in, entries out.

Lists of any length are parsed lazily, line by line. `library.spellings` says which paths an entry may stand for,
`library.lists` which of them exists.

There is no standard for m3u; this follows what players agree on: a line is a path or a URL, `#EXTINF:seconds,title`
precedes it, other lines with `#` are comments, unless there is a file of that name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

import attrs

from aistemsplitter_async.library.entries import Entries, PlaylistEntry, parse_seconds
from aistemsplitter_async.library.records import Lines, Problem, read_lines
from aistemsplitter_async.library.tables import parse_table, starts_table
from aistemsplitter_async.library.xml_lists import parse_xml, starts_xml

_EXTINF = re.compile(rb"#EXTINF:\s*(-?\d+(?:\.\d+)?)?[^,]*(?:,(.*))?", re.IGNORECASE | re.DOTALL)
_DIRECTIVE = re.compile(rb"#(EXT[A-Z0-9-]*|PLAYLIST|KODIPROP|CURTRACK)(:|\s|$)", re.IGNORECASE)
_PLS_LINE = re.compile(rb"\s*(file|title|length)(\d{1,9})\s*=(.*)", re.IGNORECASE | re.DOTALL)
_PLS_OTHER = re.compile(rb"\s*(\[.*\]\s*$|[;#]|[A-Za-z][\w-]{0,30}\s*=)")

Parse = Callable[[Iterable[bytes]], Entries]


def parse_list(chunks: Iterable[bytes], kind: str) -> Entries:
    """Parse a list from what arrives of it, in chunks of any size.

    Args:
        chunks: its bytes.
        kind: its extension in lower case. What the first line says is stronger: a playlist may be called `.txt`.
    """
    rest = iter(chunks)
    head = next(rest, b"")
    if starts_xml(head):
        return parse_xml(chain([head], rest))
    first, lines = read_lines(chain([head], rest), may_have_nul=kind == "txt").peek()
    start = first.strip().lower()
    if lines.verbatim:
        return _parse_lines(lines)
    if kind in ("csv", "tsv") or (kind != "pls" and starts_table(first)):
        return parse_table(lines)
    if start == b"[playlist]" or (kind == "pls" and not start.startswith(b"#extm3u")):
        return _parse_pls(lines)
    return _parse_lines(lines)


def _parse_lines(lines: Lines) -> Entries:
    """Parse an m3u playlist, or a plain list: one path or URL per line."""
    title: bytes | None = None
    seconds: float | None = None
    for number, line in lines:
        if isinstance(line, Problem):
            yield line
        elif lines.verbatim or not line.lstrip().startswith(b"#"):
            yield PlaylistEntry((line,), number, title, seconds)
            title = seconds = None
        elif line.lstrip()[:7].upper() == b"#EXT-X-":
            yield Problem(number, "this is an HLS stream, not a list of songs")
            return
        elif match := _EXTINF.match(line.lstrip()):
            title, seconds = (match[2] or b"").strip() or None, parse_seconds(match[1])
        elif _DIRECTIVE.match(line.lstrip()) is None:
            yield PlaylistEntry((line,), number, title, seconds, may_be_comment=True)


def _parse_pls(lines: Lines) -> Entries:
    """Parse a pls playlist: `File1=`, with `Title1=` and `Length1=` after it."""
    entry, current = None, b""
    for number, line in lines:
        if isinstance(line, Problem):
            yield line
            continue
        match = _PLS_LINE.fullmatch(line)
        if match is None:
            if _PLS_OTHER.match(line) is None:
                yield PlaylistEntry((line,), number)
            continue
        key, value = match[1].lower(), match[3]
        if key == b"file":
            if entry is not None:
                yield entry
            entry, current = (PlaylistEntry((value,), number), match[2]) if value.strip() else (None, b"")
        elif entry is not None and match[2] == current:
            if key == b"title":
                entry = attrs.evolve(entry, title=value.strip() or None)
            else:
                entry = attrs.evolve(entry, seconds=parse_seconds(value))
    if entry is not None:
        yield entry


TEXTS = frozenset({"csv", "tsv", "txt"})  # that may be anything: inside another list they are not read
PLAYLISTS = frozenset({"m3u", "m3u8", "pls", "wpl", "xspf", "zpl"})
_UNREAD = {
    "asx": "this kind of playlist is not read; save it as m3u8",
    "b4s": "this kind of playlist is not read; save it as m3u8",
    "cue": "a cue sheet is not audio, and no list of songs; give the audio file beside it",
    "fpl": "only foobar2000 reads this; save it as m3u8",
    "aimppl4": "this kind of playlist is not read; save it as m3u8",
    "jspf": "this kind of playlist is not read; save it as xspf",
    "nml": "this kind of playlist is not read; save it as m3u8",
    "wax": "this kind of playlist is not read; save it as m3u8",
    "wvx": "this kind of playlist is not read; save it as m3u8",
}


def kind_of(filename: str) -> str | None:
    """Return the kind of list that a file is by its extension, or `None` if it is none."""
    kind = filename.rpartition(".")[2].lower() if "." in filename else ""
    return kind if kind in TEXTS or kind in PLAYLISTS or kind == "xml" else None


def why_unread(filename: str) -> str | None:
    """Return why a list of songs is none that can be read, by its extension."""
    return _UNREAD.get(filename.rpartition(".")[2].lower())


def chunked(read: Callable[[], bytes]) -> Iterator[bytes]:
    """Yield what `read` returns, up to its first empty answer."""
    return iter(read, b"")
