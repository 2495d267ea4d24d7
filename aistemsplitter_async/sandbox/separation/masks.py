"""Decides which part of every spectral bin belongs to which stem by classical signal processing; only a preview.

Three observations, none of them about the song itself:

- Drums are short and broad, tones are long and narrow. A median over time keeps tones, a median over frequency keeps
  hits: D. Fitzgerald, "Harmonic/percussive separation using median filtering", DAFx 2010.
- Singers and basses are mixed to the centre, guitars and keyboards to the sides: the inter-channel similarity of
  C. Avendano, "Frequency-domain source identification and manipulation in stereo mixes", WASPAA 2003.
- What stays the same for a second is accompaniment; what changes on top of it leads. In a mono file this is the only
  difference left. The idea of a repeating background is from Rafii & Pardo, "REPET", IEEE TASLP 21, 2013.

The stems take turns: each takes a share, between nothing and all, of what those before it left, and `other` takes the
rest. So no mask is negative, and the masks add up to one for any shares.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from aistemsplitter_async.sandbox.separation.overlap_add import Spectra

Plane = NDArray[np.float32]  # (windows, bins)

TONE_WINDOWS = 17  # 0.4 s: a hit covers less than half of it, so the median ignores the hit
HIT_BINS = 31  # 330 Hz: a partial covers less than half of it, so the median ignores the partial
STEADY_WINDOWS = 53  # 1.2 s: a held chord fills more than half of it, a sung note seldom does
CONTEXT_WINDOWS = STEADY_WINDOWS // 2  # on each side of a window, for all of the above
NEIGHBOURS = 3  # windows and bins over which left and right are compared: a single bin is always coherent

CENTRE_POWER = 4  # so that only what is nearly the same on both sides counts as centre
STEADY_WEIGHT = np.float32(0.7)  # share of a held tone withheld from the vocals; 1.0 would remove long notes
FALL_WINDOWS = 7  # 0.16 s before and after: long against the beating of strings, short against a note

# Bands as corner frequencies in Hz: nothing below the first, all from the second to the third, nothing above the last.
BASS_BAND = (0.0, 20.0, 180.0, 330.0)
VOCALS_BAND = (120.0, 250.0, 7_000.0, 10_000.0)
PIANO_BAND = (60.0, 120.0, 4_000.0, 6_000.0)
GUITAR_BAND = (70.0, 110.0, 6_000.0, 9_000.0)

TURNS = ("drums", "bass", "vocals", "piano", "guitar")  # in this order; `other` is what they leave

_TINY = np.float32(1e-9)  # below any magnitude of 16 or 24 bits; avoids division by zero in silence


def build_masks(
    spectra: Spectra, due: slice, frequencies: Plane, stems: Collection[str]
) -> Iterator[tuple[str, Plane]]:
    """Yield each of `stems` and its mask for the windows `due`; `other` is the last of them and must be among them.

    `spectra` has both channels and the context around `due`; `frequencies` are those of its bins, in Hz. The masks are
    non-negative and add up to one in every bin. Raises `ValueError` for a stem without a rule.
    """
    if unknown := set(stems) - {*TURNS, "other"}:
        raise ValueError(f"there is no rule for {', '.join(sorted(unknown))}")
    left = np.ones(spectra[0, due].shape, dtype=np.float32)
    for stem, share in zip(TURNS, _shares(spectra, due, frequencies), strict=True):
        if stem in stems:
            mask = left * share
            left = left - mask
            yield stem, mask
    yield "other", left


def _shares(spectra: Spectra, due: slice, frequencies: Plane) -> Iterator[Plane]:
    """Yield the share of the remainder for each stem of `TURNS`."""
    power = spectra.real**2 + spectra.imag**2
    magnitude = np.sqrt(power[0] + power[1])
    tones = running_median(magnitude, TONE_WINDOWS, axis=0)[due] ** 2
    hits = running_median(magnitude[due], HIT_BINS, axis=1) ** 2
    drums = hits / (tones + hits + _TINY**2)
    yield drums

    centre = _centre(spectra, power)[due]
    bass = centre * _band(frequencies, *BASS_BAND)
    yield bass

    steady = running_median(magnitude, STEADY_WINDOWS, axis=0)[due] / (magnitude[due] + _TINY)
    steady = np.minimum(steady, np.float32(1))
    middle = centre**CENTRE_POWER
    vocals = middle * (1 - STEADY_WEIGHT * steady) * _band(frequencies, *VOCALS_BAND)
    yield vocals

    piano = _falling(magnitude)[due] * _band(frequencies, *PIANO_BAND)
    yield piano

    guitar = (1 - middle) * _band(frequencies, *GUITAR_BAND)
    yield guitar


def running_median(plane: Plane, length: int, *, axis: int) -> Plane:
    """Return the median of the `length` (odd) values around each value along `axis`, mirrored at the ends.

    Mirroring is right at 0 Hz, where a kick drum has its energy: a spectrum of real samples is its own mirror image.
    scipy's one-dimensional filter keeps a sorted window and takes the same time for any length; its two-dimensional one
    takes up to eight times as long. So the rows are laid end to end, with gaps wide enough to keep them independent.
    """
    half = length // 2
    rows = np.pad(np.moveaxis(plane, axis, -1), ((0, 0), (half, half)), mode="reflect")
    medians = scipy.ndimage.median_filter(rows.ravel(), size=length).reshape(rows.shape)
    return np.moveaxis(medians[:, half : rows.shape[1] - half], -1, axis)


def _centre(spectra: Spectra, power: NDArray[np.float32]) -> Plane:
    """Return 1 where both channels are the same, 0 where they share nothing, are opposite, or one is silent."""
    shared = (spectra[0] * spectra[1].conj()).real
    shared = scipy.ndimage.uniform_filter(shared, NEIGHBOURS, mode="nearest")
    whole = scipy.ndimage.uniform_filter(power[0] + power[1], NEIGHBOURS, mode="nearest")
    return np.clip(2 * shared / (whole + _TINY**2), 0, 1).astype(np.float32, copy=False)


def _falling(magnitude: Plane) -> Plane:
    """Return up to 1 where a tone decays like a struck string, 0 where it holds or grows."""
    half = FALL_WINDOWS // 2
    before = scipy.ndimage.uniform_filter1d(magnitude, FALL_WINDOWS, axis=0, mode="nearest", origin=half)
    after = scipy.ndimage.uniform_filter1d(magnitude, FALL_WINDOWS, axis=0, mode="nearest", origin=-half)
    return np.clip(2 * (before - after) / (before + after + _TINY), 0, 1).astype(np.float32, copy=False)


def _band(frequencies: Plane, start: float, full: float, end: float, gone: float) -> Plane:
    """Return a gain over frequency whose slopes are half a cosine."""
    ramps = np.interp(frequencies, (start, full, end, gone), (0.0, 1.0, 1.0, 0.0))
    return (np.sin(ramps * np.pi / 2) ** 2).astype(np.float32)
