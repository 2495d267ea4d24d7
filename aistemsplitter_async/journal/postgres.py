"""A journal's statements on PostgreSQL, shared by many workers: whose each track is, and what became of each commit.

Nobody waits for a stopped worker. Songs are claimed under locks that are tried, never waited for; tracks of dead
workers are taken unless somebody holds them; only a worker whose tracks are being taken from it waits, for their taker,
which waits for nobody. So transactions do not wait in a circle. What still collides is run again.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import socket
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from aistemsplitter_async._databases.postgres import connect, is_permanent, load_psycopg, redact
from aistemsplitter_async._logs.loggers import Log
from aistemsplitter_async.config import JOURNAL_CONNECT
from aistemsplitter_async.errors import AIStemSplitterError, JournalError, LostLeaseError
from aistemsplitter_async.journal.database import Row
from aistemsplitter_async.journal.lease import Lease
from aistemsplitter_async.journal.place import JournalURL
from aistemsplitter_async.journal.record import State
from aistemsplitter_async.journal.rows import COLUMNS
from aistemsplitter_async.journal.seal import SEALED, SEALED_STATE
from aistemsplitter_async.journal.tables import ASK, DOWN, MIGRATIONS, Server, build_begin, check_server, number_of
from aistemsplitter_async.journal.workers import Worker

if TYPE_CHECKING:
    from psycopg import Connection

_log = Log("journal")

WORKERS: Final = (  # that are at work
    "SELECT id, run, host, process, extract(epoch FROM began)::float8, "
    "extract(epoch FROM until - clock_timestamp())::float8, status FROM workers "
    "WHERE until > clock_timestamp() ORDER BY run"
)
LOST_LEASE: Final = "LOST_LEASE"
_MOST_CHANGES: Final = 100  # a transaction: each claim takes two or three of the 6,400 locks a server has by default
_LOCK: Final = 2.0  # s to wait for another transaction's row; none takes as long unless its worker was stopped
_IDLE: Final = 5.0  # s that a transaction waits for a stopped worker; others may need its rows
_STATEMENT: Final = 60.0  # s; a count of millions of tracks takes one
_ATTEMPTS: Final = 8  # of a transaction that collides with others
_PAUSE: Final = 0.02  # s before the second, doubled for each
# Serialization, deadlock, lock not available, unique (another worker was quicker), no room for locks, timeout.
_COLLISIONS: Final = frozenset({"40001", "40P01", "55P03", "23505", "53200", "57014"})
_DISK_FULL: Final = "53100"
# Whether a track may be this worker's; and what renews its lease.
_FREE: Final = (
    "(owner IS NULL OR owner = '{me}' OR NOT EXISTS (SELECT 1 FROM workers WHERE workers.id = owner "
    "AND until > clock_timestamp()))"
)
_BEAT: Final = "UPDATE {schema}.workers SET until = clock_timestamp() + interval '{lease} seconds' WHERE id = '{me}'"


class PostgresDatabase:
    """A `Database` in PostgreSQL.

    Args:
        place: of the tables, which are created if there are none.
        for_move: whether it is opened to be moved: no worker begins.

    Raises:
        ConfigurationError: psycopg is missing.
        JournalError: the server cannot be reached or used, is of a newer version of this package, or the journal was
            moved to another place (`code` is `SEALED`).
    """

    is_shared: bool = True
    most_changes: int | None = _MOST_CHANGES

    def __init__(self, place: JournalURL, *, for_move: bool = False) -> None:
        self._place = place
        self._url = place.database
        self._me = secrets.token_hex(8)
        self._connection: Connection[Any] | None = None
        self._begin = ""
        self._xid: str | None = None
        self._free = _FREE.format(me=self._me)
        self._lease: Lease | None = None
        self._psycopg = load_psycopg()
        try:
            self._reconnect(migrate=True)
            if not for_move:
                self._open()
        except self._psycopg.Error as error:
            self._hang_up()
            raise explain(error, self._place) from None
        except BaseException:
            self._hang_up()
            raise
        if for_move:
            return
        beat = _BEAT.format(schema=self._url.schema, lease=place.lease, me=self._me)
        self._lease = Lease(self._url, place.lease, beat, timeout=JOURNAL_CONNECT)

    def _open(self) -> None:
        self.begin()
        self.execute("DELETE FROM workers WHERE until < clock_timestamp() - interval '7 days'")
        self.execute(
            "INSERT INTO meta VALUES ('run', '1') ON CONFLICT (name) "
            "DO UPDATE SET value = (meta.value::bigint + 1)::text"
        )
        row = self.row(
            "INSERT INTO workers (id, run, first_run, host, process, until) "  # our names
            "SELECT ?, value::bigint, least(value::bigint, (SELECT min(first_run) FROM workers "
            "WHERE until > clock_timestamp())), "
            "?, ?, clock_timestamp() + ? * interval '1 second' FROM meta WHERE name = 'run' RETURNING run, first_run",
            *(self._me, socket.gethostname(), os.getpid(), self._place.lease),
        )
        assert row is not None  # noqa: S101  # the note was just written
        self.run, self.first_run = int(row[0]), int(row[1])
        self.commit()

    def _reconnect(self, *, migrate: bool = False) -> None:
        connection = connect(self._url, timeout=JOURNAL_CONNECT)
        self._connection = connection
        server = Server(*connection.execute(ASK).fetchone() or ())
        check_server(server, str(self._place))
        schema = self._url.schema
        durable = server.synchronous_commit
        self._begin = build_begin(schema, durable, lock_timeout=_LOCK, idle=_IDLE, statement=_STATEMENT)
        if migrate:
            self._migrate()

    def _migrate(self) -> None:
        schema = self._url.schema
        self._run(self._begin)
        self.row("SELECT pg_advisory_xact_lock(?)", number_of(f"{schema} migrations"))
        known = self.row("SELECT to_regnamespace(?) IS NOT NULL, to_regclass(?) IS NOT NULL", schema, f"{schema}.meta")
        has_schema, has_tables = known if known is not None else (False, False)
        if not has_schema:
            self.execute(f"CREATE SCHEMA {schema}")
        version = int(self.row("SELECT value FROM meta WHERE name = 'version'")[0]) if has_tables else 0
        if version > len(MIGRATIONS):
            raise JournalError(f"{self._place} was written by a newer version of aistemsplitter_async; upgrade it")
        for script in MIGRATIONS[version:]:
            self._run(script)
        if version < len(MIGRATIONS):
            self.execute(
                "INSERT INTO meta VALUES ('version', ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                str(len(MIGRATIONS)),
            )
        self._run("COMMIT")

    def begin(self) -> None:
        if self._connection is None:
            self._reconnect()
        self._run(self._begin)

    def commit(self) -> None:
        self._run("COMMIT")

    def roll_back(self) -> None:
        if self._connection is not None:
            self._run("ROLLBACK")

    def recover(self, error: Exception, failures: int) -> JournalError | None:
        """Undo the transaction. What collided with another one, or lost its connection, is run again."""
        was_connected = self._connection is not None
        if isinstance(error, self._psycopg.Error):
            state = error.sqlstate
            lost = self._is_lost()
            with suppress(self._psycopg.Error):
                self.roll_back()
            if self._is_lost():
                self._hang_up()
            if (state in _COLLISIONS or (lost and was_connected)) and failures < _ATTEMPTS:
                time.sleep(_PAUSE * 2**failures * random.random())  # noqa: S311  # not a secret
                return None
            return explain(error, self._place)
        with suppress(self._psycopg.Error):
            self.roll_back()
        return error if isinstance(error, JournalError) else JournalError(f"the journal refused: {error!r}")

    def close(self) -> None:
        if self._lease is not None:
            self._lease.close()
            with suppress(self._psycopg.Error, AIStemSplitterError):  # then its lease ends
                self.begin()
                self.execute("DELETE FROM workers WHERE id = ?", self._me)
                self.commit()
        self._hang_up()

    def check_in_place(self) -> None:
        if self._lease is None or self._lease.is_sure:
            return
        raise JournalError(
            f"{self._place} has not heard of this worker for {self._lease.silent_for:.0f} s, so others may take over "
            "what it was doing, and it creates nothing until it is heard of again",
            code=DOWN,
        )

    def rows(self, statement: str, *values: Any) -> list[Row]:
        rows: list[Row] = self._run(_translate(statement), *values).fetchall()
        return rows

    def row(self, statement: str, *values: Any) -> Any:
        return self._run(_translate(statement), *values).fetchone()

    def execute(self, statement: str, *values: Any) -> int:
        return int(self._run(_translate(statement), *values).rowcount)

    def cursor(self, name: str = "") -> Any:
        """Return a cursor of psycopg's for what only PostgreSQL knows; with a name, one that the server keeps."""
        assert self._connection is not None  # noqa: S101  # `begin` has connected
        return self._connection.cursor(name) if name else self._connection.cursor()

    def insert_track(self, values: Mapping[str, Any]) -> Row:
        names, marks = ", ".join((*values, "owner")), ", ".join("?" * (len(values) + 1))
        insert = f"INSERT INTO tracks ({names}) VALUES ({marks}) RETURNING {COLUMNS}"  # noqa: S608  # our names
        return self._one(insert, *values.values(), self._me)

    def change_track(self, track: int, values: Mapping[str, Any], before: Iterable[State] | None = None) -> Row | None:
        names = ", ".join(f"{name} = ?" for name in values)
        states = None if before is None else [str(state) for state in before]
        only, allowed = ("", ()) if states is None else (" AND state = ANY(?)", (states,))
        change = f"UPDATE tracks SET {names} WHERE id = ? AND owner = ?{only} RETURNING {COLUMNS}"  # noqa: S608
        row: Row | None = self.row(change, *values.values(), track, self._me, *allowed)
        if row is None:
            owner = self.row("SELECT owner FROM tracks WHERE id = ?", track)
            if owner is None or owner[0] != self._me:
                raise LostLeaseError(
                    f"track {track} of {self._place} was taken over by another worker, as this one was silent for too "
                    "long; that one finishes it",
                    code=LOST_LEASE,
                )
        return row

    def take_track(self, track: int, values: Mapping[str, Any]) -> Row:
        names = ", ".join(f"{name} = ?" for name in (*values, "owner"))
        change = f"UPDATE tracks SET {names} WHERE id = ? RETURNING {COLUMNS}"  # noqa: S608  # our names
        return self._one(change, *values.values(), self._me, track)

    def take_tracks(self, states: Collection[State]) -> list[Row]:
        rows = self.rows(
            f"UPDATE tracks SET owner = ? WHERE id IN (SELECT id FROM tracks WHERE state = ANY(?) "  # noqa: S608  # ours
            f"AND owner IS DISTINCT FROM ? AND {self._free} FOR UPDATE SKIP LOCKED) RETURNING {COLUMNS}",
            *(self._me, [str(state) for state in states], self._me),
        )
        return sorted(rows, key=lambda row: int(row[0]))

    def hold(self, tracks: Collection[int]) -> set[int]:
        if not tracks:
            return set()
        free = self.rows(
            f"SELECT id FROM tracks WHERE id = ANY(?) AND {self._free} FOR UPDATE SKIP LOCKED",  # noqa: S608  # ours
            list(tracks),
        )
        return set(tracks) - {int(track) for (track,) in free}

    def lock(self, names: Collection[str]) -> bool:
        numbers = sorted(number_of(f"{self._url.schema} {name}") for name in names)
        row = self.row("SELECT bool_and(pg_try_advisory_xact_lock(number)) FROM unnest(?::bigint[]) AS number", numbers)
        return bool(row[0])

    def others(self) -> int:
        row = self.row("SELECT count(*) FROM workers WHERE until > clock_timestamp() AND id != ?", self._me)
        return int(row[0])

    def workers(self) -> list[Worker]:
        return [Worker(*row, is_me=row[0] == self._me) for row in self.rows(WORKERS)]

    def show(self, status: str) -> None:
        self.execute("UPDATE workers SET status = ? WHERE id = ?", status, self._me)

    @staticmethod
    def dump_name(name: str) -> str:
        return name if name.isprintable() and not name.startswith('"') else json.dumps(name)

    @staticmethod
    def load_name(name: str | bytes) -> str:
        return str(json.loads(name)) if name[:1] == '"' else str(name)

    def _one(self, statement: str, *values: Any) -> Row:
        row: Row = self.row(statement, *values)
        return row

    def _run(self, statement: str, *values: Any) -> Any:
        connection = self._connection
        assert connection is not None  # noqa: S101  # `begin` has connected
        plain = tuple(str(value) if isinstance(value, StrEnum) else value for value in values)
        return connection.execute(statement, plain or None)

    def _is_lost(self) -> bool:
        return self._connection is None or self._connection.closed or self._connection.broken

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None


def explain(error: Exception, place: JournalURL) -> JournalError:
    """Return this package's error for one of psycopg's."""
    text = redact(error, place.database)
    state = getattr(error, "sqlstate", None)
    if state == SEALED_STATE and isinstance(error, load_psycopg().Error):
        return JournalError(str(error.diag.message_primary), code=SEALED)
    if state == _DISK_FULL:
        return JournalError(f"cannot write {place}: the server's disk is full", code="DISK")
    if isinstance(error, load_psycopg().Error) and (is_permanent(error) or state is not None):
        return JournalError(f"{place} refused: {text}")
    return JournalError(f"cannot reach {place}: {text}", code=DOWN)


@lru_cache(maxsize=256)
def _translate(statement: str) -> str:
    return statement.replace("?", "%s")
