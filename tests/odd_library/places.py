"""The places of the odd library: where people's songs are, how they are called, and which lists name them.

`build` writes it all, and returns what has to come of it. Every song differs from every other in its sound, so that the
number of songs is the number of splits that are to be bought.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from pathlib import Path

import attrs

from aistemsplitter_async._plain import safe_text
from tests.odd_library.sounds import foreign_files, id3v1, id3v2, odd_songs, song, undecodable_files, with_title

NFC, NFD = (unicodedata.normalize(form, "Beyonc\u00e9 - D\u00e9j\u00e0 Vu") for form in ("NFC", "NFD"))
URL = "https://example.com/a song|1.wav?seconds=1&signature=a%2Fb"
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
    "\u0645\u06cc\u062e\u0648\u0627\u0647\u0645.wav".encode(), "\U0001f3f4\U000e0067\U000e0062.wav".encode(),
)  # fmt: skip
SYSTEM_FOLDERS = (
    "#recycle", "@Recycle", "$RECYCLE.BIN/S-1-5-21", "RECYCLER/S-1-5-21-1", ".Trash-1000/files", ".Trashes",
    "@eaDir/song.wav", "System Volume Information", "lost+found", "__MACOSX", ".AppleDouble", "#snapshot",
)  # fmt: skip


@attrs.define
class OddLibrary:
    """Where the library is, and what has to come of it.

    Attributes:
        folder: the working folder of the commands.
        songs: the files that are to be split, each charged once, by their paths in the folder; and URLs.
        copies: the files that hold the sound of another one, each a duplicate.
        refused: the files and the lines of lists that cannot be split, each a failure.
        undecodable: those among them that only the service refuses.
        again: how often a list names what was named before.
        ignored: how many files are no songs, by the kind that the commands state.
        lists: the lists among the arguments.
    """

    folder: Path
    songs: set[str] = attrs.field(factory=set[str])
    copies: set[str] = attrs.field(factory=set[str])
    refused: set[str] = attrs.field(factory=set[str])
    undecodable: set[str] = attrs.field(factory=set[str])
    again: int = 0
    ignored: Counter[str] = attrs.field(factory=Counter[str])
    lists: list[str] = attrs.field(factory=list[str])
    _number: int = 0

    @property
    def arguments(self) -> tuple[str, ...]:
        """What the commands are given."""
        return ("music", "films/**/*.mkv", *self.lists)

    def put(self, path: str | bytes, data: bytes) -> str:
        """Write a file below the folder and return its path there, as JSON has it."""
        name = os.fsdecode(path)
        place = self.folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        return safe_text(name)

    def sing(self, path: str | bytes, kind: str = "WAV", subtype: str | None = None) -> bytes:
        """Write a song that no other file holds, and return it."""
        self._number += 1
        data = song(self._number, kind, subtype)
        self.songs.add(self.put(path, data))
        return data

    def ignore(self, kind: str, path: str, data: bytes = b"x" * 50) -> None:
        """Write a file that is no song."""
        self.put(path, data)
        self.ignored[kind] += 1

    def note(self, path: str, *lines: bytes | str, end: bytes = b"\n") -> str:
        """Write a list and return its path."""
        return self.put(path, b"".join((line if isinstance(line, bytes) else line.encode()) + end for line in lines))

    def give(self, path: str, *lines: bytes | str, end: bytes = b"\n") -> None:
        """Write a list that is one of the arguments."""
        self.lists.append(self.note(path, *lines, end=end))


def build(folder: Path) -> OddLibrary:
    """Write the library into an empty folder."""
    library = OddLibrary(folder)
    _add_albums(library)
    _add_names(library)
    _add_share(library)
    _add_audio(library)
    _add_copies(library)
    _add_films(library)
    _add_playlists(library)
    _add_code_pages(library)
    _add_tables(library)
    _add_plain_lists(library)
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


def _add_share(library: OddLibrary) -> None:
    """What servers and desktops leave among the songs."""
    for name in SYSTEM_FOLDERS:
        library.put(f"music/share/{name}/deleted.wav", song(80_000))
        library.ignored["system"] += 1
    library.ignore("system", "music/share/._song.wav", b"\0\5\x16\7" + bytes(100))
    library.ignore("hidden", "music/share/.hidden.wav", song(80_001))
    library.ignore("elsewhere", "music/share/.in a cloud.mp3.icloud")
    library.ignore("protected", "music/share/bought.m4p")
    for name in ("cover.jpg", "booklet.pdf", "album.cue", "album.log", "Thumbs.db", "desktop.ini", "more.m3u"):
        library.ignore("other", f"music/share/{name}")
    for name in ("song.wav.part", "half.wav.aria2"):
        library.ignore("unfinished", f"music/share/{name}")
    library.ignore("unfinished", "music/share/half.wav", song(80_002))
    for name in ("vocals.wav", "no_vocals.wav"):
        library.ignore("stem", f"music/share/separated/song/{name}", song(80_003))
    library.sing("music/share/song.wav")
    library.sing("music/share/...And Justice for All.wav")
    library.sing("music/ZZ Top/Recycler/01.wav")


def _add_audio(library: OddLibrary) -> None:
    for name, data in odd_songs(70_000).items():
        library.songs.add(library.put(f"music/odd/{name}", data))
    for name, data in foreign_files().items():
        library.refused.add(library.put(f"music/refused/{name}", data))
    for name, data in undecodable_files().items():
        library.undecodable.add(library.put(f"music/refused/{name}", data))
    library.refused |= library.undecodable
    place = library.folder / "music" / "refused"
    os.mkfifo(place / "pipe.wav")
    (place / "broken link.wav").symlink_to("nowhere.wav")
    (place / "loop.wav").symlink_to("loop.wav")
    library.refused |= {f"music/refused/{name}.wav" for name in ("pipe", "broken link", "loop")}
    (library.folder / "music" / "circle").symlink_to(".")


def _add_copies(library: OddLibrary) -> None:
    wav = library.sing("music/copies/a.wav")
    mp3 = library.sing("music/copies/d.mp3", "MP3")
    flac = library.sing("music/copies/f.flac", "FLAC")
    copies = {
        "b under another name.wav": wav,
        "c with another title.wav": with_title(wav, "another title"),
        "e with tags.mp3": id3v2(TIT2="title", TPE1="artist") + mp3 + id3v1("title"),
        "g with an old tag.flac": flac + id3v1("old tag"),
    }
    library.copies |= {library.put(f"music/copies/{name}", data) for name, data in copies.items()}
    (library.folder / "music/copies/h link.flac").symlink_to("f.flac")
    os.link(library.folder / "music/copies/a.wav", library.folder / "music/copies/i hard link.wav")
    library.copies |= {"music/copies/h link.flac", "music/copies/i hard link.wav"}


def _add_films(library: OddLibrary) -> None:
    for name in ("clip.mp4", "clip.webm", "clip.mov", "clip.mkv"):
        library.ignore("video", f"music/films/{name}")
    library.sing("films/concert/one.mkv")  # its name is that of a video; the service looks at the sound


def _add_playlists(library: OddLibrary) -> None:
    """Playlists inside playlists, one of them in a circle, and one as an XML file."""
    for name in ("first", "second", "third", "in xml"):
        library.sing(f"listed/nested/{name}.wav")
    inner = ("../listed/nested/second.wav", "../listed/nested/third.wav", "outer.m3u")
    library.note("lists/inner.m3u", "#EXTM3U", *inner)
    library.give("lists/outer.m3u", "#EXTM3U", "../listed/nested/first.wav", "inner.m3u")
    library.again += 1
    track = "<track><location>../listed/nested/in%20xml.wav</location></track>"
    head = '<?xml version="1.0"?><playlist version="1" xmlns="http://xspf.org/ns/0/"><trackList>'
    library.give("lists/list.xspf", f"{head}{track}</trackList></playlist>")


def _add_code_pages(library: OddLibrary) -> None:
    """Lists in other encodings and other forms of accents than the names of the files."""
    for name in (f"nfd {NFD}.wav", f"nfc {NFC}.wav"):
        library.sing(f"listed/forms/{name}")
    library.give(
        "lists/forms.m3u8", "\ufeff#EXTM3U", f"../listed/forms/nfd {NFC}.wav", f"../listed/forms/nfc {NFD}.wav"
    )
    for number, encoding in enumerate(("latin-1", "cp1252", "utf-8", "utf-8")):
        library.sing(f"listed/code pages/{number} {NFC}.wav".encode(encoding))
    written = [f"../listed/code pages/{number} {NFC}.wav".encode("cp1252") for number in (0, 1, 3)]
    library.give("lists/winamp.m3u", "#EXTM3U", f"#EXTINF:1,{NFC}".encode("cp1252"), *written, end=b"\r\n")
    library.give("lists/utf8.txt", f"listed/code pages/2 {NFC}.wav")
    library.sing("listed/code pages/4 \u30bd\u30fc\u30b9.wav")
    library.give("lists/japanese.txt", "listed/code pages/4 \u30bd\u30fc\u30b9.wav".encode("cp932"))
    library.sing("listed/code pages/5 \u00e6.wav")
    library.give("lists/notepad.txt", "listed/code pages/5 \u00e6.wav\r\n".encode("utf-16"), end=b"")


def _add_tables(library: OddLibrary) -> None:
    for name in ("excel 1", "excel 2", "itunes", "path", "pls 1", "Pls 2"):
        library.sing(f"listed/tables/{name}.wav")
    rows = ("One;listed/tables/excel 1.wav", 'Two;"listed/tables/excel 2.wav"')
    library.give("lists/excel.csv", "sep=;", "Title;Filename", *rows, end=b"\r\n")
    location = (library.folder / "listed/tables/itunes.wav").as_uri()
    library.give("lists/itunes.csv", "Name,Location", f"Song,{location}")
    library.give("lists/both.csv", "url,path", ",listed/tables/path.wav", f"{URL},")
    library.songs.add(URL)
    files = (r"File1=..\listed\tables\pls 1.wav", "Title1=One", r"File2=..\LISTED\TABLES\PLS 2.WAV")
    library.give("lists/windows.pls", "[playlist]", "NumberOfEntries=2", *files, "Version=2", end=b"\r\n")


def _add_plain_lists(library: OddLibrary) -> None:
    names = ("#1 Crush.wav", " leading.wav", "\u3000wide.wav", "trailing .wav", "[x]*.wav")
    for name in names:
        library.sing(f"listed/plain/{name}")
    library.give("listed/plain/list.txt", "# a comment", *names, "", "#EXTM3U")
    found = (b"listed/zero/\xe9.wav", b"listed/zero/two\nlines.wav", b"listed/zero/plain.wav")
    for path in found:
        library.sing(path)
    library.give("lists/zero.txt", *found, end=b"\0")
    for name in ("Twin.wav", "twin.wav"):
        library.sing(f"music/twins/{name}")
    missing = (
        "listed/gone.wav",
        "nothing at all",
        "ftp://example.com/song.wav",
        "listed/plain/*.wav",
        "MUSIC/twins/TWIN.wav",
        "music/share/album.cue",
        "music/share/cover.jpg",
    )
    library.give("lists/missing.txt", *missing)
    library.refused |= set(missing)
    library.sing("listed/twice.wav")
    repeats = ("./listed/../listed/twice.wav", "LISTED/Twice.WAV", "music/share/song.wav", URL)
    library.give("lists/twice.txt", "listed/twice.wav", *repeats)
    library.again += len(repeats)
