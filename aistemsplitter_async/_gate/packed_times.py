"""Ascending times as a text and back, without looking at each: most conversations change one or two of 1,200."""

from __future__ import annotations

import binascii
import math
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

_SMALL, _LARGE = "H", "I"  # how many grains after the first time, in two bytes or four
_MOST = {_SMALL: 2**16 - 1, _LARGE: 2**32 - 1}
_REBASED = 2**15  # grains that the first time may be after what the others are counted from


class PackedTimes:
    """Ascending times, rounded up to grains. It does what a deque does as far as a window needs it.

    Args:
        times: ascending.
        grain: seconds.
    """

    def __init__(self, times: Iterable[float], grain: float) -> None:
        self._grain = grain
        self._shift = 0.0
        self._pack([math.ceil(at / grain) for at in times])

    def _pack(self, grains: list[int]) -> None:
        self._base = min(grains, default=0)  # a time that was just appended may be moved to its place next
        steps = [at - self._base for at in grains]
        self._steps = array(_SMALL if max(steps, default=0) <= _MOST[_SMALL] else _LARGE, steps)
        self._head = 0  # of the steps, how many are over

    def __len__(self) -> int:
        return len(self._steps) - self._head

    def __getitem__(self, index: int) -> float:
        return (self._base + self._steps[self._head + index if index >= 0 else index]) * self._grain + self._shift

    def __iter__(self) -> Iterator[float]:
        return (self[index] for index in range(len(self)))

    def popleft(self) -> float:
        first = self[0]
        self._head += 1
        return first

    def pop(self) -> float:
        last = self[-1]
        self._steps.pop()
        return last

    def append(self, at: float) -> None:
        self.insert(len(self), at)

    def insert(self, index: int, at: float) -> None:
        """Insert a time before the one at `index`, where it belongs."""
        grains = math.ceil((at - self._shift) / self._grain)
        step = grains - self._base
        if len(self) and 0 <= step <= _MOST[self._steps.typecode]:
            self._steps.insert(self._head + index, step)
        else:
            all_grains = [self._base + known for known in self._steps[self._head :]]
            all_grains.insert(index, grains)
            self._pack(all_grains)

    def shift(self, seconds: float) -> None:
        """Move all times to another clock."""
        self._shift += seconds

    def dump(self) -> list[Any]:
        """Return them as plain JSON; not after `shift`."""
        if not len(self):
            return []
        if self._steps[self._head] > _REBASED:
            self._pack([self._base + known for known in self._steps[self._head :]])
        steps = self._steps[self._head :]
        if sys.byteorder == "big":
            steps.byteswap()
        return [self._base, steps.typecode, binascii.b2a_base64(steps, newline=False).decode("ascii")]

    @classmethod
    def load(cls, dumped: Sequence[Any], grain: float) -> Self:
        """Return times as they were dumped.

        Raises:
            ValueError: they were not dumped so, or not with this grain.
        """
        times = cls((), grain)
        if not dumped:
            return times
        base, code, text = dumped
        if code not in _MOST or not isinstance(base, int):
            raise ValueError("no such times")
        steps = array(code)
        steps.frombytes(binascii.a2b_base64(text))
        if sys.byteorder == "big":
            steps.byteswap()
        times._base, times._steps = base, steps
        return times
