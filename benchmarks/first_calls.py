"""Measures how long each public call blocks the event loop, the first of its process and a second one.

    python benchmarks/first_calls.py [--runs 3] [CALL ...]
    python benchmarks/first_calls.py --audit

Each call runs in a process of its own, against a server in another one. What is measured is the processor time of the
loop's thread in one callback: other processes cannot disturb that. Besides, a ticker on the loop shows how late it was
woken, less the time its thread waited for a processor; that has in it what a thread does that keeps the interpreter to
itself. Python's garbage collector is off: what it takes grows with the program. The median of the processor time must
be below 20 ms for each call, or the exit code is 1.

With `--audit`, all calls run in one process, and nothing is timed: what the loop's thread imported, opened or asked
the file system is printed as JSON; it should be nothing. The first of them are calls of clients that were not entered,
one alone and others whose gate is shared. The log goes to stderr, all of it.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # of this checkout, whatever is installed

from aistemsplitter_async import APIConnectionError, AsyncAIStemSplitter
from benchmarks.blocking.calls import CALLS, KEY, Place, fill, run_call
from benchmarks.blocking.server import served
from benchmarks.blocking.watch import Watch
from benchmarks.loop_lag import LIMIT, Ticker, watch

SHARED = ("redis://127.0.0.1:1", "postgresql://127.0.0.1:1/db")  # stores whose drivers load, and that do not answer


def child(name: str, base: str) -> None:
    """Print how long the loop was blocked, as JSON: processor time, and how late it was."""
    watched = Watch()
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder), large=True)
        if name == "split_many_again":
            command = [sys.executable, __file__, "--fill", str(place.journal), base]
            subprocess.run(command, check=True)
        gc.disable()
        with watched.on(audit=False):
            ticker = asyncio.run(_watched(name, base, place))
    print(json.dumps({"cpu": max(watched.blocks), "late": ticker.longest}))


async def _watched(name: str, base: str, place: Place) -> Ticker:
    return await watch(run_call(name, base, place))


def audit(base: str) -> None:
    """Print as JSON what the loop's thread did in all calls."""
    watched = Watch()
    os.environ["AISTEMSPLITTER_LOG"] = "debug"

    async def run(place: Place) -> None:
        await asyncio.get_running_loop().run_in_executor(None, int)  # asyncio itself imports its threads here
        for shared in (None, *SHARED, f"sqlite://{place.folder}/gate.db"):
            client = AsyncAIStemSplitter(KEY, base_url=f"{base}/v1", shared=shared)
            with suppress(APIConnectionError):  # nobody is there
                await client.get_credits(timeout=1.0 if shared in SHARED else None)
            await client.aclose()
        for name in CALLS:
            await run_call(name, base, place, times=1)

    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder), large=False)
        with watched.on(audit=True):
            asyncio.run(run(place))
    print(json.dumps(sorted(set(watched.seen))))


def measure(name: str, base: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", name, base]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("calls", nargs="*", metavar="CALL", help=f"of {', '.join(CALLS)}; all if none is given")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--audit", action="store_true")
    parser.add_argument("--fill", nargs=2, metavar=("JOURNAL", "URL"), help=argparse.SUPPRESS)
    parser.add_argument("--child", nargs=2, metavar=("CALL", "URL"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fill:
        fill(Path(options.fill[0]), options.fill[1])
        return 0
    if options.child:
        child(*options.child)
        return 0
    with served() as base:
        if options.audit:
            audit(base)
            return 0
        print(f"{'longest block, ms':28} {'processor':>9} {'late':>6}   (medians of {options.runs} processes)")
        worst = 0.0
        for name in options.calls or CALLS:
            found = [measure(name, base) for _ in range(options.runs)]
            cpu, late = (statistics.median(one[what] for one in found) for what in ("cpu", "late"))
            worst = max(worst, cpu)
            print(f"{name:28} {cpu * 1000:9.1f} {late * 1000:6.1f}", flush=True)
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
