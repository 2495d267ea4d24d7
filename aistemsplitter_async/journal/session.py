"""A worker's transactions on a shared journal, whatever becomes of the connection.

A transaction that collided with another one, or whose connection broke before its commit was sent, has changed nothing
and is run again. One whose commit was sent and not answered may have been kept: once the server says that it is over,
a count that each transaction writes shows which was the last. The server's own number of it would not do: after a
crash, that is another one's if nothing of it was on the disk.
"""

from __future__ import annotations

import itertools
import os
import random
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from aistemsplitter_async._databases.postgres import connect, load_psycopg, redact
from aistemsplitter_async._logs.loggers import Log
from aistemsplitter_async.config import JOURNAL_CONNECT
from aistemsplitter_async.errors import JournalError
from aistemsplitter_async.journal.place import JournalURL
from aistemsplitter_async.journal.postgres_errors import COLLISIONS, explain
from aistemsplitter_async.journal.tables import (
    ASK,
    DOWN,
    MIGRATIONS,
    UNFIT,
    WHICH,
    Server,
    build_begin,
    check_server,
    number_of,
)

if TYPE_CHECKING:
    from psycopg import Connection, Cursor

_log = Log("journal")

_LOCK: Final = 2.0  # s to wait for another transaction's row; none takes as long unless its worker was stopped
_IDLE: Final = 5.0  # s that a transaction waits for a stopped worker; others may need its rows
_STATEMENT: Final = 60.0  # s; a count of millions of tracks takes one
_ATTEMPTS: Final = 8  # of a transaction that collides with others
_PAUSE: Final = 0.02  # s at most before the second, doubled for each; and between two questions about a commit
_LONGEST: Final = 2.0  # s between two such questions
_COUNT: Final = (  # if it has written anything; with the server's number of this transaction
    "INSERT INTO commits SELECT %s, %s FROM (SELECT pg_current_xact_id_if_assigned() AS xid) AS this "
    "WHERE xid IS NOT NULL ON CONFLICT (session) DO UPDATE SET number = excluded.number "
    "RETURNING pg_current_xact_id_if_assigned()::text"
)
_FUTURE: Final = "22023"  # what a server says of a transaction that it has not begun yet


class _NotKeptError(Exception):
    """The connection broke before the server heard of the commit."""


