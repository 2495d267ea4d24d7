"""Mixes: real files in, one real file out, compared sample by sample."""

from __future__ import annotations

import errno
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from aistemsplitter_async._transfer import sound
from aistemsplitter_async._transfer.mixing import StoppedError, mix_stems
from aistemsplitter_async._transfer.partfile import PartFile
from aistemsplitter_async.errors import DownloadError, MixError

RATE = 44_100
BLOCK = 8192
FRAMES = 5 * BLOCK + 77  # some blocks, and no number of MP3's frames
RNG = np.random.default_rng(15)
Samples = NDArray[Any]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sound, "MIX_BLOCK_FRAMES", BLOCK)


def noise(level: float, frames: int = FRAMES) -> Samples:
    samples: Samples = RNG.uniform(-level, level, (frames, 2))
    return samples


def tones(*frequencies: float) -> Samples:
    """Return what MP3 encodes well: tones that begin at a moment, so that an offset would be seen."""
    time = np.arange(FRAMES) / RATE
    swell = np.exp(-6 * (time[:, None] % 0.7)) * (time[:, None] > 0.1)
    samples: Samples = 0.3 * swell * np.sin(2 * np.pi * time[:, None] * np.array(frequencies))
    return samples


def write(
    path: Path, samples: Samples, *, rate: int = RATE, form: str = "WAV", kind: str = "PCM_16", **how: Any
) -> Path:
    with soundfile.SoundFile(path, "w", rate, samples.shape[1], kind, format=form, **how) as file:
        file.write(samples)
    return path


def write_mp3(path: Path, samples: Samples, kilobits: int | None = None) -> Path:
    """Write an MP3 of a constant bitrate, or of the best variable one."""
    constant: dict[str, Any] = {"bitrate_mode": "CONSTANT", "compression_level": (320 - (kilobits or 320)) / 289}
    variable: dict[str, Any] = {"bitrate_mode": "VARIABLE", "compression_level": 0.0}
    return write(path, samples, form="MP3", kind="MPEG_LAYER_III", **(constant if kilobits else variable))


def read(path: Path, kind: str = "float64") -> Samples:
    samples: Samples = soundfile.read(path, dtype=kind, always_2d=True)[0]
    return samples


def mix(folder: Path, **stems: Path) -> tuple[Path, float]:
    """Return the mix of `stems`, and its gain in dB."""
    part = PartFile(folder / ".mix.part")
    with closing(part):
        gain_db = mix_stems("mix", stems, part)
        assert part.size == part.path.stat().st_size > 0
    return part.path, gain_db


@contextmanager
def refused(folder: Path, stem: str, reason: str, **stems: Path) -> Iterator[None]:
    with pytest.raises(MixError, match=reason) as raised:
        mix(folder, **stems)
    assert (raised.value.mix, raised.value.stem) == ("mix", stem)
    assert not (folder / ".mix.part").exists()
    yield


@pytest.mark.parametrize(
    ("form", "kind"),
    [
        ("WAV", "PCM_U8"),
        ("WAV", "PCM_16"),
        ("WAV", "FLOAT"),
        ("WAVEX", "PCM_24"),
        ("RF64", "PCM_24"),
        ("AIFF", "PCM_16"),
        ("FLAC", "PCM_24"),
    ],
)
def test_a_mix_is_the_exact_sum_in_the_format_of_the_stems(tmp_path: Path, form: str, kind: str) -> None:
    level = 2.0 if kind == "FLOAT" else 0.4  # floats do not clip
    paths = {name: write(tmp_path / name, noise(level), form=form, kind=kind) for name in ("drums", "bass")}

    mixed, gain_db = mix(tmp_path, **paths)

    assert gain_db == 0
    assert np.array_equal(read(mixed), (read(paths["drums"]) + read(paths["bass"])).astype(np.float32))
    made, stem = soundfile.info(mixed), soundfile.info(paths["bass"])
    for what in ("format", "subtype", "samplerate", "channels", "frames", "endian"):
        assert getattr(made, what) == getattr(stem, what)


