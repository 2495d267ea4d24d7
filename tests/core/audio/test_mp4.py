"""MP4: the samples that the tables find are the song, wherever they are; clocks count only where the packets agree."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import attrs
import pytest
from hypothesis import given, strategies as st

from aistemsplitter_async._audio.examine import Length
from tests.core.audio.made import flipped, identity, is_whole, measured, noise

RATE = 44100
PACKETS = tuple(noise(50 + 7 * number, number) for number in range(40))
SECONDS = 40 * 1024 / RATE


def box(kind: bytes, *contents: bytes) -> bytes:
    body = b"".join(contents)
    return struct.pack(">I", 8 + len(body)) + kind + body


def full(kind: bytes, *contents: bytes, version: int = 0, flags: int = 0) -> bytes:
    return box(kind, struct.pack(">I", version << 24 | flags), *contents)


def numbers(*values: int) -> bytes:
    return struct.pack(f">{len(values)}I", *values)


def aac_entry(config: bytes = b"\x12\x10", object_type: int = 0x40) -> bytes:
    decoder = bytes([object_type]) + bytes(12) + bytes([5, len(config)]) + config
    stream = bytes(3) + bytes([4, len(decoder)]) + decoder + b"\x06\x01\x02"
    entry = bytes(7) + b"\x01" + bytes(8) + struct.pack(">HHI", 2, 16, 0) + struct.pack(">I", RATE << 16)
    return box(b"mp4a", entry, full(b"esds", bytes([3, len(stream)]) + stream))


@attrs.frozen
class File:
    """How an M4A file is put together."""

    packets: tuple[bytes, ...] = PACKETS
    chunks: tuple[int, ...] = (7, 7, 7, 7, 7, 5)
    entry: bytes = aac_entry()
    delta: int = 1024
    media: int | None = None
    edit: int | None = None
    movie: int | None = None
    tags: bytes = b""
    moov_first: bool = False
    wide: bool = False
    gap: bytes = b""
    handler: bytes = b"soun"
    claimed: int | None = None

    def build(self) -> bytes:
        ftyp = box(b"ftyp", b"M4A \0\0\0\0M4A mp42")
        mdat_at = len(ftyp) + 8 + (len(self._moov(0)) if self.moov_first else 0)
        moov = self._moov(mdat_at)
        mdat = box(b"mdat", *(chunk + self.gap for chunk in self._chunks()))
        return ftyp + (moov + mdat if self.moov_first else mdat + moov)

    def _chunks(self) -> Sequence[bytes]:
        starts = [sum(self.chunks[:number]) for number in range(len(self.chunks))]
        return [b"".join(self.packets[start : start + held]) for start, held in zip(starts, self.chunks, strict=True)]

    def _moov(self, at: int) -> bytes:
        ticks = len(self.packets) * self.delta
        offsets = []
        for chunk in self._chunks():
            offsets.append(at)
            at += len(chunk) + len(self.gap)
        runs = [numbers(number, held, 1) for number, held in enumerate(self.chunks, 1)]
        count = len(self.packets) if self.claimed is None else self.claimed
        stbl = box(
            b"stbl",
            full(b"stsd", numbers(1), self.entry),
            full(b"stts", numbers(1, count, self.delta)),
            full(b"stsc", numbers(len(runs)), *runs),
            full(b"stsz", numbers(0, count), *(numbers(len(packet)) for packet in self.packets)),
            full(b"co64", numbers(len(offsets)), struct.pack(f">{len(offsets)}Q", *offsets))
            if self.wide
            else full(b"stco", numbers(len(offsets), *offsets)),
        )
        media = ticks if self.media is None else self.media
        mdia = box(
            b"mdia",
            full(b"mdhd", numbers(1, 2, RATE, media, 0)),
            full(b"hdlr", bytes(4), self.handler, bytes(13)),
            box(b"minf", stbl),
        )
        edits = b"" if self.edit is None else box(b"edts", full(b"elst", numbers(1, self.edit, 1024, 1 << 16)))
        movie = ticks if self.movie is None else self.movie
        return box(
            b"moov",
            full(b"mvhd", numbers(3, 4, RATE, movie), bytes(80)),
            box(b"trak", full(b"tkhd", numbers(5, 6, 1, 0, movie), bytes(60)), edits, mdia),
            self.tags,
        )


PLAIN = File()


def test_a_plain_file_is_known_and_measured() -> None:
    assert identity(PLAIN.build()).startswith("mp4:")
    assert measured(PLAIN.build()) == Length(pytest.approx(SECONDS), pytest.approx(SECONDS))  # type: ignore[arg-type]


@given(
    st.binary(max_size=500),
    st.booleans(),
    st.booleans(),
    st.binary(max_size=20),
    st.sampled_from([(40,), (1,) * 40, (20, 20), (3, 37)]),
)
def test_tags_and_where_the_samples_are_do_not_matter(
    tags: bytes, moov_first: bool, wide: bool, gap: bytes, chunks: tuple[int, ...]
) -> None:
    udta = box(b"udta", full(b"meta", box(b"ilst", tags)))
    again = File(tags=udta, moov_first=moov_first, wide=wide, gap=gap, chunks=chunks).build() + box(b"free", tags)
    assert identity(again) == identity(PLAIN.build())
    assert measured(again) == measured(PLAIN.build())


@given(st.data())
def test_any_changed_bit_of_a_sample_is_another_song(data: st.DataObject) -> None:
    number = data.draw(st.integers(0, len(PACKETS) - 1))
    bit = data.draw(st.integers(0, len(PACKETS[number]) * 8 - 1))
    changed = (*PACKETS[:number], flipped(PACKETS[number], bit), *PACKETS[number + 1 :])
    assert identity(File(packets=changed).build()) != identity(PLAIN.build())


def test_what_the_decoder_is_told_matters() -> None:
    one, other = PACKETS[:2]
    others = [
        File(entry=aac_entry(b"\x12\x08")),
        File(packets=(one + other[:1], other[1:], *PACKETS[2:])),
        File(packets=(other, one, *PACKETS[2:])),
        File(delta=1023),
        File(edit=39 * 1024),
    ]
    assert len({identity(each.build()) for each in (*others, PLAIN)}) == len(others) + 1


@pytest.mark.parametrize(
    ("config", "seconds"),
    [
        (b"\x12\x10", 1024 / 44100),  # low complexity
        (b"\x12\x14", 960 / 44100),
        (b"\x13\x90", 1024 / 22050),
        (b"\x2b\x92\x08\x00", 1024 / 22050),  # with spectral band replication: twice the samples at twice the rate
        (b"\x17\x80\x56\x22\x10", 1024 / 44100),  # a rate that is spelled out
        (b"\xba\x10", 512 / 44100),  # low delay
    ],
)
def test_packets_last_as_long_as_their_decoder_is_told(config: bytes, seconds: float) -> None:
    delta = round(seconds * RATE)
    length = measured(File(entry=aac_entry(config), delta=delta).build())
    assert length.seconds == pytest.approx(40 * seconds, abs=0.001)


def test_an_edit_that_leaves_out_what_the_encoder_added_is_the_length() -> None:
    length = measured(File(edit=39 * 1024, movie=39 * 1024).build())
    assert length.seconds == pytest.approx(39 * 1024 / RATE)
    assert length.at_most == pytest.approx(SECONDS)


@pytest.mark.parametrize(
    ("file", "at_most"),
    [
        (File(delta=20), SECONDS),
        (File(delta=10_240), 10 * SECONDS),
        (File(media=1024), SECONDS),
        (File(media=400 * 1024), 10 * SECONDS),
        (File(edit=4 * 1024), SECONDS),
        (File(edit=400 * 1024), 10 * SECONDS),
        (File(movie=400 * 1024), 10 * SECONDS),
    ],
)
def test_a_clock_that_the_packets_contradict_gives_only_a_bound(file: File, at_most: float) -> None:
    length = measured(file.build())
    assert length.seconds is None
    assert length.at_most == pytest.approx(at_most)


def test_tables_that_contradict_the_file_are_the_whole_file() -> None:
    data = PLAIN.build()
    size = data.index(b"mdat") - 4
    cut = File(moov_first=True).build()[:-500]
    broken = [
        File(claimed=39).build(),
        File(claimed=41).build(),
        File(chunks=(7, 7, 7)).build(),
        File(handler=b"vide").build(),
        File(entry=box(b"zzzz", bytes(28))).build(),
        File(entry=aac_entry(object_type=0x6B)).build(),
        data + data,
        data[:size] + b"\xff\xff\xff\xff" + data[size + 4 :],
        cut,
    ]
    for each in broken:
        assert is_whole(each)
        assert measured(each).seconds is None
    at_most = measured(cut).at_most
    assert at_most == pytest.approx(SECONDS)


def fragmented(delta: int = 1024, tags: bytes = b"", packets: tuple[bytes, ...] = PACKETS) -> bytes:
    """Return a file whose samples are timed by the fragments that they are in."""
    empty = File(packets=(), chunks=(), movie=0, media=0, tags=tags).build()
    mvex = box(b"mvex", full(b"trex", numbers(1, 1, delta, 0, 0)))
    at = empty.index(b"moov") - 4
    size = struct.unpack_from(">I", empty, at)[0]
    init = empty[:at] + struct.pack(">I", size + len(mvex)) + empty[at + 4 : at + size] + mvex
    runs = []
    for start in range(0, len(packets), 10):
        held = packets[start : start + 10]
        sizes = [numbers(len(packet)) for packet in held]
        at = 16 + 8 + 16 + 20 + 4 * len(held) + 8 + 8  # of the data, from the beginning of the fragment
        trun = full(b"trun", numbers(len(held), at), *sizes, flags=0x201)
        traf = box(b"traf", full(b"tfhd", numbers(1), flags=0x20000), trun)
        runs.append(box(b"moof", full(b"mfhd", numbers(start)), traf))
        runs.append(box(b"mdat", *held))
    return init + b"".join(runs)


def test_fragments_are_timed() -> None:
    assert measured(fragmented()) == measured(PLAIN.build())
    assert measured(fragmented(delta=20)).seconds is None
    assert measured(fragmented(delta=20)).at_most == pytest.approx(SECONDS)


@pytest.mark.parametrize(("tracks", "whole"), [(8, False), (9, True)])
def test_fragments_are_not_walked_for_any_number_of_tracks(tracks: int, whole: bool) -> None:
    data = fragmented()
    moov, trak = data.index(b"moov") - 4, data.index(b"trak") - 4
    size, more = (struct.unpack_from(">I", data, at)[0] for at in (moov, trak))
    copies = data[trak : trak + more] * (tracks - 1)
    moved = data[:moov] + struct.pack(">I", size + len(copies)) + data[moov + 4 : trak] + copies + data[trak:]
    assert (measured(moved).at_most is None) is whole


@given(st.binary(max_size=300), st.integers(0, len(PACKETS) - 1), st.integers(0, 399))
def test_of_fragments_the_samples_are_the_song(tags: bytes, number: int, bit: int) -> None:
    assert identity(fragmented()).startswith("mp4:")
    assert identity(fragmented(tags=box(b"udta", tags))) == identity(fragmented())
    changed = (*PACKETS[:number], flipped(PACKETS[number], bit), *PACKETS[number + 1 :])
    assert identity(fragmented(packets=changed)) != identity(fragmented())
    assert identity(fragmented(delta=1023)) != identity(fragmented())
    assert is_whole(fragmented()[:-100])
