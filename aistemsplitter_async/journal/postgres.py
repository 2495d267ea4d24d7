"""A journal's statements on PostgreSQL, shared by many workers: whose each track is, and what became of each commit.

Nobody waits for a stopped worker. Songs are claimed under locks that are tried, never waited for; tracks of dead
workers are taken unless somebody holds them; only a worker whose tracks are being taken from it waits, for their taker,
which waits for nobody. So transactions do not wait in a circle. What still collides is run again.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

from aistemsplitter_async.config import JOURNAL_CONNECT
from aistemsplitter_async.errors import JournalError, LostLeaseError
from aistemsplitter_async.journal.database import LOST_LEASE, Row
from aistemsplitter_async.journal.lease import Lease
from aistemsplitter_async.journal.place import JournalURL
from aistemsplitter_async.journal.record import State
from aistemsplitter_async.journal.rows import COLUMNS
from aistemsplitter_async.journal.session import Session
from aistemsplitter_async.journal.tables import DOWN, WORKERS, number_of
from aistemsplitter_async.journal.workers import Worker

_MOST_CHANGES: Final = 100  # a transaction: each claim takes two or three of the 6,400 locks a server has by default
# Whether a track may be this worker's; and what renews its lease.
_FREE: Final = (
    "(owner IS NULL OR owner = '{me}' OR NOT EXISTS (SELECT 1 FROM workers WHERE workers.id = owner "
    "AND until > clock_timestamp()))"
)
_BEAT: Final = (
    "UPDATE \"{schema}\".workers SET until = clock_timestamp() + interval '{lease} seconds', status = %s "
    "WHERE id = '{me}' RETURNING extract(epoch FROM clock_timestamp())::float8"
)


class PostgresDatabase:
    """A `Database` in PostgreSQL.

    Raises:
        ConfigurationError: psycopg is missing.
        JournalError: the server cannot be reached or used, or is of a newer version of this package.
    """

    is_shared: bool = True
    most_changes: int | None = _MOST_CHANGES

    def __init__(self, place: JournalURL) -> None:
        self._place = place
        self._me = secrets.token_hex(8)
        self._free = _FREE.format(me=self._me)
        self._session = Session(place, self._me)
        self._lease: Lease | None = None
        self._session.open()
        self._session.retry(self._register)
        beat = _BEAT.format(schema=place.database.schema, lease=place.lease, me=self._me)
        self._lease = Lease(place.database, place.lease, beat, now=self._registered, timeout=JOURNAL_CONNECT)

    def _register(self) -> None:
        self.begin()
        self.execute("DELETE FROM workers WHERE until < clock_timestamp() - interval '30 days'")
        self.execute("DELETE FROM commits WHERE session NOT IN (SELECT id FROM workers)")
        self.execute(
            "DELETE FROM readings WHERE worker NOT IN (SELECT id FROM workers WHERE until > clock_timestamp())"
        )
        self.execute(
            "INSERT INTO meta VALUES ('run', '1') ON CONFLICT (name) "
            "DO UPDATE SET value = (meta.value::bigint + 1)::text"
        )
        self.run: int
        self.first_run: int
        self.run, self.first_run, self._registered = self.row(
            "INSERT INTO workers (id, run, first_run, host, process, until) "
            "SELECT ?, value::bigint, least(value::bigint, (SELECT min(first_run) FROM workers "
            "WHERE until > clock_timestamp())), "
            "?, ?, clock_timestamp() + ? * interval '1 second' FROM meta WHERE name = 'run' "
            "RETURNING run, first_run, extract(epoch FROM clock_timestamp())::float8",
            *(self._me, socket.gethostname(), os.getpid(), self._place.lease),
        )
        self.commit()

    def begin(self) -> None:
        self._session.begin()

    def commit(self) -> None:
        self._session.commit()

    def roll_back(self) -> None:
        self._session.roll_back()

    def recover(self, error: Exception, failures: int) -> JournalError | None:
        return self._session.recover(error, failures)

    def hurry(self) -> None:
        self._session.hurry()

    def close(self) -> None:
        if self._lease is not None:
            self._lease.close()
        try:
            self.begin()
            self.execute("DELETE FROM readings WHERE worker = ?", self._me)
            self.execute("DELETE FROM workers WHERE id = ?", self._me)
            self.commit()
        except Exception as error:  # noqa: BLE001  # then its lease ends
            self._session.recover(error, 0)
        self._session.close()

    def check_in_place(self) -> None:
        if self._lease is None or self._lease.is_sure:
            return
        raise JournalError(
            f"{self._place} has not heard of this worker for {self._lease.silent_for:.0f} s, so others may take over "
            "what it was doing, and it creates nothing until it is heard of again",
            code=DOWN,
        )

    def server_time(self) -> float | None:
        return None if self._lease is None else self._lease.server_time()

    def rows(self, statement: str, *values: Any) -> list[Row]:
        rows: list[Row] = self._run(statement, *values).fetchall()
        return rows

    def row(self, statement: str, *values: Any) -> Any:
        return self._run(statement, *values).fetchone()

    def execute(self, statement: str, *values: Any) -> int:
        return int(self._run(statement, *values).rowcount)

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

    def take_tracks(self, states: Collection[State], besides: Collection[int], most: int) -> list[Row]:
        rows = self.rows(
            f"UPDATE tracks SET owner = ? WHERE id IN (SELECT id FROM tracks WHERE state = ANY(?) "  # noqa: S608  # ours
            f"AND owner IS DISTINCT FROM ? AND {self._free} AND id != ALL(?::bigint[]) "
            f"ORDER BY id LIMIT ? FOR UPDATE SKIP LOCKED) RETURNING {COLUMNS}",
            *(self._me, [str(state) for state in states], self._me, list(besides), most),
        )
        return sorted(rows, key=lambda row: int(row[0]))

    def hold(self, tracks: Collection[int], had: Collection[int]) -> set[int]:
        if not tracks:
            return set()
        free = self.rows(
            f"SELECT id FROM tracks WHERE id = ANY(?) AND {self._free} "  # noqa: S608  # ours
            "AND (owner = ? OR id != ALL(?::bigint[])) FOR UPDATE SKIP LOCKED",
            *(list(tracks), self._me, [track for track in tracks if track in had]),
        )
        return set(tracks) - {int(track) for (track,) in free}

    def busy(self, tracks: Collection[int]) -> set[int]:
        rows = self.rows(f"SELECT id FROM tracks WHERE id = ANY(?) AND NOT {self._free}", list(tracks))  # noqa: S608
        return {int(track) for (track,) in rows}

    def release(self, tracks: Collection[int]) -> None:
        self.execute("UPDATE tracks SET owner = NULL WHERE id = ANY(?) AND owner = ?", list(tracks), self._me)

    def begin_reading(self, path: str | bytes) -> bool:
        return self.lock([f"reading {path!r}"]) and bool(
            self.execute(
                "INSERT INTO readings (path, worker) VALUES (?, ?) ON CONFLICT (path) DO UPDATE SET worker = "
                "excluded.worker WHERE readings.worker = excluded.worker OR NOT EXISTS (SELECT 1 FROM workers "
                "WHERE workers.id = readings.worker AND until > clock_timestamp())",
                *(path, self._me),
            )
        )

    def end_reading(self, paths: Collection[str | bytes]) -> None:
        self.execute("DELETE FROM readings WHERE path = ANY(?) AND worker = ?", list(paths), self._me)

    def reserved_elsewhere(self, budget: int) -> tuple[float, float]:
        row = self.row(
            "SELECT coalesce(sum(reserved), 0), coalesce(sum(reserved) FILTER (WHERE state = ANY(?)), 0) FROM tracks "
            "WHERE budget = ? AND owner IS DISTINCT FROM ?",
            *([str(State.UNCERTAIN), str(State.NEEDS_REVIEW)], budget, self._me),
        )
        return float(row[0]), float(row[1])

    def lock(self, names: Collection[str]) -> bool:
        numbers = sorted(number_of(f"{self._place.database.schema} {name}") for name in names)
        row = self.row("SELECT bool_and(pg_try_advisory_xact_lock(number)) FROM unnest(?::bigint[]) AS number", numbers)
        return bool(row[0])

    def oldest_run(self) -> int:
        (run,) = self.row("SELECT min(first_run) FROM workers WHERE until > clock_timestamp()")
        return self.first_run if run is None else int(run)

    def others(self) -> int:
        row = self.row("SELECT count(*) FROM workers WHERE until > clock_timestamp() AND id != ?", self._me)
        return int(row[0])

    def workers(self) -> list[Worker]:
        rows = self.rows(WORKERS)
        return [Worker(row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[0] == self._me) for row in rows]

    def show(self, status: str) -> None:
        if self._lease is not None:
            self._lease.show(status)

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
        return self._session.run(_translate(statement), *values)


@lru_cache(maxsize=256)
def _translate(statement: str) -> str:
    return statement.replace("?", "%s")
