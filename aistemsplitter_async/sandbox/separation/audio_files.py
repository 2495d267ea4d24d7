"""Reads float32 stereo blocks from any format of libsndfile, and writes such blocks as WAV or MP3.

Reading is strictly front to back and never holds more than one block. Headers are not trusted: what can be decoded
counts. Of uncompressed audio that is what is there, since a recorder that crashed leaves a wrong length; a compressed
file that holds less than it announces is refused, not silently shortened. libsndfile stops where another stream begins,
in a chained or joined file: such a file is read section by section.
"""

from __future__ import annotations

import io
import mmap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import soundfile
from numpy.typing import NDArray

from aistemsplitter_async.sandbox.separation.sections import Section, TooManySectionsError, find_sections
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
_MP3_STEP = 192  # samples; divides those of each kind of frame, so that a read that fails was the first one of a frame
_ENDLESS_BYTES = 2**40  # that a file of unknown length claims to have
_SLACK = 0.05  # seconds that a file may announce too much; with more, something is missing
_FRAME_SLACK = 0.25  # seconds that MP3 frames may hold too much: the delay of the coder, and frames that lean on others


class UndecodableAudioError(ValueError):
    """The file is not audio that can be separated; the message says why, without a path."""


@attrs.frozen
class AudioHeader:
    """What the sections of a file have in common; `channels` is the largest number of them."""

    sample_rate: int
    channels: int
    format: str
    sections: tuple[Section, ...]


@attrs.frozen
class AudioInfo:
    """What a file holds: `frames` samples of a channel that can be decoded, as counted."""

    frames: int
    sample_rate: int
    channels: int
    seconds: float
    format: str


def read_header(path: Path) -> AudioHeader:
    """Return the header of `path`, without decoding more than that.

    Raises `UndecodableAudioError` if the file is not audio, has more than two channels or an absurd sample rate, or
    changes its sample rate; `OSError` if it cannot be read at all.
    """
    sections = _sections(path)
    rates, channels, names = [], [], []
    for section in sections:
        with _opened(path, section) as audio:
            rates.append(audio.samplerate)
            channels.append(audio.channels)
            names.append(audio.format)
    if other := next((rate for rate in rates if rate != rates[0]), None):
        raise UndecodableAudioError(
            f"the file is made of parts with different sample rates, {rates[0]} and {other} Hz; convert it to one of "
            "them, or split it into its parts"
        )
    return AudioHeader(rates[0], max(channels), names[0], sections)


def probe(path: Path) -> AudioInfo:
    """Return what is in `path`, by decoding all of it: what a header says, damage can make wrong.

    Raises what `read_blocks` raises.
    """
    header = read_header(path)
    frames = sum(map(len, _decoded(path, header)))
    return AudioInfo(frames, header.sample_rate, header.channels, frames / header.sample_rate, header.format)


def read_blocks(path: Path) -> Iterator[Samples]:
    """Yield the decoded audio front to back in blocks of `(frames, 2)`; mono is the same on both channels.

    Raises what `read_header` raises, and `UndecodableAudioError` also in the middle, if decoding fails there or the
    audio is clearly shorter than announced, and at the end if there was none.
    """
    for block in _decoded(path, read_header(path)):
        yield block if block.shape[1] == MAX_CHANNELS else np.repeat(block, MAX_CHANNELS, axis=1)


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


