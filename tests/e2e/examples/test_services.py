"""The services, started as a user would start them, against a sandbox."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import aiohttp
import pytest

from aistemsplitter_async.sandbox import Sandbox, Timed, faults
from tests.e2e.examples.conftest import Run, until
from tests.e2e.harness import MakeWav


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    slow = Timed(base=1.6, per_second=0.0, workers=9)  # long enough to be seen at work
    async with Sandbox(separation="silent", requests_per_minute=None, progression=slow) as running:
        yield running


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("name", ["aiohttp_app", "fastapi_app"])
async def test_a_service_accepts_songs_is_notified_by_webhooks_and_serves_stems(
    run: Run, sandbox: Sandbox, http: aiohttp.ClientSession, make_wav: MakeWav, name: str
) -> None:
    port = free_port()
    await run(name, PORT=str(port))
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
        assert answer.status in (400, 422)
    forged = {"AIStemSplitter-Signature": f"t=1,v1={'0' * 64}"}
    for path in ("webhooks", "webhooks/"):
        async with http.post(f"http://127.0.0.1:{port}/{path}", data=b"{}", headers=forged) as answer:
            assert answer.status in (400, 404)
