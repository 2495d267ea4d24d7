"""The command `listen` as developers meet it: what arrives is shown, what is refused is explained."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import attrs
import pytest

from aistemsplitter_async import AsyncAIStemSplitter
from aistemsplitter_async._wire.signature import SIGNATURE_HEADER, sign
from aistemsplitter_async.sandbox import Sandbox

SECRET = "whsec_canary_0123"


@attrs.frozen
class Listener:
    """A running `listen`."""

    process: asyncio.subprocess.Process

    async def line(self, containing: str = "") -> str:
        """Return the next line on stdout that has this in it."""
        assert self.process.stdout is not None
        async with asyncio.timeout(20):
            while line := (await self.process.stdout.readline()).decode():
                if containing in line:
                    return line.rstrip("\n")
        raise AssertionError(f"it ended without a word of {containing!r}")

    async def stop(self) -> tuple[int, str, str]:
        """Press Ctrl-C; return exit code and what was left on both streams."""
        self.process.send_signal(signal.SIGINT)
        async with asyncio.timeout(20):
            out, err = await self.process.communicate()
        return self.process.returncode or 0, out.decode(), err.decode()


Start = Callable[..., Awaitable[Listener]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    running: list[asyncio.subprocess.Process] = []

    async def run(*arguments: object, out: int = asyncio.subprocess.PIPE, **variables: str) -> Listener:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AISTEMSPLITTER_")}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-W", "error", "-m", "aistemsplitter_async", "listen", *map(str, arguments),
            cwd=tmp_path, env=environment | {"PYTHONUNBUFFERED": "1"} | variables,
            stdout=out, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        running.append(process)
        return Listener(process)

    yield run
    for process in running:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def post(http: aiohttp.ClientSession, url: str, body: bytes, *, late: int = 0, **options: Any) -> int:
    headers = {SIGNATURE_HEADER: sign(body, options.get("secret", SECRET), int(time.time()) - late)}
    async with http.post(url, data=body, headers=options.get("headers", headers)) as response:
        return response.status


def event(split_id: str = "split_1", status: str = "succeeded", name: str = "audio.split.completed") -> bytes:
    return json.dumps({"event": name, "data": {"id": split_id, "status": status}}).encode()


async def test_genuine_events_are_shown_and_others_explained_without_the_secret(
    start: Start, http: aiohttp.ClientSession
) -> None:
    listener = await start(AISTEMSPLITTER_WEBHOOK_SECRET=SECRET)
    url = (await listener.line("http://127.0.0.1")).strip()
    printed: list[str] = []
    cases: list[tuple[bytes, dict[str, Any], int]] = [
        (event(), {}, 200),
        (event("split_2", "failed"), {}, 200),
        (event(), {}, 200),
        (event(name="credits.low"), {}, 200),
        (event(), {"headers": {}}, 400),
        (event(), {"headers": {SIGNATURE_HEADER: "sha256=abc"}}, 400),
        (event(), {"secret": "whsec_old"}, 400),
        (event(), {"late": 612}, 400),
        (event(), {"late": -612}, 400),
        (b"{}", {}, 400),
        (event("split_\x1b[2J"), {}, 200),
    ]
    for body, options, status in cases:
        assert await post(http, url + "any/path", body, **options) == status
        printed.append((await listener.line())[10:] if printed else (await listener.line("event"))[10:])
    assert [line.split()[0] for line in printed] == [
        *("event", "event", "ignored", "ignored", "refused", "refused", "refused", "refused", "refused", "refused"),
        "event",
    ]
    assert printed[0].split()[1:] == ["audio.split.completed", "split_1", "succeeded"]
    assert "there is no AIStemSplitter-Signature header" in printed[4]
    assert "it looks like t=" in printed[5]
    assert "check the secret" in printed[6]
    assert "s ago; at most 300 s are allowed" in printed[7]
    assert "in the future" in printed[8]
    assert "$.event should be a string" in printed[9]
    assert "\\x1b[2J" in printed[10]
    code, out, err = await listener.stop()
    assert (code, err) == (0, "stopped\n")
    assert SECRET not in "".join([out, *printed])


async def test_each_request_is_a_json_object_for_scripts(
    start: Start, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text(f"whsec_old\n{SECRET}\n")
    listener = await start("--json", "--secret-file", "secret")
    url = json.loads(await listener.line())["listening"]
    assert await post(http, url, event()) == 200
    printed = json.loads(await listener.line())
    assert abs(printed.pop("signed_at") - time.time()) < 5
    assert printed == {
        "event": "audio.split.completed",
        "split_id": "split_1",
        "status": "succeeded",
        "error": None,
    }
    nothing = {"event": None, "split_id": None, "status": None, "signed_at": None, "error": None}
    for body in (event(), event(name="credits.low")):  # a duplicate, and something else
        assert await post(http, url, body, secret="whsec_old") == 200
        assert json.loads(await listener.line()) == nothing
    async with http.get(url) as answer:
        assert answer.status == 405
    assert json.loads(await listener.line())["error"] == {"code": "METHOD", "message": "a GET request"}
    assert await post(http, url, event("split_2"), secret="whsec_wrong") == 400
    refused = json.loads(await listener.line())
    assert (refused["split_id"], refused["error"]["code"]) == (None, "SIGNATURE_MISMATCH")
    assert await listener.stop() == (0, "", "")


async def test_with_the_sandbox_a_whole_round_trip_is_shown_and_more_can_be_made(start: Start) -> None:
    listener = await start("--sandbox")
    url = (await listener.line("  http://127.0.0.1")).strip()
    base_url = (await listener.line("export AISTEMSPLITTER_BASE_URL=")).partition("=")[2]
    key = (await listener.line("export AISTEMSPLITTER_API_KEY=")).partition("=")[2]
    created = await listener.line("created")
    took = await listener.line("event")
    assert created.split()[2] == took.split()[3]
    assert "vocals, drums, bass, other" in await listener.line("fetched")
    assert "2 requests to the API" in await listener.line("done")
    async with AsyncAIStemSplitter(key, base_url=base_url) as client:
        job = await client.submit("https://example.com/b.mp3", webhook_url=url)
        assert job.id in await listener.line("event")
    assert await listener.stop() == (0, "", "stopped\n")


async def test_the_round_trip_is_shown_to_scripts_too(start: Start) -> None:
    listener = await start("--sandbox", "--json")
    url = json.loads(await listener.line())["listening"]
    printed = [json.loads(await listener.line()) for _ in range(4)]
    created, took, fetched, done = printed
    assert {one["split_id"] for one in printed} == {created["split_id"]}
    assert (created["step"], created["webhook_url"]) == ("created", url)
    assert (took["event"], took["status"]) == ("audio.split.completed", "succeeded")
    assert (fetched["step"], fetched["stems"]) == ("fetched", ["vocals", "drums", "bass", "other"])
    assert (done["step"], done["requests"]) == ("done", 2)
    assert await listener.stop() == (0, "", "")


async def test_ctrl_c_is_prompt_while_a_client_stalls(start: Start, http: aiohttp.ClientSession) -> None:
    listener = await start(AISTEMSPLITTER_WEBHOOK_SECRET=SECRET)
    url = (await listener.line("http://127.0.0.1")).strip()
    await listener.line("Ctrl-C")
    _, stalling = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2].strip("/")))
    stalling.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
    await stalling.drain()
    async with http.get(url) as answer:  # so that the other one was read before
        assert answer.status == 405
    began = time.monotonic()
    assert (await listener.stop())[::2] == (0, "stopped\n")
    assert time.monotonic() - began < 30  # aiohttp would wait for a minute
    stalling.close()


@pytest.mark.parametrize("arguments", [(), ("--json",), ("--sandbox",), ("--sandbox", "--json")])
async def test_it_ends_quietly_when_its_reader_has_left(start: Start, arguments: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    listener = await start(*arguments, out=writing, AISTEMSPLITTER_WEBHOOK_SECRET=SECRET)
    os.close(writing)
    assert await asyncio.to_thread(os.read, reading, 20)
    os.close(reading)
    async with asyncio.timeout(20):
        _, err = await listener.process.communicate()
    assert (listener.process.returncode, err) == (0, b"")


async def test_a_sandbox_elsewhere_can_be_listened_to(start: Start) -> None:
    listener = await start("--json", AISTEMSPLITTER_WEBHOOK_SECRET=SECRET)
    url = json.loads(await listener.line())["listening"]
    async with (
        Sandbox(separation="silent", webhook_secret=SECRET) as sandbox,
        AsyncAIStemSplitter(sandbox.api_key, base_url=sandbox.base_url) as client,
    ):
        job = await client.submit("https://example.com/b.mp3", webhook_url=url)
        assert json.loads(await listener.line())["split_id"] == job.id
    assert (await listener.stop())[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        ((), 2, "no webhook secret: set AISTEMSPLITTER_WEBHOOK_SECRET or give --secret-file; or try --sandbox"),
        (("--secret-file", "none"), 2, "cannot read the webhook secret from none (no such file)"),
        (("--secret-file", "empty"), 2, "cannot read the webhook secret from empty (it is empty)"),
        (("--secret-file", "x", "--sandbox"), 2, "--sandbox has a secret of its own; leave out --secret-file"),
        (("--sandbox", "--port", 99999), 2, "'99999' is not a port, 0 to 65535"),
        (("--port", "http"), 2, "port"),
    ],
)
async def test_what_cannot_work_is_one_line_with_the_way_out(
    start: Start, tmp_path: Path, arguments: tuple[object, ...], code: int, problem: str
) -> None:
    (tmp_path / "empty").write_text(" \n")
    listener = await start(*arguments)
    out, err = await listener.process.communicate()
    assert (listener.process.returncode, out) == (code, b"")
    (line,) = err.decode().splitlines()
    assert line.startswith("error: ")
    assert problem in line


async def test_a_port_that_is_taken_is_named(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        listener = await start("--port", port, AISTEMSPLITTER_WEBHOOK_SECRET=SECRET)
        _, err = await listener.process.communicate()
    assert listener.process.returncode == 1
    assert err.decode().startswith(f"error: cannot listen on port {port}: ")
