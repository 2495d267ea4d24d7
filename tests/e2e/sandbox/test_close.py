"""Closing a sandbox: at once, in the middle of anything, and nothing is left of it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import anyio
import attrs
import pytest

from aistemsplitter_async.sandbox import Limits, Sandbox
from aistemsplitter_async.sandbox.service.separator import ProcessSeparator, SeparationError
from tests.e2e.harness import BareAPI, Connect, MakeWav

PROC = Path("/proc/self/fd")


def descriptors() -> int:
    return len(list(PROC.iterdir())) if PROC.exists() else 0


def children_of(folder: Path) -> dict[int, bytes]:
    """Processes that have `folder` in their command line, which is the value."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:
            continue
        if bytes(folder) in command:
            found[int(path.parent.name)] = command
    return found


def separations_in(folder: Path) -> list[int]:
    return [pid for pid, command in children_of(folder).items() if b"sandbox.separation" in command]


async def closing(sandbox: Sandbox) -> float:
    began = time.perf_counter()
    await sandbox.aclose()
    return time.perf_counter() - began


async def open_raw(url: str, head: str) -> asyncio.StreamWriter:
    parts = urlsplit(url)
    _, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(head.format(path=parts.path).encode())
    await writer.drain()
    return writer


async def test_closing_is_prompt_with_open_connections_and_half_sent_requests() -> None:
    tasks, files = asyncio.all_tasks(), descriptors()
    sandbox = Sandbox(separation="silent")
    await sandbox.start()
    writers = [await open_raw(sandbox.base_url, "") for _ in range(20)]
    writers += [await open_raw(sandbox.base_url, "POST /v1/audio/splits HTTP/1.1\r\nHost: x\r\n") for _ in range(5)]
    headers = f"Host: x\r\nAuthorization: Bearer {sandbox.api_key}\r\nContent-Length: 100\r\n\r\n{{"
    half = "POST {path}/audio/splits HTTP/1.1\r\n" + headers.replace("{", "{{")
    writers += [await open_raw(sandbox.base_url, half) for _ in range(5)]
    async with aiohttp.ClientSession() as session, session.get(sandbox.base_url + "/credits") as response:
        await response.read()
        assert await closing(sandbox) < 30.0  # aiohttp would wait for a minute
    for writer in writers:
        writer.close()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == tasks
    assert descriptors() <= files + 1  # asyncio keeps one for resolving names


@pytest.mark.skipif(not PROC.exists(), reason="looks for the child in /proc")
async def test_closing_kills_a_running_separation(tmp_path: Path, connect: Connect, make_wav: MakeWav) -> None:
    pytest.importorskip("soundfile")
    async with connect(separation="real", data=tmp_path) as api:
        created = await api.create(await api.upload(make_wav(30.0, rate=44_100)))
        async with asyncio.timeout(60):
            while (await api.get(created.json["data"]["id"]))["status"] != "processing":
                pass
            while not children_of(tmp_path):  # noqa: ASYNC110  processes send no events
                await asyncio.sleep(0)
        assert await closing(api.sandbox) < 30.0
    assert not children_of(tmp_path)


SERVE = """
import asyncio, os, sys
from contextlib import contextmanager
from aistemsplitter_async.sandbox import Sandbox
from aistemsplitter_async.sandbox.service import separator

if sys.argv[2] == "careless":
    separator._open_lifeline = contextmanager(lambda: iter([os.open("/dev/zero", os.O_RDONLY)]))

async def main():
    async with Sandbox(requests_per_minute=None, data=sys.argv[1], api_key="ast_k") as sandbox:
        print(sandbox.base_url, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def separate_and_kill(folder: Path, how: str, api: BareAPI, audio: bytes) -> None:
    """Start a sandbox in a process of its own, give it something to separate, and kill -9 it in the middle."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVE, str(folder), how, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        served: Any = SimpleNamespace(api_key="ast_k", base_url=(await process.stdout.readline()).decode().strip())
        other = attrs.evolve(api, sandbox=served)
        assert (await other.create(await other.upload(audio))).status == 200
        async with asyncio.timeout(60):
            while not separations_in(folder):  # noqa: ASYNC110  processes send no events
                await asyncio.sleep(0.001)
    finally:
        process.kill()
        await process.wait()


