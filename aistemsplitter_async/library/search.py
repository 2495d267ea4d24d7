"""Finding tracks: in folders, by globs, in playlists and lists of URLs or paths, or named one by one.

Folders come first, so that a file that is named besides can be left out if its folder was searched. Otherwise no files
are remembered, so the memory needed does not grow with their number, and what two lists name is found twice.
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

from aistemsplitter_async._transfer.audio import guess_content_type
from aistemsplitter_async.errors import SourceUnreadableError
from aistemsplitter_async.library.folders import Folders, is_audio
from aistemsplitter_async.library.found import Found, Track, Unusable, absolute, explain
from aistemsplitter_async.library.globs import parse_glob
from aistemsplitter_async.library.playlists import (
    LINE_CAP_BYTES,
    Complaint,
    Entry,
    Parse,
    is_url,
    parse_text,
    parser_for,
    possible_paths,
)

STDIN = "-"
_MAYBE_AUDIO = ("audio/", "video/", "application/ogg", "application/octet-stream")
_DESCRIPTOR = re.compile(r"/dev/(stdin|fd/\d+)|/proc/self/fd/\d+")  # what a shell has opened for us
_FOLDER, _GLOB, _NAMED = range(3)  # in the order they are searched

Find = Callable[[], Iterator[Found]]


def find_tracks(
    paths: Iterable[str | os.PathLike[str]],
    *,
    exclude: Iterable[str | os.PathLike[str]] = (),
    stdin: BinaryIO | None = None,
) -> Iterator[Found]:
    """Return an iterator over the tracks that `paths` mean. It blocks: read it in a thread.

    Within folders, hidden ones are passed over, what is no audio by its name, and stems of an earlier download.

    Args:
        paths: folders; globs such as `music/**/*.flac`; lists (m3u, m3u8, pls, txt, csv, tsv); http(s) URLs; files; `-`
            for a list on standard input. What exists is never taken for a glob.
        exclude: folders that are not entered, such as the one for the stems; they need not exist yet. One that is among
            `paths` itself, or above one of them, is no exception.
        stdin: read instead of standard input.

    Raises:
        SourceUnreadableError: one of `paths` does not exist or matches nothing. Raised here, not while iterating.
    """
    excluded = list(exclude)
    search = _Search(Folders(excluded), stdin)
    plans = [search.plan(os.fspath(path), excluded) for path in paths]
    return chain.from_iterable(find() for _, find in sorted(plans, key=lambda plan: plan[0]))


def is_stream(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is a list that can be read only once: `-`, a pipe, what a shell has opened."""
    path = os.fspath(path)
    if path == STDIN or _DESCRIPTOR.fullmatch(path):
        return True
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):  # a URL, a glob, or nothing at all
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


