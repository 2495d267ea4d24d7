"""What the tests of the examples share."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from aistemsplitter_async import client
from aistemsplitter_async.batch import fleet
from aistemsplitter_async.sandbox import Sandbox
from tests.e2e.examples import quick
from tests.e2e.stores.conftest import postgres_dsn, servers, start_server, valkey_url  # noqa: F401  # fixtures

EXAMPLES = Path(__file__).parents[3] / "examples"
Load = Callable[[str], Any]
Run = Callable[..., Awaitable[asyncio.subprocess.Process]]


@pytest.fixture(autouse=True)
def _quick_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PollPolicy", lambda: quick.QUICK)
    monkeypatch.setattr(fleet, "FLEET_LOOK", 0.05)


@pytest.fixture
async def run(sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[Run]:
    """Start an example; at the end it is stopped with Ctrl-C, and must not have logged anything."""
    running: list[asyncio.subprocess.Process] = []

    async def start(*arguments: str | Path, **variables: str) -> asyncio.subprocess.Process:
        environment = os.environ | {
            "AISTEMSPLITTER_API_KEY": sandbox.api_key,
            "AISTEMSPLITTER_BASE_URL": sandbox.base_url,
            "AISTEMSPLITTER_WEBHOOK_SECRET": sandbox.webhook_secret,
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, quick.__file__, *arguments, cwd=tmp_path, env=environment | variables,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        running.append(process)
        return process

    yield start
    for process in running:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
        async with asyncio.timeout(60):
            _, err = await process.communicate()
        assert "Traceback" not in err.decode(), err.decode()
        assert sandbox.api_key not in err.decode()


@pytest.fixture
def load(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Import an example as a new module; it finds the sandbox in its environment, and its files in `tmp_path`."""
    monkeypatch.setenv("AISTEMSPLITTER_API_KEY", sandbox.api_key)
    monkeypatch.setenv("AISTEMSPLITTER_BASE_URL", sandbox.base_url)
    monkeypatch.setenv("AISTEMSPLITTER_WEBHOOK_SECRET", sandbox.webhook_secret)
    monkeypatch.chdir(tmp_path)

    def load_example(name: str) -> Any:
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return load_example


async def until(check: Callable[[], Any]) -> Any:
    """Return what `check` returns, or what it is awaited for, once that is true."""
    async with asyncio.timeout(90):  # importing a framework takes a busy machine a while
        while True:
            with suppress(aiohttp.ClientConnectionError):
                found = check()
                if found := await found if inspect.isawaitable(found) else found:
                    return found
            await asyncio.sleep(0.02)


@pytest.fixture
def database(postgres_dsn: str) -> Iterator[str]:  # noqa: F811  # the fixture
    """The URL of a PostgreSQL database of the test's own, with nothing in it."""
    import psycopg

    server, _, name = postgres_dsn.replace("/postgres?", "/{}?").partition("&schema=")
    with psycopg.connect(server.format("postgres"), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}".encode())
        yield server.format(name)
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
