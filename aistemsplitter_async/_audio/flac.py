"""FLAC: STREAMINFO and the frames. The frames' numbers and sizes say what STREAMINFO must agree with."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterator

import attrs

from aistemsplitter_async._audio.blocks import BLOCK_BYTES, Blocks, Range
from aistemsplitter_async._audio.description import UNKNOWN_LENGTH, Format, InconsistentError, Length, Part
from aistemsplitter_async._audio.tags import without_tags

STREAMINFO_BYTES = 34
HEADER_BYTES = 16  # the longest of a frame
_METADATA_BLOCKS = 10_000  # real files have about five; the walk must end
_STREAMINFO, _INVALID = 0, 127
_FALSE_SYNCS = 100_000  # chance makes one in ten million bytes; looking at each takes time
_LOOKALIKES = 1  # frames that chance makes: one in about a hundred files
_SLACK_BYTES = 64  # a frame has that much more than its samples, at most
_PROBES = 4  # places between the ends that a glance looks at
_PROBE_CAP_BYTES = 65_536  # at each; the largest frame of CD quality has 18 KiB, of 24 bits 25 KiB
_FIXED_RATES = (0, 88200, 176400, 192000, 8000, 16000, 22050, 24000, 32000, 44100, 48000, 96000)  # by code
_SPELLED_RATES = {12: (1, 1000), 13: (2, 1), 14: (2, 10)}  # bytes that follow, and their unit, by code
_WIDTHS = (0, 8, 12, -1, 16, 20, 24, 32)  # bits of a sample, by code
_ANY_FRAME = re.compile(rb"\xff[\xf8\xf9][\x10-\xff].", re.DOTALL)


def _crc8_table() -> bytes:
    table = []
    for value in range(256):
        crc = value
        for _ in range(8):
            crc = (crc << 1 ^ (7 if crc & 0x80 else 0)) & 0xFF
        table.append(crc)
    return bytes(table)


_CRC8 = _crc8_table()


@attrs.frozen
class StreamInfo:
    """What STREAMINFO says; `samples` is 0 where the encoder did not know. No frame has more than `most_samples`."""

    rate: int
    channels: int
    bits: int
    samples: int
    most_samples: int

    def most_bytes(self, samples: int) -> int:
        """Return the size of the largest frame of so many samples."""
        return samples * self.channels * (self.bits + 1) // 8 + _SLACK_BYTES


@attrs.frozen
class FrameHeader:
    """The beginning of a frame. `number` counts samples if `variable`, else frames; `rate` is 0 for STREAMINFO's."""

    variable: bool
    number: int
    samples: int
    rate: int


def stream_info(data: bytes) -> StreamInfo:
    """Decode the 34 bytes of STREAMINFO."""
    bits = int.from_bytes(data[10:18], "big")
    most = int.from_bytes(data[2:4], "big")
    return StreamInfo(bits >> 44, (bits >> 41 & 7) + 1, (bits >> 36 & 31) + 1, bits & (1 << 36) - 1, most)


def frame_header(data: bytes) -> FrameHeader | None:
    """Decode the beginning of a frame, `None` if it is none: its checksum is wrong, or it is cut off."""
    if len(data) < 6 or data[0] != 0xFF or data[1] & 0xFE != 0xF8 or data[3] & 1:  # noqa: PLR2004
        return None
    size_code, rate_code = data[2] >> 4, data[2] & 15
    digits = 8 - (data[4] ^ 0xFF).bit_length()  # leading ones: how long the number is, written as in UTF-8
    length = digits or 1
    if digits in {1, 8} or size_code == 0 or rate_code == 15:  # noqa: PLR2004
        return None
    number = data[4] & (0x7F >> digits)
    for byte in data[5 : 4 + length]:
        if byte & 0xC0 != 0x80:  # noqa: PLR2004
            return None
        number = number << 6 | byte & 0x3F
    end = 4 + length
    if size_code in {6, 7}:
        samples = int.from_bytes(data[end : end + size_code - 5], "big") + 1
        end += size_code - 5
    else:
        samples = 192 if size_code == 1 else 576 << size_code - 2 if size_code < 6 else 256 << size_code - 8  # noqa: PLR2004
    more, unit = _SPELLED_RATES.get(rate_code, (0, 0))
    rate = int.from_bytes(data[end : end + more], "big") * unit if more else _FIXED_RATES[rate_code]
    end += more
    crc = 0
    for byte in data[: end + 1]:  # over its own checksum, it is zero
        crc = _CRC8[crc ^ byte]
    return FrameHeader(bool(data[1] & 1), number, samples, rate) if crc == 0 and len(data) > end else None


