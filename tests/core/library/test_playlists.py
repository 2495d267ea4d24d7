"""Lists of songs, as players, spreadsheets and people write them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, strategies as st

from aistemsplitter_async.library.entries import PlaylistEntry
from aistemsplitter_async.library.playlists import kind_of, parse_list
from aistemsplitter_async.library.records import LINE_CAP_BYTES, Problem

KINDS = ("m3u", "pls", "txt", "csv", "xspf")


def parse(kind: str, data: bytes, *, piece: int = LINE_CAP_BYTES) -> list[PlaylistEntry | Problem]:
    """Parse what a file holds, as it arrives in pieces."""
    return list(parse_list((data[start : start + piece] for start in range(0, len(data), piece)), kind))


def entries(kind: str, data: bytes) -> list[bytes]:
    found = parse(kind, data)
    assert all(isinstance(entry, PlaylistEntry) for entry in found), found
    return [entry.names[0] for entry in found if isinstance(entry, PlaylistEntry) and not entry.may_be_comment]


def problems(kind: str, data: bytes) -> list[tuple[int, str]]:
    return [(found.line, found.reason) for found in parse(kind, data) if isinstance(found, Problem)]


def song(name: str, line: int, title: bytes | None = None, seconds: float | None = None) -> PlaylistEntry:
    return PlaylistEntry((name.encode(),), line, title, seconds)


def songs(found: list[PlaylistEntry | Problem]) -> list[PlaylistEntry | Problem]:
    return [one for one in found if not (isinstance(one, PlaylistEntry) and one.may_be_comment)]


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
    assert songs(parse("m3u", M3U)) == [
        song("music/01%20Human.mp3", 3, "Björk - Human, Behaviour".encode(), 213.0),
        song("https://radio.example/live.mp3", 7, b"Radio"),
        song("C:\\Music\\x.mp3", 9),
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("kind", ["m3u", "txt", "csv", "pls"])
def test_line_ends_and_unicode_of_any_kind_do_not_matter(kind: str, encoding: str) -> None:
    lines = ["File1=Bj\xf6rk.mp3", "File2=b.mp3"] if kind == "pls" else ["Bj\xf6rk.mp3", "b.mp3"]
    for ending, piece in itertools.product(("\n", "\r\n", "\r"), (LINE_CAP_BYTES, 8, 11)):
        data = ending.join([*lines, ""]).encode(encoding)
        assert [one.names[0] for one in parse(kind, data, piece=piece) if isinstance(one, PlaylistEntry)] == [
            "Björk.mp3".encode(),
            b"b.mp3",
        ]


@pytest.mark.parametrize(
    ("line", "title", "seconds"),
    [
        (b"#EXTINF:12.5,A", b"A", 12.5),
        (b"#extinf: 12 , A, B ", b"A, B", 12.0),
        (b"#EXTINF:-1,", None, None),
        (b"#EXTINF:A", None, None),
        (b"#EXTINF:" + b"9" * 5000 + b",A", b"A", None),
        (b"#EXTINF", None, None),
    ],
)
def test_what_extinf_says_is_taken_where_it_makes_sense(
    line: bytes, title: bytes | None, seconds: float | None
) -> None:
    assert parse("m3u", line + b"\n#EXTVLCOPT:start-time=3\na.mp3") == [song("a.mp3", 3, title, seconds)]


def test_a_stream_in_pieces_is_not_taken_for_songs() -> None:
    found = parse("m3u", b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:9.9,\npiece1.ts\n")
    assert found == [Problem(2, "this is an HLS stream, not a list of songs")]


def test_a_pls_lists_its_files_in_order_with_what_follows_them_and_drops_no_line() -> None:
    data = b"""[Playlist]