class Session:
    """One connection at a time, replaced when it breaks.

    Args:
        place: of the journal.
        name: of the worker, if it is one.

    Raises:
        ConfigurationError: psycopg is missing.
    """

    def __init__(self, place: JournalURL, name: str | None = None) -> None:
        self.place = place
        self._url = place.database
        self._psycopg = load_psycopg()
        self._connection: Connection[Any] | None = None
        self._cursor: Cursor[Any] | None = None
        self._begin = ""
        self._name = name or secrets.token_hex(8)
        self._commits = 0
        self._kept: int | None = None  # the last of them that was
        self._journal: str | None = None  # which one it is: another database may have its name
        self._hurry = threading.Event()
        self._closed = threading.Event()

    def open(self) -> None:
        """Connect, and create or migrate the tables.

        Raises:
            JournalError: the server cannot be reached or must not have a journal, this is no journal, or it is of a
                newer version; or older workers are still running on it.
        """
        self.retry(self._migrate)

    def identify(self) -> str:
        """Return the id of the journal, which it has from its first worker on, whatever its address.

        Raises:
            JournalError: it cannot be read.
        """
        self.retry(self.begin)
        self.roll_back()
        return str(self._journal)

    def retry(self, work: Callable[[], None]) -> None:
        """Do some work in a transaction of its own, again if it collides with another one.

        Raises:
            JournalError: it failed for another reason.
        """
        for failures in itertools.count():
            try:
                work()
            except Exception as error:  # noqa: BLE001
                problem = self.recover(error, failures)
                if problem is not None:
                    self.close()
                    raise problem from None
            else:
                return

    def run(self, statement: str, *values: Any) -> Any:
        """Return the cursor of a statement, which has `%s` for each value."""
        assert self._cursor is not None  # noqa: S101  # `begin` has connected
        plain = tuple(str(value) if isinstance(value, StrEnum) else value for value in values)
        try:
            return self._cursor.execute(statement, plain or None)
        except (self._psycopg.DataError, UnicodeError) as error:
            if self._is_aborted():
                raise
            problem = str(error)  # the value never left: a NUL, or half a surrogate pair
        raise JournalError(f"{self.place} cannot hold a value: {problem}")

    def cursor(self, name: str = "") -> Any:
        """Return a cursor for what `run` cannot do; with a name, one that the server keeps."""
        assert self._connection is not None  # noqa: S101  # `begin` has connected
        return self._connection.cursor(name) if name else self._connection.cursor()

    def begin(self) -> None:
        """Begin a transaction, connecting if need be."""
        if self._connection is None:
            self._connect()
        cursor = self.run(f"{self._begin}; {WHICH}")
        while cursor.nextset():
            pass
        version, journal = cursor.fetchone()
        if int(version) != len(MIGRATIONS):
            raise JournalError(
                f"{self.place} was migrated by a newer version of aistemsplitter_async while this one ran on it; "
                "upgrade this one",
                code=UNFIT,
            )
        if self._journal not in (None, journal):
            raise self._build_other()
        self._journal = journal

    def commit(self) -> None:
        """Commit, and find out whether that succeeded if nobody says so."""
        self._commits += 1
        written = self.run(_COUNT, self._name, self._commits).fetchone()
        try:
            done = self.run("COMMIT").statusmessage
        except self._psycopg.Error:
            if not self._is_lost() or written is None:  # the server has said what is wrong, or nothing was written
                raise
            if not self._was_committed(written[0]):
                raise _NotKeptError from None
            done = "COMMIT"
        if done != "COMMIT":
            raise JournalError(f"{self.place} did not commit, but answered {done}")
        if written is not None:
            self._kept = self._commits

    def roll_back(self) -> None:
        """Undo the transaction, if one is open."""
        if self._connection is not None and self._connection.info.transaction_status:
            self.run("ROLLBACK")

    def recover(self, error: Exception, failures: int) -> JournalError | None:
        """Undo a transaction that ended in `error`, and return what to tell its callers; `None` to run it again."""
        was_connected = self._connection is not None
        with suppress(self._psycopg.Error):
            self.roll_back()
        lost = self._is_lost()
        if lost:
            self.hang_up()
        if isinstance(error, _NotKeptError) and failures < _ATTEMPTS:
            return None
        if not isinstance(error, self._psycopg.Error):
            return error if isinstance(error, JournalError) else JournalError(f"the journal refused: {error!r}")
        broke = lost and was_connected and not self._hurry.is_set()
        if (error.sqlstate in COLLISIONS or broke) and failures < _ATTEMPTS:
            self._hurry.wait(_PAUSE * 2**failures * random.random())  # noqa: S311  # not a secret
            return None
        return explain(error, self.place)

    def hurry(self) -> None:
        """Let no call wait for a server that does not answer; the journal is being closed. From any thread."""
        self._hurry.set()
        threading.Thread(target=self._keep_moving, name="journal closing", daemon=True).start()

    def hang_up(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def close(self) -> None:
        """Close the connection for good."""
        self._closed.set()
        self.hang_up()

    def _connect(self) -> None:
        self._connection = connection = connect(self._url, timeout=JOURNAL_CONNECT)
        try:
            server = Server(*connection.execute(ASK).fetchone() or ())
            check_server(server, str(self.place))
        except BaseException:
            self.hang_up()
            raise
        self._cursor = connection.cursor()
        durable, schema = server.synchronous_commit, self._url.schema
        self._begin = build_begin(schema, durable, lock_timeout=_LOCK, idle=_IDLE, statement=_STATEMENT)

    def _migrate(self) -> None:
        schema = self._url.schema
        if self._connection is None:
            self._connect()
        self.run(self._begin)
        self.run("SELECT pg_advisory_xact_lock(%s)", number_of(f"{schema} migrations"))
        has_schema, has_tables, others = self.run(
            "SELECT to_regnamespace(%s) IS NOT NULL, to_regclass(%s) IS NOT NULL, "
            "to_regclass(%s) IS NULL AND to_regclass(%s) IS NOT NULL",
            *(schema, f"{schema}.meta", f"{schema}.meta", f"{schema}.tracks"),
        ).fetchone()
        if others:
            raise JournalError(f"the schema of {self.place} has a table tracks of something else; name another schema")
        if not has_schema:
            self.run(f'CREATE SCHEMA "{schema}"')
        version = int(self.run("SELECT value FROM meta WHERE name = 'version'").fetchone()[0]) if has_tables else 0
        if version > len(MIGRATIONS):
            raise JournalError(
                f"{self.place} was written by a newer version of aistemsplitter_async; upgrade it", code=UNFIT
            )
        if version < len(MIGRATIONS):
            self._run_scripts(version)
        self.run("COMMIT")

    def _run_scripts(self, version: int) -> None:
        if version:
            self.run("LOCK TABLE meta IN ACCESS EXCLUSIVE MODE")  # every transaction reads the version first
            (running,) = self.run("SELECT count(*) FROM workers WHERE until > clock_timestamp()").fetchone()
            if running:
                raise JournalError(
                    f"{self.place} must be migrated for this version of aistemsplitter_async, and workers of an older "
                    f"one are still running on it ({running}); stop them first",
                    code=UNFIT,
                )
        for script in MIGRATIONS[version:]:
            self.run(script)
        self.run(
            "INSERT INTO meta VALUES ('version', %s), ('id', gen_random_uuid()::text) "
            "ON CONFLICT (name) DO UPDATE SET value = excluded.value WHERE meta.name = 'version'",
            str(len(MIGRATIONS)),
        )

    def _was_committed(self, xid: str) -> bool:
        """Return whether a transaction was committed whose connection broke meanwhile; wait until that is known.

        Raises:
            JournalError: the server cannot say, or the journal is being closed and it has not said.
        """
        began, asked = time.monotonic(), 0
        while (status := self._ask_for(xid)) not in ("committed", "aborted"):
            if status == "unknown":
                raise JournalError(
                    f"{self.place} does not know what became of a commit {time.monotonic() - began:.0f} s ago: it is "
                    "another server, or was restored from a backup. Check that it has what was paid for",
                    code=UNFIT,
                )
            if self._hurry.is_set():
                raise JournalError(
                    f"{self.place} could not be asked whether the last writes were kept; the next run reads there what "
                    "was, and goes on from it",
                    code=DOWN,
                )
            if not asked:
                _log.warning("waiting for %s to say whether a commit was kept (%s)", self.place, status)
            self._hurry.wait(min(_LONGEST, _PAUSE * 2 ** min(asked, 10)))
            asked += 1
        return status == "committed"

    def _ask_for(self, xid: str) -> str:
        self.hang_up()
        try:
            self._connect()
            self.begin()
            is_over = self._is_over(xid)
            last = self.run("SELECT number FROM commits WHERE session = %s", self._name).fetchone()
            self.roll_back()
        except self._psycopg.Error as error:
            self.hang_up()
            return f"{redact(error, self._url)}"
        except JournalError as error:
            self.hang_up()
            if error.code != DOWN:
                raise
            return str(error)
        if not is_over:
            return "in progress"
        number = None if last is None else last[0]
        return "committed" if number == self._commits else "aborted" if number == self._kept else "unknown"

    def _is_over(self, xid: str) -> bool:
        try:
            (status,) = self.run("SELECT pg_xact_status(%s::text::xid8)", xid).fetchone()
        except self._psycopg.Error as error:
            if error.sqlstate != _FUTURE:
                raise
            self.roll_back()  # the server crashed, and has not come to that number again
            self.begin()
            return True
        return bool(status != "in progress")

    def _build_other(self) -> JournalError:
        return JournalError(
            f"{self.place} is another journal than before: the server was replaced, or restored from nothing. Nothing "
            "more is created: it does not know what was paid for",
            code=UNFIT,
        )

    def _is_lost(self) -> bool:
        return self._connection is None or self._connection.closed or self._connection.broken

    def _is_aborted(self) -> bool:
        connection = self._connection
        return connection is None or connection.info.transaction_status != self._psycopg.pq.TransactionStatus.INTRANS

    def _keep_moving(self) -> None:
        """Break the connection under a thread that waits for an answer for too long, until it is closed."""
        while not self._closed.wait(JOURNAL_CONNECT):
            connection = self._connection
            if connection is None:
                continue
            # Perhaps it is just being closed.
            with suppress(OSError, self._psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as other:
                other.shutdown(socket.SHUT_RDWR)
