"""Reads stems block by block and writes their sum. Blocking, in constant memory.

Loaded only where there is something to mix: numpy and soundfile are an extra. Integer samples are summed as integers,
so that a sum that does not clip is exact.
"""

from __future__ import annotations

import io
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import attrs
import numpy as np
import soundfile
from numpy.typing import NDArray

from aistemsplitter_async._audio.examine import glance
from aistemsplitter_async._audio.mpeg_encoding import Encoding, find_encoding
from aistemsplitter_async.config import MIX_BLOCK_FRAMES, MIX_SLACK

Samples = NDArray[Any]  # (frames, channels); int64, left-justified in 32 bits, or float64

FORMATS = frozenset({"WAV", "WAVEX", "RF64", "AIFF", "FLAC", "MP3"})  # that are written as they are read
_DEPTHS = {
    "PCM_S8": 8,
    "PCM_U8": 8,
    "PCM_16": 16,
    "PCM_24": 24,
    "PCM_32": 32,
    "FLOAT": 64,
    "DOUBLE": 65,
}  # by precision
_WORD = 32  # bits of an integer sample here, however many of them the file has
_MP3 = "MPEG_LAYER_III"
_MP3_RATES = {32_000: (32, 320), 16_000: (8, 160), 0: (8, 64)}  # kbit/s, by the least sampling rate; in libsndfile
_MP3_TAG_BYTES = 192  # of the frame that tells decoders what to cut off: a smaller one would be left out
_ENDLESS_BYTES = 2**40
_SETTLED = 0.05  # s by which two readings of a length may differ: a frame of MP3 at 24 kHz
_STEPS = 100  # of a gain, in a decibel, so that what is reported is exact


class UnusableStemError(Exception):
    """A stem that cannot be mixed: `stem` is its name, the message says why."""

    def __init__(self, stem: str, reason: str) -> None:
        super().__init__(reason)
        self.stem = stem


@attrs.frozen
class _Layout:
    """What a sum is written as: what its stems are."""

    rate: int
    channels: int
    format: str
    subtype: str
    endian: str
    encoding: Encoding | None = None  # of MP3

    @property
    def is_integer(self) -> bool:
        return self.subtype.startswith("PCM")

    @property
    def step(self) -> int:
        """The difference between neighbouring integer samples."""
        return 1 << _WORD - _DEPTHS[self.subtype]

    @property
    def limit(self) -> float:
        """The loudest sample that is not clipped: by the file, or by what decodes an MP3."""
        if self.is_integer:
            return float((1 << _WORD - 1) - self.step)
        return 1.0 if self.subtype == _MP3 else math.inf

    def loudness(self, block: Samples) -> float:
        """Return the loudest sample of a block, as a part of `limit`; NaN if one is not a number."""
        lowest = -float(block.min()) - (self.step if self.is_integer else 0)  # integers reach further down than up
        return max(float(block.max()), lowest) / self.limit

    def scale(self, block: Samples, gain: float) -> Samples:
        if not self.is_integer:
            return block * gain
        return np.rint(block * (gain / self.step)).astype(np.int64) * self.step

    def writer_options(self) -> dict[str, Any]:
        """Return the settings of an MP3's encoder: those of the stems."""
        if self.encoding is None:
            return {}
        if self.encoding.bitrate is None:
            return {"bitrate_mode": "VARIABLE", "compression_level": self.encoding.quality / 10}
        low, high = next(rates for least, rates in _MP3_RATES.items() if self.rate >= least)
        samples = 1152 if self.rate >= max(_MP3_RATES) else 576
        least = _MP3_TAG_BYTES * 8 * self.rate / samples / 1000
        bitrate = max(self.encoding.bitrate, math.ceil(least / 16) * 16)  # there are bitrates at these steps
        level = (high - bitrate) / (high - low)
        return {"bitrate_mode": "CONSTANT", "compression_level": min(max(level, 0.0), 0.999)}  # libsndfile refuses 1


def mix(stems: Mapping[str, Path], target: Path, tick: Callable[[int], None]) -> float:
    """Write the sum of `stems` to the file `target`; return the gain that kept it from clipping, in dB: 0 or less.

    It is as long as the longest of them. What is in `target` already is replaced.

    Args:
        stems: the files by stem name; at least one.
        target: an existing file.
        tick: called before every block with the most bytes that it may take on the disk; may raise.

    Raises:
        UnusableStemError: a stem cannot be decoded, or does not fit the others.
        OSError: `target` cannot be written.
    """
    layout = _common_layout(stems)
    loudest = _write(stems, layout, target, tick, gain=None)
    if loudest <= 1:
        return 0.0
    gain_db = math.floor(-20 * math.log10(loudest) * _STEPS) / _STEPS
    _write(stems, layout, target, tick, gain=10 ** (gain_db / 20))
    return gain_db


def _write(
    stems: Mapping[str, Path], layout: _Layout, target: Path, tick: Callable[[int], None], *, gain: float | None
) -> float:
    """Write the sum, and return its loudness. Without a gain, nothing more is written once it clips."""
    loudest, frames = 0.0, 0
    try:
        with soundfile.SoundFile(
            _path(target),
            "w",
            layout.rate,
            layout.channels,
            layout.subtype,
            layout.endian,
            layout.format,
            **layout.writer_options(),
        ) as file:
            file.seekable = lambda: False  # or the wrapper seeks after every write
            for block in _sums(stems, layout):
                tick(block.size * 8)
                frames += len(block)
                if gain is None:
                    loudest = max(loudest, layout.loudness(block))
                if loudest <= 1:
                    scaled = block if gain is None else layout.scale(block, gain)
                    file.write(scaled.astype(np.int32) if layout.is_integer else scaled)
        if loudest <= 1 and soundfile.info(_path(target)).frames != frames:
            raise OSError(f"not all of its {frames} samples were written")
    except soundfile.LibsndfileError as error:
        raise OSError(error.error_string.strip(" .")) from None
    return loudest


