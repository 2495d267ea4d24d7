"""A gate's state in PostgreSQL: one row per key, changed under compare-and-set in one statement.

Nothing depends on the session, which a pooler may exchange between two statements: what a statement needs to be set, it
sets itself, for its own transaction.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Coroutine
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from aistemsplitter_async._databases.postgres import connect_async, is_permanent, load_psycopg, parse_dsn, redact
from aistemsplitter_async._gate.store import Stored, StoreUnavailableError
from aistemsplitter_async._tasks import cancel_and_wait, run_in_thread
from aistemsplitter_async.config import STORE_TIMEOUT
from aistemsplitter_async.errors import ConfigurationError
from aistemsplitter_async.shared.calls import Calls, PerLoop

if TYPE_CHECKING:
    from psycopg import AsyncConnection

T = TypeVar("T")
Row = tuple[Any, ...]
Answer = tuple[list[Row], int]
"""Rows, and how many were changed."""

# A text stays in its row, and a row in its page, which has room for another: an update then touches no index and no
# second table, and the next that reads the page clears the old row away, without autovacuum.
_CREATE: Final = """
CREATE TABLE "{schema}".gates (
    key text PRIMARY KEY, version bigint NOT NULL, text text NOT NULL, expires_at timestamptz NOT NULL
) WITH (
    fillfactor = 20, toast_tuple_target = 8160, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000
);
ALTER TABLE "{schema}".gates ALTER COLUMN text SET STORAGE MAIN
"""
_IS_MISSING: Final = "SELECT to_regnamespace(%s) IS NULL, to_regclass(%s) IS NULL"
_LOAD: Final = """
SELECT kept.text, kept.version, extract(epoch FROM clock_timestamp())::float8
FROM (VALUES (%(key)s)) AS asked (key) LEFT JOIN "{schema}".gates AS kept ON kept.key = asked.key
"""
# A crash may make the server forget what its clients still know. No row is waited for longer than an answer may take.
_SETTINGS: Final = """
(SELECT set_config('synchronous_commit', 'off', true), set_config('lock_timeout', %(patience)s, true)) AS settings
"""
_SWAP: Final = """
UPDATE "{schema}".gates SET version = version + 1, text = %(text)s, expires_at = clock_timestamp() + %(keep)s
FROM {settings} WHERE key = %(key)s AND version = %(version)s
"""
_FORGET: Final = 'DELETE FROM "{schema}".gates WHERE expires_at < clock_timestamp()'
_PUT: Final = """
INSERT INTO "{schema}".gates (key, version, text, expires_at)
SELECT %(key)s, %(version)s, %(text)s, clock_timestamp() + %(keep)s FROM {settings} ON CONFLICT DO NOTHING
"""
_CANCEL: Final = 5.0  # s for a server to give up what it does, while the caller has had its error
_NO_TABLE: Final = ("42P01", "3F000")  # or no schema


class PostgresGateStore:
    """Keeps a gate's state in a table of PostgreSQL (12 or newer), on whose clock all processes agree.

    It needs the extra `postgres`. The table `gates` is created if it is missing. Poolers that give every transaction
    another session (PgBouncer) are fine. Event loops of several threads may share one.

    Args:
        dsn: the URL of a database, as libpq reads it. `?schema=` is the table's, `aistemsplitter` without it.
        timeout: seconds to connect, and for an answer.

    Raises:
        ConfigurationError: it is no such URL.
    """

    def __init__(self, dsn: str, *, timeout: float = STORE_TIMEOUT) -> None:
        self._url = parse_dsn(dsn, name="the store's URL")
        self._timeout = timeout
        self._calls, self._cuts = Calls(), Calls()
        self._lines = PerLoop(_Line)
        self._is_loaded = False

    def __repr__(self) -> str:
        return f"PostgresGateStore({self._url.place!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def load(self, key: str) -> Stored:
        rows, _ = await self._ask(_LOAD, {"key": key})
        text, version, now = rows[0]
        return Stored(text, version or 0, now)

    async def swap(self, key: str, version: int, text: str, keep: float) -> bool:
        statement = _SWAP
        if not version:
            await self._ask(_FORGET, {})
            statement, version = _PUT, 1 + secrets.randbits(48)  # so that one that was lost is not met again
        patience = f"{round(self._timeout * 1000)}ms"
        arguments = {
            "key": key,
            "version": version,
            "text": text,
            "keep": timedelta(seconds=keep),
            "patience": patience,
        }
        _, changed = await self._ask(statement, arguments)
        return changed == 1

    async def aclose(self) -> None:
        """Close the connection of this event loop. Using the store again reopens it."""
        await self._cuts.cancel()
        await self._calls.drain()
        if (line := self._lines.pop()) is not None:
            await line.close()

    async def _ask(self, statement: str, arguments: dict[str, object]) -> Answer:
        return await self._calls.run(self._answer(statement, arguments))

    async def _answer(self, statement: str, arguments: dict[str, object]) -> Answer:
        try:
            psycopg = load_psycopg() if self._is_loaded else await run_in_thread(load_psycopg)
        except ConfigurationError as error:
            raise StoreUnavailableError(str(error), permanent=True) from None
        self._is_loaded = True
        line = self._lines.get()
        try:
            async with line.turn:
                was_open = line.is_open
                try:
                    return await self._try(line, statement, arguments)
                except psycopg.OperationalError:
                    if not was_open or line.is_open:
                        raise
                return await self._try(line, statement, arguments)  # the server had closed the connection meanwhile
        except (psycopg.Error, OSError) as error:  # a TimeoutError is one
            if isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
                await line.close()  # to ask for the primary again
            problem = self._explain(error, psycopg)
        raise problem  # outside, so that it does not carry the other one, which knows the password

    async def _try(self, line: _Line, statement: str, arguments: dict[str, object]) -> Answer:
        if line.connection is None or line.connection.closed:
            async with asyncio.timeout(self._timeout if self._url.hosts == 1 else None):  # else libpq counts, for each
                line.connection = await connect_async(self._url, timeout=self._timeout)
        text = statement.format(schema=self._url.schema, settings=_SETTINGS)
        try:
            return await self._within(line, _execute(line.connection, text, arguments))
        except load_psycopg().ProgrammingError as error:
            if error.sqlstate not in _NO_TABLE:
                raise
        await self._within(line, self._create(line.connection))
        return await self._within(line, _execute(line.connection, text, arguments))

    async def _within(self, line: _Line, work: Coroutine[Any, Any, T]) -> T:
        """Return what `work` on the line's connection returns; without an answer in time, the line is cut."""
        task = self._calls.start(work)
        await asyncio.wait([task], timeout=self._timeout)
        if task.done():
            return task.result()
        if line.connection is not None:  # it has work, so it is there
            self._cuts.start(self._cut(line.connection, task))
        line.connection = None
        raise TimeoutError

    async def _cut(self, connection: AsyncConnection[Row], work: asyncio.Task[Any]) -> None:
        """Close a connection that waits for an answer, and have its server give up what it does there, if it can."""
        psycopg = load_psycopg()
        try:
            if (
                psycopg.capabilities.has_cancel_safe()
            ):  # or a session would stay there for as long as it waits for a lock
                with suppress(psycopg.Error, OSError):
                    await connection.cancel_safe(timeout=_CANCEL)
        finally:
            connection.pgconn.finish()  # first, for a task that is cancelled would ask the server once more, and wait
            await cancel_and_wait(work)

    async def _create(self, connection: AsyncConnection[Row]) -> None:
        """Create the table, and its schema, while no other session does, and unless one has."""
        name = self._url.schema
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (f"{name}.gates",))
            cursor = await connection.execute(_IS_MISSING, (f'"{name}"', f'"{name}".gates'))
            lacks_schema, lacks_table = await cursor.fetchone() or (True, True)
            if lacks_schema:
                await connection.execute(f'CREATE SCHEMA "{name}"')
            if lacks_table:
                await connection.execute(_CREATE.format(schema=name))

    def _explain(self, error: Exception, psycopg: Any) -> StoreUnavailableError:
        if isinstance(error, TimeoutError):
            return StoreUnavailableError(f"{self._url} does not answer within {self._timeout:g} s")
        reason = redact(error, self._url)
        if isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
            reason = "it is a standby, or read-only; name all hosts in the URL, and the primary is found"
        elif isinstance(error, psycopg.errors.InsufficientPrivilege):
            reason += f"; let its owner grant USAGE and CREATE on schema {self._url.schema}, which must exist"
        is_for_good = isinstance(error, psycopg.Error) and is_permanent(error)
        return StoreUnavailableError(f"{self._url}: {reason or type(error).__name__}", permanent=is_for_good)


class _Line:
    """The connection of one event loop, whose calls take turns."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.connection: AsyncConnection[Row] | None = None

    @property
    def is_open(self) -> bool:
        return self.connection is not None and not self.connection.closed

    async def close(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            await connection.close()


async def _execute(connection: AsyncConnection[Row], statement: str, arguments: dict[str, object]) -> Answer:
    cursor = await connection.execute(statement, arguments)
    return (await cursor.fetchall() if cursor.description else []), cursor.rowcount
