"""The cases of `simulate.py` with the whole product over real sockets, against the sandbox with a shrunk minute.

The sandbox runs in a process of its own. All durations are divided by `--shrink`: the window, the processing times, the
policies of the client. What cannot be divided is the machine: a request here takes 2 to 5 ms from the gate to the
reply, which at the default of 20 weighs like 40 to 100 ms in a real minute, a usual round trip. Far beyond that the
figures are the machine's (at 100, a request would weigh like half a second). What is printed is multiplied back: times
are those of an unshrunk minute. Everything is read from the sandbox's ledger, so all clients are measured alike: when
a request came, when a split was finished, when a poll first saw that.

    python -m benchmarks.real [--shrink 20] [--runs 1] [--case NAME] [--usual] [--plot out.svg]

With --usual the same work is done with plain aiohttp: a poll every 5 s, and refused requests retried with full jitter.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import aiohttp
import attrs

from aistemsplitter_async import AsyncAIStemSplitter, PollPolicy, RateLimit, RetryPolicy
from aistemsplitter_async.sandbox import Sandbox, Timed, faults
from benchmarks.simulate import CASES, WINDOW, Case, Outcome, plot, show

KEY = "ast_benchmark"
PATIENCE = 3600.0  # s; nothing here ends by running out of time
LEFT_OUT = ("slow server", "quick server", "unknown, 1200")  # another server, or more than one machine answers

Client = Callable[["Run"], Awaitable[None]]


@attrs.define
class Run:
    """One case at one shrinkage; `waits` are seconds of this process for the first slots of interactive splits."""

    case: Case
    shrink: float
    seed: int
    base_url: str = ""
    begun: float = 0.0  # POSIX seconds
    waits: list[float] = attrs.field(factory=list[float])

    def url(self, number: int) -> str:
        return f"https://example.com/{number}.mp3?seconds=180"


# --- the server's process


def serve(run: Run, line: Connection) -> None:
    asyncio.run(_serve(run, line))


async def _serve(run: Run, line: Connection) -> None:
    case = run.case
    async with Sandbox(
        api_key=KEY,
        credits=10**9,
        requests_per_minute=case.limit,
        minute=WINDOW / run.shrink,
        window=case.kind,
        burst=case.burst,
        rate_headers="ratelimit" if case.headers else "none",
        separation="silent",
        progression=Timed(base=case.median / run.shrink, per_second=0.0, jitter=case.sigma, workers=10**5),
        seed=run.seed,
    ) as sandbox:
        if case.failing:
            sandbox.faults.add("any", faults.Status(500), probability=case.failing)
            sandbox.faults.add("any", faults.Reset(effect=True), probability=0.6 * case.failing)
        line.send(sandbox.base_url)
        changes = asyncio.create_task(_change(sandbox, run))
        await asyncio.get_running_loop().run_in_executor(None, line.recv)
        changes.cancel()
        finished = {view.split_id: (view.finished_at, view.first_seen_at) for view in sandbox.ledger.splits}
        line.send(
            {
                "requests": [(record.at, record.status) for record in sandbox.ledger.requests],
                "splits": [(charge.at, *finished[charge.split_id]) for charge in sandbox.ledger.charges],
            }
        )


async def _change(sandbox: Sandbox, run: Run) -> None:
    """Change the key's limit as the case says, without forgetting what was counted."""
    begun = time.monotonic()
    for at, limit in run.case.changes:
        await asyncio.sleep(begun + at / run.shrink - time.monotonic())
        sandbox._running.service.accesses[KEY].window._limit = limit  # type: ignore[union-attr]


# --- the clients


async def ours(run: Run) -> None:
    case, scale = run.case, 1 / run.shrink
    limit = case.declared or RateLimit()
    async with AsyncAIStemSplitter(
        KEY,
        base_url=run.base_url,
        rate_limit=limit.scaled(scale),
        retry=RetryPolicy().scaled(scale),
        poll=PollPolicy().scaled(scale),
    ) as client:
        await asyncio.gather(*(_split(client, run, -1 - number, interactive=False) for number in range(case.earlier)))
        if case.earlier:
            await asyncio.sleep(1.5 * WINDOW * scale)  # so that their slots are free again
        run.begun = time.time()
        few = case.splits <= 10
        others = asyncio.create_task(_interactive(client, run))
        await asyncio.gather(*(_split(client, run, number, interactive=few) for number in range(case.splits)))
        others.cancel()
        await asyncio.gather(others, return_exceptions=True)


async def _split(client: AsyncAIStemSplitter, run: Run, number: int, *, interactive: bool) -> None:
    job = await client.submit(run.url(number), priority="interactive" if interactive else "bulk")
    await job.wait(timeout=PATIENCE)


