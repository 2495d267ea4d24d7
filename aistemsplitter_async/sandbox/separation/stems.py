"""Splits blocks of a mix into stems that add up to the mix. Memory use does not grow with the song."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from aistemsplitter_async.sandbox.separation.masks import CONTEXT_WINDOWS, build_masks
from aistemsplitter_async.sandbox.separation.overlap_add import OverlapAdd, analyse, window_frames, with_context

Samples = NDArray[np.float32]  # (frames, 2)
StemSamples = NDArray[np.float32]  # (stems, frames, 2)


def split_blocks(
    blocks: Iterable[Samples], sample_rate: int, stems: Sequence[str], *, decimation: int = 1
) -> Iterator[StemSamples]:
    """Yield the stems of the mix in `blocks`, in the order of `stems`, exactly as long as the mix.

    With `decimation` d, a power of two, they have `sample_rate / d` and a d-th of the length, rounded up.
    Raises `ValueError` for a stem without a rule, and any error that `blocks` raises.
    """
    size = window_frames(sample_rate)
    frequencies = (np.arange(size // 2 + 1) * (sample_rate / size)).astype(np.float32)
    signals = {stem: OverlapAdd(size, decimation) for stem in stems}
    mix = _Counted(blocks)
    skip = signals[stems[0]].latency
    done = 0
    for spectra, due in with_context(analyse(mix, size), CONTEXT_WINDOWS):
        parts = {
            stem: signals[stem].add(spectra[:, due] * mask)
            for stem, mask in build_masks(spectra, due, frequencies, stems)
        }
        samples = np.stack([parts[stem] for stem in stems])[:, skip:]
        skip = max(0, skip - (due.stop - due.start) * signals[stems[0]].hop)
        # The last windows reach beyond the end. No sample is complete before it was read, so the count is the bound.
        samples = samples[:, : -(-mix.frames // decimation) - done]
        done += samples.shape[1]
        yield share_overs(samples)


def share_overs(stems: StemSamples) -> StemSamples:
    """Return the stems within full scale: what exceeds it in one is moved to others with headroom, so the sum stays.

    A stem may be louder than the mix where others cancel it. Something is lost only where the mix exceeds full scale
    times the number of stems.
    """
    if np.abs(stems).max(initial=0.0) <= 1.0:
        return stems
    within = np.clip(stems, -1, 1)
    over = (stems - within).sum(axis=0)
    for stem in range(len(stems) - 1, -1, -1):
        filled = np.clip(within[stem] + over, -1, 1)
        over -= filled - within[stem]
        within[stem] = filled
    return within


class _Counted:
    """Passes blocks on and counts the frames."""

    def __init__(self, blocks: Iterable[Samples]) -> None:
        self._blocks = blocks
        self.frames = 0

    def __iter__(self) -> Iterator[Samples]:
        for block in self._blocks:
            self.frames += len(block)
            yield block
