"""AIFF and AIFF-C."""

from __future__ import annotations

import math
from collections.abc import Iterator

import attrs

from aistemsplitter_async._audio.blocks import Blocks
from aistemsplitter_async._audio.chunks import Chunks, walk
from aistemsplitter_async._audio.description import UNKNOWN_LENGTH, Format, InconsistentError, Length, Part

_FIRST_CHUNK = 12
_COMM_BYTES = 18  # without the compression type of AIFF-C
_COMM_CAP_BYTES = 1024
_SSND_HEADER_BYTES = 8  # an offset and a block size, both zero in practice
_WIDTHS = {b"fl32": 4, b"FL32": 4, b"fl64": 8, b"FL64": 8, b"ulaw": 1, b"ULAW": 1, b"alaw": 1, b"ALAW": 1}
_INTEGERS = frozenset({b"NONE", b"twos", b"sowt", b"in16", b"in24", b"in32"})
_EXPONENT_BIAS = 16383
_RATE_EXPONENT = 31  # rates up to 4 GHz; the format has room for far more


@attrs.frozen
class _Encoding:
    """A COMM chunk: `frames` of `frame_bytes` that hold `frame_samples` each, at `rate`."""

    frames: int
    frame_bytes: int
    frame_samples: int
    rate: float


def _recognise(blocks: Blocks) -> str | None:
    start = blocks.read(0, _FIRST_CHUNK)
    return "aiff" if start[:4] == b"FORM" and start[8:] in {b"AIFF", b"AIFC"} else None


def _walk(blocks: Blocks) -> Chunks:
    return walk(blocks, _FIRST_CHUNK, "big", {}, endless=b"SSND")


def _consistent(chunks: Chunks) -> bool:
    once = all(len(chunks.named(name)) == 1 for name in (b"COMM", b"SSND"))
    return chunks.tidy and once and not any(chunks.named(name) for name in (b"FORM", b"RIFF"))


def _parts(blocks: Blocks) -> Iterator[Part]:
    chunks = _walk(blocks)
    if not _consistent(chunks):
        raise InconsistentError
    (comm,), (sound,) = chunks.named(b"COMM"), chunks.named(b"SSND")
    if comm.body.length > _COMM_CAP_BYTES:
        raise InconsistentError
    yield (blocks.read(8, 4),)  # AIFF and AIFF-C read the same COMM differently
    yield (comm.body,)
    yield (sound.body,)


def _length(blocks: Blocks) -> Length:
    chunks = _walk(blocks)
    comms, sounds = chunks.named(b"COMM"), chunks.named(b"SSND")
    if not comms or not sounds:
        return UNKNOWN_LENGTH
    encoding = _encoding(blocks.read(comms[0].body.start, min(comms[0].body.length, _COMM_BYTES + 4)))
    if encoding is None:
        return UNKNOWN_LENGTH
    sound = sounds[0]
    agreed = _consistent(chunks) and sound.claimed == sound.body.length
    end = sound.body.stop if agreed else blocks.size
    there = max(0, end - sound.body.start - _SSND_HEADER_BYTES)
    agreed = agreed and there == encoding.frames * encoding.frame_bytes and not any(blocks.read(sound.body.start, 4))
    frame_seconds = encoding.frame_samples / encoding.rate
    at_most = max(encoding.frames, there / encoding.frame_bytes) * frame_seconds
    return Length(encoding.frames * frame_seconds if agreed else None, at_most)


def _encoding(comm: bytes) -> _Encoding | None:
    if len(comm) < _COMM_BYTES:
        return None
    channels, frames, bits = (int.from_bytes(comm[at:to], "big") for at, to in ((0, 2), (2, 6), (6, 8)))
    exponent = int.from_bytes(comm[8:10], "big") - _EXPONENT_BIAS  # an 80-bit float
    mantissa = int.from_bytes(comm[10:18], "big")
    if not (channels and bits and mantissa and 0 <= exponent <= _RATE_EXPONENT):
        return None
    rate = math.ldexp(mantissa, exponent - 63)
    kind = comm[18:22] or b"NONE"
    if kind == b"ima4":  # counts packets of 64 samples
        return _Encoding(frames, channels * 34, 64, rate)
    width = (bits + 7) // 8 if kind in _INTEGERS else _WIDTHS.get(kind)
    return _Encoding(frames, channels * width, 1, rate) if width else None


FORMATS = (Format(_recognise, _parts, _length, glance=_length),)  # its length is cheap