async def _interactive(client: AsyncAIStemSplitter, run: Run) -> None:
    """Submit an interactive split at regular intervals."""
    tasks = list[asyncio.Task[None]]()
    try:
        while run.case.interactive:
            await asyncio.sleep(run.case.interactive / run.shrink)
            tasks.append(asyncio.create_task(_wanted(client, run, 10**6 + len(tasks))))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _wanted(client: AsyncAIStemSplitter, run: Run, number: int) -> None:
    asked = time.monotonic()

    async def admitted(*_: object) -> None:
        run.waits.append(time.monotonic() - asked)

    job = await client.submit(run.url(number), before_send=admitted)
    await job.wait(timeout=PATIENCE)


async def usual(run: Run) -> None:
    run.begun = time.time()
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as session:

        async def call(method: str, path: str, body: dict[str, Any] | None = None) -> Any:
            """Send until it works; the usual backoff, 1, 2, 4 .. 60 s with full jitter."""
            tries = 0
            while True:
                try:
                    async with session.request(method, f"{run.base_url}{path}", json=body) as reply:
                        answer = json.loads(await reply.read())
                        if reply.status < 300:
                            return answer["data"]
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(random.uniform(0, min(60.0, 2.0**tries)) / run.shrink)
                tries += 1

        async def split(number: int) -> None:
            source = {"type": "direct_url", "url": run.url(number)}
            created = await call("POST", "/audio/splits", {"input": source})
            while True:
                await asyncio.sleep(5 / run.shrink)
                found = await call("GET", f"/audio/splits/{created['id']}")
                if found["status"] in ("succeeded", "failed"):
                    return

        await asyncio.gather(*(split(number) for number in range(run.case.splits)))


# --- measuring


@asynccontextmanager
async def sandbox_for(run: Run) -> AsyncIterator[Callable[[], Awaitable[dict[str, Any]]]]:
    """Run the sandbox in a process of its own; the function it yields ends it and returns its ledger."""
    context = multiprocessing.get_context("spawn")
    line, other = context.Pipe()
    process = context.Process(target=serve, args=(run, other), daemon=True)
    process.start()

    async def read() -> Any:
        return await asyncio.get_running_loop().run_in_executor(None, line.recv)

    async def end() -> dict[str, Any]:
        line.send("end")
        books: dict[str, Any] = await read()
        return books

    try:
        run.base_url = await read()
        yield end
    finally:
        process.join(10)
        process.terminate()


async def measure_one(case: Case, client: Client, shrink: float, seed: int) -> Outcome:
    run = Run(case, shrink, seed)
    async with sandbox_for(run) as end:
        await client(run)
        books = await end()
    requests = [(at, status) for at, status in books["requests"] if at >= run.begun]
    splits = [split for split in books["splits"] if split[0] >= run.begun]
    first = requests[0][0]
    times = [(finished - created) * shrink for created, finished, _ in splits if finished is not None]
    seen = [(created, finished, seen) for created, finished, seen in splits if seen is not None]
    if not case.interactive and len(splits) != case.splits:
        print(f"{len(splits)} splits were charged, and not {case.splits}")
    return Outcome(
        makespan=max((seen - first) * shrink for _, _, seen in seen),
        bound=case.bound(times[: case.splits]),
        requests=len(requests),
        refused=sum(status == 429 for _, status in requests),
        lags=[(seen - finished) / (finished - created) for created, finished, seen in seen],
        sent=[(at - first) * shrink for at, _ in requests],
        waits=[wait * shrink for wait in run.waits],
    )


def measure(case: Case, client: Client, shrink: float, runs: int) -> list[Outcome]:
    return [asyncio.run(measure_one(case, client, shrink, seed)) for seed in range(runs)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shrink", type=float, default=20.0)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--case", default="")
    parser.add_argument("--usual", action="store_true")
    parser.add_argument("--plot", type=Path, metavar="SVG")
    options = parser.parse_args()
    cases = [
        case
        for case in CASES
        if options.case in case.name and not case.name.startswith(LEFT_OUT) and not case.uploading
    ]
    if options.plot:
        outcomes = {"ours": measure(cases[0], ours, options.shrink, 1)[0]}
        if options.usual:
            outcomes["as usual"] = measure(cases[0], usual, options.shrink, 1)[0]
        plot(cases[0], outcomes, options.plot)
        return
    print(f"{'case':34} {'ratio':>6} {'req/split':>8} {'429':>5} {'':9}  lag p50, p95   target")
    for case in cases:
        runs = options.runs * (5 if case.splits <= 10 else 1)
        show(case, measure(case, ours, options.shrink, runs), case.name)
        if options.usual:
            show(case, measure(case, usual, options.shrink, 1), "   as usual")


if __name__ == "__main__":
    main()
