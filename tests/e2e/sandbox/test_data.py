"""A sandbox with a data folder continues where it ended, even after a kill."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from aistemsplitter_async.sandbox import Limits, Manual, Sandbox
from tests.e2e.harness import Connect, MakeWav

SONG = "https://example.com/a.mp3?seconds=10"

SERVE = """
import asyncio, json, sys
from aistemsplitter_async.sandbox import Sandbox
from aistemsplitter_async.sandbox.service.persistence import SQLiteRecords

if sys.argv[2] == "forgetful":
    SQLiteRecords.save = lambda self, *records: None

async def main():
    async with Sandbox(separation="silent", requests_per_minute=None, data=sys.argv[1], api_key="ast_k") as sandbox:
        print(sandbox.base_url, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_everything_is_there_again(tmp_path: Path, connect: Connect, make_wav: MakeWav) -> None:
    options: dict[str, Any] = {"data": tmp_path, "progression": Manual()}
    async with connect(**options) as api:
        key, base_url = api.sandbox.api_key, api.sandbox.base_url
        done = (await api.create(SONG, key="done")).json["data"]
        for _ in range(2):
            await api.sandbox.step(done["id"])
        stems = (await api.get(done["id"]))["stems"]
        waiting = (await api.create(await api.upload(make_wav(2.0)), key="waiting")).json["data"]
        reserved = await api.reserve(b"12345")
        uploaded = await api.upload(make_wav(3.0))
    async with connect(**options) as api:
        assert (api.sandbox.api_key, api.sandbox.base_url) == (key, base_url)
        assert api.sandbox.credits == 36_000 - 10 - 2
        assert (await api.create(SONG, key="done")).json["data"] == done
        assert (await api.create(SONG, key="waiting")).status == 422
        assert (await api.send("GET", stems["vocals"])).status == 200
        assert (await api.get(waiting["id"]))["status"] == "queued"
        for status in ("processing", "succeeded"):
            assert await api.sandbox.step(waiting["id"]) == status
        assert (await api.put(reserved, b"12345")).status == 200
        assert (await api.create(uploaded)).json["data"]["creditsUsed"] == 3
        charges = api.sandbox.ledger.charges
        assert [charge.idempotency_key for charge in charges] == ["done", "waiting", None]
        assert sum(charge.credits for charge in charges) == 36_000 - api.sandbox.credits


async def test_a_balance_that_was_set_outlives_the_sandbox(tmp_path: Path) -> None:
    for balance, after in ((36_000, 100), (100, 7)):
        async with Sandbox(separation="silent", data=tmp_path) as sandbox:
            assert sandbox.credits == balance
            sandbox.set_credits(after)


async def test_half_written_files_are_cleared_away(tmp_path: Path, connect: Connect, make_wav: MakeWav) -> None:
    async with connect(data=tmp_path) as api:
        source = await api.upload(make_wav())
    (tmp_path / "sources" / "upl_x.1234.part").write_bytes(b"half")
    async with connect(data=tmp_path):
        assert {path.name for path in (tmp_path / "sources").iterdir()} == {source["uploadId"]}


async def test_a_folder_belongs_to_one_sandbox_at_a_time(tmp_path: Path) -> None:
    async with Sandbox(separation="silent", data=tmp_path):
        with pytest.raises(RuntimeError, match="another sandbox is using"):
            await Sandbox(separation="silent", data=tmp_path).start()
    async with Sandbox(separation="silent", data=tmp_path):
        pass


async def test_a_file_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "sandbox.sqlite3").write_bytes(b"somebody's diary " * 100)
    with pytest.raises(RuntimeError, match="not a sandbox's file"):
        await Sandbox(separation="silent", data=tmp_path).start()
    assert (tmp_path / "sandbox.sqlite3").read_bytes().startswith(b"somebody")


async def test_what_is_secret_is_readable_by_the_owner_only(tmp_path: Path) -> None:
    async with Sandbox(separation="silent", data=tmp_path) as sandbox:
        assert sandbox.api_key == (tmp_path / "api-key").read_text()
        secret = sandbox.webhook_secret
        for name in ("api-key", "webhook-secret", "sandbox.sqlite3"):
            assert (tmp_path / name).stat().st_mode & 0o077 == 0
    again = Sandbox(separation="silent", data=tmp_path)
    with pytest.raises(RuntimeError, match="not running"):
        _ = again.api_key
    async with again:
        assert again.webhook_secret == secret


async def kill_after(answers: int, folder: Path, how: str) -> list[dict[str, Any]]:
    """Create splits until so many were acknowledged, then kill the sandbox with -9 in the middle of more."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVE, str(folder), how, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    base_url = (await process.stdout.readline()).decode().strip()
    acknowledged: list[dict[str, Any]] = []

    async def create(session: aiohttp.ClientSession, number: int) -> None:
        body = {"input": {"type": "direct_url", "url": SONG}}
        headers = {"Authorization": "Bearer ast_k", "Idempotency-Key": f"k{number}"}
        try:
            async with session.post(f"{base_url}/audio/splits", json=body, headers=headers) as response:
                acknowledged.append(json.loads(await response.read())["data"])
        except aiohttp.ClientError:
            return
        if len(acknowledged) == answers:
            process.send_signal(signal.SIGKILL)

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(create(session, number) for number in range(answers + 20)))
    await process.wait()
    return acknowledged


async def lost_and_overcharged(folder: Path, acknowledged: list[dict[str, Any]]) -> tuple[int, int]:
    async with Sandbox(separation="silent", data=folder, api_key="ast_k") as sandbox:
        known = {view.split_id for view in sandbox.ledger.splits}
        lost = sum(split["id"] not in known for split in acknowledged)
        return lost, 36_000 - sandbox.credits - 10 * len(known)


@pytest.mark.parametrize("answers", [1, 17, 60])
async def test_kill_9_loses_no_acknowledged_split_and_no_charge(tmp_path: Path, answers: int) -> None:
    acknowledged = await kill_after(answers, tmp_path, "honest")
    assert len(acknowledged) >= answers
    assert await lost_and_overcharged(tmp_path, acknowledged) == (0, 0)


async def test_a_sandbox_that_does_not_write_loses_splits_so_the_proof_can_fail(tmp_path: Path) -> None:
    acknowledged = await kill_after(5, tmp_path, "forgetful")
    assert (await lost_and_overcharged(tmp_path, acknowledged))[0] >= 5


async def test_the_oldest_finished_splits_are_forgotten_beyond_the_cap(connect: Connect) -> None:
    async with connect(limits=Limits(max_splits=3)) as api:
        made = [(await api.finish(SONG))["id"] for _ in range(5)]
        statuses = [(await api.call("GET", f"/audio/splits/{one}")).status for one in made]
        assert statuses == [404, 404, 200, 200, 200]
