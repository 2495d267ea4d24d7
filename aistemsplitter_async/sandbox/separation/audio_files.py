"""Reads float32 stereo blocks from any format of libsndfile, and writes such blocks as WAV or MP3.

Reading is strictly front to back and never holds more than one block. Headers are not trusted: what can be decoded
counts. Of uncompressed audio that is what is there, since a recorder that crashed leaves a wrong length; a compressed
file that holds less than it announces is refused, not silently shortened.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import soundfile
from numpy.typing import NDArray

from aistemsplitter_async.sandbox.separation.wav import MAX_CHANNELS, MAX_SAMPLE_RATE, MIN_SAMPLE_RATE, find_samples

Samples = NDArray[np.float32]  # (frames, 2)

BLOCK_FRAMES = 65_536  # per read and per write; libsndfile crashes on much longer single writes of some formats
MAX_LEVEL = 4.0  # times full scale: what four stems within full scale can add up to

# Formats by their names in the API. PCM_24 rather than float: every player and the standard library read it, its noise
# floor (-146 dB) does not disturb "stems add up to the mix", and libsndfile's float files contain a time stamp, so that
# equal input would not give equal bytes. `stems.share_overs` keeps samples within full scale.
# MP3 at the best variable rate: hardly slower than the worst, and about half the size of a constant 320 kbit/s.
WRITERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "wav": ("WAV", "PCM_24", {}),
    "mp3": ("MP3", "MPEG_LAYER_III", {"bitrate_mode": "VARIABLE", "compression_level": 0.0}),
}
MP3_SAMPLE_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)  # Hz; ISO 11172-3, 13818-3

_UNKNOWN_FRAMES = 2**62  # libsndfile says "unknown" by a count close to 2**63
_LONGEST_MP3_FRAME = 1_441  # bytes: 320 kbit/s at 32 kHz
_ELONGATION = 64  # times; no MP3 frame has a bit rate more than 40 times that of another (320 and 8 kbit/s)
_SLACK = 0.05  # seconds that a file may announce too much; with more, something is missing


class UndecodableAudioError(ValueError):
    """The file is not audio that can be separated; the message says why, without a path."""


@attrs.frozen
class AudioInfo:
    """The header of a file; `frames` is counted if the header has no length."""

    frames: int
    sample_rate: int
    channels: int
    seconds: float
    format: str


def probe(path: Path) -> AudioInfo:
    """Return the header of `path`, decoding the file only if its length cannot be known otherwise.

    Raises `UndecodableAudioError` if the file is not audio, is empty, or has more than two channels or an absurd sample
    rate; `OSError` if it cannot be read at all.
    """
    with _opened(path) as audio:
        frames: int = audio.frames
        if frames >= _UNKNOWN_FRAMES or _is_estimate(path, audio):
            frames = sum(len(block) for block in _decoded_to_the_end(path, audio))
        if frames <= 0:
            raise UndecodableAudioError("the file holds no audio")
        return AudioInfo(frames, audio.samplerate, audio.channels, frames / audio.samplerate, audio.format)


def read_blocks(path: Path) -> Iterator[Samples]:
    """Yield the decoded audio front to back in blocks of `(frames, 2)`; mono is the same on both channels.

    Raises what `probe` raises, and `UndecodableAudioError` also in the middle, if decoding fails there or the audio is
    clearly shorter than announced. A few missing milliseconds, as in an Ogg file that does not begin at zero, become
    silence.
    """
    info = probe(path)
    arrived = 0
    with _opened(path) as audio:
        for block in _decoded_to_the_end(path, audio):
            arrived += len(block)
            yield block if block.shape[1] == MAX_CHANNELS else np.repeat(block, MAX_CHANNELS, axis=1)
    missing = info.frames - arrived
    if missing > _SLACK * info.sample_rate:
        raise UndecodableAudioError(_cut_short(info.seconds, arrived / info.sample_rate))
    if missing > 0:
        yield np.zeros((missing, MAX_CHANNELS), dtype=np.float32)


def plan_decimation(sample_rate: int, output_format: str) -> int:
    """Return the power of two by which the sample rate must be divided for the output format; mostly 1.

    Raises `ValueError` if there is none.
    """
    if output_format != "mp3":
        return 1
    for decimation in (1, 2, 4, 8):
        if sample_rate % decimation == 0 and sample_rate // decimation in MP3_SAMPLE_RATES:
            return decimation
    raise ValueError(f"mp3 has no sample rate for audio of {sample_rate} Hz; ask for wav")


@contextmanager
def open_audio_writer(path: Path, output_format: str, sample_rate: int) -> Iterator[Callable[[Samples], None]]:
    """Open `path` for writing and yield a function that appends `(frames, 2)` samples; leaving finishes the file.

    Raises `ValueError` for an output format that is not in `WRITERS`, `OSError` if writing fails.
    """
    if output_format not in WRITERS:
        raise ValueError(f"unknown output format {output_format!r}: this sandbox writes {' and '.join(WRITERS)}")
    container, subtype, options = WRITERS[output_format]
    try:
        with soundfile.SoundFile(path, "w", sample_rate, MAX_CHANNELS, subtype, format=container, **options) as audio:

            def write(samples: Samples) -> None:
                for start in range(0, len(samples), BLOCK_FRAMES):
                    audio.write(samples[start : start + BLOCK_FRAMES])

            yield write
    except soundfile.LibsndfileError as error:
        raise OSError(f"the audio could not be written: {error.error_string}") from None


@contextmanager
def _opened(path: Path, disguise: io.RawIOBase | None = None) -> Iterator[Any]:
    """Open for reading, and refuse audio that cannot be separated."""
    if not path.is_file():
        raise FileNotFoundError("there is no such audio file")
    with ExitStack() as stack:
        try:
            audio = stack.enter_context(soundfile.SoundFile(disguise or stack.enter_context(_mended(path))))
        except soundfile.LibsndfileError:
            # libsndfile's own reason is misleading: a text file called .mp3 "does not exist or is not a regular file".
            raise UndecodableAudioError(
                "the file is not audio that can be decoded; wav, aiff, flac, ogg, opus and mp3 can"
            ) from None
        # The wrapper seeks after every read of a seekable file, which libsndfile cannot in a FLAC of unknown length.
        audio.seekable = lambda: False
        _refuse_unusable(audio.channels, audio.samplerate)
        yield audio


def _refuse_unusable(channels: int, sample_rate: int) -> None:
    if channels > MAX_CHANNELS:
        raise UndecodableAudioError(f"the file has {channels} channels; only mono and stereo can be separated")
    if not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
        allowed = f"{MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz"
        raise UndecodableAudioError(f"a sample rate of {sample_rate} Hz makes no sense; {allowed} can be separated")


def _decoded_to_the_end(path: Path, audio: Any) -> Iterator[Samples]:
    if _is_estimate(path, audio):
        with _Elongated(path) as file, _opened(path, file) as elongated:
            yield from _decoded(elongated)
    else:
        yield from _decoded(audio)


def _decoded(audio: Any) -> Iterator[Samples]:
    arrived = 0
    try:
        while len(block := audio.read(BLOCK_FRAMES, dtype="float32", always_2d=True)):
            if not np.abs(block).max() <= MAX_LEVEL:  # in this form it catches NaN too
                raise UndecodableAudioError("the file has samples that are not numbers or far beyond full scale")
            arrived += len(block)
            yield block
    except soundfile.LibsndfileError as error:
        where = f"{arrived / audio.samplerate:.1f} seconds"
        raise UndecodableAudioError(
            f"the file cannot be decoded past {where}: {error.error_string.strip(' .')}"
        ) from None


def _cut_short(announced: float, arrived: float) -> str:
    return f"the file is cut short: {announced:.10g} seconds of audio announced, {arrived:.10g} there"


def _is_estimate(path: Path, audio: Any) -> bool:
    """Return whether this is an MP3 without a tag for its length, which would be in the first frame after ID3v2."""
    if audio.format != "MP3":
        return False
    with path.open("rb") as file:
        start = file.read(10)
        if start.startswith(b"ID3"):
            file.seek(sum(byte << shift for byte, shift in zip(start[6:], (21, 14, 7, 0), strict=True)), io.SEEK_CUR)
        else:
            file.seek(0)
        first_frame = file.read(_LONGEST_MP3_FRAME)
    return not any(tag in first_frame for tag in (b"Xing", b"Info", b"VBRI"))


def _mended(path: Path) -> AbstractContextManager[Path | io.RawIOBase]:
    """Open `path`, or the file with the length that its samples have, if its header has none.

    libsndfile plays a WAV up to its end if its header announces too much, but not if it announces nothing.
    """
    with path.open("rb") as file:
        samples = find_samples(file)
    if samples is None or samples.announced or not samples.length:
        return nullcontext(path)
    size = min(samples.length, 2 ** (8 * samples.size_bytes) - 1)
    return _Patched(path, samples.size_at, size.to_bytes(samples.size_bytes, "little"))


class _Patched(io.FileIO):
    """A file that reads as if `patch` were written at the offset `at`."""

    def __init__(self, path: Path, at: int, patch: bytes) -> None:
        super().__init__(path, "rb")
        self._at = at
        self._patch = patch

    def readinto(self, buffer: Any, /) -> int:
        start = self.tell()
        count = super().readinto(buffer)
        first, last = max(start, self._at), min(start + count, self._at + len(self._patch))
        if first < last:
            buffer[first - start : last - start] = self._patch[first - self._at : last - self._at]
        return count


class _Elongated(io.FileIO):
    """A file that claims to be longer than it is.

    libsndfile reads no further than its count of frames, and for an MP3 without a length header it computes that count
    from the file size and the first frame's bit rate: songs with a variable rate lose their end. With a larger size it
    reads until nothing comes. Past the end there are zeros, in which it finds neither tags nor audio.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "rb")
        self._size = path.stat().st_size
        self._position = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size * _ELONGATION}[whence]
        self._position = start + offset
        super().seek(min(self._position, self._size))
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        if self._position > self._size:
            buffer[:] = bytes(len(buffer))
            count = len(buffer)
        else:
            count = super().readinto(buffer)
        self._position += count
        return count
