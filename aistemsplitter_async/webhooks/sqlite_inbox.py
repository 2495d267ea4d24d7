"""An inbox in a SQLite file: a receiver in one process, clients in others.

The receiver commits an event to disk before it acknowledges it; events that arrive together share one commit. Clients
check many times a second whether the file has changed, which costs next to nothing, and read it only if it has.
"""

from __future__ import annotations

import math
import sqlite3
from collections import deque
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Final, Self, TypeVar

from aistemsplitter_async._databases.sqlite import FileID, SharedFile, WrongFileError
from aistemsplitter_async._tasks import run_in_thread, run_to_end
from aistemsplitter_async.clock import Clock, SystemClock
from aistemsplitter_async.config import INBOX_EVENTS, INBOX_KEEP, INBOX_LOOK
from aistemsplitter_async.errors import ConfigurationError
from aistemsplitter_async.webhooks.event import WebhookEvent

T = TypeVar("T")

_APPLICATION_ID: Final = 0x41535749  # "ASWI": distinguishes an inbox from other SQLite files
_BUSY_TIMEOUT: Final = 5.0  # s for another process to finish its commit
_MAX_UNREAD: Final = 1.0  # s after which the file is read even if it seems unchanged
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS events (
    place INTEGER PRIMARY KEY AUTOINCREMENT,  -- never reused, so that a follower misses nothing
    event TEXT NOT NULL, split_id TEXT NOT NULL, status TEXT NOT NULL,
    signed_at INTEGER NOT NULL, kept_at REAL NOT NULL,
    UNIQUE (event, split_id, status)
);
CREATE INDEX IF NOT EXISTS events_by_age ON events (kept_at);
"""
# Not INSERT OR IGNORE: that gives even a duplicate a place, and places are what `capacity` counts.
_PUT: Final = """
INSERT INTO events (event, split_id, status, signed_at, kept_at) SELECT ?1, ?2, ?3, ?4, ?5
WHERE NOT EXISTS (SELECT 1 FROM events WHERE event = ?1 AND split_id = ?2 AND status = ?3)
"""
_FORGET_OLD: Final = "DELETE FROM events WHERE kept_at <= ?"
_FORGET_MANY: Final = "DELETE FROM events WHERE place <= (SELECT max(place) FROM events) - ?"
_HAS: Final = "SELECT 1 FROM events WHERE event = ? AND split_id = ? AND status = ? AND kept_at > ?"
_NEWS: Final = "SELECT place, event, split_id, status, signed_at FROM events WHERE place > ? ORDER BY place LIMIT 1000"


class SQLiteInbox:
    """An inbox in the SQLite file at `path`, which is created if it does not exist. Not for network file systems.

    Event loops of several threads may share one, as where a framework runs each request in its own. A process that forks
    may have one open.

    Args:
        path: the same for the receiver and every client.
        capacity: the most events to keep.
        keep: seconds to keep them.
        look: seconds between a client's checks of the file.
        clock: where time comes from.

    Raises:
        ConfigurationError: (on first use) the file is something else.
        OSError, sqlite3.Error: it cannot be read or written. A receiver then answers 503.
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
        self._file = SharedFile(
            self._path,
            after_fork=self._start_over,
            application_id=_APPLICATION_ID,
            schema=_SCHEMA,
            synchronous="FULL",  # a commit survives a power cut
            timeout=_BUSY_TIMEOUT,
        )
        self._thread: Executor = ThreadPoolExecutor(1)  # the only one that uses the file, for whichever event loop
        self._uncommitted = deque[tuple[WebhookEvent, Future[None]]]()

    def __repr__(self) -> str:
        return f"SQLiteInbox({str(self._path)!r})"

    async def __aenter__(self) -> Self:
        await self._run(lambda _: None)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the file once every event being put is committed. Using the inbox again reopens it."""
        await run_to_end(self._close())

    async def _close(self) -> None:
        thread, self._thread = self._thread, ThreadPoolExecutor(1)  # without a thread, until the inbox is used again
        await run_in_thread(self._close_file, pool=thread)
        thread.shutdown(wait=False)

    async def has(self, event: WebhookEvent) -> bool:
        arguments = (event.event, event.split_id, event.status, self._clock.now() - self._keep)
        return await self._run(lambda db: db.execute(_HAS, arguments).fetchone() is not None)

    async def put(self, event: WebhookEvent) -> None:
        committed = Future[None]()
        self._uncommitted.append((event, committed))
        await run_in_thread(self._commit, committed, pool=self._thread)

    async def follow(self) -> AsyncGenerator[WebhookEvent, None]:
        log = self._path.with_name(f"{self._path.name}-wal")  # where SQLite puts commits first
        file, place, stamp, read_again_at = None, 0, _stamp(log), -math.inf
        while True:
            now, last, stamp = self._clock.monotonic(), stamp, _stamp(log)
            if stamp != last or now >= read_again_at:
                before = file
                file, news = await self._run(partial(self._read_news, file=file, after=place))
                place = place if file == before else 0
                for at, event in news:
                    place = at
                    yield event
                # After a change it is read once more: two commits may have the same time stamp.
                read_again_at = now + _MAX_UNREAD if stamp == last and not news else -math.inf
            await self._clock.sleep(self._look)

    def _start_over(self) -> None:
        """Go on in a process that was forked: the thread, and what is being put there, are the parent's."""
        self._thread = ThreadPoolExecutor(1)
        self._uncommitted.clear()

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await run_in_thread(self._use, work, pool=self._thread)

    # The methods below run in the thread.

    def _use(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._file.lock:
            try:
                db = self._file.open()
            except WrongFileError:
                raise ConfigurationError(f"{self._path} is not a webhook inbox; choose another file") from None
            return work(db)

    def _close_file(self) -> None:
        with self._file.lock:
            self._file.close()

    def _commit(self, committed: Future[None]) -> None:
        """Commit every event that was put by now, unless the one that `committed` is about is committed already."""
        if not committed.done():
            puts = [self._uncommitted.popleft() for _ in range(len(self._uncommitted))]
            try:
                self._write([event for event, _ in puts])
            except BaseException as error:  # noqa: BLE001  # each of them raises it
                for _, future in puts:
                    future.set_exception(error)
            else:
                for _, future in puts:
                    future.set_result(None)
        committed.result()

    def _write(self, events: list[WebhookEvent]) -> None:
        now = self._clock.now()
        rows = [(one.event, one.split_id, one.status, one.signed_at, now) for one in events]

        def keep(db: sqlite3.Connection) -> None:
            with db:
                db.execute("BEGIN IMMEDIATE")
                db.execute(_FORGET_OLD, (now - self._keep,))
                db.executemany(_PUT, rows)
                db.execute(_FORGET_MANY, (self._capacity,))

        self._use(keep)

    def _read_news(
        self, db: sqlite3.Connection, *, file: FileID | None, after: int
    ) -> tuple[FileID | None, list[tuple[int, WebhookEvent]]]:
        """Return which file is open and its events behind `after`, a place in `file`; all if that is another file."""
        found = db.execute(_NEWS, (after if file == self._file.file else 0,))
        return self._file.file, [(place, WebhookEvent(*values)) for place, *values in found]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Return a value that changes with every commit, even one that overwrites in place; `None` if there is no file."""
    try:
        status = path.stat()
    except OSError:  # reading the file will report it
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