@attrs.define
class _Count:
    """Frames, and those that are not the next one: chance made them look like frames, or frames are missing."""

    info: StreamInfo
    frames: int = 0
    samples: int = 0
    lookalikes: int = 0
    lookalike_samples: int = 0
    by_rate: collections.Counter[int] = attrs.field(factory=collections.Counter)  # samples of all
    gaps: bool = False  # there is more between the frames than belongs to them

    def add(self, frame: FrameHeader) -> None:
        """Count a frame."""
        self.by_rate[frame.rate or self.info.rate] += frame.samples
        if frame.number == (self.samples if frame.variable else self.frames):
            self.frames += 1
            self.samples += frame.samples
        else:
            self.lookalikes += 1
            self.lookalike_samples += frame.samples

    @property
    def at_most(self) -> float:
        """What STREAMINFO says, or what the frames say at either rate."""
        samples = max(self.info.samples, self.samples + self.lookalike_samples)
        return max(samples / self.info.rate, sum(count / rate for rate, count in self.by_rate.items()))


@attrs.frozen
class _Layout:
    streaminfo: Range
    frames: Range


def _recognise(blocks: Blocks) -> str | None:
    return "flac" if blocks.read(without_tags(blocks).start, 4) == b"fLaC" else None


def _layout(blocks: Blocks) -> _Layout | None:
    """Find STREAMINFO and the frames, or `None` if the metadata is not as it must be."""
    sound = without_tags(blocks)
    position, streaminfo = sound.start + 4, None
    for number in range(_METADATA_BLOCKS):
        header = blocks.read(position, 4)
        kind, size = header[:1], int.from_bytes(header[1:], "big")
        position += 4 + size
        if len(header) < 4 or position > sound.stop or kind[0] & 0x7F == _INVALID:  # noqa: PLR2004
            return None
        if (kind[0] & 0x7F == _STREAMINFO) != (number == 0) or (number == 0 and size != STREAMINFO_BYTES):
            return None
        streaminfo = streaminfo or Range(position - size, position)
        if kind[0] & 0x80:
            return _Layout(streaminfo, Range(position, sound.stop))
    return None


def _parts(blocks: Blocks) -> Iterator[Part]:
    layout = _layout(blocks)
    if layout is None or frame_header(blocks.read(layout.frames.start, HEADER_BYTES)) is None:
        raise InconsistentError
    yield (layout.streaminfo,)
    yield (layout.frames,)


def _length(blocks: Blocks) -> Length:
    layout = _layout(blocks)
    if layout is None:
        return UNKNOWN_LENGTH
    info = stream_info(blocks.read(layout.streaminfo.start, STREAMINFO_BYTES))
    if not info.rate:
        return UNKNOWN_LENGTH
    count = _count(blocks, layout.frames, info, _pattern(info))
    if count is not None and count.gaps:  # something else is there, FLAC of another kind perhaps
        count = _count(blocks, layout.frames, info, _ANY_FRAME)
        return Length(None, count.at_most if count else None)
    if count is None:
        return UNKNOWN_LENGTH
    agreed = info.samples in {0, count.samples} and count.lookalikes <= _LOOKALIKES
    return Length(count.samples / info.rate if agreed else None, count.at_most)


