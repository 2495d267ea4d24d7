"""The boxes of MP4, and the tables in them that say where the samples of a track are."""

from __future__ import annotations

import itertools
import sys
from array import array
from collections.abc import Iterator

import attrs

from aistemsplitter_async._audio.blocks import Blocks, Range
from aistemsplitter_async._audio.description import InconsistentError

_BOXES = 200_000  # side by side; a fragmented film has some thousands
_TABLE_CAP_BYTES = 16 * 1024 * 1024  # four million samples: a day of AAC
_HEADER_BYTES, _LONG_HEADER_BYTES = 8, 16


@attrs.frozen
class Box:
    """A box: its type, where it begins, and its contents."""

    kind: bytes
    start: int
    body: Range


def boxes(blocks: Blocks, within: Range) -> Iterator[Box]:
    """Yield the boxes side by side in a range; the last box of a file may be cut off. Raises `InconsistentError`."""
    position = within.start
    for _ in range(_BOXES):
        header = blocks.read(position, min(_LONG_HEADER_BYTES, max(0, within.stop - position)))
        if len(header) < _HEADER_BYTES:
            if position < within.stop:
                raise InconsistentError
            return
        size, kind, start = int.from_bytes(header[:4], "big"), header[4:8], position + _HEADER_BYTES
        if size == 1:
            size, start = int.from_bytes(header[8:16], "big"), position + _LONG_HEADER_BYTES
        elif size == 0:
            size = within.stop - position
        end = position + size
        cut = end > within.stop and within.stop == blocks.size
        if start > end or (end > within.stop and not cut):
            raise InconsistentError
        yield Box(kind, position, Range(start, min(end, within.stop)))
        if cut:
            return
        position = end
    raise InconsistentError


def inside(blocks: Blocks, within: Range, *path: bytes) -> Range | None:
    """Return the contents of the one box at a path of types, `None` if there is none. Raises `InconsistentError`."""
    for kind in path:
        found = [box.body for box in boxes(blocks, within) if box.kind == kind]
        if not found:
            return None
        if len(found) > 1:
            raise InconsistentError
        within = found[0]
    return within


def number(blocks: Blocks, at: int, size: int = 4) -> int:
    """Return an unsigned integer. Raises `InconsistentError` if it is not all there."""
    data = blocks.read(at, size)
    if len(data) < size:
        raise InconsistentError
    return int.from_bytes(data, "big")


def table(blocks: Blocks, body: Range, start: int, count: int, width: int = 4) -> array[int]:
    """Return `count` integers from `start` in a box. Raises `InconsistentError` if the box has no room for them."""
    size = count * width
    if start + size > body.length or size > _TABLE_CAP_BYTES:
        raise InconsistentError
    values = array("I" if width == 4 else "Q", blocks.read(body.start + start, size))  # noqa: PLR2004
    if len(values) != count:
        raise InconsistentError
    if sys.byteorder == "little":
        values.byteswap()
    return values


def sample_count(blocks: Blocks, stbl: Range) -> int:
    """Return how many samples a track has. Raises `InconsistentError` if it does not say."""
    stsz = inside(blocks, stbl, b"stsz")
    if stsz is None:
        raise InconsistentError
    return number(blocks, stsz.start + 8)


def chunks(blocks: Blocks, stbl: Range) -> Iterator[Range]:
    """Yield the ranges that hold the samples of a track, in order.

    Raises `InconsistentError`, at the latest at the end, if its tables contradict each other or the file.
    """
    stsz, stsc = inside(blocks, stbl, b"stsz"), inside(blocks, stbl, b"stsc")
    if stsz is None or stsc is None:
        raise InconsistentError
    every, count = number(blocks, stsz.start + 4), number(blocks, stsz.start + 8)
    sizes = None if every else table(blocks, stsz, 12, count)
    offsets = _offsets(blocks, stbl)
    runs = table(blocks, stsc, 8, 3 * number(blocks, stsc.start + 4))
    done = total = 0
    for chunk, held in _held(runs, len(offsets)):
        length = every * held if sizes is None else sum(sizes[done : done + held])
        done, total = done + held, total + length
        if done > count or total > blocks.size or offsets[chunk] + length > blocks.size:
            raise InconsistentError
        yield Range(offsets[chunk], offsets[chunk] + length)
    if done != count:
        raise InconsistentError


def _offsets(blocks: Blocks, stbl: Range) -> array[int]:
    stco, co64 = inside(blocks, stbl, b"stco"), inside(blocks, stbl, b"co64")
    body = stco or co64
    if body is None or (stco and co64):
        raise InconsistentError
    return table(blocks, body, 8, number(blocks, body.start + 4), 4 if stco else 8)


def _held(runs: array[int], chunks: int) -> Iterator[tuple[int, int]]:
    """Yield each chunk and how many samples it holds, by runs of chunks that hold the same number."""
    firsts = [*runs[0::3], chunks + 1]
    if firsts[0] != 1 or any(after <= before for before, after in itertools.pairwise(firsts)):
        raise InconsistentError
    for (first, following), held in zip(itertools.pairwise(firsts), runs[1::3], strict=True):
        yield from ((chunk - 1, held) for chunk in range(first, following))
