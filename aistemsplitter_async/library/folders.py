"""Walks through folders of music, lazily and in an order that depends only on the names: files first, then folders.

It keeps in memory the names in one folder and in those above it, and the identity of every folder entered (about 100
bytes each), so that each is entered once however often it is named or linked, and a loop of links ends. Of files, only
stems and the like are kept, which are left out unless they are named.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

import attrs

from aistemsplitter_async._files import find_same, reason_of
from aistemsplitter_async._transfer.manifest import Manifest, pattern_of
from aistemsplitter_async.library.found import EXAMPLES, Found, Ignored, Track, Unusable
from aistemsplitter_async.library.globs import Glob, States
from aistemsplitter_async.library.kinds import (
    Kind,
    is_ambiguous,
    is_hidden,
    is_stem,
    is_system_folder,
    is_unfinished,
    is_video,
    kind_of,
    may_be_system_folder,
    stems_among,
)

_MAY_BE_NAMED = (Kind.STEM, Kind.HIDDEN, Kind.UNFINISHED)
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
        self._counted: set[tuple[str, str]] = set()  # folders of the system that globs have met
        self._left: dict[tuple[object, str], Kind] = {}  # stems and the like, which may be named by themselves
        self._taken: set[tuple[object, str]] = set()  # videos that a glob names in folders that were searched before

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

    def was_found(self, path: str) -> bool:
        """Return whether a track at `path` was already found because its folder was entered."""
        folder, _, name = path.rpartition(os.sep)
        if not self._entered:
            return False
        identity = _identity(folder or os.sep)
        if is_video(name):
            return (identity, name) in self._taken
        return kind_of(name) is None and identity in self._entered and (identity, name) not in self._left

    def take_back(self, path: str, root: str | None = None) -> Iterator[Ignored]:
        """Correct the count if `path` was left out, as a video or a stem, and is named now."""
        folder, _, name = path.rpartition(os.sep)
        identity = _identity(folder or os.sep)
        kind = self._left.pop((identity, name), None)
        if is_video(name) and identity in self._entered and (identity, name) not in self._taken:
            self._taken.add((identity, name))
            kind = Kind.VIDEO
        if kind is not None:
            yield Ignored(folder, -1, kind, (name,), root)

    def _scan(
        self, folder: str, root: str, glob: Glob | None, states: States | None
    ) -> Generator[Found, None, _Subfolders]:
        """Find the tracks of one folder and return the folders in it that are to be entered.

        `states` are those of the glob, `None` if everything in the folder matches.
        """
        try:
            visit = self._visit(folder, root, glob, states)
        except OSError as error:
            yield Unusable(folder, reason_of(error))
            return []
        subfolders: _Subfolders = []
        if visit is None:
            return subfolders
        left_out = _LeftOut()
        for entry, further in visit.matching():
            is_folder = _is_folder(entry)
            if isinstance(is_folder, Unusable):
                yield is_folder
                continue
            if not is_folder and not visit.takes(entry.name):
                continue
            kind = visit.kind_of_folder(entry) if is_folder else visit.kind_of_file(entry)
            if kind is not None:
                left_out.note(kind, entry.name)
            elif is_folder and not is_hidden(entry.name):
                subfolders.append((entry.path, further))
            elif not is_folder and not is_hidden(entry.name):
                yield from self._take(entry, root, visit)
        left_out.remember(visit.identity, self._left)
        if not visit.was_searched:
            yield from left_out.counted(folder, root, None if visit.glob is None else self._counted)
        return subfolders

    def _visit(self, folder: str, root: str, glob: Glob | None, states: States | None) -> _Visit | None:
        """Return what is in a folder; `None` if it is not to be entered."""
        if glob is None or states is None or glob.is_match(states):
            glob = states = None
        identity = _identity(folder)
        if folder != root and self._is_excluded(folder, identity, root):
            return None
        was_searched = identity in self._entered
        if was_searched and not (glob and (glob.names_extension or is_stem(glob.parts[-1]))):
            return None
        if not self._is_new(identity, glob, states):
            return None
        with os.scandir(folder) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
        return _Visit.of(
            Path(folder), entries, self._excluded, glob, states, identity=identity, was_searched=was_searched
        )

    def _take(self, entry: os.DirEntry[str], root: str, visit: _Visit) -> Iterator[Found]:
        if visit.was_searched:
            if self.was_found(entry.path):
                return
            yield from self.take_back(entry.path, root)
        yield _classify(entry, root)

    def _is_new(self, identity: tuple[object, ...], glob: Glob | None, states: States | None) -> bool:
        wanted = identity if glob is None else (*identity, glob, states)
        if wanted in self._entered:
            return False
        self._entered.add(wanted)
        return True

    def _is_excluded(self, folder: str, identity: tuple[object, ...], root: str) -> bool:
        for excluded in self._excluded:
            with suppress(OSError):  # it need not exist yet
                if _identity(str(excluded)) == identity:
                    return True
        if not os.path.islink(folder):  # noqa: PTH114
            return False
        inside = [excluded for excluded in self._excluded if Path(folder).resolve().is_relative_to(excluded)]
        return bool(inside) and not Path(root).resolve().is_relative_to(inside[0])


def has_match(root: str, glob: Glob) -> bool:
    """Return whether any name below the folder `root` matches, whatever it is the name of."""
    waiting = [(root, glob.start)]
    entered = set[tuple[object, ...]]()
    while waiting:
        folder, states = waiting.pop()
        try:
            with os.scandir(folder) as scan:
                entries = list(scan)
            visit = (*_identity(folder), states)
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


@attrs.frozen
class _Visit:
    """All that is in a folder, and what of it is wanted.

    Attributes:
        identity: of the folder.
        entries: in the order of their names.
        glob: what the names must match, `None` if all of them do.
        states: of the glob.
        was_searched: whether its songs were found before, so that only videos and stems are left that the glob names.
        names: of the entries.
        stems: of ours, by their manifests.
        separated: stems by their names.
        no_songs: what of the folder was excluded, by inode.
    """

    identity: tuple[object, ...]
    entries: list[os.DirEntry[str]]
    glob: Glob | None
    states: States
    was_searched: bool
    names: frozenset[str]
    stems: frozenset[str]
    separated: frozenset[str]
    no_songs: Mapping[int, Path]

    @classmethod
    def of(
        cls,
        folder: Path,
        entries: list[os.DirEntry[str]],
        excluded: Iterable[Path],
        glob: Glob | None,
        states: States | None,
        *,
        identity: tuple[object, ...],
        was_searched: bool,
    ) -> Self:
        names = frozenset(entry.name for entry in entries)
        no_songs = {}
        for path in excluded:
            with suppress(OSError):
                status = path.stat()
                if stat.S_ISREG(status.st_mode):
                    no_songs[status.st_ino] = path
        stems, separated = frozenset(_stems_among(folder, names)), frozenset(stems_among(names))
        return cls(identity, entries, glob, states or frozenset(), was_searched, names, stems, separated, no_songs)

    def matching(self) -> Iterator[tuple[os.DirEntry[str], States | None]]:
        """Yield what matches, or leads to what does, with the states below it; those are `None` without a glob."""
        for entry in self.entries:
            further = None if self.glob is None else self.glob.step(self.states, entry.name, self.names)
            if further or self.glob is None:
                yield entry, further

    def takes(self, name: str) -> bool:
        """Return whether a file is wanted, if it is a song."""
        if self.was_searched and not (is_video(name) or name in self.separated):
            return False
        return self.glob is None or self.glob.takes(self.states, name, self.names)

    def kind_of_file(self, entry: os.DirEntry[str]) -> Kind | None:
        """Return why a file is left out; `None` if it is a song, or hidden and nothing to speak of."""
        name, kind = entry.name, kind_of(entry.name)
        if kind is Kind.VIDEO and self.glob is not None and self.glob.names_extension:
            return None
        if kind is not None:
            return None if kind is Kind.OTHER and is_hidden(name) else kind
        if name in self.stems or (name in self.separated and (self.glob is None or not is_stem(self.glob.parts[-1]))):
            return Kind.STEM
        if f"{name}.aria2" in self.names:
            return Kind.UNFINISHED
        return Kind.OTHER if _is_one_of(self.no_songs, entry) else None

    def kind_of_folder(self, entry: os.DirEntry[str]) -> Kind | None:
        """Return why a folder is not entered; `None` if it is."""
        name = entry.name
        if is_unfinished(name):
            return Kind.UNFINISHED
        if self.glob is not None and self.glob.spells(self.states, name):
            return None
        if may_be_system_folder(name) and is_system_folder(name, _names_in(entry) if is_ambiguous(name) else ()):
            return Kind.SYSTEM
        return None


class _LeftOut:
    """The names that are left out of one folder, by their kind, and of videos by their extension."""

    def __init__(self) -> None:
        self._names: dict[tuple[Kind, str], list[str]] = {}

    def note(self, kind: Kind, name: str) -> None:
        extension = name.rpartition(".")[2] if kind is Kind.VIDEO else ""
        self._names.setdefault((kind, extension), []).append(name)

    def remember(self, folder: tuple[object, ...], left: dict[tuple[object, str], Kind]) -> None:
        """Note what may be named by itself."""
        for (kind, _), names in self._names.items():
            if kind in _MAY_BE_NAMED:
                left.update(((folder, name), kind) for name in names)

    def counted(self, folder: str, root: str, known: set[tuple[str, str]] | None) -> Iterator[Ignored]:
        """Yield the counts, without the folders of the system that other globs have met: they are in `known`."""
        for (kind, _), names in self._names.items():
            if kind is Kind.SYSTEM and known is not None:
                names = [name for name in names if (folder, name) not in known]  # noqa: PLW2901
                known.update((folder, name) for name in names)
            if names:
                yield Ignored(folder, len(names), kind, tuple(names[:EXAMPLES]), root)


def _names_in(folder: os.DirEntry[str]) -> list[str]:
    try:
        return [path.name for path in Path(folder.path).iterdir()]
    except OSError:  # reported where it is entered
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool | Unusable:
    try:
        return entry.is_dir()
    except OSError as error:  # a link to itself, or one to a place that does not answer
        known = error.errno == errno.ELOOP or is_hidden(entry.name)
        return False if known else Unusable(entry.path, reason_of(error))


def _is_one_of(files: Mapping[int, Path], entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is one of `files`, given by inode. Few entries need a look at the disk for that."""
    return (entry.is_symlink() or entry.inode() in files) and find_same(entry.path, files.values()) is not None


def _classify(entry: os.DirEntry[str], root: str) -> Found:
    if _is(entry.is_file):
        return Track(entry.path, root)
    return Unusable(entry.path, "it is not a regular file" if os.path.exists(entry.path) else "it is a broken link")  # noqa: PTH110


def _stems_among(folder: Path, names: Iterable[str]) -> set[str]:
    """Return the names of stems that were downloaded to this folder: they should not be split again."""
    patterns = [pattern for name in names if (pattern := pattern_of(name)) is not None]
    manifests = [manifest for pattern in patterns if (manifest := Manifest.load(folder, pattern)) is not None]
    return {file for manifest in manifests for file in (*manifest.files(), *manifest.replaced)}


def _is(check: Callable[[], bool]) -> bool:
    try:
        return check()
    except OSError:  # a link to itself
        return False


def _identity(folder: str) -> tuple[object, ...]:
    status = os.stat(folder)  # noqa: PTH116  # pathlib keeps every name it sees
    # Some network file systems number nothing: all their folders would be one.
    return (status.st_dev, status.st_ino) if status.st_ino else (os.path.realpath(folder),)