def _glance(blocks: Blocks) -> Length | None:
    """Return what STREAMINFO says, `None` unless the last frame ends there, and those before it come ever nearer.

    Where both hold, it is not seen that frames in between are missing, nor that another stream of exactly as many
    samples is in front, in less than a fifth of the bytes.
    """
    layout = _layout(blocks)
    info = None if layout is None else stream_info(blocks.read(layout.streaminfo.start, STREAMINFO_BYTES))
    if layout is None or info is None or not info.rate or not info.samples:
        return None
    sound, pattern, size = layout.frames, _pattern(info), info.most_bytes(info.most_samples)
    size = min(size, _PROBE_CAP_BYTES)
    last = Range(max(sound.start, sound.stop - size), sound.stop)
    ends: list[int] = []
    for place in (sound.start, *sound.places(_PROBES)):
        frame = next(_frames(blocks, Range(place, min(place + size, sound.stop)), pattern), None)
        if frame is None or (place == sound.start and (frame[0] != place or frame[1].number)):
            return None
        ends.append(_end(frame[1], info))
    tail = list(_frames(blocks, last, pattern))
    if not tail or ends != sorted(set(ends)) or ends[-1] > info.samples:
        return None
    position, frame_of_end = tail[-1]
    whole = sound.stop - position <= info.most_bytes(frame_of_end.samples)
    if not whole or _end(frame_of_end, info) != info.samples:
        return None
    return Length(info.samples / info.rate, info.samples / info.rate)


def _frames(blocks: Blocks, part: Range, pattern: re.Pattern[bytes]) -> Iterator[tuple[int, FrameHeader]]:
    """Yield what looks like the beginning of a frame, and where it is."""
    for start in _syncs(blocks, part, pattern):
        frame = frame_header(blocks.read(start, HEADER_BYTES))
        if frame is not None:
            yield start, frame


def _end(frame: FrameHeader, info: StreamInfo) -> int:
    """Return how many samples there are up to the end of a frame."""
    return (frame.number if frame.variable else frame.number * info.most_samples) + frame.samples


def _count(blocks: Blocks, part: Range, info: StreamInfo, pattern: re.Pattern[bytes]) -> _Count | None:
    """Count the frames that begin with `pattern`; `None` if there is too much that only looks like them."""
    count, false_syncs = _Count(info), 0
    position, room = part.start, 0  # the next frame begins here, or up to `room` bytes later
    for start in _syncs(blocks, part, pattern):
        frame = frame_header(blocks.read(start, HEADER_BYTES))
        if frame is not None:
            count.gaps |= start > position + room
            count.add(frame)
            position, room = start, info.most_bytes(frame.samples)
        elif false_syncs == _FALSE_SYNCS:
            return None
        else:
            false_syncs += 1
    count.gaps |= part.stop > position + room
    return count


def _pattern(info: StreamInfo) -> re.Pattern[bytes]:
    """Return what the first four bytes of a frame look like in this file; chance makes few that fit."""
    rates = {0, 12, 13, 14, *(code for code, rate in enumerate(_FIXED_RATES) if rate == info.rate)}
    channels = {info.channels - 1} | ({8, 9, 10} if info.channels == 2 else set())  # noqa: PLR2004
    widths = {0, *(code for code, width in enumerate(_WIDTHS) if width == info.bits)}
    third = bytes(size << 4 | rate for size in range(1, 16) for rate in sorted(rates))
    fourth = bytes(channel << 4 | width << 1 for channel in sorted(channels) for width in sorted(widths))
    return re.compile(rb"\xff[\xf8\xf9][" + re.escape(third) + rb"][" + re.escape(fourth) + rb"]", re.DOTALL)


def _syncs(blocks: Blocks, part: Range, pattern: re.Pattern[bytes]) -> Iterator[int]:
    """Yield where in `part` the pattern, of four bytes, is."""
    position = part.start
    while position < part.stop:
        size = BLOCK_BYTES - position % BLOCK_BYTES
        block = blocks.read(position, min(size + 3, part.stop - position))
        yield from (position + found.start() for found in pattern.finditer(block))
        position += size


FORMATS = (Format(_recognise, _parts, _length, _glance),)
