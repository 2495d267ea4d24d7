"""Tiny valid files of silence, and the samples of a wav file, without decoding them; standard library only."""

from __future__ import annotations

import io
import wave
from functools import cache
from pathlib import Path

from aistemsplitter_async.sandbox.separation.wav import WavSamples, find_samples

_WAV_RATE = 8000
_MP3_HEADER = bytes((0xFF, 0xFB, 0x90, 0xC4))  # MPEG 1 layer III, 128 kbit/s, 44.1 kHz, mono, no CRC
_MP3_FRAME = 417  # 144 * 128000 // 44100


@cache
def build_silence(output_format: str) -> bytes:
    """Return about a tenth of a second of silence as a `wav` or `mp3` file."""
    if output_format == "mp3":
        # A frame whose side information is all zeros decodes to silence.
        return (_MP3_HEADER + bytes(_MP3_FRAME - len(_MP3_HEADER))) * 4
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(_WAV_RATE)
        file.writeframes(bytes(2 * _WAV_RATE // 10))
    return buffer.getvalue()


def probe_wav(path: Path) -> WavSamples | None:
    """Return where the samples of a plain wav file are; `None` if it takes a decoder to know how long it is."""
    try:
        with path.open("rb") as file:
            samples = find_samples(file)
    except OSError:
        return None
    return None if samples is None or samples.seconds is None else samples
