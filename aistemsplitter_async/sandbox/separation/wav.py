"""Where the samples of a WAV or RF64 file are, by its own chunks and by what is really there; nothing is decoded.

A recorder writes the sizes last. If it crashed, they are 0, all ones, or larger than the file, and the samples reach to
the file's end. The layout is that of EA IFF 85: a name of four letters, a size, that many bytes and one more if odd.
"""

from __future__ import annotations

import io
import struct
from typing import BinaryIO

import attrs

MAX_CHANNELS = 2  # the left and right that the masks reason about; a downmix would not be the uploaded audio
MIN_SAMPLE_RATE = 4_000  # Hz; below it there is no band left to separate
MAX_SAMPLE_RATE = 192_000  # Hz; more is a broken header, or memory that the separation does not promise

_MOST_CHUNKS = 1_000  # searched for the samples; the limit is for files of empty chunks only
_LARGE = 0xFFFF_FFFF  # in RF64: the size is in the chunk `ds64`
_FMT = struct.Struct("<HHIIHH")
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_DEPTHS = {_PCM: (8, 16, 24, 32), _FLOAT: (32, 64)}  # bits of a sample
_SUBFORMAT = slice(24, 26)  # of an extensible `fmt `: the tag that it stands for


@attrs.frozen
class WavSamples:
    """The samples of a file.

    Attributes:
        announced: bytes, by the header.
        there: bytes from the first sample to the end of the file.
        size_at: where in the file the announced size is written.
        size_bytes: how many bytes that takes.
        empty: whether there is nothing but further chunks behind the header, so that 0 bytes are really none.
        sample_rate: in Hz; 0 unless the samples are plain integers or floats.
        channels: their number; 0 like `sample_rate`.
        frame_bytes: bytes of one sample of all channels; 0 like `sample_rate`.
    """

    announced: int
    there: int
    size_at: int
    size_bytes: int
    empty: bool
    sample_rate: int = 0
    channels: int = 0
    frame_bytes: int = 0

    @property
    def length(self) -> int:
        """Bytes of samples that can be played: all that is there, if the header announces none, or more than that."""
        if not self.announced:
            return 0 if self.empty else self.there
        return min(self.announced, self.there)

    @property
    def is_usable(self) -> bool:
        """Whether its header is right about the samples, and they can be separated."""
        return self.announced == self.length and self.channels <= MAX_CHANNELS

    @property
    def seconds(self) -> float | None:
        """The length in seconds; `None` if it takes a decoder to know it, or if it is 0."""
        frames = self.length // self.frame_bytes if self.frame_bytes else 0
        usable = MIN_SAMPLE_RATE <= self.sample_rate <= MAX_SAMPLE_RATE
        return frames / self.sample_rate if frames and usable else None


def find_samples(file: BinaryIO) -> WavSamples | None:
    """Return where the samples are; `None` if this is no WAV or RF64 file, or one without samples."""
    end = file.seek(0, io.SEEK_END)
    file.seek(0)
    form, _, kind = struct.unpack("<4sI4s", file.read(12).ljust(12, b"\0"))
    if form not in (b"RIFF", b"RF64") or kind != b"WAVE":
        return None
    fmt = b""
    large: tuple[int, int] | None = None
    for _ in range(_MOST_CHUNKS):
        header = file.read(8)
        if len(header) < 8:  # noqa: PLR2004  # a name and a size
            return None
        name, size = struct.unpack("<4sI", header)
        start = file.tell()
        if name == b"data":
            size_at, size_bytes = start - 4, 4
            if form == b"RF64" and size == _LARGE and large is not None:
                size_at, size_bytes, size = large[0], 8, large[1]
            empty = not size and _ends_in_chunks(file, end)
            return WavSamples(size, end - start, size_at, size_bytes, empty, *_parse_format(fmt))
        if name == b"fmt ":
            fmt = file.read(min(size, 40))
        elif name == b"ds64" and len(sizes := file.read(16)) == 16:  # noqa: PLR2004  # of the file, and of the samples
            large = start + 8, struct.unpack("<QQ", sizes)[1]
        file.seek(start + size + size % 2)
    return None


def _parse_format(fmt: bytes) -> tuple[int, int, int]:
    """Return sample rate, channels and bytes of a frame; zeros unless the samples are plain integers or floats."""
    if len(fmt) < _FMT.size:
        return 0, 0, 0
    tag, channels, rate, _, frame_bytes, depth = _FMT.unpack_from(fmt)
    if tag == _EXTENSIBLE:
        tag = int.from_bytes(fmt[_SUBFORMAT], "little")
    if depth not in _DEPTHS.get(tag, ()) or not channels or frame_bytes != channels * depth // 8:
        return 0, 0, 0
    return rate, channels, frame_bytes


def _ends_in_chunks(file: BinaryIO, end: int) -> bool:
    """Return whether from here to the end there are whole chunks and nothing else."""
    at = file.tell()
    for _ in range(_MOST_CHUNKS):
        file.seek(at)
        header = file.read(8)
        if len(header) < 8 or not header[:4].isascii() or not header[:4].decode().isprintable():  # noqa: PLR2004
            return not header
        at += 8 + (size := int.from_bytes(header[4:], "little")) + size % 2
        if at > end:
            return False
    return False
