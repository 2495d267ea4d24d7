"""Folders as people have them: with recycle bins, videos, stems and half a download among the songs."""

from __future__ import annotations

import errno
import os
import sys
from collections import Counter
from pathlib import Path

import pytest

from aistemsplitter_async.errors import SourceUnreadableError
from aistemsplitter_async.library.found import Found, Ignored, Repeated, Track, Unusable
from aistemsplitter_async.library.kinds import Kind
from aistemsplitter_async.library.search import find_tracks

posix = pytest.mark.skipif(sys.platform == "win32", reason="links and inodes of POSIX")
SYSTEM = (
    *("#recycle", "@Recycle", "$RECYCLE.BIN", "@eaDir", ".Trash-1000", ".Trashes", "System Volume Information"),
    *("lost+found", ".AppleDouble", "__MACOSX", ".Spotlight-V100", "#snapshot", ".@__thumb", "Network Trash Folder"),
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"x")


def find(*paths: str) -> list[Found]:
    return list(find_tracks(paths))


def songs(found: list[Found]) -> list[str]:
    return [os.path.relpath(one.source).replace(os.sep, "/") for one in found if isinstance(one, Track)]


def counts(found: list[Found]) -> dict[Kind, int]:
    counted = Counter[Kind]()
    for one in found:
        if isinstance(one, Ignored):
            counted[one.kind] += one.files
    return {kind: count for kind, count in counted.items() if count}


def test_folders_of_the_system_are_not_entered_in_any_case_of_letters_and_counted() -> None:
    put("m/song.mp3", *(f"m/{name}/x/old.mp3" for name in SYSTEM), *(f"m/a/{name.swapcase()}/b.mp3" for name in SYSTEM))
    put("m/RECYCLER/S-1-5-21-7/Dc1.mp3", "m/a/recycled/INFO2", "m/a/recycled/Dc2.mp3", "m/._song.mp3")
    found = find("m")
    assert songs(found) == ["m/song.mp3"]
    assert counts(found) == {Kind.SYSTEM: 2 * len(SYSTEM) + 3}
    globbed = find("m/**/*.mp3", "m/**/song.*")
    assert set(songs(globbed)) == {"m/song.mp3"}
    shown = [name for name in SYSTEM if not name.startswith(".")]
    assert counts(globbed) == {Kind.SYSTEM: 2 * len(shown) + 2}, "hidden names never match, and each is counted once"


def test_an_album_with_the_name_of_a_recycle_bin_is_an_album() -> None:
    put("m/ZZ Top/Recycler/01.mp3", "m/RECYCLER/02.mp3")
    assert songs(find("m")) == ["m/RECYCLER/02.mp3", "m/ZZ Top/Recycler/01.mp3"]


@pytest.mark.parametrize(
    "path", ["m/#recycle", "m/#recycle/*.mp3", "*/#recycle/*.mp3", "**/#recycle/*", "m/#recycle/x.mp3"]
)
def test_a_folder_of_the_system_that_is_named_is_searched(path: str) -> None:
    put("m/#recycle/x.mp3", "m/#recycle/@eaDir/x.mp3")
    assert songs(find(path)) == ["m/#recycle/x.mp3"]


@pytest.mark.parametrize("name", ["lost+found", "System Volume Information"])
def test_a_folder_of_the_system_that_cannot_be_read_is_no_failure(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put(f"m/{name}/x.mp3", "m/song.mp3", "m/mine/x.mp3")
    scan = os.scandir

    def refuse(path: str) -> object:  # the tests may run as root, to whom nothing is forbidden
        if Path(path).name in (name, "mine"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = find("m")
    assert songs(found) == ["m/song.mp3"]
    assert [Path(one.source).name for one in found if isinstance(one, Unusable)] == ["mine"], "that is one"


VIDEOS = ("a.mkv", "b.MKV", "c.mp4", "d.webm", "e.ts", "f.mov")


def test_videos_are_counted_by_extension_with_examples() -> None:
    put("m/song.mp3", *(f"m/{name}" for name in VIDEOS), "m/z.mkv")
    found = find("m")
    assert songs(found) == ["m/song.mp3"]
    assert [(one.files, one.examples) for one in found if isinstance(one, Ignored)] == [
        (2, ("a.mkv", "z.mkv")),
        *((1, (name,)) for name in VIDEOS[1:]),
    ]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["m/**/*.mkv"], ["m/v/a.mkv"]),
        (["m/**/*.[mM][kK][vV]"], ["m/v/a.mkv", "m/v/b.MKV"]),
        (["m/v/e.ts"], ["m/v/e.ts"]),
        (["m/**/*.mp[34]"], ["m/song.mp3", "m/v/c.mp4"]),
        (["m/*"], ["m/song.mp3"]),
        (["m", "m/**/*.mkv", "m/**/a.mkv", "m/v/a.mkv"], ["m/song.mp3", "m/v/a.mkv"]),
        (["m", "m/**/*.mp[34]", "m/v/e.ts"], ["m/song.mp3", "m/v/c.mp4", "m/v/e.ts"]),
    ],
)
def test_a_video_that_is_named_or_whose_extension_a_glob_names_is_taken_once(
    paths: list[str], expected: list[str]
) -> None:
    put("m/song.mp3", *(f"m/v/{name}" for name in VIDEOS))
    found = find(*paths)
    assert songs(found) == expected
    if "m" in paths:
        assert counts(found) == {Kind.VIDEO: len(VIDEOS) + 1 - len(expected)}, "what is taken is not left out"


