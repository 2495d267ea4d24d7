"""Measures how close a stem comes to the true part: the scale-invariant signal-to-distortion ratio."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def si_sdr(estimate: NDArray[np.floating[Any]], reference: NDArray[np.floating[Any]]) -> float:
    """Return the scale-invariant SDR of `estimate` against `reference`, in dB.

    With `a = <estimate, reference> / <reference, reference>` it is
    `10 log10(|a reference|^2 / |a reference - estimate|^2)`: Le Roux, Wisdom, Erdogan, Hershey, "SDR - half-baked
    or well done?", ICASSP 2019. All channels count as one long signal and no mean is taken off.
    A perfect estimate gives `inf`. An estimate without any of the reference, such as silence, gives `-inf`.
    A silent reference has no scale: `inf` if the estimate is silent too, else `-inf`.

    Raises `ValueError` if the shapes differ.
    """
    if estimate.shape != reference.shape:
        raise ValueError(f"an estimate of shape {estimate.shape} cannot be compared to one of {reference.shape}")
    found = estimate.astype(np.float64).ravel()
    truth = reference.astype(np.float64).ravel()
    energy = float(truth @ truth)
    if energy == 0.0:
        return float("-inf") if found.any() else float("inf")
    target = (float(found @ truth) / energy) * truth
    distortion = target - found
    return _decibels(float(target @ target), float(distortion @ distortion))


def improvement(
    estimate: NDArray[np.floating[Any]], reference: NDArray[np.floating[Any]], mix: NDArray[np.floating[Any]]
) -> float:
    """Return how many dB of SI-SDR `estimate` gains over the mix itself.

    Raises `ValueError` if the shapes differ.
    """
    return si_sdr(estimate, reference) - si_sdr(mix, reference)


def _decibels(signal: float, distortion: float) -> float:
    if signal == 0.0:
        return float("-inf")
    if distortion == 0.0:
        return float("inf")
    return float(10.0 * np.log10(signal / distortion))
