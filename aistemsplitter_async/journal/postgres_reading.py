"""Reads a journal in PostgreSQL as it was at one moment, whoever works on it. Nothing is locked or changed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self

from aistemsplitter_async._databases.postgres import connect, load_psycopg
from aistemsplitter_async.config import JOURNAL_CONNECT
from aistemsplitter_async.errors import JournalError
from aistemsplitter_async.journal.moving import NOTES, TABLES, Row, Rows, rename
from aistemsplitter_async.journal.place import JournalURL
from aistemsplitter_async.journal.postgres import PostgresDatabase
from aistemsplitter_async.journal.postgres_errors import explain
from aistemsplitter_async.journal.record import Record
from aistemsplitter_async.journal.rows import COLUMNS, load_record
from aistemsplitter_async.journal.seal import SEAL, Seal
from aistemsplitter_async.journal.tables import MIGRATIONS, WORKERS
from aistemsplitter_async.journal.workers import SharedCredits, Worker

if TYPE_CHECKING:
    from psycopg import Error

NO_JOURNAL: Final = "NO_JOURNAL"  # the code of a place that has none yet
_PAGE: Final = 500  # records, or rows, fetched at a time
NOT_MOVED: Final = {NOTES: " WHERE name NOT IN ('version', 'id')"}  # of the tables, not of what they have


class PostgresReader:
    """The journal in a database, as it is when this is made.

    Args:
        place: of its tables.

    Raises:
        JournalError: there is none, or it is of a newer version of this package, or the server cannot be reached.
        ConfigurationError: psycopg is missing.
    """

    def __init__(self, place: JournalURL) -> None:
        self._place = place
        self._error: type[Error] = load_psycopg().Error
        self._connection: Any = None
        with self._explained():
            self._connection = connect(place.database, timeout=JOURNAL_CONNECT)
        try:
            with self._explained():
                self._begin()
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def _begin(self) -> None:
        schema = self._place.database.schema
        begin = f'BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL search_path = "{schema}"'
        self._connection.execute(begin)
        (found,) = self._connection.execute("SELECT to_regclass(%s)", (f"{schema}.meta",)).fetchone()
        if found is None:
            raise JournalError(
                f"there is no journal at {self._place.database.shown}; is its name right?", code=NO_JOURNAL
            )
        if int(self.note("version") or 0) > len(MIGRATIONS):
            raise JournalError(f"{self._place} was written by a newer version of aistemsplitter_async; upgrade it")

    def note(self, name: str) -> str | None:
        """Return the note of this name."""
        rows = self._fetch("SELECT value FROM meta WHERE name = %s", name)
        return str(rows[0][0]) if rows else None

    def seal(self) -> Seal | None:
        """Return what says that the journal was moved."""
        text = self.note(SEAL)
        return None if text is None else Seal.load(text)

    def workers(self) -> list[Worker]:
        """Return the workers that are at work."""
        return [Worker(*row) for row in self._fetch(WORKERS)]

    def count(self) -> dict[str, int]:
        """Return the number of tracks per state, `failed` among them."""
        counts: Counter[str] = Counter()
        for state, fine, number in self._fetch(
            "SELECT state, failure IS NULL, count(*) FROM tracks GROUP BY state, failure IS NULL"
        ):
            counts[str(state) if fine else "failed"] += int(number)
        return dict(counts)

    def credits(self) -> SharedCredits | None:
        """Return the credits that those who are at work may spend together, if that is limited."""
        rows = self._fetch(
            "SELECT most, used, reserved FROM credit_budget WHERE first_run IN (SELECT first_run FROM workers "
            "WHERE until > clock_timestamp()) ORDER BY id DESC LIMIT 1"
        )
        return SharedCredits(*rows[0]) if rows and math.isfinite(rows[0][0]) else None

    def pages(self) -> Iterator[list[Record]]:
        """Iterate over all records, oldest first, some at a time."""
        with self._explained(), self._connection.cursor("records") as cursor:
            cursor.execute(f"SELECT {COLUMNS} FROM tracks ORDER BY id")  # noqa: S608  # our own columns
            while rows := cursor.fetchmany(_PAGE):
                yield [load_record(row, PostgresDatabase.load_name) for row in rows]

    def rows(self) -> Rows:
        """Return what reads all that a move moves."""
        return {table: partial(self._read, table) for table in TABLES}

    def _read(self, table: str) -> Iterator[Row]:
        with self._explained():
            yield from read_table(self._connection.cursor("rows"), table)

    def _fetch(self, statement: str, *values: Any) -> list[Any]:
        with self._explained():
            rows: list[Any] = self._connection.execute(statement, values or None).fetchall()
        return rows

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except self._error as error:
            raise explain(error, self._place) from None


def read_table(cursor: Any, table: str) -> Iterator[Row]:
    """Iterate over what a move moves of a table.

    Args:
        cursor: one that the server keeps; it is closed at the end.
        table: of `TABLES`.
    """
    select = f"SELECT {', '.join(TABLES[table])} FROM {table}{NOT_MOVED.get(table, '')}"  # noqa: S608  # ours
    with cursor:
        cursor.itersize = _PAGE
        yield from rename(table, cursor.execute(select), PostgresDatabase.load_name)
