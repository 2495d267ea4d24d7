"""Measures the cost of receiving webhooks on one core, and how soon a waiter returns.

Throughput: servers in separate processes, bound to one core, answer signed events that come over a few persistent
connections. A bare handler reads the body and answers 200; the receiver verifies, parses, keeps and answers 200. All
variants run at once and take turns, a few hundred events each, so that other load on the machine affects all alike. The
result is the number of events per second of the server's processor time.

Latency: from the sandbox's step that finishes a split to the return of `job.wait()`, with requests to spare; beside it,
how long one `get_split` takes, since one is needed to get the stem URLs.

    python benchmarks/webhooks.py [--events 10000] [--waits 200]
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
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

SECRET = "whsec_benchmark"  # noqa: S105  # not a real one
WAYS = ("bare aiohttp", "receiver, aiohttp", "bare ASGI", "receiver, ASGI", "receiver, aiohttp, SQLite")
CONNECTIONS = 16
BURST = 250  # events in each turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--waits", type=int, default=200)
    parser.add_argument("--serve", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.serve))
        return
    asyncio.run(compare(options.events))
    asyncio.run(measure_latency(options.waits))


async def compare(events: int) -> None:
    """Print the throughput of every variant, and its share of the bare handler's."""
    servers = {
        way: subprocess.Popen([sys.executable, __file__, "--serve", way], stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220
        for way in WAYS
    }
    try:
        ports = {way: int(server.stdout.readline()) for way, server in servers.items() if server.stdout}
        for way in WAYS:  # warm up
            await send_all(ports[way], [build_request(f"first_{n}") for n in range(BURST)])
        before = {way: read_cpu(server.pid) for way, server in servers.items()}
        for begin in range(0, events, BURST):
            requests = [build_request(f"split_{n}") for n in range(begin, begin + BURST)]
            for way in WAYS:
                await send_all(ports[way], requests)
        rates = {way: events / (read_cpu(server.pid) - before[way]) for way, server in servers.items()}
    finally:
        for server in servers.values():
            server.terminate()
            server.communicate()
    print("a second on one core           events  of bare")
    for way, rate in rates.items():
        bare = rates["bare ASGI" if "ASGI" in way else "bare aiohttp"]
        print(f"{way:28} {rate:8,.0f}  {rate / bare:7.2f}")


def build_request(split_id: str) -> bytes:
    from aistemsplitter_async.webhooks import SIGNATURE_HEADER, sign

    body = json.dumps({"event": "audio.split.completed", "data": {"id": split_id, "status": "succeeded"}}).encode()
    head = (
        f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"{SIGNATURE_HEADER}: {sign(body, SECRET, int(time.time()))}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def read_cpu(pid: int) -> float:
    """Return the processor time of a process and all its threads in seconds (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def send_all(port: int, requests: list[bytes]) -> None:
    """Send the requests over a few connections. Every answer must be 200."""
    waiting = iter(requests)

    async def send() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for request in waiting:
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200 "), answer
        writer.close()

    await asyncio.gather(*(send() for _ in range(CONNECTIONS)))


async def serve(way: str) -> None:
    """Serve on the first core that this process may use, until it is terminated."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        if "ASGI" in way:
            await serve_asgi(way)
        else:
            await serve_aiohttp(way, Path(folder))


async def serve_aiohttp(way: str, folder: Path) -> None:
    from aiohttp import web

    from aistemsplitter_async import SQLiteInbox, WebhookReceiver

    async def bare(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(status=200)

    inbox = SQLiteInbox(folder / "inbox") if "SQLite" in way else None
    receiver = WebhookReceiver(SECRET, url="http://localhost/", inbox=inbox)
    app = web.Application()
    app.router.add_post("/", bare if "bare" in way else receiver.aiohttp_handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


async def serve_asgi(way: str) -> None:
    import socket

    import uvicorn

    from aistemsplitter_async import WebhookReceiver

    async def bare(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    app = bare if "bare" in way else WebhookReceiver(SECRET, url="http://localhost/").asgi
    listening = socket.create_server(("127.0.0.1", 0))
    print(listening.getsockname()[1], flush=True)
    config = uvicorn.Config(app, lifespan="off", log_config=None, access_log=False)
    await uvicorn.Server(config).serve(sockets=[listening])


async def measure_latency(waits: int) -> None:
    """Print how soon `wait` returns after the end of a split, with either inbox."""
    from aistemsplitter_async import MemoryInbox, SQLiteInbox

    print(f"\n{'from the end to the waiter':28} {'median':>8} {'p95':>8}   one get_split: median, p95")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "inbox"
        await wait_often("in one process", MemoryInbox(), None, waits)
        async with SQLiteInbox(file) as one, SQLiteInbox(file) as other:
            await wait_often("through a file", one, other, waits)


async def wait_often(name: str, inbox: Any, followed: Any, waits: int) -> None:
    from aistemsplitter_async import AsyncAIStemSplitter, WebhookReceiver
    from aistemsplitter_async.sandbox import Manual, Sandbox

    async with (
        Sandbox(separation="silent", requests_per_minute=None, progression=Manual(), webhook_secret=SECRET) as sandbox,
        serving(inbox) as receiver,
    ):
        follower = receiver if followed is None else WebhookReceiver([], url=receiver.url, inbox=followed)
        async with AsyncAIStemSplitter(sandbox.api_key, base_url=sandbox.base_url, webhooks=follower) as client:
            delays, polls = [], []
            for _ in range(waits):
                job = await client.submit("https://example.com/a.mp3?seconds=60")
                waiting = asyncio.create_task(job.wait())
                await sandbox.step(job.id)
                await asyncio.sleep(0.01)
                started = time.perf_counter()
                await sandbox.step(job.id)
                await waiting
                delays.append(time.perf_counter() - started)
                started = time.perf_counter()
                await client.get_split(job.id)
                polls.append(time.perf_counter() - started)
    print(f"{name:28} {show(delays)}   {show(polls)}")


@asynccontextmanager
async def serving(inbox: Any) -> AsyncIterator[Any]:
    from aiohttp import web

    from aistemsplitter_async import WebhookReceiver

    receiver: list[WebhookReceiver] = []

    async def handle(request: web.Request) -> web.Response:
        return await receiver[0].aiohttp_handler(request)

    app = web.Application()
    app.router.add_post("/", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.append(WebhookReceiver(SECRET, url=f"http://127.0.0.1:{runner.addresses[0][1]}/", inbox=inbox))
    yield receiver[0]
    await runner.cleanup()


def show(times: list[float]) -> str:
    return f"{statistics.median(times) * 1000:5.1f} ms {statistics.quantiles(times, n=20)[-1] * 1000:5.1f} ms"


if __name__ == "__main__":
    main()
