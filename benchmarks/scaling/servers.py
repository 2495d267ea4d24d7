"""The places that workers may share a key through: what they are called, and how to stop and to empty them."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.e2e.stores.servers import Servers, find_postgres, find_valkey, stopped

PREFIX = "scale"


class Place:
    """Where workers share a key.

    Attributes:
        url: as `shared=` takes it; empty where they share nothing.
        environment: what the workers need besides.
        version: of the server.
    """

    url = ""
    version = ""

    def __init__(self) -> None:
        self.environment: dict[str, str] = {}

    async def stop(self, seconds: float) -> None:
        """Let it answer nothing for a while."""

    def empty(self) -> None:
        """Let it forget everything."""

    def close(self) -> None:
        """End it."""


class Host(Place):
    """A file on this machine."""

    url = "host"
    version = f"SQLite {sqlite3.sqlite_version}"

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="aistemsplitter-scale-"))
        self.environment["AISTEMSPLITTER_SHARED_DIR"] = str(self.folder)

    def _open(self) -> list[sqlite3.Connection]:
        files = [path for path in self.folder.rglob("*") if path.is_file() and path.read_bytes()[:6] == b"SQLite"]
        return [sqlite3.connect(path, isolation_level=None) for path in files]

    async def stop(self, seconds: float) -> None:
        connections = self._open()
        for connection in connections:
            connection.execute("BEGIN EXCLUSIVE")
        await asyncio.sleep(seconds)
        for connection in connections:
            connection.execute("ROLLBACK")
            connection.close()

    def empty(self) -> None:
        for connection in self._open():
            for (table,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall():
                connection.execute(f"DELETE FROM {table}")  # noqa: S608  # a name that the file gave
            connection.close()

    def close(self) -> None:
        shutil.rmtree(self.folder)


class Server(Place):
    """A server of our own."""

    kind: Any = ""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="aistemsplitter-scale-"))
        self.servers = Servers(self.folder)
        self.server = self.servers.start(self.kind)
        if "missing" in self.server:
            raise SystemExit(self.server["missing"])

    async def stop(self, seconds: float) -> None:
        with all_stopped(self.server["pid"]):
            await asyncio.sleep(seconds)

    def close(self) -> None:
        self.servers.close()
        shutil.rmtree(self.folder)


class Valkey(Server):
    kind = "valkey"

    def __init__(self) -> None:
        super().__init__()
        self.url = f"{self.server['url']}?prefix={PREFIX}:"
        self.version = run([find_valkey(), "--version"]).partition(" sha")[0]

    def empty(self) -> None:
        import redis

        with redis.Redis.from_url(self.server["url"]) as client:
            client.flushall()


class Postgres(Server):
    kind = "postgres"

    def __init__(self) -> None:
        super().__init__()
        self.url = f"{self.server['url']}&schema={PREFIX}"
        binaries = find_postgres()
        self.version = run([binaries / "postgres", "--version"]) if binaries else ""

    def empty(self) -> None:
        import psycopg
        from psycopg import sql

        with psycopg.connect(self.server["url"], autocommit=True) as connection:
            names = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", [PREFIX]).fetchall()
            for (name,) in names:
                connection.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(PREFIX, name)))


def run(command: list[Any]) -> str:
    return subprocess.check_output(command, text=True, cwd="/").strip()


@contextmanager
def all_stopped(pid: int) -> Iterator[None]:
    """Stop a server's processes for as long as the block runs."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    with ExitStack() as stack:
        for one in (pid, *map(int, children)):
            if Path(f"/proc/{one}").exists():
                stack.enter_context(stopped(one))
        yield


def open_place(mode: str) -> Place:
    """Return the place of a mode: "host", "valkey" or "postgres"; one that shares nothing otherwise."""
    return {"host": Host, "valkey": Valkey, "postgres": Postgres}.get(mode, Place)()
