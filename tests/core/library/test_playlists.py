"""Lists of songs, as players, spreadsheets and people write them."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from aistemsplitter_async.library.playlists import (
    LINE_CAP_BYTES,
    PARSERS,
    Parse,
    PlaylistEntry,
    Problem,
    parse_csv,
    parse_m3u,
    parse_pls,
    parse_text,
    parser_for,
    possible_paths,
)


def parse(parser: Parse, data: bytes) -> list[PlaylistEntry | Problem]:
    """Parse what a file holds, in the lines that reading it gives."""
    return list(parser(data.splitlines(keepends=True) if b"\n" in data else [data]))


def entries(parser: Parse, data: bytes) -> list[str]:
    found = parse(parser, data)
    assert all(isinstance(entry, PlaylistEntry) for entry in found), found
    return [entry.text for entry in found if isinstance(entry, PlaylistEntry)]


def problems(parser: Parse, data: bytes) -> list[tuple[int, str]]:
    return [(found.line, found.reason) for found in parse(parser, data) if isinstance(found, Problem)]


M3U = b"""#EXTM3U
#EXTINF:213,Bj\xc3\xb6rk - Human, Behaviour
music/01%20Human.mp3

# a comment
#EXTINF:-1 tvg-id="x",Radio
https://radio.example/live.mp3
#EXTALB:Debut
C:\\Music\\x.mp3
"""


def test_an_m3u_lists_paths_and_urls_with_their_titles_and_lengths() -> None:
    assert parse(parse_m3u, M3U) == [
        PlaylistEntry("music/01%20Human.mp3", 3, "Björk - Human, Behaviour", 213.0),
        PlaylistEntry("https://radio.example/live.mp3", 7, "Radio", None),
        PlaylistEntry("C:\\Music\\x.mp3", 9),
    ]


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"], ids=["unix", "windows", "old mac"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
@pytest.mark.parametrize("parser", [parse_m3u, parse_text, parse_csv, parse_pls])
def test_line_endings_and_byte_order_marks_do_not_matter(parser: Parse, ending: bytes, mark: bytes) -> None:
    lines = [b"File1=a.mp3", b"File2=b.mp3"] if parser is parse_pls else [b"a.mp3", b"b.mp3"]
    assert parse(parser, mark + ending.join(lines) + ending) == [PlaylistEntry("a.mp3", 1), PlaylistEntry("b.mp3", 2)]


def test_a_line_that_is_not_utf8_is_what_windows_writes() -> None:
    assert entries(parse_m3u, b"Bj\xf6rk.mp3\nBj\xc3\xb6rk.mp3\n") == ["Björk.mp3", "Björk.mp3"]
    assert entries(parse_m3u, b"Don\x92t \x96 10 \x80.mp3\n") == ["Don\u2019t \u2013 10 €.mp3"]
    assert entries(parse_m3u, b"\x81\x92.mp3\n") == ["\x81\x92.mp3"]


@pytest.mark.parametrize(
    ("line", "title", "seconds"),
    [
        (b"#EXTINF:12.5,A", "A", 12.5),
        (b"#extinf: 12 , A ", "A", 12.0),
        (b"#EXTINF:0,A", "A", None),
        (b"#EXTINF:-1,", None, None),
        (b"#EXTINF:,A", "A", None),
        (b"#EXTINF:A", None, None),
        (b"#EXTINF:99999999999999999999,A", "A", None),
        (b"#EXTINF:" + b"9" * 5000 + b",A", "A", None),
        (b"#EXTINF", None, None),
    ],
)
def test_what_extinf_says_is_taken_where_it_makes_sense(line: bytes, title: str | None, seconds: float | None) -> None:
    assert parse(parse_m3u, line + b"\na.mp3") == [PlaylistEntry("a.mp3", 2, title, seconds)]


def test_a_stream_in_pieces_is_not_taken_for_songs() -> None:
    found = parse(parse_m3u, b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:9.9,\npiece1.ts\n")
    assert found == [Problem(2, "this is an HLS stream, not a list of songs")]


def test_a_pls_lists_its_files_in_order_with_what_follows_them() -> None:
    data = b"""[playlist]
