import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from aistemsplitter_async.sandbox.separation import demo_song
from aistemsplitter_async.sandbox.separation.__main__ import main
from aistemsplitter_async.sandbox.separation.masks import CONTEXT_WINDOWS, build_masks, running_median
from aistemsplitter_async.sandbox.separation.measure import improvement
from aistemsplitter_async.sandbox.separation.overlap_add import (
    GROUP_WINDOWS,
    OVERLAP,
    OverlapAdd,
    analyse,
    window_frames,
    with_context,
)
from aistemsplitter_async.sandbox.separation.separate import STEMS, separate
from aistemsplitter_async.sandbox.separation.stems import share_overs, split_blocks

Samples = NDArray[np.float32]

RATE = 8_000  # Hz; the small one, where the test is not about the rate
SIZE = window_frames(RATE)
HOP = SIZE // OVERLAP
ADDS_UP = -60.0  # dB: what the stems may leave over or add, against the mix
RECOVERED = 4.0  # dB of SI-SDR over doing nothing; measured: 12 vocals, 8 drums, 7 bass, 8 other


def noise(frames: int, channels: int = 2) -> Samples:
    return np.random.default_rng(frames).uniform(-0.5, 0.5, (frames, channels)).astype(np.float32)


def blocks_of(samples: Samples, length: int) -> Iterator[Samples]:
    for start in range(0, len(samples), length):
        yield samples[start : start + length]


def split(mix: Samples, sample_rate: int = RATE, stem_model: str = "4s", block: int = 65_536) -> dict[str, Samples]:
    names = STEMS[stem_model]
    parts = np.concatenate(list(split_blocks(blocks_of(mix, block), sample_rate, names)), axis=1)
    return dict(zip(names, parts, strict=True))


def residual(stems: dict[str, Samples], mix: Samples) -> float:
    """Return the energy of what the stems do not add up to, in dB against the mix."""
    total = np.sum([stem.astype(np.float64) for stem in stems.values()], axis=0)
    assert total.shape == mix.shape
    return float(10 * np.log10((np.sum((total - mix) ** 2) + 1e-30) / np.sum(mix.astype(np.float64) ** 2)))


@pytest.mark.parametrize("stem_model", STEMS)
@pytest.mark.parametrize(
    "frames",
    [1, 2, HOP - 1, HOP, HOP + 1, SIZE - 1, SIZE, SIZE + 1, HOP * GROUP_WINDOWS, HOP * (GROUP_WINDOWS + 3) + 1],
)
def test_the_stems_add_up_to_the_mix_at_any_length(frames: int, stem_model: str) -> None:
    mix = noise(frames)
    assert residual(split(mix, stem_model=stem_model), mix) < ADDS_UP


@settings(max_examples=20, deadline=None)
@given(frames=st.integers(1, 3 * SIZE), block=st.integers(1, 2 * SIZE))
def test_how_the_audio_arrives_makes_no_difference(frames: int, block: int) -> None:
    mix = noise(frames)
    whole, pieces = split(mix), split(mix, block=block)
    for stem, samples in whole.items():
        assert np.array_equal(samples, pieces[stem])


