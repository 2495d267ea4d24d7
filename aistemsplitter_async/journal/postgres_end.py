"""A journal in PostgreSQL, as one end of a move.

Its seal is a trigger before every change, so that it also holds for a worker that was stopped for long and wakes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from aistemsplitter_async._databases.postgres import connect, load_psycopg
from aistemsplitter_async.config import JOURNAL_CONNECT
from aistemsplitter_async.errors import JournalError, JournalLockedError
from aistemsplitter_async.journal.moving import TABLES, Row, Rows, rename
from aistemsplitter_async.journal.place import JournalURL
from aistemsplitter_async.journal.postgres import PostgresDatabase
from aistemsplitter_async.journal.postgres_errors import explain
from aistemsplitter_async.journal.postgres_reading import NOT_MOVED, PostgresReader, read_table
from aistemsplitter_async.journal.seal import SEAL, Seal, build_sealed
from aistemsplitter_async.journal.session import Session
from aistemsplitter_async.journal.tables import MOVE_SETTING, WORKERS, build_fence, build_switches, number_of
from aistemsplitter_async.journal.workers import Worker, describe_workers

if TYPE_CHECKING:
    from psycopg import Error

_UNLIMITED: Final = "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0"


class PostgresEnd:
    """The journal in a database, which no other move may use until it is closed.

    Args:
        place: of its tables.
        create: whether they are created if there are none.

    Raises:
        JournalLockedError: workers are at work on it, or another move.
        JournalError: there is none, or the server cannot be reached or used.
        ConfigurationError: psycopg is missing.
    """

    def __init__(self, place: JournalURL, *, create: bool = False) -> None:
        self.place: str = place.database.shown
        self._url = place.database
        self._guard: Any = None
        self._error: type[Error] = load_psycopg().Error
        if not create:
            with PostgresReader(place):  # there is one
                pass
        self._db = Session(place)
        self._db.open()
        try:
            self._guard = connect(self._url, timeout=JOURNAL_CONNECT)
            self._lock()
            with self._transaction():
                self._db.run("SELECT pg_advisory_xact_lock(%s)", self._arrival)  # until one that was killed has ended
                self._check_idle()
        except self._error as error:
            self.close()
            raise explain(error, self._db.place) from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let others use it."""
        if self._guard is not None:
            self._guard.close()
        self._db.close()

    def note(self, name: str) -> str | None:
        """Return the note of this name."""
        with self._transaction():
            row = self._db.run("SELECT value FROM meta WHERE name = %s", name).fetchone()
        return None if row is None else str(row[0])

    def seal(self, seal: Seal | None) -> None:
        """Seal it, durably; with `None`, let workers use it again."""
        with self._transaction():
            if seal is not None:
                message = str(build_sealed(self.place, seal))
                self._db.run(build_fence(self._url.schema, seal.move, message))
                self._db.run("SELECT set_config(%s, %s, true)", MOVE_SETTING, seal.move)
            self._switch(is_sealed=seal is not None)  # from here on no worker begins, and a change waits
            self._check_idle()
            self._db.run("DELETE FROM meta WHERE name = %s", SEAL)
            if seal is not None:
                self._db.run("INSERT INTO meta VALUES (%s, %s)", SEAL, seal.dump())

    def size(self) -> int:
        """Return how many rows of songs and files it has."""
        with self._transaction():
            row = self._db.run("SELECT (SELECT count(*) FROM tracks) + (SELECT count(*) FROM sources)").fetchone()
        return int(row[0])

    def is_vacant(self) -> bool:
        """Return whether it knows no song."""
        with self._transaction():
            row = self._db.run("SELECT EXISTS (SELECT 1 FROM tracks)").fetchone()
        return not row[0]

    def rows(self) -> Rows:
        """Return what reads all of it."""
        return {table: partial(self._read_alone, table) for table in TABLES}

    def receive(self, rows: Rows, check: Callable[[Rows], None]) -> None:
        """Replace all of it, its seal too, durably; or nothing, if `check` raises of what it reads afterwards."""
        seal = self.note(SEAL)
        with self._transaction():
            self._db.run("SELECT pg_advisory_xact_lock(%s)", self._arrival)
            self._db.run("SELECT set_config(%s, %s, true)", MOVE_SETTING, Seal.load(seal).move if seal else "")
            for table in ("workers", "credit_budget"):  # of those who worked here before
                self._db.run(f"DELETE FROM {table}")  # noqa: S608  # of ours
            for table, columns in TABLES.items():
                self._db.run(f"DELETE FROM {table}{NOT_MOVED.get(table, '')}")  # noqa: S608
                into = f"COPY {table} ({', '.join(columns)}) FROM STDIN"
                with self._db.cursor() as cursor, cursor.copy(into) as copy:
                    for row in rename(table, rows[table](), PostgresDatabase.dump_name):
                        copy.write_row(row)
            check({table: partial(self._read, table) for table in TABLES})
            self._db.run("SELECT setval(pg_get_serial_sequence('tracks', 'id'), max(id)) FROM tracks")
            self._switch(is_sealed=False)
        with self._transaction():
            for table in TABLES:
                self._db.run(f"ANALYZE {table}")  # else the first claims would read all of it

    @property
    def _arrival(self) -> int:
        return number_of(f"{self._url.schema} arrival")

    def _lock(self) -> None:
        """Keep out other moves for as long as the guard's transaction is open."""
        self._guard.execute(f"BEGIN; {_UNLIMITED}")
        row = self._guard.execute("SELECT pg_try_advisory_xact_lock(%s)", (number_of(f"{self._url.schema} move"),))
        if not row.fetchone()[0]:
            raise JournalLockedError(
                f"another move of {self.place} is under way; wait for it or stop it", code="LOCKED"
            )

    def _check_idle(self) -> None:
        if workers := [Worker(*row) for row in self._db.run(WORKERS)]:
            raise JournalLockedError(
                f"{self.place} is in use by {describe_workers(workers)}; stop them first", code="LOCKED"
            )

    def _switch(self, *, is_sealed: bool) -> None:
        known = self._db.run(
            "SELECT EXISTS (SELECT 1 FROM pg_trigger WHERE tgname = 'sealed' AND tgrelid = 'meta'::regclass)"
        ).fetchone()
        for statement in build_switches(bool(known[0]), is_sealed=is_sealed):
            self._db.run(statement)

    def _read_alone(self, table: str) -> Iterator[Row]:
        with self._transaction():
            yield from self._read(table)

    def _read(self, table: str) -> Iterator[Row]:
        return read_table(self._db.cursor("rows"), table)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Make all that is done durable when the block ends; or if it raises, nothing."""
        try:
            self._db.begin()
            try:
                self._db.run(_UNLIMITED)
                yield
                self._guard.execute("SELECT")  # nobody else was let in meanwhile
                self._db.commit()
            except BaseException:
                with suppress(self._error):
                    self._db.roll_back()
                raise
        except self._error as error:
            raise explain(error, self._db.place) from None
        except UnicodeError as error:
            raise JournalError(f"{self.place} cannot hold a value: {error}") from None
