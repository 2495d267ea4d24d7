"""Finds tracks: in folders, by globs, in playlists and lists of URLs or paths, or named one by one.

Folders are searched first, so that a file given in addition to its folder is found once. The files in them are not
remembered: memory does not grow with their number. Of what is named one by one, half a million files and URLs are.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import attrs

from aistemsplitter_async._files import reason_of
from aistemsplitter_async._wire.urls import is_url
from aistemsplitter_async.errors import SourceUnreadableError
from aistemsplitter_async.library.folders import Folders, has_match
from aistemsplitter_async.library.found import Found, Track, Unusable
from aistemsplitter_async.library.globs import Glob, parse_glob
from aistemsplitter_async.library.kinds import is_audio
from aistemsplitter_async.library.lists import Lists
from aistemsplitter_async.library.names import Names, Several
from aistemsplitter_async.library.playlists import kind_of
from aistemsplitter_async.library.spellings import Closeness, Unreadable, spell

STDIN = "-"
_DESCRIPTOR = re.compile(r"/dev/(stdin|fd/\d+)|/proc/self/fd/\d+")  # a file that the shell has opened for us
_ERROR_INVALID_NAME = 123  # what Windows says of a path with `*` or `?` in it
_FOLDER, _GLOB, _NAMED = range(3)  # in the order in which they are searched

Find = Callable[[], Iterator[Found]]


def find_tracks(
    paths: Iterable[str | os.PathLike[str]],
    *,
    exclude: Iterable[str | os.PathLike[str]] = (),
    stdin: BinaryIO | None = None,
) -> Iterator[Found]:
    """Return an iterator over the tracks that `paths` name. It blocks, so iterate in a thread.

    Within folders, hidden files, files that are not audio by their names, and stems of an earlier download are skipped,
    unless they are named themselves. What a file holds is not read.

    Args:
        paths: folders; globs such as `music/**/*.flac`; lists (m3u, m3u8, pls, xspf, wpl, the xml of iTunes
            and rekordbox, txt, csv,
            tsv); http(s) URLs; files; `-` for a list on standard input. What exists as it is written is never read as
            a glob, in any part of a path: `Album [2001]/*.wav` are the files of that album.
        exclude: folders that are not entered, such as the one for the stems, and files that are no tracks and not
            opened, such as a journal; they need not exist yet. A folder that is one of `paths`, or contains one of
            them, is not excluded.
        stdin: read instead of standard input.

    Raises:
        SourceUnreadableError: one of `paths` does not exist or matches nothing. Raised here, not while iterating.
    """
    excluded = list(exclude)
    folders, names = Folders(excluded), Names()
    search = _Search(folders, names, Lists(folders, names, [Path(path) for path in excluded]), stdin)
    plans = [search.plan(os.fsdecode(path), excluded) for path in paths]
    return chain.from_iterable(find() for _, find in sorted(plans, key=lambda plan: plan[0]))


def is_stream(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is a list that can be read only once: `-`, a pipe, or a file that the shell has opened."""
    path = os.fspath(path)
    if path == STDIN or _DESCRIPTOR.fullmatch(path):
        return True
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):  # a URL, a glob, or nothing that exists
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _may_be_glob(error: OSError | ValueError) -> bool:
    """Return whether a path may be a glob, judging by the error that says that nothing is there."""
    is_missing = isinstance(error, FileNotFoundError | NotADirectoryError)
    return is_missing or getattr(error, "winerror", None) == _ERROR_INVALID_NAME


def _explain_nothing(base: str, glob: Glob) -> str:
    """Return why no track matches a glob."""
    if not Path(base).is_dir():
        return f"{glob.base} is not a folder"
    if has_match(base, glob):
        return (
            "what matches is not audio by its name, or is in the output folder; videos are taken only if the pattern "
            "names their extension"
        )
    if glob.has_sets:
        return "nothing has such a name, and so [..] in it stands for one of the characters between the brackets"
    return "nothing has such a name"


def _absolute(path: str | os.PathLike[str]) -> str:
    """Return the canonical spelling of a path: absolute, without `.` and `..`, links not followed."""
    return os.path.abspath(path)  # noqa: PTH100  # `Path.resolve` follows links, `Path.absolute` keeps `..`


