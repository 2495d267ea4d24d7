"""Films in fragments: each `moof` box has runs of samples of its own, with where they are and how long they take."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from aistemsplitter_async._audio.blocks import Blocks, Range
from aistemsplitter_async._audio.description import InconsistentError
from aistemsplitter_async._audio.mp4_boxes import Box, boxes, inside, number, table

_TFHD_BASE, _TFHD_DESCRIPTION, _TFHD_DURATION, _TFHD_SIZE, _TFHD_FROM_MOOF = 1, 2, 8, 0x10, 0x20000
_TRUN_OFFSET, _TRUN_FIRST_FLAGS = 1, 4
_TRUN_FIELDS = (0x100, 0x200, 0x400, 0x800)  # four bytes of each sample: duration, size, flags, offset
_DURATION, _SIZE = 0, 1


@attrs.frozen
class Run:
    """Samples of one track that follow one another.

    `durations`, in units of the track's clock, and `sizes` have one number for each, or one for all.
    """

    count: int
    durations: tuple[int, ...]
    sizes: tuple[int, ...]
    data: Range

    @property
    def ticks(self) -> int:
        """How long they take."""
        return sum(self.durations) if len(self.durations) == self.count else self.count * self.durations[0]


@attrs.frozen
class _Usual:
    """What holds for the samples of a track where a run does not say."""

    duration: int
    size: int


def runs(blocks: Blocks, moov: Range, tkhd: Range) -> Iterator[Run]:
    """Yield the runs of the track of a `tkhd` box. Raises `InconsistentError`."""
    track = number(blocks, tkhd.start + (20 if number(blocks, tkhd.start, 1) == 1 else 12))
    usual = _usual(blocks, moov, track)
    for moof in boxes(blocks, Range(0, blocks.size)):
        if moof.kind == b"moof":
            trafs = [box.body for box in boxes(blocks, moof.body) if box.kind == b"traf"]
            for traf in trafs:
                tfhd = inside(blocks, traf, b"tfhd")
                if tfhd is not None and number(blocks, tfhd.start + 4) == track:
                    yield from _runs(blocks, traf, _header(blocks, tfhd, usual, moof, alone=len(trafs) == 1))


def _usual(blocks: Blocks, moov: Range, track: int) -> _Usual:
    mvex = inside(blocks, moov, b"mvex")
    for box in boxes(blocks, mvex) if mvex else ():
        if box.kind == b"trex" and number(blocks, box.body.start + 4) == track:
            return _Usual(number(blocks, box.body.start + 12), number(blocks, box.body.start + 16))
    raise InconsistentError


def _header(blocks: Blocks, tfhd: Range, usual: _Usual, moof: Box, *, alone: bool) -> tuple[int, _Usual]:
    """Return where the offsets of the runs count from, and what holds for their samples."""
    flags, at = number(blocks, tfhd.start + 1, 3), tfhd.start + 8
    if not (flags & (_TFHD_BASE | _TFHD_FROM_MOOF) or alone):  # counts from the end of the track before
        raise InconsistentError
    base = number(blocks, at, 8) if flags & _TFHD_BASE else moof.start
    at += 8 * bool(flags & _TFHD_BASE) + 4 * bool(flags & _TFHD_DESCRIPTION)
    duration = number(blocks, at) if flags & _TFHD_DURATION else usual.duration
    at += 4 * bool(flags & _TFHD_DURATION)
    return base, _Usual(duration, number(blocks, at) if flags & _TFHD_SIZE else usual.size)


def _runs(blocks: Blocks, traf: Range, header: tuple[int, _Usual]) -> Iterator[Run]:
    (base, usual), end = header, None
    for trun in boxes(blocks, traf):
        if trun.kind != b"trun":
            continue
        flags, count = number(blocks, trun.body.start + 1, 3), number(blocks, trun.body.start + 4)
        if flags & _TRUN_OFFSET:
            start = base + int.from_bytes(blocks.read(trun.body.start + 8, 4), "big", signed=True)
        elif end is None:
            raise InconsistentError
        else:
            start = end
        first = 8 + 4 * bool(flags & _TRUN_OFFSET) + 4 * bool(flags & _TRUN_FIRST_FLAGS)
        present = [place for place, field in enumerate(_TRUN_FIELDS) if flags & field]
        fields = table(blocks, trun.body, first, count * len(present))
        columns = {place: tuple(fields[column :: len(present)]) for column, place in enumerate(present)}
        durations, sizes = columns.get(_DURATION, (usual.duration,)), columns.get(_SIZE, (usual.size,))
        end = start + (sum(sizes) if _SIZE in columns else count * usual.size)
        yield Run(count, durations, sizes, Range(start, end))
