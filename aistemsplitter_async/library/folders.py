"""Walks through folders of music, lazily and in an order that depends only on the names: files first, then folders.

It keeps in memory the names in one folder and in those above it, and the identity of every folder entered (about 100
bytes each), so that each is entered once however often it is named or linked, and a loop of links ends. Files are not
kept.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from aistemsplitter_async._files import find_same, reason_of
from aistemsplitter_async._transfer.manifest import Manifest, pattern_of
from aistemsplitter_async._transfer.names import AUDIO_EXTENSIONS
from aistemsplitter_async.library.found import Found, Ignored, Track, Unusable
from aistemsplitter_async.library.globs import Glob, States

_Subfolders = list[tuple[str, States | None]]


class Folders:
    """The folders that one search enters.

    Args:
        excluded: folders that are not entered, such as the one for the stems, and files that are no tracks; they need
            not exist yet.
    """

    def __init__(self, excluded: Iterable[str | os.PathLike[str]]) -> None:
        self._excluded = [Path(os.path.realpath(folder)) for folder in excluded]
        self._entered: set[tuple[object, ...]] = set()

    def walk(self, root: str, glob: Glob | None = None) -> Iterator[Found]:
        """Find what is in the folder `root` and below it, as far as it matches `glob`.

        `root` is entered even if it is excluded, or below a folder that is.
        """
        waiting = [iter([(root, glob.start if glob else None)])]
        while waiting:
            folder, states = next(waiting[-1], (None, None))
            if folder is None:
                waiting.pop()
            else:
                subfolders = yield from self._scan(folder, root, glob, states)
                waiting.append(iter(subfolders))

    def was_found(self, path: Path) -> bool:
        """Return whether a track at `path` was already found because its folder was entered."""
        return is_audio(path.name) and not path.name.startswith(".") and _identity(path.parent) in self._entered

    def _scan(
        self, folder: str, root: str, glob: Glob | None, states: States | None
    ) -> Generator[Found, None, _Subfolders]:
        """Find the tracks of one folder and return the folders in it that are to be entered.

        `states` are those of the glob, `None` if everything in the folder matches.
        """
        if glob is None or states is None or glob.is_match(states):
            glob = states = None
        try:
            if (folder != root and self._is_excluded(Path(folder), root)) or not self._is_new(folder, glob, states):
                return []
            with os.scandir(folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            yield Unusable(folder, reason_of(error))
            return []
        stems = _stems_among(Path(folder), entries)
        left_out = {path.stat().st_ino: path for path in self._excluded if path.is_file()}
        names = set[str]() if glob is None else {entry.name for entry in entries}
        subfolders: _Subfolders = []
        ignored = 0
        for entry in entries:
            further = glob.step(states, entry.name, names) if glob is not None and states is not None else None
            if entry.name.startswith(".") or (glob is not None and not further):
                continue
            if _is(entry.is_dir):
                subfolders.append((entry.path, further))
            elif glob is not None and states is not None and not glob.takes(states, entry.name, names):
                continue
            elif not is_audio(entry.name) or entry.name in stems or _is_one_of(left_out, entry):
                ignored += 1
            else:
                yield _classify(entry, root)
        if ignored:
            yield Ignored(folder, ignored)
        return subfolders

    def _is_new(self, folder: str, glob: Glob | None, states: States | None) -> bool:
        identity = _identity(Path(folder))
        wanted = identity if glob is None else (*identity, glob, states)
        if identity in self._entered or wanted in self._entered:
            return False
        self._entered.add(wanted)
        return True

    def _is_excluded(self, folder: Path, root: str) -> bool:
        for excluded in self._excluded:
            with suppress(OSError):  # it need not exist yet
                if folder.samefile(excluded):
                    return True
            if folder.is_symlink() and folder.resolve().is_relative_to(excluded):
                return not Path(root).resolve().is_relative_to(excluded)
        return False


def has_match(root: str, glob: Glob) -> bool:
    """Return whether any name below the folder `root` matches, whatever it is the name of."""
    waiting = [(root, glob.start)]
    entered = set[tuple[object, ...]]()
    while waiting:
        folder, states = waiting.pop()
        try:
            with os.scandir(folder) as scan:
                entries = list(scan)
            visit = (*_identity(Path(folder)), states)
        except OSError:  # reported where it is searched for tracks
            continue
        if visit in entered:
            continue
        entered.add(visit)
        names = {entry.name for entry in entries}
        for entry in entries:
            further = glob.step(states, entry.name, names)
            if glob.is_match(further):
                return True
            if further and _is(entry.is_dir):
                waiting.append((entry.path, further))
    return False


def is_audio(name: str) -> bool:
    """Return whether a file is audio by its name."""
    # Not with pathlib: it interns every name it sees, and some Python versions never release them.
    before, _, extension = name.rpartition(".")
    return bool(before) and extension.lower() in AUDIO_EXTENSIONS


def _is_one_of(files: Mapping[int, Path], entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is one of `files`, given by inode. Few entries need a look at the disk for that."""
    return (entry.is_symlink() or entry.inode() in files) and find_same(entry.path, files.values()) is not None


def _classify(entry: os.DirEntry[str], root: str) -> Found:
    if _is(entry.is_file):
        return Track(entry.path, root)
    return Unusable(entry.path, "it is a broken link" if entry.is_symlink() else "it is not a regular file")


def _stems_among(folder: Path, entries: Iterable[os.DirEntry[str]]) -> set[str]:
    """Return the names of stems that were downloaded to this folder: they should not be split again."""
    patterns = [pattern for entry in entries if (pattern := pattern_of(entry.name)) is not None]
    manifests = [manifest for pattern in patterns if (manifest := Manifest.load(folder, pattern)) is not None]
    kept = {entry.file for manifest in manifests for entry in manifest.stems.values()}
    return kept.union(*(manifest.replaced for manifest in manifests))


def _is(check: Callable[[], bool]) -> bool:
    try:
        return check()
    except OSError:  # a link to itself
        return False


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
