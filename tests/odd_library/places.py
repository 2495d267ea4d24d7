"""The places of the odd library: where people's songs are, how they are called, and which lists name them.

`build` writes it all, and returns what has to come of it. Every song differs from every other in its sound, so that the
number of songs is the number of splits that are to be bought.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Mapping
from pathlib import Path

import attrs

from tests.odd_library.sounds import id3v1, id3v2, odd_songs, refused_files, song, with_title

NFC, NFD = (unicodedata.normalize(form, "Beyonc\u00e9 - D\u00e9j\u00e0 Vu") for form in ("NFC", "NFD"))
KINDS = (
    ("wav", "WAV", None),
    ("flac", "FLAC", None),
    ("mp3", "MP3", None),
    ("ogg", "OGG", "VORBIS"),
    ("aiff", "AIFF", None),
)
ODD_NAMES = (
    b"-intro.wav", b"--help.wav", b"~.wav", b"#1 Crush.wav", b"$HOME.wav", b"`id`.wav", b"'quoted'.wav",
    b'"double".wav', b"50% off.wav", b"100%25.wav", b"[live].wav", b"what?.wav", b"star*.wav", b"back\\slash.wav",
    b"colon: a story.wav", b"semi;colon.wav", b"pipe|.wav", b"two\nlines.wav", b"tab\there.wav", b"bell\x07.wav",
    b"\x1b[31mred.wav", b" leading.wav", b"trailing .wav", b"dots...wav", b"CON.wav", b"nul.wav", b"a.b.c.wav",
    "\u3000wide space.wav".encode(), "\u202egpj.wav".encode(), "\u200bzero.wav".encode(),
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 family.wav".encode(), "\U0001f3b8.wav".encode(),
    "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645.wav".encode(), "\u65e5\u672c\u8a9e.wav".encode(),
    "M\u00f6t\u00f6rhead.wav".encode("latin-1"), "\u65e5\u672c.wav".encode("shift-jis"), b"\xff\xfe.wav",
    NFC.encode() + b".wav", NFD.encode() + b".wav", b"Case.wav", b"case.wav", b"CASE.WAV", b"x" * 251 + b".wav",
)  # fmt: skip
SYSTEM_FOLDERS = (
    "#recycle", "@Recycle", "$RECYCLE.BIN/S-1-5-21", "RECYCLER", ".Trash-1000/files", ".Trashes", "@eaDir/song.wav",
    "System Volume Information", "lost+found", "__MACOSX", ".AppleDouble", "#snapshot",
)  # fmt: skip


@attrs.define
class OddLibrary:
    """Where the library is, and what is expected of it.

    Attributes:
        folder: the working folder of the commands.
        songs: the files that are to be split, by their bytes' names.
        copies: the files that hold the sound of another one, each a duplicate.
        refused: the files and lines that cannot be split, each a failure.
        again: lines of lists that name a file another line or folder named already.
        skipped: files that are no songs and are not counted as failures.
        lists: the lists among the arguments.
    """

    folder: Path
    songs: list[str] = attrs.field(factory=list[str])
    copies: list[str] = attrs.field(factory=list[str])
    refused: list[str] = attrs.field(factory=list[str])
    again: list[str] = attrs.field(factory=list[str])
    skipped: list[str] = attrs.field(factory=list[str])
    lists: list[str] = attrs.field(factory=list[str])
    _number: int = 0

    @property
    def arguments(self) -> tuple[str, ...]:
        """What the commands are given."""
        return ("music", "films/**/*.mkv", *self.lists)

    def put(self, path: str | bytes, data: bytes, among: list[str]) -> str:
        """Write a file below the folder and count it."""
        name = os.fsdecode(path)
        place = self.folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        among.append(name)
        return name

    def sing(self, path: str | bytes, kind: str = "WAV", subtype: str | None = None, **options: object) -> bytes:
        """Write a song that no other file holds, and return it."""
        self._number += 1
        data = song(self._number, kind, subtype, **options)  # type: ignore[arg-type]
        self.put(path, data, self.songs)
        return data

    def note(self, path: str, lines: list[bytes | str], *, end: bytes = b"\n", is_argument: bool = True) -> None:
        """Write a list."""
        if is_argument:
            self.lists.append(f"lists/{path}")
        text = b"".join((line if isinstance(line, bytes) else line.encode()) + end for line in lines)
        place = self.folder / "lists" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(text)


def build(folder: Path) -> OddLibrary:
    """Write the library into an empty folder."""
    library = OddLibrary(folder)
    _add_albums(library)
    _add_names(library)
    _add_system_folders(library)
    _add_audio(library)
    _add_copies(library)
    _add_films(library)
    _add_lists(library)
    return library


def _add_albums(library: OddLibrary) -> None:
    for artist in range(8):
        for track in range(20):
            extension, kind, subtype = KINDS[(artist + track) % len(KINDS)]
            library.sing(f"music/Artist {artist}/Album/{track:02} Song.{extension}", kind, subtype)
    for disc in ("CD1", "CD2"):
        for track in range(1, 6):
            library.sing(f"music/Box/{disc}/{track:02} Untitled.wav")


def _add_names(library: OddLibrary) -> None:
    for name in ODD_NAMES:
        library.sing(b"music/names/" + name)
    library.sing("music/" + "/".join(["deep"] * 40) + "/down.wav")


def _add_system_folders(library: OddLibrary) -> None:
    for name in SYSTEM_FOLDERS:
        library.put(f"music/share/{name}/deleted.wav", song(80_000), library.skipped)
    library.sing("music/share/song.wav")
    library.put("music/share/._song.wav", b"\0\5\x16\7" + bytes(100), library.skipped)
    library.put("music/share/.hidden.wav", song(80_001), library.skipped)
    for name in ("cover.jpg", "booklet.pdf", "album.cue", "album.log", "song.wav.part", "Thumbs.db", "desktop.ini"):
        library.put(f"music/share/{name}", b"x" * 50, library.skipped)


def _add_audio(library: OddLibrary) -> None:
    for name, data in odd_songs(70_000).items():
        library.put(f"music/odd/{name}", data, library.songs)
    for name, data in refused_files().items():
        library.put(f"music/refused/{name}", data, library.refused)
    place = library.folder / "music" / "refused"
    os.mkfifo(place / "pipe.wav")
    (place / "broken link.wav").symlink_to("nowhere.wav")
    (place / "loop.wav").symlink_to("loop.wav")
    library.refused += ["music/refused/pipe.wav", "music/refused/broken link.wav", "music/refused/loop.wav"]
    (library.folder / "music" / "circle").symlink_to(".")


def _add_copies(library: OddLibrary) -> None:
    wav = library.sing("music/copies/a.wav")
    library.put("music/copies/b other name.wav", wav, library.copies)
    library.put("music/copies/c retagged.wav", with_title(wav, "another title"), library.copies)
    mp3 = library.sing("music/copies/d.mp3", "MP3")
    library.put("music/copies/e retagged.mp3", id3v2(TIT2="title", TPE1="artist") + mp3 + id3v1("t"), library.copies)
    flac = library.sing("music/copies/f.flac", "FLAC")
    library.put("music/copies/g retagged.flac", flac + id3v1("old tag"), library.copies)
    (library.folder / "music/copies/h link.flac").symlink_to("f.flac")
    os.link(library.folder / "music/copies/a.wav", library.folder / "music/copies/i hard link.wav")
    library.copies += ["music/copies/h link.flac", "music/copies/i hard link.wav"]


def _add_films(library: OddLibrary) -> None:
    for name in ("clip.mp4", "clip.webm", "clip.mov", "clip.mkv"):
        library.put(f"music/films/{name}", b"\0" * 64, library.skipped)
    library.sing("films/concert/one.mkv")  # a name that only a pattern takes; the service looks at the sound


def _add_lists(library: OddLibrary) -> None:
    _add_encoded_lists(library)
    _add_tables(library)
    _add_plain_lists(library)
    for name in ("first", "second", "third"):
        library.sing(f"listed/nested/{name}.wav")
    inner = ["../listed/nested/second.wav", "../listed/nested/third.wav", "outer.m3u"]
    library.note("inner.m3u", ["#EXTM3U", *inner], is_argument=False)
    library.note("outer.m3u", ["#EXTM3U", "../listed/nested/first.wav", "inner.m3u"])
    library.refused.append("the circle of lists")


def _add_encoded_lists(library: OddLibrary) -> None:
    """Lists in other encodings and other forms of Unicode than the names of the files."""
    for name in (f"nfd {NFD}.wav", f"nfc {NFC}.wav"):
        library.sing(f"listed/forms/{name}")
    library.note("forms.m3u8", ["\ufeff#EXTM3U", f"../listed/forms/nfd {NFC}.wav", f"../listed/forms/nfc {NFD}.wav"])
    for number, encoding in enumerate(("latin-1", "cp1252", "utf-8")):
        library.sing(f"listed/code pages/{number} {NFC}.wav".encode(encoding))
    library.sing(f"listed/code pages/3 {NFC}.wav")
    written = [f"../listed/code pages/{number} {NFC}.wav".encode("cp1252") for number in (0, 1, 3)]
    library.note("winamp.m3u", ["#EXTM3U", f"#EXTINF:1,{NFC}".encode("cp1252"), *written], end=b"\r\n")
    library.note("mixed.txt", [f"listed/code pages/2 {NFC}.wav"])


def _add_tables(library: OddLibrary) -> None:
    for name in ("excel 1", "excel 2", "itunes", "path", "pls 1", "Pls 2"):
        library.sing(f"listed/tables/{name}.wav")
    library.note(
        "excel.csv",
        ["sep=;", "Title;Filename", "One;listed/tables/excel 1.wav", 'Two;"listed/tables/excel 2.wav"'],
        end=b"\r\n",
    )
    location = (library.folder / "listed/tables/itunes.wav").as_uri()
    library.note("itunes.csv", ["Name,Location", f"Song,{location}"])
    library.note("both.csv", ["url,path", ",listed/tables/path.wav"])
    library.note(
        "windows.pls",
        [
            "[playlist]",
            "NumberOfEntries=2",
            r"File1=..\listed\tables\pls 1.wav",
            "Title1=One",
            r"File2=..\LISTED\TABLES\PLS 2.WAV",
            "Version=2",
        ],
        end=b"\r\n",
    )


def _add_plain_lists(library: OddLibrary) -> None:
    names = ("#1 Crush.wav", " leading.wav", "\u3000wide.wav", "trailing .wav", "[x]*.wav")
    for name in names:
        library.sing(f"listed/plain/{name}")
    library.note("../listed/plain/list.txt", ["# a comment", *names, "", "#EXTM3U"])
    found = [b"listed/zero/\xe9.wav", b"listed/zero/two\nlines.wav", b"listed/zero/plain.wav"]
    for name in found:
        library.sing(name)
    library.note("zero.txt", list(found), end=b"\0")
    library.note(
        "missing.txt", ["listed/gone.wav", "nothing at all", "ftp://example.com/song.wav", "listed/plain/*.wav"]
    )
    library.refused += ["listed/gone.wav", "nothing at all", "ftp://example.com/song.wav", "listed/plain/*.wav"]
    library.sing("listed/twice.wav")
    library.note(
        "twice.txt", ["listed/twice.wav", "./listed/../listed/twice.wav", "LISTED/Twice.WAV", "music/share/song.wav"]
    )
    library.again += ["./listed/../listed/twice.wav", "LISTED/Twice.WAV", "music/share/song.wav"]


def counts(library: OddLibrary) -> Mapping[str, int]:
    """Return the numbers that the summary has to state."""
    return {"split": len(library.songs), "failed": len(library.refused), "duplicates": len(library.copies)}
