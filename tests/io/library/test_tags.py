"""Tags and lengths of real files, complete, broken and hostile. No content of a file makes reading it fail."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from aistemsplitter_async.library import tags as tags_module
from aistemsplitter_async.library.tags import measure_file, read_tags
from aistemsplitter_async.library.template import Tags

posix = pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")
SECONDS = 2.5
RATE = 44_100
KINDS = {
    "song.wav": {},
    "float.wav": {"subtype": "FLOAT"},
    "song.flac": {},
    "song.ogg": {"format": "OGG", "subtype": "VORBIS"},
    "song.mp3": {"format": "MP3"},
    "vbr.mp3": {"format": "MP3", "bitrate_mode": "VARIABLE"},
    "song.aiff": {"format": "AIFF"},
}


def song(folder: Path, name: str = "song.ogg", **tags: str) -> Path:
    """Write a short file of noise."""
    path = folder / name
    noise = np.random.default_rng(1).standard_normal((int(RATE * SECONDS), 2)).astype("float32") * 0.1
    with soundfile.SoundFile(path, "w", RATE, 2, **KINDS[name]) as file:
        for tag, text in tags.items():
            setattr(file, tag, text)
        file.write(noise[:65_536])
        file.write(noise[65_536:])
    return path


def id3(**frames: bytes) -> bytes:
    """Return an ID3v2.3 tag with text frames."""
    body = b"".join(
        struct.pack(">4sIH", name.encode(), len(text) + 1, 0) + b"\x00" + text for name, text in frames.items()
    )
    size = bytes(len(body) >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x03\x00\x00" + size + body


@pytest.mark.parametrize("name", KINDS)
def test_the_length_is_what_the_service_would_count(tmp_path: Path, name: str) -> None:
    seconds = measure_file(song(tmp_path, name)).seconds
    assert seconds == pytest.approx(SECONDS, abs=0.1), "an mp3 counts the silence its encoder adds"


def test_tags_are_read(tmp_path: Path) -> None:
    path = song(tmp_path, artist="Björk", album="Debut", title="Human", genre="Pop", date="1993", tracknumber="1")
    found = read_tags(path)
    assert (found.artist, found.album, found.title, found.genre) == ("Björk", "Debut", "Human", "Pop")
    assert (found.year, found.track, found.albumartist) == ("1993", 1, None)


def test_joiners_of_a_title_stay_and_bidirectional_marks_do_not(tmp_path: Path) -> None:
    found = read_tags(song(tmp_path, title="\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", artist="a\u202eb"))
    assert (found.title, found.artist) == ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "a b")


def test_a_tag_is_one_printable_line_of_sane_length(tmp_path: Path) -> None:
    text = b"  a\r\n\tb\x1b[2J\x00"
    path = tmp_path / "song.mp3"
    path.write_bytes(id3(TIT2=text, TPE1=b"x" * 5000, TALB=b" \n ") + song(tmp_path, "vbr.mp3").read_bytes())
    found = read_tags(path)
    assert found.title == "a b [2J"
    assert found.artist == "x" * 300
    assert found.album is None


@pytest.mark.parametrize("track", [b"0", b"-1", b"99999", b"A1", b"9" * 5000])
def test_a_track_number_that_is_none_is_left_out(tmp_path: Path, track: bytes) -> None:
    path = tmp_path / "song.mp3"
    path.write_bytes(id3(TRCK=track, TIT2=b"x") + song(tmp_path, "vbr.mp3").read_bytes())
    assert read_tags(path).track is None


@pytest.mark.parametrize("name", ["song.aac", "song.wv", "song.ape", "song.mka", "song.txt", "song", "song.caf"])
def test_a_format_that_is_not_known_is_not_guessed_at(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(song(tmp_path, "song.mp3").read_bytes())
    assert read_tags(path) == Tags()


@pytest.mark.parametrize("claimed", [0xFFFFFFFF, 0x7FFFFFFF, 10**6])
def test_a_wav_that_claims_more_than_it_holds_has_no_length(tmp_path: Path, claimed: int) -> None:
    path = song(tmp_path, "song.wav")
    data = path.read_bytes()
    at = data.index(b"data") + 4
    path.write_bytes(data[:at] + struct.pack("<I", claimed) + data[at + 4 :])
    assert measure_file(path).seconds is None


def test_a_flac_that_claims_a_week_of_silence_has_no_length(tmp_path: Path) -> None:
    path = song(tmp_path, "song.flac")
    data = bytearray(path.read_bytes())
    data[21] |= 0x0F  # the 36 bits of STREAMINFO that count the samples
    data[22:26] = b"\xff" * 4
    path.write_bytes(data)
    assert measure_file(path).seconds is None


@pytest.mark.parametrize(
    "data", [b"", b"\x00" * 5000, b"ID3", b"OggS", b"fLaC", b"RIFF\xff\xff\xff\xffWAVE", b"\xff\xfb" * 900]
)
@pytest.mark.parametrize("suffix", ["mp3", "ogg", "flac", "wav", "m4a", "wma", "aiff", "opus"])
def test_a_file_that_is_not_audio_has_no_tags(tmp_path: Path, data: bytes, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(data)
    assert read_tags(path) == Tags()
    length = measure_file(path)
    assert (length.seconds or 0.0) < 1


@posix
def test_what_is_not_a_regular_file_has_no_tags_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp3")
    (tmp_path / "folder.mp3").mkdir()
    for name in ("pipe.mp3", "folder.mp3", "missing.mp3", "x" * 300 + ".mp3", "/dev/zero"):
        assert read_tags(tmp_path / name) == Tags()
        with pytest.raises(OSError, match=r"\[Errno|not a regular file"):
            measure_file(tmp_path / name)
    assert read_tags(tmp_path / "nul\x00.mp3") == Tags()


@pytest.mark.parametrize("name", KINDS)
def test_a_broken_file_never_makes_reading_fail(tmp_path: Path, name: str) -> None:
    whole = song(tmp_path, name, title="Human").read_bytes()[:20_000]
    rng = random.Random(name)  # noqa: S311  # the same damage every time
    path = tmp_path / f"broken.{name}"
    began = time.process_time()  # what other programs take is not ours
    for _ in range(60):
        data = bytearray(whole[: rng.randrange(1, len(whole))])
        for _ in range(rng.randrange(1, 40)):
            at = min(int(rng.expovariate(1 / 200)), len(data) - 1)  # mostly in the headers
            data[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        path.write_bytes(data)
        read_tags(path)
        length = measure_file(path)
        assert length.seconds is None or 0 <= length.seconds <= (length.at_most or 0.0)
    assert time.process_time() - began < 20


def test_the_reader_gives_up_on_a_tag_larger_than_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tags_module, "_READ_CAP_BYTES", 1000)
    path = tmp_path / "song.mp3"
    path.write_bytes(id3(TIT2=b"x", TXXX=b"y" * 5000) + song(tmp_path, "vbr.mp3").read_bytes())
    assert read_tags(path) == Tags()


def test_only_the_tags_are_read_however_long_the_song_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = song(tmp_path, title="Human")
    monkeypatch.setattr(tags_module, "_READS_CAP", 20)
    assert read_tags(path) == Tags(title="Human")


@pytest.mark.parametrize("name", ["a.mp3", "a.wav", "a.flac", "a", "a.txt"])
@pytest.mark.parametrize("true", KINDS)
def test_the_name_of_a_file_says_nothing_about_its_length(tmp_path: Path, true: str, name: str) -> None:
    (tmp_path / name).write_bytes(song(tmp_path, true).read_bytes())
    assert measure_file(tmp_path / name) == measure_file(tmp_path / true)


def test_without_tinytag_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = song(tmp_path, title="Human")
    monkeypatch.setitem(sys.modules, "tinytag", None)
    assert read_tags(path) == Tags()


def test_importing_the_module_does_not_import_tinytag() -> None:
    program = "import sys, aistemsplitter_async.library.tags; sys.exit('tinytag' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
