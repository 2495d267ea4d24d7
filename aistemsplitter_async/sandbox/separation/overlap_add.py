"""Transforms samples to short-time spectra and back, block by block, as if the whole song were transformed at once.

Square-root Hann windows, a quarter of their length apart, are used for analysis and again for synthesis. Their product
is a Hann window, and four of those, each a quarter further, add up to two everywhere. Divided by two, that restores the
samples, also between blocks and at both ends of the song (Griffin & Lim, IEEE Trans. ASSP 32, 1984).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import scipy.fft
from numpy.typing import NDArray

Samples = NDArray[np.float32]  # (frames, 2)
Spectra = NDArray[np.complex64]  # (2, windows, bins)

OVERLAP = 4  # windows over every sample; with fewer, changing masks become audible as a flutter
WINDOW_SECONDS = 0.093  # 4,096 samples at 44.1 kHz: resolves tones 20 Hz apart, and a drum hit is still short
GROUP_WINDOWS = 256  # transformed at once, 6 s of audio: large enough for numpy, small enough for memory
GROUP_SAMPLES = 2**20  # in all windows of a group: above 48 kHz, where windows are longer, a group has fewer


def window_frames(sample_rate: int) -> int:
    """Return the window length in samples: the power of two nearest to `WINDOW_SECONDS`."""
    return int(2 ** round(np.log2(WINDOW_SECONDS * sample_rate)))


def analyse(blocks: Iterable[Samples], size: int) -> Iterator[Spectra]:
    """Yield the spectra of all windows of `size` samples that touch the audio, in groups.

    The first window ends `size / OVERLAP` samples into the audio, so every sample lies under `OVERLAP` windows.
    """
    hop = size // OVERLAP
    window = _window(size)
    pending = np.zeros((size - hop, 2), dtype=np.float32)
    group = min(GROUP_WINDOWS, GROUP_SAMPLES // size)
    full = size + (group - 1) * hop
    for block in blocks:
        pending = np.concatenate((pending, block))
        while len(pending) >= full:
            yield _spectra(pending[:full], window, hop)
            pending = pending[group * hop :]
    # The last window begins so late that the last sample lies in its first quarter.
    count = -(-len(pending) // hop)
    missing = size + (count - 1) * hop - len(pending)
    yield _spectra(np.pad(pending, ((0, missing), (0, 0))), window, hop)


def with_context(groups: Iterable[Spectra], context: int) -> Iterator[tuple[Spectra, slice]]:
    """Yield spectra and the slice of their windows that is due; the others are `context` windows before and after.

    Every window is due exactly once. At the ends of the song there is less context, or none.
    """
    held: Spectra | None = None
    due = 0
    for group in groups:
        if held is None:
            held = group
        else:
            first = max(0, due - context)
            held = np.concatenate((held[:, first:], group), axis=1)
            due -= first
        ready = held.shape[1] - context
        if ready > due:
            yield held, slice(due, ready)
            due = ready
    if held is not None and held.shape[1] > due:
        yield held, slice(due, held.shape[1])


class OverlapAdd:
    """Turns the spectra of one signal back into samples, in order.

    With `decimation` d the samples have 1/d of the sample rate: the upper part of each spectrum is left out, which is a
    filter and a resampler in one. The first `latency` samples are before the beginning of the audio.
    """

    def __init__(self, size: int, decimation: int = 1) -> None:
        self._size = size // decimation
        self.hop: int = self._size // OVERLAP
        self._window = _window(size)[::decimation] * np.float32(2 / OVERLAP / decimation)
        self._tail = np.zeros((2, OVERLAP - 1, self.hop), dtype=np.float32)
        self.latency: int = self._size - self.hop

    def add(self, spectra: Spectra) -> Samples:
        """Take the next windows and return the samples that are now complete, a hop per window."""
        count = spectra.shape[1]
        kept = spectra[:, :, : self._size // 2 + 1]
        windows = scipy.fft.irfft(kept, n=self._size, axis=-1) * self._window
        quarters = windows.reshape(2, count, OVERLAP, self.hop)
        total = np.zeros((2, count + OVERLAP - 1, self.hop), dtype=np.float32)
        total[:, : OVERLAP - 1] = self._tail
        for quarter in range(OVERLAP):
            total[:, quarter : quarter + count] += quarters[:, :, quarter]
        self._tail = total[:, count:].copy()
        return np.ascontiguousarray(total[:, :count].reshape(2, count * self.hop).T)


def _window(size: int) -> NDArray[np.float32]:
    return np.sin(np.pi * np.arange(size) / size).astype(np.float32)


def _spectra(samples: Samples, window: NDArray[np.float32], hop: int) -> Spectra:
    windows = np.lib.stride_tricks.sliding_window_view(samples, len(window), axis=0)[::hop]
    spectra: Spectra = scipy.fft.rfft(windows * window, axis=-1).astype(np.complex64, copy=False)
    return np.ascontiguousarray(spectra.transpose(1, 0, 2))
