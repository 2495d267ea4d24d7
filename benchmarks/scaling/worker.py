"""One process that uses the real client on one key, as `scale.py` tells it to.

Its first argument is a `Work` in JSON. It prints "ready" once it has loaded everything, begins at the first line of its
standard input, goes on until its songs are done or its standard input ends, and prints what it measured.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import sys
import time
from contextlib import AsyncExitStack, suppress
from typing import Any

import attrs

from aistemsplitter_async import AsyncAIStemSplitter, PollPolicy, Priority, RateLimit, RetryPolicy
from aistemsplitter_async.clock import Clock, SystemClock

KEY = "ast_benchmark"
PATIENCE = 3600.0  # s; nothing here ends by running out of time


@attrs.frozen
class Work:
    """What a worker does.

    Attributes:
        name: in the URLs of its songs.
        base_url: of the judge.
        store: the URL of what the workers share; empty for a gate of its own.
        declared: requests in a window, as the worker is told; `None` for unknown.
        per: seconds of a window. All policies of the client are shrunk like the minute.
        songs: how many; 0 goes on until it is stopped.
        at_once: how many songs of those at a time.
        interactive: seconds between two interactive songs, on average; 0 for none.
        ahead: seconds by which its clocks are ahead of the others'.
        lease: seconds of a shared gate's lease.
        seed: of the times of interactive songs.
    """

    name: str
    base_url: str
    store: str
    declared: int | None
    per: float
    songs: int
    at_once: int
    interactive: float
    ahead: float
    lease: float
    seed: int


class ShiftedClock:
    """Clocks that are ahead by some seconds."""

    def __init__(self, ahead: float) -> None:
        self._ahead, self._real = ahead, SystemClock()

    def monotonic(self) -> float:
        return self._real.monotonic() + self._ahead

    def now(self) -> float:
        return self._real.now() + self._ahead

    async def sleep(self, seconds: float) -> None:
        await self._real.sleep(seconds)

    def timeout_at(self, deadline: float | None) -> asyncio.Timeout:
        return self._real.timeout_at(None if deadline is None else deadline - self._ahead)


@attrs.define
class Measured:
    """What a worker measured, in seconds of this process.

    Attributes:
        admitted: when an interactive song was submitted, after the beginning, and how long it waited for its slot.
        answered: the same until it had an id.
    """

    songs: int = 0
    admitted: list[tuple[float, float]] = attrs.field(factory=list[tuple[float, float]])
    answered: list[tuple[float, float]] = attrs.field(factory=list[tuple[float, float]])
    failures: list[str] = attrs.field(factory=list[str])
    conversations: int = 0
    swaps: int = 0
    lost: int = 0
    cpu: float = 0.0
    rss: int = 0


class Counting:
    """A store that counts what is asked of another one."""

    def __init__(self, store: Any, measured: Measured) -> None:
        self._store, self._measured = store, measured

    async def load(self, key: str) -> Any:
        self._measured.conversations += 1
        return await self._store.load(key)

    async def swap(self, key: str, version: int, text: str, keep: float) -> bool:
        self._measured.swaps += 1
        kept: bool = await self._store.swap(key, version, text, keep)
        self._measured.lost += not kept
        return kept

    async def aclose(self) -> None:
        await self._store.aclose()


class Worker:
    def __init__(self, work: Work, client: AsyncAIStemSplitter, measured: Measured) -> None:
        self.work, self.client, self.measured = work, client, measured
        self.number = 0
        self.begun = time.monotonic()

    async def run(self) -> None:
        """Do the songs, and interactive ones beside them."""
        others = asyncio.create_task(self.interrupt())
        try:
            await asyncio.gather(*(self.work_off() for _ in range(self.work.at_once)))
        finally:
            others.cancel()
            await asyncio.gather(others, return_exceptions=True)

    async def work_off(self) -> None:
        while not self.work.songs or self.number < self.work.songs:
            self.number += 1
            try:
                await self.song("bulk")
            except Exception as error:  # noqa: BLE001  # it is told
                self.measured.failures.append(f"{type(error).__name__}: {error}")
                await asyncio.sleep(0.1)

    async def song(self, lane: Priority) -> None:
        asked = time.monotonic()
        admitted = list[float]()

        async def note(*_: object) -> None:
            admitted.append(time.monotonic() - asked)

        url = f"https://songs.example.com/{self.work.name}/{lane}/{self.number}.mp3"
        job = await self.client.submit(url, priority=lane, before_send=note)
        if lane == "interactive":
            self.measured.admitted.append((asked - self.begun, admitted[0]))
            self.measured.answered.append((asked - self.begun, time.monotonic() - asked))
        await job.wait(timeout=PATIENCE)
        self.measured.songs += 1

    async def interrupt(self) -> None:
        rng = random.Random(self.work.seed)
        async with asyncio.TaskGroup() as group:
            while self.work.interactive:
                await asyncio.sleep(rng.expovariate(1 / self.work.interactive))
                group.create_task(self.song("interactive"))
            await asyncio.Event().wait()


async def main() -> None:
    work, measured = Work(**json.loads(sys.argv[1])), Measured()
    loop, scale = asyncio.get_running_loop(), work.per / 60.0
    limit, retry = RateLimit(work.declared, per=work.per), RetryPolicy().scaled(scale)
    clock: Clock = ShiftedClock(work.ahead) if work.ahead else SystemClock()
    options: dict[str, Any] = {"rate_limit": limit}
    async with AsyncExitStack() as stack:
        if work.store:
            from aistemsplitter_async.shared import SharedGate
            from aistemsplitter_async.shared.urls import open_gate_store

            store = open_gate_store(work.store, os.environ)
            await store.load("warm-up")  # what it needs is loaded, and it is connected, before time is measured
            gate = SharedGate(Counting(store, measured), limit, lease=work.lease, clock=clock, retry=retry)
            options = {"gate": await stack.enter_async_context(gate)}
        client = await stack.enter_async_context(
            AsyncAIStemSplitter(
                KEY, base_url=work.base_url, retry=retry, poll=PollPolicy().scaled(scale), clock=clock, **options
            )
        )
        import aistemsplitter_async._engine  # noqa: F401  # so that it is not loaded while time is measured

        print("ready", flush=True)
        await loop.run_in_executor(None, sys.stdin.readline)
        before = time.process_time()
        working = asyncio.create_task(Worker(work, client, measured).run())
        stopping = loop.run_in_executor(None, sys.stdin.read)
        await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
        measured.cpu = time.process_time() - before
        if working.done():
            working.result()
            print("done", flush=True)
        else:
            working.cancel()
            with suppress(asyncio.CancelledError):
                await working
            print("stopped", flush=True)
        await stopping
    measured.rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps(attrs.asdict(measured)), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
