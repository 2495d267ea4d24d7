"""Finds what lists name: each song once, however often and however spelled, and nothing dropped in silence."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from functools import partial
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from aistemsplitter_async._files import find_same, reason_of
from aistemsplitter_async._transfer.audio import guess_content_type
from aistemsplitter_async._wire.urls import is_url
from aistemsplitter_async.library.entries import PlaylistEntry
from aistemsplitter_async.library.folders import Folders
from aistemsplitter_async.library.found import Found, Ignored, Repeated, Track, Unusable
from aistemsplitter_async.library.kinds import Kind, is_audio, is_resource_fork, is_video
from aistemsplitter_async.library.names import Names, Several
from aistemsplitter_async.library.playlists import PLAYLISTS, chunked, kind_of, parse_list, why_unread
from aistemsplitter_async.library.records import LINE_CAP_BYTES, Problem
from aistemsplitter_async.library.spellings import (
    Closeness,
    Spelling,
    Unreadable,
    machine_of,
    read_text,
    show_name,
    spell,
    url_of,
)

_MAYBE_AUDIO = ("audio/", "video/", "application/ogg", "application/octet-stream")
_EXCLUDED = "it belongs to the journal of this batch"
_DEEPEST = 10  # lists inside each other
_REMEMBERED = 500_000  # sources named one by one: about 50 MB. Those after them, the journal recognises
_URL = re.compile(rb"\s*https?://", re.IGNORECASE)


class Lists:
    """The lists of one search, and the files that are named one by one.

    Args:
        folders: that are searched.
        names: what is in folders, for paths that are spelled otherwise.
        excluded: files that are no tracks.
    """

    def __init__(self, folders: Folders, names: Names, excluded: list[Path]) -> None:
        self._folders = folders
        self._names = names
        self._excluded = excluded
        self._seen = set[int]()
        self._read = set[tuple[int, int]]()  # lists

    def read_file(self, path: str, kind: str, *, folders: list[str] | None = None, depth: int = 0) -> Iterator[Found]:
        """Find what a list names; by default its entries are relative to its own folder, then to the current one."""
        if find_same(path, self._excluded) is not None:
            yield Unusable(path, _EXCLUDED)
            return
        try:
            status = os.stat(path)  # noqa: PTH116  # pathlib keeps every name it sees
            if (status.st_dev, status.st_ino) in self._read:
                yield Repeated(path)
                return
            self._read.add((status.st_dev, status.st_ino))
            with open(path, "rb") as file:  # noqa: PTH123
                yield from self.read(file, path, kind, folders or [os.path.dirname(path), os.getcwd()], depth)  # noqa: PTH109, PTH120
        except OSError as error:
            yield Unusable(path, reason_of(error))

    def read(self, file: BinaryIO, name: str, kind: str, folders: list[str], depth: int = 0) -> Iterator[Found]:
        """Find what an open list names. Its entries are relative to the first of `folders` where they exist."""
        read: Callable[[int], bytes] = getattr(file, "read1", file.readline)  # what is there: a line may be typed
        for entry in parse_list(chunked(partial(read, LINE_CAP_BYTES)), kind):
            if isinstance(entry, Problem):
                yield Unusable(name, f"line {entry.line}: {entry.reason}")
                continue
            found = self._find(entry, folders, depth)
            if not isinstance(found, str):
                yield from found
            elif not entry.may_be_comment:
                hint = f"; {entry.hint}" if entry.hint else ""
                where = f"{name}, line {entry.line}"
                yield Unusable(show_name(entry.names[0].strip()), f"{found}{hint} ({where})")

    def once(self, found: Iterator[Found]) -> Iterator[Found]:
        """Iterate over what was found, each file once in this search."""
        for one in found:
            if isinstance(one, Track) and not is_url(one.source) and not self._is_new(one.source):
                yield Repeated(one.source)
            else:
                yield one

    def check(
        self, track: Track, status: os.stat_result, depth: int = 0, *, named: bool = True
    ) -> Iterator[Found] | str:
        """Return what a file is that was named, or why it is not usable.

        The service decides whether it is audio, unless its name rules that out.
        """
        path, name = track.source, track.filename
        if find_same(path, self._excluded) is not None:
            return _EXCLUDED
        if not stat.S_ISREG(status.st_mode):
            return "it is not a regular file"
        if kind_of(name) in PLAYLISTS and not named:
            if depth >= _DEEPEST:
                return f"lists inside lists are read {_DEEPEST} deep"
            return self.read_file(path, kind_of(name) or "", depth=depth + 1)
        if kind_of(name) is not None:
            return "a text or table inside a list is not read as another list; give it by itself"
        if (reason := why_unread(name)) is not None:
            return reason
        if is_resource_fork(name):  # `find` names them all
            return iter([Ignored(path.rpartition(os.sep)[0], 1, Kind.SYSTEM, (name,))])
        if not (is_audio(name) or is_video(name) or (kind := guess_content_type(name)).startswith(_MAYBE_AUDIO)):
            return f"it is not audio but {kind}"
        if self._folders.was_found(path) or not self._is_new(path, status):
            return iter([Repeated(path)])
        return chain(self._folders.take_back(path), [track])

    def find_url(self, track: Track) -> Iterator[Found]:
        """Return a URL as it was named, once."""
        is_new = self._remember(track.source.encode("utf-8", "surrogatepass"))
        return iter([track if is_new else Repeated(track.source)])

    def _find(self, entry: PlaylistEntry, folders: list[str], depth: int) -> Iterator[Found] | str:
        """Return what an entry stands for, or why that is nothing."""
        if _URL.match(entry.names[0]) and not entry.may_be_comment:
            title = None if entry.title is None else read_text(entry.title)
            return self.find_url(Track(url_of(entry.names[0]), title=title, seconds=entry.seconds))
        name, place = self._locate(entry, folders)
        if isinstance(place, Unreadable):
            return place.reason
        path = place
        try:
            status = os.stat(path)  # noqa: PTH116
        except OSError as error:
            return "it is a broken link" if os.path.islink(path) else reason_of(error)  # noqa: PTH114
        if stat.S_ISDIR(status.st_mode):
            return self.once(self._folders.walk(path))
        title = None if entry.title is None else read_text(entry.title, name, os.path.basename(path))  # noqa: PTH119
        return self.check(Track(path, folders[0], title, entry.seconds), status, depth, named=False)

    def _locate(self, entry: PlaylistEntry, folders: list[str]) -> tuple[bytes, str | Unreadable]:
        """Return which of an entry's names is there, and where."""
        reasons: list[str] = []
        missing: list[tuple[bytes, str]] = []
        for name in entry.names:
            spelled = spell(name)
            if isinstance(spelled, Unreadable):
                reasons.append(spelled.reason)
                continue
            for path in _places(spelled[:1] if entry.may_be_comment else spelled, folders):
                try:
                    os.stat(path)  # noqa: PTH116
                except (FileNotFoundError, NotADirectoryError):
                    missing.append((name, path))
                except (OSError, ValueError) as error:
                    reasons.append(reason_of(error))
                else:
                    return name, path
        return self._locate_nearly(entry, missing, folders[0]) or (
            entry.names[0],
            Unreadable(_explain_missing(entry.names[0], reasons)),
        )

    def _locate_nearly(
        self, entry: PlaylistEntry, missing: list[tuple[bytes, str]], folder: str
    ) -> tuple[bytes, str | Unreadable] | None:
        """Return which of the paths that are missing is there under a name that is almost the same."""
        most = Closeness.REENCODED if entry.may_be_comment else Closeness.CASELESS
        for name, path in sorted(missing, key=lambda one: "\\" in one[1]):  # mostly between folders, not in a name
            found = self._names.find(path, folder, most)
            if isinstance(found, str):
                return name, found
            if isinstance(found, Several):
                alike = " and ".join(os.path.relpath(one, folder) for one in found.paths[:3])
                return name, Unreadable(f"nothing is called exactly so, and {alike} almost are")
        return None

    def _is_new(self, path: str, status: os.stat_result | None = None) -> bool:
        """Return whether a file is named for the first time, and remember it.

        Its size and time are looked at too: the number of a file that was deleted meanwhile may be another one's.
        """
        try:
            status = status or os.stat(path)  # noqa: PTH116
        except OSError:
            return True
        number = status.st_ino or os.path.realpath(path)  # some file systems have no numbers
        return self._remember(repr((status.st_dev, number, status.st_size, status.st_mtime_ns)).encode())

    def _remember(self, identity: bytes) -> bool:
        key = int.from_bytes(blake2b(identity, digest_size=16).digest())
        if key in self._seen:
            return False
        if len(self._seen) < _REMEMBERED:
            self._seen.add(key)
        return True


def _places(spelled: tuple[Spelling, ...], folders: list[str]) -> Iterator[str]:
    """Yield the absolute paths that an entry may stand for, the likeliest first."""
    seen = set[str]()
    for one in spelled:
        above = (folder for folder in folders)
        for folder in _and_above(folders) if one.rooted else above:
            path = os.path.abspath(os.path.join(folder, one.path))  # noqa: PTH100, PTH118
            if path not in seen:
                seen.add(path)
                yield path


def _and_above(folders: list[str]) -> Iterator[str]:
    for folder in folders:
        while True:
            yield folder
            above = os.path.dirname(folder)  # noqa: PTH120
            if above == folder:
                break
            folder = above  # noqa: PLW2901


def _explain_missing(name: bytes, reasons: list[str]) -> str:
    if machine := machine_of(name):
        return f"it is on another machine ({machine})"
    if reasons:
        return reasons[0]
    return "no such file; patterns in lists are not read" if b"*" in name else "no such file"
