"""Ogg: packets are the song, not pages and comments; granule positions count only where the packets agree."""

from __future__ import annotations

import re
import struct

import attrs
import pytest
from hypothesis import given, strategies as st

from aistemsplitter_async._audio.examine import Length
from aistemsplitter_async._audio.ogg_codecs import opus_samples
from tests.core.audio.made import encoded, flipped, identity, is_whole, measured, noise
from tests.core.audio.pages import Packet, packets, page, paged

SECONDS = 0.6
VORBIS = encoded("OGG", "VORBIS", SECONDS)
OPUS = encoded("OGG", "OPUS", SECONDS, 48000)
FLAC = encoded("FLAC", None, SECONDS)
FILES = {"vorbis": VORBIS, "opus": OPUS}
COMMENTS = {"vorbis": b"\x03vorbis", "opus": b"OpusTags"}


def ogg_flac(comments: int = 1) -> bytes:
    """Put the frames of a FLAC file into Ogg, each on a page."""
    streaminfo, frames = FLAC[8:42], FLAC[FLAC.index(b"\xff\xf8") :]
    total = int.from_bytes(streaminfo[10:18], "big") & (1 << 36) - 1
    marks = [0]
    while found := re.compile(b"\xff\xf8.." + bytes([len(marks)]), re.DOTALL).search(frames, marks[-1]):
        marks.append(found.start())
    first = b"\x7fFLAC\x01\x00" + struct.pack(">H", comments) + b"fLaC" + b"\0\0\0\x22" + streaminfo
    every = [Packet(first, 0), *(Packet(bytes([4 + 128 * (left == 0)]) + bytes(3), 0) for left in range(comments))]
    for number, (start, end) in enumerate(zip(marks, [*marks[1:], len(frames)], strict=True), 1):
        every.append(Packet(frames[start:end], min(total, 4096 * number)))
    return paged(every)


def retagged(kind: str, comment: bytes) -> list[Packet]:
    every = packets(FILES[kind])
    every[1] = attrs.evolve(every[1], body=COMMENTS[kind] + comment)
    return every


@pytest.mark.parametrize("kind", FILES)
def test_a_real_file_is_known_and_measured(kind: str) -> None:
    length = measured(FILES[kind])
    assert identity(FILES[kind]).startswith("ogg:")
    assert length.seconds == pytest.approx(SECONDS, abs=0.0001)
    assert length.at_most is not None
    assert SECONDS <= length.at_most < SECONDS + 0.1


@pytest.mark.parametrize("kind", FILES)
@given(st.binary(max_size=2000), st.integers(1, 255), st.integers(0, 0xFFFFFFFF))
def test_comments_pages_and_serial_numbers_do_not_matter(kind: str, comment: bytes, per_page: int, serial: int) -> None:
    again = paged(retagged(kind, comment), per_page, serial)
    assert identity(again) == identity(FILES[kind])
    assert measured(again) == measured(FILES[kind])


@pytest.mark.parametrize("kind", FILES)
def test_a_comment_of_many_pages_does_not_matter(kind: str) -> None:
    again = paged(retagged(kind, noise(400_000)))
    assert identity(again) == identity(FILES[kind])
    assert measured(again) == measured(FILES[kind])


@pytest.mark.parametrize("kind", FILES)
@given(st.data())
def test_any_changed_bit_of_a_packet_is_another_song(kind: str, data: st.DataObject) -> None:
    every = packets(FILES[kind])
    number = data.draw(st.sampled_from([0, *range(2, len(every))]))
    bit = data.draw(st.integers(0, len(every[number].body) * 8 - 1))
    every[number] = attrs.evolve(every[number], body=flipped(every[number].body, bit))
    assert identity(paged(every)) != identity(FILES[kind])


@pytest.mark.parametrize("kind", FILES)
def test_packets_that_are_cut_elsewhere_missing_or_in_another_order_are_another_song(kind: str) -> None:
    every = packets(FILES[kind])
    one, other = every[9], every[10]
    both = attrs.evolve(other, body=one.body + other.body)
    moved = [attrs.evolve(one, body=one.body[:-1]), attrs.evolve(other, body=one.body[-1:] + other.body)]
    for changed in ([both], [other], [other, one], moved):
        assert identity(paged([*every[:9], *changed, *every[11:]])) != identity(FILES[kind])


