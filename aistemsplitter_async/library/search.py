"""Finds tracks: in folders, by globs, in playlists and lists of URLs or paths, or named one by one.

Folders are searched first, so that a file given in addition to its folder is found once. Apart from that, files are not
remembered: memory does not grow with their number, and a track that two lists name is found twice.
"""

from __future__ import annotations

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

from aistemsplitter_async._files import find_same, reason_of
from aistemsplitter_async._transfer.audio import guess_content_type
from aistemsplitter_async._wire.urls import is_url
from aistemsplitter_async.errors import SourceUnreadableError
from aistemsplitter_async.library.folders import Folders, has_match
from aistemsplitter_async.library.found import Found, Ignored, Track, Unusable
from aistemsplitter_async.library.globs import Glob, parse_glob
from aistemsplitter_async.library.kinds import Kind, is_audio, is_resource_fork, is_video
from aistemsplitter_async.library.playlists import (
    LINE_CAP_BYTES,
    Parse,
    PlaylistEntry,
    Problem,
    parse_text,
    parser_for,
    possible_paths,
)

STDIN = "-"
_MAYBE_AUDIO = ("audio/", "video/", "application/ogg", "application/octet-stream")
_DESCRIPTOR = re.compile(r"/dev/(stdin|fd/\d+)|/proc/self/fd/\d+")  # a file that the shell has opened for us
_EXCLUDED = "it belongs to the journal of this batch"
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

    Within folders, hidden files, files that are not audio by their names, and stems of an earlier download are skipped.

    Args:
        paths: folders; globs such as `music/**/*.flac`; lists (m3u, m3u8, pls, txt, csv, tsv); http(s) URLs; files; `-`
            for a list on standard input. What exists as it is written is never read as a glob, in any part of a path:
            `Album [2001]/*.wav` are the files of that album.
        exclude: folders that are not entered, such as the one for the stems, and files that are no tracks and not
            opened, such as a journal; they need not exist yet. A folder that is one of `paths`, or contains one of
            them, is not excluded.
        stdin: read instead of standard input.

    Raises:
        SourceUnreadableError: one of `paths` does not exist or matches nothing. Raised here, not while iterating.
    """
    excluded = list(exclude)
    search = _Search(Folders(excluded), [Path(path) for path in excluded], stdin)
    plans = [search.plan(os.fspath(path), excluded) for path in paths]
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
    _excluded: list[Path]
    _stdin: BinaryIO | None
    _named: set[tuple[int, int]] = attrs.field(factory=set)  # files among the arguments, by device and inode

    def plan(self, path: str, excluded: list[str | os.PathLike[str]]) -> tuple[int, Find]:
        """Return at which step and how to find the tracks of one argument."""
        if not path:
            raise SourceUnreadableError("cannot read '': no such file or folder")
        if path == STDIN:
            return _NAMED, partial(self._read_stdin, self._stdin or sys.stdin.buffer)
        if is_url(path):
            return _NAMED, partial(iter, [Track(path)])
        spellings = possible_paths(path) if path[:5].lower() == "file:" else (path,)
        if isinstance(spellings, Problem):
            raise SourceUnreadableError(f"cannot read {path}: {spellings.reason}")
        try:
            status = Path(spellings[0]).stat()
        except (OSError, ValueError) as error:
            if _may_be_glob(error):
                return _GLOB, self._plan_glob(spellings[0], excluded)
            raise SourceUnreadableError(f"cannot read {path}: {reason_of(error)}") from None
        return self._plan_existing(Path(_absolute(spellings[0])), status)

    def _plan_existing(self, path: Path, status: os.stat_result) -> tuple[int, Find]:
        if stat.S_ISDIR(status.st_mode):
            return _FOLDER, partial(self._folders.walk, str(path))
        identity = (status.st_dev, status.st_ino)
        if identity in self._named:
            return _NAMED, partial(iter, ())
        self._named.add(identity)
        # Shells turn `<(find ..)` into a pipe, and `/dev/stdin` with `< songs.txt` is a descriptor.
        if stat.S_ISFIFO(status.st_mode) or _DESCRIPTOR.fullmatch(str(path)):
            return _NAMED, partial(self._read_list, path, parse_text, [Path.cwd()])
        parser = parser_for(path.name)
        if parser is not None:
            return _NAMED, partial(self._read_list, path, parser, [path.parent, Path.cwd()])
        return _NAMED, partial(self._check_file, path, Track(str(path)), status)

    def _plan_glob(self, path: str, excluded: list[str | os.PathLike[str]]) -> Find:
        glob = parse_glob(path.replace(os.sep, "/"), os.path.lexists)
        if glob is None:
            raise SourceUnreadableError(f"cannot read {path}: no such file or folder")
        base = _absolute(glob.base)
        glob = glob.settle(partial(has_match, base))
        if not any(isinstance(found, Track) for found in Folders(excluded).walk(base, glob)):
            raise SourceUnreadableError(f"no audio matches {path}: {_explain_nothing(base, glob)}")
        return partial(self._folders.walk, base, glob)

    def _read_stdin(self, stdin: BinaryIO) -> Iterator[Found]:
        try:
            yield from self._find_listed(stdin, "standard input", parse_text, [Path.cwd()])
        except OSError as error:  # it is closed, or not for reading
            yield Unusable("standard input", reason_of(error))

    def _read_list(self, path: Path, parser: Parse, folders: list[Path]) -> Iterator[Found]:
        if find_same(path, self._excluded) is not None:
            yield Unusable(str(path), _EXCLUDED)
            return
        try:
            with path.open("rb") as file:
                yield from self._find_listed(file, str(path), parser, folders)
        except OSError as error:
            yield Unusable(str(path), reason_of(error))

    def _find_listed(self, file: BinaryIO, name: str, parser: Parse, folders: list[Path]) -> Iterator[Found]:
        """Find what a list names. Its entries are relative to the first of `folders` where they exist."""
        for entry in parser(iter(partial(file.readline, LINE_CAP_BYTES + 1), b"")):
            if isinstance(entry, Problem):
                yield Unusable(name, f"line {entry.line}: {entry.reason}")
                continue
            for found in self._find_entry(entry, folders):
                if isinstance(found, Unusable) and found.source == entry.text:
                    yield Unusable(entry.text, f"{found.reason} ({name}, line {entry.line})")
                else:
                    yield found

    def _find_entry(self, entry: PlaylistEntry, folders: list[Path]) -> Iterator[Found]:
        track = Track(entry.text, title=entry.title, seconds=entry.seconds)
        if is_url(entry.text):
            return iter([track])
        spellings = possible_paths(entry.text)
        if isinstance(spellings, Problem):
            return iter([Unusable(entry.text, spellings.reason)])
        for path in (Path(_absolute(folder / spelling)) for folder in folders for spelling in spellings):
            try:
                status = path.stat()
            except (OSError, ValueError):
                continue
            if stat.S_ISDIR(status.st_mode):
                return self._folders.walk(str(path))
            return self._check_file(path, attrs.evolve(track, root=str(folders[0])), status)
        reason = "no such file; patterns in lists are not read" if "*" in entry.text else "no such file"
        return iter([Unusable(entry.text, reason)])

    def _check_file(self, path: Path, track: Track, status: os.stat_result) -> Iterator[Found]:
        """Check a file that was named. The service decides whether it is audio, unless its name rules that out."""
        kind = guess_content_type(path.name)
        if not stat.S_ISREG(status.st_mode):
            yield Unusable(track.source, "it is not a regular file")
        elif find_same(path, self._excluded) is not None:
            yield Unusable(track.source, _EXCLUDED)
        elif parser_for(path.name) is not None:
            yield Unusable(track.source, "lists inside lists are not read")
        elif is_resource_fork(path.name):  # `find` names them all
            yield Ignored(str(path.parent), 1, Kind.SYSTEM, (path.name,))
        elif not (is_audio(path.name) or is_video(path.name) or kind.startswith(_MAYBE_AUDIO)):
            yield Unusable(track.source, f"it is not audio but {kind}")
        elif not self._folders.was_found(path):
            yield from self._folders.take_back(path)
            yield attrs.evolve(track, source=str(path))
