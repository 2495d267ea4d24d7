import io
import struct
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, strategies as st
from numpy.typing import NDArray

from aistemsplitter_async.sandbox.separation.audio_files import (
    BLOCK_FRAMES,
    MP3_SAMPLE_RATES,
    UndecodableAudioError,
    open_audio_writer,
    plan_decimation,
    probe,
    read_blocks,
)
from aistemsplitter_async.sandbox.separation.wav import find_samples
from benchmarks.damage import lying, notes

RATE = 44_100
NOTE = (0.3 * np.sin(np.arange(BLOCK_FRAMES + 4_321)[:, None] * [0.06, 0.05])).astype(np.float32)

# What the files are called, and how libsndfile is asked to write them.
FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}


def store(path: Path, samples: NDArray[np.float32], sample_rate: int = RATE, kind: str = "wav") -> Path:
    container, subtype = FORMATS[kind]
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    with soundfile.SoundFile(path, "w", sample_rate, channels, subtype, format=container) as audio:
        for start in range(0, len(samples), BLOCK_FRAMES):
            audio.write(samples[start : start + BLOCK_FRAMES])
    return path


def load(path: Path) -> NDArray[np.float32]:
    return np.concatenate(list(read_blocks(path)))


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_read_whole_in_bounded_blocks(tmp_path: Path, kind: str) -> None:
    rate = 48_000 if kind == "opus" else RATE
    path = store(tmp_path / f"note.{kind}", NOTE, rate, kind)
    info = probe(path)
    blocks = list(read_blocks(path))
    assert (info.frames, info.sample_rate, info.channels) == (len(NOTE), rate, 2)
    assert info.seconds == len(NOTE) / rate
    assert sum(map(len, blocks)) == len(NOTE)
    assert all(block.dtype == np.float32 and block.shape[1] == 2 for block in blocks)
    assert max(map(len, blocks)) <= BLOCK_FRAMES
    middle = slice(1_000, -1_000)  # a lossy codec has no before and no after to go by at the ends
    assert np.abs(np.concatenate(blocks) - NOTE)[middle].max() < 0.02


def test_mono_comes_out_on_both_sides(tmp_path: Path) -> None:
    path = store(tmp_path / "mono.wav", NOTE[:, 0])
    assert probe(path).channels == 1
    stereo = load(path)
    assert np.array_equal(stereo[:, 0], stereo[:, 1])
    np.testing.assert_allclose(stereo[:, 0], NOTE[:, 0], atol=1e-4)


def cut(path: Path, share: float) -> Path:
    whole = path.read_bytes()
    path.write_bytes(whole[: round(len(whole) * share)])
    return path


@pytest.mark.parametrize("kind", ["flac", "mp3"])
def test_a_compressed_file_that_holds_less_than_it_announces_is_refused(tmp_path: Path, kind: str) -> None:
    path = cut(store(tmp_path / f"note.{kind}", NOTE, kind=kind), 0.6)
    with pytest.raises(UndecodableAudioError, match=r"cut short|cannot be decoded") as caught:
        load(path)
    assert str(tmp_path) not in str(caught.value)


def test_a_file_that_announces_a_few_milliseconds_too_much_is_as_long_as_it_sounds(tmp_path: Path) -> None:
    path = store(tmp_path / "note.flac", NOTE, kind="flac")
    whole = bytearray(path.read_bytes())
    whole[22:26] = struct.pack(">I", len(NOTE) + 100)  # the number of samples, but for its highest four bits
    path.write_bytes(whole)
    stereo = load(path)
    assert len(stereo) == probe(path).frames == len(NOTE)


WITHOUT_SAMPLES = {
    *("wav of 0x1", "wav of 0x2", "extensible of 0x1", "extensible of 0x2"),  # not a whole sample, by its header
    *("wav header", "extensible header", "rf64 header", "aiff header"),
    "ds64 8 0x1",
}


@pytest.mark.parametrize(("name", "audio"), list(lying()), ids=lambda case: case if isinstance(case, str) else "")
def test_what_a_recorder_left_when_it_crashed_is_read_to_its_end(tmp_path: Path, name: str, audio: bytes) -> None:
    path = tmp_path / "crashed.wav"
    path.write_bytes(audio)
    if name in WITHOUT_SAMPLES:
        with pytest.raises(UndecodableAudioError):
            load(path)
        return
    whole = load(store(tmp_path / "whole.wav", notes(0.3)))
    read = load(path)
    assert len(read) == probe(path).frames
    assert len(read) == len(whole) if "cut" not in name else len(whole) // 2 < len(read) < len(whole)
    np.testing.assert_allclose(read[:1_000], whole[:1_000], atol=1e-4)


def test_a_wav_that_is_really_empty_is_not_taken_for_a_crashed_one(tmp_path: Path) -> None:
    path = store(tmp_path / "empty.wav", NOTE[:0])
    path.write_bytes(path.read_bytes() + b"LIST" + struct.pack("<I", 40_000) + bytes(40_000))
    with pytest.raises(UndecodableAudioError, match="no audio"):
        load(path)


@given(junk=st.binary(max_size=80), header=st.sampled_from([b"", b"RIFF0000WAVE", b"RIFF0000WAVEfmt \x10\0\0\0"]))
def test_samples_are_found_in_any_bytes_without_an_error(junk: bytes, header: bytes) -> None:
    found = find_samples(io.BytesIO(header + junk + b"data" + junk))
    assert found is None or 0 <= found.length <= found.there