@pytest.mark.parametrize("kind", ["PCM_16", "PCM_24"])
def test_a_sum_that_would_clip_has_one_gain_that_can_be_undone(tmp_path: Path, kind: str) -> None:
    quiet, loud = noise(0.2), noise(0.9)
    quiet[-1], loud[-1] = -1.0, -1.0  # at the very end, when most of it is written
    paths = {"drums": write(tmp_path / "a", quiet, kind=kind), "bass": write(tmp_path / "b", loud, kind=kind)}

    mixed, gain_db = mix(tmp_path, **paths)

    step = 2.0 ** (1 - int(kind[-2:]))
    assert gain_db == round(gain_db, 2) == -6.03  # just below a half
    expected = read(paths["drums"]) + read(paths["bass"])
    assert np.abs(read(mixed) * 10 ** (-gain_db / 20) - expected).max() <= step * 1.01
    assert np.abs(read(mixed)).max() >= 0.998


def test_full_scale_is_not_clipping(tmp_path: Path) -> None:
    lowest, highest = np.full((9, 1), -32768, np.int16), np.full((9, 1), 32767, np.int16)
    silent = np.zeros((9, 1), np.int16)
    for samples in (lowest, highest):
        mixed, gain_db = mix(tmp_path, drums=write(tmp_path / "a", samples), bass=write(tmp_path / "b", silent))
        assert gain_db == 0
        assert np.array_equal(read(mixed, "int16"), samples)
    assert mix(tmp_path, drums=write(tmp_path / "a", lowest), bass=write(tmp_path / "b", silent - 1))[1] == -0.01


def test_the_most_precise_stem_decides_how_precise_the_mix_is(tmp_path: Path) -> None:
    rough, fine = write(tmp_path / "a", noise(0.4)), write(tmp_path / "b", noise(0.4), kind="PCM_24")
    for pair in ({"a": rough, "b": fine}, {"a": fine, "b": rough}):
        mixed, _ = mix(tmp_path, **pair)
        assert soundfile.info(mixed).subtype == "PCM_24"
        assert np.array_equal(read(mixed), read(rough) + read(fine))


@pytest.mark.parametrize("kilobits", [None, 192, 32])
def test_an_mp3_begins_and_ends_where_its_stems_do(tmp_path: Path, kilobits: int | None) -> None:
    first, second = tones(440, 700), tones(3000, 2500)
    paths = {"a": write_mp3(tmp_path / "a", first, kilobits), "b": write_mp3(tmp_path / "b", second, kilobits)}

    mixed, gain_db = mix(tmp_path, **paths)

    assert gain_db == 0
    expected = read(paths["a"]) + read(paths["b"])
    decoded = [read(mixed)]
    if shutil.which("ffmpeg"):
        command = ["ffmpeg", "-v", "error", "-i", str(mixed), "-f", "f32le", "-"]
        raw = subprocess.run(command, capture_output=True, check=True).stdout
        decoded.append(np.frombuffer(raw, np.float32).reshape(-1, 2))
    for samples in decoded:
        assert len(samples) == len(expected)
        assert np.std(samples - expected) < np.std(expected) * (0.5 if kilobits == 32 else 0.1)
    bits = mixed.stat().st_size * 8 * RATE / FRAMES / 1000
    assert kilobits is None or 0.95 < bits / max(kilobits, 64) < 1.2


