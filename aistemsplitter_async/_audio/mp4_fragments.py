"""Films in fragments: each `moof` box times samples of its own."""

from __future__ import annotations

from typing import Self

import attrs

from aistemsplitter_async._audio.blocks import Blocks, Range
from aistemsplitter_async._audio.description import InconsistentError
from aistemsplitter_async._audio.mp4_boxes import boxes, inside, number, table

_TRUN_FIELDS = (
    0x100,
    0x200,
    0x400,
    0x800,
)  # four bytes of each sample: duration, size, flags, offset
_TRUN_OFFSET, _TRUN_FIRST_FLAGS, _TRUN_DURATION = 1, 4, 0x100
_TFHD_BASE, _TFHD_DESCRIPTION, _TFHD_DURATION = 1, 2, 8


@attrs.frozen
class Timed:
    """So many samples take so many units of the track's clock."""

    samples: int = 0
    ticks: int = 0

    def plus(self, other: Self) -> Self:
        """Return both together."""
        return attrs.evolve(self, samples=self.samples + other.samples, ticks=self.ticks + other.ticks)


def fragments(blocks: Blocks, moov: Range, tkhd: Range) -> Timed:
    """Return what the fragments add to the track of a `tkhd` box. Raises `InconsistentError`."""
    track = number(blocks, tkhd.start + (20 if number(blocks, tkhd.start, 1) == 1 else 12))
    usual, timed = _usual_duration(blocks, moov, track), Timed()
    for moof in boxes(blocks, Range(0, blocks.size)):
        if moof.kind == b"moof":
            for traf in boxes(blocks, moof.body):
                tfhd = inside(blocks, traf.body, b"tfhd") if traf.kind == b"traf" else None
                if tfhd is not None and number(blocks, tfhd.start + 4) == track:
                    timed = timed.plus(_runs(blocks, traf.body, _duration(blocks, tfhd, usual)))
    return timed


def _usual_duration(blocks: Blocks, moov: Range, track: int) -> int:
    mvex = inside(blocks, moov, b"mvex")
    for box in boxes(blocks, mvex) if mvex else ():
        if box.kind == b"trex" and number(blocks, box.body.start + 4) == track:
            return number(blocks, box.body.start + 12)
    raise InconsistentError


def _duration(blocks: Blocks, tfhd: Range, usual: int) -> int:
    flags = number(blocks, tfhd.start + 1, 3)
    if not flags & _TFHD_DURATION:
        return usual
    return number(blocks, tfhd.start + 8 + 8 * bool(flags & _TFHD_BASE) + 4 * bool(flags & _TFHD_DESCRIPTION))


def _runs(blocks: Blocks, traf: Range, usual: int) -> Timed:
    timed = Timed()
    for trun in boxes(blocks, traf):
        if trun.kind == b"trun":
            flags, count = number(blocks, trun.body.start + 1, 3), number(blocks, trun.body.start + 4)
            start = 8 + 4 * bool(flags & _TRUN_OFFSET) + 4 * bool(flags & _TRUN_FIRST_FLAGS)
            width = sum(bool(flags & field) for field in _TRUN_FIELDS)
            fields = table(blocks, trun.body, start, count * width)
            ticks = sum(fields[::width]) if flags & _TRUN_DURATION else count * usual
            timed = timed.plus(Timed(count, ticks))
    return timed
