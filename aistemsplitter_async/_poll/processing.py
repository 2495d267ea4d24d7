"""How long will the server work on a split? A small robust model, learned from the splits themselves.

Processing times are taken as lognormal around a median that grows with a power of the credits used (seconds of audio).
The median and the spread come from order statistics (the median, and the median absolute deviation times 1.4826), so
that one odd split ruins nothing, over the newest finished splits, so that a server that becomes faster is followed.

Splits that are still running count too: learning from finished ones alone would be biased to the quick ones. One that
has been running for `t` counts as a time drawn from what is left of the distribution beyond `t`: the imputation step of
data augmentation for censored data (Wei and Tanner, "Applications of Multiple Imputation to the Analysis of Censored
Regression Data", Biometrics 47, 1991), with evenly spread quantiles in place of chance.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from statistics import NormalDist, median

_MEMORY = 64  # finished splits remembered: a spread within 10 %, and a change of speed followed within as many
_PRIOR_MEDIAN_WEIGHT = 0.5  # observations: a guess, given up quickly
_PRIOR_SPREAD = 0.4  # of log time: covers a factor of 2.2 both ways; worth one observation
_LEAST_SPREAD = 0.05  # a server that always takes equally long is still not trusted to the second
TYPICAL_CREDITS = 180.0  # where the prior's median holds
_PRIOR_SLOPE = 0.5  # between "always the same" and "in proportion to the audio"
_PRIOR_SLOPE_WEIGHT = 4.0  # as if that many splits, a factor e apart in length, had shown it
_LEAST, _MOST = 1e-3, 1e8  # s; a clock without resolution reports zero, a mad one anything
_MOST_CREDITS = 1e7  # a hundred days of audio
_ODD = 2.0  # standard deviations; what is further off pulls no more than that at the slope
_MAD_TO_SIGMA = 1.4826  # of a normal distribution
_LONG_ENOUGH = -2.0  # standard deviations; a split running for less says nothing about how long it will take
_TAIL = 1e-9  # where the upper tail of the normal distribution is cut off
_WIDE = 1.5  # of log credits from the middle; what is further off pulls no more than that at the slope either
_GOLDEN = (math.sqrt(5) - 1) / 2
_ROOT_OF_TWO = math.sqrt(2)
_NORMAL = NormalDist()
_STILL = 0.01  # of log time; who keeps a prediction need not know of less


class ProcessingModel:
    """Learns processing times and predicts them. All times are seconds of the server's own work.

    Args:
        typical: how long a split of `TYPICAL_CREDITS` is believed to take before anything is known.
    """

    def __init__(self, typical: float) -> None:
        self._prior = math.log(typical)
        self._finished: deque[tuple[float, float]] = deque(maxlen=_MEMORY)  # log credits, log seconds
        self._log_median = self._prior
        self._slope = _PRIOR_SLOPE
        self.spread = _PRIOR_SPREAD
        self.version = 0  # changes when predictions move
        self._published = (0.0, 0.0, 0.0)  # median, slope and spread at that time

    @property
    def observations(self) -> int:
        """Return how many finished splits the predictions rest on."""
        return len(self._finished)

    def learn(self, credits_used: float, seconds: float, *, running: Iterable[tuple[float, float]] = ()) -> None:
        """Take in one finished split.

        Args:
            credits_used: its price.
            seconds: how long the server took.
            running: credits and age (seconds) of splits that were seen to be still running; a sample is enough.
        """
        self._finished.append((log_credits(credits_used), _log_seconds(seconds)))
        self._slope = self._fit_slope()
        self.refit(running)

    def refit(self, running: Iterable[tuple[float, float]]) -> None:
        """Take in what running splits say: credits and age (seconds) at which each was last seen running."""
        leveled = [seconds - self._slope * size for size, seconds in self._finished]
        leveled += self._impute([(log_credits(size), age) for size, age in running])
        if not leveled:
            return
        middle = median(leveled)
        weight = len(leveled)
        off = abs(middle - self._prior) / (_ODD * _PRIOR_SPREAD)
        prior_weight = _PRIOR_MEDIAN_WEIGHT / max(1.0, off) ** 2  # a guess that is far off counts for little
        self._log_median = (middle * weight + self._prior * prior_weight) / (weight + prior_weight)
        deviation = _MAD_TO_SIGMA * median(abs(value - middle) for value in leveled)
        self.spread = max(_LEAST_SPREAD, (deviation * weight + _PRIOR_SPREAD) / (weight + 1))
        state = (self._log_median, self._slope, self.spread)
        if not self.version or max(map(_distance, state, self._published)) > _STILL:
            self.version += 1
            self._published = state

    def typical(self) -> float | None:
        """Return the median time of splits of the usual price, `None` while no split has said anything about it."""
        if not self.version:
            return None
        sizes = [size for size, _ in self._finished]
        return math.exp(self._center(median(sizes) if sizes else 0.0))

    def median(self, credits_used: float) -> float:
        """Return the time that half of the splits of this price take at most."""
        return math.exp(self._center(log_credits(credits_used)))

    def quantile(self, credits_used: float, fraction: float) -> float:
        """Return the time that `fraction` of the splits of this price take at most."""
        return self.age_at(log_credits(credits_used), _NORMAL.inv_cdf(fraction))

    def age_at(self, size: float, deviations: float) -> float:
        """Return the age that is so many standard deviations from the median, for a split of `log_credits` size."""
        return math.exp(self._center(size) + self.spread * deviations)

    def age_when_done(self, size: float, confidence: float, *, seen: float) -> float:
        """Return the age at which a split is done with this probability, given that it still ran at the age `seen`."""
        center = self._center(size)
        left = _upper_tail((math.log(seen) - center) / self.spread) if seen > 0 else 1.0
        return math.exp(center - self.spread * _NORMAL.inv_cdf(max(_TAIL, (1 - confidence) * left)))

    def fraction_done(self, credits_used: float, age: float) -> float:
        """Return the fraction of the splits of this price that take at most `age` seconds."""
        return 1.0 - _upper_tail(self._deviations(log_credits(credits_used), age))

    def _center(self, size: float) -> float:
        return self._log_median + self._slope * size

    def _deviations(self, size: float, age: float) -> float:
        return (_log_seconds(age) - self._center(size)) / self.spread

    def _impute(self, running: list[tuple[float, float]]) -> list[float]:
        """Return log times, leveled to the usual size, that splits still running may come to take.

        Each is given another quantile of what it may take from here on, so that together they are spread as they will
        be: were all given what is expected, many of about the same age would look like a server without variation.
        """
        told = [deviations for size, age in running if (deviations := self._deviations(size, age)) >= _LONG_ENOUGH]
        return [
            self._log_median - self.spread * _NORMAL.inv_cdf(max(_TAIL, _upper_tail(deviations) * _fraction(number)))
            for number, deviations in enumerate(told)
        ]

    def _fit_slope(self) -> float:
        """Return the power of the credits that the time grows with, 0 to 1: one step of a robust regression.

        Neither an odd time nor an odd size pulls more than its bound; the prior pulls as so many splits more.
        """
        middle_size = median(size for size, _ in self._finished)
        middle = median(seconds - self._slope * size for size, seconds in self._finished)
        most = _ODD * self.spread
        pull = varied = 0.0
        for size, seconds in self._finished:
            wide = min(_WIDE, max(-_WIDE, size - middle_size))
            off = seconds - middle - self._slope * size
            pull += wide * min(most, max(-most, off))
            varied += wide * wide
        step = (pull + (_PRIOR_SLOPE - self._slope) * _PRIOR_SLOPE_WEIGHT) / (varied + _PRIOR_SLOPE_WEIGHT)
        return min(1.0, max(0.0, self._slope + step))


def log_credits(credits_used: float) -> float:
    """Return the size of a split as the model sees it: the logarithm of its price, 0 at the usual one."""
    return math.log(min(max(1.0, credits_used), _MOST_CREDITS) / TYPICAL_CREDITS)


def _log_seconds(seconds: float) -> float:
    return math.log(min(max(_LEAST, seconds), _MOST))


def _distance(one: float, other: float) -> float:
    return abs(one - other)


def _upper_tail(deviations: float) -> float:
    return max(_TAIL, 0.5 * math.erfc(deviations / _ROOT_OF_TWO))


def _fraction(number: int) -> float:
    """Return fractions that fill the interval from 0 to 1 evenly however many there are: the golden ratio's."""
    return (0.5 + number * _GOLDEN) % 1.0 or _TAIL
