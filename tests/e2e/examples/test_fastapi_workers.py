"""The FastAPI service in several processes: uvicorn as a user starts it, and two of its workers on one database."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from aistemsplitter_async.sandbox import Sandbox
from tests.e2e.examples.conftest import EXAMPLES, Load, until
from tests.e2e.examples.test_services import free_port
from tests.e2e.harness import MakeWav

WORKERS = int(os.environ.get("UVICORN_WORKERS", "2"))
LIMIT, MINUTE = 12, 1.0  # requests, s
SONGS = 8 // WORKERS  # of each worker; a song takes three requests


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(separation="silent", requests_per_minute=LIMIT, minute=MINUTE) as running:
        yield running


@asynccontextmanager
async def serve(example: Any) -> AsyncIterator[str]:
    """Serve a worker of this process."""
    import uvicorn

    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(example.app, log_config=None, timeout_graceful_shutdown=5))
        serving = asyncio.create_task(server.serve([listening]))
        await until(lambda: server.started)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        await serving


async def submit(http: aiohttp.ClientSession, url: str, audio: bytes) -> Any:
    form = aiohttp.FormData()
    form.add_field("file", io.BytesIO(audio), filename="song.wav")
    async with http.post(f"{url}/songs", data=form) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


@asynccontextmanager
async def started(sandbox: Sandbox, folder: Path) -> AsyncIterator[str]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    variables = {
        "AISTEMSPLITTER_API_KEY": sandbox.api_key,
        "AISTEMSPLITTER_BASE_URL": sandbox.base_url,
        "AISTEMSPLITTER_WEBHOOK_SECRET": sandbox.webhook_secret,
        "AISTEMSPLITTER_SHARED_DIR": str(folder),
        "PUBLIC_URL": url,
        "RATE_LIMIT": f"{LIMIT}/{MINUTE}s",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "uvicorn", "--app-dir", EXAMPLES, "fastapi_workers:app", "--port", str(port),
        "--workers", str(WORKERS), "--timeout-graceful-shutdown", "20", "--log-level", "warning",
        cwd=folder, env=os.environ | variables, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            _, err = await process.communicate()
        assert (process.returncode, err.decode()) == (0, "")


async def test_workers_of_uvicorn_keep_one_limit_and_take_each_others_webhooks(
    sandbox: Sandbox, http: aiohttp.ClientSession, tmp_path: Path, make_wav: MakeWav
) -> None:
    async with started(sandbox, tmp_path) as url, AsyncExitStack() as stack:
        lines: dict[int, list[aiohttp.ClientSession]] = {}  # to each worker: one of them accepts all it can

        async def reach_all() -> bool:
            line = await stack.enter_async_context(aiohttp.ClientSession())
            async with line.get(f"{url}/health") as answer:
                lines.setdefault((await answer.json())["worker"], []).append(line)
            return len(lines) == WORKERS and all(len(each) >= SONGS for each in lines.values())

        await until(reach_all)
        songs = [
            submit(line, url, make_wav(1.0 + worker + number / 10))
            for worker, each in enumerate(lines.values())
            for number, line in enumerate(each[:SONGS])
        ]
        async with asyncio.timeout(60):  # without webhooks they would be polled much later
            answers = await asyncio.gather(*songs)
        assert [request.status for request in sandbox.ledger.requests if request.status >= 400] == []
        for song in answers:
            assert sorted(song["stems"]) == ["bass", "drums", "other", "vocals"]
            async with http.get(f"{url}{song['stems']['vocals']}") as stem:
                assert (stem.status, bool(await stem.read())) == (200, True)
        async with http.get(f"{url}/health") as answer:
            assert (await answer.json())["workers"] == WORKERS
    assert len({song["id"] for song in answers}) == len(sandbox.ledger.charges) == len(songs)
    assert [record.status for record in sandbox.ledger.deliveries] == [200] * len(songs)
    assert {one.polls for one in sandbox.ledger.splits} == {1}


async def test_on_a_database_a_song_asked_of_several_workers_is_bought_once(
    *,
    postgres_dsn: str,
    sandbox: Sandbox,
    load: Load,
    http: aiohttp.ClientSession,
    make_wav: MakeWav,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATABASE_URL", postgres_dsn)
    monkeypatch.setenv("RATE_LIMIT", f"{LIMIT}/{MINUTE}s")
    monkeypatch.setenv("PUBLIC_URL", "http://127.0.0.1:1")  # nobody hears of webhooks there
    async with serve(load("fastapi_workers")) as one, serve(load("fastapi_workers")) as other:
        answers = await asyncio.gather(*(submit(http, url, make_wav(1.0)) for url in (one, other, one, other)))
        answers.append(await submit(http, other, make_wav(1.0)))
        assert [answer == answers[0] for answer in answers] == [True] * 5
    assert len(sandbox.ledger.charges) == 1
