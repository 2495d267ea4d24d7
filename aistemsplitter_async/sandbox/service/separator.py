"""Makes stems: real ones in a child process, silent ones from a constant."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PurePath
from typing import Any, Protocol

from aistemsplitter_async.sandbox.separation.separate import STEMS
from aistemsplitter_async.sandbox.separation.silence import build_silence, probe_wav
from aistemsplitter_async.sandbox.service.limits import Limits
from aistemsplitter_async.sandbox.service.state import Stem

_log = logging.getLogger(__name__)
_STDERR_TAIL = 2000
_BYTES_PER_SECOND = 16_000  # of a usual mp3, for files that are not decoded


class SeparationError(Exception):
    """The audio could not be decoded or separated; the message is for people."""


class Separator(Protocol):
    """Measures and separates audio files. Both methods raise `SeparationError` and nothing else."""

    async def probe(self, source: Path) -> float:
        """Return the length of the audio in seconds."""
        ...

    async def separate(
        self, source: Path, into: Path, *, seconds: float, stem_model: str, output_format: str
    ) -> tuple[Stem, ...]:
        """Write the stems of a source of `seconds`, as measured by `probe`, into the folder `into` and return them."""
        ...


class SilentSeparator:
    """Stems of silence that are never written to disk; a split takes no time and no space."""

    async def probe(self, source: Path) -> float:
        """Return a wav file's own length, or a guess from the size of any other file."""
        samples = probe_wav(source)
        return (samples.seconds if samples is not None else None) or _guess_seconds(source)

    async def separate(
        self, source: Path, into: Path, *, seconds: float, stem_model: str, output_format: str
    ) -> tuple[Stem, ...]:
        """Return stems whose bytes are those of `build_silence`."""
        del source, into, seconds
        return _build_silent_stems(stem_model, output_format)


class ProcessSeparator:
    """Runs the separation room as a child process for each call; a cancelled or overdue call kills its child."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._probing = asyncio.Semaphore(limits.probe_workers)

    async def probe(self, source: Path) -> float:
        """Return the length of the audio; a complete wav file is measured without starting a process."""
        samples = probe_wav(source)
        if samples is not None and samples.is_usable and samples.seconds is not None:
            return samples.seconds
        async with self._probing:
            report = await _run("probe", str(source), timeout=self._limits.probe_timeout)
        seconds = float(report["seconds"])
        if not 0 < seconds < math.inf:
            raise SeparationError("The file has no audio in it.")
        return seconds

    async def separate(
        self, source: Path, into: Path, *, seconds: float, stem_model: str, output_format: str
    ) -> tuple[Stem, ...]:
        """Separate in a child process and return the stems it wrote."""
        await asyncio.to_thread(into.mkdir, parents=True, exist_ok=True)
        options = ("--stem-model", stem_model, "--output-format", output_format)
        timeout = self._limits.separation_timeout + self._limits.separation_pace * seconds
        report = await _run("separate", str(source), str(into), *options, timeout=timeout)
        return tuple(_stem(name, into / PurePath(filename).name) for name, filename in report["stems"].items())


@cache
def _build_silent_stems(stem_model: str, output_format: str) -> tuple[Stem, ...]:
    silence = build_silence(output_format)
    etag = hashlib.sha256(silence).hexdigest()[:32]
    names = sorted(STEMS[stem_model], key="other".__eq__)  # the remainder comes last
    return tuple(Stem(name, f"{name}.{output_format}", len(silence), etag) for name in names)


def _guess_seconds(source: Path) -> float:
    try:
        return max(1.0, source.stat().st_size / _BYTES_PER_SECOND)
    except OSError:
        raise SeparationError("The file is gone.") from None


def _stem(name: str, path: Path) -> Stem:
    stat = path.stat()
    # The file at this path never changes, so its identity is a validator; no need to read and hash it all.
    identity = f"{path}:{stat.st_size}:{stat.st_mtime_ns}"
    return Stem(name, path.name, stat.st_size, hashlib.sha256(identity.encode()).hexdigest()[:32])


async def _run(*arguments: str, timeout: float) -> dict[str, Any]:
    with _open_lifeline() as lifeline:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "aistemsplitter_async.sandbox.separation",
            "--watch-stdin",
            *arguments,
            stdin=lifeline,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in the terminal is for the sandbox, not for its child
        )
        try:
            async with asyncio.timeout(timeout):
                out, err = await process.communicate()
        except TimeoutError:
            raise SeparationError(f"It took longer than {timeout:g} s.") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    report = _parse_report(out)
    if report is None or (process.returncode and report.get("ok")):
        _log.warning(
            "separation process ended with %s: %s", process.returncode, err.decode("utf-8", "replace")[-_STDERR_TAIL:]
        )
        raise SeparationError(f"The separation process crashed (exit status {process.returncode}).")
    if not report.get("ok"):
        raise SeparationError(str(report.get("message") or "The audio could not be processed."))
    return report


@contextmanager
def _open_lifeline() -> Iterator[int]:
    """Give a child a standard input that closes when this process ends, even by a kill."""
    lifeline, held = os.pipe()
    try:
        yield lifeline
    finally:
        os.close(lifeline)
        os.close(held)


def _parse_report(out: bytes) -> dict[str, Any] | None:
    lines = out.strip().splitlines()
    try:
        report = json.loads(lines[-1]) if lines else None
    except ValueError:
        return None
    return report if isinstance(report, dict) else None