NumberOfEntries=3
File1=a=b.mp3
Title1=One
Length1=10
file2 = https://x.example/2
File3=
File4=d.mp3
Title1=Late
Length4=-1
Version=2
"""
    assert parse(parse_pls, data) == [
        PlaylistEntry("a=b.mp3", 3, "One", 10.0),
        PlaylistEntry("https://x.example/2", 6),
        PlaylistEntry("d.mp3", 8),
    ]


def test_a_text_list_has_comments_and_blank_lines() -> None:
    assert parse(parse_text, b"# mine\n\n  a b.mp3  \nhttps://x.example/a#b\n\t\n") == [
        PlaylistEntry("a b.mp3", 3),
        PlaylistEntry("https://x.example/a#b", 4),
    ]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (
            b"id,url,name\n1,https://x.example/a,A\n2,https://x.example/b,B\n",
            ["https://x.example/a", "https://x.example/b"],
        ),
        (b"Name;Path\nA;a.mp3\n", ["a.mp3"]),
        (b"name\tfile\n\ta.mp3\n", ["a.mp3"]),
        (b"path,url\na.mp3,https://x.example/a\n", ["https://x.example/a"]),
        (b'"SOURCE" , x\n"a, b.mp3", 1\n', ["a, b.mp3"]),
        (b"a.mp3,1\nb.mp3,2\n", ["a.mp3", "b.mp3"]),
        (b"https://x.example/a\nhttps://x.example/b", ["https://x.example/a", "https://x.example/b"]),
        (b"url\n# a comment\n\na.mp3\n", ["a.mp3"]),
        (b'path\n"say ""hi"".mp3"\n', ['say "hi".mp3']),
        (b"url\n", []),
        (b"", []),
    ],
)
def test_a_csv_is_read_by_its_header_or_its_first_column(data: bytes, expected: list[str]) -> None:
    assert entries(parse_csv, data) == expected


def test_a_row_without_its_entry_is_reported_by_line_and_the_others_are_parsed() -> None:
    assert parse(parse_csv, b"name,url\nA,\n\nB\nC,c.mp3\n") == [
        Problem(2, "column 2 is empty"),
        Problem(4, "column 2 is empty"),
        PlaylistEntry("c.mp3", 5),
    ]


@pytest.mark.parametrize("parser", PARSERS.values(), ids=PARSERS.keys())
@pytest.mark.parametrize(
    ("data", "line", "reason"),
    [
        (b"\xff\xfea\x00.\x00", 1, "UTF-16"),
        (b"ok.mp3\n\x00\x01\x02\nlater.mp3", 2, "not text"),
        (b"x" * (LINE_CAP_BYTES + 1), 1, "not text"),
    ],
    ids=["utf-16", "binary", "endless line"],
)
def test_a_list_is_not_read_beyond_what_is_not_text(parser: Parse, data: bytes, line: int, reason: str) -> None:
    found = problems(parser, data)
    assert [number for number, _ in found] == [line]
    assert reason in found[0][1]
    assert not any(isinstance(entry, PlaylistEntry) and "later" in entry.text for entry in parse(parser, data))


@pytest.mark.parametrize("parser", PARSERS.values(), ids=PARSERS.keys())
@given(st.binary(max_size=200))
def test_nothing_that_a_list_holds_makes_parsing_fail(parser: Parse, data: bytes) -> None:
    lines = max(1, len(data.splitlines()))
    for found in parse(parser, data):
        assert 1 <= found.line <= lines + 1
        assert not isinstance(found, PlaylistEntry) or found.text == found.text.strip() != ""


def test_a_list_is_read_as_far_as_it_is_asked_for() -> None:
    read = 0

    def endless() -> st.SearchStrategy[bytes] | object:
        nonlocal read
        while True:
            read += 1
            yield b"a.mp3\n"

    for parser in (parse_text, parse_m3u, parse_csv):
        read = 0
        found = parser(endless())  # type: ignore[arg-type]
        assert [next(found) for _ in range(3)] == [PlaylistEntry("a.mp3", line) for line in (1, 2, 3)]
        assert read < 6


@pytest.mark.parametrize(
    ("name", "parser"),
    [
        ("a.M3U8", parse_m3u),
        ("x/a.pls", parse_pls),
        ("a.txt", parse_text),
        ("a.csv", parse_csv),
        ("a.mp3", None),
        ("m3u", None),
    ],
)
def test_a_list_is_known_by_its_extension(name: str, parser: Parse | None) -> None:
    assert parser_for(name) is parser


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("a.mp3", ("a.mp3",)),
        ("../a b.mp3", ("../a b.mp3",)),
        ("a%20b.mp3", ("a%20b.mp3", "a b.mp3")),
        ("100%.mp3", ("100%.mp3",)),
        ("x\\a%20b.mp3", ("x\\a%20b.mp3", "x\\a b.mp3", "x/a%20b.mp3", "x/a b.mp3")),
        ("C:\\Music\\a.mp3", ("C:\\Music\\a.mp3", "C:/Music/a.mp3")),
        ("C://Music/a.mp3", ("C://Music/a.mp3",)),
        ("file:///music/a%20b.mp3", ("/music/a b.mp3",)),
        ("FILE://localhost/music/a.mp3", ("/music/a.mp3",)),
        ("file:/music/who?#1.mp3", ("/music/who?#1.mp3",)),
        ("file:///C:/Music/a.mp3", ("C:/Music/a.mp3",)),
        ("file:///caf%E9.mp3", ("/caf\udce9.mp3",)),
    ],
)
def test_an_entry_means_one_of_a_few_paths(text: str, paths: tuple[str, ...]) -> None:
    assert possible_paths(text) == paths


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("file://nas/music/a.mp3", "another machine (nas)"),
        ("rtsp://x.example/a", "rtsp URLs"),
        ("spotify://track/1", "spotify URLs"),
        ("ftp://[", "ftp URLs"),
        ("a\x00b", "not a path"),
        ("file:///a%00b", "not a path"),
    ],
)
def test_an_entry_that_cannot_be_read_says_why(text: str, reason: str) -> None:
    found = possible_paths(text)
    assert isinstance(found, Problem)
    assert reason in found.reason