def _sections(path: Path) -> tuple[Section, ...]:
    if not path.is_file():
        raise FileNotFoundError("there is no such audio file")
    with path.open("rb") as file:
        if not file.seek(0, io.SEEK_END):
            raise UndecodableAudioError("the file is not audio but empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return find_sections(data)
            except TooManySectionsError as error:
                raise UndecodableAudioError(str(error)) from None


@contextmanager
def _opened(path: Path, section: Section) -> Iterator[Any]:
    """Open a section for reading, and refuse audio that cannot be separated."""
    with _View(path, section) as view:
        samples = find_samples(view)
        view.patches += [(section.start + at, patch) for at, patch in samples.mends] if samples else []
        view.seek(0)
        whole = (section.start, section.stop) == (0, view.size) and not view.patches and not section.endless
        try:
            # By its path, libsndfile reads a file faster than through Python.
            audio = soundfile.SoundFile(path if whole else view)
        except (soundfile.LibsndfileError, TypeError):  # the latter of a name that ends in .raw
            # libsndfile's own reason is misleading: a text file called .mp3 "does not exist or is not a regular file".
            raise UndecodableAudioError(
                "the file is not audio that can be decoded; wav, aiff, flac, ogg, opus and mp3 can"
            ) from None
        with audio:
            # The wrapper seeks after each read of a seekable file, which libsndfile cannot in a FLAC of unknown length.
            audio.seekable = lambda: False
            _refuse_unusable(audio.channels, audio.samplerate)
            yield audio


def _refuse_unusable(channels: int, sample_rate: int) -> None:
    if channels > MAX_CHANNELS:
        raise UndecodableAudioError(f"the file has {channels} channels; only mono and stereo can be separated")
    if not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
        allowed = f"{MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz"
        raise UndecodableAudioError(f"a sample rate of {sample_rate} Hz makes no sense; {allowed} can be separated")


def _decoded(path: Path, header: AudioHeader) -> Iterator[Samples]:
    before = 0
    for section in header.sections:
        with _opened(path, section) as audio:
            arrived = 0
            for block in _decoded_section(audio, section, before):
                arrived += len(block)
                yield block
        before += arrived
    if not before:
        raise UndecodableAudioError("the file holds no audio")


def _decoded_section(audio: Any, section: Section, before: int) -> Iterator[Samples]:
    """Yield the blocks of a section, with `before` samples in front of it."""
    rate, arrived = audio.samplerate, 0
    announced = section.announced
    if announced is None and not section.endless and audio.frames < _UNKNOWN_FRAMES:
        announced = audio.frames
    try:  # behind its last sample, a FLAC may have a tag, which libsndfile takes for damage
        while len(block := _read(audio, section, arrived)):
            if not np.abs(block).max() <= MAX_LEVEL:  # in this form it catches NaN too
                raise UndecodableAudioError("the file has samples that are not numbers or far beyond full scale")
            arrived += len(block)
            yield block
    except soundfile.LibsndfileError as error:
        if arrived != section.announced:
            where = f"{(before + arrived) / rate:.1f} seconds"
            raise UndecodableAudioError(
                f"the file cannot be decoded past {where}: {error.error_string.strip(' .')}"
            ) from None
    for expected, slack in ((announced or 0, _SLACK), (section.there, _FRAME_SLACK)):
        if expected - arrived > slack * rate:
            raise UndecodableAudioError(_cut_short((before + expected) / rate, (before + arrived) / rate))


def _read(audio: Any, section: Section, arrived: int) -> Samples:
    """Read the next block, not beyond what is announced or counted; nothing at the end."""
    if section.endless:
        return _read_frames(audio, min(BLOCK_FRAMES, section.there - arrived))
    count = BLOCK_FRAMES
    if section.announced is not None and arrived < section.announced:
        count = min(count, section.announced - arrived)
    samples: Samples = audio.read(count, dtype="float32", always_2d=True)
    return samples


def _read_frames(audio: Any, count: int) -> Samples:
    """Read up to `count` samples of MP3; what is in front of damage is not lost with it."""
    pieces = [np.zeros((0, audio.channels), dtype=np.float32)]
    while count > 0:
        try:
            piece = audio.read(min(_MP3_STEP, count), dtype="float32", always_2d=True)
        except soundfile.LibsndfileError:
            break
        if not len(piece):
            break
        pieces.append(piece)
        count -= len(piece)
    return np.concatenate(pieces)


def _cut_short(announced: float, arrived: float) -> str:
    return f"the file is cut short or damaged: {announced:.1f} seconds of audio announced, {arrived:.1f} can be decoded"


class _View(io.RawIOBase):
    """A section of a file as a file of its own, with `patches` in it; an endless one has zeros behind its end.

    libsndfile reads no further than its count of frames, and for an MP3 without a length header it computes that count
    from the file size and the first frame's bit rate: songs with a variable rate lose their end. With a larger size it
    reads until nothing comes, and in zeros it finds neither tags nor audio.
    """

    def __init__(self, path: Path, section: Section) -> None:
        self._file = path.open("rb", buffering=0)
        self.size = self._file.seek(0, io.SEEK_END)
        self.patches = list(section.patches)
        self._start = section.start
        self._length = section.stop - section.start
        self._claimed = _ENDLESS_BYTES if section.endless else self._length
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._claimed}[whence]
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        room = min(len(buffer), self._claimed - self._position)
        if room <= 0:
            return 0
        view = memoryview(buffer).cast("B")
        here = min(room, max(0, self._length - self._position))
        if here:
            self._file.seek(self._start + self._position)
            count = self._file.readinto(view[:here])
            self._patch(view[:count])
        else:
            count = room
            view[:room] = bytes(room)
        self._position += count
        return count

    def _patch(self, piece: memoryview) -> None:
        start = self._start + self._position
        for at, patch in self.patches:
            first, last = max(start, at), min(start + len(piece), at + len(patch))
            if first < last:
                piece[first - start : last - start] = patch[first - at : last - at]
