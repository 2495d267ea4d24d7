"""The commands on a shared journal, as people meet them: real processes, a real PostgreSQL, and both streams."""

from __future__ import annotations

import math
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from aistemsplitter_async._databases.postgres import connect
from aistemsplitter_async.journal.moving import TABLES
from aistemsplitter_async.journal.place import JournalURL, parse_journal
from aistemsplitter_async.journal.postgres_reading import PostgresReader
from aistemsplitter_async.journal.store import JournalStore
from aistemsplitter_async.sandbox import Sandbox
from tests.e2e.harness import CLI, build_wav


@pytest.fixture
def database(postgres_dsn: str) -> JournalURL:
    place = parse_journal(postgres_dsn)
    assert isinstance(place, JournalURL)
    return place


@pytest.fixture
def music(tmp_path: Path) -> Path:
    folder = tmp_path / "music"
    folder.mkdir()
    for number in range(2):
        (folder / f"{number}.wav").write_bytes(build_wav(1.0, rate=8000 + number, channels=1))
    return folder


def content(database: JournalURL) -> dict[str, list[Any]]:
    with PostgresReader(database) as reader:
        return {table: sorted(reader.rows()[table](), key=repr) for table in TABLES}


async def test_a_library_goes_on_wherever_its_journal_is_moved(
    cli: CLI, music: Path, sandbox: Sandbox, database: JournalURL
) -> None:
    cli, url = cli.using(sandbox), database.database.shown
    shared = cli.with_(AISTEMSPLITTER_JOURNAL=url)
    assert (await cli.run("batch", music, "--into", "out")).code == 0
    exported = await cli.run("journal", "export", "out/.aistemsplitter.journal")
    assert [row["state"] for row in exported.json] == ["downloaded"] * 2
    assert "http" not in exported.out
    moved = await cli.run("journal", "move", "out/.aistemsplitter.journal", url)
    assert (moved.code, moved.err) == (0, "")
    assert f"moved 2 songs, and what is known of 2 files, every byte compared, to {url}" in moved.out
    for words in [("batch", music), ("batch", "--status"), ("batch", music, "--dry-run"), ("split", music / "0.wav")]:
        refused = await cli.run(*words, "--into", "out")
        assert (refused.code, refused.err.count("was moved to")) == (1, 1)
        assert url in refused.err
    same = await shared.run("journal", "export", url)
    assert same.out == exported.out
    (music / "2.wav").write_bytes(build_wav(1.0, rate=8002, channels=1))
    before = content(database)
    planned = await shared.run("batch", music, "--into", "out", "--dry-run", "--json")
    assert sorted(row["plan"] for row in planned.json if "plan" in row) == ["finished", "finished", "split"]
    assert content(database) == before
    ended = await shared.run("batch", music, "--into", "out")
    assert "1 split, 2 finished earlier" in ended.err
    status = await shared.run("batch", "--status")
    assert status.out.split() == ["state", "no", "worker", "is", "running", "finished", "3"]
    assert (await cli.run("journal", "move", url, "back.journal")).code == 0
    assert "was moved to" in (await shared.run("batch", "--status")).problem
    again = await cli.run("batch", music, "--into", "out", "--journal", "back.journal")
    assert "3 finished earlier" in again.err
    assert len(sandbox.ledger.charges) == 3


async def test_status_tells_who_is_at_work_and_a_move_waits_for_them(cli: CLI, database: JournalURL) -> None:
    url = database.database.shown
    with closing(JournalStore(database)) as store:
        store.begin()
        store.join_budget(500.0)
        store.commit()
        status = await cli.run("batch", "--status", "--journal", url)
        assert "1 worker running" in status.out
        assert f"process {os.getpid()} for 0:0" in status.out
        assert "0 of 500 spent together" in status.out
        (printed,) = (await cli.run("batch", "--status", "--journal", url, "--json")).json
        assert [worker["pid"] for worker in printed["workers"]] == [os.getpid()]
        assert printed["credits"] == {"most": 500.0, "used": 0.0, "reserved": 0.0}
        moved = await cli.run("journal", "move", url, "a.journal")
        assert moved.code == 75
        assert f"in use by 1 worker: process {os.getpid()} on " in moved.problem
        assert not (cli.folder / "a.journal").exists()


def test_workers_without_a_limit_have_no_credits_to_tell(database: JournalURL) -> None:
    with closing(JournalStore(database)) as store:
        store.begin()
        store.join_budget(math.inf)
        store.commit()
        with PostgresReader(database) as reader:
            assert [worker.process for worker in reader.workers()] == [os.getpid()]
            assert reader.credits() is None


async def test_what_is_wrong_with_a_database_is_said_in_a_line(cli: CLI, database: JournalURL) -> None:
    url, schema = database.database.shown, database.database.schema
    for words in [("journal", "export", url), ("batch", "--status", "--journal", url), ("journal", "move", url, "a")]:
        missing = await cli.run(*words)
        assert (missing.code, missing.err.count("\n")) == (1, 1)
        assert f"there is no journal at {url}" in missing.err
    with connect(database.database, timeout=5.0) as admin:
        admin.execute(f"CREATE SCHEMA {schema}; CREATE TABLE {schema}.meta AS SELECT 'version' AS name, '99' AS value")
    for words in [("journal", "export", url), ("batch", "--status", "--journal", url), ("journal", "move", url, "a")]:
        newer = await cli.run(*words)
        assert (newer.code, newer.err.count("\n")) == (1, 1)
        assert "newer version of aistemsplitter_async; upgrade it" in newer.err


async def test_a_server_that_is_down_is_worth_another_try_and_its_password_is_nowhere(cli: CLI, music: Path) -> None:
    pytest.importorskip("psycopg")
    secret = "geheim-geheim"
    down = cli.with_(
        AISTEMSPLITTER_API_KEY="ast_test_1234567890",
        AISTEMSPLITTER_JOURNAL=f"postgresql://me:{secret}@127.0.0.1:1/songs",
    )
    for words in [
        ("batch", music, "-vv"),
        ("batch", "--status", "--json"),
        ("split", music / "0.wav"),
        ("journal", "export", "postgresql://me@127.0.0.1:1/songs"),
    ]:
        ended = await down.run(*words)
        assert ended.code == 75
        assert "cannot reach the journal in PostgreSQL at 127.0.0.1:1/songs: " in ended.err
        assert secret not in ended.out + ended.err