@attrs.define
class _Search:
    _folders: Folders
    _stdin: BinaryIO | None
    _named: set[tuple[int, int]] = attrs.field(factory=set)  # files among the arguments, by device and inode

    def plan(self, path: str, excluded: list[str | os.PathLike[str]]) -> tuple[int, Find]:
        """Return when and how the tracks of one argument are found."""
        if not path:
            raise SourceUnreadableError("cannot read '': no such file or folder")
        if path == STDIN:
            stdin = self._stdin or sys.stdin.buffer
            return _NAMED, partial(self._take_entries, stdin, "standard input", parse_text, [Path.cwd()])
        if is_url(path):
            return _NAMED, partial(iter, [Track(path)])
        meant = possible_paths(path) if path[:5].lower() == "file:" else (path,)
        if isinstance(meant, Complaint):
            raise SourceUnreadableError(f"cannot read {path}: {meant.reason}")
        try:
            status = Path(meant[0]).stat()
        except (FileNotFoundError, NotADirectoryError):
            return _GLOB, self._plan_glob(meant[0], excluded)
        except (OSError, ValueError) as error:
            problem = explain(error)
        else:
            return self._plan_existing(Path(absolute(meant[0])), status)
        raise SourceUnreadableError(f"cannot read {path}: {problem}")

    def _plan_existing(self, path: Path, status: os.stat_result) -> tuple[int, Find]:
        if stat.S_ISDIR(status.st_mode):
            return _FOLDER, partial(self._folders.walk, str(path))
        identity = (status.st_dev, status.st_ino)
        if identity in self._named:
            return _NAMED, partial(iter, ())
        self._named.add(identity)
        # A pipe is what a shell makes of `<(find ..)`, and a descriptor of `/dev/stdin` with `< songs.txt`.
        if stat.S_ISFIFO(status.st_mode) or _DESCRIPTOR.fullmatch(str(path)):
            return _NAMED, partial(self._take_list, path, parse_text, [Path.cwd()])
        parser = parser_for(path.name)
        if parser is not None:
            return _NAMED, partial(self._take_list, path, parser, [path.parent, Path.cwd()])
        return _NAMED, partial(self._take_file, path, Track(str(path)), status)

    def _plan_glob(self, path: str, excluded: list[str | os.PathLike[str]]) -> Find:
        glob = parse_glob(path.replace(os.sep, "/"))
        if glob is None:
            raise SourceUnreadableError(f"cannot read {path}: no such file or folder")
        base = absolute(glob.base)
        if not any(isinstance(found, Track) for found in Folders(excluded).walk(base, glob)):
            raise SourceUnreadableError(f"no audio matches {path}")
        return partial(self._folders.walk, base, glob)

    def _take_list(self, path: Path, parser: Parse, folders: list[Path]) -> Iterator[Found]:
        try:
            with path.open("rb") as file:
                yield from self._take_entries(file, str(path), parser, folders)
        except OSError as error:
            yield Unusable(str(path), explain(error))

    def _take_entries(self, file: BinaryIO, name: str, parser: Parse, folders: list[Path]) -> Iterator[Found]:
        """Find what a list names. Its entries are relative to the first of `folders` that has them."""
        for entry in parser(iter(partial(file.readline, LINE_CAP_BYTES + 1), b"")):
            if isinstance(entry, Complaint):
                yield Unusable(name, f"line {entry.line}: {entry.reason}")
                continue
            for found in self._take_entry(entry, folders):
                if isinstance(found, Unusable) and found.source == entry.text:
                    yield Unusable(entry.text, f"{found.reason} ({name}, line {entry.line})")
                else:
                    yield found

    def _take_entry(self, entry: Entry, folders: list[Path]) -> Iterator[Found]:
        track = Track(entry.text, title=entry.title, seconds=entry.seconds)
        if is_url(entry.text):
            return iter([track])
        meant = possible_paths(entry.text)
        if isinstance(meant, Complaint):
            return iter([Unusable(entry.text, meant.reason)])
        for path in (Path(absolute(folder / spelling)) for folder in folders for spelling in meant):
            try:
                status = path.stat()
            except (OSError, ValueError):
                continue
            if stat.S_ISDIR(status.st_mode):
                return self._folders.walk(str(path))
            return self._take_file(path, attrs.evolve(track, root=str(folders[0])), status)
        return iter([Unusable(entry.text, "no such file")])

    def _take_file(self, path: Path, track: Track, status: os.stat_result) -> Iterator[Found]:
        """Take a file that was named: unless its name says that it is something else, the service decides."""
        kind = guess_content_type(path.name)
        if not stat.S_ISREG(status.st_mode):
            yield Unusable(track.source, "it is not a regular file")
        elif parser_for(path.name) is not None:
            yield Unusable(track.source, "a list in a list is not read")
        elif not is_audio(path.name) and not kind.startswith(_MAYBE_AUDIO):
            yield Unusable(track.source, f"it is not audio but {kind}")
        elif not self._folders.was_found(path):
            yield attrs.evolve(track, source=str(path))