@attrs.define
class _Search:
    _folders: Folders
    _names: Names
    _lists: Lists
    _stdin: BinaryIO | None

    def plan(self, path: str, excluded: list[str | os.PathLike[str]]) -> tuple[int, Find]:
        """Return at which step and how to find the tracks of one argument."""
        if not path:
            raise SourceUnreadableError("cannot read '': no such file or folder")
        if path == STDIN:
            return _NAMED, partial(self._read_stdin, self._stdin or sys.stdin.buffer)
        if is_url(path):
            return _NAMED, partial(self._lists.find_url, Track(path))
        place = path
        is_file_url = path[:5].lower() == "file:"
        if is_file_url or ("://" in path and not os.path.lexists(path)):
            spelled = spell(os.fsencode(path))
            if isinstance(spelled, Unreadable):
                raise SourceUnreadableError(f"cannot read {path}: {spelled.reason}")
            place = spelled[0].path if is_file_url else path
        try:
            status = os.stat(place)  # noqa: PTH116
        except (OSError, ValueError) as error:
            if not _may_be_glob(error):
                raise SourceUnreadableError(f"cannot read {path}: {reason_of(error)}") from None
            existing = self._find_spelled(place)
            if existing is None:
                return _GLOB, self._plan_glob(place, excluded)
            place, status = existing, os.stat(existing)  # noqa: PTH116
        return self._plan_existing(_absolute(place), status)

    def _find_spelled(self, path: str) -> str | None:
        """Return the file or folder that is called like `path` but for the form of its accents or its code page.

        Raises:
            SourceUnreadableError: several are.
        """
        found = self._names.find(_absolute(path), _absolute("."), Closeness.REENCODED)
        if isinstance(found, Several):
            raise SourceUnreadableError(f"cannot read {path}: nothing is called exactly so, and several almost are")
        return found if found is not None and os.path.exists(found) else None  # noqa: PTH110

    def _plan_existing(self, path: str, status: os.stat_result) -> tuple[int, Find]:
        if stat.S_ISDIR(status.st_mode):
            return _FOLDER, partial(self._folders.walk, path)
        # Shells turn `<(find ..)` into a pipe, and `/dev/stdin` with `< songs.txt` is a descriptor.
        name = path.rpartition(os.sep)[2]
        if (stat.S_ISFIFO(status.st_mode) and not is_audio(name)) or _DESCRIPTOR.fullmatch(path):
            return _NAMED, partial(self._lists.read_file, path, "txt", folders=[os.getcwd()])  # noqa: PTH109
        kind = kind_of(name)
        if kind is not None:
            return _NAMED, partial(self._lists.read_file, path, kind)
        return _NAMED, partial(self._check_file, path, status)

    def _plan_glob(self, path: str, excluded: list[str | os.PathLike[str]]) -> Find:
        glob = parse_glob(path.replace(os.sep, "/"), self._exists)
        if glob is None:
            raise SourceUnreadableError(f"cannot read {path}: no such file or folder")
        base = _absolute(glob.base)
        if not os.path.lexists(base):
            base = self._find_spelled(base) or base
        glob = glob.settle(partial(has_match, base))
        if not any(isinstance(found, Track) for found in Folders(excluded).walk(base, glob)):
            raise SourceUnreadableError(f"no audio matches {path}: {_explain_nothing(base, glob)}")
        return lambda: self._lists.once(self._folders.walk(base, glob))

    def _read_stdin(self, stdin: BinaryIO) -> Iterator[Found]:
        try:
            yield from self._lists.read(stdin, "standard input", "txt", [os.getcwd()])  # noqa: PTH109
        except OSError as error:  # it is closed, or not for reading
            yield Unusable("standard input", "it is closed" if error.errno == errno.EBADF else reason_of(error))

    def _exists(self, path: str) -> bool:
        return os.path.lexists(path) or self._find_spelled(path) is not None

    def _check_file(self, path: str, status: os.stat_result) -> Iterator[Found]:
        found = self._lists.check(Track(path), status)
        return iter([Unusable(path, found)]) if isinstance(found, str) else found
