"""Tiny valid files of silence, and the length of a wav file without decoding it; standard library only."""

from __future__ import annotations

import io
import wave
from functools import cache
from pathlib import Path

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


def probe_wav(path: Path) -> float | None:
    """Return the length in seconds of a plain wav file; `None` for anything else, also for a truncated one."""
    try:
        with wave.open(str(path), "rb") as file:
            frames, rate = file.getnframes(), file.getframerate()
            frame_bytes = file.getnchannels() * file.getsampwidth()
    except (wave.Error, EOFError, OSError):
        return None
    # The header may announce more than the file holds; then a real decoder must find out what there is.
    if not frames or not rate or path.stat().st_size < frames * frame_bytes:
        return None
    return frames / rate
