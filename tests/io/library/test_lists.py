"""Lists as people have them, on a real disk: every song is found once, and what is not found is said."""

# ruff: noqa: PTH100, PTH103, PTH104, PTH108, PTH109, PTH110, PTH119, PTH120, PTH123, PTH208, PTH211

from __future__ import annotations

import io
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from aistemsplitter_async.errors import SourceUnreadableError
from aistemsplitter_async.library import lists
from aistemsplitter_async.library.found import Found, Repeated, Track, Unusable
from aistemsplitter_async.library.names import Names, Several
from aistemsplitter_async.library.search import find_tracks
from aistemsplitter_async.library.spellings import Closeness


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(*names: str | bytes, data: bytes = b"x") -> None:
    for name in names:
        path = os.fsdecode(name)
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)


def needs_raw_names() -> None:
    try:
        put(b"\xff.tmp")
    except (OSError, UnicodeError):
        pytest.skip("this file system takes only names that are text")


def found_in(data: bytes, kind: str = "") -> list[Found]:
    if not kind:
        return list(find_tracks(["-"], stdin=io.BytesIO(data)))
    put(f"list.{kind}", data=data)
    return list(find_tracks([f"list.{kind}"]))


def names(found: list[Found]) -> list[bytes]:
    assert not [one for one in found if isinstance(one, Unusable)], found
    return [os.fsencode(os.path.relpath(one.source)) for one in found if isinstance(one, Track)]


def reasons(found: list[Found]) -> list[str]:
    return [f"{one.source}: {one.reason}" for one in found if isinstance(one, Unusable)]


def test_each_name_of_any_bytes_is_found_from_find() -> None:
    needs_raw_names()
    wanted = [b"caf\xe9.wav", "Björk/\u3000x .wav".encode(), b" lead.wav", b"#1 Crush.wav", b"d\xe9/\xc3\xa9.wav"]
    put(*wanted)
    assert names(found_in(b"".join(b"./" + name + b"\n" for name in wanted))) == wanted
    assert names(found_in(b"".join(name + b"\n" for name in wanted))) == wanted, "as `ls` prints them"
    put(b"a\nb.wav")
    assert names(found_in(b"./a\nb.wav\0./ lead.wav\0")) == [b"a\nb.wav", b" lead.wav"]


def test_a_list_in_another_code_page_finds_its_files_and_the_reverse() -> None:
    needs_raw_names()
    put("Björk.wav", "日本/ソ.wav", "ок.wav", b"caf\xe9.wav")
    data = b"Bj\xf6rk.wav\n\x93\xfa\x96\x7b\\\x83\\.wav\n\xee\xea.wav\ncaf\xc3\xa9.wav\n"
    wanted = ["Björk.wav".encode(), "日本/ソ.wav".encode(), "ок.wav".encode(), b"caf\xe9.wav"]
    assert names(found_in(data)) == wanted
    assert names(found_in(data, "m3u")) == wanted


