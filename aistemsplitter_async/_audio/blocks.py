"""A file of any size as bytes at a position, in bounded memory."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import BinaryIO

import attrs

BLOCK_BYTES = 1024 * 1024  # read at once: large enough for the disk, small enough for any number of files at a time
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


class Blocks:
    """A seekable file, read in aligned blocks of which the last two are kept: going forward, each is read once."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = file.seek(0, io.SEEK_END)
        self._number, self._block = -1, b""
        self._last_number, self._last_block = -1, b""

    def read(self, start: int, length: int) -> bytes:
        """Return `length` bytes from `start`, fewer at the end of the file."""
        number, offset = divmod(start, BLOCK_BYTES)
        block = self._block if number == self._number else self._load(number)
        piece = block[offset : offset + length]
        if len(piece) == length or len(block) < BLOCK_BYTES:
            return piece
        pieces, left = [piece], length - len(piece)
        while left > 0 and len(block) == BLOCK_BYTES:
            number += 1
            block = self._load(number)
            pieces.append(block[:left])
            left -= len(pieces[-1])
        return b"".join(pieces)

    def stream(self, part: Range) -> Iterator[bytes]:
        """Yield the bytes of `part`, a block at a time."""
        position = part.start
        while position < part.stop:
            block = self.read(position, min(part.stop - position, BLOCK_BYTES - position % BLOCK_BYTES))
            if not block:
                return
            yield block
            position += len(block)

    def find(self, pattern: re.Pattern[bytes], start: int, stop: int) -> int:
        """Return where the next match, of at most 16 bytes, begins between `start` and `stop`; `stop` without one."""
        while start < stop:
            number, offset = divmod(start, BLOCK_BYTES)
            block, base = self._load(number), number * BLOCK_BYTES
            edge = max(offset, len(block) - _MATCH_BYTES)  # a match from here on may end in the next block
            found = pattern.search(block, offset, min(len(block), stop - base))
            if found and found.start() < edge:
                return base + found.start()
            found = pattern.search(self.read(base + edge, min(2 * _MATCH_BYTES, stop - base - edge)))
            if found:
                return base + edge + found.start()
            start = base + BLOCK_BYTES
        return stop

    def _load(self, number: int) -> bytes:
        if number == self._number:
            return self._block
        kept = self._number, self._block
        if number == self._last_number:
            self._number, self._block = number, self._last_block
        else:
            self._file.seek(number * BLOCK_BYTES)
            self._number, self._block = number, self._fill()
        self._last_number, self._last_block = kept
        return self._block

    def _fill(self) -> bytes:
        pieces, left = [], BLOCK_BYTES
        while left and (piece := self._file.read(left)):  # an unbuffered file may return less than was asked for
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)
