"""Patterns of paths such as `music/**/*.flac`, matched name by name on the way down a tree.

What can no longer match is not entered, and what matches as a folder is taken whole. Hidden names match nothing.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

import attrs

_MAGIC = re.compile(r"[*?[]")
States = frozenset[int]  # how many parts may have been matched so far


@attrs.frozen
class Glob:
    """A pattern, cut in two: the folder to begin at, and the parts that names below it are matched with."""

    base: str
    parts: tuple[str, ...]

    @property
    def start(self) -> States:
        """Return the states at the base."""
        return self._skip({0})

    def step(self, states: States, name: str) -> States:
        """Return the states one name further down; none if nothing there can match."""
        if name.startswith("."):
            return frozenset()
        reached = set()
        for state in states:
            if state < len(self.parts):
                if self.parts[state] == "**":
                    reached.add(state)
                elif fnmatchcase(name, self.parts[state]):
                    reached.add(state + 1)
        return self._skip(reached)

    def is_match(self, states: States) -> bool:
        """Return whether what was reached matches all of the pattern."""
        return len(self.parts) in states

    def _skip(self, states: set[int]) -> States:
        """Add what is reached where `**` stands for no folder at all."""
        for state in sorted(states):
            while state < len(self.parts) and self.parts[state] == "**":
                state += 1  # noqa: PLW2901
                states.add(state)
        return frozenset(states)


def parse_glob(path: str) -> Glob | None:
    """Return the pattern that a path with `/` is, or `None` if it has neither `*`, `?` nor `[`."""
    parts = path.split("/")
    first = next((index for index, part in enumerate(parts) if _MAGIC.search(part)), None)
    if first is None:
        return None
    base = "/".join(parts[:first]) or ("/" if path.startswith("/") else ".")
    return Glob(base, tuple(part for part in parts[first:] if part))
