"""The services, started as a user would start them, against a sandbox."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from functools import partial
from typing import Any

import aiohttp

from aistemsplitter_async.sandbox import Sandbox, faults
from tests.e2e.examples.conftest import EXAMPLES, Run, until
from tests.e2e.harness import MakeWav


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


async def test_structlog_has_what_was_bound_in_the_clients_lines_and_prometheus_counts_its_events(
    run: Run, sandbox: Sandbox, http: aiohttp.ClientSession, make_wav: MakeWav
) -> None:
    port = free_port()
    process = await run(EXAMPLES / "structlog_prometheus.py", PORT=str(port))
    url = f"http://127.0.0.1:{port}"

    async def scrape() -> dict[str, float]:
        async with http.get(f"{url}/metrics") as answer:
            lines = [line.rpartition(" ") for line in (await answer.text()).splitlines() if not line.startswith("#")]
            return {name: float(value) for name, _, value in lines}

    await until(scrape)
    sandbox.faults.add("create", faults.Status(503), times=1)

    async def split(name: str, data: bytes) -> int:
        async with http.post(f"{url}/songs", params={"name": f"{name}.wav"}, data=data) as answer:
            return answer.status

    songs = split("one", make_wav(2.0)), split("two", make_wav(3.0)), split("empty", b"")
    assert sorted(await asyncio.gather(*songs)) == [200, 200, 502]
    numbers = await scrape()
    assert numbers['stems_requests_total{operation="create_split",status="200"}'] == 2
    assert numbers['stems_requests_total{operation="create_split",status="503"}'] == 1
    assert numbers['stems_requests_total{operation="download_stem",status="200"}'] == 8
    assert numbers['stems_stage_seconds_count{error="",stage="wait"}'] == 2
    assert numbers['stems_stage_seconds_count{error="SourceUnreadableError",stage="prepare"}'] == 1
    assert (numbers["stems_throttled_total"], numbers["stems_credits_total"]) == (0, 5)
    assert numbers["stems_gate_used"] > 0
    assert not any(split.split_id in name for split in sandbox.ledger.splits for name in numbers)

    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    lines = [json.loads(line) for line in err.decode().splitlines()]
    of_client = [line for line in lines if line["logger"].startswith("aistemsplitter_async.") and line.get("operation")]
    by_song = {
        song: {line["request"] for line in of_client if line["song"] == f"{song}.wav"} for song in ("one", "two")
    }
    assert [len(requests) for requests in by_song.values()] == [1, 1]
    assert by_song["one"] != by_song["two"]
    assert {line["operation"] for line in of_client if line["song"] == "two.wav"} == {
        *("create_upload", "upload", "create_split", "get_split", "download_stem")
    }
    (retry,) = [line for line in of_client if line["event_type"] == "RetryPlanned"]
    assert (retry["level"], retry["status"], "trying again" in retry["event"]) == ("warning", 503, True)
