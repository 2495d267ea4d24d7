"""Songs that the service recognises, whatever is written around their audio, and stems that prove what they are.

A song's audio contains its name. Tags can be changed without touching that; a stem ends with a digest of the rest.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
import struct
from collections.abc import Sequence
from typing import Literal

import attrs

Format = Literal["wav", "mp3", "aac", "half-wav", "url"]

STEMS = ("vocals", "drums")
MIX = "instrumental"
STEM_BYTES = 1500
_DIGEST, _WAV_HEAD = 32, 44  # bytes
_FRAME = b"\xff\xfb\x90\x00"  # how MP3 begins: a stem looks like audio
_NAME = re.compile(rb"<<song (\d+) ([\d.]+)>>")
_RATE = 8000  # bytes and samples of a second of wav
_MP3_FRAME, _MP3_SECONDS = 417, 1152 / 44100  # 128 kbit/s, 44.1 kHz
_AAC_FRAME, _AAC_SECONDS = 160, 1024 / 44100


@attrs.frozen
class Song:
    """One source.

    Attributes:
        number: its name.
        format: what it is; an `aac` calls itself mp3, a `half-wav` declares half of its samples, a `url` is fetched by
            the service.
        seconds: of audio, by which the service charges.
    """

    number: int
    format: Format = "wav"
    seconds: int = 2

    @property
    def name(self) -> str:
        return f"song{self.number}"

    @property
    def filename(self) -> str:
        return f"{self.name}.{'wav' if 'wav' in self.format else 'mp3'}"

    @property
    def url(self) -> str:
        return f"https://music.example/{self.number}/{self.seconds}/{self.filename}"

    def build(self, tag: str = "") -> bytes:
        """Return the file, with a tag that is no part of the audio."""
        name = f"<<song {self.number} {self.seconds}>>".encode()
        if self.format == "mp3":
            return _id3(tag) + _frames(b"\xff\xfb\x90\x00", _MP3_FRAME, _MP3_SECONDS, self.seconds, name)
        if self.format == "aac":
            head = 0xFFF1_5080_0000_00 | _AAC_FRAME << 13 | 0x1FFC
            return _frames(head.to_bytes(7, "big"), _AAC_FRAME, _AAC_SECONDS, self.seconds, name)
        audio = (name * (_RATE * self.seconds // len(name) + 1))[: _RATE * self.seconds]
        declared = len(audio) // 2 if self.format == "half-wav" else len(audio)
        chunks = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, _RATE, _RATE, 1, 8)
        if tag:
            text = tag.encode().ljust(len(tag) + len(tag) % 2, b" ")
            chunks += b"LIST" + struct.pack("<I", 12 + len(text)) + b"INFOINAM" + struct.pack("<I", len(text)) + text
        chunks += b"data" + struct.pack("<I", declared) + audio
        return b"RIFF" + struct.pack("<I", 4 + len(chunks) - len(audio) + declared) + b"WAVE" + chunks


def _frames(head: bytes, size: int, each: float, seconds: int, name: bytes) -> bytes:
    frame = head + (bytes(40) + name).ljust(size - len(head), b"\0")
    return frame * max(1, int(seconds / each))


def _id3(tag: str) -> bytes:
    if not tag:
        return b""
    text = b"\x03" + tag.encode()
    size = 10 + len(text)
    return b"ID3\x04\0\0" + bytes((0, 0, size >> 7, size & 127)) + b"TIT2" + bytes((0, 0, 0, len(text), 0, 0)) + text


def recognise(audio: bytes) -> tuple[int, float] | None:
    """Return number and seconds of the song that a file or a URL holds."""
    match = _NAME.search(audio) or re.match(rb"https://music\.example/(\d+)/(\d+)/", audio)
    return None if match is None else (int(match[1]), float(match[2]))


def build_stem(split_id: str, song: int, stem: str, size: int = STEM_BYTES, extension: str = "mp3") -> bytes:
    """Return a stem, which ends with a digest of the rest. As WAV, it is loud noise: 16 bits, mono."""
    label = f"{split_id}/{song}/{stem}\n".encode()
    audio = label + random.Random(label).randbytes(size - len(label) - _DIGEST)
    body = (_wav_head(size) if extension == "wav" else _FRAME) + audio
    return body + hashlib.sha256(body).digest()


def read_stem(data: bytes) -> tuple[str, int, str] | None:
    """Return split, song and stem that a file holds, `None` if it is not complete."""
    if len(data) < 2 * _DIGEST or hashlib.sha256(data[:-_DIGEST]).digest() != data[-_DIGEST:]:
        return None
    text = data[_WAV_HEAD:] if data.startswith(b"RIFF") else data.removeprefix(_FRAME)
    split_id, song, stem = text.partition(b"\n")[0].decode().split("/")
    return split_id, int(song), stem


def is_sum(mix: bytes, stems: Sequence[bytes]) -> bool:
    """Return whether a file holds the sum of stems, all as WAV, turned down if that would clip."""
    summed = [sum(frame) for frame in zip(*(_samples(stem) for stem in stems), strict=True)]
    found = _samples(mix)
    loudest = max(*summed, *(-sample - 1 for sample in summed)) / 32767
    gain = 1.0 if loudest <= 1 else 10 ** (math.floor(-2000 * math.log10(loudest)) / 2000)
    return len(found) == len(summed) and all(
        abs(one - other * gain) <= 1 for one, other in zip(found, summed, strict=True)
    )


def _wav_head(size: int) -> bytes:
    form = struct.pack("<IHHIIHH", 16, 1, 1, _RATE, 2 * _RATE, 2, 16)
    return b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt " + form + b"data" + struct.pack("<I", size)


def _samples(data: bytes) -> list[int]:
    body = data.partition(b"data")[2][4:] if data.startswith(b"RIFF") else b""
    return [sample for (sample,) in struct.iter_unpack("<h", body[: len(body) // 2 * 2])]