KINDS = ["m3u", "m3u8", "pls", "txt", "csv", "tsv", "xspf", "url", "argument", "glob"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("written", "stored"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_the_form_of_accents_does_not_matter_wherever_a_path_is_given(kind: str, written: str, stored: str) -> None:
    name = "Música/Édith é.wav"
    on_disk = unicodedata.normalize(stored, name)  # type: ignore[arg-type]
    text = unicodedata.normalize(written, name)  # type: ignore[arg-type]
    put(on_disk)
    if os.path.exists(text):
        pytest.skip("this file system finds both forms by itself")
    url = f"file://{quote(os.path.abspath(text))}"
    if kind in ("url", "argument", "glob"):
        given = {"url": url, "argument": text, "glob": text.replace("dith", "*")}[kind]
        assert names(list(find_tracks([given]))) == [on_disk.encode()]
        return
    data = {
        "pls": f"[playlist]\nfile1={text}\n",
        "csv": f"Title;Filename\nA;{text}\n",
        "tsv": f"Title\tLocation\nA\t{url}\n",
        "xspf": f"<playlist><track><location>{url}</location></track></playlist>",
    }.get(kind, f"{text}\n")
    assert names(found_in(data.encode(), kind)) == [on_disk.encode()]


def test_capitals_backslashes_and_drives_of_windows_are_found() -> None:
    put("usb/Music/Song.WAV", "usb/Music/É.wav", "usb/Lists/x")
    data = b"..\\MUSIC\\SONG.wav\r\nE:\\music\\\xe9.WAV\r\n\\Music\\song.WAV\r\n"
    put("usb/Lists/a.m3u", data=data)
    found = list(find_tracks(["usb/Lists/a.m3u"]))
    assert names(found) == [b"usb/Music/Song.WAV", "usb/Music/É.wav".encode()]
    assert len([one for one in found if isinstance(one, Repeated)]) == 1


def test_of_two_names_that_differ_only_in_case_none_is_guessed() -> None:
    put("Song.wav", "x")
    if os.path.exists("SONG.wav"):
        pytest.skip("this file system knows no capitals")
    put("song.wav", data=b"other")
    assert names(found_in(b"song.wav\n")) == [b"song.wav"]
    (reason,) = reasons(found_in(b"SONG.WAV\n"))
    assert reason.startswith("SONG.WAV: nothing is called exactly so, and ")
    assert "song.wav" in reason
    with pytest.raises(SourceUnreadableError, match="no such file"):
        find_tracks(["SONG.WAV"])  # for who types it, capitals count


def test_what_is_exactly_so_comes_before_what_is_similar() -> None:
    put("Music/Song.wav", "music/song.wav", "a%20b.wav", "a b.wav")
    if os.path.exists("MUSIC"):
        pytest.skip("this file system knows no capitals")
    assert names(found_in(b"music/song.wav\nMusic/SONG.wav\nmusic\\song.wav\na%20b.wav\n")) == [
        *(b"music/song.wav", b"Music/Song.wav", b"a%20b.wav")
    ]
    put("MUSIC/other.wav")
    assert names(found_in(b"music/OTHER.wav\n")) == [b"MUSIC/other.wav"], "in the one folder that has it"


@pytest.mark.parametrize(
    ("data", "kind"),
    [(b"#1 Crush.wav\n# a comment\n", ""), (b"#EXTM3U\n#EXTINF:1,x\n#1 Crush.wav\n#gone.wav\n", "m3u")],
)
def test_a_number_sign_begins_a_comment_only_where_no_such_file_is(data: bytes, kind: str) -> None:
    put("#1 Crush.wav", "1 Crush.wav")
    assert names(found_in(data, kind)) == [b"#1 Crush.wav"]
    os.unlink("#1 Crush.wav")
    assert names(found_in(data, kind)) == []
    (reason,) = reasons(found_in(b"file,x\n#1 Crush.wav,1\n", "csv"))
    assert reason.startswith("#1 Crush.wav: no such file")


def test_a_row_takes_the_first_of_its_cells_that_exists() -> None:
    put("m/a.wav", "m/b.wav", "Hello, Goodbye.wav")
    assert names(found_in(b"sep=;\r\nPath;Filename\r\nm;a.wav\r\n", "csv")) == [b"m/a.wav"], "and not the folder"
    assert names(found_in(b"url,path\n,m/b.wav\n", "csv")) == [b"m/b.wav"]
    assert names(found_in(b"Hello, Goodbye.wav\n", "csv")) == [b"Hello, Goodbye.wav"]
    assert names(found_in("Name\tLocation\rA\tm/a.wav\r".encode("utf-16"), "txt")) == [b"m/a.wav"]


def test_lists_inside_lists_are_read_from_their_own_folders_and_circles_end() -> None:
    put("x/y/a.wav", "x/b.wav")
    put("all.m3u", data=b"x/in.m3u\nall.m3u\n")
    put("x/in.m3u", data=b"y/deep.pls\nb.wav\n../all.m3u\n")
    put("x/y/deep.pls", data=b"[playlist]\nFile1=a.wav\nFile2=gone.wav\n")
    found = list(find_tracks(["all.m3u", "x/in.m3u"]))
    assert [os.path.relpath(one.source) for one in found if isinstance(one, Track)] == ["x/y/a.wav", "x/b.wav"]
    assert [os.path.basename(one.source) for one in found if isinstance(one, Repeated)] == [
        "all.m3u",
        "all.m3u",
        "in.m3u",
    ]
    assert reasons(found) == [f"gone.wav: no such file ({os.path.abspath('x/y/deep.pls')}, line 3)"]


def test_lists_inside_lists_have_a_depth() -> None:
    for number in range(20):
        put(f"{number}.m3u", data=f"{number + 1}.m3u\n".encode())
    (reason,) = reasons(list(find_tracks(["0.m3u"])))
    assert reason.startswith("11.m3u: lists inside lists are read 10 deep (")


def test_the_same_file_is_one_song_under_any_name() -> None:
    put("m/a.wav", "m/é.wav")
    os.symlink("a.wav", "m/link.wav")
    os.link("m/a.wav", "m/hard.wav")
    put("two.txt", data=b"./m/../m/a.wav\nhttps://x.example/1\n")
    data = "m/a.wav\nm/link.wav\nm/hard.wav\nm/A.WAV\nm/e\u0301.wav\nm/é.wav\nhttps://x.example/1\n".encode()
    found = [*find_tracks(["-", "two.txt", "m/a.wav", "https://x.example/1"], stdin=io.BytesIO(data))]
    tracks = [one.source for one in found if isinstance(one, Track)]
    assert [os.path.basename(source) for source in tracks] == ["a.wav", "é.wav", "1"]
    assert len([one for one in found if isinstance(one, Repeated)]) == 8
    assert len(found) == 11


def test_a_number_that_the_disk_gives_to_another_file_does_not_make_it_the_same_song() -> None:
    """As when each song is deleted before the next one is written."""
    put("a.wav", data=b"1")

    class Typed(io.RawIOBase):
        lines = iter([b"a.wav\n", b"b.wav\n"])

        def readline(self, size: int | None = -1, /) -> bytes:  # noqa: ARG002
            line = next(self.lines, b"")
            if line == b"b.wav\n":
                with open("a.wav", "wb") as file:
                    file.write(b"another song")
                os.rename("a.wav", "b.wav")
            return line

    found = list(find_tracks(["-"], stdin=Typed()))  # type: ignore[arg-type]
    assert [os.path.basename(one.source) for one in found if isinstance(one, Track)] == ["a.wav", "b.wav"]


def test_nothing_is_dropped_in_silence() -> None:
    put("notes.txt", "album.cue", "cover.jpg")
    os.symlink("nowhere", "broken.wav")
    data = b"gone\xe9.wav\nnotes.txt\nalbum.cue\ncover.jpg\nbroken.wav\n\\\\nas\\a.wav\n" + b"y" * 5000 + b"\n"
    found = found_in(data)
    assert len(found) == len(reasons(found)) == 7
    for reason, wanted in zip(
        reasons(found),
        [r"gone\xe9.wav: no such", "by itself", "cue sheet", "image/jpeg", "broken link", "another machine", "y…: "],
        strict=True,
    ):
        assert wanted in reason
        assert reason.endswith(f"(standard input, line {reasons(found).index(reason) + 1})")


def test_a_folder_is_read_once_however_many_lines_are_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    put(*(f"m/é{number}.wav" for number in range(50)))
    read: list[str] = []
    listdir = os.listdir

    def note(folder: str) -> list[str]:
        read.append(folder)
        return listdir(folder)

    monkeypatch.setattr(os, "listdir", note)
    found = found_in("".join(f"m/e\u0301{number}.WAV\nm/gone{number}\n" for number in range(50)).encode())
    assert len([one for one in found if isinstance(one, Track)]) == 50
    assert len(read) == len(set(read))


def test_the_names_that_are_kept_are_bounded() -> None:
    put(*(f"{folder}/{number}.wav" for folder in "abc" for number in range(20)))
    names_ = Names(kept=30)
    here = os.getcwd()
    for folder in "abcabc":
        assert names_.find(f"{here}/{folder}/7.WAV", here) == f"{here}/{folder}/7.wav"
        assert sum(map(len, names_._indices.values())) <= 30
    put("a/x.wav", "a/X.wav")
    if len(os.listdir("a")) == 22:
        assert isinstance(Names().find(f"{here}/A/x.WAV", here), Several)
    assert Names().find(f"{here}/A/7.wav", here, Closeness.REENCODED) is None


def test_the_songs_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "_REMEMBERED", 3)
    data = b"".join(b"https://x.example/%d\n" % (number % 5) for number in range(10))
    found: Iterator[Found] = find_tracks(["-"], stdin=io.BytesIO(data))
    assert len([one for one in found if isinstance(one, Repeated)]) == 3
