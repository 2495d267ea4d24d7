"""The services, started as a user would start them, against a sandbox."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import aiohttp
import pytest
import uvicorn

from aistemsplitter_async.sandbox import Sandbox, Timed, faults
from tests.e2e.examples.conftest import EXAMPLES, Load, Run, until
from tests.e2e.harness import MakeWav


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    slow = Timed(base=1.6, per_second=0.0, workers=9)  # long enough to be seen at work
    async with Sandbox(separation="silent", requests_per_minute=None, progression=slow) as running:
        yield running


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


async def test_a_service_accepts_songs_is_notified_by_webhooks_and_serves_stems(
    run: Run, sandbox: Sandbox, http: aiohttp.ClientSession, make_wav: MakeWav
) -> None:
    port = free_port()
    await run(EXAMPLES / "aiohttp_app.py", PORT=str(port))
    url = f"http://127.0.0.1:{port}/songs"

    async def is_up() -> bool:
        async with http.get(f"{url}/unknown") as answer:
            return answer.status == 404

    await until(is_up)
    sandbox.faults.add("create", faults.FailedSplit("BAD_AUDIO", "nothing but noise"), calls=3)
    ids = []
    for n in range(3):  # users call their songs what they like
        async with http.post(url, params={"name": "song.wav"}, data=make_wav(1.0 + n)) as answer:
            assert answer.status == 202
            ids.append((await answer.json())["id"])

    async def shown(split_id: str) -> Any:
        async with http.get(f"{url}/{split_id}") as answer:
            answered = await answer.json()
            return answered if answered["status"] != "processing" else None

    for split_id in ids[:2]:
        assert await until(partial(shown, split_id)) == {
            "status": "done",
            "stems": ["bass", "drums", "other", "vocals"],
        }
        async with http.get(f"{url}/{split_id}/vocals") as answer:
            assert (answer.status, bool(await answer.read())) == (200, True)
        async with http.get(f"{url}/{split_id}/kazoo") as answer:
            assert answer.status == 404
    failed = await until(partial(shown, ids[2]))
    assert (failed["status"], "nothing but noise" in failed["error"]) == ("failed", True)
    assert [record.status for record in sandbox.ledger.deliveries] == [200] * 3
    assert {split.polls for split in sandbox.ledger.splits} == {1}
    async with http.post(url, params={"name": "song.wav"}, data=b"") as answer:  # nothing to upload
        assert answer.status == 502
    async with http.post(url, data=make_wav(1.0)) as answer:
        assert answer.status == 400
    forged = {"AIStemSplitter-Signature": f"t=1,v1={'0' * 64}"}
    for path in ("webhooks", "webhooks/"):
        async with http.post(f"http://127.0.0.1:{port}/{path}", data=b"{}", headers=forged) as answer:
            assert answer.status in (400, 404)


@pytest.fixture
async def stems_app(load: Load, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """The FastAPI app in uvicorn."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        monkeypatch.setenv("PUBLIC_URL", url)
        server = uvicorn.Server(uvicorn.Config(load("fastapi_app").app, log_config=None, timeout_graceful_shutdown=5))
        serving = asyncio.create_task(server.serve([listening]))
        await until(lambda: server.started)
        yield url
        server.should_exit = True
        await serving


async def test_fastapi_takes_a_form_waits_for_webhooks_and_streams_stems(
    stems_app: str, sandbox: Sandbox, http: aiohttp.ClientSession, make_wav: MakeWav, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox.faults.add("create", faults.FailedSplit("BAD_AUDIO", "nothing but noise"), calls=2)

    async def submit(audio: bytes) -> tuple[int, Any]:
        form = aiohttp.FormData()
        form.add_field("file", audio, filename="song.wav")
        async with http.post(f"{stems_app}/songs", data=form) as answer:
            return answer.status, await answer.json()

    async def get(path: str) -> tuple[int, Any]:
        async with http.get(f"{stems_app}/songs/{path}") as answer:
            return answer.status, await answer.json()

    (status, song), (_, noise) = [await submit(make_wav(seconds)) for seconds in (1.0, 2.0)]
    assert status == 202
    assert (await get(f"{song['id']}?wait=0.1"))[1]["status"] in {"queued", "processing"}
    assert (await get(f"{song['id']}/vocals"))[0] == 409
    done, failed = await asyncio.gather(*(get(f"{created['id']}?wait=30") for created in (song, noise)))
    stems = ["bass", "drums", "other", "vocals"]
    assert done == (200, {"id": song["id"], "status": "succeeded", "stems": stems, "error": None})
    assert failed == (200, {"id": noise["id"], "status": "failed", "stems": [], "error": "nothing but noise"})
    assert [record.status for record in sandbox.ledger.deliveries] == [200] * 2

    async with http.get(f"{stems_app}/songs/{song['id']}/vocals") as answer:
        assert (answer.content_type, answer.content_length) == ("audio/mpeg", len(await answer.read()))
    sandbox.faults.add("download", faults.Drip(piece_bytes=100, every=0.05))
    async with http.get(f"{stems_app}/songs/{song['id']}/drums") as answer:
        assert await answer.content.readexactly(100)  # the listener has heard enough, and leaves

    assert (await get("split_unknown"))[0] == 404
    assert (await get(f"{song['id']}/kazoo"))[0] == 404
    assert [(await submit(audio))[0] for audio in (b"", b"<!doctype html><html></html>")] == [422, 422]
    sandbox.faults.add("create", faults.Status(402))
    status, refused = await submit(make_wav(3.0))
    assert (status, refused["type"]) == (502, "InsufficientCreditsError")
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
