"""Measures a library on a cluster of Dask whose workers are killed: real processes and PostgreSQL, the sandbox as API.

    python benchmarks/scale_dask.py [--tracks 600] [--workers 3] [--kills 10] [--scheduler-kills 1] [--timeline]
                                    [--limit 300] [--minute 60]
    python benchmarks/scale_dask.py --memory 100000 [--workers 2]

The makespan, from the first request on, is compared with the least that the limit allows: two requests for each URL
track. A killed worker's songs and slots are the others' after 15 s, whatever a minute is shrunk to, and its next life
begins after a second or two. What is charged twice, a song without an outcome and a 429 are failures. The library is
run again at the end, which must cost no create.

`--memory`: so many sources go through driver and scheduler to workers that answer at once (`dask_answers.py`). What the
memory (PSS) of the driver grows by from the tenth of them to the last is a failure above 10 %; the others are told.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Self

sys.path.insert(0, str(Path(__file__).parents[1]))
from aistemsplitter_async import PollPolicy, RateLimit
from aistemsplitter_async.distributed import DaskLibrary
from benchmarks.batch import API_KEY, _seconds, read_ledger, sandbox_process
from tests.e2e.stores.servers import Servers


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Processes:
    """A scheduler and its workers, started again when they are killed, as a supervisor does."""

    def __init__(self, workers: int, environment: dict[str, str], folder: Path, preload: str | None = None) -> None:
        self.port = free_port()
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.kills = Counter[str]()
        self._environment = environment
        self._folder = folder
        self._workers = workers
        self._preload = ["--preload", preload] if preload else []
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self._watching: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        names = ["scheduler", *(f"worker {number}" for number in range(self._workers))]
        self._watching = [asyncio.create_task(self._keep(name)) for name in names]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._watching:
            task.cancel()
        await asyncio.wait(self._watching)

    @property
    def pids(self) -> dict[str, int]:
        return {name: process.pid for name, process in sorted(self._running.items())}

    def kill(self, kind: str) -> None:
        names = [name for name in self._running if name.startswith(kind)]
        if names:
            with suppress(ProcessLookupError):
                self._running[random.choice(names)].kill()
            self.kills[kind] += 1

    async def _keep(self, name: str) -> None:
        tool = [
            "-m",
            "distributed.cli.dask_scheduler",
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--no-dashboard",
        ]
        if name != "scheduler":
            tool = [
                "-m",
                "distributed.cli.dask_worker",
                self.address,
                "--no-nanny",
                "--nthreads",
                "1",
                "--no-dashboard",
            ]
            tool += ["--local-directory", str(self._folder), "--death-timeout", "60", *self._preload]
        while True:
            with (self._folder / f"{name}.log").open("ab") as log:
                process = await asyncio.create_subprocess_exec(
                    sys.executable, *tool, env=self._environment, stdout=log, stderr=log
                )
            self._running[name] = process
            try:
                await process.wait()
            except asyncio.CancelledError:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
                raise
            self._running.pop(name, None)
            await asyncio.sleep(0.2)


async def chaos(processes: Processes, kills: int, scheduler_kills: int, seconds: float) -> None:
    """Kill workers and schedulers at random moments of the first `seconds`."""
    kinds = ["worker"] * kills + ["scheduler"] * scheduler_kills
    moments = sorted((random.uniform(0.1, 1.0) * seconds, kind) for kind in kinds)
    began = time.monotonic()
    for at, kind in moments:
        await asyncio.sleep(max(0.0, at - (time.monotonic() - began)))
        processes.kill(kind)


async def measure(options: argparse.Namespace, folder: Path) -> bool:
    servers = Servers(folder)
    server = servers.start("postgres")
    if "missing" in server:
        raise SystemExit(server["missing"])
    songs = [f"https://example.com/{number}.mp3" for number in range(options.tracks)]
    limit, minute = options.limit, options.minute
    bound = (2 * options.tracks / limit - 1) * minute
    with sandbox_process(requests_per_minute=limit, minute=minute) as base_url:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AISTEMSPLITTER_")},
            "AISTEMSPLITTER_API_KEY": API_KEY,
            "AISTEMSPLITTER_BASE_URL": base_url,
            "AISTEMSPLITTER_SHARED": options.gate,
            "AISTEMSPLITTER_SHARED_DIR": str(folder),
            "AISTEMSPLITTER_LOG": os.environ.get("AISTEMSPLITTER_LOG", "error"),
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }
        library: dict[str, Any] = {
            "journal": f"{server['url']}&schema=dask",
            "api_key": API_KEY,
            "base_url": base_url,
            "rate_limit": RateLimit(limit).scaled(minute / 60),
            "poll": PollPolicy().scaled(minute / 60),
        }
        async with AsyncExitStack() as stack:
            processes = await stack.enter_async_context(Processes(options.workers, environment, folder))
            kinds = Counter[str]()
            async with DaskLibrary(processes.address, **library).run(songs) as outcomes:
                while not await outcomes._driver._link.count_workers():  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                asked = time.time()
                killing = asyncio.create_task(chaos(processes, options.kills, options.scheduler_kills, bound))
                async for outcome in outcomes:
                    kinds[getattr(outcome, "reason", type(outcome).__name__)] += 1
                    if hasattr(outcome, "error"):
                        print(outcome.source, repr(outcome.error))
                ended = time.time()
                killing.cancel()
            ledger = read_ledger(base_url, newest=100_000)
            async with DaskLibrary(processes.address, **library).run(songs) as outcomes:
                again = Counter([getattr(outcome, "reason", type(outcome).__name__) async for outcome in outcomes])
        began = min(_seconds(record["at"]) for record in ledger["requests"])
        took = ended - began
        charges = len(ledger["charges"])
        requests = Counter((record["operation"], record["status"]) for record in ledger["requests"])
        refused = sum(count for (_, status), count in requests.items() if status == 429)
        after = len(read_ledger(base_url, newest=100_000)["charges"])
    servers.close()
    print(
        f"{options.tracks} tracks, {options.workers} workers, {dict(processes.kills)} killed: {took:.1f} s, "
        f"{took / bound:.2f} of the bound of {bound:.1f} s; {charges} charged, {charges - options.tracks} twice, "
        f"{refused} x 429; outcomes {dict(kinds)}; run again: {dict(again)}, {after - charges} charged; "
        f"{began - asked:.1f} s until the first request"
    )
    if options.timeline:
        at = Counter(int((_seconds(record["at"]) - began) // minute) for record in ledger["requests"])
        print("requests in each window:", [at[number] for number in range(max(at) + 1)])
    print({f"{operation} {status}": count for (operation, status), count in requests.items()})
    return kinds.total() == options.tracks and not kinds["Failed"] and charges == after == options.tracks


def memory_of(pid: int) -> float:
    """Return the MB of a process, of what it shares its part."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) / 1024


