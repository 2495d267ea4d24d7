"""Is the mix without vocals what its name says? Splits songs with the sandbox, and compares samples.

    python benchmarks/instrumental.py song.ogg ... [--hours 2]

In wav, the instrumental with its gain undone is compared with the song minus the vocals: the difference is the noise of
rounding. In mp3, length and offset are compared with the song's, decoded by ffmpeg and by libsndfile. With `--hours`,
stems of that length are mixed, and speed and memory are measured.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import subprocess
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from aistemsplitter_async import AsyncAIStemSplitter, PollPolicy
from aistemsplitter_async._transfer.mixing import mix_stems
from aistemsplitter_async._transfer.partfile import PartFile
from aistemsplitter_async.sandbox import Sandbox

Samples = NDArray[Any]
INSTRUMENTAL = {"instrumental": "-vocals"}


def by_libsndfile(path: Path) -> Samples:
    samples: Samples = soundfile.read(path, always_2d=True)[0]
    return samples


def by_ffmpeg(path: Path) -> Samples:
    raw = subprocess.run(["ffmpeg", "-v", "error", "-i", path, "-f", "f64le", "-"], capture_output=True, check=True)
    return np.frombuffer(raw.stdout, np.float64).reshape(-1, soundfile.info(path).channels)


def dbfs(samples: Samples) -> float:
    return 20 * float(np.log10(np.sqrt(np.mean(samples**2)) + 1e-20))


def offset(one: Samples, other: Samples) -> int:
    """Return by how many samples `one` is later than `other`: where they correlate best."""
    count = min(len(one), len(other), 60 * 48_000)
    spectra = [np.fft.rfft(samples[:count, 0], 2 * count) for samples in (one, other)]
    best = int(np.argmax(np.fft.irfft(spectra[0] * np.conj(spectra[1]))))
    return best if best < count else best - 2 * count


async def compare(client: AsyncAIStemSplitter, song: Path, folder: Path) -> None:
    whole = by_libsndfile(song)
    for form in ("wav", "mp3"):
        done = await client.split(
            song, into=folder / form, stem_model="6s", output_format=form, stems=("vocals",), mixes=INSTRUMENTAL
        )
        made, gain = done.files["instrumental"], done.gain_db["instrumental"]
        expected = whole - by_libsndfile(done.files["vocals"])
        decoders = (
            {"libsndfile": by_libsndfile} if form == "wav" else {"libsndfile": by_libsndfile, "ffmpeg": by_ffmpeg}
        )
        for name, decode in decoders.items():
            mixed = decode(made)
            undone = mixed * 10 ** (-gain / 20)
            shared = slice(min(len(undone), len(expected)))
            print(
                f"{song.name:24} {form} {name:10} gain {gain:6.2f} dB  length {len(mixed) - len(whole):+5}  offset "
                f"{offset(mixed, expected):+3}  difference {dbfs(undone[shared] - expected[shared]):7.1f} dBFS of "
                f"{dbfs(expected):.1f}"
            )


def measure(hours: float, folder: Path) -> None:
    frames, rate = int(hours * 3600 * 44_100), 44_100
    noise = np.random.default_rng(1).normal(0, 0.03, (rate * 60, 2)).clip(-1, 1)
    for form, kind, suffix in (("WAV", "PCM_24", "wav"), ("MP3", "MPEG_LAYER_III", "mp3")):
        stem = folder / f"stem.{suffix}"
        with soundfile.SoundFile(stem, "w", rate, 2, kind, format=form) as file:
            for start in range(0, frames, len(noise)):
                file.write(noise[: frames - start])
        before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
        with closing(PartFile(folder / ".mix.part")) as part:
            mix_stems("mix", {str(number): stem for number in range(5)}, part)
            size = part.size
        seconds = time.perf_counter() - began
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(
            f"{form}: 5 stems of {hours:g} h, {size / 1e6:.0f} MB: {seconds:.1f} s, "
            f"{hours * 3600 / seconds:.0f} times as fast as it plays, {grown:.0f} MB more memory at most"
        )


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("songs", nargs="*", type=Path)
    parser.add_argument("--hours", type=float)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        async with (
            Sandbox(credits=10**6, requests_per_minute=None) as sandbox,
            AsyncAIStemSplitter(
                sandbox.api_key, base_url=sandbox.base_url, poll=PollPolicy(first=0.2, shortest=0.2)
            ) as client,
        ):
            for number, song in enumerate(arguments.songs):
                await compare(client, song, Path(folder, str(number)))
        if arguments.hours:
            measure(arguments.hours, Path(folder))


if __name__ == "__main__":
    asyncio.run(main())
