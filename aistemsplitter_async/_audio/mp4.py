"""MP4 and M4A: the samples of the audio tracks, as their tables find them, and their decoder settings."""

from __future__ import annotations

import collections
import operator
from collections.abc import Iterator

import attrs

from aistemsplitter_async._audio.blocks import Blocks, Range
from aistemsplitter_async._audio.description import UNKNOWN_LENGTH, Format, InconsistentError, Length, Part
from aistemsplitter_async._audio.mp4_boxes import boxes, chunks, inside, number, sample_count, table
from aistemsplitter_async._audio.mp4_codecs import packets_of
from aistemsplitter_async._audio.mp4_fragments import runs

_FIRST_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"})
_TRACKS = 100
_FRAGMENTED_TRACKS = 8  # with sound; for each, all fragments are walked
_EDITS = 10_000
_SLACK_SECONDS = 0.3  # an encoder puts up to 0.25 s of its own around the sound, and edit lists leave it out
_UNKNOWN = {4: (1 << 32) - 1, 8: (1 << 64) - 1}  # a duration that was not known, by width


@attrs.frozen
class _Clock:
    """A `mvhd` or `mdhd` box: units in a second, and a duration in seconds, `None` if it is not given."""

    scale: int
    seconds: float | None


@attrs.frozen
class _Movie:
    """The `moov` box of a file, and in it the contents of the audio tracks."""

    moov: Range
    clock: _Clock
    tracks: tuple[Range, ...]
    fragmented: bool


def _recognise(blocks: Blocks) -> str | None:
    return "mp4" if blocks.read(4, 4) in _FIRST_BOXES else None


def _movie(blocks: Blocks) -> _Movie:
    """Find the audio tracks. Raises `InconsistentError` if there are none, or more than one film."""
    moov = inside(blocks, Range(0, blocks.size), b"moov")
    mvhd = None if moov is None else inside(blocks, moov, b"mvhd")
    if moov is None or mvhd is None:
        raise InconsistentError
    found = list(boxes(blocks, moov))
    tracks = [box.body for box in found if box.kind == b"trak"]
    sounding = tuple(track for track in tracks[:_TRACKS] if _is_audio(blocks, track))
    fragmented = any(box.kind == b"mvex" for box in found)
    if not sounding or len(tracks) > _TRACKS or (fragmented and len(sounding) > _FRAGMENTED_TRACKS):
        raise InconsistentError
    return _Movie(moov, _clock(blocks, mvhd), sounding, fragmented)


def _is_audio(blocks: Blocks, track: Range) -> bool:
    handler = inside(blocks, track, b"mdia", b"hdlr")
    return handler is not None and blocks.read(handler.start + 8, 4) == b"soun"


def _clock(blocks: Blocks, header: Range) -> _Clock:
    width = 8 if number(blocks, header.start, 1) == 1 else 4
    scale = number(blocks, header.start + 4 + 2 * width)
    duration = number(blocks, header.start + 8 + 2 * width, width)
    if not scale:
        raise InconsistentError
    return _Clock(scale, None if duration in {0, _UNKNOWN[width]} else duration / scale)


def _box(blocks: Blocks, track: Range, *path: bytes) -> Range:
    found = inside(blocks, track, *path)
    if found is None:
        raise InconsistentError
    return found


def _parts(blocks: Blocks) -> Iterator[Part]:
    movie, total = _movie(blocks), 0
    for track in movie.tracks:
        stbl = _box(blocks, track, b"mdia", b"minf", b"stbl")
        description = _box(blocks, stbl, b"stsd")
        if packets_of(blocks, description) is None:  # samples of others may be larger than the table says
            raise InconsistentError
        scales = movie.clock.scale, _clock(blocks, _box(blocks, track, b"mdia", b"mdhd")).scale
        edits = inside(blocks, track, b"edts", b"elst")
        yield (b"%d %d" % scales,)
        yield (description,)
        yield (_box(blocks, stbl, b"stts"),)
        yield (_box(blocks, stbl, b"stsz"),)
        yield () if edits is None else (edits,)
        yield chunks(blocks, stbl)
        for run in runs(blocks, movie.moov, _box(blocks, track, b"tkhd")) if movie.fragmented else ():
            total += run.data.length
            if not _is_in_file(blocks, run.data) or total > blocks.size:  # the same bytes are not read again and again
                raise InconsistentError
            yield (repr((run.count, run.durations, run.sizes)).encode(),)
            yield (run.data,)


