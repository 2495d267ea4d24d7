"""Disc and track numbers, the artist of an album and its year, in the tags of every kind that people have."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from aistemsplitter_async.library.tags import read_tags
from aistemsplitter_async.library.template import Tags

SONG = Tags(albumartist="AC/DC", disc=2, discs=3, track=4, tracks=12, year="1990")


def id3(version: int) -> bytes:
    """Return an ID3 tag with text frames; version 2 has names of three letters."""
    names = (
        ("TP2", "TPA", "TRK", "TYE") if version == 2 else ("TPE2", "TPOS", "TRCK", "TDRC" if version == 4 else "TYER")
    )
    frames = b""
    for name, text in zip(names, (b"AC/DC", b"2/3", b"04/12", b"1990"), strict=True):
        size = struct.pack(">I", len(text) + 1)
        frames += name.encode() + (size[1:] if version == 2 else size + b"\0\0") + b"\0" + text
    return b"ID3" + bytes([version, 0, 0]) + bytes(len(frames) >> shift & 0x7F for shift in (21, 14, 7, 0)) + frames


def comments(*lines: str) -> bytes:
    body = struct.pack("<I", 0) + struct.pack("<I", len(lines))
    return body + b"".join(struct.pack("<I", len(line)) + line.encode() for line in lines)


def flac(*lines: str) -> bytes:
    block = comments(*lines)
    return b"fLaC\0\0\0\x22" + bytes(34) + b"\x84" + struct.pack(">I", len(block))[1:] + block


def chunk(name: bytes, body: bytes, order: str = "<") -> bytes:
    return name + struct.pack(f"{order}I", len(body)) + body + b"\0" * (len(body) % 2)


def wav(*chunks: bytes) -> bytes:
    body = b"WAVE" + chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, 8000, 16_000, 2, 16)) + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body + chunk(b"data", bytes(16))


def aiff() -> bytes:
    body = b"AIFF" + chunk(b"COMM", bytes(18), ">") + chunk(b"ID3 ", id3(3), ">")
    return b"FORM" + struct.pack(">I", len(body)) + body


def box(name: bytes, *bodies: bytes) -> bytes:
    return struct.pack(">I", 8 + sum(map(len, bodies))) + name + b"".join(bodies)


def mp4() -> bytes:
    def item(name: bytes, kind: int, data: bytes) -> bytes:
        return box(name, box(b"data", struct.pack(">II", kind, 0), data))

    items = (
        item(b"aART", 1, b"AC/DC"),
        item(b"disk", 0, struct.pack(">HHH", 0, 2, 3)),
        item(b"trkn", 0, struct.pack(">HHHH", 0, 4, 12, 0)),
        item(b"\xa9day", 1, b"1990"),
    )
    meta = box(b"meta", bytes(4), box(b"hdlr", bytes(25)), box(b"ilst", *items))
    return box(b"ftyp", b"M4A \0\0\0\0") + box(b"moov", box(b"udta", meta))


def asf() -> bytes:
    def wide(text: str) -> bytes:
        data = f"{text}\0".encode("utf-16-le")
        return struct.pack("<H", len(data)) + data

    pairs = {"WM/AlbumArtist": "AC/DC", "WM/PartOfSet": "2/3", "WM/TrackNumber": "4/12", "WM/Year": "1990"}
    body = struct.pack("<H", len(pairs)) + b"".join(wide(name) + b"\0\0" + wide(text) for name, text in pairs.items())
    extended = bytes.fromhex("40a4d0d207e3d21197f000a0c95ea850") + struct.pack("<Q", 24 + len(body)) + body
    head = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
    return head + struct.pack("<QIBB", 30 + len(extended), 1, 1, 2) + extended


VORBIS = ("ALBUMARTIST=AC/DC", "DISCNUMBER=2", "DISCTOTAL=3", "TRACKNUMBER=4/12", "DATE=1990")
FOOBAR = ("ALBUM ARTIST=AC/DC", "disc=2/3", "track=4/12", "YEAR=1990")
FILES: dict[str, Callable[[], bytes]] = {
    "22.mp3": lambda: id3(2) + b"\xff\xfb\x90\x00" * 300,
    "23.mp3": lambda: id3(3) + b"\xff\xfb\x90\x00" * 300,
    "24.mp3": lambda: id3(4) + b"\xff\xfb\x90\x00" * 300,
    "vorbis.flac": lambda: flac(*VORBIS),
    "foobar.flac": lambda: flac(*FOOBAR),
    "id3.wav": lambda: wav(chunk(b"id3 ", id3(3))),
    "id3.aiff": aiff,
    "song.m4a": mp4,
    "song.wma": asf,
}


@pytest.mark.parametrize("name", FILES)
def test_the_disc_of_a_song_is_read_in_every_format(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(FILES[name]())
    assert read_tags(tmp_path / name) == SONG


def test_a_wav_file_says_its_track_in_a_list_chunk(tmp_path: Path) -> None:
    info = chunk(b"INAM", b"Odd") + chunk(b"IPRT", b"4/12\0") + chunk(b"ICRD", b"1990")
    (tmp_path / "x.wav").write_bytes(wav(chunk(b"LIST", b"INFO" + info)))
    assert read_tags(tmp_path / "x.wav") == Tags(title="Odd", track=4, tracks=12, year="1990")


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 3])
def test_a_list_chunk_that_claims_more_than_it_holds_is_read_as_far_as_it_goes(tmp_path: Path, size: int) -> None:
    odd = b"IPRT" + struct.pack("<I", size) + b"4/12"
    (tmp_path / "x.wav").write_bytes(wav(chunk(b"LIST", b"INFO" + odd)))
    assert read_tags(tmp_path / "x.wav").track in (None, 4)