def test_many_packets_on_any_pages_are_one_song_and_moved_bytes_are_another() -> None:
    head, bodies = packets(OPUS)[:2], [noise(number % 300, number) for number in range(6000)]

    def song(moved: int, per_page: int) -> bytes:
        first, second = bodies[moved : moved + 2]
        changed = [*bodies[:moved], first[:-1], first[-1:] + second, *bodies[moved + 2 :]]
        every = [*(Packet(body, None) for body in changed[:-1]), Packet(changed[-1], 960 * 5999)]
        return paged([*head, *every], per_page)

    songs = [{identity(song(moved, per_page)) for per_page in (1, 255)} for moved in (0, 5000)]
    assert [len(each) for each in songs] == [1, 1]
    assert len(set.union(*songs)) == 2
    assert not is_whole(song(0, 255))


@pytest.mark.parametrize("kind", FILES)
def test_where_the_end_is_cut_off_matters(kind: str) -> None:
    every = packets(FILES[kind])
    end = every[-1].granule
    assert end is not None
    assert identity(paged([*every[:-1], attrs.evolve(every[-1], granule=end - 9)])) != identity(FILES[kind])


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("factor", [0.02, 0.5, 50])
def test_granule_positions_that_the_packets_contradict_give_only_a_bound(kind: str, factor: float) -> None:
    every = [
        each if each.granule is None else attrs.evolve(each, granule=int(each.granule * factor))
        for each in packets(FILES[kind])
    ]
    length = measured(paged(every))
    assert length.seconds is None
    assert length.at_most is not None
    assert length.at_most >= SECONDS * max(1, factor)


def test_streams_that_follow_one_another_add_up() -> None:
    joined = VORBIS + OPUS
    assert measured(VORBIS + VORBIS).seconds == pytest.approx(2 * SECONDS, abs=0.001)
    length = measured(joined)
    assert length.seconds is None  # some decoders stop where the codec changes
    assert length.at_most is not None
    assert length.at_most >= 2 * SECONDS
    assert len({identity(VORBIS), identity(OPUS), identity(joined), identity(OPUS + VORBIS)}) == 4
    assert not is_whole(joined)
    assert identity(paged(packets(VORBIS), serial=1) + paged(packets(OPUS), 9, serial=2)) == identity(joined)


def test_damaged_cut_and_foreign_pages_are_the_whole_file() -> None:
    for data in FILES.values():
        middle = len(data) // 2
        second = data.index(b"OggS", 1)
        third = data.index(b"OggS", second + 1)
        last = data.rindex(b"OggS")
        for broken in (
            flipped(data, middle * 8),
            data[: -len(data) // 3],
            data[:last] + page(b"x", b"\x01", serial=99),
            data[:second] + data[third:],
            data + noise(5000),
            data + bytes(9),
            noise(3) + data,
        ):
            assert is_whole(broken)
            assert measured(broken).seconds is None


def test_a_cut_file_is_bounded_by_what_is_there() -> None:
    at_most = measured(VORBIS[: len(VORBIS) // 2]).at_most
    assert at_most is not None
    assert 0.1 < at_most < SECONDS + 0.1


def test_other_codecs_are_the_whole_file() -> None:
    theora = paged([Packet(b"\x80theora" + bytes(40), 0), Packet(b"x", 5)])
    assert is_whole(theora)
    assert measured(theora) == Length(None, None)


def test_flac_in_ogg_counts_without_its_metadata() -> None:
    one, three = ogg_flac(1), ogg_flac(3)
    assert identity(one) == identity(three)
    assert measured(one) == measured(three) == Length(SECONDS, SECONDS)


@pytest.mark.parametrize(
    ("head", "milliseconds"),
    [
        *((b"\x00", 10), (b"\x18", 60), (b"\x60", 10), (b"\x68", 20), (b"\x80", 2.5), (b"\xf8", 20), (b"\xf9", 40)),
        *((b"\xfb\x03", 60), (b"\xfb\x3f", 120), (b"\xfb", 0), (b"", 0)),
    ],
)
def test_an_opus_packet_says_how_long_it_is(head: bytes, milliseconds: float) -> None:
    assert opus_samples(head) == milliseconds * 48


def test_a_file_of_nothing_but_empty_packets_is_not_walked_for_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    first, *_ = packets(OPUS)
    data = page(first.body, bytes([len(first.body)]), flags=2, granule=0)
    data += b"".join(page(b"", bytes(255), granule=0, sequence=number) for number in range(1, 20))
    assert identity(data).startswith("ogg:")
    monkeypatch.setattr("aistemsplitter_async._audio.ogg_pages._PACKETS", 19 * 255)
    assert is_whole(data)
    assert measured(data) == Length(None, None)
