"""The PGQueuer worker: whatever happens to it, a song is paid for once."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from aistemsplitter_async.sandbox import Sandbox, faults
from tests.e2e.examples.conftest import EXAMPLES, Load, Run, until
from tests.e2e.harness import MakeWav


async def test_a_song_whose_worker_was_killed_is_paid_for_once_however_often_it_is_ordered(
    *,
    run: Run,
    sandbox: Sandbox,
    load: Load,
    database: str,
    tmp_path: Path,
    make_wav: MakeWav,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import asyncpg
    import pgqueuer
    from pgqueuer.types import QueueExecutionMode

    monkeypatch.setenv("PGDSN", database)
    for name in ("one", "other"):
        (tmp_path / f"{name}.wav").write_bytes(make_wav(0.1 + len(name) / 10))
    example = load("pgqueuer_worker")
    connection = await asyncpg.connect(database)
    await pgqueuer.Queries.from_asyncpg_connection(connection).install()
    await connection.close()
    await example.order("one.wav")
    sandbox.faults.add("create", faults.Stall())
    worker = await run(EXAMPLES / "pgqueuer_worker.py")
    await until(lambda: sandbox.ledger.charges)  # the worker does not learn of this
    worker.kill()
    await worker.wait()
    with psycopg.connect(database) as admin:  # nobody waits here for the dead to be missed
        admin.execute("UPDATE aistemsplitter.workers SET until = clock_timestamp() - interval '1 s'")

    await example.order("other.wav", "one.wav")
    soon = timedelta(seconds=0.1)
    async with asyncio.timeout(60):
        await pgqueuer.run(
            example.work, mode=QueueExecutionMode.drain, dequeue_timeout=soon, heartbeat_timeout=soon,
            shutdown=asyncio.Event(),
        )  # fmt: skip
    assert len(sandbox.ledger.charges) == 2
    assert sorted(file.parent.name for file in tmp_path.glob("stems/*/vocals.mp3")) == ["one", "other"]
    with psycopg.connect(database) as admin:
        assert admin.execute("SELECT status FROM pgqueuer").fetchall() == []
