"""The servers of the tests, and the connections that everything on them uses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from aistemsplitter_async._databases import postgres, redis
from tests.e2e.stores.conftest import StartServer
from tests.e2e.stores.servers import Servers


async def test_a_valkey_answers(valkey_url: str) -> None:
    url = redis.parse_redis_url(valkey_url)
    async with redis.connect_redis(url, timeout=5.0) as client:
        assert await client.ping()
        assert url.prefix.startswith("test-")


async def test_a_postgres_answers_and_keeps_what_it_promises(postgres_dsn: str) -> None:
    async with await postgres.connect_async(postgres.parse_dsn(postgres_dsn), timeout=5.0) as connection:
        cursor = await connection.execute("SHOW fsync")
        assert await cursor.fetchone() == ("on",)
        cursor = await connection.execute("SELECT current_setting('application_name')")
        assert await cursor.fetchone() == ("aistemsplitter-async",)


def test_postgres_answers_a_thread(postgres_dsn: str) -> None:
    with postgres.connect(postgres.parse_dsn(postgres_dsn), timeout=5.0) as connection:
        row: Any = connection.execute("SELECT 1").fetchone()
        assert row == (1,)


def test_a_server_of_ones_own_is_started_again_with_its_files(start_server: StartServer) -> None:
    first = start_server("postgres", own="mine")
    url = postgres.parse_dsn(first["url"])
    with postgres.connect(url, timeout=5.0) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS value")
    os.kill(first["pid"], signal.SIGKILL)
    while (again := start_server("postgres", own="mine"))["pid"] == first["pid"]:
        time.sleep(0.01)
    with postgres.connect(postgres.parse_dsn(again["url"]), timeout=5.0) as connection:
        assert connection.execute("SELECT value FROM kept").fetchone() == (7,)
    os.kill(again["pid"], signal.SIGKILL)


def test_a_server_outlives_the_worker_that_started_it(tmp_path: Path) -> None:
    first, second = Servers(tmp_path), Servers(tmp_path)
    started = first.start("valkey")
    if "missing" in started:
        pytest.skip(started["missing"])
    assert second.start("valkey") == started
    first.close()
    assert second.start("valkey") == started
    time.sleep(0.02)
    os.kill(started["pid"], 0)
    second.close()


def test_servers_end_with_whoever_started_them_even_if_that_is_killed(tmp_path: Path) -> None:
    code = textwrap.dedent("""
        import json, sys, time
        from pathlib import Path
        from tests.e2e.stores.servers import Servers
        servers = Servers(Path(sys.argv[1]))
        print(json.dumps(servers.start("valkey")), flush=True)
        time.sleep(60)
    """)
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]
    ) as process:
        assert process.stdout is not None
        server = json.loads(process.stdout.readline())
        if "missing" in server:
            process.kill()
            pytest.skip(server["missing"])
        assert Path(server["folder"]).exists()
        process.kill()
    until = time.monotonic() + 30
    while Path(server["folder"]).parent.exists():
        assert time.monotonic() < until
        time.sleep(0.01)
    with pytest.raises(ProcessLookupError):
        os.kill(server["pid"], 0)
