"""Any bytes as audio, through the sandbox's API: each is refused with 422, or becomes a split that ends.

    python -m benchmarks.damage --seconds 600 --seed 1

damages small real files of every format: bits flipped, sizes that lie, parts missing, doubled or swapped. A failure
names the file, which is kept. Peak memory is that of the largest process that decoded or separated.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import logging
import random
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import soundfile

from aistemsplitter_async.sandbox import Limits, Sandbox

RATE = 44_100
LIMITS = Limits(probe_timeout=30.0, separation_timeout=60.0, separation_pace=1.0)
_ENDS_WITHIN = 150.0  # s; the machine may be busy
_KINDS = {
    "wav": ("WAV", "PCM_16"),
    "wav24": ("WAV", "PCM_24"),
    "float": ("WAV", "FLOAT"),
    "adpcm": ("WAV", "IMA_ADPCM"),
    "extensible": ("WAVEX", "PCM_16"),
    "rf64": ("RF64", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "alac": ("CAF", "ALAC_16"),
    "flac": ("FLAC", "PCM_16"),
    "vorbis": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}
_LIES = (0, 1, 2, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFE, 0xFFFF_FFFF)
_FFMPEG = {"id3.mp3": ("-metadata", "title=\u202e\x1b[31m"), "tagged.flac": ("-metadata", "title=x" * 50), "a.ogg": ()}


def notes(seconds: float, channels: int = 2) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    at = np.arange(int(seconds * RATE))[:, None] * np.linspace(0.05, 0.06, channels)
    return (0.3 * np.sin(at)).astype(np.float32)


def encode(kind: str, seconds: float = 0.3, channels: int = 2) -> bytes:
    container, subtype = _KINDS[kind]
    file = io.BytesIO()
    rate = 48_000 if kind == "opus" else RATE
    soundfile.write(file, notes(seconds, channels), rate, subtype, format=container)
    return file.getvalue()


@cache
def originals() -> dict[str, bytes]:
    """Return whole files by name, some of them by ffmpeg if there is one."""
    files = {kind: encode(kind) for kind in _KINDS}
    if shutil.which("ffmpeg"):
        for name, options in _FFMPEG.items():
            muxer = name.rpartition(".")[2]
            command = ["ffmpeg", "-v", "error", "-i", "-", *options, "-f", muxer, "-"]
            files[name] = subprocess.run(command, input=files["wav"], capture_output=True, check=True).stdout
    return files


def borders(whole: bytes) -> list[int]:
    """Return where a file may end early: at every chunk, page, block or frame of it, and in between."""
    marks = (b"fmt ", b"data", b"SSND", b"COMM", b"OggS", b"\xff\xfb", b"\xff\xf8", b"desc", b"pakt", b"ds64", b"fLaC")
    found = {at for mark in marks for at in _positions(whole, mark)}
    near = {at + step for at in found for step in (0, 1, 4, 7, 8, 12)} | {
        1,
        3,
        4,
        10,
        12,
        len(whole) // 2,
        len(whole) - 1,
    }
    return sorted(at for at in near if 0 <= at < len(whole))


def _positions(whole: bytes, mark: bytes) -> Iterator[int]:
    at = whole.find(mark)
    while at >= 0:
        yield at
        at = whole.find(mark, at + 1)


def lying() -> Iterator[tuple[str, bytes]]:
    """Yield uncompressed files whose recorder crashed before it wrote the length."""
    for kind, mark, order in (
        ("wav", b"data", "<"),
        ("extensible", b"data", "<"),
        ("rf64", b"data", "<"),
        ("aiff", b"SSND", ">"),
    ):
        whole = originals()[kind]
        at = whole.index(mark) + 4
        for size in (*_LIES, len(whole), len(whole) * 10):
            yield f"{kind} of {size:#x}", whole[:at] + struct.pack(f"{order}I", size) + whole[at + 4 :]
        yield f"{kind} header", whole[: at + 4]
        yield f"{kind} cut", whole[: len(whole) * 2 // 3]
    large = originals()["rf64"]
    at = large.index(b"ds64") + 8
    for step in (0, 8, 16):
        for size in (0, 1, 2**40, 2**63, 2**64 - 1):
            yield f"ds64 {step} {size:#x}", large[: at + step] + struct.pack("<Q", size) + large[at + step + 8 :]


def formats() -> Iterator[tuple[str, bytes]]:
    """Yield WAV files with odd format chunks."""
    whole = originals()["wav"]
    at = whole.index(b"fmt ") + 8
    for name, offset, width in (("tag", 0, 2), ("channels", 2, 2), ("rate", 4, 4), ("frame", 12, 2), ("depth", 14, 2)):
        for value in (0, 1, 3, 7, 0x11, 100, 0x55, 0xFFFE, 0xFFFF, 2**32 - 1):
            field = (value % 2 ** (8 * width)).to_bytes(width, "little")
            yield f"{name} {value}", whole[: at + offset] + field + whole[at + offset + width :]
    extensible = originals()["extensible"]
    at = extensible.index(b"fmt ")
    for size in (0, 1, 14, 16, 18, 22, 39, 41, 2**31, 2**32 - 1):
        yield f"extensible {size}", extensible[: at + 4] + struct.pack("<I", size) + extensible[at + 8 :]


def malice() -> Iterator[tuple[str, bytes]]:
    """Yield files that promise or ask for far too much, and those of almost nothing."""
    yield "one byte", b"R"
    yield "zeros", bytes(5000)
    for channels in (3, 8, 100, 1000):
        yield f"{channels} channels", encode("wav", 0.01, channels)
    for frames in (1, 2):
        yield f"{frames} samples", encode("wav", frames / RATE)
    for value in (np.nan, np.inf, -np.inf, 1e30):
        file = io.BytesIO()
        soundfile.write(file, np.full((5000, 2), value), RATE, "FLOAT", format="WAV")
        yield f"floats of {value}", file.getvalue()
    flac = bytearray(originals()["flac"])
    for total in (0, 1, 2**36 - 1):
        flac[21] = flac[21] & 0xF0 | total >> 32
        flac[22:26] = (total & 0xFFFF_FFFF).to_bytes(4, "big")
        yield f"flac of {total}", bytes(flac)
    yield "flac with a huge picture", b"fLaC" + bytes(originals()["flac"])[4:42] + b"\x06\xff\xff\xff" + bytes(1000)
    yield "id3 of 256 MB", b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + originals()["mp3"]
    for kind in ("vorbis", "opus", "mp3", "flac", "wav"):
        yield f"{kind} twice", originals()[kind] * 2
    yield "vorbis in opus", originals()["vorbis"] + originals()["opus"]
    yield "silence that packs well", _bomb()
    caf = originals()["caf"]
    at = caf.index(b"data") + 4
    yield "caf of 8 EB", caf[:at] + struct.pack(">q", 2**62) + caf[at + 8 :]


@cache
def _bomb() -> bytes:
    """Return a minute of silence as FLAC: a few kilobytes."""
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", RATE, 2, "PCM_16", format="FLAC") as audio:
        for _ in range(60):
            audio.write(np.zeros((RATE, 2), dtype=np.int16))
    return file.getvalue()


def damaged(kind: str, chance: random.Random) -> bytes:
    """Return a file with bits flipped, bytes overwritten, parts missing, doubled or swapped."""
    whole = bytearray(originals()[kind])
    for _ in range(chance.randint(1, 6)):
        # The heads of files decide most: half of the damage is done there.
        at = chance.randrange(min(len(whole), 120) if chance.random() < 0.5 else len(whole))
        match chance.randrange(5):
            case 0:
                whole[at] ^= 1 << chance.randrange(8)
            case 1:
                whole[at : at + 4] = struct.pack("<I" if chance.random() < 0.5 else ">I", chance.choice(_LIES))
            case 2:
                del whole[at : at + chance.randint(1, 500)]
            case 3:
                whole[at:at] = whole[at : at + chance.randint(1, 500)]
            case _:
                whole[at : at + 8] = chance.randbytes(8)
        whole = whole or bytearray(b"\0")
    return bytes(whole)


class BrokenError(Exception):
    """The sandbox did what it must never do."""


async def split(sandbox: Sandbox, http: aiohttp.ClientSession, audio: bytes, filename: str) -> str:
    """Upload and split; return how that ended: refused, dear, failed or succeeded.

    Raises:
        BrokenError: in another way, or not at all, or it is paid for without stems.
    """
    balance = sandbox.credits
    about = {"filename": filename, "contentType": "audio/wav", "contentLength": len(audio)}
    reserved = (await _call(sandbox, http, "/audio/uploads", about))[1]["data"]
    headers = {**reserved["uploadHeaders"], "Content-Type": "audio/wav"}
    async with http.post(reserved["uploadUrl"], data=audio, headers=headers) as response:
        stored = (await response.json())["data"]
    source = {"uploadId": reserved["uploadId"], "fileUrl": stored["url"], "storageKey": stored["key"]}
    status, created = await _call(sandbox, http, "/audio/splits", {"input": {"type": "uploaded_file", **source}})
    if status != 200:
        end = {422: "refused", 402: "dear"}.get(status, "")
        if not end or sandbox.credits != balance or not created["error"]["message"]:
            raise BrokenError(f"{status}: {created}")
        return end
    deadline, data = time.monotonic() + _ENDS_WITHIN, created["data"]
    while time.monotonic() < deadline:
        data = (await _call(sandbox, http, f"/audio/splits/{created['data']['id']}"))[1]["data"]
        if data["status"] in ("succeeded", "failed"):
            if data["status"] == "failed" and (sandbox.credits != balance or not data["error"]["message"]):
                raise BrokenError(f"failed without a reason or a refund: {data}")
            return str(data["status"])
        await asyncio.sleep(0.02)
    raise BrokenError(f"still {data['status']} after {_ENDS_WITHIN:g} s")


async def _call(sandbox: Sandbox, http: aiohttp.ClientSession, path: str, body: Any = None) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {sandbox.api_key}"}
    async with http.request("POST" if body else "GET", sandbox.base_url + path, json=body, headers=headers) as response:
        return response.status, await response.json()


def measure_peak() -> int:
    """Return the bytes of the largest child process so far."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Complaints(logging.Handler):
    """Collects what is logged as an error or with a traceback."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = logging.Formatter().format(record)
        if record.levelno >= logging.ERROR or "Traceback" in text:
            self.texts.append(text)


async def _run(seconds: float, seed: int, kept: Path) -> Counter[str]:
    chance, ends, complaints = random.Random(seed), Counter[str](), Complaints()
    logging.getLogger().addHandler(complaints)
    until, kinds = time.monotonic() + seconds, list(originals())
    limits = Limits(probe_timeout=30.0, separation_timeout=60.0, separation_workers=2)
    async with (
        Sandbox(requests_per_minute=None, limits=limits, credits=10**8) as sandbox,
        aiohttp.ClientSession() as http,
    ):
        for number in count():
            if time.monotonic() > until:
                break
            audio = damaged(kinds[number % len(kinds)], chance)
            try:
                end = await split(sandbox, http, audio, f"{number}.wav")
            except BrokenError as error:
                end = f"BROKEN {error}"
            if complaints.texts:
                end = f"BROKEN {complaints.texts.pop()}"
            if end.startswith("BROKEN"):
                (kept / f"{seed}-{number}").write_bytes(audio)
                print(kept / f"{seed}-{number}", end, flush=True)
            ends[end.partition(" ")[0]] += 1
    return ends


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    kept = Path(tempfile.mkdtemp(prefix="damage-"))
    ends = asyncio.run(_run(arguments.seconds, arguments.seed, kept))
    print(", ".join(f"{number} {end}" for end, number in sorted(ends.items())), f"peak {measure_peak() / 1e6:.0f} MB")
    return int(ends["BROKEN"] > 0)


if __name__ == "__main__":
    sys.exit(main())
