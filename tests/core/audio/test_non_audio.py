"""What cannot be audio is told by its content; whatever could be audio passes."""

from __future__ import annotations

import io
import struct
import zipfile

import pytest
from hypothesis import given, strategies as st

from aistemsplitter_async._audio.non_audio import what_else
from tests.core.audio.made import encoded, noise


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("song.mp3", encoded("MP3"))
    return file.getvalue()


FOREIGN = {
    "a web page": b"\xef\xbb\xbf\r\n<!DOCTYPE html>\n<html><title>404</title></html>",
    "a playlist": b"#EXTM3U\n#EXTINF:12,Caf\xe9\nsong.mp3\n",
    "a cue sheet": b'REM DATE 1994\nPERFORMER "Bj\xf6rk"\nFILE "album.wav" WAVE\n  TRACK 01 AUDIO\n',
    "a PDF document": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3",
    "a picture (PNG)": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "a picture (JPEG)": b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1" + noise(2000),
    "a ZIP archive": zipped(),
    "a program": b"\x7fELF\x02\x01\x01" + bytes(60),
    "text (JSON)": b'{"error": "not found"}',
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_cannot_be_audio_is_named_whatever_it_is_called(kind: str) -> None:
    assert what_else(io.BytesIO(FOREIGN[kind]), named_audio=True) == kind


def test_a_text_without_a_mark_is_refused_only_under_the_name_of_one() -> None:
    for text in ("Just words.\n", "Café\n", "lyrics\r\n\tla"):
        for data in (text.encode(), text.encode("utf-16")):
            assert what_else(io.BytesIO(data), named_audio=False) == "text"
            assert what_else(io.BytesIO(data), named_audio=True) is None


ENCODED = [("WAV", "PCM_16"), ("WAV", "ULAW"), ("AIFF", "PCM_16"), ("FLAC", None), ("OGG", "VORBIS"), ("MP3", None)]
ENCODED += [("W64", "PCM_16"), ("CAF", "PCM_16"), ("AU", "PCM_16"), ("VOC", "PCM_16"), ("NIST", "PCM_16")]


@pytest.mark.parametrize(("kind", "subtype"), ENCODED)
@pytest.mark.parametrize("named_audio", [True, False])
def test_audio_passes(kind: str, subtype: str | None, named_audio: bool) -> None:
    assert what_else(io.BytesIO(encoded(kind, subtype)), named_audio=named_audio) is None


def test_silence_and_noise_without_a_header_pass() -> None:
    below_zero = struct.pack(">h", -40) + struct.pack(">h", -20) * 40_000  # begins as a JPEG does
    for data in (bytes(9000), b"\x80" * 9000, b"U" * 9000, b"\xd5U" * 4000, noise(9000), below_zero):
        assert what_else(io.BytesIO(data), named_audio=False) is None


@given(
    st.binary(max_size=300), st.sampled_from([b"", b"MZ", b"BM", b"\xff\xd8\xff", b"<!--", b"PK\x03\x04", b"\xff\xfe"])
)
def test_any_bytes_are_judged_without_an_error(data: bytes, start: bytes) -> None:
    what_else(io.BytesIO(start + data), named_audio=False)
