"""FLAC: STREAMINFO and the frames; STREAMINFO's length only where all frames are there."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, strategies as st

from aistemsplitter_async._audio.examine import Length
from tests.core.audio.made import RATE, encoded, flipped, identity, is_whole, measured, noise

SECONDS = 1.5
FLAC = encoded("FLAC")
STREAMINFO = FLAC[8:42]


def sound(data: bytes) -> bytes:
    """Return the frames."""
    position, last = 4, False
    while not last:
        last = bool(data[position] & 0x80)
        position += 4 + int.from_bytes(data[position + 1 : position + 4], "big")
    return data[position:]


def block(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + len(body).to_bytes(3, "big") + body


def flac(frames: bytes, *blocks: bytes, streaminfo: bytes = STREAMINFO) -> bytes:
    every = [block(0, streaminfo), *blocks]
    every[-1] = bytes([every[-1][0] | 0x80]) + every[-1][1:]
    return b"fLaC" + b"".join(every) + frames


def claiming(samples: int) -> bytes:
    number = int.from_bytes(STREAMINFO[10:18], "big") >> 36 << 36 | samples
    return STREAMINFO[:10] + number.to_bytes(8, "big") + STREAMINFO[18:]


def test_a_real_file_is_known_and_measured() -> None:
    assert identity(FLAC).startswith("flac:")
    assert measured(FLAC) == Length(SECONDS, SECONDS)


@pytest.mark.parametrize(("rate", "subtype"), [(96000, "PCM_24"), (11025, "PCM_S8"), (12345, "PCM_16")])
def test_other_rates_and_widths_are_measured(rate: int, subtype: str) -> None:
    seconds = round(SECONDS * rate) / rate
    assert measured(encoded("FLAC", subtype, rate=rate)) == Length(seconds, seconds)


@given(st.lists(st.tuples(st.integers(1, 126), st.binary(max_size=200)), max_size=5))
def test_other_metadata_does_not_matter(others: list[tuple[int, bytes]]) -> None:
    tagged = flac(sound(FLAC), *(block(kind, body) for kind, body in others))
    assert identity(tagged) == identity(FLAC)
    assert measured(tagged) == measured(FLAC)


@given(st.integers(0, len(sound(FLAC)) * 8 - 1))
def test_any_changed_bit_of_the_sound_is_another_song(bit: int) -> None:
    assert identity(flac(flipped(sound(FLAC), bit))) != identity(FLAC)


@given(st.integers(0, len(STREAMINFO) * 8 - 1))
def test_any_changed_bit_of_streaminfo_is_another_song(bit: int) -> None:
    assert identity(flac(sound(FLAC), streaminfo=flipped(STREAMINFO, bit))) != identity(FLAC)


@pytest.mark.parametrize(("samples", "at_most"), [(RATE // 2, SECONDS), (RATE * 100, 100.0)])
def test_a_length_that_the_frames_contradict_gives_only_a_bound(samples: int, at_most: float) -> None:
    assert measured(flac(sound(FLAC), streaminfo=claiming(samples))) == Length(None, at_most)


def test_a_length_that_was_not_known_is_that_of_the_frames() -> None:
    assert measured(flac(sound(FLAC), streaminfo=claiming(0))) == Length(SECONDS, SECONDS)


def test_frames_that_are_cut_off_missing_or_there_twice_make_the_length_unsure() -> None:
    frames = sound(FLAC)
    second, third = (re.search(b"\xff\xf8.." + number, frames, re.DOTALL) for number in (b"\x01", b"\x02"))
    assert second
    assert third
    for broken in (frames[: len(frames) // 2], frames[: second.start()] + frames[third.start() :], frames + frames):
        length = measured(flac(broken))
        assert length.seconds is None
        assert length.at_most is not None
        assert length.at_most >= SECONDS * (2 if broken == frames + frames else 1)


def test_what_is_between_or_behind_the_frames_makes_the_length_unsure() -> None:
    third = re.search(b"\xff\xf8.." + b"\x02", FLAC, re.DOTALL)
    assert third
    for at in (third.start(), len(FLAC)):
        longer = FLAC[:at] + noise(300_000) + FLAC[at:]
        length = measured(longer)
        assert identity(longer) != identity(FLAC)
        assert length.seconds is None
        assert length.at_most is not None
        assert SECONDS <= length.at_most < SECONDS + 20


@pytest.mark.parametrize("second", [FLAC, encoded("FLAC", "PCM_S8", rate=11025), encoded("FLAC", "PCM_24", rate=96000)])
def test_joined_files_are_counted_to_the_end(second: bytes) -> None:
    joined = FLAC + second[:42] + block(1, bytes(90_000)) + sound(second)
    length = measured(joined)
    assert length.seconds is None
    assert length.at_most is not None
    assert 2 * SECONDS <= length.at_most < 8 * SECONDS


def test_metadata_that_is_not_as_it_must_be_is_the_whole_file() -> None:
    frames = sound(FLAC)
    for broken in (flac(frames, block(0, STREAMINFO)), flac(frames, block(127, b"")), flac(b""), FLAC[:30]):
        assert is_whole(broken)
