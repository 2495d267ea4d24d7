"""Playlists in XML: XSPF (VLC), WPL (Windows Media Player), and what iTunes, Music and rekordbox export.

They are parsed as they arrive. A document that declares entities is refused: none of these has any, and they can make a
few lines as large as a disk. Nothing outside of the document is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.parsers import expat

import attrs

from aistemsplitter_async.library.entries import Entries, PlaylistEntry, parse_seconds
from aistemsplitter_async.library.records import LINE_CAP_BYTES, Problem

_START = re.compile(
    rb"(\xef\xbb\xbf|\xff\xfe|\xfe\xff)?\s*<(\?xml|!doctype|playlist|plist|smil|dj_playlists|\?wpl|\?zpl)",
    re.IGNORECASE,
)
_ROOTS = ("playlist", "plist", "smil", "dj_playlists")
_DEEPEST = 64  # elements inside each other
_MILLISECONDS = 0.001


def starts_xml(head: bytes) -> bool:
    """Return whether a list is XML by its first bytes."""
    return _START.match(head) is not None or _START.match(head[:200].replace(b"\x00", b"")) is not None


def parse_xml(chunks: Iterator[bytes]) -> Entries:
    """Parse a playlist in XML."""
    reader = _Reader()
    for chunk in chunks:
        problem = reader.feed(chunk, last=False)
        yield from reader.take()
        if problem is not None:
            yield problem
            return
    problem = reader.feed(b"", last=True)
    yield from reader.take()
    if problem is not None:
        yield problem


class _RefusedError(Exception):
    """Why a document is not read any further."""


@attrs.define
class _Song:
    """What was read of one song; it begins with its element, and is at its line."""

    line: int
    names: list[str] = attrs.field(factory=list)
    title: str = ""
    seconds: float | None = None
    key: str = ""  # the last one of a `dict`
    is_song: bool = False  # a `dict` may be anything


class _Reader:
    def __init__(self) -> None:
        self._parser = expat.ParserCreate(namespace_separator=" ")
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._add
        self._parser.EntityDeclHandler = self._refuse_entity
        self._path: list[str] = []
        self._songs: list[_Song] = []
        self._text: list[str] = []
        self._length = 0
        self._entries: list[PlaylistEntry | Problem] = []

    def feed(self, chunk: bytes, *, last: bool) -> Problem | None:
        try:
            self._parser.Parse(chunk, last)
        except _RefusedError as error:
            return Problem(self._parser.CurrentLineNumber, f"{error}; the rest of the list was not read")
        except (expat.ExpatError, ValueError, LookupError) as error:
            what = expat.ErrorString(error.code) if isinstance(error, expat.ExpatError) else str(error)
            reason = f"this is not XML from here on: {what}; the rest of the list was not read"
            return Problem(self._parser.CurrentLineNumber, reason)
        return None

    def take(self) -> list[PlaylistEntry | Problem]:
        taken, self._entries = self._entries, []
        return taken

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        local = name.rpartition(" ")[2].lower()
        if not self._path and local not in _ROOTS:
            raise _RefusedError(f"this is XML, but no playlist that is known: its root is {local}")
        self._path.append(local)
        if len(self._path) > _DEEPEST:
            raise _RefusedError("its elements are too deep inside each other")
        self._text, self._length = [], 0
        line = self._parser.CurrentLineNumber
        if (self._path[0] == "playlist" and local == "track") or (self._path[0] == "plist" and local == "dict"):
            self._songs.append(_Song(line))
        elif self._path[0] == "smil" and local == "media" and attributes.get("src"):
            self._entries.append(PlaylistEntry((attributes["src"].encode(),), line))
        elif self._path[0] == "dj_playlists" and local == "track" and attributes.get("Location"):  # not in a playlist
            location, title, seconds = (attributes.get(key, "") for key in ("Location", "Name", "TotalTime"))
            entry = PlaylistEntry((location.encode(),), line, title.encode() or None, parse_seconds(seconds))
            self._entries.append(entry)

    def _end(self, name: str) -> None:
        local = name.rpartition(" ")[2].lower()
        parent = self._path[-2] if len(self._path) > 1 else ""
        text = "".join(self._text)
        self._path.pop()
        self._text, self._length = [], 0
        if not self._songs:
            return
        song = self._songs[-1]
        if local in ("track", "dict") and (local == "dict") == (self._path[:1] == ["plist"]):
            self._finish(self._songs.pop())
        elif parent == "track":
            self._note(song, {"location": "Location", "title": "Name", "duration": "Total Time"}.get(local, ""), text)
        elif parent == "dict" and local == "key":
            song.key = text
        elif parent == "dict":
            self._note(song, song.key, text)

    def _note(self, song: _Song, key: str, text: str) -> None:
        if key == "Location" and text.strip():
            song.names.append(text)
        elif key == "Name":
            song.title = text.strip()
        elif key == "Total Time":
            song.seconds = parse_seconds(text, _MILLISECONDS)
            song.is_song = True

    def _finish(self, song: _Song) -> None:
        if song.names:
            names = tuple(name.encode() for name in song.names)
            self._entries.append(PlaylistEntry(names, song.line, song.title.encode() or None, song.seconds))
        elif song.is_song or self._path[:1] == ["playlist"]:
            self._entries.append(Problem(song.line, f"{song.title or 'a song'} has no file, only a place in the list"))

    def _add(self, text: str) -> None:
        self._length += len(text)
        if self._length > LINE_CAP_BYTES:
            raise _RefusedError("it holds a text that is too long for a name")
        self._text.append(text)

    def _refuse_entity(self, *_: object) -> None:
        raise _RefusedError("it declares entities, which no playlist needs")