def _length(blocks: Blocks) -> Length:
    try:
        movie = _movie(blocks)
        lengths = [_track_length(blocks, movie, track) for track in movie.tracks]
    except InconsistentError:
        return UNKNOWN_LENGTH
    bounds = [length.at_most for length in lengths if length.at_most is not None]
    if len(bounds) < len(lengths):
        return UNKNOWN_LENGTH
    seconds, at_most = lengths[0].seconds, max(bounds)
    if movie.clock.seconds is not None:  # that of the longest track, a video for instance
        at_most = max(at_most, movie.clock.seconds)
    if seconds is None or len(lengths) > 1 or at_most - seconds > _SLACK_SECONDS:
        return Length(None, at_most)
    return Length(seconds, at_most)


def _track_length(blocks: Blocks, movie: _Movie, track: Range) -> Length:
    """Compare what the clocks of a track say with what its packets decode to."""
    header = _clock(blocks, _box(blocks, track, b"mdia", b"mdhd"))
    stbl = _box(blocks, track, b"mdia", b"minf", b"stbl")
    packets = packets_of(blocks, _box(blocks, stbl, b"stsd"))
    if packets is None:
        return UNKNOWN_LENGTH
    count, ticks = _timed(blocks, stbl)
    agreed = packets.exact and count == sample_count(blocks, stbl) and _are_there(blocks, stbl)
    if movie.fragmented:
        for run in runs(blocks, movie.moov, _box(blocks, track, b"tkhd")):
            count, ticks = count + run.count, ticks + run.ticks
            agreed = agreed and _is_in_file(blocks, run.data)
    ticking, decoded = ticks / header.scale, count * packets.seconds
    declared = ticking if header.seconds is None or movie.fragmented else header.seconds
    edited = _edited_seconds(blocks, track, movie.clock.scale) or ticking
    # Packets are whole, so what they decode to may go up to one further than the clocks.
    agreed = agreed and abs(decoded - ticking) <= packets.seconds and abs(declared - ticking) <= packets.seconds
    at_most = max(decoded, ticking, declared, edited)
    return Length(min(edited, ticking) if agreed else None, at_most)


def _timed(blocks: Blocks, stbl: Range) -> tuple[int, int]:
    """Return how many samples take how many units of the track's clock."""
    stts = _box(blocks, stbl, b"stts")
    alike = table(blocks, stts, 8, 2 * number(blocks, stts.start + 4))
    return sum(alike[0::2]), sum(map(operator.mul, alike[0::2], alike[1::2]))


def _are_there(blocks: Blocks, stbl: Range) -> bool:
    """Return whether the samples are in the file."""
    try:
        collections.deque(chunks(blocks, stbl), maxlen=0)
    except InconsistentError:
        return False
    return True


def _is_in_file(blocks: Blocks, part: Range) -> bool:
    return 0 <= part.start <= part.stop <= blocks.size


def _edited_seconds(blocks: Blocks, track: Range, scale: int) -> float:
    """Return how long the edit list is, 0 without one."""
    elst = inside(blocks, track, b"edts", b"elst")
    if elst is None:
        return 0.0
    width = 8 if number(blocks, elst.start, 1) == 1 else 4
    size, count = 2 * width + 4, number(blocks, elst.start + 4)
    if count > _EDITS:
        raise InconsistentError
    return sum(number(blocks, elst.start + 8 + size * place, width) for place in range(count)) / scale


FORMATS = (Format(_recognise, _parts, _length, glance=_length),)  # its length is cheap
