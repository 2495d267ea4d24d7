"""Audio files made in memory by a real encoder, and small edits of them."""

from __future__ import annotations

import functools
import io
import random

import numpy as np
import soundfile

from aistemsplitter_async._audio.examine import Examined, Length, examine, measure

RATE = 44100


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
