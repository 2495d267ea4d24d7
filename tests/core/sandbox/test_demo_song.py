import numpy as np
import pytest

from aistemsplitter_async.sandbox.separation.demo_song import DemoSong, render
from aistemsplitter_async.sandbox.separation.separate import STEMS


@pytest.fixture(scope="module")
def song() -> DemoSong:
    return render()


def test_the_parts_are_those_of_a_four_stem_split(song: DemoSong) -> None:
    assert sorted(song.parts) == sorted(STEMS["4s"])


def test_it_is_a_short_stereo_piece(song: DemoSong) -> None:
    assert song.mix.dtype == np.float32
    assert song.mix.shape[1] == 2
    assert 12 <= len(song.mix) / song.sample_rate <= 20
    assert {part.shape for part in song.parts.values()} == {song.mix.shape}


def test_the_mix_is_exactly_the_sum_of_the_parts(song: DemoSong) -> None:
    parts = song.parts
    assert np.array_equal(song.mix, parts["vocals"] + parts["drums"] + parts["bass"] + parts["other"])


def test_nothing_clips(song: DemoSong) -> None:
    assert 0.5 < np.abs(song.mix).max() <= 0.9


def test_every_run_renders_the_same_song(song: DemoSong) -> None:
    assert np.array_equal(render().mix, song.mix)


def test_no_part_drowns_the_others(song: DemoSong) -> None:
    loudness = {name: 10 * np.log10(np.mean(part**2)) for name, part in song.parts.items()}
    assert max(loudness.values()) - min(loudness.values()) < 6, loudness


@pytest.mark.parametrize(
    ("one", "two", "least"), [("vocals", "other", 0.5), ("bass", "drums", 0.2), ("vocals", "bass", 0.02)]
)
def test_the_parts_overlap_in_frequency_as_a_band_does(song: DemoSong, one: str, two: str, least: float) -> None:
    # How much of each octave's energy two parts share, over all octaves; parts in separate bands would share nothing.
    assert shared_octaves(song, one, two) > least


def shared_octaves(song: DemoSong, one: str, two: str) -> float:
    profiles = []
    for name in (one, two):
        spectrum = np.abs(np.fft.rfft(song.parts[name].mean(axis=1))) ** 2
        octaves = np.floor(np.log2(np.arange(1, len(spectrum)) / len(song.mix) * song.sample_rate)).clip(4)
        energies = np.bincount(octaves.astype(int), weights=spectrum[1:])
        profiles.append(energies / energies.sum())
    return float(np.minimum(*profiles).sum())
