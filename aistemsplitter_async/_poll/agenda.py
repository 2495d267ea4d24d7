"""A priority queue of very many entries by due time, whose entries are rescheduled all the time."""

from __future__ import annotations

import heapq
from typing import Generic, Protocol, TypeVar

NOT_LISTED = -1  # the version of an entry that is in no agenda
_MOVED = 4  # items that a long agenda moves to its new heap with every change
_TOP = 31  # items: the upper five rows of a heap
_STALE = 512  # an agenda is long if it has this many items more than twice its entries


class Dated(Protocol):
    """An entry of an agenda. Of its items in the heap only the one with its `version` counts."""

    due: float
    version: int


T = TypeVar("T", bound=Dated)


class Agenda(Generic[T]):
    """Entries by due time: a heap of items, of which only the newest one of an entry counts.

    Outdated items stay where they are, for removing one from a heap is expensive. Once there are many, the items that
    count move to a new heap, a few with each change, so that no change takes long. (Without its last item, a heap is
    still a heap.)
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, T]] = []
        self._old: list[tuple[float, int, T]] = []

    def __len__(self) -> int:
        return len(self._heap) + len(self._old)

    def put(self, entry: T, version: int) -> None:
        """List an entry by its `due`; `version` is a number that was never used before."""
        entry.version = version
        heapq.heappush(self._heap, (entry.due, version, entry))

    def first(self) -> T | None:
        """Return the entry that is due first."""
        best: tuple[float, int, T] | None = None
        for heap in (self._heap, self._old):
            while heap and heap[0][2].version != heap[0][1]:
                heapq.heappop(heap)
            if heap and (best is None or heap[0] < best):
                best = heap[0]
        return best[2] if best is not None else None

    def count_due(self, now: float) -> int:
        """Return how many entries are due, of those that are near the top."""
        return sum(
            item[0] <= now and item[2].version == item[1] for heap in (self._heap, self._old) for item in heap[:_TOP]
        )

    def tidy(self, entries: int) -> None:
        """Move a few items if there are many more than `entries`."""
        if not self._old and len(self._heap) > 2 * entries + _STALE:
            self._heap, self._old = [], self._heap
        for _ in range(min(_MOVED, len(self._old))):
            item = self._old.pop()
            if item[2].version == item[1]:
                heapq.heappush(self._heap, item)