@pytest.mark.skipif(not PROC.exists(), reason="looks for the child in /proc")
@pytest.mark.parametrize("how", ["honest", "careless"])
async def test_a_killed_sandbox_leaves_no_separation_behind(
    tmp_path: Path, api: BareAPI, make_wav: MakeWav, how: str
) -> None:
    """The careless one holds no pipe to its child, to show that the test would see a child that lives on."""
    pytest.importorskip("soundfile")
    await separate_and_kill(tmp_path, how, api, make_wav(120.0, rate=44_100))
    deadline = time.monotonic() + (60.0 if how == "honest" else 1.0)
    while separations_in(tmp_path) and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    left = separations_in(tmp_path)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert bool(left) == (how == "careless")


async def test_a_cancelled_scope_of_anyio_still_closes_everything() -> None:
    tasks = asyncio.all_tasks()
    with anyio.CancelScope() as scope:
        async with Sandbox(separation="silent") as sandbox:
            folder = sandbox._running.service._root
            scope.cancel()
            await asyncio.sleep(1)
    assert scope.cancelled_caught
    assert not folder.exists()
    assert asyncio.all_tasks() == tasks


async def test_closing_twice_and_starting_again_are_fine() -> None:
    sandbox = Sandbox(separation="silent")
    with pytest.raises(RuntimeError, match="not running"):
        _ = sandbox.base_url
    for _ in range(2):
        await sandbox.start()
        with pytest.raises(RuntimeError, match="already"):
            await sandbox.start()
        await sandbox.aclose()
        await sandbox.aclose()


async def test_a_taken_port_is_an_oserror_and_leaves_nothing() -> None:
    async with Sandbox(separation="silent") as first:
        port = urlsplit(first.base_url).port
        assert port is not None
        tasks = asyncio.all_tasks()
        with pytest.raises(OSError, match="in use"):
            await Sandbox(separation="silent", port=port).start()
        assert asyncio.all_tasks() == tasks


async def test_a_separation_process_that_crashes_is_an_error_and_not_a_hang(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(SeparationError):
        await ProcessSeparator(Limits()).probe(missing)
    with pytest.raises(SeparationError):
        await ProcessSeparator(Limits()).separate(
            missing, tmp_path / "into", seconds=1.0, stem_model="4s", output_format="wav"
        )


async def test_a_separation_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    (tmp_path / "a.mp3").write_bytes(b"ID3" + bytes(1000))
    with pytest.raises(SeparationError, match="longer than"):
        await ProcessSeparator(Limits(probe_timeout=0.001)).probe(tmp_path / "a.mp3")
    assert not children_of(tmp_path)


async def test_a_failed_split_is_refunded_and_says_why(connect: Connect, make_wav: MakeWav) -> None:
    async with connect(separation="real") as api:

        async def crash(*_: object, **__: object) -> None:
            raise SeparationError("the machine is on fire")

        api.sandbox._running.service.separator.separate = crash  # type: ignore[method-assign, assignment]
        split = await api.finish(await api.upload(make_wav()))
        assert split["status"] == "failed"
        assert split["error"] == {"code": "PROCESSING_FAILED", "message": "the machine is on fire"}
        assert "stems" not in split
        assert api.sandbox.credits == 36_000
        assert api.sandbox.ledger.charges[0].refunded == 1


@pytest.mark.parametrize(
    "options",
    [
        {"separation": "loud"},
        {"api_key": "sk_wrong"},
        {"credits": -1},
        {"requests_per_minute": 0},
        {"minute": 0},
        {"window": "leaky"},
        {"burst": 3},
    ],
)
def test_options_that_make_no_sense_are_refused_at_once(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must|starts with|burst"):
        Sandbox(**options)  # type: ignore[arg-type]
