"""Very many entries by when they are due."""

from __future__ import annotations

import heapq
from typing import Generic, Protocol, TypeVar

NO_LINE = -1  # of an entry that is in no agenda
_MOVED = 4  # lines that a long agenda gives to its successor with every change
_STALE = 512  # lines more than twice the entries make an agenda long


class Dated(Protocol):
    """What can be listed: `line` is the only one of its lines that counts."""

    due: float
    line: int


T = TypeVar("T", bound=Dated)


class Agenda(Generic[T]):
    """Entries by due time: a heap of lines, of which only the newest of an entry counts.

    The others stay where they are, for taking them out is dear. When they have become many, every line that counts
    moves to a new heap, a few with each change, so that no change takes long. (A heap without its last line is a heap.)
    """

    def __init__(self) -> None:
        self._lines: list[tuple[float, int, T]] = []
        self._old: list[tuple[float, int, T]] = []

    def __len__(self) -> int:
        return len(self._lines) + len(self._old)

    def put(self, entry: T, line: int) -> None:
        """List an entry by its `due`; `line` is a number that no other line has."""
        entry.line = line
        heapq.heappush(self._lines, (entry.due, line, entry))

    def first(self) -> T | None:
        """Return the entry that is due first."""
        best: tuple[float, int, T] | None = None
        for lines in (self._lines, self._old):
            while lines and lines[0][2].line != lines[0][1]:
                heapq.heappop(lines)
            if lines and (best is None or lines[0] < best):
                best = lines[0]
        return best[2] if best is not None else None

    def tidy(self, entries: int) -> None:
        """Move a few lines if there are many more than `entries`."""
        if not self._old and len(self._lines) > 2 * entries + _STALE:
            self._lines, self._old = [], self._lines
        for _ in range(min(_MOVED, len(self._old))):
            line = self._old.pop()
            if line[2].line == line[1]:
                heapq.heappush(self._lines, line)
