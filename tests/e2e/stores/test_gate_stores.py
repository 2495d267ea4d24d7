"""What all stores of a gate's state promise, against real ones: a file, a Valkey, a PostgreSQL."""

from __future__ import annotations

import asyncio
import gc
import json
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

from aistemsplitter_async._databases import postgres, redis
from aistemsplitter_async._gate.store import Stored, StoreUnavailableError
from aistemsplitter_async.shared import PostgresGateStore, RedisGateStore
from aistemsplitter_async.shared.urls import open_gate_store
from tests.e2e.stores.conftest import StartServer
from tests.e2e.stores.servers import stopped

PATIENT = 30.0  # s
HASTY = 0.05  # s


@attrs.frozen
class Place:
    """Where a store keeps things, and what happens to it from outside.

    Attributes:
        url: of the store.
        empty: makes it forget everything.
        hang: a block during which it answers nobody.
    """

    url: str
    empty: Callable[[], object]
    hang: Callable[[], AbstractContextManager[None]]

    def store(self) -> Any:
        """Return a store that is patient: on a loaded machine nothing is too late."""
        return be(open_gate_store(self.url, {}), PATIENT)


def be(store: Any, timeout: float) -> Any:
    """Have a store wait for `timeout` seconds from now on."""
    store._timeout = timeout
    return store


async def connection_of(store: Any) -> object:
    """Return which connection a store has, as its server knows it."""
    if isinstance(store, RedisGateStore):
        return await store._lines.get()._client.client_id()
    if isinstance(store, PostgresGateStore) and (connection := store._lines.get().connection) is not None:
        return connection.info.backend_pid
    return None


