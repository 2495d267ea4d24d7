"""Decides when a split changes its status: at once, after a modelled time, or when a test says so."""

from __future__ import annotations

import heapq
import math
from random import Random

import attrs


@attrs.frozen
class Instant:
    """A split is processing while it is being separated, and finished as soon as it has been."""


@attrs.frozen
class Manual:
    """A split keeps its status until `Sandbox.step` moves it on."""


@attrs.frozen
class Timed:
    """A split takes `base + per_second * seconds of audio` seconds, times a lognormal factor of median 1.

    Splits queue for `workers`, first come first served. Real separation that takes longer than the model delays the
    end; a faster one does not make it earlier.

    Attributes:
        base: Seconds that every split takes.
        per_second: Seconds for each second of audio.
        jitter: Sigma of the factor's logarithm; 0.0 for none, 0.3 is much.
        workers: Splits being processed at a time.
    """

    base: float = 5.0
    per_second: float = 0.1
    jitter: float = 0.0
    workers: int = 4


Progression = Instant | Manual | Timed


class WaitingLine:
    """The queue of a `Timed` service: when a split starts and ends is decided on arrival."""

    def __init__(self, timed: Timed, random: Random) -> None:
        self._timed = timed
        self._random = random
        self._free_at = [-math.inf] * max(1, timed.workers)

    def plan(self, now: float, seconds: float) -> tuple[float, float]:
        """Return start and end for a split of `seconds` of audio that arrives at `now`, and occupy a worker."""
        timed = self._timed
        starts = max(now, self._free_at[0])
        factor = self._random.lognormvariate(0.0, timed.jitter) if timed.jitter else 1.0
        ends = starts + (timed.base + timed.per_second * seconds) * factor
        heapq.heapreplace(self._free_at, ends)
        return starts, ends