def _sums(stems: Mapping[str, Path], layout: _Layout) -> Iterator[Samples]:
    """Yield the blocks of the sum. A stem that ends a little before the others is silent from there on."""
    with ExitStack() as stack:
        readers = [stack.enter_context(_Reader(stem, path)) for stem, path in stems.items()]
        while longest := max(map(len, blocks := [reader.read(layout) for reader in readers])):
            total = np.zeros((longest, layout.channels), np.int64 if layout.is_integer else np.float64)
            for block in blocks:
                total[: len(block)] += block
            yield total
        whole = max(readers, key=lambda reader: reader.done)
        for reader in readers:
            if whole.done - reader.done > MIX_SLACK * layout.rate:
                lengths = (
                    f"{reader.done / layout.rate:.2f} s long, and {whole.stem} is {whole.done / layout.rate:.2f} s"
                )
                raise UnusableStemError(reader.stem, f"is {lengths}")


def _common_layout(stems: Mapping[str, Path]) -> _Layout:
    layouts = {}
    for stem, path in stems.items():
        with _Reader(stem, path) as reader:
            layouts[stem] = reader.layout
    first, layout = next(iter(layouts.items()))
    for stem, other in layouts.items():
        for what, value, expected in (
            ("a sampling rate of {} Hz", other.rate, layout.rate),
            ("{} channels", other.channels, layout.channels),
            ("the format {}", other.format, layout.format),
        ):
            if value != expected:
                raise UnusableStemError(stem, f"has {what.format(value)}, and {first} has {what.format(expected)}")
    encodings = [other.encoding for other in layouts.values() if other.encoding is not None]
    return attrs.evolve(
        layout,
        subtype=max((other.subtype for other in layouts.values()), key=lambda subtype: _DEPTHS.get(subtype, 0)),
        encoding=max(encodings, key=lambda encoding: encoding.rank) if encodings else None,
    )


class _Reader:
    """The samples of a stem, front to back."""

    def __init__(self, stem: str, path: Path) -> None:
        self.stem = stem
        self.done = 0  # frames that were read
        self._path = path
        self._source: _Endless | None = None
        self._left: float = math.inf  # frames
        try:
            self._audio = self._open()
        except (soundfile.LibsndfileError, OSError, TypeError) as error:  # the last of a name that ends in .raw
            self._close_source()
            raise self._unusable(f"cannot be decoded as audio ({_reason(error)})") from None
        self._audio.seekable = lambda: False  # or the wrapper seeks after every read, which damages what MP3 decodes to

    def _open(self) -> Any:
        audio = soundfile.SoundFile(_path(self._path))
        if audio.format != "MP3":
            return audio
        with self._path.open("rb") as file:
            seconds = glance(file).seconds
        if seconds is None or abs(seconds - audio.frames / audio.samplerate) <= _SETTLED:
            return audio
        # Without a header that counts them, libsndfile estimates how many frames there are by the bitrate of the first,
        # and stops there. It reads to the end if the file seems to have none.
        self._left = round(seconds * audio.samplerate)
        audio.close()
        self._source = _Endless(self._path)
        return soundfile.SoundFile(self._source)

    @property
    def layout(self) -> _Layout:
        audio = self._audio
        if audio.format not in FORMATS:
            raise self._unusable(f"has the format {audio.format}, of which no mix is made; WAV and MP3 can be mixed")
        if audio.format == "MP3":
            with self._path.open("rb") as file:
                return _Layout(audio.samplerate, audio.channels, "MP3", _MP3, "FILE", find_encoding(file))
        if audio.subtype not in _DEPTHS:
            raise self._unusable(f"has samples of the kind {audio.subtype}, of which no mix is made")
        return _Layout(audio.samplerate, audio.channels, audio.format, audio.subtype, audio.endian)

    def read(self, layout: _Layout) -> Any:
        """Return the next block, which is shorter than others at the end, and empty behind it."""
        kind, left = ("int32" if layout.is_integer else "float64"), int(min(MIX_BLOCK_FRAMES, self._left))
        try:
            block = self._audio.read(left, dtype=kind, always_2d=True)
        except soundfile.LibsndfileError as error:
            where = f"past {self.done / layout.rate:.1f} s"
            raise self._unusable(f"is damaged: it cannot be decoded {where} ({_reason(error)})") from None
        if not (layout.is_integer or np.isfinite(block).all()):
            raise self._unusable("is damaged: it has samples that are not numbers")
        self.done += len(block)
        self._left -= len(block)
        return block

    def _unusable(self, reason: str) -> UnusableStemError:
        return UnusableStemError(self.stem, reason)

    def _close_source(self) -> None:
        if self._source is not None:
            self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._audio.close()
        self._close_source()


class _Endless(io.RawIOBase):
    """A file that seems to have zeros behind its end, where no decoder finds tags or audio."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: _ENDLESS_BYTES}[whence]
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer).cast("B")
        self._file.seek(self._position)
        count = self._file.readinto(view)
        view[count:] = bytes(len(view) - count)
        self._position += len(view)
        return len(view)


def _path(path: Path) -> str | bytes:
    """Return a path as soundfile takes it, whose own encoding refuses names that are not text."""
    return str(path) if sys.platform == "win32" else os.fsencode(path)


def _reason(error: Exception) -> str:
    return (error.error_string if isinstance(error, soundfile.LibsndfileError) else str(error)).strip(" .")