@pytest.mark.parametrize("sample_rate", [4_000, 8_000, 22_050, 44_100, 48_000, 96_000, 192_000])
def test_the_stems_add_up_to_the_mix_at_any_sample_rate(sample_rate: int) -> None:
    mix = noise(sample_rate // 3)
    assert residual(split(mix, sample_rate), mix) < ADDS_UP


def test_the_stems_add_up_at_the_very_start_at_the_very_end_and_between_groups() -> None:
    mix = noise(HOP * (GROUP_WINDOWS + 40))
    stems = split(mix)
    border = HOP * GROUP_WINDOWS
    for place in (slice(0, HOP), slice(border - SIZE, border + SIZE), slice(-HOP, None)):
        assert residual({name: stem[place] for name, stem in stems.items()}, mix[place]) < ADDS_UP


@pytest.mark.parametrize("stem_model", STEMS)
def test_silence_gives_silent_stems(stem_model: str) -> None:
    for stem in split(np.zeros((3 * SIZE, 2), dtype=np.float32), stem_model=stem_model).values():
        assert not stem.any()


@pytest.mark.parametrize("level", [1.0, 1.5])
def test_a_mix_driven_into_clipping_still_is_the_sum_of_stems_within_full_scale(level: float) -> None:
    time = np.arange(RATE * 2)[:, None] / RATE
    mix = np.clip(9 * np.sin(2 * np.pi * time * [110, 111]), -level, level).astype(np.float32)
    stems = split(mix)
    assert max(np.abs(stem).max() for stem in stems.values()) <= 1.0
    assert residual(stems, mix) < ADDS_UP


@given(st.lists(st.lists(st.floats(-3, 3, width=32), min_size=4, max_size=4), min_size=1, max_size=8))
def test_overs_are_shared_without_changing_the_sum(rows: list[list[float]]) -> None:
    stems = np.array(rows, dtype=np.float32).T[:, :, None]
    shared = share_overs(stems)
    assert np.abs(shared).max() <= 1.0
    np.testing.assert_allclose(shared.sum(axis=0), np.clip(stems.sum(axis=0), -4, 4), atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 60), st.integers(2, 70)),
    level=st.sampled_from([0.0, 1e-12, 1e-3, 1.0, 1e4]),
    same=st.booleans(),
    stem_model=st.sampled_from(sorted(STEMS)),
)
def test_the_masks_are_shares_that_sum_to_one(
    seed: int, shape: tuple[int, int], level: float, same: bool, stem_model: str
) -> None:
    windows, bins = shape
    rng = np.random.default_rng(seed)
    spectra = (level * rng.standard_normal((2, windows, 2 * bins))).astype(np.float32).view(np.complex64)
    if same:
        spectra[1] = spectra[0]
    frequencies = np.linspace(0, 22_050, bins, dtype=np.float32)
    due = slice(windows // 3, windows)
    masks = dict(build_masks(spectra, due, frequencies, STEMS[stem_model]))
    assert sorted(masks) == sorted(STEMS[stem_model])
    for mask in masks.values():
        assert mask.dtype == np.float32
        assert mask.shape == (windows - due.start, bins)
        assert mask.min() >= 0
    np.testing.assert_allclose(np.sum(list(masks.values()), axis=0), 1, atol=1e-6)


def test_a_stem_without_a_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="kazoo"):
        list(split_blocks([noise(10)], RATE, ("kazoo", "other")))


@given(
    length=st.sampled_from([1, 3, 17]), axis=st.sampled_from([0, 1]), rows=st.integers(20, 30), seed=st.integers(0, 99)
)
def test_the_running_median_is_the_median_of_its_neighbours(length: int, axis: int, rows: int, seed: int) -> None:
    plane = np.random.default_rng(seed).random((rows, 25)).astype(np.float32)
    half = length // 2
    filtered = np.moveaxis(running_median(plane, length, axis=axis), axis, 0)
    lines = np.moveaxis(plane, axis, 0)
    for at in range(half, len(lines) - half):
        np.testing.assert_array_equal(filtered[at], np.median(lines[at - half : at + half + 1], axis=0))


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12), context=st.integers(0, 10))
def test_every_window_is_due_once_and_sees_its_context(lengths: list[int], context: int) -> None:
    numbers = np.arange(sum(lengths)).astype(np.complex64)
    groups = [group.reshape(1, -1, 1) for group in np.split(numbers, np.cumsum(lengths)[:-1])]
    seen: list[float] = []
    for held, due in with_context(groups, context):
        first, last = held[0, 0, 0].real, held[0, -1, 0].real
        seen += held[0, due, 0].real.tolist()
        assert first <= max(0, held[0, due.start, 0].real - context)
        assert last >= min(len(numbers) - 1, held[0, due.stop - 1, 0].real + context)
    assert seen == numbers.real.tolist()


