"""Path patterns such as `music/**/*.flac`, matched name by name on the way down a tree.

A folder in which nothing can match is not entered; if a folder itself matches, everything in it does. Hidden names
never match.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

import attrs

_MAGIC = re.compile(r"[*?[]")
States = frozenset[int]  # the possible counts of parts matched so far


@attrs.frozen
class Glob:
    """A pattern in two pieces: the folder to begin at, and the parts that match the names below it."""

    base: str
    parts: tuple[str, ...]

    @property
    def start(self) -> States:
        """Return the states at the base."""
        return self._skip({0})

    def step(self, states: States, name: str) -> States:
        """Return the states after one more name; none if nothing below it can match."""
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
        """Return whether the whole pattern has been matched."""
        return len(self.parts) in states

    def _skip(self, states: set[int]) -> States:
        """Add the states in which a `**` matches no folder at all."""
        for state in sorted(states):
            while state < len(self.parts) and self.parts[state] == "**":
                state += 1  # noqa: PLW2901
                states.add(state)
        return frozenset(states)


def parse_glob(path: str) -> Glob | None:
    """Parse a path with `/` as separator; `None` if it contains neither `*`, `?` nor `[`."""
    parts = path.split("/")
    first = next((index for index, part in enumerate(parts) if _MAGIC.search(part)), None)
    if first is None:
        return None
    base = "/".join(parts[:first]) or ("/" if path.startswith("/") else ".")
    return Glob(base, tuple(part for part in parts[first:] if part))
