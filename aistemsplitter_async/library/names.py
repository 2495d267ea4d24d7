"""Finds the file that a path stands for, if it is not called exactly so: each folder on the way is read once.

The names of a folder are kept until those of many others were read, so that a list of any length reads even a huge
folder once, and memory stays bounded.
"""

from __future__ import annotations

import os
from collections import OrderedDict

import attrs

from aistemsplitter_async.library.spellings import Closeness, closeness, fold, keys

_NAMES_KEPT = 200_000  # names: about 50 MB
_MOST_WAYS = 32  # paths followed at once: folders whose names are the same but for capitals

_WAYS_KEPT = 256  # folders of entries, each with the folders that they may stand for
_Ways = list[tuple[int, str]]  # how far all parts of a path together are from what is written, and the path

_Index = dict[str, tuple[str, ...]]  # the names of a folder by what they have in common


@attrs.frozen
class Several:
    """Files that a path may stand for, none of them more than another."""

    paths: tuple[str, ...]


class Names:
    """The names in the folders that were read."""

    def __init__(self, kept: int = _NAMES_KEPT) -> None:
        self._kept = kept
        self._indices = OrderedDict[str, _Index]()
        self._count = 0
        self._ways: dict[tuple[Closeness | str, ...], _Ways] = {}

    def find(self, path: str, folder: str, most: Closeness = Closeness.CASELESS) -> str | Several | None:
        """Return what exists and is closest to an absolute path, each of its parts at most as far from it as `most`.

        `folder` is taken as it is if the path is in it.
        """
        start, parts = _divide(path, folder)
        if not parts:
            return start
        for level in (Closeness.EQUIVALENT, Closeness.REENCODED, Closeness.CASELESS):  # few names need the last
            closest = self._find_within(level, start, parts) if level <= most else []
            if closest:
                are_one = all(_is_same(closest[0], other) for other in closest[1:])
                return closest[0] if are_one else Several(tuple(closest))
        return None

    def _find_within(self, most: Closeness, start: str, parts: list[str]) -> list[str]:
        """Return the closest of the paths whose parts are all at most so far from `parts`."""
        *folders, last = parts
        ways = self._ways.get((most, start, *folders))  # most lines of a list are about the folder of the line before
        if ways is None:
            ways = [(0, start)]
            for part in folders:
                ways = self._follow(ways, part, most)
            if len(self._ways) >= _WAYS_KEPT:
                self._ways.clear()
            self._ways[most, start, *folders] = ways
        ways = self._follow(ways, last, most)
        return [found for far, found in ways if far == ways[0][0]]

    def _follow(self, ways: _Ways, part: str, most: Closeness) -> _Ways:
        further = [
            (far + close, os.path.join(above, name))  # noqa: PTH118  # pathlib keeps names
            for far, above in ways
            for name, close in self._among(above, part, most)
        ]
        return sorted(further)[:_MOST_WAYS]

    def _among(self, folder: str, part: str, most: Closeness) -> list[tuple[str, Closeness]]:
        index = self._read(folder)
        if not index:
            exists = os.path.lexists(os.path.join(folder, part))  # noqa: PTH118  # it may be closed to readers
            return [(part, Closeness.SAME)] if exists else []
        wanted = [fold(part)] if most <= Closeness.EQUIVALENT else sorted(keys(part))
        found = dict.fromkeys(name for key in wanted for name in index.get(key, ()))
        return [(name, way) for name in found if (way := closeness(part, name)) is not None and way <= most]

    def _read(self, folder: str) -> _Index:
        index = self._indices.get(folder)
        if index is not None:
            self._indices.move_to_end(folder)
            return index
        index = {}
        try:
            for name in os.listdir(folder):  # noqa: PTH208
                key = fold(name)
                index[key] = (*index.get(key, ()), name)
        except (OSError, ValueError):  # not there, not a folder, or not to be read
            index = {}
        self._indices[folder] = index
        self._count += len(index) + 1
        while self._count > self._kept and len(self._indices) > 1:
            _, dropped = self._indices.popitem(last=False)
            self._count -= len(dropped) + 1
        return index


def _divide(path: str, folder: str) -> tuple[str, list[str]]:
    """Return where to begin, and the parts below it."""
    start = folder if path.startswith(folder.rstrip(os.sep) + os.sep) else os.path.splitdrive(path)[0] + os.sep
    return start, list(filter(None, path[len(start) :].split(os.sep)))  # noqa: PTH206


def _is_same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)  # noqa: PTH121
    except OSError:
        return False
