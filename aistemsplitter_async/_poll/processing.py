"""Predicts how long the server works on a split: a small robust model, learned from the splits themselves.

Processing times are assumed lognormal around a median that grows with a power of the credits used (seconds of audio).
The median and the spread are order statistics (the median, and the median absolute deviation times 1.4826), which one
outlier cannot ruin, over the newest finished splits, so that they follow a server that becomes faster.

Splits that are still running count too: learning from finished ones alone would be biased towards quick ones. One that
has been running for `t` counts as a time drawn from the distribution beyond `t`: the imputation step of data
augmentation for censored data (Wei and Tanner, "Applications of Multiple Imputation to the Analysis of Censored
Regression Data", Biometrics 47, 1991), with evenly spread quantiles instead of random ones.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from statistics import NormalDist, median

_MEMORY = 64  # finished splits kept: the spread is right within 10 %, and a new speed is learned within as many
_PRIOR_MEDIAN_WEIGHT = 0.5  # observations: a guess that is quickly replaced
_PRIOR_SPREAD = 0.4  # of log time: covers a factor of 2.2 both ways; worth one observation
_LEAST_SPREAD = 0.05  # even a server that always takes equally long is not predicted to the second
TYPICAL_CREDITS = 180.0  # where the prior's median holds
_PRIOR_SLOPE = 0.5  # between "always the same" and "in proportion to the audio"
_PRIOR_SLOPE_WEIGHT = 4.0  # as if this many splits, a factor e apart in length, had shown it
_LEAST, _MOST = 1e-3, 1e8  # s; a coarse clock reports zero, a wrong one anything
_MOST_CREDITS = 1e7  # a hundred days of audio
_OUTLIER = 2.0  # standard deviations; times further off affect the slope no more than that
_MAD_TO_SIGMA = 1.4826  # of a normal distribution
_LONG_ENOUGH = -2.0  # standard deviations; a split running for less says nothing about how long it will take
_TAIL = 1e-9  # where the upper tail of the normal distribution is cut off
_WIDE = 1.5  # of log credits from the middle; sizes further off affect the slope no more than that
_GOLDEN = (math.sqrt(5) - 1) / 2
_ROOT_OF_TWO = math.sqrt(2)
_NORMAL = NormalDist()
_SIGNIFICANT = 0.01  # of log time; stored predictions need not be updated for less


class ProcessingModel:
    """Learns processing times and predicts them. All times are seconds of the server's own work.

    Args:
        typical: seconds that a split of `TYPICAL_CREDITS` is assumed to take before anything is known.
    """

    def __init__(self, typical: float) -> None:
        self._prior = math.log(typical)
        self._finished: deque[tuple[float, float]] = deque(maxlen=_MEMORY)  # log credits, log seconds
        self._log_median = self._prior
        self._slope = _PRIOR_SLOPE
        self.spread = _PRIOR_SPREAD
        self.version = 0  # changes when predictions do
        self._published = (0.0, 0.0, 0.0)  # median, slope and spread at that time

    @property
    def observations(self) -> int:
        """Return how many finished splits the predictions are based on."""
        return len(self._finished)

    def learn(self, credits_used: float, seconds: float, *, running: Iterable[tuple[float, float]] = ()) -> None:
        """Learn from one finished split.

        Args:
            credits_used: its price.
            seconds: how long the server took.
            running: credits and age (seconds) of splits last seen running; a sample is enough.
        """
        self._finished.append((log_credits(credits_used), _log_seconds(seconds)))
        self._slope = self._fit_slope()
        self.refit(running)

    def refit(self, running: Iterable[tuple[float, float]]) -> None:
        """Learn from running splits: the credits of each, and the age (seconds) at which it was last seen running."""
        leveled = [seconds - self._slope * size for size, seconds in self._finished]
        leveled += self._impute([(log_credits(size), age) for size, age in running])
        if not leveled:
            return
        middle = median(leveled)
        weight = len(leveled)
        off = abs(middle - self._prior) / (_OUTLIER * _PRIOR_SPREAD)
        prior_weight = _PRIOR_MEDIAN_WEIGHT / max(1.0, off) ** 2  # a guess that is far off counts for little
        self._log_median = (middle * weight + self._prior * prior_weight) / (weight + prior_weight)
        deviation = _MAD_TO_SIGMA * median(abs(value - middle) for value in leveled)
        self.spread = max(_LEAST_SPREAD, (deviation * weight + _PRIOR_SPREAD) / (weight + 1))
        state = (self._log_median, self._slope, self.spread)
        change = max(abs(new - old) for new, old in zip(state, self._published, strict=True))
        if not self.version or change > _SIGNIFICANT:
            self.version += 1
            self._published = state

    def typical(self) -> float | None:
        """Return the median time of splits of the usual price, `None` before anything was learned about it."""
        if not self.version:
            return None
        sizes = [size for size, _ in self._finished]
        return math.exp(self._center(median(sizes) if sizes else 0.0))

    def median(self, credits_used: float) -> float:
        """Return the median time of splits of this price."""
        return math.exp(self._center(log_credits(credits_used)))

    def age_at(self, size: float, deviations: float) -> float:
        """Return the age this many standard deviations from the median, for a split of this size (`log_credits`)."""
        return math.exp(self._center(size) + self.spread * deviations)

    def age_when_done(self, size: float, confidence: float, *, seen: float) -> float:
        """Return the age at which a split is done with this probability, given that it was running at age `seen`."""
        center = self._center(size)
        left = _upper_tail((math.log(seen) - center) / self.spread) if seen > 0 else 1.0
        return math.exp(center - self.spread * _NORMAL.inv_cdf(max(_TAIL, (1 - confidence) * left)))

    def _center(self, size: float) -> float:
        return self._log_median + self._slope * size

    def _deviations(self, size: float, age: float) -> float:
        return (_log_seconds(age) - self._center(size)) / self.spread

    def _impute(self, running: list[tuple[float, float]]) -> list[float]:
        """Return log times, scaled to the usual size, that splits still running may take.

        Each gets a different quantile of the time it may still take, so that together they are spread as the real times
        will be: if all got their expectation, many of about the same age would suggest a server without variation.
        """
        informative = [
            deviations for size, age in running if (deviations := self._deviations(size, age)) >= _LONG_ENOUGH
        ]
        return [
            self._log_median - self.spread * _NORMAL.inv_cdf(max(_TAIL, _upper_tail(deviations) * _fraction(number)))
            for number, deviations in enumerate(informative)
        ]

    def _fit_slope(self) -> float:
        """Return the power of the credits with which the time grows, 0 to 1: one step of a robust regression.

        The effect of an outlier, in time or in size, is bounded; the prior has the weight of several splits.
        """
        middle_size = median(size for size, _ in self._finished)
        middle = median(seconds - self._slope * size for size, seconds in self._finished)
        most = _OUTLIER * self.spread
        pull = varied = 0.0
        for size, seconds in self._finished:
            wide = min(_WIDE, max(-_WIDE, size - middle_size))
            off = seconds - middle - self._slope * size
            pull += wide * min(most, max(-most, off))
            varied += wide * wide
        step = (pull + (_PRIOR_SLOPE - self._slope) * _PRIOR_SLOPE_WEIGHT) / (varied + _PRIOR_SLOPE_WEIGHT)
        return min(1.0, max(0.0, self._slope + step))


def log_credits(credits_used: float) -> float:
    """Return the size of a split as the model sees it: the logarithm of its price, 0 for the usual price."""
    return math.log(min(max(1.0, credits_used), _MOST_CREDITS) / TYPICAL_CREDITS)


def _log_seconds(seconds: float) -> float:
    return math.log(min(max(_LEAST, seconds), _MOST))


def _upper_tail(deviations: float) -> float:
    return max(_TAIL, 0.5 * math.erfc(deviations / _ROOT_OF_TWO))


def _fraction(number: int) -> float:
    """Return the n-th of fractions that are spread evenly from 0 to 1, however many: multiples of the golden ratio."""
    return (0.5 + number * _GOLDEN) % 1.0 or _TAIL
