"""Measures how many API requests a second the sandbox answers, and the memory that a thousand splits leave.

    python benchmarks/sandbox_load.py --splits 1000 --rounds 5 --connections 8 --client bare|aiohttp|sdk --profile

Client and sandbox share one process, one thread and one core, so each figure pays for both. `bare` is the cheapest
client there is (one write and one read on a kept connection); `aiohttp` is what most programs use; `sdk` is this
package's. A split is a create under an idempotency key and polls until it has succeeded; silent separation, no limit.
Memory is that of the process after each round: flat once the caps of `Limits` are reached, here as many splits as one
round makes. By the clock, other programs on the machine count too; in processor time they hardly do.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import json
import pstats
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from aistemsplitter_async.sandbox import Limits, Sandbox

Call = Callable[[str, str, str, bytes], Awaitable[Any]]
"""Method, path, idempotency key and body to the decoded `data` of the answer."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--client", choices=[*CLIENTS, "sdk"], default="")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    for client in [options.client] if options.client else [*CLIENTS, "sdk"]:
        profile = cProfile.Profile() if options.profile else None
        asyncio.run(measure(client, options.splits, options.rounds, options.connections, profile))
        if profile is not None:
            pstats.Stats(profile).sort_stats("tottime").print_stats(45)


async def measure(client: str, splits: int, rounds: int, connections: int, profile: cProfile.Profile | None) -> None:
    limits = Limits(max_splits=splits, ledger_requests=splits)
    async with Sandbox(separation="silent", requests_per_minute=None, credits=10**9, limits=limits) as sandbox:
        run = run_sdk if client == "sdk" else run_calls
        print(f"{client}: {splits:,} splits a round, {connections} connections")
        for number in range(rounds + 1):  # the first one fills caches and reaches the caps
            before = sandbox.ledger.count()
            if profile is not None and number:
                profile.enable()
            began, cpu = time.perf_counter(), time.process_time()
            await run(client, sandbox, splits, connections, number)
            took, spent = time.perf_counter() - began, time.process_time() - cpu
            if profile is not None:
                profile.disable()
            requests = sandbox.ledger.count() - before
            gc.collect()
            name = f"round {number}" if number else "warm-up"
            print(
                f"  {name:8} {requests:6,} requests  {requests / took:6,.0f}/s by the clock  "
                f"{requests / spent:6,.0f}/s of processor time  {resident():5.1f} MiB"
            )
        assert not sandbox.ledger.throttled


async def run_calls(client: str, sandbox: Sandbox, splits: int, connections: int, number: int) -> None:
    async with CLIENTS[client](sandbox) as opened:
        work = iter(range(splits))

        async def worker() -> None:
            async with opened() as call:
                for index in work:
                    source = {"type": "direct_url", "url": f"https://example.com/{index}.mp3?seconds=10"}
                    body = json.dumps({"input": source}).encode()
                    split = await call("POST", "/audio/splits", f"{number}-{index}", body)
                    while split["status"] != "succeeded":
                        split = await call("GET", f"/audio/splits/{split['id']}", "", b"")

        await asyncio.gather(*(worker() for _ in range(connections)))


async def run_sdk(_client: str, sandbox: Sandbox, splits: int, connections: int, number: int) -> None:
    from aistemsplitter_async import AsyncAIStemSplitter, PollPolicy

    poll = PollPolicy(first=0.001, shortest=0.001)
    async with AsyncAIStemSplitter(sandbox.api_key, base_url=sandbox.base_url, poll=poll) as client:
        work = iter(range(splits))

        async def worker() -> None:
            for index in work:
                url = f"https://example.com/{index}.mp3?seconds=10"
                await (await client.submit(url, idempotency_key=f"{number}-{index}")).wait()

        await asyncio.gather(*(worker() for _ in range(connections)))


@asynccontextmanager
async def open_bare(sandbox: Sandbox) -> AsyncIterator[Any]:
    parts = urlsplit(sandbox.base_url)

    @asynccontextmanager
    async def connection() -> AsyncIterator[Call]:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)

        async def call(method: str, path: str, key: str, body: bytes) -> Any:
            lines = [f"{method} {parts.path}{path} HTTP/1.1", "Host: x", f"Authorization: Bearer {sandbox.api_key}"]
            lines += [f"Idempotency-Key: {key}"] if key else []
            head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""])
            writer.write(head.encode() + body)
            answered = await reader.readuntil(b"\r\n\r\n")
            length = answered.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            return json.loads(await reader.readexactly(int(length)))["data"]

        try:
            yield call
        finally:
            writer.close()
            await writer.wait_closed()

    yield connection


@asynccontextmanager
async def open_aiohttp(sandbox: Sandbox) -> AsyncIterator[Any]:
    import aiohttp

    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:

        async def call(method: str, path: str, key: str, body: bytes) -> Any:
            headers = {"Authorization": f"Bearer {sandbox.api_key}"} | ({"Idempotency-Key": key} if key else {})
            url = sandbox.base_url + path
            async with session.request(method, url, data=body or None, headers=headers) as response:
                return json.loads(await response.read())["data"]

        @asynccontextmanager
        async def connection() -> AsyncIterator[Call]:
            yield call

        yield connection


CLIENTS = {"bare": open_bare, "aiohttp": open_aiohttp}


def resident() -> float:
    """Return the process's memory in MiB, or 0.0 where the system does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
            return int(file.read().split()[1]) * 4096 / 1024**2
    except OSError:
        return 0.0


if __name__ == "__main__":
    main()
