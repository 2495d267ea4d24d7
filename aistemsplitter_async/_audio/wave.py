"""WAV: RIFF, and RF64 and BW64 for more than 4 GiB."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import attrs

from aistemsplitter_async._audio.blocks import Blocks, Range
from aistemsplitter_async._audio.chunks import Chunk, Chunks, walk
from aistemsplitter_async._audio.description import UNKNOWN_LENGTH, Format, InconsistentError, Length, Part

_MAGICS = (b"RIFF", b"RF64", b"BW64")
_FIRST_CHUNK = 12  # after the magic, a size that many writers get wrong, and WAVE
_FMT_CAP_BYTES = 65_536
_DS64_BYTES = 28
_UNKNOWN_SIZES = range(0x7FFF0000, 1 << 32)  # writers to a pipe mean "unknown": 0x7FFFF000, 0x7FFFFFFF or all ones
_PCM, _MS_ADPCM, _FLOAT, _ALAW, _ULAW, _IMA_ADPCM, _GSM, _MP3, _EXTENSIBLE = 1, 2, 3, 6, 7, 0x11, 0x31, 0x55, 0xFFFE
_RAW = frozenset({_PCM, _FLOAT, _ALAW, _ULAW})
_FEWEST_MP3_BYTES = 1000.0  # per second: MP3 has no rate below 8 kbit/s
_SUBFORMAT = bytes.fromhex("000000001000800000aa00389b71")  # what follows the tag in a GUID that stands for one


@attrs.frozen
class _Layout:
    """Where the parts of a WAV file are. `sound` takes the rest of the file if its size is not given."""

    chunks: Chunks
    fmt: Chunk
    sound: Chunk
    large: int | None  # the size of the samples that RF64 and BW64 state by themselves

    @property
    def consistent(self) -> bool:
        """Whether there is one of each, and the chunks fill the file."""
        once = all(len(self.chunks.named(name)) == 1 for name in (b"fmt ", b"data"))
        joined = any(self.chunks.named(name) for name in (*_MAGICS, b"FORM"))
        return self.chunks.tidy and once and not joined and self.fmt.body.start < self.sound.body.start


@attrs.frozen
class _Encoding:
    """A `fmt ` chunk."""

    tag: int
    channels: int
    rate: int
    byte_rate: int
    block: int
    bits: int
    block_samples: int


def _recognise(blocks: Blocks) -> str | None:
    start = blocks.read(0, _FIRST_CHUNK)
    return "wav" if start[:4] in _MAGICS and start[8:] == b"WAVE" else None


def _layout(blocks: Blocks) -> _Layout | None:
    sizes = {}
    if blocks.read(0, 4) != b"RIFF":
        ds64 = blocks.read(_FIRST_CHUNK, 8 + _DS64_BYTES)
        if ds64[:4] == b"ds64" and len(ds64) == 8 + _DS64_BYTES:
            sizes[b"data"] = int.from_bytes(ds64[16:24], "little")
    chunks = walk(blocks, _FIRST_CHUNK, "little", sizes, endless=b"data")
    fmt, sound = chunks.named(b"fmt "), chunks.named(b"data")
    return _Layout(chunks, fmt[0], sound[0], sizes.get(b"data")) if fmt and sound else None


def _parts(blocks: Blocks) -> Iterator[Part]:
    layout = _layout(blocks)
    if layout is None or not layout.consistent or layout.fmt.body.length > _FMT_CAP_BYTES:
        raise InconsistentError
    yield (layout.fmt.body,)
    encoding = _encoding(blocks, layout.fmt.body)
    if encoding is None or encoding.tag not in _RAW:  # how many samples of the last block count
        yield tuple(fact.body for fact in layout.chunks.named(b"fact"))
    yield (layout.sound.body,)


def _length(blocks: Blocks) -> Length:
    layout = _layout(blocks)
    encoding = _encoding(blocks, layout.fmt.body) if layout else None
    if layout is None or encoding is None or not encoding.rate or not encoding.channels:
        return UNKNOWN_LENGTH
    sound = layout.sound
    # If the two sizes of a large file differ, decoders disagree about which one counts.
    agreed = layout.consistent and sound.claimed == sound.body.length and layout.large in {None, sound.claimed}
    most = sound.body.length if agreed else blocks.size - sound.body.start
    if sound.claimed not in _UNKNOWN_SIZES:
        most = max(most, sound.claimed)
    if encoding.tag in _RAW:
        return _raw_length(encoding, most, agreed=agreed)
    if encoding.tag == _MP3:
        return Length(None, most / _FEWEST_MP3_BYTES)
    fact = b"".join(blocks.read(chunk.body.start, 4) for chunk in layout.chunks.named(b"fact")[:1])
    samples = int.from_bytes(fact, "little") if len(fact) == 4 else 0  # noqa: PLR2004
    return _block_length(encoding, most, samples, agreed=agreed)


def _raw_length(encoding: _Encoding, size: int, *, agreed: bool) -> Length:
    """Every sample has the same size. Three fields say how many bytes a second takes; the least gives the bound."""
    width = 1 if encoding.tag in {_ALAW, _ULAW} else (encoding.bits + 7) // 8
    byte_rates = {encoding.rate * encoding.block, encoding.rate * encoding.channels * width, encoding.byte_rate}
    fewest = min((each for each in byte_rates if each), default=0)
    if not fewest:
        return UNKNOWN_LENGTH
    seconds = size // encoding.block / encoding.rate if agreed and byte_rates == {fewest} else None
    return Length(seconds, size / fewest)


def _block_length(encoding: _Encoding, size: int, samples: int, *, agreed: bool) -> Length:
    """Blocks of a fixed size that hold a fixed number of samples; `samples` is what the `fact` chunk says."""
    payload = encoding.block // encoding.channels
    fitting = {_IMA_ADPCM: 2 * (payload - 4) + 1, _MS_ADPCM: 2 * (payload - 7) + 2, _GSM: 320}.get(encoding.tag, 0)
    if fitting <= 0 or not encoding.block:
        return UNKNOWN_LENGTH
    most = -(-size // encoding.block) * max(fitting, encoding.block_samples)
    fits = encoding.block_samples in {0, fitting} and most - fitting < samples <= most
    seconds = samples / encoding.rate if agreed and fits else None
    return Length(seconds, max(most, samples) / encoding.rate)


def _encoding(blocks: Blocks, body: Range) -> _Encoding | None:
    fmt = blocks.read(body.start, min(body.length, 40))
    if len(fmt) < 16:  # noqa: PLR2004
        return None
    tag, channels, rate, byte_rate, block, bits = struct.unpack_from("<HHIIHH", fmt)
    block_samples = int.from_bytes(fmt[18:20], "little") if tag in {_MS_ADPCM, _IMA_ADPCM, _GSM} else 0
    if tag == _EXTENSIBLE:
        if fmt[26:] != _SUBFORMAT:
            return None
        tag = int.from_bytes(fmt[24:26], "little")
    return _Encoding(tag, channels, rate, byte_rate, block, bits, block_samples)


FORMATS = (Format(_recognise, _parts, _length, glance=_length),)  # its length is cheap
