"""Path patterns such as `music/**/*.flac`, matched name by name on the way down a tree.

What exists as it is written is never a pattern, in any part of a path: `Album [2001]/*.wav` are the files of that
album. Only where no such name exists, `*`, `?` and `[..]` stand for other names.

A folder in which nothing can match is not entered; if a folder itself matches, everything in it does. Hidden names
never match.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container
from fnmatch import fnmatchcase

import attrs

from aistemsplitter_async.library.kinds import is_hidden
from aistemsplitter_async.library.spellings import composed

_MAGIC = re.compile(r"[*?[]")
States = frozenset[int]  # the possible counts of parts matched so far


@attrs.frozen
class Glob:
    """A pattern in pieces.

    Attributes:
        base: the folder to begin at.
        parts: the parts that match the names below it.
        plain: the parts, by their number, in which a bracket is an ordinary character.
    """

    base: str
    parts: tuple[str, ...]
    plain: frozenset[int] = frozenset()

    @property
    def start(self) -> States:
        """Return the states at the base."""
        return self._skip({0})

    @property
    def has_sets(self) -> bool:
        """Return whether a `[` in it begins a set of characters."""
        return any("[" in part for index, part in enumerate(self.parts) if index not in self.plain)

    @property
    def names_extension(self) -> bool:
        """Return whether it says itself which extension a file must have, as `*.mkv` does, and `*.m*` does not."""
        _, dot, extension = self.parts[-1].rpartition(".")
        return bool(dot) and not set("*?").intersection(extension)

    def spells(self, states: States | None, name: str) -> bool:
        """Return whether one of its parts, at one of the states, is this very name."""
        return any(self.parts[state : state + 1] == (name,) for state in states or ())

    def step(self, states: States, name: str, names: Container[str]) -> States:
        """Return the states after one more name, of all `names` of its folder; none if nothing below it can match."""
        if is_hidden(name):
            return frozenset()
        reached = set()
        for state in states:
            if state < len(self.parts):
                if self.parts[state] == "**":
                    reached.add(state)
                elif self._is_named(state, name, names):
                    reached.add(state + 1)
        return self._skip(reached)

    def is_match(self, states: States) -> bool:
        """Return whether the whole pattern has been matched."""
        return len(self.parts) in states

    def takes(self, states: States, name: str, names: Container[str]) -> bool:
        """Return whether a file of this name matches; unlike a folder, not one that stands where a folder must be."""
        last = len(self.parts) - 1
        return last in states and (self.parts[last] == "**" or self._is_named(last, name, names))

    def settle(self, exists: Callable[[Glob], bool]) -> Glob:
        """Return it with the brackets that are in names taken for what they are there, ordinary characters.

        Both readings of `*/Album [2001]*` have nothing in common, so it has one of them everywhere, and not one in
        this folder and the other in the next.

        Args:
            exists: whether any name matches.
        """
        glob = self
        for index, part in enumerate(self.parts):
            plain = attrs.evolve(glob, plain=glob.plain | {index})
            if "[" in part and exists(attrs.evolve(plain, parts=self.parts[: index + 1])):
                glob = plain
        return glob

    def _is_named(self, index: int, name: str, names: Container[str]) -> bool:
        part = self.parts[index]
        if part in names:
            return name == part
        pattern = part.replace("[", "[[]") if index in self.plain else part
        return fnmatchcase(composed(name), composed(pattern))

    def _skip(self, states: set[int]) -> States:
        """Add the states in which a `**` matches no folder at all."""
        for state in sorted(states):
            while state < len(self.parts) and self.parts[state] == "**":
                state += 1  # noqa: PLW2901
                states.add(state)
        return frozenset(states)


def parse_glob(path: str, exists: Callable[[str], bool]) -> Glob | None:
    """Parse a path with `/` as separator; `None` if all of it that looks like a pattern exists as it is written.

    Args:
        path: as it was given.
        exists: whether there is something at a path.
    """
    parts = path.split("/")
    for index, part in enumerate(parts):
        if _MAGIC.search(part) and not exists("/".join(parts[: index + 1])):
            base = "/".join(parts[:index]) or ("/" if path.startswith("/") else ".")
            below = "**" if path.endswith("/") else ""  # `music/*/` are folders
            return Glob(base, tuple(filter(None, (*parts[index:], below))))
    return None
