"""The FastAPI service, in uvicorn, against a sandbox."""

from __future__ import annotations

import asyncio
import io
import logging
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import attrs
import pytest
import uvicorn

from aistemsplitter_async.sandbox import Manual, Sandbox, faults
from tests.e2e.examples.conftest import Load, until
from tests.e2e.harness import MakeWav


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(separation="silent", requests_per_minute=None, progression=Manual()) as running:
        yield running


async def finish(sandbox: Sandbox, split_id: str) -> None:
    for _ in range(2):
        await sandbox.step(split_id)


@attrs.frozen
class Service:
    """The service as a browser sees it."""

    url: str
    http: aiohttp.ClientSession

    async def submit(self, audio: bytes) -> tuple[int, Any]:
        form = aiohttp.FormData()
        form.add_field("file", io.BytesIO(audio), filename="song.wav")
        async with self.http.post(f"{self.url}/songs", data=form) as answer:
            return answer.status, await answer.json()

    async def get(self, path: str) -> tuple[int, Any]:
        async with self.http.get(f"{self.url}{path}") as answer:
            return answer.status, await answer.json()


@pytest.fixture
async def service(load: Load, monkeypatch: pytest.MonkeyPatch, http: aiohttp.ClientSession) -> AsyncIterator[Service]:
    """The example. It also has what it must not have: a route that takes the whole stem before it answers."""
    from fastapi import Depends, Response

    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        monkeypatch.setenv("PUBLIC_URL", url)
        example = load("fastapi_app")

        async def read_all(stream: Any = Depends(example.open_stem)) -> Response:  # noqa: B008
            return Response(await stream.read())

        example.app.get("/whole/{song}/{stem}")(read_all)
        server = uvicorn.Server(uvicorn.Config(example.app, log_config=None, timeout_graceful_shutdown=5))
        serving = asyncio.create_task(server.serve([listening]))
        await until(lambda: server.started)
        yield Service(url, http)
        server.should_exit = True
        await serving


async def test_fastapi_takes_a_form_waits_for_webhooks_and_streams_stems(
    service: Service, sandbox: Sandbox, make_wav: MakeWav, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox.faults.add("create", faults.FailedSplit("BAD_AUDIO", "nothing but noise"), calls=2)
    (status, song), (_, noise) = [await service.submit(make_wav(seconds)) for seconds in (1.0, 2.0)]
    assert status == 202
    path = f"/songs/{song['id']}"
    assert (await service.get(f"{path}?wait=0.1"))[1]["status"] == "queued"
    assert (await service.get(f"{path}/vocals"))[0] == 409
    waits = [asyncio.create_task(service.get(f"/songs/{created['id']}?wait=30")) for created in (song, noise)]
    for created in (song, noise):
        await finish(sandbox, created["id"])
    done, failed = await asyncio.gather(*waits)
    stems = ["bass", "drums", "other", "vocals"]
    assert done == (200, {"id": song["id"], "status": "succeeded", "stems": stems, "error": None})
    assert failed == (200, {"id": noise["id"], "status": "failed", "stems": [], "error": "nothing but noise"})
    await until(lambda: [record.status for record in sandbox.ledger.deliveries] == [200] * 2)

    async with service.http.get(f"{service.url}{path}/vocals") as answer:
        assert (answer.content_type, answer.content_length) == ("audio/mpeg", len(await answer.read()))
    assert (await service.get("/songs/split_unknown"))[0] == 404
    assert (await service.get(f"{path}/kazoo"))[0] == 404
    refused = [await service.submit(audio) for audio in (b"", b"<!doctype html><html></html>")]
    assert [status for status, _ in refused] == [422, 422]
    sandbox.faults.add("create", faults.Status(402))
    status, error = await service.submit(make_wav(3.0))
    assert (status, error["type"]) == (502, "InsufficientCreditsError")
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_stem_is_fetched_no_further_once_its_listener_has_left(
    service: Service,
    sandbox: Sandbox,
    make_wav: MakeWav,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aistemsplitter_async._transfer.answer._HEAD_BYTES", 100)  # silent stems are short
    caplog.set_level(logging.DEBUG, "aistemsplitter_async.transfer")
    _, song = await service.submit(make_wav(1.0))
    await finish(sandbox, song["id"])

    async def leave(route: str, fault: faults.Fault, once: Callable[[], bool]) -> Any:
        """Ask for a stem, and go away; return what the client logs of its transfer."""
        began.clear()
        caplog.clear()
        sandbox.faults.add("download", fault, times=1)

        async def listen() -> None:
            async with service.http.get(f"{service.url}/{route}/{song['id']}/drums") as answer:
                began.set()
                await answer.read()

        listening = asyncio.create_task(listen())
        await until(once)
        listening.cancel()
        (ended,) = await until(lambda: [one for one in caplog.records if vars(one).get("stem") == "drums"])
        return ended

    began = asyncio.Event()
    ended = await leave("songs", faults.Stall(after_bytes=200), began.is_set)
    assert ended.bytes == 200
    before = len(sandbox.ledger.requests)
    ended = await leave(
        "whole", faults.Drip(piece_bytes=400, every=0.02), lambda: len(sandbox.ledger.requests) > before
    )
    assert ended.bytes > 1000, "what reads on is not noticed"