NumberOfEntries=3
File1=a=b.mp3
TITLE1=One
Length1=10
file2 = https://x.example/2
File3=
FILE4= d.mp3
Title1=Late
Length4=-1
Version=2
; a comment
music/forgotten.mp3
"""
    assert parse("pls", data) == [
        song("a=b.mp3", 3, b"One", 10.0),
        song(" https://x.example/2", 6),
        song("music/forgotten.mp3", 13),
        song(" d.mp3", 8),
    ]
    assert entries("txt", data) == [b"a=b.mp3", b" https://x.example/2", b"music/forgotten.mp3", b" d.mp3"]


def test_spaces_and_bytes_of_a_name_are_kept_and_a_number_sign_may_begin_one() -> None:
    data = b"# mine\n\n  a b.mp3  \n\xe3\x80\x80x\xff.mp3\n#1 Crush.wav\n\t\n#EXTM3U\n"
    assert parse("txt", data) == [
        PlaylistEntry((b"# mine",), 1, may_be_comment=True),
        PlaylistEntry((b"  a b.mp3  ",), 3),
        PlaylistEntry((b"\xe3\x80\x80x\xff.mp3",), 4),
        PlaylistEntry((b"#1 Crush.wav",), 5, may_be_comment=True),
    ]


def test_nul_between_names_is_recognised() -> None:
    data = b"./a\nb.wav\0./#1 Crush.wav\0./c\xff .wav\0"
    assert parse("txt", data) == [PlaylistEntry((name,), line) for line, name in enumerate(data.split(b"\0")[:-1], 1)]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"id,url,name\n1,https://x.example/a,A\n", [[b"https://x.example/a"]]),
        (b"Name;Path\nA;a.mp3\n", [[b"a.mp3"]]),
        (b"sep=;\r\nTitle;FILENAME\r\nA, B;a.mp3\r\n", [[b"a.mp3"]]),
        (b'"sep=|"\na.mp3|x\n', [[b"a.mp3", b"a.mp3|x"]]),
        (b"Name\tLocation\nA\ta.mp3\n", [[b"a.mp3"]]),
        (b"path,url\na.mp3,https://x.example/a\nb.mp3,\n", [[b"https://x.example/a", b"a.mp3"], [b"b.mp3"]]),
        (b"Path;Filename\nD:\\m;a.mp3\n", [[b"D:\\m/a.mp3", b"D:\\m", b"a.mp3"]]),
        (b'"SOURCE" , x\n"a, b.mp3", 1\n', [[b"a, b.mp3"]]),
        (b"Hello, Goodbye.mp3\nb.mp3\n", [[b"Hello", b"Hello, Goodbye.mp3"], [b"b.mp3"]]),
        (b"Filename\nHello, Goodbye.mp3\n", [[b"Hello, Goodbye.mp3"]]),
        (b"a,file\n1,#1 Crush.wav\n", [[b"#1 Crush.wav"]]),
        (b"file,a\n#1 Crush.wav,1\n", [[b"#1 Crush.wav"]]),
        (b'path\n"say ""hi""\nthere.mp3"\n', [[b'say "hi"\nthere.mp3']]),
        (b"path,x\ncaf\xe9.mp3,1\n", [[b"caf\xe9.mp3"]]),
        (b"url\n", []),
        (b"", []),
    ],
)
def test_a_csv_is_read_by_its_header_or_its_first_column(data: bytes, expected: list[list[bytes]]) -> None:
    found = parse("csv", data)
    assert [list(one.names) for one in found if isinstance(one, PlaylistEntry)] == expected
    assert not any(isinstance(one, Problem) or one.may_be_comment for one in found)


def test_a_table_on_standard_input_is_one_by_its_first_line() -> None:
    assert entries("txt", "Name\tLocation\rA\tMac:a.mp3\r".encode("utf-16")) == [b"Mac:a.mp3"]
    assert entries("txt", b"sep=;\nFilename;x\na.mp3;1\n") == [b"a.mp3"]
    assert entries("txt", b"path, to, a song.mp3\n") == [b"path, to, a song.mp3"]


def test_a_row_without_its_entry_is_reported_by_line_and_the_others_are_parsed() -> None:
    assert parse("csv", b"name,url\nA,\n\nB\n# a comment\nC,c.mp3\n") == [
        Problem(2, "it has no url"),
        Problem(4, "it has no url"),
        PlaylistEntry((b"# a comment",), 5, may_be_comment=True),
        song("c.mp3", 6),
    ]


def test_a_quote_that_is_not_closed_is_suspected() -> None:
    (found,) = parse("csv", b'path\n"a.mp3\nb.mp3\n')
    assert isinstance(found, PlaylistEntry)
    assert found.hint == "a quote in line 2 may not be closed"


def test_a_table_whose_columns_are_not_known_says_which_are() -> None:
    assert {one.hint for one in parse("csv", b"Titel;Datei\nA;a.mp3\n") if isinstance(one, PlaylistEntry)} == {
        "of a table, the column called path or url is read"
    }


XSPF = b"""<?xml version="1.0" encoding="UTF-8"?>
<playlist xmlns="http://xspf.org/ns/0/" xmlns:vlc="http://www.videolan.org/vlc/playlist/ns/0/" version="1">
<title>Playlist</title><trackList>
<track><location>file:///m/caf%C3%A9%20%26.mp3</location><title>A &amp; B</title><duration>61500</duration></track>
<track><title>Gone</title></track>
</trackList></playlist>"""
PLIST = b"""<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple Computer//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0"><dict><key>Music Folder</key><string>file:///m/</string><key>Tracks</key><dict>
<key>1</key><dict><key>Name</key><string>One</string><key>Total Time</key><integer>61500</integer>
<key>Location</key><string>file://localhost/m/a%20b.mp3</string></dict>
<key>2</key><dict><key>Name</key><string>Cloud</string><key>Total Time</key><integer>1</integer></dict>
</dict><key>Playlists</key><array><dict><key>Name</key><string>Library</string></dict></array></dict></plist>"""
REKORDBOX = b"""<?xml version="1.0" encoding="UTF-8"?>
<DJ_PLAYLISTS Version="1.0.0"><PRODUCT Name="rekordbox" Version="6.7.7"/><COLLECTION Entries="1">
<TRACK TrackID="1" Name="One" TotalTime="61" Location="file://localhost/m/a%20b.mp3"><TEMPO Bpm="128.00"/></TRACK>
</COLLECTION><PLAYLISTS><NODE Name="x" Type="1"><TRACK Key="1"/></NODE></PLAYLISTS></DJ_PLAYLISTS>"""
WPL = b"""<?wpl version="1.0"?><smil><body><seq><media src="..\\a &amp; b.mp3" tid="{1}"/></seq></body></smil>"""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_playlists_in_xml_are_read(encoding: str) -> None:
    def recoded(data: bytes) -> bytes:
        return data.decode().replace("UTF-8", encoding).encode(encoding)

    for piece in (LINE_CAP_BYTES, 100):
        assert parse("xspf", recoded(XSPF), piece=piece) == [
            song("file:///m/caf%C3%A9%20%26.mp3", 4, b"A & B", 61.5),
            Problem(5, "Gone has no file, only a place in the list"),
        ]
        assert parse("xml", recoded(PLIST), piece=piece) == [
            song("file://localhost/m/a%20b.mp3", 4, b"One", 61.5),
            Problem(6, "Cloud has no file, only a place in the list"),
        ]
        assert parse("xml", recoded(REKORDBOX), piece=piece) == [song("file://localhost/m/a%20b.mp3", 3, b"One", 61.0)]
    assert parse("wpl", WPL) == [song("..\\a & b.mp3", 1)]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'<!DOCTYPE playlist [<!ENTITY a "b"><!ENTITY c "&a;&a;">]><playlist>&c;</playlist>', "declares entities"),
        (b'<!DOCTYPE playlist [<!ENTITY a SYSTEM "file:///etc/passwd">]><playlist>&a;</playlist>', "declares entities"),
        (b"<playlist>" + b"<a>" * 100, "too deep"),
        (b"<?xml version='1.0'?><html></html>", "its root is html"),
        (b"<playlist><track><location>" + b"x" * 200_000, "too long"),
        (b"<playlist></track>", "not XML from here on"),
        (b"<playlist>", "not XML from here on"),
    ],
)
def test_xml_that_is_no_playlist_or_means_harm_is_refused(data: bytes, reason: str) -> None:
    (found,) = problems("xspf", data)
    assert reason in found[1]


@pytest.mark.parametrize("kind", ["m3u", "pls", "txt", "csv"])
def test_a_list_is_not_read_beyond_what_is_not_text_but_beyond_a_long_line(kind: str) -> None:
    name = b"File1=" if kind == "pls" else b""
    binary = parse(kind, name + b"ok.mp3\n\x00\x01\x02\nlater.mp3")
    assert isinstance(binary[0 if kind == "pls" else -1], Problem)
    assert not any(isinstance(one, PlaylistEntry) and b"later" in one.names[0] for one in binary)
    for piece in (LINE_CAP_BYTES, 1000):
        found = parse(kind, name + b"x" * (3 * LINE_CAP_BYTES) + b"\n" + name + b"ok.mp3\n", piece=piece)
        assert found == [Problem(1, "the line is longer than 64 KiB, and was not read"), song("ok.mp3", 2)]
    assert parse("m3u", b"#EXTIMG:" + b"x" * (3 * LINE_CAP_BYTES) + b"\nok.mp3")[-1] == song("ok.mp3", 2)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.binary(max_size=200), piece=st.integers(1, 50))
def test_nothing_that_a_list_holds_makes_parsing_fail(kind: str, data: bytes, piece: int) -> None:
    for found in parse(kind, data, piece=piece):
        assert found.line >= 1
        assert not isinstance(found, PlaylistEntry) or all(found.names)


NAMES = st.lists(
    st.binary(min_size=1, max_size=12).filter(lambda name: not {*name} & {0, 10, 13} and name.strip()), max_size=8
)


@given(names=NAMES, piece=st.integers(1, 50))
def test_every_name_in_a_text_comes_out_as_it_went_in(names: list[bytes], piece: int) -> None:
    """Below a folder, so that none begins the file with the mark of something else."""
    named = [b"./" + name for name in names]
    found = parse("txt", b"./first\n" + b"".join(name + b"\n" for name in named), piece=max(piece, 8))
    assert [one.names for one in found if isinstance(one, PlaylistEntry)] == [(b"./first",), *((one,) for one in named)]
    if named:
        by_nul = parse("txt", b"./first\0" + b"".join(name + b"\0" for name in named), piece=max(piece, 8))
        assert by_nul == [PlaylistEntry((name,), line) for line, name in enumerate([b"./first", *named], 1)]


def test_a_list_is_read_as_far_as_it_is_asked_for() -> None:
    for kind in ("txt", "m3u", "csv"):
        read: list[int] = []
        endless = (read.append(1) or b"a.mp3\n" for _ in itertools.count())  # type: ignore[func-returns-value]
        found = parse_list(endless, kind)
        assert [next(found).line for _ in range(3)] == [1, 2, 3]
        assert len(read) < 6


def test_a_list_is_known_by_its_extension() -> None:
    assert [kind_of(name) for name in ("a.M3U8", "x/a.pls", "a.txt", "a.xspf", "a.mp3", "m3u")] == [
        *("m3u8", "pls", "txt", "xspf", None, None)
    ]
