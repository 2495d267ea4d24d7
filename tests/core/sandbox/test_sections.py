"""Files made of several streams: the whole audio, or a refusal, before anything is charged."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, strategies as st

from aistemsplitter_async.sandbox.separation.audio_files import UndecodableAudioError, probe, read_blocks
from aistemsplitter_async.sandbox.separation.sections import find_sections
from aistemsplitter_async.sandbox.separation.separate import separate
from aistemsplitter_async.sandbox.separation.silence import probe_wav
from aistemsplitter_async.sandbox.separation.wav import find_samples
from tests.core.audio.made import encoded, flipped, noise

FIRST, SECOND = 1.0, 1.5  # seconds
KINDS = [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None), ("FLAC", None), ("WAV", "PCM_16"), ("AIFF", "PCM_16")]
KINDS += [("CAF", "PCM_16"), ("W64", "PCM_16"), ("AU", "PCM_16"), ("RF64", "PCM_16"), ("WAV", "IMA_ADPCM")]


def part(kind: str, subtype: str | None, seconds: float) -> bytes:
    return encoded(kind, subtype, seconds, 48_000 if subtype == "OPUS" else 44_100, seed=int(10 * seconds))


def stored(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def decoded(path: Path) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.concatenate(list(read_blocks(path)))


@pytest.mark.parametrize(("kind", "subtype"), KINDS)
def test_a_file_of_two_is_both_of_them_to_the_sample(tmp_path: Path, kind: str, subtype: str | None) -> None:
    parts = [part(kind, subtype, seconds) for seconds in (FIRST, SECOND)]
    alone = [soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)[0] for data in parts]
    joined = stored(tmp_path / "joined", b"".join(parts))
    whole = decoded(joined)
    assert len(whole) == probe(joined).frames == sum(map(len, alone))
    assert np.abs(whole - np.concatenate(alone)).max() < 1e-4


def test_the_stems_of_a_chained_file_add_up_to_the_decoded_mix(tmp_path: Path) -> None:
    parts = [part("OGG", "VORBIS", seconds) for seconds in (FIRST, SECOND)]
    path = stored(tmp_path / "chain.ogg", b"".join(parts))
    made = separate(path, tmp_path / "stems", stem_model="4s", output_format="wav")
    stems = [soundfile.read(tmp_path / "stems" / name)[0] for name in made.stems.values()]
    mix = np.concatenate([soundfile.read(io.BytesIO(data))[0] for data in parts])
    assert {len(stem) for stem in stems} == {len(mix)}
    assert np.sqrt(np.mean((sum(stems) - mix) ** 2)) < 1e-5


def test_parts_of_different_rates_are_refused_with_the_way_out(tmp_path: Path) -> None:
    for kind in ("OGG", "MP3"):
        other = encoded(kind, None, SECOND, 48_000)
        path = stored(tmp_path / kind, encoded(kind, None, FIRST, 44_100) + other)
        with pytest.raises(UndecodableAudioError, match="44100 and 48000 Hz; convert it"):
            probe(path)


ID3V1 = b"TAG" + bytes(125)
APE = b"APETAGEX" + struct.pack("<IIII8x", 2000, 32, 0, 0)
ID3V2 = b"ID3\x03\0\0\0\0\x02\0" + bytes(256)


@pytest.mark.parametrize("kind", ["FLAC", "MP3"])
@pytest.mark.parametrize(
    ("before", "behind"), [(b"", ID3V1), (ID3V2 * 2, b""), (ID3V2, APE + ID3V1), (b"", bytes(5000))]
)
def test_tags_around_compressed_audio_cut_nothing(tmp_path: Path, kind: str, before: bytes, behind: bytes) -> None:
    plain = probe(stored(tmp_path / "plain", part(kind, None, SECOND)))
    tagged = stored(tmp_path / "tagged", before + part(kind, None, SECOND) + behind)
    assert probe(tagged).frames == plain.frames == len(decoded(tagged))


def test_samples_without_a_header_are_refused_whatever_their_name(tmp_path: Path) -> None:
    for name in ("a.raw", "a.mp3"):
        with pytest.raises(UndecodableAudioError, match="not audio that can be decoded"):
            probe(stored(tmp_path / name, noise(9000)))


def test_a_count_of_frames_that_is_too_small_does_not_cut_an_mp3(tmp_path: Path) -> None:
    headed, more = part("MP3", None, FIRST), part("MP3", None, SECOND)
    at = more.index(b"\xff\xfb", 4)  # without its own count, it belongs to the stream before
    seconds = probe(stored(tmp_path / "mp3", headed + more[at:])).seconds
    assert FIRST + SECOND <= seconds < FIRST + SECOND + 0.2


@pytest.mark.parametrize("kind", ["FLAC", "MP3"])
def test_what_is_cut_short_is_refused_when_it_is_measured(tmp_path: Path, kind: str) -> None:
    whole = part(kind, None, SECOND)
    with pytest.raises(UndecodableAudioError):
        probe(stored(tmp_path / "cut", whole[: len(whole) * 6 // 10]))


def test_only_a_plain_wav_is_measured_without_decoding_it(tmp_path: Path) -> None:
    plain = part("WAV", "PCM_16", FIRST)
    samples = plain[plain.index(b"data") :]
    floats = io.BytesIO()
    soundfile.write(floats, np.full((900, 2), np.nan), 44_100, "FLOAT", format="WAV")
    for data, usable in (
        (plain, True),
        (plain + b"LIST\4\0\0\0INFO", True),
        (plain * 2, False),
        (plain + samples, False),
    ):
        found = probe_wav(stored(tmp_path / "a.wav", data))
        assert found is not None
        assert found.is_usable is usable
    found = probe_wav(stored(tmp_path / "nan.wav", floats.getvalue()))
    assert found is not None
    assert not found.is_usable


def test_large_files_are_read_whatever_their_name_and_their_sizes(tmp_path: Path) -> None:
    large = part("RF64", "PCM_16", FIRST)
    at = large.index(b"data")
    plain = large[: at + 4] + struct.pack("<I", len(large) - at - 8) + large[at + 8 :]
    stated = plain[:28] + bytes(8) + plain[36:]
    for data in (large, b"BW64" + large[4:], stated):
        assert probe(stored(tmp_path / "large.wav", data)).seconds == FIRST


PIECES = [part(kind, subtype, 0.2) for kind, subtype in KINDS]


@given(st.lists(st.sampled_from([*PIECES, ID3V1, APE, ID3V2, noise(400)]), min_size=1, max_size=4), st.data())
def test_sections_of_any_bytes_lie_in_a_row_within_the_file(pieces: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(pieces)
    whole = flipped(whole, data.draw(st.integers(0, 8 * len(whole) - 1)))[: data.draw(st.integers(1, len(whole)))]
    end = 0
    for section in find_sections(whole):
        assert end <= section.start <= section.stop <= len(whole)
        end = section.stop
    found = find_samples(io.BytesIO(whole))
    assert found is None or 0 <= found.length <= found.there
