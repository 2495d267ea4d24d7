"""One trial: a judge, some workers that begin at once, what is done to them meanwhile, and what came of it."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs

from benchmarks.scaling.judge import most_in_any
from benchmarks.scaling.servers import Place
from benchmarks.scaling.worker import Work

ROOT = Path(__file__).parents[2]
GRACE = 30.0  # s for processes to end
MODES = ("one", "divided", "private", "host", "valkey", "postgres")

Action = Callable[["Trial"], Awaitable[object]]


@attrs.frozen
class Setting:
    """What a trial is like, however the workers share the key.

    Attributes:
        workers: processes.
        limit: of the judge, in any `per` seconds.
        told: whether the workers know it.
        windows: how long they work; 0 until the songs are done.
        songs: of all together; 0 without end.
        at_once: songs of all together at a time.
        latency: seconds of the judge's answers.
        says: whether a 429 has a `Retry-After`.
        interactive: seconds between two interactive songs of all together, on average; 0 for none.
        ahead: seconds by which the clocks of every second worker are ahead.
        lease: seconds.
        actions: what is done, and how many windows after the beginning.
    """

    workers: int = 4
    limit: int = 60
    per: float = 3.0
    told: bool = True
    windows: float = 4.0
    songs: int = 0
    at_once: int = 120
    processing: float = 1.0
    latency: float = 0.0
    says: bool = False
    interactive: float = 0.0
    ahead: float = 0.0
    lease: float = 1.5
    seed: int = 1
    actions: tuple[tuple[float, str, Action], ...] = ()


@attrs.define
class Result:
    """What came of a trial. Times are seconds after the first request."""

    setting: Setting
    times: list[float]
    refused: list[float]
    lanes: Counter[str]
    shares: dict[str, int]
    polls: int
    done: int
    last: float
    workers: list[dict[str, Any]]
    failures: list[str]

    @property
    def windows(self) -> list[int]:
        """How many requests were let in in each whole window, of those that begin with the first request."""
        per = self.setting.per
        whole = int((self.times[-1] if self.setting.songs else self.setting.windows * per) / per)
        found = Counter(int(at / per) for at in self.times)
        return [found[index] for index in range(whole)]

    @property
    def most(self) -> int:
        return most_in_any(self.times, self.setting.per)

    @property
    def silence(self) -> float:
        """The longest time without a request."""
        every = sorted(self.times + self.refused)
        return max((later - sooner for sooner, later in itertools.pairwise(every)), default=0.0)

    @property
    def bursts(self) -> list[int]:
        """How many 429s there were at each moment, of a second if a window is a minute: a probe comes 1.5 s later."""
        sizes, last = list[int](), -math.inf
        for at in self.refused:
            if at - last > self.setting.per / 60:
                sizes.append(0)
            sizes[-1] += 1
            last = at
        return sizes

    def total(self, name: str) -> float:
        return float(sum(worker[name] for worker in self.workers))

    def first(self) -> list[float]:
        """How long the first interactive song of each worker waited for a slot."""
        return [worker["admitted"][0][1] for worker in self.workers if worker["admitted"]]

    def later(self, name: str) -> list[float]:
        """How long interactive songs waited that came after the second window."""
        return [wait for worker in self.workers for at, wait in worker[name] if at >= 2 * self.setting.per]


class Trial:
    """Runs a setting in one mode."""

    def __init__(self, setting: Setting, mode: str, place: Place) -> None:
        self.setting, self.mode, self.place = setting, mode, place
        self.processes: dict[str, asyncio.subprocess.Process] = {}
        self.judge: asyncio.subprocess.Process | None = None
        self.base_url = ""

    async def run(self) -> Result:
        try:
            return await self._run()
        finally:
            for process in (*self.processes.values(), *([self.judge] if self.judge else [])):
                if process.returncode is None:
                    process.kill()
                    await process.wait()

    async def _run(self) -> Result:
        setting = self.setting
        options = [("limit", setting.limit), ("per", setting.per), ("latency", setting.latency)]
        judged = [f"--{name}={value}" for name, value in [*options, ("processing", setting.processing)]]
        self.judge = await self._start("judge", *judged, *(["--says"] if setting.says else []))
        self.base_url = f"http://127.0.0.1:{int(await read_line(self.judge))}/v1"
        count = 1 if self.mode == "one" else setting.workers
        await asyncio.gather(*(self.start_worker(index, count) for index in range(count)))
        for process in self.processes.values():
            tell(process, b"go\n")
        begun = time.monotonic()
        acting = [asyncio.create_task(self._act(begun + at * setting.per, act)) for at, _, act in setting.actions]
        if setting.songs:
            await asyncio.gather(*(read_line(process) for process in self.processes.values()))
        else:
            await asyncio.sleep(begun + setting.windows * setting.per + 0.05 - time.monotonic())
        await asyncio.gather(*acting)
        for process in self.processes.values():
            close_input(process)
        measured = [await self._end(process) for process in self.processes.values()]
        close_input(self.judge)
        books = json.loads(await read_line(self.judge))
        await self.judge.wait()
        return self._judge(books, [one for one in measured if one])

    async def start_worker(self, index: int, count: int, *, go: bool = False) -> None:
        """Start a worker, one of `count`, and wait until it is ready to begin."""
        setting = self.setting
        work = Work(
            name=f"w{index}",
            base_url=self.base_url,
            store=self.place.url,
            declared=(setting.limit // count if self.mode == "divided" else setting.limit) if setting.told else None,
            per=setting.per,
            songs=len(range(index, setting.songs, count)),
            at_once=max(1, setting.at_once // count),
            interactive=setting.interactive * count,
            ahead=setting.ahead if index % 2 else 0.0,
            lease=setting.lease,
            seed=1000 * setting.seed + index,
        )
        process = await self._start("worker", json.dumps(attrs.asdict(work)))
        self.processes[work.name] = process
        line = await read_line(process)
        if line != b"ready\n":
            raise SystemExit(f"a worker did not start: {line!r}")
        if go:
            tell(process, b"go\n")

    async def _start(self, module: str, *arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", f"benchmarks.scaling.{module}", *arguments,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=2**26,
            cwd=ROOT, env=os.environ | self.place.environment,
        )  # fmt: skip

    async def _act(self, at: float, act: Action) -> None:
        await asyncio.sleep(at - time.monotonic())
        await act(self)

    async def _end(self, process: asyncio.subprocess.Process) -> dict[str, Any]:
        """Return what a worker measured, nothing if it was killed."""
        async with asyncio.timeout(GRACE):
            output = await process.stdout.read() if process.stdout else b""
            await process.wait()
        lines = output.splitlines()
        return dict(json.loads(lines[-1])) if lines and lines[-1].startswith(b"{") else {}

    def _judge(self, books: dict[str, Any], measured: list[dict[str, Any]]) -> Result:
        requests = sorted(books["requests"])
        first = requests[0][0]
        until = math.inf if self.setting.songs else self.setting.windows * self.setting.per
        rows = [(at - first, *row) for at, *row in requests if at - first < until]
        let_in = [row for row in rows if row[2] != 429]
        return Result(
            self.setting,
            times=[row[0] for row in let_in],
            refused=[row[0] for row in rows if row[2] == 429],
            lanes=Counter(row[4] for row in let_in),
            shares=dict(sorted(Counter(row[3] for row in let_in).items())),
            polls=sum(row[1] == "poll" for row in let_in),
            done=len(books["done"]),
            last=(books["done"][-1] - first) if books["done"] else math.nan,
            workers=measured,
            failures=[failure for worker in measured for failure in worker["failures"]],
        )


def kill(*names: str) -> Action:
    """Kill workers at once."""

    async def act(trial: Trial) -> None:
        for name in names:
            if name in trial.processes:
                trial.processes[name].kill()

    return act


def pause(name: str, windows: float) -> Action:
    """Stop a worker for a while."""

    async def act(trial: Trial) -> None:
        if name in trial.processes:
            trial.processes[name].send_signal(signal.SIGSTOP)
            await asyncio.sleep(windows * trial.setting.per)
            trial.processes[name].send_signal(signal.SIGCONT)

    return act


def stop_store(seconds: float) -> Action:
    """Let the store answer nothing for a while."""

    async def act(trial: Trial) -> None:
        await trial.place.stop(seconds)

    return act


def empty_store(*, comes: int | None = None) -> Action:
    """Let the store forget all; a fresh worker comes at the same time."""

    async def act(trial: Trial) -> None:
        if comes is not None:
            await trial.start_worker(comes, trial.setting.workers)
        trial.place.empty()
        if comes is not None:
            tell(trial.processes[f"w{comes}"], b"go\n")

    return act


async def read_line(process: asyncio.subprocess.Process) -> bytes:
    assert process.stdout is not None
    return await process.stdout.readline()


def tell(process: asyncio.subprocess.Process, text: bytes) -> None:
    assert process.stdin is not None
    with suppress(ConnectionError):
        process.stdin.write(text)


def close_input(process: asyncio.subprocess.Process) -> None:
    if process.stdin is not None:
        process.stdin.close()
