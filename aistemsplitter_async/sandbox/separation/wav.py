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
_LARGE_FORMS = (b"RF64", b"BW64")
_SOUNDS = (b"data", b"RIFF", b"FORM", *_LARGE_FORMS)  # what begins other samples, or another file
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
        mends: offsets in the file, and bytes that libsndfile must find there to play what is there.
        empty: whether there is nothing but further chunks behind the header, so that 0 bytes are really none.
        alone: whether nothing but such chunks is behind the samples: no other samples, and no other file.
        sample_rate: in Hz; 0 unless the samples are plain integers or floats.
        channels: their number; 0 like `sample_rate`.
        frame_bytes: bytes of one sample of all channels; 0 like `sample_rate`.
        integers: whether they are integers, all of which are sound; a float may be no number.
    """

    announced: int
    there: int
    mends: tuple[tuple[int, bytes], ...]
    empty: bool
    alone: bool
    integers: bool = False
    sample_rate: int = 0
    channels: int = 0
    frame_bytes: int = 0

    @property
    def length(self) -> int:
        """Bytes of samples that can be played: all that is there, if the header announces none, or more than that."""
        return _playable(self.announced, self.there, empty=self.empty)

    @property
    def is_usable(self) -> bool:
        """Whether its header is right about the samples, and all of them can be separated."""
        right = self.announced == self.length and self.alone and not self.mends
        return right and self.integers and self.channels <= MAX_CHANNELS

    @property
    def seconds(self) -> float | None:
        """The length in seconds; `None` if it takes a decoder to know it, or if it is 0."""
        frames = self.length // self.frame_bytes if self.frame_bytes else 0
        usable = MIN_SAMPLE_RATE <= self.sample_rate <= MAX_SAMPLE_RATE
        return frames / self.sample_rate if frames and usable else None


def find_samples(file: BinaryIO | io.RawIOBase) -> WavSamples | None:
    """Return where the samples are; `None` if this is no WAV, RF64 or BW64 file, or one without samples."""
    file.seek(0)
    form, _, kind = struct.unpack("<4sI4s", _read(file, 12).ljust(12, b"\0"))
    if form not in (b"RIFF", *_LARGE_FORMS) or kind != b"WAVE":
        return None
    fmt = b""
    sizes: tuple[int, int] | None = None  # where the size is that counts in a large file, and that size
    for _ in range(_MOST_CHUNKS):
        header = _read(file, 8)
        if len(header) < 8:  # noqa: PLR2004  # a name and a size
            return None
        name, size = struct.unpack("<4sI", header)
        start = file.tell()
        if name == b"data":
            return _found(file, size, sizes if form in _LARGE_FORMS else None, fmt)
        if name == b"fmt ":
            fmt = _read(file, min(size, 40))
        elif name == b"ds64" and len(large := _read(file, 16)) == 16:  # noqa: PLR2004  # of the file, and of the samples
            sizes = start + 8, struct.unpack("<QQ", large)[1]
        file.seek(start + size + size % 2)
    return None


def _found(file: BinaryIO | io.RawIOBase, size: int, large: tuple[int, int] | None, fmt: bytes) -> WavSamples:
    """Return the samples that begin where `file` is now."""
    start = file.tell()
    end = file.seek(0, io.SEEK_END)
    announced = size if large is None else large[1] or (0 if size == _LARGE else size)
    empty = not announced and _is_followed_by_chunks(file, start, end)
    length = _playable(announced, end - start, empty=empty)
    alone = start + length == end or any(
        _is_followed_by_chunks(file, start + length + pad, end) for pad in (length % 2, 0)
    )
    mends = []
    if large:
        mends.append((0, b"RF64"))  # BW64 is the same under another name, which libsndfile does not know
    if large and (large[1] != length or size != _LARGE):
        mends += [(large[0], length.to_bytes(8, "little")), (start - 4, _LARGE.to_bytes(4, "little"))]
    elif length and not announced:
        mends.append((start - 4, min(length, _LARGE).to_bytes(4, "little")))
    return WavSamples(announced, end - start, tuple(mends), empty, alone, *_parse_format(fmt))


def _playable(announced: int, there: int, *, empty: bool) -> int:
    if not announced:
        return 0 if empty else there
    return min(announced, there)


def _read(file: BinaryIO | io.RawIOBase, count: int) -> bytes:
    return file.read(count) or b""


def _parse_format(fmt: bytes) -> tuple[bool, int, int, int]:
    """Return whether these are integers, sample rate, channels, bytes of a frame; zeros unless integers or floats."""
    if len(fmt) < _FMT.size:
        return False, 0, 0, 0
    tag, channels, rate, _, frame_bytes, depth = _FMT.unpack_from(fmt)
    if tag == _EXTENSIBLE:
        tag = int.from_bytes(fmt[_SUBFORMAT], "little")
    if depth not in _DEPTHS.get(tag, ()) or not channels or frame_bytes != channels * depth // 8:
        return False, 0, 0, 0
    return tag == _PCM, rate, channels, frame_bytes


def _is_followed_by_chunks(file: BinaryIO | io.RawIOBase, at: int, end: int) -> bool:
    """Return whether from `at` to the end there are whole chunks without samples, and nothing else."""
    for _ in range(_MOST_CHUNKS):
        if at == end:
            return True
        file.seek(at)
        header = _read(file, 8)
        name = header[:4]
        if len(header) < 8 or not name.isascii() or not name.decode().isprintable() or name in _SOUNDS:  # noqa: PLR2004
            return False
        at += 8 + (size := int.from_bytes(header[4:], "little"))
        if at > end:
            return False
        at += size % 2 if at < end else 0  # the last one may lack its padding
    return False
