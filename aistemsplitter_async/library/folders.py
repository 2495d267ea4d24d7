"""Walking through folders of music.

Lazily, in an order that depends only on the names: a folder's files first, then the folders in it. Memory is held for
the names in one folder and in those above it, and for the identity of every folder that was entered (about 100 bytes
each), so that each is entered once however often it is named or linked, and a loop of links ends. Not for files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from aistemsplitter_async._transfer.manifest import Manifest, pattern_of
from aistemsplitter_async._transfer.names import AUDIO_EXTENSIONS
from aistemsplitter_async.library.found import Found, Ignored, Track, Unusable, explain
from aistemsplitter_async.library.globs import Glob, States

_Below = list[tuple[str, States | None]]


class Folders:
    """The folders that one search enters.

    Args:
        excluded: folders that are not entered, such as the one for the stems; they need not exist yet.
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
                below = yield from self._look_into(folder, root, glob, states)
                waiting.append(iter(below))

    def was_found(self, path: Path) -> bool:
        """Return whether a track at `path` was found already because its folder was entered."""
        return is_audio(path.name) and not path.name.startswith(".") and _identity(path.parent) in self._entered

    def _look_into(
        self, folder: str, root: str, glob: Glob | None, states: States | None
    ) -> Generator[Found, None, _Below]:
        """Find the tracks of one folder; return the folders in it that are to be entered.

        `states` are those of the glob, `None` where a folder is taken whole.
        """
        if glob is None or states is None or glob.is_match(states):
            glob = states = None
        try:
            if (folder != root and self._is_excluded(Path(folder), root)) or not self._is_new(folder, glob, states):
                return []
            with os.scandir(folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            yield Unusable(folder, explain(error))
            return []
        stems = _stems_among(Path(folder), entries)
        below: _Below = []
        ignored = 0
        for entry in entries:
            further = glob.step(states, entry.name) if glob is not None and states is not None else None
            if entry.name.startswith(".") or (glob is not None and not further):
                continue
            if _answer(entry.is_dir):
                below.append((entry.path, further))
            elif glob is not None and further is not None and not glob.is_match(further):
                continue
            elif not is_audio(entry.name) or entry.name in stems:
                ignored += 1
            else:
                yield _judge(entry, root)
        if ignored:
            yield Ignored(folder, ignored)
        return below

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


def is_audio(name: str) -> bool:
    """Return whether a file is audio by its name."""
    before, _, extension = name.rpartition(
        "."
    )  # not with pathlib: it interns every name it sees, some Pythons for good
    return bool(before) and extension.lower() in AUDIO_EXTENSIONS


def _judge(entry: os.DirEntry[str], root: str) -> Found:
    if _answer(entry.is_file):
        return Track(entry.path, root)
    return Unusable(entry.path, "a link that leads nowhere" if entry.is_symlink() else "it is not a regular file")


def _stems_among(folder: Path, entries: Iterable[os.DirEntry[str]]) -> set[str]:
    """Return the names of the files that a download left here: splitting stems again is not what anybody wants."""
    patterns = [pattern for entry in entries if (pattern := pattern_of(entry.name)) is not None]
    manifests = [manifest for pattern in patterns if (manifest := Manifest.load(folder, pattern)) is not None]
    kept = {entry.file for manifest in manifests for entry in manifest.stems.values()}
    return kept.union(*(manifest.replaced for manifest in manifests))


def _answer(question: Callable[[], bool]) -> bool:
    try:
        return question()
    except OSError:  # a link that leads to itself
        return False


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
