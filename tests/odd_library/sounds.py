"""The sounds of the odd library: short songs that all differ, in the formats and states that people have."""

from __future__ import annotations

import io
import struct

import numpy as np
import soundfile

RATE = 8000
SECONDS = 0.3  # of most songs


def song(
    number: int,
    kind: str = "WAV",
    subtype: str | None = None,
    *,
    seconds: float = SECONDS,
    rate: int = RATE,
    channels: int = 1,
    **tags: str,
) -> bytes:
    """Return a file of noise that no other number has, in a format of libsndfile."""
    noise = np.random.default_rng(number).normal(0, 0.1, (round(seconds * rate), channels)).astype("float32")
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", rate, channels, subtype, format=kind) as file:
        for name, text in tags.items():
            setattr(file, name, text)
        file.write(noise)
    return buffer.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    """Return a chunk of a RIFF file."""
    return name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


def with_riff_size(data: bytes) -> bytes:
    """Return a WAV file whose header states its size."""
    return data[:4] + struct.pack("<I", len(data) - 8) + data[8:]


def with_title(wav: bytes, title: str) -> bytes:
    """Return a WAV file with a title after the sound, as a tag editor writes it."""
    return with_riff_size(wav + chunk(b"LIST", b"INFO" + chunk(b"INAM", title.encode() + b"\0")))


def id3v1(title: str) -> bytes:
    """Return the 128 bytes that old programs put at the end of a file."""
    return b"TAG" + title.encode()[:30].ljust(30, b"\0") + bytes(94) + b"\xff"


def id3v2(**frames: str) -> bytes:
    """Return an ID3v2.3 tag with text frames, which goes in front of a file."""
    body = b"".join(
        struct.pack(">4sIH", name.encode(), len(text) + 1, 0) + b"\0" + text.encode("latin-1")
        for name, text in frames.items()
    )
    size = bytes(len(body) >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x03\0\0" + size + body


def data_at(wav: bytes) -> int:
    """Return where the size of a WAV file's sound stands."""
    return wav.index(b"data") + 4


def with_data_size(wav: bytes, size: int) -> bytes:
    """Return a WAV file that states `size` bytes of sound, whatever it holds."""
    at = data_at(wav)
    return wav[:at] + struct.pack("<I", size) + wav[at + 4 :]


def with_junk(wav: bytes) -> bytes:
    """Return a WAV file with an empty chunk before all others, as recorders leave room for a longer header."""
    return with_riff_size(wav[:12] + chunk(b"JUNK", bytes(28)) + wav[12:])


def odd_songs(first: int) -> dict[str, bytes]:
    """Return odd files that hold a whole song each, numbered from `first`, by name."""
    numbers = iter(range(first, first + 100))

    def made(kind: str = "WAV", subtype: str | None = None, *, rate: int = RATE, channels: int = 1) -> bytes:
        return song(next(numbers), kind, subtype, rate=rate, channels=channels)

    return {
        "chained vorbis.ogg": made("OGG", "VORBIS") + made("OGG", "VORBIS"),
        "chained opus.opus": made("OGG", "OPUS") + made("OGG", "OPUS"),
        "joined.mp3": made("MP3") + made("MP3"),
        "joined with tags.mp3": id3v2(TIT2="one") + made("MP3") + id3v2(TIT2="two") + made("MP3"),
        "id3v1 at the end.flac": made("FLAC") + id3v1("trailer"),
        "id3v2 in front.flac": id3v2(TIT2="leader") + made("FLAC"),
        "size 0.wav": with_data_size(made(), 0),
        "size unknown.wav": with_data_size(made(), 0xFFFFFFFF),
        "past the end.wav": made() + chunk(b"LIST", b"INFO" + chunk(b"INAM", b"past\0")),
        "junk first.wav": with_junk(made()),
        "ima.wav": made("WAV", "IMA_ADPCM"),
        "ms.wav": made("WAV", "MS_ADPCM"),
        "ulaw.wav": made("WAV", "ULAW"),
        "alaw.wav": made("WAV", "ALAW"),
        "float.wav": made("WAV", "FLOAT"),
        "double.wav": made("WAV", "DOUBLE"),
        "24 bit.wav": made("WAV", "PCM_24"),
        "8 bit.wav": made("WAV", "PCM_U8"),
        "extensible.wav": made("WAVEX", "PCM_16"),
        "rf64.wav": made("RF64", "PCM_16"),
        "stereo at 44100.wav": made(rate=44_100, channels=2),
        "plain.aiff": made("AIFF", "PCM_16"),
        "float.aifc": made("AIFF", "FLOAT"),
        "ulaw.aifc": made("AIFF", "ULAW"),
    }


def foreign_files() -> dict[str, bytes]:
    """Return files that are called songs and that anybody sees to be none: nothing of them is uploaded."""
    return {
        "empty.wav": b"",
        "error page.mp3": b"<!DOCTYPE html>\n<html><body><h1>404 Not Found</h1></body></html>\n",
        "error page again.mp3": b"<!DOCTYPE html>\n<html><body><h1>404 Not Found</h1></body></html>\n",
        "picture.flac": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(400),
        "document.mp3": b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog >>\nendobj\n" + bytes(400),
        "archive.ogg": b"PK\x03\x04\x14\0\0\0\x08\0" + bytes(400),
        "program.wav": b"\x7fELF\x02\x01\x01" + bytes(400),
    }


def undecodable_files() -> dict[str, bytes]:
    """Return files that are called songs and that only the service finds to be none, before it charges anything."""
    flac, mp3 = song(90_001, "FLAC", seconds=2), song(90_002, "MP3", seconds=2)
    return {
        "text.wav": b"Side A\n1. Intro\n2. Outro\n" * 20,
        "cut short.flac": flac[: len(flac) // 2],
        "header only.mp3": mp3[:200],
        "zeros.wav": bytes(4096),
        "no frames.wav": with_data_size(song(90_003)[:44], 0),
    }