def test_the_blocks_of_an_mp3_are_what_it_decodes_to_at_once(tmp_path: Path) -> None:
    """A decoder that is told to seek to where it is, after each block, loses what the next frame leans on."""
    path = write_mp3(tmp_path / "a", tones(440, 700))
    with sound._Reader("a", path) as reader:
        blocks = [reader.read(reader.layout) for _ in range(FRAMES // BLOCK + 2)]
    assert np.array_equal(np.concatenate(blocks), read(path))


def test_an_mp3_that_would_clip_when_it_is_decoded_is_turned_down(tmp_path: Path) -> None:
    loud = tones(440, 440) * 3
    paths = {"a": write_mp3(tmp_path / "a", loud), "b": write_mp3(tmp_path / "b", loud)}
    mixed, gain_db = mix(tmp_path, **paths)
    assert -5.5 < gain_db < -4.5
    assert 0.98 < np.abs(read(mixed)).max() < 1.02
    assert np.std(read(mixed) * 10 ** (-gain_db / 20) - 2 * read(paths["a"])) < 0.01


def test_an_mp3_that_does_not_say_how_long_it_is_is_mixed_to_its_end(tmp_path: Path) -> None:
    samples = tones(440, 700)
    samples[: RATE // 9] = RNG.uniform(-0.2, 0.2, (RATE // 9, 2))  # a high bitrate at first: a decoder expects no more
    whole = write_mp3(tmp_path / "whole", samples).read_bytes()
    bare = tmp_path / "bare"
    bare.write_bytes(whole[whole.index(b"\xff\xfb", 4) :])  # without the frame that counts the others
    assert soundfile.info(bare).frames < FRAMES * 0.9
    mixed, _ = mix(tmp_path, drums=bare, bass=bare)
    made = read(mixed)
    assert FRAMES <= len(made) < FRAMES + 2500
    assert np.abs(made[-RATE // 4 :]).max() > 0.05


def test_a_stem_that_ends_a_little_early_is_silent_from_there_on(tmp_path: Path) -> None:
    short, whole = noise(0.4, FRAMES - 1152), noise(0.4)
    for pair in ({"a": short, "b": whole}, {"a": whole, "b": short}):
        mixed, _ = mix(tmp_path, **{name: write(tmp_path / name, samples) for name, samples in pair.items()})
        made = read(mixed)
        assert len(made) == FRAMES
        assert np.abs(made[len(short) :] - whole[len(short) :]).max() < 1e-4


def test_stems_that_cannot_be_summed_are_named(tmp_path: Path) -> None:
    good = write(tmp_path / "good", noise(0.1))
    text = tmp_path / "text"
    text.write_bytes(b"<html>" * 999)
    nan = noise(0.1)
    nan[-5, 0] = np.nan
    broken = tmp_path / "broken"
    flac = write(tmp_path / "flac", noise(0.1), form="FLAC").read_bytes()
    broken.write_bytes(flac[: len(flac) // 2])
    for path, reason in {
        write(tmp_path / "short", noise(0.1, FRAMES - RATE // 2)): r"is 0\.43 s long, and good is 0\.93 s",
        write(tmp_path / "slow", noise(0.1), rate=22_050): "has a sampling rate of 22050 Hz, and good has a sampling",
        write(tmp_path / "mono", noise(0.1)[:, :1]): "has 1 channels, and good has 2",
        write(tmp_path / "mp3", noise(0.1), form="MP3", kind="MPEG_LAYER_III"): "has the format MP3, and good has the",
        write(tmp_path / "law", noise(0.1), kind="ULAW"): "has samples of the kind ULAW",
        write(tmp_path / "nan", nan, kind="FLOAT"): "has samples that are not numbers",
        write(tmp_path / "ogg", noise(0.1, 999), form="OGG", kind="VORBIS"): "has the format OGG, of which no mix",
        text: "cannot be decoded as audio",
        tmp_path / "missing": "cannot be decoded as audio",
    }.items():
        with refused(
            tmp_path, "drums", f"the mix 'mix' was not made: the stem 'drums' .*{reason}", good=good, drums=path
        ):
            pass
    whole = tmp_path / "flac"
    with refused(tmp_path, "drums", "is damaged: it cannot be decoded past|is 0.* s long", good=whole, drums=broken):
        pass


def test_a_mix_that_is_stopped_ends_within_a_block_and_leaves_nothing(tmp_path: Path) -> None:
    stem = write(tmp_path / "stem", noise(0.1, 5 * BLOCK))
    asked = iter([False, False, True])
    with closing(PartFile(tmp_path / ".mix.part")) as part, pytest.raises(StoppedError):
        mix_stems("mix", {"drums": stem}, part, lambda: next(asked))
    assert not part.path.exists()
    assert next(asked, None) is None


def test_a_disk_that_takes_no_more_is_told_as_such(tmp_path: Path) -> None:
    stem = write(tmp_path / "stem", noise(0.1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(DownloadError, match=r"cannot write .*File too large") as raised:
            mix(tmp_path, drums=stem)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert raised.value.code == "DISK"
    assert isinstance(raised.value.__cause__, OSError)
    assert raised.value.__cause__.errno == errno.EFBIG  # by ENOSPC and EDQUOT, a batch waits
    assert not (tmp_path / ".mix.part").exists()