@pytest.mark.parametrize("glob", ["m/v/*", "m/v/*.m*", "m/v/*.mk?"])
def test_a_glob_that_names_no_extension_takes_no_video_and_says_how(glob: str) -> None:
    put(*(f"m/v/{name}" for name in VIDEOS))
    with pytest.raises(SourceUnreadableError, match="only if the pattern names their extension"):
        find(glob)


def test_what_is_half_there_protected_or_hidden_is_counted_for_what_it_is() -> None:
    put("m/a.mp3.part", "m/b.webm.crdownload", "m/c.mp3.download/c.mp3", "m/d.flac", "m/d.flac.aria2")
    put("m/.e.mp3.icloud", "m/f.mp3.nextcloud", "m/g.m4p", "m/h.aax", "m/.i.mp3", "m/.DS_Store", "m/cover.jpg")
    found = find("m")
    assert songs(found) == []
    assert counts(found) == {
        Kind.UNFINISHED: 5,
        Kind.ELSEWHERE: 2,
        Kind.PROTECTED: 2,
        Kind.HIDDEN: 1,
        Kind.OTHER: 1,
    }


def test_a_title_that_begins_with_dots_is_not_hidden() -> None:
    put("m/...And Justice for All/...x.mp3")
    assert songs(find("m")) == songs(find("m/**/*.mp3")) == ["m/...And Justice for All/...x.mp3"]


def test_stems_of_other_separators_are_not_songs_unless_they_are_named() -> None:
    put(*(f"m/htdemucs/song/{stem}.wav" for stem in ("vocals", "drums", "bass", "other")))
    put("m/uvr/1_A_(Vocals).flac", "m/uvr/1_A_(Instrumental).flac", "m/uvr/A.flac", "m/spleeter/vocals.wav")
    put("m/spleeter/accompaniment.wav", "m/Drums.mp3", "m/Other.mp3", "m/fof/guitar.ogg", "m/fof/song.ogg")
    found = find("m")
    assert songs(found) == ["m/Drums.mp3", "m/Other.mp3", "m/fof/guitar.ogg", "m/fof/song.ogg", "m/uvr/A.flac"]
    assert counts(found) == {Kind.STEM: 8}
    assert songs(find("m/**/*bass.wav")) == ["m/htdemucs/song/bass.wav"]
    assert songs(find("m/spleeter/vocals.wav")) == ["m/spleeter/vocals.wav"]


def test_what_a_folder_leaves_out_is_taken_once_if_it_is_named_beside_the_folder() -> None:
    put("m/sep/vocals.wav", "m/sep/no_vocals.wav", "m/half.wav", "m/half.wav.aria2", "m/song.wav", "m/.hidden.wav")
    Path("list.txt").write_text("m/half.wav\nm/song.wav\nm/sep/vocals.wav\nm/.hidden.wav\n")
    for around in ("m", "m/**/*.wav"):
        found = find("m/sep/vocals.wav", around, "list.txt")
        assert songs(found) == ["m/song.wav", "m/sep/vocals.wav", "m/half.wav", "m/.hidden.wav"]
        assert counts(found).items() <= {Kind.STEM: 1, Kind.UNFINISHED: 1}.items()
        assert sum(isinstance(one, Repeated) for one in found) == 2
    by_glob = find("m", "m/**/*vocals*", "m/sep/vocals.*")
    assert songs(by_glob) == ["m/song.wav", "m/sep/no_vocals.wav", "m/sep/vocals.wav"]
    assert counts(by_glob) == {Kind.HIDDEN: 1, Kind.UNFINISHED: 2}


@posix
def test_what_is_no_regular_file_is_refused_without_a_wait_for_it() -> None:
    put("m/song.wav")
    os.mkfifo("m/pipe.wav")
    Path("m/zeros.wav").symlink_to("/dev/zero")
    refused = [one for one in find("m", "m/pipe.wav", "m/zeros.wav") if isinstance(one, Unusable)]
    assert len(refused) == 4
    assert {one.reason for one in refused} == {"it is not a regular file"}


@posix
def test_a_link_to_a_place_that_does_not_answer_is_a_failure(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put("m/song.mp3", "m/album/x.mp3")
    scan = os.scandir

    class Dead:
        name, path = "share", str(here / "m" / "share")

        def is_dir(self) -> bool:
            raise OSError(errno.ESTALE, "Stale file handle")

    class Listing:
        def __init__(self, path: str) -> None:
            self._path, self._scan = path, scan(path)

        def __enter__(self) -> list[object]:
            return [*self._scan, Dead()] if str(here / "m") == self._path else list(self._scan)

        def __exit__(self, *_: object) -> None:
            self._scan.close()

    monkeypatch.setattr(os, "scandir", Listing)
    found = find("m")
    assert songs(found) == ["m/song.mp3", "m/album/x.mp3"]
    assert [one for one in found if isinstance(one, Unusable)] == [Unusable(Dead.path, "Stale file handle")]


def test_folders_that_a_file_system_does_not_number_are_not_all_one(monkeypatch: pytest.MonkeyPatch) -> None:
    put("m/a/1.mp3", "m/b/2.mp3")
    stat = Path.stat

    def without_number(path: Path, **options: bool) -> os.stat_result:
        return os.stat_result([field if index != 1 else 0 for index, field in enumerate(stat(path, **options))])

    monkeypatch.setattr(Path, "stat", without_number)
    assert songs(find("m")) == ["m/a/1.mp3", "m/b/2.mp3"]


def test_resource_forks_in_a_list_are_left_out_and_counted() -> None:
    put("m/song.mp3", "m/._song.mp3")
    Path("list.txt").write_text("m/song.mp3\nm/._song.mp3\n", "utf-8")
    found = find("list.txt")
    assert songs(found) == ["m/song.mp3"]
    assert counts(found) == {Kind.SYSTEM: 1}
