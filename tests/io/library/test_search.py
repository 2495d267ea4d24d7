"""Finding tracks on a real disk: every song once, nothing else, and no search without end."""

from __future__ import annotations

import errno
import io
import os
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aistemsplitter_async._transfer.manifest import Manifest, StemRecord
from aistemsplitter_async.errors import SourceUnreadableError
from aistemsplitter_async.library import folders, lists
from aistemsplitter_async.library.found import Found, Ignored, Repeated, Track, Unusable
from aistemsplitter_async.library.kinds import Kind
from aistemsplitter_async.library.search import find_tracks, is_stream

posix = pytest.mark.skipif(sys.platform == "win32", reason="links, pipes and permissions of POSIX")


@pytest.fixture(autouse=True)
def music(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, with the folder above it as the current one."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "music"
    folder.mkdir()
    return folder


def put(folder: Path, *names: str, data: bytes = b"x") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def find(*paths: str | Path, **options: Any) -> list[Found]:
    return list(find_tracks(paths, **options))


def tracks(*paths: str | Path, **options: Any) -> list[str]:
    """The tracks' places, relative to the current folder."""
    return [
        os.path.relpath(found.source) if "://" not in found.source else found.source
        for found in find(*paths, **options)
        if isinstance(found, Track)
    ]


def unusable(found: list[Found]) -> dict[str, str]:
    return {item.source: item.reason for item in found if isinstance(item, Unusable)}


# --- folders


def test_a_folder_is_searched_in_the_order_of_its_names_its_own_files_first(music: Path) -> None:
    put(music, "z.mp3", "b/2.flac", "b/1.WAV", "a/x/y.ogg", "B.m4a", "a/k.opus")
    expected = ["B.m4a", "z.mp3", "a/k.opus", "a/x/y.ogg", "b/1.WAV", "b/2.flac"]
    assert tracks("music") == [f"music/{name}" for name in expected]
    assert find("music") == find(music)


def test_a_track_knows_where_it_was_found(music: Path) -> None:
    put(music, "a/b/song.mp3", "top.mp3")
    top, deep = (found for found in find("music") if isinstance(found, Track))
    assert deep == Track(str(music / "a" / "b" / "song.mp3"), str(music))
    assert (deep.filename, deep.folder) == ("song.mp3", "a/b")
    assert (top.filename, top.folder) == ("top.mp3", "")
    assert Track("/a.mp3", "/").folder == ""
    assert Track("/b/a.mp3", "/").folder == "b"
    assert Track("/bc/a.mp3", "/b").folder == ""
    named = Track(str(music / "top.mp3"))
    assert (named.filename, named.folder) == ("top.mp3", "")
    url = Track("https://x.example/a/caf%C3%A9.mp3?b=c/d")
    assert (url.filename, url.folder) == ("café.mp3", "")


def test_files_that_are_not_audio_are_counted_and_hidden_ones_skipped(music: Path) -> None:
    put(music, "a/cover.jpg", "a/notes", "a/song.mp3", "a/song.mp3.part", "a/._song.mp3", ".git/x.mp3", "a/.hidden.mp3")
    put(music, "list.m3u", ".song.part")
    root = str(music)
    a = str(music / "a")
    assert find("music") == [
        Ignored(root, 1, Kind.OTHER, ("list.m3u",), root),
        Track(str(music / "a" / "song.mp3"), root),
        Ignored(a, 1, Kind.SYSTEM, ("._song.mp3",), root),
        Ignored(a, 1, Kind.HIDDEN, (".hidden.mp3",), root),
        Ignored(a, 2, Kind.OTHER, ("cover.jpg", "notes"), root),
        Ignored(a, 1, Kind.UNFINISHED, ("song.mp3.part",), root),
    ]


def test_an_empty_folder_has_no_tracks() -> None:
    assert find("music") == []


@posix
def test_a_loop_of_links_ends(music: Path) -> None:
    put(music, "a/song.mp3")
    (music / "a" / "up").symlink_to(music)
    (music / "a" / "self").symlink_to("self")
    (music / "a" / "self.mp3").symlink_to("self.mp3")
    (music / "b").symlink_to(music / "a")
    assert tracks("music") == ["music/a/song.mp3"]
    assert unusable(find("music")) == {str(music / "a" / "self.mp3"): "it is a broken link"}
    assert tracks("music/**/*.mp3") == ["music/a/song.mp3"]


@posix
def test_the_loop_would_not_end_if_entered_folders_were_forgotten(music: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control."""
    put(music, "song.mp3")
    (music / "up").symlink_to(music)
    monkeypatch.setattr(folders.Folders, "_is_new", lambda *_: True)
    assert len(tracks("music")) > 20, "until the system refuses a path with so many links"


@pytest.mark.parametrize(
    "paths", [["music", "music"], ["music", "music/a"], ["music/a", "music"], ["./music/../music/", "music/a/b"]]
)
def test_a_folder_named_twice_or_inside_of_another_gives_each_file_once(music: Path, paths: list[str]) -> None:
    put(music, "1.mp3", "a/2.mp3", "a/b/3.mp3")
    assert sorted(tracks(*paths)) == ["music/1.mp3", "music/a/2.mp3", "music/a/b/3.mp3"]


@posix
def test_links_to_files_and_folders_elsewhere_are_followed(music: Path, tmp_path: Path) -> None:
    put(tmp_path / "else", "a.mp3", "b/c.mp3")
    (music / "folder").symlink_to(tmp_path / "else")
    (music / "file.mp3").symlink_to(tmp_path / "else" / "a.mp3")
    assert tracks("music") == ["music/file.mp3", "music/folder/a.mp3", "music/folder/b/c.mp3"]


@posix
def test_what_only_looks_like_a_track_is_reported_with_the_reason(music: Path) -> None:
    os.mkfifo(music / "pipe.mp3")
    (music / "broken.mp3").symlink_to("nowhere")
    put(music, "folder.mp3/song.mp3")
    assert tracks("music") == ["music/folder.mp3/song.mp3"]
    assert unusable(find("music")) == {
        str(music / "pipe.mp3"): "it is not a regular file",
        str(music / "broken.mp3"): "it is a broken link",
    }


@posix
def test_a_folder_that_cannot_be_read_is_reported_and_the_others_are_searched(
    music: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(music, "a/1.mp3", "b/2.mp3", "c/3.mp3")
    scan = os.scandir

    def refuse(folder: str) -> Any:  # permissions do not stop root
        if folder.endswith("b"):
            raise PermissionError(13, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert tracks("music") == ["music/a/1.mp3", "music/c/3.mp3"]
    assert unusable(find("music")) == {str(music / "b"): "Permission denied"}


@posix
def test_a_name_that_is_not_text_is_found_all_the_same(music: Path) -> None:
    name = os.fsdecode(b"caf\xe9.mp3")
    put(music, name)
    (found,) = find("music")
    assert isinstance(found, Track)
    assert os.fsencode(found.filename) == b"caf\xe9.mp3"
    assert Path(found.source).read_bytes() == b"x"


# --- the folder for the stems


@pytest.mark.parametrize("into", ["music/stems", "./music/a/../stems", "link", "music/upper/../stems"])
def test_the_output_folder_is_not_searched_for_music(music: Path, tmp_path: Path, into: str) -> None:
    put(music, "song.mp3", "a/x.mp3", "stems/song/vocals.mp3", "upper/y.mp3")
    (tmp_path / "link").symlink_to(music / "stems")
    assert tracks("music", exclude=[into]) == ["music/song.mp3", "music/a/x.mp3", "music/upper/y.mp3"]
    assert tracks("music/**/*.mp3", exclude=[into]) == tracks("music", exclude=[into])


def test_the_output_folder_need_not_exist_when_the_search_begins(music: Path) -> None:
    put(music, "a.mp3")
    found = find_tracks(["music"], exclude=["music/stems"])
    put(music, "stems/vocals.mp3")
    assert [Path(item.source).name for item in found if isinstance(item, Track)] == ["a.mp3"]


@posix
def test_a_link_into_the_output_folder_is_not_followed(music: Path) -> None:
    put(music, "song.mp3", "stems/album/song/vocals.mp3")
    (music / "link").symlink_to(music / "stems" / "album")
    assert tracks("music", exclude=["music/stems"]) == ["music/song.mp3"]


@pytest.mark.parametrize("into", ["music", ".", "/"])
def test_an_output_folder_around_the_music_excludes_nothing(music: Path, tmp_path: Path, into: str) -> None:
    put(music, "song.mp3", "a/b.mp3")
    put(tmp_path / "more", "c.mp3")
    (music / "link").symlink_to(tmp_path / "more")
    assert tracks("music", exclude=[into]) == ["music/song.mp3", "music/a/b.mp3", "music/link/c.mp3"]


def test_stems_that_were_downloaded_among_the_music_are_not_split_again(music: Path) -> None:
    put(music, "song.mp3", "song/vocals.mp3", "song/drums.mp3", "song/mine.mp3", "Song - vocals.mp3", "Song - live.mp3")
    stems = {name: StemRecord(file=f"{name}.mp3", total=1) for name in ("vocals", "drums")}
    Manifest(music / "song", "split_1", stems).save()
    Manifest(music, "split_2", {"vocals": StemRecord(file="Song - vocals.mp3")}, pattern="Song - {stem}").save()
    assert tracks("music", exclude=["music"]) == ["music/Song - live.mp3", "music/song.mp3", "music/song/mine.mp3"]


# --- globs


@pytest.mark.parametrize(
    ("glob", "expected"),
    [
        ("music/*.mp3", ["1.mp3"]),
        ("music/**/*.mp3", ["1.mp3", "a/2.mp3", "a/b/3.mp3"]),
        ("music/**/b/*", ["a/b/3.mp3", "a/b/4.flac"]),
        ("music/**", ["1.mp3", "a/2.mp3", "a/b/3.mp3", "a/b/4.flac"]),
        ("music/**/**/?.fl*c", ["a/b/4.flac"]),
        ("music/[ab]", ["a/2.mp3", "a/b/3.mp3", "a/b/4.flac"]),
        ("music/[!b]/*", ["a/2.mp3", "a/b/3.mp3", "a/b/4.flac"]),
        ("m*c/a/**/*.mp3", ["a/2.mp3", "a/b/3.mp3"]),
        ("./music/../mus?c/*.mp3", ["1.mp3"]),
    ],
)
def test_a_glob_finds_what_matches(music: Path, glob: str, expected: list[str]) -> None:
    put(music, "1.mp3", "a/2.mp3", "a/b/3.mp3", "a/b/4.flac", "a/b/c.txt", ".h/5.mp3", "c.jpg")
    assert tracks(glob) == [f"music/{name}" for name in expected]
    assert tracks(str(Path.cwd() / glob)) == tracks(glob)


@pytest.mark.parametrize("glob", ["music/*/", "music/*/**", "music/[ab]*/"])
def test_a_glob_of_folders_takes_no_files_beside_them(music: Path, glob: str) -> None:
    put(music, "a.mp3", "a/1.mp3", "b/c/2.mp3")
    assert tracks("music/*") == ["music/a.mp3", "music/a/1.mp3", "music/b/c/2.mp3"]
    assert tracks(glob) == ["music/a/1.mp3", "music/b/c/2.mp3"]


def test_brackets_in_a_name_that_exists_are_not_a_glob(music: Path) -> None:
    put(music, "[1999] Live/a[b]*.mp3", "1/x.mp3", "9 Live/ab.mp3")
    assert tracks("music/[1999] Live") == ["music/[1999] Live/a[b]*.mp3"]
    assert tracks("music/[1999] Live/a[b]*.mp3") == ["music/[1999] Live/a[b]*.mp3"]


@pytest.mark.parametrize(
    ("glob", "expected"),
    [
        ("music/Album [2001]/*.wav", ["Album [2001]/1.wav"]),
        ("music/Album [2001]/[0-9].wav", ["Album [2001]/1.wav"]),
        ("music/Album [2001]/**", ["Album [2001]/1.wav"]),
        ("*/Album [2001]/*.wav", ["Album [2001]/1.wav"]),
        ("**/Album [2001]/*.wav", ["Album [2001]/1.wav", "x/Album [2001]/3.wav"]),
        ("music/*/Album [2001]/*.wav", ["x/Album [2001]/3.wav"]),
        ("m*/?/Album [2001]", ["x/Album [2001]/3.wav"]),
        ("music/Album [2001]*/*.wav", ["Album [2001]/1.wav"]),
        ("music/*/*[live].wav", ["z/Yes [live].wav"]),
        ("music/?? [live]/*.wav", []),
        ("music/z/What?/*", ["z/What?/5.wav"]),
        ("music/*/What?/*", ["z/What?/5.wav"]),
        ("music/z/M*H/*", ["z/M*H/7.wav"]),
        ("music/z/**/8.wav", ["z/**/8.wav"]),
        ("music/*/[5-9]*/*", ["y/9 Songs/6.wav"]),
        ("music/Album [[]2001]/*.wav", ["Album [2001]/1.wav"]),
        ("music/Album 2/*.wav", ["Album 2/2.wav"]),
    ],
)
def test_what_exists_as_it_is_written_is_not_a_glob_in_any_part_of_a_path(
    music: Path, glob: str, expected: list[str]
) -> None:
    put(music, "Album [2001]/1.wav", "Album 2/2.wav", "x/Album [2001]/3.wav", "y/Album 2/4.wav", "y/9 Songs/6.wav")
    put(music, "z/What?/5.wav", "z/Whats/5.wav", "z/M*H/7.wav", "z/MASH/7.wav", "z/**/8.wav", "z/a/8.wav")
    put(music, "z/Yes [live].wav", "z/Alive.wav")
    if not expected:
        with pytest.raises(SourceUnreadableError, match="nothing has such a name"):
            find(glob)
        return
    assert sorted(tracks(glob)) == [f"music/{name}" for name in expected]
    assert tracks(str(Path.cwd() / glob)) == tracks(glob)


def test_brackets_are_read_one_way_in_all_folders(music: Path) -> None:
    """`One.wav` ends in one of the characters of `[live]`, in a folder where nothing has these brackets."""
    put(music, "a/Yes [live].wav", "b/One.wav")
    assert tracks("music/*/*[live].wav") == ["music/a/Yes [live].wav"]
    (music / "a" / "Yes [live].wav").unlink()
    assert tracks("music/*/*[live].wav") == ["music/b/One.wav"]


@posix
def test_a_broken_link_exists_as_it_is_written_and_is_not_a_glob(music: Path) -> None:
    put(music, "ab.mp3")
    (music / "a*.mp3").symlink_to("nowhere")
    with pytest.raises(SourceUnreadableError, match="no such file or folder"):
        find("music/a*.mp3")


@pytest.mark.parametrize(
    ("glob", "reason"),
    [
        ("music/[2002]/*.mp3", "nothing has such a name, and so [..] in it stands for one of the characters"),
        ("music/*.flac", "nothing has such a name"),
        ("music/*.jpg", "what matches is not audio by its name"),
        ("music/stems/*", "what matches is not audio by its name, or is in the output folder"),
        ("missing/*.mp3", "missing is not a folder"),
        ("music/song.mp3/*", "music/song.mp3 is not a folder"),
    ],
)
def test_a_glob_without_a_track_is_an_error_that_says_why(music: Path, glob: str, reason: str) -> None:
    put(music, "song.mp3", "cover.jpg", "stems/notes.txt")
    with pytest.raises(SourceUnreadableError) as caught:
        find("music", glob, "music/*.mp3")
    assert str(caught.value).startswith(f"no audio matches {glob}: {reason}")


def test_a_path_that_windows_calls_invalid_may_be_a_glob(music: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(music, "a.mp3")
    stat = Path.stat

    def refuse(path: Path, **options: Any) -> Any:
        if "*" not in path.name:
            return stat(path, **options)
        error = OSError(errno.EINVAL, "The filename, directory name, or volume label syntax is incorrect")
        error.winerror = 123  # type: ignore[attr-defined,unused-ignore]  # of Windows
        raise error

    monkeypatch.setattr(Path, "stat", refuse)
    assert tracks("music/*.mp3") == ["music/a.mp3"]


def test_a_pattern_in_a_list_is_an_error_that_is_counted(music: Path) -> None:
    put(music, "a.mp3")
    (reason,) = unusable(find("-", stdin=io.BytesIO(b"music/*.mp3\n"))).values()
    assert reason == "no such file; patterns in lists are not read (standard input, line 1)"


def test_a_glob_enters_no_folder_in_which_nothing_can_match(music: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(music, "a/b/1.mp3", "c/d/2.mp3", "3.mp3")
    entered: list[str] = []
    scan = os.scandir

    def note(folder: str) -> Any:
        entered.append(os.path.relpath(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", note)
    assert tracks("music/a/*/*.mp3") == ["music/a/b/1.mp3"]
    assert set(entered) == {"music/a", "music/a/b"}


def test_what_a_glob_and_a_folder_both_have_is_found_once(music: Path) -> None:
    put(music, "a/1.mp3", "2.mp3")
    assert tracks("music/**/*.mp3", "music/a") == ["music/a/1.mp3", "music/2.mp3"]
    assert tracks("music/*", "music/a/1.mp3") == ["music/2.mp3", "music/a/1.mp3"]


# --- what is named


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("missing", "no such file or folder"),
        ("music/missing.m3u", "no such file or folder"),
        ("music/song.mp3/x", "no such file or folder"),
        ("music/*.flac", "no audio matches"),
        ("missing/**/*.mp3", "no audio matches"),
        ("a\x00b", "cannot read"),
        ("x" * 300, "cannot read"),
        ("file://nas/a.mp3", "another machine"),
        ("ftp://nas/a.mp3", "ftp URLs cannot be read"),
        ("", "no such file"),
    ],
)
def test_what_does_not_exist_is_an_error_before_anything_is_searched(music: Path, path: str, reason: str) -> None:
    put(music, "song.mp3")
    with pytest.raises(SourceUnreadableError, match=r"cannot read|no audio matches") as caught:
        find_tracks(["music", path])
    assert reason in str(caught.value)


def test_a_file_that_is_named_may_have_any_name_but_that_of_something_else(music: Path) -> None:
    put(music, "song", "song.xyzzy", ".hidden.mp3", "movie.mp4", "cover.jpg")
    named = ["music/song", "music/song.xyzzy", "music/.hidden.mp3", "music/movie.mp4", "music/cover.jpg", "music/song"]
    assert tracks(*named) == named[:4]
    assert unusable(find(*named)) == {str(music / "cover.jpg"): "it is not audio but image/jpeg"}


def test_a_file_besides_its_folder_is_found_once(music: Path) -> None:
    put(music, "song.mp3", "song.xyzzy")
    assert tracks("music/song.mp3", "music") == ["music/song.mp3"]
    assert tracks("music/song.xyzzy", "music") == ["music/song.mp3", "music/song.xyzzy"]


def test_urls_are_left_to_the_service() -> None:
    assert find("https://x.example/a.mp3", "HTTP://x.example/*") == [
        Track("https://x.example/a.mp3"),
        Track("HTTP://x.example/*"),
    ]


def test_a_file_url_is_a_path(music: Path) -> None:
    put(music, "a b.mp3")
    assert tracks((music / "a b.mp3").as_uri()) == ["music/a b.mp3"]


# --- lists


def test_a_playlist_is_read_from_its_own_folder(music: Path, tmp_path: Path) -> None:
    put(music, "a/Song One.mp3", "two.mp3", "x/thr%65e.mp3")
    playlist = music / "lists" / "best.m3u8"
    playlist.parent.mkdir()
    lines = [
        "\ufeff#EXTM3U",
        "#EXTINF:61,One",
        "../a/Song%20One.mp3",
        "..\\two.mp3",
        "../x/thr%65e.mp3",
        "#EXTINF:-1,Radio",
        "https://radio.example/live",
        str(tmp_path / "music" / "two.mp3"),
        (music / "two.mp3").as_uri(),
        "../missing.mp3",
        "rtsp://x.example/a",
    ]
    playlist.write_text("\r\n".join(lines), encoding="utf-8")
    found = find("music/lists/best.m3u8")
    root = str(playlist.parent)
    two = Track(str(music / "two.mp3"), root)
    assert found == [
        Track(str(music / "a" / "Song One.mp3"), root, "One", 61.0),
        two,
        Track(str(music / "x" / "thr%65e.mp3"), root),
        Track("https://radio.example/live", None, "Radio"),
        Repeated(two.source),
        Repeated(two.source),
        Unusable("../missing.mp3", f"no such file ({playlist}, line 10)"),
        Unusable("rtsp://x.example/a", f"rtsp URLs cannot be read, only http, https and file ({playlist}, line 11)"),
    ]


def test_a_list_names_files_folders_and_urls_from_its_folder_or_the_current_one(music: Path, tmp_path: Path) -> None:
    put(music, "a/1.mp3", "a/2.mp3", "3.mp3")
    put(tmp_path / "lists", "4.mp3", "inner.txt")
    (tmp_path / "lists" / "all.txt").write_text("# all\nmusic/a\n4.mp3\nmusic/3.mp3\nhttps://x.example/5\ninner.txt\n")
    assert tracks("lists/all.txt") == [
        "music/a/1.mp3",
        "music/a/2.mp3",
        "lists/4.mp3",
        "music/3.mp3",
        "https://x.example/5",
    ]
    (reason,) = unusable(find("lists/all.txt")).values()
    assert reason.startswith("a text or table inside a list is not read as another list")
    assert reason.endswith(f"({tmp_path / 'lists' / 'all.txt'}, line 6)")


def test_a_csv_and_a_pls_are_lists_too(music: Path) -> None:
    put(music, "a.mp3", "b.mp3")
    put(music, "list.csv", data=b"name;url\nA;https://x.example/a\nB;a.mp3\n")
    put(music, "list.pls", data=b"[playlist]\nFile1=b.mp3\nLength1=5\n")
    assert tracks("music/list.csv", "music/list.pls") == ["https://x.example/a", "music/a.mp3", "music/b.mp3"]


def test_standard_input_is_a_list(music: Path) -> None:
    put(music, "a.mp3")
    stdin = io.BytesIO(b"music/a.mp3\nhttps://x.example/b\nnope\n")
    found = find("-", stdin=stdin)
    assert found == [
        Track(str(music / "a.mp3"), str(Path.cwd())),
        Track("https://x.example/b"),
        Unusable("nope", "no such file (standard input, line 3)"),
    ]


@posix
def test_a_pipe_is_a_list(music: Path, tmp_path: Path) -> None:
    put(music, "a.mp3")
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(b"music/a.mp3\n",))
    writer.start()
    assert is_stream("pipe")
    assert tracks("pipe") == ["music/a.mp3"]
    writer.join()


@posix
def test_what_a_shell_has_opened_is_a_list_even_if_it_is_a_file(music: Path, tmp_path: Path) -> None:
    put(music, "a.mp3")
    (tmp_path / "songs").write_bytes(b"music/a.mp3\n")
    with (tmp_path / "songs").open("rb") as file:
        opened = f"/dev/fd/{file.fileno()}"
        assert is_stream(opened)
        assert find(opened) == [Track(str(music / "a.mp3"), str(Path.cwd()))]


def test_only_what_can_be_read_once_is_a_stream(music: Path) -> None:
    put(music, "a.mp3")
    paths = ("-", "/dev/stdin", "music", "music/a.mp3", "music/*.mp3", "nowhere", "https://x.example/a")
    assert [path for path in paths if is_stream(path)] == ["-", "/dev/stdin"]


def test_a_list_that_is_not_text_or_cannot_be_read_is_reported(music: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(music, "a.txt", data=b"\x00\x01")
    put(music, "b.txt", data=b"music/c.mp3")
    put(music, "c.mp3")

    def refuse(path: str, mode: str) -> Any:
        if path.endswith("b.txt"):
            raise PermissionError(13, "Permission denied")
        return Path(path).open(mode)

    monkeypatch.setattr(lists, "open", refuse, raising=False)
    assert unusable(find("music/a.txt", "music/b.txt")) == {
        str(music / "a.txt"): "line 1: this is not text; the rest of the list was not read",
        str(music / "b.txt"): "Permission denied",
    }


def test_what_a_list_names_in_a_folder_that_was_searched_is_found_once(music: Path) -> None:
    put(music, "a.mp3", "b/c.mp3")
    put(music, "list.m3u", data=b"a.mp3\nb/c.mp3\n")
    assert tracks("music/list.m3u", "music") == ["music/a.mp3", "music/b/c.mp3"]


# --- size


def test_a_list_without_end_is_read_as_far_as_it_is_wanted() -> None:
    class Endless(io.RawIOBase):
        lines = 0

        def readable(self) -> bool:
            return True

        def readline(self, size: int | None = -1, /) -> bytes:  # noqa: ARG002
            self.lines += 1
            return f"https://x.example/{self.lines}.mp3\n".encode()

    found: Iterator[Found] = find_tracks(["-"], stdin=Endless())  # type: ignore[arg-type]
    assert [next(found) for _ in range(1000)] == [Track(f"https://x.example/{number}.mp3") for number in range(1, 1001)]


def test_manifest_does_not_grow_with_the_number_of_files(music: Path) -> None:
    for folder in range(60):
        put(music, *(f"{folder:02}/{number:03}.mp3" for number in range(50)))
    found = find_tracks(["music"])
    for _ in range(200):
        next(found)
    tracemalloc.start()
    try:
        assert sum(isinstance(item, Track) for item in found) == 2800
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000, "the names of one folder, not of all"


# --- files that are no tracks


def test_the_files_of_a_journal_are_skipped_in_folders_and_refused_by_name(music: Path) -> None:
    put(music, "song.mp3", "journal.mp3", "journal.mp3.lock", "list.txt", "elsewhere.mp3")
    (music / "link.mp3").symlink_to(music / "journal.mp3")
    (music / "hard link.mp3").hardlink_to(music / "journal.mp3")
    own = [music / "journal.mp3", music / "journal.mp3.lock", music / "list.txt", music / "not there yet"]
    within = find("music", exclude=own)
    assert [Path(found.source).name for found in within if isinstance(found, Track)] == ["elsewhere.mp3", "song.mp3"]
    assert [found.files for found in within if isinstance(found, Ignored)] == [5]
    assert tracks("music/*.mp3", exclude=own) == ["music/elsewhere.mp3", "music/song.mp3"]
    for name in ("journal.mp3", "link.mp3", "list.txt"):
        refused = unusable(find(music / name, exclude=own))
        assert refused == {str(music / name): "it belongs to the journal of this batch"}
    put(music, "all.m3u", data=b"journal.mp3\nsong.mp3\n")
    listed = find(music / "all.m3u", exclude=own)
    assert [Path(found.source).name for found in listed if isinstance(found, Track)] == ["song.mp3"]
    assert len(unusable(listed)) == 1


def test_a_file_that_becomes_the_journal_during_the_search_is_left_out(music: Path) -> None:
    put(music, "a.mp3", "b/journal.mp3", "b/song.mp3")
    journal = music / "b" / "journal.mp3"
    journal.unlink()
    found = find_tracks([music], exclude=[journal])
    next(found)
    journal.write_bytes(b"now it is there")
    assert [Path(one.source).name for one in found if isinstance(one, Track)] == ["song.mp3"]
