"""An inbox in a file of its own: a receiver in one process, clients in others.

The receiver commits an event, down to the disk, before it acknowledges it; events that arrive together share one
commit. Clients look many times a second whether the file has changed, which costs next to nothing, and read it if so.
"""

from __future__ import annotations

import asyncio
import math
import os
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from functools import partial
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

from aistemsplitter_async._tasks import run_in_thread, wait_out
from aistemsplitter_async.clock import Clock, SystemClock
from aistemsplitter_async.config import INBOX_EVENTS, INBOX_KEEP, INBOX_LOOK
from aistemsplitter_async.errors import ConfigurationError
from aistemsplitter_async.webhooks.event import WebhookEvent

T = TypeVar("T")

_File = tuple[int, int]

_APPLICATION_ID: Final = 0x41535749  # "ASWI": tells an inbox from any other SQLite file
_PATIENCE: Final = 5.0  # s for another process to finish its commit
_NAP: Final = 0.01  # s between two attempts, in a thread
_PRIMARY: Final = 0xFF  # of an error code: what kind it is
_TRUST: Final = 1.0  # s for which a file that looks the same is not read again
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS events (
    place INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used again, so that a follower misses nothing
    event TEXT NOT NULL, split_id TEXT NOT NULL, status TEXT NOT NULL,
    signed_at INTEGER NOT NULL, kept_at REAL NOT NULL,
    UNIQUE (event, split_id, status)
);
CREATE INDEX IF NOT EXISTS events_by_age ON events (kept_at);
"""
_PUT: Final = "INSERT OR IGNORE INTO events (event, split_id, status, signed_at, kept_at) VALUES (?, ?, ?, ?, ?)"
_FORGET_OLD: Final = "DELETE FROM events WHERE kept_at <= ?"
_FORGET_MANY: Final = "DELETE FROM events WHERE place <= (SELECT max(place) FROM events) - ?"
_HAS: Final = "SELECT 1 FROM events WHERE event = ? AND split_id = ? AND status = ? AND kept_at > ?"
_NEWS: Final = "SELECT place, event, split_id, status, signed_at FROM events WHERE place > ? ORDER BY place LIMIT 1000"


class SQLiteInbox:
    """An inbox in the SQLite file at `path`, which is made if it is not there. Not for network file systems.

    Args:
        path: the same one for the receiver and every client.
        capacity: events kept at most.
        keep: seconds they are kept.
        look: seconds between two looks of a client at the file.
        clock: where time comes from.

    Raises:
        ConfigurationError: (when it is first used) the file is something else.
        OSError, sqlite3.Error: it cannot be read or written. A receiver answers 503 then.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        capacity: int = INBOX_EVENTS,
        keep: float = INBOX_KEEP,
        look: float = INBOX_LOOK,
        clock: Clock | None = None,
    ) -> None:
        self._path = Path(path)
        self._capacity = capacity
        self._keep = keep
        self._look = look
        self._clock = clock or SystemClock()
        self._db: sqlite3.Connection | None = None
        self._file: _File | None = None  # the one that is open
        self._turn = asyncio.Lock()  # one thread at a time uses the connection
        self._gathering: list[WebhookEvent] = []
        self._commit: asyncio.Task[None] | None = None  # of what is being gathered

    def __repr__(self) -> str:
        return f"SQLiteInbox({str(self._path)!r})"

    async def __aenter__(self) -> Self:
        await self._run(lambda _: None)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the file, once what is being put is safe; using the inbox again opens it again."""
        if self._commit is not None:
            await wait_out(self._commit)
        async with self._turn:
            db, self._db = self._db, None
            if db is not None:
                await run_in_thread(db.close)

    async def has(self, event: WebhookEvent) -> bool:
        known_by = (event.event, event.split_id, event.status, self._clock.now() - self._keep)
        return await self._run(lambda db: db.execute(_HAS, known_by).fetchone() is not None)

    async def put(self, event: WebhookEvent) -> None:
        self._gathering.append(event)
        if self._commit is None or self._commit.done():  # cancelled, before it began
            self._commit = asyncio.get_running_loop().create_task(self._commit_all(), name="commit webhook events")
        await asyncio.shield(self._commit)

    async def follow(self) -> AsyncGenerator[WebhookEvent, None]:
        log = self._path.with_name(f"{self._path.name}-wal")  # where SQLite puts commits first
        file, place, stamp, trusted_until = None, 0, _stamp(log), -math.inf
        while True:
            now, last, stamp = self._clock.monotonic(), stamp, _stamp(log)
            if stamp != last or now >= trusted_until:
                before = file
                file, news = await self._run(partial(self._read_news, file=file, after=place))
                place = place if file == before else 0
                for at, event in news:
                    place = at
                    yield event
                # After a change it is read once more: two commits may bear the same time.
                trusted_until = now + _TRUST if stamp == last and not news else -math.inf
            await self._clock.sleep(self._look)

    async def _commit_all(self) -> None:
        """Commit what has been gathered by the time it is our turn; what comes later waits for the next one."""
        async with self._turn:
            events, self._gathering, self._commit = self._gathering, [], None
            await run_in_thread(self._write, events)

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        async with self._turn:
            return await run_in_thread(lambda: work(self._open()))

    # From here on in a thread.

    def _write(self, events: list[WebhookEvent]) -> None:
        now = self._clock.now()
        with self._open() as db:
            db.execute("BEGIN IMMEDIATE")
            db.execute(_FORGET_OLD, (now - self._keep,))
            rows = [(one.event, one.split_id, one.status, one.signed_at, now) for one in events]
            db.executemany(_PUT, rows)
            db.execute(_FORGET_MANY, (self._capacity,))

    def _read_news(
        self, db: sqlite3.Connection, *, file: _File | None, after: int
    ) -> tuple[_File | None, list[tuple[int, WebhookEvent]]]:
        """Return which file is open, and what it holds beyond a place in `file`."""
        found = db.execute(_NEWS, (after if file == self._file else 0,))
        return self._file, [(place, WebhookEvent(*values)) for place, *values in found]

    def _open(self) -> sqlite3.Connection:
        if self._db is not None and _identify(self._path) != self._file:
            self._db.close()  # somebody removed the file, and put another one there perhaps; the others will look there
            self._db = None
        if self._db is None:
            # Nobody else needs to know what is split. A file that exists is not opened here: closing it again would
            # take away the locks that other connections of this process hold (sqlite.org/howtocorrupt.html, 2.2).
            with suppress(FileExistsError):
                os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            self._file = _identify(self._path)
            db = sqlite3.connect(self._path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
            try:
                self._prepare(db)
            except BaseException:
                db.close()
                raise
            self._db = db
        return self._db

    def _prepare(self, db: sqlite3.Connection) -> None:
        try:
            db.execute("BEGIN")  # both from before, or both from after another process has prepared it
            kind: int = db.execute("PRAGMA application_id").fetchone()[0]
            tables: int = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
            db.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            kind, tables = 0, 1
        if tables and kind != _APPLICATION_ID:
            raise ConfigurationError(f"{self._path} is not an inbox for webhooks; name another file")
        _use_log(db)
        db.execute("PRAGMA synchronous = FULL")  # a commit survives a power cut
        db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA application_id = {_APPLICATION_ID}; COMMIT;")


def _use_log(db: sqlite3.Connection) -> None:
    """Let commits go to a log first. SQLite does not wait by itself for others who do the same to a new file."""
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & _PRIMARY != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                raise
            time.sleep(_NAP)
        else:
            return


def _identify(path: Path) -> _File | None:
    """Return what tells a file from another one that takes its place, `None` if there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Return what changes with every commit (which may be in place), `None` if there is no file."""
    try:
        status = path.stat()
    except OSError:  # whoever reads it is told
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