def test_spectra_held_at_once_do_not_grow_with_the_song() -> None:
    seconds_of_noise = (noise(RATE) for _ in range(60))
    held = [spectra.shape[1] for spectra, _ in with_context(analyse(seconds_of_noise, SIZE), CONTEXT_WINDOWS)]
    assert max(held) <= GROUP_WINDOWS + 2 * CONTEXT_WINDOWS + 2 * OVERLAP


def test_a_tone_survives_decimation_and_one_above_the_new_range_is_gone() -> None:
    time = np.arange(4 * SIZE)[:, None] / RATE
    tones = [np.sin(2 * np.pi * time * [hertz, hertz]).astype(np.float32) for hertz in (500, 3_000)]
    kept, gone = (decimated(tone, 2) for tone in tones)
    inside = slice(SIZE, SIZE * 3 // 2)
    np.testing.assert_allclose(kept[inside], tones[0][::2][inside], atol=0.01)
    assert np.abs(gone[inside]).max() < 0.01


def decimated(samples: Samples, decimation: int) -> Samples:
    signal = OverlapAdd(SIZE, decimation)
    return np.concatenate([signal.add(group) for group in analyse([samples], SIZE)])[signal.latency :]


@pytest.fixture(scope="module")
def song() -> demo_song.DemoSong:
    return demo_song.render()


@pytest.fixture(scope="module")
def stems(song: demo_song.DemoSong) -> dict[str, Samples]:
    return split(song.mix, song.sample_rate)


def test_every_part_of_the_demo_song_is_recovered_much_better_than_the_mix(
    song: demo_song.DemoSong, stems: dict[str, Samples]
) -> None:
    gains = {name: improvement(stems[name], part, song.mix) for name, part in song.parts.items()}
    assert min(gains.values()) > RECOVERED, gains


def test_the_parts_are_recovered_even_from_mono(song: demo_song.DemoSong) -> None:
    mono = {name: in_mono(part) for name, part in song.parts.items()}
    mix = in_mono(song.mix)
    stems = split(mix, song.sample_rate)
    gains = {name: improvement(stems[name], part, mix) for name, part in mono.items()}
    assert min(gains.values()) > RECOVERED, gains


def in_mono(samples: Samples) -> Samples:
    both: Samples = np.repeat(samples.mean(axis=1, keepdims=True), 2, axis=1)
    return both


def test_stems_handed_out_under_each_others_names_would_be_noticed(
    song: demo_song.DemoSong, stems: dict[str, Samples]
) -> None:
    rotated = dict(zip(stems, [*list(stems.values())[1:], stems["vocals"]], strict=True))
    gains = {name: improvement(rotated[name], part, song.mix) for name, part in song.parts.items()}
    assert max(gains.values()) < RECOVERED, gains


def test_six_stems_share_out_what_four_stems_call_other(song: demo_song.DemoSong) -> None:
    four = split(song.mix[: 2 * song.sample_rate], song.sample_rate)
    six = split(song.mix[: 2 * song.sample_rate], song.sample_rate, "6s")
    np.testing.assert_allclose(six["guitar"] + six["piano"] + six["other"], four["other"], atol=1e-5)
    assert all(stem.any() for stem in six.values())


def store(path: Path, samples: Samples, sample_rate: int) -> Path:
    soundfile.write(path, samples, sample_rate, "PCM_16", format="WAV")
    return path


@pytest.mark.parametrize(("stem_model", "channels"), [("4s", 1), ("6s", 2)])
def test_wav_stems_add_up_to_the_file(tmp_path: Path, stem_model: str, channels: int) -> None:
    source = store(tmp_path / "mix.wav", noise(RATE + 1, channels), RATE)
    result = separate(source, tmp_path / "stems", stem_model=stem_model, output_format="wav")
    assert (result.seconds, result.sample_rate) == ((RATE + 1) / RATE, RATE)
    assert dict(result.stems) == {stem: f"{stem}.wav" for stem in STEMS[stem_model]}
    stems = {name: soundfile.read(tmp_path / "stems" / file, dtype="float32")[0] for name, file in result.stems.items()}
    mix = np.broadcast_to(soundfile.read(source, dtype="float32", always_2d=True)[0], (RATE + 1, 2))
    assert residual(stems, mix) < ADDS_UP


@pytest.mark.parametrize(("sample_rate", "written_rate"), [(44_100, 44_100), (96_000, 48_000)])
def test_mp3_stems_come_at_a_rate_mp3_has_and_nearly_add_up(
    tmp_path: Path, sample_rate: int, written_rate: int
) -> None:
    time = np.arange(sample_rate)[:, None] / sample_rate
    mix = (0.3 * np.sin(2 * np.pi * time * [440, 441]) + 0.2 * np.sin(2 * np.pi * time * 90)).astype(np.float32)
    result = separate(store(tmp_path / "mix.wav", mix, sample_rate), tmp_path, stem_model="4s", output_format="mp3")
    assert (result.sample_rate, result.seconds) == (written_rate, 1.0)
    stems = {name: soundfile.read(tmp_path / file, dtype="float32")[0] for name, file in result.stems.items()}
    assert residual(stems, mix[:: sample_rate // written_rate]) < -25.0  # the codec's own error


@pytest.mark.parametrize(("stem_model", "output_format"), [("5s", "wav"), ("htdemucs_ft", "wav"), ("4s", "aac")])
def test_an_unknown_model_or_format_is_refused_by_name(tmp_path: Path, stem_model: str, output_format: str) -> None:
    source = store(tmp_path / "mix.wav", noise(10), RATE)
    with pytest.raises(ValueError, match=stem_model if output_format == "wav" else output_format):
        separate(source, tmp_path / "stems", stem_model=stem_model, output_format=output_format)
    assert not (tmp_path / "stems").exists()


def test_a_file_that_breaks_off_leaves_no_stem_behind(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "song.flac", noise(RATE * 40), RATE)
    whole = (tmp_path / "song.flac").read_bytes()
    (tmp_path / "song.flac").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cannot be decoded past"):
        separate(tmp_path / "song.flac", tmp_path / "stems", stem_model="4s", output_format="wav")
    assert not list((tmp_path / "stems").iterdir())


def run(*arguments: object) -> dict[str, object]:
    """Run the command in a process of its own, as the server does, and return its one line."""
    command = [sys.executable, "-m", "aistemsplitter_async.sandbox.separation", *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.count("\n") == 1
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def test_the_command_separates_and_answers_in_one_line(tmp_path: Path) -> None:
    source = store(tmp_path / "mix.wav", noise(RATE), RATE)
    answer = run("separate", source, tmp_path / "stems", "--stem-model", "4s", "--output-format", "wav")
    stems = {stem: f"{stem}.wav" for stem in STEMS["4s"]}
    assert answer == {"ok": True, "seconds": 1.0, "sample_rate": RATE, "stems": stems}
    assert sorted(path.name for path in (tmp_path / "stems").iterdir()) == sorted(stems.values())


def test_the_command_probes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", str(store(tmp_path / "mix.wav", noise(RATE // 2), RATE))]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "ok": True, "frames": RATE // 2, "sample_rate": RATE, "channels": 2, "seconds": 0.5, "format": "WAV"
    }  # fmt: skip


@pytest.mark.parametrize("command", [["probe"], ["separate", "--stem-model", "4s"]])
@pytest.mark.parametrize("content", [b"la la la", None])
def test_a_failure_of_the_command_is_one_line_without_a_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str], content: bytes | None
) -> None:
    source = tmp_path / "song.mp3"
    if content is not None:
        source.write_bytes(content)
    into = [] if command == ["probe"] else [str(tmp_path / "stems")]
    assert main([command[0], str(source), *into, *command[1:]]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is False
    assert answer["message"]
    assert str(tmp_path) not in answer["message"]


def test_knowing_the_stems_costs_no_numpy() -> None:
    code = (
        "import sys; from aistemsplitter_async.sandbox.separation.separate import STEMS; "
        "print([name for name in ('numpy', 'scipy', 'soundfile') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
