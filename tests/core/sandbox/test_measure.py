import numpy as np
import pytest
from hypothesis import given, strategies as st

from aistemsplitter_async.sandbox.separation.measure import improvement, si_sdr

RNG = np.random.default_rng(7)
VOICE = RNG.standard_normal((2_000, 2))
NOISE = RNG.standard_normal((2_000, 2))
NOISE -= VOICE * np.sum(NOISE * VOICE) / np.sum(VOICE * VOICE)  # nothing in common
NOISE *= np.sqrt(np.sum(VOICE**2) / np.sum(NOISE**2))  # equally loud


@given(level=st.floats(-60, 60))
def test_an_orthogonal_error_counts_by_its_energy(level: float) -> None:
    estimate = VOICE + NOISE * 10 ** (-level / 20)
    assert si_sdr(estimate, VOICE) == pytest.approx(level, abs=1e-6)


@given(gain=st.floats(1e-3, 1e3), sign=st.sampled_from([-1, 1]))
def test_the_gain_of_the_estimate_does_not_matter(gain: float, sign: int) -> None:
    estimate = VOICE + 0.3 * NOISE
    assert si_sdr(estimate * gain * sign, VOICE) == pytest.approx(si_sdr(estimate, VOICE), abs=1e-6)


def test_a_perfect_estimate_is_infinitely_good() -> None:
    assert si_sdr(VOICE, VOICE) == float("inf")


def test_silence_instead_of_a_voice_is_infinitely_bad() -> None:
    assert si_sdr(np.zeros_like(VOICE), VOICE) == float("-inf")


def test_a_silent_part_is_found_by_silence_and_missed_by_anything_else() -> None:
    assert si_sdr(np.zeros_like(VOICE), np.zeros_like(VOICE)) == float("inf")
    assert si_sdr(VOICE, np.zeros_like(VOICE)) == float("-inf")


def test_doing_nothing_improves_nothing() -> None:
    mix = VOICE + NOISE
    assert improvement(mix, VOICE, mix) == 0.0


def test_halving_the_noise_improves_by_six_decibels() -> None:
    mix = VOICE + NOISE
    assert improvement(VOICE + NOISE / 2, VOICE, mix) == pytest.approx(20 * np.log10(2))


def test_signals_of_different_length_are_not_compared() -> None:
    with pytest.raises(ValueError, match="shape"):
        si_sdr(VOICE[:-1], VOICE)
