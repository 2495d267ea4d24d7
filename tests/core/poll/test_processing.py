"""The model of processing times: what it learns, and what cannot ruin it."""

from __future__ import annotations

import itertools
import math
import random
from itertools import pairwise
from statistics import NormalDist

import pytest
from hypothesis import given, settings, strategies as st

from aistemsplitter_async._poll.processing import ProcessingModel, log_credits

Finished = list[tuple[float, float]]


def taught(finished: Finished) -> ProcessingModel:
    model = ProcessingModel(60.0)
    for credits_used, seconds in finished:
        model.learn(credits_used, seconds)
    return model


def lognormal(count: int, *, median: float, sigma: float, seed: int = 1, slope: float = 0.0) -> Finished:
    """Splits of 60 to 600 credits whose time grows with the power `slope` of them; `median` is for 180."""
    rng = random.Random(seed)  # noqa: S311
    sizes = [math.exp(rng.uniform(math.log(60), math.log(600))) for _ in range(count)]
    return [(size, median * (size / 180) ** slope * rng.lognormvariate(0, sigma)) for size in sizes]


def quantile(model: ProcessingModel, credits_used: float, fraction: float) -> float:
    """The time that this fraction of the splits of this price takes at most."""
    return model.age_at(log_credits(credits_used), NormalDist().inv_cdf(fraction))


def test_with_nothing_known_a_song_is_expected_to_take_a_minute() -> None:
    model = ProcessingModel(60.0)
    assert model.median(180) == pytest.approx(60)
    assert model.observations == 0
    assert quantile(model, 180, 0.02) < 60 < quantile(model, 180, 0.98)


@pytest.mark.parametrize("median", [0.5, 10.0, 60.0, 2000.0])
@pytest.mark.parametrize("sigma", [0.1, 0.25, 0.6])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_lognormal_is_learned_from_sixty_splits(median: float, sigma: float, seed: int) -> None:
    model = taught(lognormal(60, median=median, sigma=sigma, seed=seed))
    off = abs(math.log(model.median(180) / median))
    assert off < 4 * sigma * 1.25 / math.sqrt(60) + 0.05  # the median's own error, and the prior's pull
    assert sigma * 0.6 < model.spread < sigma * 1.6 + 0.03


def test_its_quantiles_hold_for_the_splits_that_follow() -> None:
    model = taught(lognormal(64, median=45, sigma=0.25))
    later = [seconds for _, seconds in lognormal(2000, median=45, sigma=0.25, seed=9)]
    for fraction in (0.05, 0.5, 0.7, 0.95):
        met = sum(seconds <= quantile(model, 180, fraction) for seconds in later) / len(later)
        assert met == pytest.approx(fraction, abs=0.12)


@pytest.mark.parametrize("slope", [0.0, 0.5, 1.0])
def test_how_time_grows_with_the_credits_is_learned(slope: float) -> None:
    model = taught(lognormal(64, median=60, sigma=0.1, slope=slope))
    found = math.log(model.median(600) / model.median(60)) / math.log(10)
    assert found == pytest.approx(slope, abs=0.15)


@pytest.mark.parametrize("odd", [60_000.0, 0.0, -5.0, 1e-300, 1e300, math.inf, math.nan], ids=str)
@pytest.mark.parametrize("credits_used", [180.0, 5.0, 40_000.0])
@pytest.mark.parametrize("varied", [True, False], ids=["of many sizes", "of one size"])
def test_one_outlier_moves_no_prediction_by_more_than_a_seventh(odd: float, credits_used: float, varied: bool) -> None:
    """Not even for splits of another size: a slope by plain least squares would follow the odd one a long way."""
    usual = lognormal(20, median=60, sigma=0.2)
    if not varied:
        usual = [(180.0, seconds) for _, seconds in usual]
    before = taught(usual)
    after = taught([*usual[:10], (credits_used, odd), *usual[10:]])
    for size in (120.0, 180.0, 300.0):
        assert after.median(size) == pytest.approx(before.median(size), rel=1 / 7)
        assert quantile(after, size, 0.95) == pytest.approx(quantile(before, size, 0.95), rel=0.35)


def test_the_check_above_would_notice_a_mean() -> None:
    usual = [seconds for _, seconds in lognormal(20, median=60, sigma=0.2)]
    mean = math.fsum(map(math.log, usual)) / 20
    odd = math.fsum(map(math.log, [*usual, 60_000.0])) / 21
    assert math.exp(odd - mean) > 1.3


