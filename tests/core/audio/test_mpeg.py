"""MP3 and AAC: what is between the tags is the song, and its frames are how long it is."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, strategies as st

from tests.core.audio.made import RATE, encoded, flipped, identity, measured, noise
from tests.core.audio.tagging import ape, id3v1, id3v2, lyrics3v1, lyrics3v2

MP3 = encoded("MP3")
SECONDS = 1.5
FRAME = 1152 / RATE


def cbr(frames: int, first: bytes = b"\xff\xfb\x90\x04", seed: int = 1) -> bytes:
    """Return frames of 128 kbit/s without one that counts them."""
    return b"".join(first + noise(413, seed + number) for number in range(frames))


def adts(frames: int, rate_index: int = 4, size: int = 300, seed: int = 1) -> bytes:
    """Return AAC frames of 1024 samples."""
    header = struct.pack(">I", 0xFFF15080 & ~(15 << 10) | rate_index << 10 | size >> 11)
    rest = struct.pack(">I", (size & 0x7FF) << 13 | 0x1FFC)[1:]
    return b"".join(header + rest + noise(size - 7, seed + number) for number in range(frames))


def with_xing(frames: int, claimed: int, cut: int = 0) -> bytes:
    lame = b"LAME3.100" + bytes(12) + struct.pack(">I", cut)[1:]
    xing = b"Xing" + struct.pack(">III", 3, claimed, 417 * frames) + lame
    return b"\xff\xfb\x90\x04" + bytes(32) + xing + bytes(413 - 32 - len(xing)) + cbr(frames)


front_tags = st.lists(
    st.one_of(
        st.builds(id3v2, st.binary(max_size=300), st.sampled_from([2, 3, 4]), st.sampled_from([0, 0x80, 0x40])),
        st.builds(id3v2, st.binary(max_size=300), st.just(4), st.just(0x10)),
        st.builds(ape, st.binary(max_size=99)),
    ),
    max_size=3,
).map(b"".join)
end_tags = st.tuples(
    st.one_of(
        st.just(b""),
        st.builds(ape, st.binary(max_size=99), header=st.booleans()),
        st.builds(lyrics3v2, st.binary(max_size=99)),
        st.builds(lyrics3v1, st.just(b"la la la")),
        st.builds(id3v2, st.binary(max_size=99), st.just(4), st.just(0x10)),
    ),
    st.one_of(st.just(b""), st.builds(id3v1, st.binary(max_size=30))),
).map(b"".join)


@pytest.mark.parametrize("sound", [MP3, cbr(30), adts(30), encoded("FLAC")], ids=["mp3", "cbr", "aac", "flac"])
@given(before=front_tags, behind=end_tags)
def test_tags_before_and_behind_do_not_matter(sound: bytes, before: bytes, behind: bytes) -> None:
    assert identity(before + sound + behind) == identity(sound)
    assert measured(before + sound + behind) == measured(sound)


@given(st.sampled_from([cbr(30), adts(30)]), st.data())
def test_any_changed_bit_is_another_song(sound: bytes, data: st.DataObject) -> None:
    bit = data.draw(st.integers(0, len(sound) * 8 - 1))
    assert identity(flipped(sound, bit)) != identity(sound)


def test_a_frame_that_counts_the_others_matters_only_in_what_decoders_act_on() -> None:
    sound = with_xing(50, 50, cut=576 << 12 | 700)
    info = sound.index(b"LAME")
    renamed = sound[:info] + b"Lavc59.37" + sound[info + 9 :]
    assert identity(renamed) == identity(sound)
    assert identity(with_xing(50, 50, cut=0)) != identity(sound)
    assert identity(with_xing(50, 49)) != identity(with_xing(50, 50))
    assert identity(flipped(sound, 8 * 20)) != identity(sound)  # a frame that is not silent is heard


def test_a_real_mp3_is_as_long_as_what_was_encoded() -> None:
    length = measured(MP3)
    assert identity(MP3).startswith("mp3:")
    assert length.seconds == pytest.approx(SECONDS, abs=1 / RATE)
    assert length.at_most is not None
    assert SECONDS <= length.at_most < SECONDS + 4 * FRAME


@pytest.mark.parametrize(
    ("sound", "seconds"),
    [
        (cbr(50), 50 * FRAME),
        (cbr(50, b"\xff\xf3\x90\x04"), None),  # MPEG 2 at 80 kbit/s: frames of another size
        (adts(50), 50 * 1024 / 44100),
        (adts(50, rate_index=11), 50 * 1024 / 8000),
        (with_xing(50, 50), 50 * FRAME),
        (with_xing(50, 51), 50 * FRAME),
        (with_xing(50, 0), 50 * FRAME),
    ],
)
def test_seconds_are_those_of_the_frames(sound: bytes, seconds: float | None) -> None:
    assert measured(sound).seconds == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(("claimed", "most"), [(25, 51), (48, 51), (5000, 5000)])
def test_a_count_that_the_frames_contradict_gives_only_a_bound(claimed: int, most: int) -> None:
    length = measured(with_xing(50, claimed))
    assert length.seconds is None
    assert length.at_most == pytest.approx(most * FRAME)


def test_a_file_that_is_cut_off_has_no_length() -> None:
    length = measured(MP3[: len(MP3) // 2])
    assert length.seconds is None
    assert length.at_most is not None
    assert length.at_most >= SECONDS


@pytest.mark.parametrize("between", [b"", id3v2(noise(5000)), id3v1(b"x") + id3v2(b"y")])
def test_joined_files_are_counted_to_the_end(between: bytes) -> None:
    length = measured(MP3 + between + MP3)
    assert length.seconds is None
    assert length.at_most is not None
    assert 2 * SECONDS <= length.at_most < 2 * SECONDS + 0.4


def test_joined_files_that_say_no_length_are_as_long_as_both() -> None:
    assert measured(cbr(50) + cbr(30)).seconds == pytest.approx(80 * FRAME)


def test_joined_files_of_two_formats_are_counted_together() -> None:
    length = measured(cbr(50) + adts(50, rate_index=11))
    assert length.seconds is None
    assert length.at_most is not None
    assert length.at_most >= 50 * FRAME + 50 * 1024 / 8000


def test_junk_is_bounded_and_makes_the_length_unsure() -> None:
    length = measured(cbr(50) + noise(20_000) + cbr(50))
    assert length.seconds is None
    assert length.at_most is not None
    assert 100 * FRAME <= length.at_most <= 100 * FRAME + 20.5


def test_zeros_before_the_first_frame_are_no_junk() -> None:
    assert measured(id3v2(b"") + bytes(2000) + cbr(50)).seconds == pytest.approx(50 * FRAME)


@pytest.mark.parametrize("name", ["mp3", "ogg", "wav"])
def test_the_format_is_that_of_the_bytes(name: str) -> None:
    assert identity({"mp3": MP3, "ogg": encoded("OGG"), "wav": encoded("WAV")}[name]).startswith(f"{name}:")
    assert identity(adts(9)).startswith("aac:")


def test_a_tag_that_is_not_whole_is_not_taken_for_one() -> None:
    lying = b"ID3" + b"\x04\0\0" + b"\x7f\x7f\x7f\x7f" + MP3
    assert identity(lying).startswith("mp3:")
    assert identity(lying) != identity(MP3)


def test_a_length_is_not_known_of_a_file_with_the_header_of_another_one_in_its_middle() -> None:
    joined = measured(cbr(50) + with_xing(50, 50))
    assert joined.seconds is None
    assert joined.at_most is not None
    assert joined.at_most >= measured(cbr(101)).seconds  # type: ignore[operator]
