"""The stores on servers: what is wrong with a server or its rights, and what the stores leave on it."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import traceback
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aistemsplitter_async._databases import postgres, redis
from aistemsplitter_async._gate.store import StoreUnavailableError
from aistemsplitter_async.shared import PostgresGateStore, RedisGateStore
from aistemsplitter_async.shared.urls import open_gate_store
from tests.e2e.stores.conftest import StartServer
from tests.e2e.stores.servers import Servers
from tests.e2e.stores.test_gate_stores import PATIENT, be, run, sessions

CANARY = "c4nary-p4ss"


def raw(url: str) -> Any:
    return redis.connect_redis(redis.parse_redis_url(url), timeout=PATIENT)


async def refusal(store: Any, *, permanent: bool) -> str:
    """Return why a store cannot be used; nothing of it has a secret, not even what a debugger or a log sees."""
    with pytest.raises(StoreUnavailableError) as caught:
        await store.swap("key", 1, "text", 60.0)
    error = caught.value
    assert error.permanent is permanent
    assert error.__cause__ is None
    assert error.__context__ is None
    seen = [repr(store), repr(error), *traceback.TracebackException.from_exception(error, capture_locals=True).format()]
    assert not [text for text in seen if CANARY in text]
    await store.aclose()
    return str(error)


async def test_a_password_that_is_refused_is_said_without_it(
    start_server: StartServer, postgres_dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server = start_server("valkey", own="guarded")
    async with raw(server["url"]) as client:
        await client.config_set("requirepass", CANARY)
    path = server["url"].removeprefix("unix://")
    async with RedisGateStore(f"unix://:{CANARY}@{path}", timeout=PATIENT) as store:
        assert (await store.load("key")).version == 0
    wrong = await refusal(RedisGateStore(f"unix://:{CANARY}x@{path}", timeout=PATIENT), permanent=True)
    assert re.search("WRONGPASS|invalid username-password", wrong)
    assert "asks for a password" in await refusal(RedisGateStore(server["url"], timeout=PATIENT), permanent=True)

    schema = postgres.parse_dsn(postgres_dsn).schema
    run(postgres_dsn, f"DROP ROLE IF EXISTS guarded; CREATE ROLE guarded LOGIN PASSWORD '{CANARY}'")
    run(postgres_dsn, "CREATE SCHEMA {} AUTHORIZATION guarded")
    host = postgres_dsn.partition("?")[2]
    async with PostgresGateStore(f"postgresql://guarded:{CANARY}@/postgres?{host}", timeout=PATIENT) as store:
        assert await store.swap("key", 0, "text", 60.0)
    mistaken = PostgresGateStore(f"postgresql://guarded:{CANARY}x@/postgres?{host}", timeout=PATIENT)
    assert "password authentication failed" in await refusal(mistaken, permanent=True)
    assert "no password supplied" in await refusal(
        PostgresGateStore(f"postgresql://guarded@/postgres?{host}", timeout=PATIENT), permanent=True
    )
    run(postgres_dsn, f"DROP SCHEMA {schema} CASCADE; DROP ROLE guarded")
    assert CANARY not in caplog.text


@pytest.mark.parametrize("kind", ["valkey", "postgres"])
async def test_a_server_that_was_restarted_is_used_again(
    start_server: StartServer, servers: Servers, kind: Any
) -> None:
    server = start_server(kind, own="restarted")
    async with be(open_gate_store(server["url"], {}), PATIENT) as store:
        assert await store.swap("key", 0, "text", 60.0)
        await store.load("key")
        servers.kill(kind, own="restarted")
        with pytest.raises(StoreUnavailableError) as caught:
            await store.load("key")
        assert not caught.value.permanent
        again = await asyncio.to_thread(start_server, kind, own="restarted")
        assert again["pid"] != server["pid"]
        kept = await store.load("key")
        assert await store.swap("key", kept.version, "more", 60.0)


async def test_a_connection_that_the_server_closed_while_it_was_idle_is_no_error(
    valkey_url: str, postgres_dsn: str
) -> None:
    async with be(RedisGateStore(valkey_url), PATIENT) as store, raw(valkey_url) as client:
        assert await store.swap("key", 0, "text", 60.0)
        number = await store._lines.get()._client.client_id()
        await client.client_kill_filter(_id=number)
        await client.script_flush()  # and it has forgotten what it was taught
        assert (await store.load("key")).text == "text"
        assert await store._lines.get()._client.client_id() != number
    async with be(PostgresGateStore(postgres_dsn), PATIENT) as store:
        assert await store.swap("key", 0, "text", 60.0)
        version = (await store.load("key")).version
        for pid in sessions(postgres_dsn):
            run(postgres_dsn, "SELECT pg_terminate_backend(%s, 5000)", pid)
        assert await store.swap("key", version, "more", 60.0)


# --- Redis and Valkey


@pytest.fixture
async def own_valkey(start_server: StartServer) -> str:
    return str(start_server("valkey", own=uuid.uuid4().hex)["url"])


async def test_a_replica_is_an_error_that_passes_with_the_next_failover(own_valkey: str) -> None:
    store = RedisGateStore(own_valkey, timeout=PATIENT)
    assert await store.swap("key", 0, "text", 60.0)
    version = (await store.load("key")).version
    async with raw(own_valkey) as client:
        await client.execute_command("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(StoreUnavailableError, match="read only replica") as caught:
            await store.swap("key", version, "more", 60.0)
        assert not caught.value.permanent
        await client.execute_command("REPLICAOF", "NO", "ONE")
    assert await store.swap("key", version, "more", 60.0)
    await store.aclose()


async def test_a_server_without_memory_or_rights_says_so(own_valkey: str) -> None:
    store = RedisGateStore(own_valkey, timeout=PATIENT)
    async with raw(own_valkey) as client:
        await client.config_set("maxmemory", 1)
        with pytest.raises(StoreUnavailableError, match="maxmemory") as caught:
            await store.swap("key", 0, "text", 60.0)
        assert not caught.value.permanent
        await client.config_set("maxmemory", 0)
        assert await store.swap("key", 0, "text", 60.0)
        await store.aclose()
        await client.execute_command("ACL", "SETUSER", "reader", "on", f">{CANARY}", "~*", "+@read")
        rights = "+evalsha +script|load +hget +hmget +hset +pexpire +time"  # as in docs/sharing.md
        await client.execute_command(
            "ACL", "SETUSER", "writer", "on", f">{CANARY}", "~aistemsplitter:*", *rights.split()
        )
        await client.script_flush()
    path = own_valkey.removeprefix("unix://")
    async with RedisGateStore(f"unix://writer:{CANARY}@{path}", timeout=PATIENT) as store:
        kept = await store.load("key")
        assert await store.swap("key", kept.version, "more", 60.0)
    wrong = await refusal(RedisGateStore(f"unix://reader:{CANARY}@{path}", timeout=PATIENT), permanent=True)
    assert "no permissions" in wrong


@pytest.mark.parametrize(
    ("answer", "said", "permanent"),
    [
        (b"-MOVED 1234 10.0.0.1:6379\r\n", "Redis Cluster, which is not supported", True),
        (b"-LOADING Valkey is loading the dataset in memory\r\n", "loading", False),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "Redis at 127.0.0.1", False),
        (b"", "Redis at 127.0.0.1", False),  # and closes
    ],
)
async def test_what_answers_otherwise_is_an_error(answer: bytes, said: str, permanent: bool) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            if b"EVALSHA" not in data:  # what a client says of itself first
                writer.write(b"+OK\r\n" * data.count(b"\r\n*") + b"+OK\r\n")
            elif answer:
                writer.write(answer)
            else:
                break
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        store = RedisGateStore(f"redis://:{CANARY}@127.0.0.1:{port}/0?protocol=2", timeout=PATIENT)
        assert said in await refusal(store, permanent=permanent)


async def test_a_host_that_takes_no_connection_is_an_error_soon() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:  # the queue is full: what comes next is not even refused
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        said = await refusal(RedisGateStore(f"redis://127.0.0.1:{port}", timeout=0.05), permanent=False)
        assert said == f"Redis at 127.0.0.1:{port} does not answer within 0.05 s"
        said = await refusal(PostgresGateStore(f"postgresql://127.0.0.1:{port}/x", timeout=0.05), permanent=False)
        assert said == f"PostgreSQL at 127.0.0.1:{port}/x does not answer within 0.05 s"
        for filler in fillers:
            filler.close()


# --- PostgreSQL


@pytest.fixture
async def pg(postgres_dsn: str) -> AsyncIterator[Any]:
    async with PostgresGateStore(postgres_dsn, timeout=PATIENT) as store:
        yield store


async def test_a_table_is_made_once_by_all_who_come_at_once(postgres_dsn: str) -> None:
    stores = [PostgresGateStore(postgres_dsn, timeout=PATIENT) for _ in range(4)]
    kept = await asyncio.gather(*(store.load("key") for store in stores))
    assert [one.version for one in kept] == [0] * 4
    for store in stores:
        await store.aclose()


async def test_a_commit_does_not_wait_for_the_disk_and_nothing_stays_set_in_the_session(
    pg: PostgresGateStore,
) -> None:
    assert await pg.swap("key", 0, "text", 60.0)
    connection = pg._lines.get().connection
    assert connection is not None
    ahead = 0
    for _ in range(20):
        kept = await pg.load("key")
        assert await pg.swap("key", kept.version, "text", 60.0)
        cursor = await connection.execute("SELECT pg_current_wal_insert_lsn() > pg_current_wal_flush_lsn()")
        row = await cursor.fetchone()
        ahead += row is not None and row[0]
    assert ahead, "every commit was flushed at once"
    for name, value in (("synchronous_commit", "on"), ("lock_timeout", "0"), ("statement_timeout", "0")):
        cursor = await connection.execute("SELECT current_setting(%s)", (name,))
        assert await cursor.fetchone() == (value,)
    cursor = await connection.execute("SELECT count(*) FROM pg_prepared_statements")
    assert await cursor.fetchone() == (0,)


async def test_a_row_that_is_written_often_takes_no_more_room(start_server: StartServer) -> None:
    # Where another test keeps a transaction open, no old version of a row could be removed.
    dsn = f"{start_server('postgres', own='restarted')['url']}&schema=rows"
    text = str([number * 7919 % 60_000 / 1000 for number in range(400)])  # like a full window of 1,200
    async with PostgresGateStore(dsn, timeout=PATIENT) as pg:
        assert await pg.swap("key", 0, text, 60.0)
        version = (await pg.load("key")).version
        for number in range(100):
            assert await pg.swap("key", version + number, text, 60.0)
    (size,) = run(dsn, "SELECT pg_total_relation_size('{}.gates')")[0]
    assert size < 10 * 8192  # instead of 50 pages and more, until autovacuum comes


async def test_a_row_that_somebody_holds_is_not_waited_for_and_leaves_no_session_behind(
    pg: PostgresGateStore, postgres_dsn: str
) -> None:
    assert await pg.swap("key", 0, "text", 60.0)
    version = (await pg.load("key")).version
    url = postgres.parse_dsn(postgres_dsn)
    async with await postgres.connect_async(url, timeout=PATIENT) as other:
        for lock in ("SELECT FROM {}.gates FOR UPDATE", "LOCK TABLE {}.gates"):
            async with other.transaction():
                await other.execute(lock.format(url.schema).encode())
                be(pg, 0.1)
                with pytest.raises(StoreUnavailableError, match=r"lock timeout|does not answer"):
                    await pg.swap("key", version, "more", 60.0)
                be(pg, PATIENT)
                async with asyncio.timeout(PATIENT):
                    while await waiting(other, url.schema):  # each look takes a while
                        pass
        assert await pg.swap("key", version, "more", 60.0)


async def waiting(connection: Any, schema: str) -> int:
    """Return how many sessions wait for a lock to do something in a schema."""
    cursor = await connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND position(%s IN query) > 0", (schema,)
    )
    (count,) = await cursor.fetchone()
    return int(count)


async def test_who_may_not_create_uses_what_is_there_and_is_told_otherwise(postgres_dsn: str) -> None:
    role = f"user_{uuid.uuid4().hex}"
    theirs = postgres_dsn.replace("postgres@", f"{role}@")
    run(postgres_dsn, f"CREATE ROLE {role} LOGIN")
    said = await refusal(PostgresGateStore(theirs, timeout=PATIENT), permanent=True)
    assert "permission denied" in said
    assert "grant USAGE and CREATE on schema test_" in said
    async with PostgresGateStore(postgres_dsn, timeout=PATIENT) as owner:
        await owner.load("key")
    run(
        postgres_dsn,
        f"GRANT USAGE ON SCHEMA {{}} TO {role}; GRANT SELECT, INSERT, UPDATE, DELETE ON {{}}.gates TO {role}".replace(
            "{}", "{0}"
        ),
    )
    async with PostgresGateStore(theirs, timeout=PATIENT) as store:
        assert await store.swap("key", 0, "text", 60.0)


async def test_a_standby_is_an_error_that_passes_with_the_failover(postgres_dsn: str) -> None:
    role = f"user_{uuid.uuid4().hex}"
    run(postgres_dsn, f"CREATE ROLE {role} LOGIN SUPERUSER; ALTER ROLE {role} SET default_transaction_read_only = on")
    async with PostgresGateStore(postgres_dsn.replace("postgres@", f"{role}@"), timeout=PATIENT) as store:
        for _ in range(2):
            with pytest.raises(StoreUnavailableError, match="it is a standby, or read-only") as caught:
                await store.swap("key", 0, "text", 60.0)
            assert not caught.value.permanent
        run(postgres_dsn, f"ALTER ROLE {role} RESET default_transaction_read_only")
        assert await store.swap("key", 0, "text", 60.0), "it asks a new connection"


@pytest.mark.parametrize(
    ("change", "said"), [("dbname=missing", "does not exist"), ("nonsense=1", "nonsense"), ("sslmode=odd", "sslmode")]
)
async def test_what_is_wrong_with_a_url_is_for_good(postgres_dsn: str, change: str, said: str) -> None:
    store = PostgresGateStore(f"{postgres_dsn}&{change}", timeout=PATIENT)
    assert said in await refusal(store, permanent=True)
