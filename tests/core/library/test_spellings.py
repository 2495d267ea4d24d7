"""What an entry of a list may be called on the disk."""

from __future__ import annotations

import os
import unicodedata

import pytest
from hypothesis import given, strategies as st

from aistemsplitter_async.library.spellings import (
    Closeness,
    Spelling,
    Unreadable,
    closeness,
    fold,
    read_text,
    respell,
    show_name,
    spell,
    url_of,
)


def paths(name: bytes) -> list[str]:
    spelled = spell(name)
    assert not isinstance(spelled, Unreadable), spelled
    return [f"/../{one.path}" if one.rooted else one.path for one in spelled]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"a.mp3", ["a.mp3"]),
        (b" a\xe3\x80\x80 ", [" a\u3000 ", "a"]),
        (b"a%20b.mp3", ["a%20b.mp3", "a b.mp3"]),
        (b"100%.mp3", ["100%.mp3"]),
        (b"x\\a.mp3", ["x\\a.mp3", "x/a.mp3"]),
        (b"C:\\Music\\a.mp3", ["C:\\Music\\a.mp3", "C:/Music/a.mp3", "/../Music/a.mp3"]),
        (b"\\Music\\a.mp3", ["\\Music\\a.mp3", "/Music/a.mp3", "/../Music/a.mp3"]),
        (b"C://Music/a.mp3", ["C://Music/a.mp3", "/../Music/a.mp3"]),
        (b"\x83\\.mp3", ["\udc83\\.mp3", "\udc83/.mp3", "\u30bd.mp3"]),
        (b"Mac HD:m:AC/DC.mp3", ["Mac HD:m:AC/DC.mp3"]),
        (b"Mac HD:m:a.mp3", ["Mac HD:m:a.mp3", "/m/a.mp3", "/Volumes/Mac HD/m/a.mp3"]),
        (b'"C:\\x\\a.mp3"', ['"C:\\x\\a.mp3"', '"C:/x/a.mp3"', "C:\\x\\a.mp3", "C:/x/a.mp3", "/../x/a.mp3"]),
        (b"'/m/it''s.mp3' ", ["'/m/it''s.mp3' ", "/m/it''s.mp3"]),
        (b"file:///music/a%20b.mp3", ["/music/a b.mp3"]),
        (b"FILE://localhost/music/who?#1.mp3", ["/music/who?#1.mp3"]),
        (b"file:///C:/Music/a.mp3", ["C:/Music/a.mp3", "/../Music/a.mp3"]),
        (b"file:///caf%E9.mp3", ["/caf\udce9.mp3"]),
    ],
)
def test_an_entry_means_one_of_a_few_paths(name: bytes, expected: list[str]) -> None:
    assert paths(name)[: len(expected)] == expected


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (b"file://nas/music/a.mp3", "another machine (nas)"),
        (b"rtsp://x.example/a", "rtsp URLs"),
        (b"spotify://track/1", "spotify URLs"),
        (b"a\x00b", "not a path"),
        (b"file:///a%00b", "not a path"),
    ],
)
def test_an_entry_that_cannot_be_read_says_why(name: bytes, reason: str) -> None:
    found = spell(name)
    assert isinstance(found, Unreadable)
    assert reason in found.reason


@given(st.binary(min_size=1, max_size=60).filter(lambda name: b"\0" not in name and name[:5].lower() != b"file:"))
def test_what_is_written_always_comes_first(name: bytes) -> None:
    spelled = spell(name)
    if not isinstance(spelled, Unreadable):
        assert spelled[0] == Spelling(os.fsdecode(name))
        assert len(spelled) < 40


def raw(name: bytes) -> str:
    return os.fsdecode(name)


@pytest.mark.parametrize(
    ("written", "name", "close"),
    [
        ("a", "a", Closeness.SAME),
        ("é.mp3", "e\u0301.mp3", Closeness.EQUIVALENT),
        ("e\u0301.mp3", "é.mp3", Closeness.EQUIVALENT),
        (raw(b"caf\xe9"), "café", Closeness.REENCODED),
        (raw(b"caf\xe9"), "cafe\u0301", Closeness.REENCODED),
        (raw(b"caf\x8e"), "café", Closeness.REENCODED),  # Mac
        (raw(b"caf\x82"), "café", Closeness.REENCODED),  # DOS
        (raw(b"\x93\xfa\x96\x7b"), "日本", Closeness.REENCODED),
        (raw(b"\xee\xea"), "ок", Closeness.REENCODED),
        ("café", raw(b"caf\xe9"), Closeness.REENCODED),
        ("cafe\u0301", raw(b"caf\xe9"), Closeness.REENCODED),
        ("SONG", "Song", Closeness.CASELESS),
        ("CAFÉ", "cafe\u0301", Closeness.CASELESS),
        (raw(b"CAF\xc9"), "café", Closeness.CASELESS),
        ("strasse", "straße", None),
        ("cafe", "café", None),
        (raw(b"\xe9"), raw(b"\xe8"), None),
    ],
)
def test_how_close_a_name_is_to_what_is_written(written: str, name: str, close: Closeness | None) -> None:
    assert closeness(written, name) == close


@given(st.text(max_size=12), st.sampled_from(["NFC", "NFD"]), st.booleans())
def test_every_form_of_a_name_is_found_under_its_key(name: str, form: str, upper: bool) -> None:
    name = name.replace("\x00", "").encode("utf-8", "ignore").decode()
    other = unicodedata.normalize(form, name)  # type: ignore[arg-type]
    assert fold(other) == fold(name)
    assert closeness(other, name) in (Closeness.SAME, Closeness.EQUIVALENT)
    if upper and name.isascii():
        assert fold(name.upper()) == fold(name)


@given(st.text("äöüßéèñçÄÖÜabc ", max_size=10), st.sampled_from(["cp1252", "cp850", "mac_roman"]))
def test_a_name_in_a_code_page_is_found_from_both_sides(name: str, page: str) -> None:
    in_page = os.fsdecode(name.encode(page))
    if not name.isascii() and any("\udc80" <= character <= "\udcff" for character in in_page):
        assert name in respell(in_page)
        assert in_page in respell(name)


def test_what_is_shown_is_text_and_never_long() -> None:
    assert show_name(b"caf\xe9 \xc3\xa9.mp3") == r"caf\xe9 é.mp3"
    assert len(show_name(b"x" * 60_000)) == 301
    assert url_of(b" http://x.example/caf\xe9\n") == "http://x.example/caf%E9"


def test_a_title_is_in_the_code_page_of_its_file() -> None:
    assert read_text("Björk".encode()) == "Björk"
    assert read_text(b"\xee\xea", b"m\\\xee\xea.mp3", "ок.mp3") == "ок"
    assert read_text(b"Bj\xf6rk \x92") == "Björk \u2019"
    assert read_text(b"\x81") == "\x81"
