"""A file of any size as bytes at a position, in bounded memory."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import BinaryIO

import attrs

BLOCK_BYTES = 1024 * 1024  # read at once: large enough for the disk, small enough for any number of files at a time
SMALL_BLOCK_BYTES = 4096  # where little of a file is read, here and there
_KEPT_BYTES = 2 * BLOCK_BYTES
_MATCH_BYTES = 16  # the longest that is searched for


@attrs.frozen
class Range:
    """The bytes of a file from `start` up to, not including, `stop`."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """The number of bytes."""
        return max(0, self.stop - self.start)

    def places(self, count: int) -> list[int]:
        """Return as many positions that divide it into equal parts."""
        return [self.start + self.length * number // (count + 1) for number in range(1, count + 1)]


class Blocks:
    """A seekable file, or what is `within` a range of it, read in aligned blocks.

    The last 2 MiB of them are kept: going forward, each is read once.
    """

    def __init__(self, file: BinaryIO, block_bytes: int = BLOCK_BYTES, within: Range | None = None) -> None:
        self._file = file
        part = within or Range(0, file.seek(0, io.SEEK_END))
        self._start, self.size = part.start, part.length
        self._block_bytes = block_bytes
        self._number, self._block = -1, b""
        self._kept: dict[int, bytes] = {}  # by number, in the order in which they were last read

    def read(self, start: int, length: int) -> bytes:
        """Return `length` bytes from `start`, fewer at the end of the file."""
        number, offset = divmod(start, self._block_bytes)
        block = self._block if number == self._number else self._load(number)
        piece = block[offset : offset + length]
        if len(piece) == length or len(block) < self._block_bytes:
            return piece
        pieces, left = [piece], length - len(piece)
        while left > 0 and len(block) == self._block_bytes:
            number += 1
            block = self._load(number)
            pieces.append(block[:left])
            left -= len(pieces[-1])
        return b"".join(pieces)

    def stream(self, part: Range) -> Iterator[bytes]:
        """Yield the bytes of `part`, a block at a time."""
        position = part.start
        while position < part.stop:
            block = self.read(position, min(part.stop - position, self._block_bytes - position % self._block_bytes))
            if not block:
                return
            yield block
            position += len(block)

    def find(self, pattern: re.Pattern[bytes], start: int, stop: int) -> int:
        """Return where the next match, of at most 16 bytes, begins between `start` and `stop`; `stop` without one."""
        while start < stop:
            number, offset = divmod(start, self._block_bytes)
            block, base = self._load(number), number * self._block_bytes
            edge = max(offset, len(block) - _MATCH_BYTES)  # a match from here on may end in the next block
            found = pattern.search(block, offset, min(len(block), stop - base))
            if found and found.start() < edge:
                return base + found.start()
            found = pattern.search(self.read(base + edge, min(2 * _MATCH_BYTES, stop - base - edge)))
            if found:
                return base + edge + found.start()
            start = base + self._block_bytes
        return stop

    def _load(self, number: int) -> bytes:
        block = self._kept.pop(number, None)
        if block is None:
            if len(self._kept) * self._block_bytes >= _KEPT_BYTES:
                del self._kept[next(iter(self._kept))]
            start = number * self._block_bytes
            self._file.seek(self._start + start)
            block = self._fill(min(self._block_bytes, self.size - start))
        self._kept[number] = block
        self._number, self._block = number, block
        return block

    def _fill(self, left: int) -> bytes:
        pieces = []
        while left > 0 and (piece := self._file.read(left)):  # an unbuffered file may return less than was asked for
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)