@pytest.fixture(params=["sqlite", "redis", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "sqlite":
        path = tmp_path / "state" / "gates.db"
        return Place(f"sqlite://{path}", path.unlink, lambda: locked(path))
    if request.param == "redis":
        return redis_place(request.getfixturevalue("valkey_url"), 0)
    dsn: str = request.getfixturevalue("postgres_dsn")
    return Place(dsn, lambda: run(dsn, "TRUNCATE {}.gates"), lambda: stopped_sessions(dsn))


def redis_place(url: str, pid: int) -> Place:
    return Place(url, lambda: empty_valkey(url), lambda: stopped(pid))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock a file as a process does that was stopped while it wrote."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        db.close()


def empty_valkey(url: str) -> None:
    from redis import Redis

    parsed = redis.parse_redis_url(url)
    with Redis.from_url(parsed.url.reveal()) as client:
        client.delete(*client.keys(f"{parsed.prefix}*"))


def run(dsn: str, statement: str, *arguments: object) -> list[Any]:
    """Run a statement, in which `{}` is the schema, on a connection of its own."""
    url = postgres.parse_dsn(dsn)
    with postgres.connect(url, timeout=PATIENT) as connection:
        cursor = connection.execute(statement.format(url.schema).encode(), arguments or None)
        return cursor.fetchall() if cursor.description else []


def sessions(dsn: str) -> list[int]:
    """Return the server's processes for connections that used this test's schema last."""
    found = run(dsn, "SELECT pid FROM pg_stat_activity WHERE position('{}' IN query) > 0 AND pid <> pg_backend_pid()")
    return [pid for (pid,) in found]


@contextmanager
def stopped_sessions(dsn: str) -> Iterator[None]:
    pids = sessions(dsn)
    assert pids
    with ExitStack() as stack:
        for pid in pids:
            stack.enter_context(stopped(pid))
        yield


async def test_a_text_is_kept_only_over_the_version_that_was_read(place: Place) -> None:
    async with place.store() as store:
        nothing = await store.load("key")
        assert (nothing.text, nothing.version, nothing.restarted) == (None, 0, False)
        assert await store.swap("key", 0, "one", 60.0)
        assert not await store.swap("key", 0, "a second first one", 60.0)
        one = await store.load("key")
        assert (one.text, one.restarted) == ("one", False)
        assert one.now >= nothing.now
        long = "x" * 20_000  # more than a page of a database
        assert await store.swap("key", one.version, long, 60.0)
        assert not await store.swap("key", one.version, "too late", 60.0)
        two = await store.load("key")
        assert two.text == long
        assert two.version > one.version
        assert (await store.load("other")).version == 0


CHILDREN = """
import asyncio, json, os, sys
from aistemsplitter_async.shared import PostgresGateStore, RedisGateStore
from aistemsplitter_async.shared.urls import open_gate_store

async def add(store, times):
    latest = 0.0
    while times:
        kept = await store.load("key")
        assert kept.now >= latest, "the clock ran back"
        latest = kept.now
        count, written_at = json.loads(kept.text or "[0, 0.0]")
        assert kept.now >= written_at, "it is another clock"
        times -= await store.swap("key", kept.version, json.dumps([count + 1, kept.now]), 60.0)
    if hasattr(store, "aclose"):
        await store.aclose()

store = open_gate_store(sys.argv[1], os.environ)
store._timeout = 30.0
loop = asyncio.new_event_loop()
loop.run_until_complete(store.load("key"))  # a server that loads the application, and then forks its workers
children = []
for _ in range(4):
    child = os.fork()
    if not child:
        asyncio.run(add(store, 25))
        os._exit(0)
    children.append(child)
for _ in range(5):
    loop.run_until_complete(store.load("key"))  # and goes on itself
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
kept = loop.run_until_complete(store.load("key"))
loop.run_until_complete(store.aclose())
print(json.dumps([codes, json.loads(kept.text)[0]]))
"""


def test_no_update_of_four_forked_processes_is_lost(place: Place) -> None:
    done = subprocess.run([sys.executable, "-c", CHILDREN, place.url], capture_output=True, check=False, timeout=60)
    assert done.stdout, done.stderr.decode()
    assert json.loads(done.stdout) == [[0, 0, 0, 0], 100], done.stderr.decode()


async def test_what_nobody_changes_is_forgotten_in_time(place: Place) -> None:
    async with place.store() as store:
        assert await store.swap("old", 0, "text", 0.001)
        assert await store.swap("young", 0, "text", 60.0)
        await asyncio.sleep(0.002)
        assert await store.swap("new", 0, "text", 60.0)
        assert (await store.load("old")).version == 0
        assert (await store.load("young")).text == "text"


async def test_what_was_lost_is_not_mistaken_for_what_comes_after(place: Place) -> None:
    async with place.store() as store, place.store() as other:
        assert await store.swap("key", 0, "one", 60.0)
        one = await store.load("key")
        await other.load("key")
        place.empty()
        assert (await store.load("key")).version == 0
        assert await other.swap("key", 0, "another first one", 60.0)
        assert not await store.swap("key", one.version, "two", 60.0)
        assert (await store.load("key")).text == "another first one"


async def test_a_store_that_hangs_is_an_error_soon_and_is_used_again(place: Place, start_server: StartServer) -> None:
    if "unix" in place.url:  # not that of the other tests
        server = start_server("valkey", own="mine")
        place = redis_place(server["url"], server["pid"])
    async with place.store() as store:
        assert await store.swap("key", 0, "text", 60.0)
        version = (await store.load("key")).version
        with place.hang():
            be(store, HASTY)
            with pytest.raises(StoreUnavailableError, match=r"does not answer|has been locked") as caught:
                await store.swap("key", version, "more", 60.0)
            assert not caught.value.permanent
            be(store, PATIENT)
        assert (await store.load("key")).text in ("text", "more")


async def test_a_caller_that_is_cancelled_amid_a_call_leaves_the_store_in_order(place: Place) -> None:
    async with place.store() as store:
        assert await store.swap("key", 0, "0", 60.0)
        connection, last = await connection_of(store), "0"
        for turns in range(12):
            version = (await store.load("key")).version
            calls = [asyncio.ensure_future(store.load("key"))]
            calls.append(asyncio.ensure_future(store.swap("key", version, str(turns), 60.0)))
            for _ in range(turns):
                await asyncio.sleep(0)
            for call in calls:
                call.cancel()
            await asyncio.wait(calls)
            kept = await store.load("key")
            assert kept.text in (last, str(turns))
            last = kept.text
        assert await connection_of(store) == connection


async def test_a_closed_store_has_nothing_open_and_opens_again(place: Place) -> None:
    store = place.store()
    await store.aclose()
    for text in ("one", "two"):
        kept = await store.load("key")
        assert await store.swap("key", kept.version, text, 60.0)
        await store.aclose()
        await store.aclose()
    gc.collect()  # pytest fails the test for what warns then
    if place.url.startswith("sqlite"):
        assert [path.name for path in Path(place.url.removeprefix("sqlite://")).parent.iterdir()] == ["gates.db"]


def test_event_loops_one_after_another_and_side_by_side_share_a_store(place: Place) -> None:
    store = place.store()
    meeting = threading.Barrier(3)

    async def add(times: int) -> None:
        while times:
            kept = await store.load("key")
            times -= await store.swap("key", kept.version, str(int(kept.text or 0) + 1), 60.0)
        await store.aclose()

    def meet() -> None:
        meeting.wait()
        asyncio.run(add(20))

    asyncio.run(add(1))
    threads = [threading.Thread(target=meet) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    async def read() -> Stored:
        async with store:
            kept: Stored = await store.load("key")
            return kept

    assert asyncio.run(read()).text == "61"


async def test_a_store_that_is_used_by_many_at_once_answers_all(place: Place) -> None:
    async with place.store() as one, place.store() as other:
        kept = await asyncio.gather(*(store.load("key") for store in (one, other) for _ in range(10)))
        assert {one.version for one in kept} == {0}
        swapped = await asyncio.gather(
            *(store.swap("key", 0, "text", 60.0) for store in (one, other) for _ in range(10))
        )
        assert sum(swapped) == 1
