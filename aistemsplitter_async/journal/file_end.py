"""A journal in a file, as one end of a move."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

from aistemsplitter_async.errors import JournalError
from aistemsplitter_async.journal.file import check_not_lost, explain, open_file
from aistemsplitter_async.journal.moving import TABLES, Row, Rows, rename
from aistemsplitter_async.journal.schema import MIGRATIONS
from aistemsplitter_async.journal.seal import SEAL, SEALED_VERSIONS, Seal
from aistemsplitter_async.journal.sqlite import SQLiteDatabase

_CACHE_KIB: Final = 32 * 1024  # KiB for the indexes of a large journal, which are written in no order


class FileEnd:
    """The journal in a file, owned by this process until it is closed.

    Args:
        path: of the file.
        create: whether one is created if there is none.

    Raises:
        JournalLockedError: a batch is running on it.
        JournalError: there is none, or it cannot be used.
    """

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self.place: str = os.path.realpath(path)
        if not create and not path.exists():
            check_not_lost(path)
            raise JournalError(f"there is no journal {path}; is its name right?")
        self._path = path
        self._is_new = not path.exists()
        self._file = open_file(path, for_move=True)
        self._db, self._lock = self._file.db, self._file.lock

    def close(self) -> None:
        """Close the file, and let another process open it. One that was created in vain is removed."""
        if self._is_new and self._lock is not None and self._is_unused():
            self._db.execute("PRAGMA journal_mode = DELETE")  # of the undo file
            self._db.close()
            with suppress(OSError):
                Path(self.place).unlink()
            self._lock.discard()
        else:
            self._file.close()

    def _is_unused(self) -> bool:
        with suppress(sqlite3.Error):
            return self.note(SEAL) is None and self.is_vacant()
        return False

    def note(self, name: str) -> str | None:
        """Return the note of this name."""
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def seal(self, seal: Seal | None) -> None:
        """Seal it, durably; with `None`, let runs use it again."""
        with self._transaction():
            self._db.execute("DELETE FROM meta WHERE name = ?", (SEAL,))
            if seal is not None:
                self._db.execute("INSERT INTO meta VALUES (?, ?)", (SEAL, seal.dump()))
            self._set_sealed(seal is not None)

    def size(self) -> int:
        """Return how many rows of songs and files it has."""
        counts = "SELECT (SELECT count(*) FROM tracks) + (SELECT count(*) FROM sources)"
        return int(self._db.execute(counts).fetchone()[0])

    def is_vacant(self) -> bool:
        """Return whether it knows no song."""
        return not self._db.execute("SELECT EXISTS (SELECT 1 FROM tracks)").fetchone()[0]

    def rows(self) -> Rows:
        """Return what reads all of it."""
        return {table: partial(self._read, table) for table in TABLES}

    def receive(self, rows: Rows, check: Callable[[Rows], None]) -> None:
        """Replace all of it, its seal too, durably; or nothing, if `check` raises of what it reads afterwards."""
        self._db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        with self._transaction():
            for table, columns in TABLES.items():
                self._db.execute(f"DELETE FROM {table}")  # noqa: S608  # of ours
                places = ", ".join("?" * len(columns))
                self._db.executemany(
                    f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})",  # noqa: S608  # ours too
                    rename(table, rows[table](), SQLiteDatabase.dump_name),
                )
            check(self.rows())
            self._set_sealed(False)

    def _read(self, table: str) -> Iterator[Row]:
        rows = self._db.execute(f"SELECT {', '.join(TABLES[table])} FROM {table}")  # noqa: S608  # as above
        return rename(table, rows, SQLiteDatabase.load_name)

    def _set_sealed(self, is_sealed: bool) -> None:  # what it is set to
        self._db.execute(f"PRAGMA user_version = {is_sealed * SEALED_VERSIONS + len(MIGRATIONS)}")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Make all that is done durable when the block ends; or if it raises, nothing."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise explain(error, self._path) from None
