"""Measures how long the event loop is blocked while stems are downloaded to a disk that syncs slowly.

    python benchmarks/loop_lag.py [--tracks 8] [--mib 4] [--sync-ms 300] [--stems 4000] [--runs 5]

Two batches run against a server in a process of its own: of tracks with four stems each, while every `os.fsync` of this
process takes 300 ms; and of one split with thousands of small stems, for which a sync takes no time of its own. A
ticker on the loop notes by how much it is late, less the time that its thread waited for a processor, as the kernel
counts it: the machine may be busy with other things. What it adds all the same shows the same ticker on an idle loop,
for as long, before each run. The longest block less the longest of the idle ones, each as the median of some runs,
must be below 20 ms, or the exit code is 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import attrs

sys.path.insert(0, str(Path(__file__).parents[1]))  # of this checkout, whatever is installed

from aistemsplitter_async import AsyncAIStemSplitter, RateLimit

MIB = 1024 * 1024
LIMIT = 0.020  # s
_TICK = 0.002  # s
_AT_MOST = 60.0  # s of a batch; then what was seen until then counts
_STEM = bytes(range(256)) * 256


@attrs.define
class Ticker:
    """Notes how late it is woken: how long the loop was blocked (seconds).

    Attributes:
        blocks: those that were noted.
    """

    blocks: list[float] = attrs.field(factory=list[float])

    async def tick(self) -> None:
        while True:
            began, queued = time.perf_counter(), _queued()
            await asyncio.sleep(_TICK)
            self.blocks.append(time.perf_counter() - began - _TICK - (_queued() - queued))

    @property
    def longest(self) -> float:
        return max(self.blocks)

    @property
    def too_long(self) -> list[float]:
        return [block for block in self.blocks if block > LIMIT]


def _queued() -> float:
    """Return the seconds that this thread was ready to run and had to wait for a processor."""
    with open("/proc/thread-self/schedstat", encoding="ascii") as file:  # noqa: PTH123
        return int(file.read().split()[1]) / 1e9


async def watch(work: Awaitable[object]) -> Ticker:
    """Return the ticker that ran beside `work`."""
    ticker = Ticker()
    ticking = asyncio.create_task(ticker.tick())
    try:
        async with asyncio.timeout(_AT_MOST):
            await work
    except TimeoutError:
        print(f"    not finished after {_AT_MOST:.0f} s")
    finally:
        ticking.cancel()
        with suppress(asyncio.CancelledError):
            await ticking
    return ticker


async def download(base: str, tracks: int) -> None:
    """Run a batch of so many URL tracks into a folder that is removed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = [f"https://music.example/{number}.mp3" for number in range(tracks)]
        async with AsyncAIStemSplitter("ast_loop_lag", base_url=f"{base}/v1", rate_limit=RateLimit(6000)) as client:
            batch = client.split_many(sources, into=folder / "stems", journal=folder / "batch.journal")
            async with batch as outcomes:
                async for outcome in outcomes:
                    if (error := getattr(outcome, "error", None)) is not None:
                        print(f"    {error}"[:200])


def sync_slowly(seconds: float) -> None:
    """Let every sync of a file by this process take so long."""
    real = os.fsync

    def slow(descriptor: Any) -> None:
        real(descriptor)
        time.sleep(seconds)

    setattr(os, "fsync", slow)  # noqa: B010


def measure(what: str, runs: int, run: Callable[[], Coroutine[Any, Any, object]]) -> float:
    """Print what the runs show; return by how much the longest block is longer than on an idle loop (medians)."""
    began = time.perf_counter()
    asyncio.run(_watched(run))  # loads modules, which only the first run of a process does
    took = time.perf_counter() - began
    idle, longest = [], []
    for _ in range(runs):
        nothing = partial(asyncio.sleep, took)
        idle.append(_show("idle", asyncio.run(_watched(nothing)), took))
        began = time.perf_counter()
        ticker = asyncio.run(_watched(run))
        longest.append(_show("downloading", ticker, time.perf_counter() - began))
    more = statistics.median(longest) - statistics.median(idle)
    print(
        f"{what}: the longest block is {statistics.median(longest) * 1000:.1f} ms,"
        f" {max(0.0, more) * 1000:.1f} ms more than on an idle loop (medians of {runs} runs)",
        flush=True,
    )
    return more


def _show(what: str, ticker: Ticker, took: float) -> float:
    print(
        f"    {what:12} longest {ticker.longest * 1000:7.1f} ms, over {LIMIT * 1000:.0f} ms:"
        f" {len(ticker.too_long):4} blocks, {sum(ticker.too_long):6.2f} of {took:6.2f} s",
        flush=True,
    )
    return ticker.longest


async def _watched(run: Callable[[], Coroutine[Any, Any, object]]) -> Ticker:
    return await watch(run())


# The server: bytes as they are, so that nothing is measured but the client.


async def serve(stems: int, size: int) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, OSError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                method, path, _ = head.split(" ", 2)
                length = next(
                    (line[15:] for line in head.lower().split("\r\n") if line.startswith("content-length:")), 0
                )
                await reader.readexactly(int(length))
                body = stem if path.startswith("/cdn/") else json.dumps(reply(method, path)).encode()
                kind = "audio/mpeg" if path.startswith("/cdn/") else "application/json"
                writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode())
                writer.write(body)
                await writer.drain()
        writer.close()

    created = [0]

    def reply(method: str, path: str) -> dict[str, object]:
        data: dict[str, object] = {"createdAt": "2026-05-04T10:00:00Z", "creditsUsed": 1, "status": "queued"}
        if method == "POST":
            created[0] += 1
            return {"success": True, "data": data | {"id": f"split_{created[0]}"}}
        split = path.rpartition("/")[2]
        urls = {f"stem{number}": f"{base}/cdn/{split}/{number}.mp3" for number in range(stems)}
        further = {"id": split, "status": "succeeded", "stems": urls, "updatedAt": data["createdAt"], "error": None}
        return {
            "success": True,
            "data": data | further | {"stemModel": "4s", "filename": "x.mp3", "durationSeconds": 1},
        }

    stem = (_STEM * (size // len(_STEM) + 1))[:size]
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    print(base, flush=True)
    await asyncio.Event().wait()


def with_server(stems: int, size: int, use: Callable[[str], float]) -> float:
    command = [sys.executable, __file__, "--serve", str(stems), str(size)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            return use(server.stdout.readline().strip())
        finally:
            server.kill()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tracks", type=int, default=8, help="at a time; 0 to leave this out")
    parser.add_argument("--mib", type=float, default=4.0, help="of each stem")
    parser.add_argument("--sync-ms", type=float, default=300.0, help="that each os.fsync takes")
    parser.add_argument("--stems", type=int, default=4000, help="of one split; 0 to leave this out")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--serve", type=int, nargs=2, metavar=("STEMS", "BYTES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(*options.serve))
    found = []
    if options.stems:
        what = f"{options.stems} stems of one split"
        found.append(
            with_server(options.stems, 1500, lambda base: measure(what, options.runs, lambda: download(base, 1)))
        )
    if options.tracks:
        sync_slowly(options.sync_ms / 1000)
        what = f"{options.tracks} tracks, each sync {options.sync_ms:g} ms"
        size = int(options.mib * MIB)
        found.append(
            with_server(4, size, lambda base: measure(what, options.runs, lambda: download(base, options.tracks)))
        )
    return int(max(found, default=0.0) > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