async def measure_memory(options: argparse.Namespace, folder: Path) -> bool:
    """Send sources through to workers that answer at once."""
    servers = Servers(folder)
    server = servers.start("postgres")
    if "missing" in server:
        raise SystemExit(server["missing"])
    environment = {**os.environ, "AISTEMSPLITTER_API_KEY": API_KEY, "PYTHONPATH": str(Path(__file__).parents[1])}
    answers = str(Path(__file__).with_name("dask_answers.py"))
    library: dict[str, Any] = {"journal": f"{server['url']}&schema=dask", "api_key": API_KEY}
    library["base_url"] = environment["AISTEMSPLITTER_BASE_URL"] = "http://127.0.0.1:1"
    songs = (f"https://example.com/{number}.mp3" for number in range(options.memory))
    taken: list[dict[str, float]] = []
    kinds, positions = Counter[str](), 0
    async with AsyncExitStack() as stack:
        processes = await stack.enter_async_context(Processes(options.workers, environment, folder, answers))
        began = time.monotonic()
        async with DaskLibrary(processes.address, **library).run(songs, max_credits=1000.0) as outcomes:
            async for outcome in outcomes:
                kinds[getattr(outcome, "reason", type(outcome).__name__)] += 1
                positions += outcome.position
                if kinds.total() % (options.memory // 10) == 0:
                    gc.collect()
                    pids = {"driver": os.getpid(), **processes.pids}
                    taken.append({name: memory_of(pid) for name, pid in pids.items()})
                    shown = ", ".join(f"{name} {size:.1f}" for name, size in taken[-1].items())
                    print(f"{kinds.total():,} after {time.monotonic() - began:.0f} s: {shown} MB", flush=True)
    servers.close()
    growth = {name: round(taken[-1][name] / size - 1, 3) for name, size in taken[0].items()}
    print(f"outcomes {dict(kinds)}; grown by {growth}")
    is_complete = kinds.total() == options.memory and positions == options.memory * (options.memory - 1) // 2
    return is_complete and growth["driver"] <= 0.1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracks", type=int, default=600)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--scheduler-kills", type=int, default=0)
    parser.add_argument("--limit", type=int, default=300, help="requests in a minute")
    parser.add_argument("--minute", type=float, default=60.0, help="seconds of it")
    parser.add_argument("--gate", default="host")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--timeline", action="store_true", help="print how full each window was")
    parser.add_argument("--memory", type=int, metavar="SOURCES", help="measure memory instead, with so many sources")
    parser.add_argument("--keep", action="store_true", help="keep the logs of the processes")
    options = parser.parse_args()
    random.seed(options.seed)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = Path(tempfile.mkdtemp(prefix="scale-dask-"))
    try:
        return 0 if asyncio.run((measure_memory if options.memory else measure)(options, folder)) else 1
    finally:
        if options.keep:
            print(folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