def test_a_clock_of_whole_minutes_is_good_enough() -> None:
    coarse = [(size, 60.0 * round(seconds / 60)) for size, seconds in lognormal(64, median=150, sigma=0.25)]
    model = taught(coarse)
    assert model.median(180) == pytest.approx(150, rel=0.25)


@pytest.mark.parametrize("factor", [0.2, 5.0])
def test_a_changed_speed_is_followed_within_its_memory(factor: float) -> None:
    model = taught(lognormal(64, median=60, sigma=0.2))
    for size, seconds in lognormal(64, median=60 * factor, sigma=0.2, seed=3):
        model.learn(size, seconds)
    assert model.median(180) == pytest.approx(60 * factor, rel=0.15)
    assert model.spread < 0.35
    assert model.observations == 64


def test_half_of_its_memory_is_enough_to_be_on_the_new_side() -> None:
    model = taught(lognormal(64, median=60, sigma=0.2))
    for size, seconds in lognormal(40, median=300, sigma=0.2, seed=3):
        model.learn(size, seconds)
    assert model.median(180) > 150


@pytest.mark.parametrize("spread", [0.0, 0.2])
@pytest.mark.parametrize("age", [70.0, 90.0, 200.0, 2000.0, 1e6])
def test_splits_that_run_on_move_the_median_up_however_far_they_are_beyond_it(spread: float, age: float) -> None:
    finished = lognormal(20, median=60, sigma=spread)
    model = taught(finished)
    before = model.median(180)
    model.refit([(180.0, age)] * 60)
    assert model.median(180) > before


def test_more_extreme_ages_never_say_less() -> None:
    def after(age: float) -> float:
        model = taught([(180.0, 60.0)] * 20)
        model.refit([(180.0, age)] * 30)
        return model.median(180)

    medians = [after(60 * 1.03**step) for step in range(120)]
    assert all(later >= earlier * 0.999 for earlier, later in itertools.pairwise(medians))


def test_splits_that_have_only_begun_say_nothing() -> None:
    model = taught(lognormal(20, median=60, sigma=0.2))
    before = (model.median(180), model.spread)
    model.refit([(180.0, age) for age in (0.0, 1.0, 5.0, 20.0)] * 16)
    assert (model.median(180), model.spread) == before


def test_what_runs_counts_against_learning_from_the_quick_ones_alone() -> None:
    """A hundred splits begin together; after 60 s half are done. The truth is a median of 60."""
    times = [seconds for _, seconds in lognormal(100, median=60, sigma=0.5, seed=5)]
    quick = [(180.0, seconds) for seconds in times if seconds <= 60]
    biased = taught(quick)
    fair = taught(quick)
    for _ in range(5):
        fair.refit([(180.0, 60.0)] * (100 - len(quick)))
    truth = sorted(times)[50]
    assert abs(math.log(fair.median(180) / truth)) < abs(math.log(biased.median(180) / truth)) / 2


anything = st.floats(allow_nan=True, allow_infinity=True)


@settings(max_examples=150)
@given(
    finished=st.lists(st.tuples(anything, anything), max_size=12),
    running=st.lists(st.tuples(anything, anything), max_size=12),
    asked=anything,
)
def test_no_input_makes_a_prediction_that_is_not_a_positive_number(
    finished: Finished, running: Finished, asked: float
) -> None:
    model = ProcessingModel(60.0)
    for credits_used, seconds in finished:
        model.learn(credits_used, seconds, running=running)
    model.refit(running)
    quantiles = [quantile(model, asked, fraction) for fraction in (1e-9, 0.02, 0.5, 0.7, 0.95, 1 - 1e-9)]
    for value in (*quantiles, model.median(asked), model.spread):
        assert 0 < value < math.inf
    assert quantiles == sorted(quantiles)


@pytest.mark.parametrize("age", [70.0, 80.0, 100.0, 150.0])
@pytest.mark.parametrize("finished", [3, 10, 20])
@pytest.mark.parametrize("running", [20, 64])
def test_many_splits_that_run_longer_than_usual_do_not_make_it_waver(age: float, finished: int, running: int) -> None:
    model = ProcessingModel(60.0)
    for number in range(finished):
        model.learn(180, 60 * (1 + 0.05 * (number - finished / 2)))
    medians = []
    for _ in range(20):
        model.refit([(180, age)] * running)
        medians.append(model.median(180))
    assert all(later >= 0.98 * before for before, later in pairwise(medians))
    assert quantile(model, 180, 0.9) > age
