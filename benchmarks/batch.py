"""Measures how fast a batch is for its key, and how much memory a long one takes.

    python benchmarks/batch.py uploads [--tracks 90] [--window sliding|fixed] [--minute 6]
    python benchmarks/batch.py urls [--tracks 100000] [--profile]

`uploads`: the makespan of a batch of uploads at 60 requests a minute over the in-order bound (see `simulate.py`). The
minute is shrunk to `--minute` seconds, and with it everything that is counted in time: the server's window, its
processing (60 s of a whole minute, lognormal with sigma 0.25), and the client's policies. Loopback and processor time
are not, so a shorter minute does not flatter the result.

`urls`: URL tracks that are not downloaded, with a journal: tracks a second, and how much the client's memory (PSS)
grows from the 1,000th track to the last. The sandbox has a process of its own in both.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import os
import pstats
import shutil
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import simulate  # type: ignore[import-not-found]  # a script beside this one

from aistemsplitter_async import AsyncAIStemSplitter, PollPolicy, RateLimit, RetryPolicy
from aistemsplitter_async.sandbox import Limits, Sandbox, Timed
from aistemsplitter_async.sandbox.http.decode import parse_json

API_KEY = "ast_sandbox_batch"
LIMIT = 60
SILENT: dict[str, Any] = {"api_key": API_KEY, "separation": "silent", "credits": 10**9}


@contextmanager
def sandbox_process(**options: Any) -> Iterator[str]:
    """Run a sandbox in a process of its own; yield its base URL."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:

        async def serve() -> None:
            async with Sandbox(**(SILENT | options)) as sandbox:
                os.write(writing, sandbox.base_url.encode())
                await asyncio.Event().wait()

        asyncio.run(serve())
    try:
        yield os.read(reading, 1000).decode()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def read_ledger(base_url: str, newest: int) -> Any:
    url = f"{base_url.removesuffix('v1')}control/ledger?newest={newest}"
    with urlopen(url) as reply:  # noqa: S310  # on this machine
        return parse_json(reply.read())


def processing_times(base_url: str) -> list[float]:
    """Return how long the sandbox worked on each split, in the order of their creation."""
    ledger = read_ledger(base_url, newest=100_000)
    created = {charge["split_id"]: _seconds(charge["at"]) for charge in ledger["charges"]}
    return [_seconds(split["finished_at"]) - created[split["split_id"]] for split in ledger["splits"]]


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


async def measure_uploads(base_url: str, folder: Path, options: argparse.Namespace) -> None:
    factor = options.minute / simulate.WINDOW
    sources = []
    for number in range(options.tracks):
        sources.append(folder / f"{number}.wav")
        sources[-1].write_bytes(number.to_bytes(4, "big") * 250_000)
    client = AsyncAIStemSplitter(
        API_KEY,
        base_url=base_url,
        rate_limit=RateLimit(LIMIT).scaled(factor),
        poll=PollPolicy().scaled(factor),
        retry=RetryPolicy().scaled(factor),
    )
    async with client, client.split_many(sources, journal=folder / "journal") as outcomes:
        report = await outcomes.report()
    assert report.done == options.tracks, report
    times = [seconds / factor for seconds in processing_times(base_url)]
    bound = simulate.Case(name="", splits=options.tracks, kind=options.window, requests=3).bound(times)
    took = report.seconds / factor
    ledger = read_ledger(base_url, newest=1)
    requests = sum(sum(ledger["counts"][name].values()) for name in ("reserve", "create", "get"))
    print(
        f"{options.tracks} uploads, {options.window} window, a minute in {options.minute:g} s: "
        f"{took:.0f} s of the bound's {bound:.0f} s, {took / bound:.3f}; {requests / options.tracks:.2f} requests a "
        f"track, {ledger['throttled']} times 429"
    )


def memory() -> float:
    """Return this process's own share of memory in MiB."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


async def measure_urls(base_url: str, folder: Path, options: argparse.Namespace) -> None:
    urls = (f"https://music.example/{number}.mp3" for number in range(options.tracks))
    client = AsyncAIStemSplitter(API_KEY, base_url=base_url, rate_limit=RateLimit(1_000_000))
    done, first, began, then = 0, 0.0, time.perf_counter(), 0.0
    rates: list[float] = []
    async with client, client.split_many(urls, journal=folder / "journal") as outcomes:
        async for _ in outcomes:
            done += 1
            if done == 1000:
                first, then = memory(), time.perf_counter()
            if done > 1000 and done % 1000 == 0:
                now = time.perf_counter()
                rates.append(1000 / (now - then))
                print(f"  {done:7,} tracks  {rates[-1]:5.0f}/s  {memory():6.1f} MiB", flush=True)
                then = now
        report = await outcomes.report()
    assert report.done == options.tracks, report
    took = time.perf_counter() - began
    print(
        f"{options.tracks:,} URL tracks: {options.tracks / took:.0f} a second (median {statistics.median(rates):.0f}, "
        f"slowest 1,000 {min(rates):.0f}), {memory() - first:.1f} MiB more than at the 1,000th ({first:.1f} MiB), "
        f"{time.process_time() / options.tracks * 1000:.2f} ms of processor time a track"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["uploads", "urls"])
    parser.add_argument("--tracks", type=int)
    parser.add_argument("--window", choices=["sliding", "fixed"], default="sliding")
    parser.add_argument("--minute", type=float, default=6.0)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    uploads = options.what == "uploads"
    options.tracks = options.tracks or (90 if uploads else 100_000)
    folder = Path(tempfile.mkdtemp(prefix="batch-"))
    profile = cProfile.Profile() if options.profile else None
    if uploads:
        progression = Timed(base=options.minute, per_second=0.0, jitter=0.25, workers=10_000)
        server: dict[str, Any] = {"requests_per_minute": LIMIT, "minute": options.minute, "window": options.window}
        server["progression"] = progression
    else:
        server = {"requests_per_minute": None, "limits": Limits(max_splits=10_000, ledger_requests=1000)}
    try:
        with sandbox_process(**server) as base_url:
            if profile:
                profile.enable()
            asyncio.run((measure_uploads if uploads else measure_urls)(base_url, folder, options))
            if profile:
                profile.disable()
                pstats.Stats(profile).sort_stats("tottime").print_stats(45)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
