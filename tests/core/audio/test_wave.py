"""WAV and AIFF: identity is format and sound, whatever else is in the file; a length only where all sizes agree."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, strategies as st

from aistemsplitter_async._audio.examine import Length
from tests.core.audio.made import RATE, encoded, examined, flipped, identity, is_whole, measured, noise
from tests.core.audio.tagging import ape, id3v1, id3v2

SECONDS = 1.5
SIZE = round(SECONDS * RATE) * 4
KINDS = [("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "FLOAT"), ("WAVEX", "PCM_16"), ("RF64", "PCM_16")]
KINDS += [("WAV", "ULAW"), ("WAV", "ALAW"), ("AIFF", "PCM_16"), ("AIFF", "PCM_24"), ("AIFF", "FLOAT")]


def chunk(name: bytes, body: bytes, order: str = "<") -> bytes:
    return name + struct.pack(order + "I", len(body)) + body + b"\0" * (len(body) % 2)


def fmt(rate: int = RATE, channels: int = 2, bits: int = 16, byte_rate: int | None = None, tag: int = 1) -> bytes:
    block = channels * bits // 8
    return chunk(
        b"fmt ",
        struct.pack("<HHIIHH", tag, channels, rate, rate * block if byte_rate is None else byte_rate, block, bits),
    )


def wav(*chunks: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", 4 + sum(map(len, chunks))) + b"WAVE" + b"".join(chunks)


SOUND = noise(SIZE)
PLAIN = wav(fmt(), chunk(b"data", SOUND))


def with_data_size(size: int, sound: bytes = SOUND) -> bytes:
    return wav(fmt(), b"data" + struct.pack("<I", size) + sound)


@pytest.mark.parametrize(("kind", "subtype"), KINDS)
def test_what_a_real_encoder_writes_is_known_and_measured(kind: str, subtype: str) -> None:
    data = encoded(kind, subtype)
    assert not is_whole(data)
    assert measured(data) == Length(SECONDS, SECONDS)


@pytest.mark.parametrize("subtype", ["IMA_ADPCM", "MS_ADPCM"])
def test_blocks_of_compressed_samples_are_counted_against_the_samples_claimed(subtype: str) -> None:
    data = encoded("WAV", subtype)
    length = measured(data)
    assert length.at_most is not None
    assert SECONDS <= length.at_most < SECONDS + 0.1
    fact = data.index(b"fact") + 8
    more = data[:fact] + (9 * RATE).to_bytes(4, "little") + data[fact + 4 :]
    assert measured(more) == Length(None, 9.0)
    assert identity(more) != identity(data)


@given(
    st.lists(
        st.tuples(st.sampled_from([b"LIST", b"id3 ", b"bext", b"JUNK", b"cue "]), st.binary(max_size=99)), max_size=4
    ),
    st.integers(0, 4),
)
def test_other_chunks_and_their_place_do_not_matter(chunks: list[tuple[bytes, bytes]], place: int) -> None:
    others = [chunk(name, body) for name, body in chunks]
    first, second = others[:place], others[place:]
    tagged = wav(*first, fmt(), *second, chunk(b"data", SOUND), *first)
    assert identity(tagged) == identity(PLAIN)
    assert measured(tagged) == measured(PLAIN) == Length(SECONDS, SECONDS)


@pytest.mark.parametrize(("kind", "subtype"), KINDS)
def test_a_changed_bit_of_the_sound_is_another_song(kind: str, subtype: str) -> None:
    data = encoded(kind, subtype)
    changed = {identity(flipped(data, bit)) for bit in range(len(data) * 8 // 2, len(data) * 8, 40_001)}
    assert identity(data) not in changed
    assert len(changed) == len(range(len(data) * 8 // 2, len(data) * 8, 40_001))


def test_the_same_samples_at_another_rate_are_another_song() -> None:
    assert identity(wav(fmt(rate=48000), chunk(b"data", SOUND))) != identity(PLAIN)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFF000, SIZE + 2, SIZE * 9])
def test_a_size_that_is_not_given_or_goes_beyond_the_end_means_the_rest(size: int) -> None:
    data = with_data_size(size)
    assert identity(data) == identity(PLAIN)
    claimed = size if size in {SIZE + 2, SIZE * 9} else SIZE
    assert measured(data) == Length(None, claimed / (RATE * 4))


@pytest.mark.parametrize("claimed", [SIZE // 2, 4, SIZE - 4, SIZE - 8])
def test_sound_behind_the_sound_that_is_claimed_is_counted(claimed: int) -> None:
    data = with_data_size(claimed)
    assert is_whole(data)
    assert measured(data) == Length(None, SECONDS)


def test_joined_files_are_counted_to_the_end() -> None:
    length = measured(PLAIN + PLAIN)
    assert is_whole(PLAIN + PLAIN)
    assert length.seconds is None
    assert length.at_most == pytest.approx(2 * SECONDS, abs=0.001)


@pytest.mark.parametrize(
    "header",
    [fmt(byte_rate=RATE * 8), fmt(byte_rate=0), fmt(byte_rate=1), fmt(tag=0x1234), fmt(rate=0), fmt(channels=0)],
)
def test_a_format_that_contradicts_itself_has_no_length(header: bytes) -> None:
    length = measured(wav(header, chunk(b"data", SOUND)))
    assert length.seconds is None
    assert length.at_most is None or length.at_most >= SECONDS


def test_two_formats_or_two_sounds_are_the_whole_file() -> None:
    assert is_whole(wav(fmt(), fmt(), chunk(b"data", SOUND)))
    assert is_whole(wav(fmt(), chunk(b"data", SOUND), chunk(b"data", SOUND)))
    assert measured(wav(fmt(), chunk(b"data", SOUND), chunk(b"data", SOUND))).seconds is None


def test_where_one_part_ends_cannot_be_moved() -> None:
    longer_fmt = chunk(b"fmt ", fmt()[8:] + SOUND[:4])
    assert identity(wav(longer_fmt, chunk(b"data", SOUND[4:]))) != identity(PLAIN)


def aiff(frames: int, sound: bytes, form: bytes = b"AIFF", compression: bytes = b"") -> bytes:
    comm = struct.pack(">hIh", 2, frames, 16) + bytes.fromhex("400eac44000000000000") + compression
    chunks = chunk(b"COMM", comm, ">") + chunk(b"SSND", bytes(8) + sound, ">")
    return b"FORM" + struct.pack(">I", 4 + len(chunks)) + form + chunks


def test_aiff_frames_and_sound_must_agree() -> None:
    frames = SIZE // 4
    assert measured(aiff(frames, SOUND)) == Length(SECONDS, SECONDS)
    assert measured(aiff(frames // 2, SOUND)) == Length(None, SECONDS)
    assert measured(aiff(frames * 2, SOUND)) == Length(None, 2 * SECONDS)
    assert measured(aiff(frames, SOUND, b"AIFC", b"sowt\0\0")) == Length(SECONDS, SECONDS)
    assert measured(aiff(frames, SOUND, b"AIFC", b"????\0\0")) == Length(None, None)
    assert identity(aiff(frames, SOUND)) != identity(aiff(frames, SOUND, b"AIFC", b"sowt\0\0"))


def test_aiff_tags_do_not_matter() -> None:
    data = aiff(SIZE // 4, SOUND)
    tagged = data + chunk(b"ID3 ", noise(77), ">") + chunk(b"NAME", b"Song", ">")
    assert identity(tagged) == identity(data)
    assert measured(tagged) == measured(data)


@pytest.mark.parametrize("kind", ["WAV", "AIFF"])
def test_tags_of_mp3_around_the_file_do_not_matter(kind: str) -> None:
    sound, other = encoded(kind), encoded(kind, seed=2)
    tagged = [id3v2(b"T" * 300) + sound, sound + id3v1(b"A"), id3v2(b"") + sound + ape(b"B" * 90) + id3v1(b"C")]
    assert {identity(data) for data in tagged} == {identity(sound)}
    assert identity(id3v2(b"T") + other) not in {identity(sound), examined(id3v2(b"T") + other).content}
    swallowed = ape(b"", header=False)
    swallowed = sound + swallowed[:12] + struct.pack("<I", len(sound) // 2) + swallowed[16:]
    for data in (id3v2(b"T") + sound + sound, swallowed, id3v2(b"T") + noise(3000)):
        assert is_whole(data)


def test_a_length_is_not_known_of_a_large_file_with_two_sizes() -> None:
    large = encoded("RF64", "PCM_16")
    at = large.index(b"data") + 4
    plain = large[:at] + struct.pack("<I", SIZE) + large[at + 4 :]
    assert measured(plain) == Length(SECONDS, SECONDS)
    assert measured(plain[:28] + bytes(8) + plain[36:]).seconds is None
