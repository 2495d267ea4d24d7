"""Streams of frames that begin with a sync word: MP3, MP2 and MP1, and AAC in ADTS.

What is between the tags is hashed as it is, except for a frame of Xing or LAME at the beginning. The length is what the
frames add up to; the file is walked from one to the next.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator

import attrs

from aistemsplitter_async._audio.blocks import Blocks, Range
from aistemsplitter_async._audio.description import UNKNOWN_LENGTH, Format, InconsistentError, Length, Part
from aistemsplitter_async._audio.tags import tag_at, without_tags

_HEADER_BYTES = 7  # of ADTS; MPEG audio has four
_LEAD_BYTES = 65_536  # of junk, before the first frame
_CHAIN = 4  # frames in a row that chance does not make
_JUNK_RATE = 1000.0  # bytes per second: a decoder finds no more audio in junk than at 8 kbit/s, the lowest rate of MP3
_HALTS = 100_000  # what has more of them is not made of frames, and looking at each takes time
_FRAMES_AMISS = 1  # encoders do or do not count the frame that holds the count
_PROBES = 4  # places between the ends that a glance looks at
_PROBE_BYTES = 8192  # at each: five of the largest frames of MP3
_STEP_BYTES = 4  # by which padding moves a frame
_UNEVEN = 1.5  # what the mean size of a frame may differ from that of a few dozen
_SYNC_OR_TAG = re.compile(rb"\xff[\xe2-\xe7\xf0-\xff]|ID3[\x02-\x04]|APETAGEX", re.DOTALL)
_COUNTS = re.compile(rb"Xing|Info|VBRI")
_LAYERS = {3: "mp1", 2: "mp2", 1: "mp3"}
_BITRATES = {  # kbit/s, by whether it is MPEG 1, and layer
    (True, "mp1"): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, "mp2"): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, "mp3"): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, "mp1"): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, "mp2"): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, "mp3"): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # by version bits
_AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
_MONO = 3
_INFO_BYTES = 512


@attrs.frozen
class _Frame:
    """A frame as its header describes it. Those of one stream have one `kind`."""

    kind: tuple[str, int, int]
    size: int
    samples: int
    rate: int
    mean_size: float = 0.0  # of the frames of this bitrate, of which some are padded; 0 where each has its own size


@attrs.frozen
class _Info:
    """What a frame of Xing, LAME or Fraunhofer says: how many frames and bytes there are, and samples to cut off.

    `silent` if it holds nothing to hear, for decoders that take it for an ordinary one. `quality` is Xing's, 1 to 100;
    0 is unknown.
    """

    frames: int
    size: int
    cut: int
    silent: bool
    quality: int = 0


@attrs.define
class _Count:
    """What a walk over the frames found."""

    frames: int = 0
    samples: int = 0
    slowest: int = 0  # the lowest sampling rate
    kinds: int = 0
    junk: int = 0
    halts: int = 0  # places where no frame follows
    infos: int = 0  # frames that say how many there are: of each of the files that were joined


@attrs.frozen
class _Stream:
    """Where the first frame is between the tags, and what it says if it is one that counts the others."""

    sound: Range
    start: int
    first: _Frame
    info: _Info | None


def find_stream(blocks: Blocks) -> _Stream | None:
    """Return where the frames are, `None` if this is no stream of frames."""
    sound = without_tags(blocks)
    start = _first(blocks, sound)
    first = None if start is None else _frame_at(blocks, start)
    if start is None or first is None:
        return None
    return _Stream(sound, start, first, _info(blocks.read(start, min(first.size, _INFO_BYTES)), first))


def _recognise(blocks: Blocks) -> str | None:
    stream = find_stream(blocks)
    return stream.first.kind[0] if stream else None


def _parts(blocks: Blocks) -> Iterator[Part]:
    """Of a silent frame that counts the others, only what a decoder acts on: remuxers rewrite the rest."""
    stream = find_stream(blocks)
    if stream is None:
        raise InconsistentError
    yield (Range(stream.sound.start, stream.start),)
    if stream.info and stream.info.silent:
        yield (b"%d %d" % (stream.info.frames, stream.info.cut),)
        yield (Range(stream.start + stream.first.size, stream.sound.stop),)
    else:
        yield (Range(stream.start, stream.sound.stop),)


def _length(blocks: Blocks) -> Length:
    stream = find_stream(blocks)
    if stream is None:
        return UNKNOWN_LENGTH
    sound, start, first, info = stream.sound, stream.start, stream.first, stream.info
    count = _walk(blocks, Range(start, sound.stop))
    frames = count.frames - (info is not None)
    claimed = info.frames if info and info.frames else frames  # an encoder that could not seek back left it out
    seconds = (frames * first.samples - (info.cut if info else 0)) / first.rate
    junk = count.junk + (start - sound.start if _has_content(blocks, Range(sound.start, start)) else 0)
    at_most = max(count.samples, claimed * first.samples) / count.slowest + junk / _JUNK_RATE
    alone = count.kinds == 1 and count.infos == (info is not None)  # what else was joined, some decoders do not play
    agreed = abs(claimed - frames) <= _FRAMES_AMISS and alone and not junk and seconds >= 0
    return Length(seconds if agreed else None, at_most)


def _glance(blocks: Blocks) -> Length | None:
    """Return the length by the frames at the ends and at a few places in between, `None` if they are not alike.

    With a constant bitrate, frames are where arithmetic puts them, and a header must count as many: bytes that are no
    frames are only taken for some if exactly as many fit. With a variable bitrate, the header must count the bytes that
    are there, and frames of about the size that is there: a count that is less than 1.5 times off is believed.
    """
    stream = find_stream(blocks)
    if stream is None or not stream.first.mean_size or stream.start != stream.sound.start:
        return None
    first, info = stream.first, stream.info
    body = Range(stream.start + (first.size if info else 0), stream.sound.stop)
    found = probe(blocks, body)
    if found is None or any(frame.kind != first.kind for _, frame in found):
        return None
    frames = _constant(body, found) or _counted(stream, body, found)
    claimed = info.frames if info and info.frames else frames
    if frames is None or claimed is None or abs(claimed - frames) > _FRAMES_AMISS:
        return None
    seconds = (frames * first.samples - (info.cut if info else 0)) / first.rate
    at_most = max(frames + (info is not None), claimed) * first.samples / first.rate
    return Length(seconds, at_most) if seconds >= 0 else None


def probe(blocks: Blocks, body: Range) -> list[tuple[int, _Frame]] | None:
    """Return frames and where they are: at the beginning, in between, and up to the end; `None` where none are."""
    found, position = list[tuple[int, _Frame]](), None
    for place in (body.start, *body.places(_PROBES), max(body.start, body.stop - _PROBE_BYTES)):
        part = Range(place, min(place + _PROBE_BYTES, body.stop))
        position = _first(blocks, part)
        if position is None or (place == body.start and position != place):
            return None
        while position < part.stop:
            frame = _frame_at(blocks, position)
            if frame is None:
                return None
            found.append((position, frame))
            position += frame.size
    return found if position == body.stop else None


def _constant(body: Range, found: list[tuple[int, _Frame]]) -> int | None:
    """Return how many frames there are if all have one bitrate, and are padded to it or not at all."""
    sizes = {frame.mean_size for _, frame in found}
    if len(sizes) > 1:
        return None
    for size in (sizes.pop(), float(min(frame.size for _, frame in found))):
        off = (abs(body.start + round((at - body.start) / size) * size - at) for at, _ in found)
        if max(off) <= _STEP_BYTES and abs(round(body.length / size) * size - body.length) <= _STEP_BYTES:
            return round(body.length / size)
    return None


def _counted(stream: _Stream, body: Range, found: list[tuple[int, _Frame]]) -> int | None:
    """Return how many frames the header counts if the size of the file agrees."""
    info = stream.info
    if info is None or not info.frames or info.size not in {body.length, body.stop - stream.start}:
        return None
    uneven = body.length / info.frames / (sum(frame.size for _, frame in found) / len(found))
    return info.frames if 1 / _UNEVEN < uneven < _UNEVEN else None


def _walk(blocks: Blocks, sound: Range) -> _Count:
    """Count what is in the frames of `sound`, which begins with one; behind junk, look for the next."""
    count = _Count()
    position, kind, in_step = sound.start, None, False
    mark = -1  # where the next frame that counts the others may be
    while position < sound.stop:
        frame = _frame_at(blocks, position)
        if frame is not None and ((in_step and frame.kind == kind) or _is_chain(blocks, position, sound.stop, 2)):
            if frame.kind != kind:
                kind = frame.kind
                count.kinds += 1
                count.slowest = min(count.slowest or frame.rate, frame.rate)
            if mark < position:
                mark = blocks.find(_COUNTS, position, sound.stop)
            if mark < position + min(frame.size, _INFO_BYTES):
                count.infos += _info(blocks.read(position, min(frame.size, _INFO_BYTES)), frame) is not None
            in_step = True
            count.frames += 1
            count.samples += frame.samples
            position += frame.size
        elif count.halts == _HALTS:
            count.junk += sound.stop - position
            break
        else:
            in_step = False
            count.halts += 1
            tag = tag_at(blocks, position, sound.stop)  # of a file that was joined
            following = position + tag if tag else blocks.find(_SYNC_OR_TAG, position + 1, sound.stop)
            count.junk += 0 if tag or not _has_content(blocks, Range(position, following)) else following - position
            position = following
    return count


def _has_content(blocks: Blocks, part: Range) -> bool:
    """Return whether anything in there is not zero."""
    return any(block.strip(b"\0") for block in blocks.stream(part))


def _first(blocks: Blocks, sound: Range) -> int | None:
    """Return where the first frame is, `None` if this is no stream of frames."""
    limit = min(sound.stop, sound.start + _LEAD_BYTES)
    position = sound.start
    while position < limit:
        if _is_chain(blocks, position, sound.stop, _CHAIN):
            return position
        position = blocks.find(_SYNC_OR_TAG, position + 1, limit)
    return None


def _is_chain(blocks: Blocks, position: int, stop: int, frames: int) -> bool:
    """Return whether as many frames of one kind, or all up to the end, follow one another from here."""
    kind = None
    for _ in range(frames):
        if kind is not None and position == stop:
            return True
        frame = _frame_at(blocks, position)
        if frame is None or frame.kind != (kind or frame.kind) or position + frame.size > stop:
            return False
        kind = frame.kind
        position += frame.size
    return True


def _frame_at(blocks: Blocks, position: int) -> _Frame | None:
    header = blocks.read(position, _HEADER_BYTES)
    if len(header) < 4 or header[0] != 0xFF:  # noqa: PLR2004
        return None
    return _adts(header) if header[1] & 0xF6 == 0xF0 else _mpeg(header[1], header[2])  # noqa: PLR2004


@functools.cache
def _mpeg(second: int, third: int) -> _Frame | None:
    """Decode the bytes behind the first one of an MPEG audio header."""
    version, layer = second >> 3 & 3, _LAYERS.get(second >> 1 & 3)
    bitrate, rate, padding = third >> 4, third >> 2 & 3, third >> 1 & 1
    if second & 0xE0 != 0xE0 or version == 1 or layer is None or bitrate in {0, 15} or rate == 3:  # noqa: PLR2004
        return None
    first_version = version == 3  # noqa: PLR2004
    bits = _BITRATES[first_version, layer][bitrate - 1] * 1000
    sampling = _RATES[version][rate]
    kind = (layer, second & 0xFE, sampling)
    if layer == "mp1":
        return _Frame(kind, (12 * bits // sampling + padding) * 4, 384, sampling, 48 * bits / sampling)
    samples = 576 if layer == "mp3" and not first_version else 1152
    return _Frame(kind, samples // 8 * bits // sampling + padding, samples, sampling, samples / 8 * bits / sampling)


def _adts(header: bytes) -> _Frame | None:
    """Decode an ADTS header, which is followed by one to four blocks of 1024 samples."""
    index = header[2] >> 2 & 15
    if len(header) < _HEADER_BYTES or index >= len(_AAC_RATES):
        return None
    size = (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
    if size < _HEADER_BYTES:
        return None
    return _adts_frame(header[1] & 0xFE, header[2] & 0xFD, header[3] & 0xC0, size, header[6] & 3)


def _adts_frame(second: int, third: int, fourth: int, size: int, more_blocks: int) -> _Frame:
    kind = ("aac", second, third << 8 | fourth)
    return _Frame(kind, size, 1024 * (1 + more_blocks), _AAC_RATES[third >> 2 & 15])


def _info(frame: bytes, first: _Frame) -> _Info | None:
    """Decode a first frame that says how many there are, as VBR files have one; `None` if it is an ordinary one."""
    if first.kind[0] != "mp3":
        return None
    mono, first_version = frame[3] >> 6 == _MONO, first.samples == 1152  # noqa: PLR2004
    xing = 4 + ((17 if mono else 32) if first_version else (9 if mono else 17))
    if frame[xing : xing + 4] in {b"Xing", b"Info"}:
        flags = int.from_bytes(frame[xing + 4 : xing + 8], "big")
        frames = int.from_bytes(frame[xing + 8 : xing + 12], "big") if flags & 1 else 0
        sized = xing + 8 + 4 * (flags & 1)
        size = int.from_bytes(frame[sized : sized + 4], "big") if flags & 2 else 0
        lame = sized + 4 * (flags >> 1 & 1) + 100 * (flags >> 2 & 1) + 4 * (flags >> 3 & 1)
        cut = int.from_bytes(frame[lame + 21 : lame + 24], "big") if frame[lame : lame + 3] in {b"LAM", b"Lav"} else 0
        quality = int.from_bytes(frame[lame - 4 : lame], "big") if flags & 8 else 0
        return _Info(frames, size, (cut >> 12) + (cut & 0xFFF), silent=not any(frame[4:xing]), quality=quality)
    if frame[36:40] == b"VBRI":
        size, frames = int.from_bytes(frame[46:50], "big"), int.from_bytes(frame[50:54], "big")
        return _Info(frames, size, 0, silent=not any(frame[4:36]))
    return None


FORMATS = (Format(_recognise, _parts, _length, _glance),)
