"""A journal's statements on a file of SQLite, which one process owns."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from aistemsplitter_async.errors import JournalError
from aistemsplitter_async.journal.database import Row
from aistemsplitter_async.journal.file import explain, open_file, refused
from aistemsplitter_async.journal.record import State
from aistemsplitter_async.journal.rows import COLUMNS
from aistemsplitter_async.journal.workers import Worker

_SELECT: Final = f"SELECT {COLUMNS} FROM tracks WHERE id = ?"  # noqa: S608  # our own columns


class SQLiteDatabase:
    """A `Database` in one file, or with `path=None` in a temporary one that is gone when it is closed.

    Attributes:
        connection: SQLite's.

    Raises:
        JournalLockedError: another process, or another batch of this one, has it open.
        JournalError: it is damaged, another kind of file, of a newer version, or cannot be written.
    """

    is_shared: bool = False
    most_changes: int | None = None

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file = open_file(path)
        self.connection: sqlite3.Connection = self._file.db
        self.run: int = self._file.run
        self.first_run: int = self.run

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        return self.connection.in_transaction

    def begin(self) -> None:
        self.connection.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        self.connection.execute("COMMIT")

    def roll_back(self) -> None:
        if self.in_transaction:
            self.connection.execute("ROLLBACK")

    def recover(self, error: Exception, failures: int) -> JournalError:  # noqa: ARG002  # the disk is asked once
        with suppress(sqlite3.Error):  # a failing disk; the next begin fails on a transaction left open
            self.roll_back()
        if isinstance(error, sqlite3.Error):
            return explain(error, self._path)
        if isinstance(error, OSError):
            return refused(error, self._path)
        return JournalError(f"the journal refused: {error!r}")

    def close(self) -> None:
        self._file.close()

    def hurry(self) -> None:
        pass

    def check_in_place(self) -> None:
        self._file.check_in_place()

    def server_time(self) -> float | None:
        return None

    def rows(self, statement: str, *values: Any) -> Iterable[Row]:
        return self.connection.execute(statement, values)

    def row(self, statement: str, *values: Any) -> Row | None:
        row: Row | None = self.connection.execute(statement, values).fetchone()
        return row

    def execute(self, statement: str, *values: Any) -> int:
        return self.connection.execute(statement, values).rowcount

    def insert_track(self, values: Mapping[str, Any]) -> Row:
        names, marks = ", ".join(values), ", ".join("?" * len(values))
        insert = f"INSERT INTO tracks ({names}) VALUES ({marks})"  # noqa: S608  # our names
        return self._read(self.connection.execute(insert, (*values.values(),)).lastrowid)

    def change_track(self, track: int, values: Mapping[str, Any], before: Iterable[State] | None = None) -> Row | None:
        states = () if before is None else tuple(before)
        only = "" if before is None else f" AND state IN ({', '.join('?' * len(states))})"
        names = ", ".join(f"{name} = ?" for name in values)
        change = f"UPDATE tracks SET {names} WHERE id = ?{only}"  # noqa: S608  # our names
        changed = self.connection.execute(change, (*values.values(), track, *states)).rowcount
        return self._read(track) if changed else None

    def take_track(self, track: int, values: Mapping[str, Any]) -> Row:
        row = self.change_track(track, values) if values else self._read(track)
        assert row is not None  # noqa: S101  # no state was asked for
        return row

    def take_tracks(self, states: Collection[State], besides: Collection[int], most: int) -> list[Row]:  # noqa: ARG002
        marks = ", ".join("?" * len(states))
        select = f"SELECT {COLUMNS} FROM tracks WHERE state IN ({marks}) ORDER BY id"  # noqa: S608  # our columns
        return self.connection.execute(select, tuple(states)).fetchall()

    def hold(self, tracks: Collection[int], had: Collection[int]) -> set[int]:  # noqa: ARG002  # all are this process's
        return set()

    def busy(self, tracks: Collection[int]) -> set[int]:  # noqa: ARG002  # all are this process's
        return set()

    def release(self, tracks: Collection[int]) -> None:
        pass

    def begin_reading(self, path: str | bytes) -> bool:  # noqa: ARG002  # nobody else reads
        return True

    def end_reading(self, paths: Collection[str | bytes]) -> None:
        pass

    def reserved_elsewhere(self, budget: int) -> tuple[float, float]:  # noqa: ARG002  # there is none in a file
        return 0.0, 0.0

    def lock(self, names: Collection[str]) -> bool:  # noqa: ARG002  # the file is locked
        return True

    def oldest_run(self) -> int:
        return self.run

    def others(self) -> int:
        return 0

    def workers(self) -> list[Worker]:
        return []

    def show(self, status: str) -> None:
        pass

    @staticmethod
    def dump_name(name: str) -> str | bytes:
        return name if name.isprintable() else name.encode(errors="surrogatepass")

    @staticmethod
    def load_name(name: str | bytes) -> str:
        return name if isinstance(name, str) else name.decode(errors="surrogatepass")

    def _read(self, track: int | None) -> Row:
        row: Row = self.connection.execute(_SELECT, (track,)).fetchone()
        return row
