"""Audio files made in memory by a real encoder, and small edits of them."""

from __future__ import annotations

import functools
import io
import random
import struct

import numpy as np
import soundfile

from aistemsplitter_async._audio.examine import Examined, Length, examine, measure

RATE = 44100
BITRATES = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)


@functools.cache
def encoded(kind: str, subtype: str | None = None, seconds: float = 1.5, rate: int = RATE, seed: int = 1) -> bytes:
    """Return a stereo file of noise that swells, in a format of libsndfile."""
    frames = round(seconds * rate)
    noise = np.random.default_rng(seed).normal(0, 0.1, (frames, 2)) * np.linspace(0.2, 1, frames)[:, None]
    file = io.BytesIO()
    soundfile.write(file, noise, rate, format=kind, subtype=subtype)
    return file.getvalue()


def examined(data: bytes) -> Examined:
    return examine(io.BytesIO(data))


def identity(data: bytes) -> str:
    return examined(data).identity


def measured(data: bytes) -> Length:
    return measure(io.BytesIO(data))


def is_whole(data: bytes) -> bool:
    """Return whether the file is identified by all its bytes."""
    found = examined(data)
    return found.identity == found.content


def flipped(data: bytes, bit: int) -> bytes:
    """Return `data` with one bit changed."""
    edited = bytearray(data)
    edited[bit // 8] ^= 1 << bit % 8
    return bytes(edited)


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)  # noqa: S311


def frame(bitrate: int, seed: int = 1, kind: bytes = b"\xff\xfb") -> bytes:
    size = 144 * bitrate * 1000 // RATE
    return kind + bytes([(BITRATES.index(bitrate) + 1) << 4, 4]) + noise(size - 4, seed)


def vbr(frames: int, *, factor: float = 1, size_factor: float = 1, vbri: bool = False, seed: int = 1) -> bytes:
    """Return frames of all bitrates, and one in front that says `factor` times as many as there are."""
    drawn = random.Random(seed).choices(BITRATES[4:], k=frames)  # noqa: S311
    body = b"".join(frame(bitrate, number) for number, bitrate in enumerate(drawn))
    claimed, size = round(frames * factor), round((len(body) + 417) * size_factor)
    if vbri:
        info = b"VBRI" + bytes(6) + struct.pack(">II", size, claimed)
    else:
        info = b"Xing" + struct.pack(">III", 3, claimed, size)
    return b"\xff\xfb\x90\x04" + bytes(32) + info + bytes(413 - 32 - len(info)) + body
