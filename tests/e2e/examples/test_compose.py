"""The compose file: the commands of its hosts, with their environment, on a PostgreSQL that asks for a password."""

from __future__ import annotations

import re
import secrets
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from aistemsplitter_async.sandbox import Manual, Sandbox
from tests.e2e.examples.conftest import EXAMPLES, until
from tests.e2e.harness import CLI, MakeWav

SONGS = 3
Compose = dict[str, Any]


@pytest.fixture
def compose() -> Compose:
    import yaml

    read: Compose = yaml.safe_load((EXAMPLES / "compose.yaml").read_text(encoding="utf-8"))
    return read


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(separation="silent", requests_per_minute=60, progression=Manual()) as running:
        yield running


@pytest.fixture
def guarded(postgres_dsn: str) -> Iterator[tuple[str, str]]:
    """The URL of an empty database of a user who needs a password, and that password."""
    name, password = f"guarded_{uuid.uuid4().hex}", secrets.token_hex(8)
    url = postgres_dsn.partition("&schema=")[0]
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'".encode())
        admin.execute(f"CREATE DATABASE {name} OWNER {name}".encode())
        yield url.replace("postgres@/postgres?", f"{name}@/{name}?"), password
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
        admin.execute(f"DROP ROLE {name}".encode())


def test_what_a_service_names_is_there(compose: Compose) -> None:
    services = compose["services"]
    for service in services.values():
        for name, waited in service.get("depends_on", {}).items():
            assert waited["condition"] != "service_healthy" or "healthcheck" in services[name]
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert source.startswith("./") or source in compose["volumes"]
    assert services["host1"] == services["host2"]
    assert services["database"]["environment"]["POSTGRES_PASSWORD"] == services["host1"]["environment"]["PGPASSWORD"]


async def test_what_a_killed_host_had_in_hand_the_other_finishes_and_each_song_is_paid_for_once(
    *, compose: Compose, cli: CLI, sandbox: Sandbox, guarded: tuple[str, str], tmp_path: Path, make_wav: MakeWav
) -> None:
    url, password = guarded
    (tmp_path / "music").mkdir()
    for number in range(SONGS):
        (tmp_path / "music" / f"{number}.wav").write_bytes(make_wav(0.1 + number / 10))
    said = {"AISTEMSPLITTER_API_KEY": sandbox.api_key, "PGPASSWORD": password}  # in .env

    def start(host: str) -> Any:
        service = compose["services"][host]
        variables = {
            name: re.sub(r"\$\{(\w+):\?[^}]*\}", lambda found: said[found[1]], value)
            for name, value in service["environment"].items()
        }
        variables = {name: value.replace("postgresql://stems@database/stems", url) for name, value in variables.items()}
        folders = {
            inside: str(tmp_path / outside) for outside, inside in (line.split(":")[:2] for line in service["volumes"])
        }
        command, *words = service["command"]
        assert command == "aistemsplitter-async"
        assert not [secret for secret in said.values() if secret in " ".join(words)]
        environment = cli.with_(AISTEMSPLITTER_BASE_URL=sandbox.base_url, **variables)
        return environment.start(*(folders.get(word, word) for word in words))

    def ask(statement: str) -> Any:
        with psycopg.connect(url, password=password) as connection:
            return connection.execute(statement.encode()).fetchall()

    first = await start("host1")
    await until(lambda: len(sandbox.ledger.charges) == SONGS)
    second = await start("host2")
    await until(lambda: len(ask("SELECT FROM aistemsplitter.workers")) == 2)
    first.kill()
    await first.wait()
    # Nobody waits here until the dead is missed.
    ask(
        "UPDATE aistemsplitter.workers SET until = clock_timestamp() - interval '1 s'"
        " WHERE id = (SELECT DISTINCT owner FROM aistemsplitter.tracks) RETURNING id"
    )
    for split in sandbox.ledger.splits:
        for _ in range(2):
            await sandbox.step(split.split_id)
    ended = await cli.end(second)
    assert (ended.code, ended.err.count(f"{SONGS} split")) == (0, 1), ended.err
    assert password not in ended.err
    assert len(sandbox.ledger.charges) == SONGS
    assert len([*tmp_path.glob("stems/*/*.mp3")]) == 4 * SONGS
    assert [request.status for request in sandbox.ledger.requests if request.status >= 400] == []
