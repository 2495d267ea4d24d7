"""A glance reads little, and says what all of the file says, or reads all of it."""

from __future__ import annotations

import functools
import io
import math
import re
from collections.abc import Callable
from functools import partial

import attrs
import pytest
from hypothesis import given, settings, strategies as st

from aistemsplitter_async._audio import flac as flac_module, mpeg, ogg
from aistemsplitter_async._audio.examine import Length, glance, measure
from tests.core.audio.made import RATE, encoded, frame, measured, noise, vbr
from tests.core.audio.pages import packets, page, paged
from tests.core.audio.tagging import ape, id3v1, id3v2, lyrics3v2
from tests.core.audio.test_flac import block, flac, sound
from tests.core.audio.test_mp4 import PLAIN
from tests.core.audio.test_mpeg import FRAME, adts, cbr, with_xing
from tests.core.audio.test_ogg import ogg_flac

LITTLE = 256 * 1024


class Counted(io.BytesIO):
    """A file that counts what is read of it."""

    count = 0

    def read(self, size: int | None = -1, /) -> bytes:
        piece = super().read(size)
        self.count += len(piece)
        return piece


def glanced(data: bytes) -> Length:
    return glance(io.BytesIO(data))


def uncounted(frames: int, first: int, second: int) -> bytes:
    """Return two bitrates, one after the other, and no frame that counts them."""
    return b"".join(frame(first if number < frames // 2 else second, number) for number in range(frames))


Make = Callable[[], bytes]
PLAIN_FILES: dict[str, Make] = {  # each is a little longer than LITTLE
    "mp3": partial(encoded, "MP3", None, 20),
    "cbr": lambda: cbr(2000),
    "vbr": lambda: vbr(2000),
    "vbri": lambda: vbr(2000, vbri=True),
    "flac": partial(encoded, "FLAC", None, 12),
    "flac24": partial(encoded, "FLAC", "PCM_24", 6, 96000),
    "vorbis": partial(encoded, "OGG", "VORBIS", 20),
    "opus": partial(encoded, "OGG", "OPUS", 20, 48000),
    "wav": partial(encoded, "WAV", None, 12),
    "aiff": partial(encoded, "AIFF", None, 12),
}
SHORT_FILES: dict[str, Make] = {
    "mp3": partial(encoded, "MP3", None, 5),
    "cbr": lambda: cbr(200),
    "vbr": lambda: vbr(200),
    "vbri": lambda: vbr(200, vbri=True),
    "aac": lambda: adts(200),
    "flac": partial(encoded, "FLAC", None, 5),
    "vorbis": partial(encoded, "OGG", "VORBIS", 5),
    "wav": partial(encoded, "WAV", None, 1),
    "opus": partial(encoded, "OGG", "OPUS", 8, 48000),
    "oga": ogg_flac,
    "aiff": partial(encoded, "AIFF", None, 1),
    "mp4": PLAIN.build,
    "xing": lambda: with_xing(200, 200),
    "mp2": lambda: cbr(200, b"\xff\xfd\x90\x04"),
}


@functools.cache
def short(kind: str) -> bytes:
    return SHORT_FILES[kind]()


TAGS = st.sampled_from([b"", id3v2(noise(5000)), ape(noise(300)), bytes(7)])
END_TAGS = st.sampled_from([b"", id3v1(b"x"), ape(b"y") + id3v1(b"x"), lyrics3v2(b"la") + id3v1(b"x"), bytes(7)])


@pytest.mark.parametrize("kind", PLAIN_FILES)
def test_a_plain_file_of_any_size_is_measured_by_little_of_it(kind: str) -> None:
    data = PLAIN_FILES[kind]()
    file, whole = Counted(data), Counted(data)
    length = glance(file)
    assert length == measure(whole)
    assert length.seconds is not None
    assert file.count < LITTLE < whole.count


@pytest.mark.parametrize("kind", [kind for kind in PLAIN_FILES if kind not in {"wav", "aiff"}])  # theirs are chunks
def test_tags_are_not_read(kind: str) -> None:
    data = PLAIN_FILES[kind]()
    file = Counted(id3v2(noise(3_000_000)) + data + id3v1(b"x"))
    assert glance(file) == measured(data)
    assert file.count < LITTLE


@pytest.mark.parametrize("kind", SHORT_FILES)
@settings(max_examples=30)
@given(before=TAGS, behind=END_TAGS, other=st.none() | st.sampled_from(list(SHORT_FILES)), cut=st.integers(0, 20_000))
def test_tagged_joined_and_cut_files_are_as_long_as_all_of_them_says(
    kind: str, before: bytes, behind: bytes, other: str | None, cut: int
) -> None:
    data = before + short(kind) + behind + (short(other) if other else b"")
    if (kind, other, behind) == ("cbr", "xing", b""):  # all frames are alike but one that is not seen, and is silent
        assert measured(data).seconds is None
        return
    for one in (data, data[: max(0, len(data) - cut)], data[cut:]):
        assert agree(glanced(one), measured(one))


def agree(quick: Length, sure: Length) -> bool:
    """Return whether both are the same, but for one frame that an MP3 header counts or does not count."""
    if quick == sure or sure.seconds is None or quick.seconds is None:
        return quick == sure
    assert quick.at_most is not None
    assert sure.at_most is not None
    return abs(quick.seconds - sure.seconds) <= FRAME + 1e-9 and abs(quick.at_most - sure.at_most) <= FRAME + 1e-9


@given(st.sampled_from(["mp3", "cbr", "vbr", "vbri"]), st.data())
def test_bytes_too_many_in_an_mp3_are_found_wherever_they_are(kind: str, data: st.DataObject) -> None:
    sample = short(kind)
    at = data.draw(st.integers(1000, len(sample)))
    inserted = {"noise": noise(3000), "zeros": bytes(3000), "tag": id3v2(noise(3000)), "song": short("mp3")}
    changed = sample[:at] + inserted[data.draw(st.sampled_from(list(inserted)))] + sample[at:]
    assert agree(glanced(changed), measured(changed))


@given(st.sampled_from([0.0, 0.02, 0.5, 0.6, 1.6, 50]), st.sampled_from([0.0, 0.1, 0.9, 1, 1.1, 2]), st.booleans())
def test_a_count_of_frames_or_bytes_that_cannot_be_is_not_believed(factor: float, size: float, vbri: bool) -> None:
    lying = vbr(200, factor=factor, size_factor=size, vbri=vbri)
    assert glanced(lying) == measured(lying)
    short = with_xing(200, round(200 * factor))
    assert glanced(short) == measured(short)


def test_a_count_that_could_be_is_believed_with_a_variable_bitrate(monkeypatch: pytest.MonkeyPatch) -> None:
    less, half = vbr(200, factor=0.8), vbr(200, factor=0.5)
    assert measured(less).seconds is None
    assert glanced(less).seconds == pytest.approx(160 * FRAME)
    assert glanced(half).seconds is None
    monkeypatch.setattr(mpeg, "_UNEVEN", math.inf)
    assert glanced(half).seconds == pytest.approx(100 * FRAME)


def test_what_makes_up_whole_frames_only_together_is_found() -> None:
    song = cbr(2000)
    changed = song[:50_000] + noise(100) + song[50_000:800_000] + noise(317) + song[800_000:]
    assert len(changed) % 417 == 0
    assert glanced(changed) == measured(changed)
    assert glanced(changed).seconds is None


@pytest.mark.parametrize("bitrates", [(128, 64), (320, 32), (128, 160)])
def test_two_bitrates_without_a_count_are_walked_over(bitrates: tuple[int, int]) -> None:
    file = Counted(uncounted(2000, *bitrates))
    assert glance(file) == Length(pytest.approx(2000 * FRAME), pytest.approx(2000 * FRAME))  # type: ignore[arg-type]
    assert file.count > len(file.getvalue())


def test_padding_keeps_frames_in_step() -> None:
    padded, owed = [], 0.0
    for number in range(3000):
        owed += 144 * 128_000 / RATE - 417
        padded.append(b"\xff\xfb" + (b"\x92" if owed >= 1 else b"\x90") + b"\x04" + noise(413 + (owed >= 1), number))
        owed -= owed >= 1
    file = Counted(b"".join(padded))
    assert glance(file) == measured(file.getvalue())
    assert file.count < LITTLE
    for gap in (1, 200, 2999):
        changed = b"".join(padded[:gap]) + noise(100) + b"".join(padded[gap:])
        assert glanced(changed) == measured(changed)


def test_a_flac_file_twice_is_found_by_the_places_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = encoded("FLAC", None, 5), encoded("FLAC", None, 5, seed=2)
    for joined in (first + first, first + second, flac(sound(first) * 2, streaminfo=first[8:42]), first * 3):
        assert measured(joined).seconds is None
        assert glanced(joined) == measured(joined)
    monkeypatch.setattr(flac_module, "_PROBES", 0)
    assert glanced(first + first) == Length(5.0, 5.0)


@pytest.mark.parametrize("samples", [0, 1, RATE, 5 * RATE - 1, 5 * RATE + 1, 500 * RATE])
def test_what_streaminfo_says_of_another_file_is_not_believed(samples: int) -> None:
    data = short("flac")
    number = int.from_bytes(data[18:26], "big") >> 36 << 36 | samples
    lying = data[:18] + number.to_bytes(8, "big") + data[26:]
    assert glanced(lying) == measured(lying)
    assert glanced(lying).seconds == (5.0 if not samples else None)


def test_flac_frames_that_are_missing_in_between_are_not_missed() -> None:
    frames = sound(short("flac"))
    third, fourth = (re.search(b"\xff\xf8.." + number, frames, re.DOTALL) for number in (b"\x03", b"\x04"))
    assert third
    assert fourth
    gap = flac(frames[: third.start()] + frames[fourth.start() :], streaminfo=short("flac")[8:42])
    assert measured(gap).seconds is None
    assert glanced(gap) == Length(5.0, 5.0)
    tail = flac(frames[: fourth.start()], block(1, bytes(9)), streaminfo=short("flac")[8:42])
    assert glanced(tail) == measured(tail)


@pytest.mark.parametrize("kind", ["vorbis", "opus"])
@pytest.mark.parametrize("factor", [0.02, 0.5, 50])
def test_granule_positions_of_another_length_are_not_believed(kind: str, factor: float) -> None:
    every = packets(short(kind))
    scaled = [e if e.granule is None else attrs.evolve(e, granule=int(e.granule * factor)) for e in every]
    last = [*every[:-1], attrs.evolve(every[-1], granule=int((every[-1].granule or 0) * factor))]
    late = [e if e.granule is None else attrs.evolve(e, granule=e.granule + 10**6 * (e.granule > 0)) for e in every]
    for lying in (scaled, last, late):
        assert measured(paged(lying)).seconds is None
        assert glanced(paged(lying)) == measured(paged(lying))


@pytest.mark.parametrize("kind", ["vorbis", "opus"])
def test_an_ogg_file_twice_under_one_serial_number_is_found(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = short(kind)
    seconds = measured(data).seconds
    assert seconds is not None
    mixed = short("vorbis") + short("opus")
    assert glanced(mixed) == measured(mixed)
    for joined in (data + data, data * 3):
        assert glanced(joined) == measured(joined)
        assert glanced(joined).seconds == pytest.approx(seconds * len(joined) / len(data), rel=1)
    monkeypatch.setattr(ogg, "_PROBES", 0)
    assert glanced(data + data).seconds == seconds


@pytest.mark.parametrize("kind", ["vorbis", "opus"])
def test_an_ogg_file_whose_end_is_not_marked_cut_or_something_else_is_walked_over(kind: str) -> None:
    data = short(kind)
    for other in (data[: len(data) // 2], data[:-1], data + noise(100), data + page(b"x", b"\x01", serial=99)):
        assert glanced(other) == measured(other)


@given(st.sampled_from(list(SHORT_FILES)), st.data())
def test_damage_raises_nothing_and_the_bound_holds_the_length(kind: str, data: st.DataObject) -> None:
    damaged = bytearray(short(kind))
    for _ in range(data.draw(st.integers(0, 8))):
        at = data.draw(
            st.integers(0, 300) | st.integers(0, len(damaged)) | st.integers(len(damaged) - 300, len(damaged))
        )
        damaged[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8) | st.just(b"\xff" * 4))
    length = glanced(bytes(damaged))
    assert length.seconds is None or (length.at_most is not None and 0 <= length.seconds <= length.at_most)
