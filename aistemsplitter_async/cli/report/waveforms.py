"""The waveforms of stems, for a report: a few hundred bytes for each, computed in threads while a batch runs.

With soundfile (extra `sandbox`) they come from every format of libsndfile, without it from WAV files only. Files are
read in blocks, so a day of audio takes as little memory as a minute.
"""

from __future__ import annotations

import asyncio
import wave
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from math import sqrt
from pathlib import Path
from threading import Event
from typing import Self

PEAKS = 240  # of one waveform: about as many bars as fit on a wide screen
LOUDEST = 255

_HOP = 512  # frames that share a level while a file is read: 12 ms, and 300 kB of levels for an hour
_BLOCK = 128 * _HOP  # frames read at a time
_EVERY = 7  # the reader in pure Python uses one sample in seven; odd, so that left and right alternate
_THREADS = 2
_MAX_FILES = 20_000  # a page with more waveforms than that is slow to open


class Waveforms:
    """Computes waveforms in two threads, from the moment a file is added.

    Use it as a context manager: leaving it stops what still runs.

    Args:
        max_files: no more files than this are read; the others have no waveform.
    """

    def __init__(self, *, max_files: int = _MAX_FILES) -> None:
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="waveforms")
        self._stopped = Event()
        self._works: dict[str, Future[bytes | None]] = {}
        self._max_files = max_files

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()  # what is being read ends within a block
        self._pool.shutdown(wait=False, cancel_futures=True)

    @property
    def missing(self) -> int:
        """Return how many files were added and are not done."""
        return sum(not work.done() for work in self._works.values())

    def add(self, files: Iterable[Path]) -> None:
        """Compute the waveforms of `files`, in this order; a file is read only once."""
        for file in files:
            name = str(file)
            if name not in self._works and len(self._works) < self._max_files:
                self._works[name] = self._pool.submit(read_peaks, file, self._stopped.is_set)

    async def get(self, file: Path) -> bytes | None:
        """Return what `read_peaks` returns for a file that was added under this name, once it is done."""
        work = self._works.get(str(file))
        if work is None or work.done():
            return None if work is None else work.result()
        return await asyncio.wrap_future(work)


def read_peaks(path: Path, is_stopped: Callable[[], bool] = bool) -> bytes | None:
    """Return the waveform of an audio file, or `None` if it cannot be read.

    A waveform has at most `PEAKS` bytes, each for an equal part of the file: the square root of its loudest sample, so
    that quiet parts stay visible, with full scale at `LOUDEST`.
    """
    levels = bytearray()
    with suppress(OSError, EOFError, RuntimeError, ValueError, wave.Error):  # RuntimeError: what libsndfile raises
        for some in _levels(path):
            levels += some
            if is_stopped():
                return None
        return shrink(levels)
    return None


def shrink(levels: bytes | bytearray) -> bytes:
    """Return the loudest of each of `PEAKS` equal parts, or `levels` unchanged if there are fewer."""
    count = min(PEAKS, len(levels))
    return bytes(max(levels[at * len(levels) // count : (at + 1) * len(levels) // count]) for at in range(count))


def _levels(path: Path) -> Iterator[bytes]:
    try:
        import soundfile  # noqa: F401, PLC0415  # an extra
    except (ImportError, OSError):  # OSError: its wheel came without libsndfile
        return _levels_of_wav(path)
    return _decoded_levels(path)


def _decoded_levels(path: Path) -> Iterator[bytes]:
    import numpy as np  # noqa: PLC0415  # an extra
    import soundfile  # noqa: PLC0415

    with soundfile.SoundFile(path) as audio:
        while len(block := audio.read(_BLOCK, dtype="float32", always_2d=True)):
            padded = np.resize(block, (-(-len(block) // _HOP), _HOP * audio.channels))  # the last one is repeated
            loudest = np.fmin(np.abs(padded).max(axis=1), 1.0)
            yield (np.sqrt(loudest) * LOUDEST).round().astype(np.uint8).tobytes()


def _levels_of_wav(path: Path) -> Iterator[bytes]:
    """Yield the levels of a WAV file from the highest byte of some of its samples: enough for a picture."""
    with wave.open(str(path), "rb") as audio:
        width, step = audio.getsampwidth(), _HOP * audio.getnchannels() // _EVERY
        while block := audio.readframes(_BLOCK):
            tops = block[width - 1 :: width * _EVERY]
            signed = memoryview(tops if width > 1 else bytes(byte ^ 0x80 for byte in tops)).cast("b")
            parts = (signed[at : at + step] for at in range(0, len(signed), step))
            yield bytes(_level(max(part), min(part)) for part in parts)


def _level(highest: int, lowest: int) -> int:
    """Return the level of samples between two highest bytes, each from -128 to 127."""
    return round(sqrt(max(highest, -1 - lowest) / 127) * LOUDEST)