def test_a_flac_from_a_pipe_whose_length_was_never_filled_in_is_read_to_its_end(tmp_path: Path) -> None:
    path = store(tmp_path / "pipe.flac", NOTE, kind="flac")
    whole = bytearray(path.read_bytes())
    whole[21] &= 0xF0  # the number of samples is the 36 bits that end at byte 26
    whole[22:26] = bytes(4)
    path.write_bytes(whole)
    assert probe(path).frames == len(load(path)) == len(NOTE)


def variable_rate_mp3_without_length(path: Path) -> int:
    """Write an MP3 that begins quietly, at a low rate, and remove the frame that states its length."""
    quiet, loud = NOTE * np.float32(1e-4), np.random.default_rng(1).standard_normal(NOTE.shape).astype(np.float32)
    with open_audio_writer(path, "mp3", RATE) as write:
        write(quiet)
        write(loud * np.float32(0.2))
    whole = path.read_bytes()
    sync = whole[:2]
    second = whole.index(sync, 4)
    path.write_bytes(whole[second:])
    return 2 * len(NOTE)


def test_an_mp3_without_its_length_keeps_its_end(tmp_path: Path) -> None:
    path = tmp_path / "stripped.mp3"
    frames = variable_rate_mp3_without_length(path)
    with soundfile.SoundFile(path) as audio:
        assert audio.frames < 0.95 * frames  # libsndfile by itself would stop here
    arrived = len(load(path))
    assert probe(path).frames == arrived
    assert 0 <= arrived - frames < 4 * 1_152  # the encoder's padding is audio when no tag says otherwise


def store_floats(path: Path, value: float) -> None:
    soundfile.write(path, np.full((10, 2), value), RATE, "FLOAT", format="WAV")


UNDECODABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a text called mp3": (lambda path: path.write_text("la la la\n" * 500), "not audio"),
    "nothing at all": (lambda path: path.write_bytes(b""), "not audio"),
    "no samples": (lambda path: store(path, NOTE[:0]), "no audio"),
    "surround": (lambda path: store(path, np.repeat(NOTE, 3, axis=1)), "6 channels"),
    "one sample a second": (lambda path: store(path, NOTE[:10], 1), "1 Hz"),
    "a million samples a second": (lambda path: store(path, NOTE[:10], 1_000_000), "1000000 Hz"),
    "not a number": (lambda path: store_floats(path, np.nan), "not numbers"),
    "integers taken for floats": (lambda path: store_floats(path, 32_767.0), "beyond full scale"),
}


@pytest.mark.parametrize("case", UNDECODABLE)
def test_what_cannot_be_separated_is_refused_with_a_reason_and_without_a_path(tmp_path: Path, case: str) -> None:
    make, reason = UNDECODABLE[case]
    path = tmp_path / "song.mp3"
    make(path)
    with pytest.raises(UndecodableAudioError, match=reason) as caught:
        load(path)
    assert str(tmp_path) not in str(caught.value)


@given(
    junk=st.binary(max_size=200), head=st.sampled_from([b"", b"RIFF", b"FORM", b"fLaC", b"OggS", b"ID3", b"\xff\xfb"])
)
def test_junk_is_refused_and_nothing_else_happens(
    tmp_path_factory: pytest.TempPathFactory, junk: bytes, head: bytes
) -> None:
    path = tmp_path_factory.mktemp("junk") / "junk.mp3"
    path.write_bytes(head + junk)
    with pytest.raises(UndecodableAudioError):
        load(path)


def test_a_missing_file_and_a_folder_are_not_audio_files(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.wav", tmp_path):
        with pytest.raises(OSError):  # noqa: PT011  # which one is the system's choice
            probe(path)


def test_a_wav_stem_can_be_read_by_the_standard_library(tmp_path: Path) -> None:
    path = tmp_path / "stem.wav"
    with open_audio_writer(path, "wav", RATE) as write:
        write(NOTE[:1_000])
        write(NOTE[1_000:])
    with wave.open(str(path)) as audio:
        assert (audio.getnframes(), audio.getframerate(), audio.getnchannels()) == (len(NOTE), RATE, 2)
    np.testing.assert_allclose(load(path), NOTE, atol=2**-23)


@pytest.mark.parametrize("output_format", ["wav", "mp3"])
def test_equal_samples_give_equal_bytes(tmp_path: Path, output_format: str) -> None:
    written = []
    for name in ("one", "two"):
        with open_audio_writer(tmp_path / name, output_format, RATE) as write:
            write(NOTE)
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]


def test_an_unknown_output_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="aac"), open_audio_writer(tmp_path / "stem", "aac", RATE):
        pass


def test_a_folder_that_cannot_be_written_to_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="written"), open_audio_writer(tmp_path / "no" / "stem", "wav", RATE):
        pass


@pytest.mark.parametrize(
    ("sample_rate", "decimation"), [(8_000, 1), (44_100, 1), (88_200, 2), (96_000, 2), (176_400, 4), (64_000, 2)]
)
def test_rates_above_those_of_mp3_are_divided(sample_rate: int, decimation: int) -> None:
    assert plan_decimation(sample_rate, "mp3") == decimation
    assert sample_rate // decimation in MP3_SAMPLE_RATES
    assert plan_decimation(sample_rate, "wav") == 1


def test_a_rate_that_mp3_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="37800 Hz"):
        plan_decimation(37_800, "mp3")
