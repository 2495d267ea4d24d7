"""The fixtures of the end-to-end tests."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from aistemsplitter_async.sandbox import Sandbox
from tests.e2e.harness import CHROMIUM, CLI, DRIVER, FLAGS, BareAPI, Browser, Connect, MakeWav, build_wav
from tests.e2e.nursery import Nursery, running


@pytest.fixture
def make_wav() -> MakeWav:
    return build_wav


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """Silent, without a limit: a split takes a millisecond."""
    async with Sandbox(separation="silent", requests_per_minute=None) as running:
        yield running


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """A bare aiohttp session: what the wire really says, without any client of ours."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield session


@pytest.fixture
def connect(http: aiohttp.ClientSession) -> Connect:
    """Start a sandbox with any options, silent and without a limit unless they say otherwise."""

    @asynccontextmanager
    async def start(**options: Any) -> AsyncIterator[BareAPI]:
        async with Sandbox(**({"separation": "silent", "requests_per_minute": None} | options)) as running:
            yield BareAPI(running, http)

    return start


@pytest.fixture
def api(sandbox: Sandbox, http: aiohttp.ClientSession) -> BareAPI:
    return BareAPI(sandbox, http)


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery | None]:
    if sys.platform != "linux":
        yield None
        return
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as started:
        yield started


@pytest.fixture
def cli(tmp_path: Path, nursery: Nursery | None) -> CLI:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AISTEMSPLITTER_")}
    return CLI(tmp_path, environment, nursery)


@pytest.fixture
def song(tmp_path: Path, make_wav: MakeWav) -> Path:
    path = tmp_path / "song.wav"
    path.write_bytes(make_wav(3.0))
    return path


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a WebDriver session with one fresh browser, shared by the module because it takes a second."""
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("needs chromium and chromedriver on the PATH")
    with subprocess.Popen(
        [DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            port = next(match[1] for line in process.stdout if (match := re.search(r"on port (\d+)\.", line)))
            options = {"binary": CHROMIUM, "args": [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]}
            wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
            body = json.dumps({"capabilities": {"alwaysMatch": wanted}}).encode()
            started = urllib.request.Request(f"http://127.0.0.1:{port}/session", body)
            with urllib.request.urlopen(started, timeout=60) as response:  # noqa: S310
                session = f"{started.full_url}/{json.load(response)['value']['sessionId']}"
            yield session
            with urllib.request.urlopen(urllib.request.Request(session, method="DELETE"), timeout=20):  # noqa: S310
                pass
        finally:
            process.terminate()


@pytest.fixture
async def browser(driver: str, http: aiohttp.ClientSession) -> AsyncIterator[Browser]:
    window = Browser(driver, http)
    await window.emulate()
    await window.complaints()
    yield window
    await window.open("about:blank")
