"""A gate's state in a SQLite file: for processes of one machine, which needs no server for that.

All of them have the same monotonic clock, which nobody sets. It begins again when the machine starts, so every text is
kept with the boot during which it was written.
"""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import sqlite3
import stat
import time
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Final, Self, TypeVar

from aistemsplitter_async._databases.sqlite import SharedFile, WrongFileError, kind_of
from aistemsplitter_async._files import make_folder, reason_of
from aistemsplitter_async._gate.store import Stored, StoreUnavailableError
from aistemsplitter_async._tasks import OneThread, run_in_thread
from aistemsplitter_async.config import STORE_TIMEOUT
from aistemsplitter_async.shared.boot import is_elsewhere, is_same_boot, read_boot

T = TypeVar("T")

_APPLICATION_ID: Final = 0x41535347  # "ASSG": distinguishes a gate's state from other SQLite files
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS gates (
    key TEXT PRIMARY KEY, version INTEGER NOT NULL, text TEXT NOT NULL,
    boot TEXT NOT NULL,       -- during which it was written
    written_at REAL NOT NULL, -- by the wall clock
    expires_at REAL NOT NULL  -- on the clock of that boot
);
"""
_LOAD: Final = "SELECT text, version, boot, written_at FROM gates WHERE key = ?"
_SWAP: Final = (
    "UPDATE gates SET text = ?, boot = ?, written_at = ?, expires_at = ?, version = version + 1 "
    "WHERE key = ? AND version = ?"
)
_PUT: Final = "INSERT OR IGNORE INTO gates (text, boot, written_at, expires_at, key, version) VALUES (?, ?, ?, ?, ?, ?)"
_FORGET: Final = "DELETE FROM gates WHERE boot = ? AND expires_at < ?"
_PAUSES: Final = (0.0003, 0.002)  # s, from and to: another process needs some tens of microseconds
_DAMAGED: Final = frozenset({sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT})
_REFUSED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR})
_PRIVATE: Final = 0o700
_OTHERS_WRITE: Final = 0o022


class SQLiteGateStore:
    """Keeps a gate's state in the SQLite file at `path`, for processes of one machine; containers mount its folder.

    The folder and the file are created if they do not exist, for this user only. Event loops of several threads may
    share a store; a process that forks may have one open.

    Args:
        path: absolute, on a disk of this machine.
        timeout: seconds to wait for the file.
        way_out: what to do if there can be no file there, as messages say it.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        timeout: float = STORE_TIMEOUT,
        way_out: str = "name a file that can be written",
    ) -> None:
        self._path = Path(path)
        self._timeout = timeout
        self._way_out = way_out
        self._boot = ""
        self._thread: OneThread | None = None
        self._file = SharedFile(
            self._path,
            after_fork=self._forget_thread,
            application_id=_APPLICATION_ID,
            schema=_SCHEMA,
            synchronous="NORMAL",  # a power cut may undo what was written last, but damages nothing
            timeout=timeout,
        )

    def __repr__(self) -> str:
        return f"SQLiteGateStore({str(self._path)!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def load(self, key: str) -> Stored:
        return await self._run(lambda: self._load(key))

    async def swap(self, key: str, version: int, text: str, keep: float) -> bool:
        return await self._run(lambda: self._swap(key, version, text, keep))

    async def aclose(self) -> None:
        """Close the file. Using the store again reopens it."""
        thread, self._thread = self._thread, None
        if thread is not None:
            await run_in_thread(self._close_now, pool=thread)
            thread.shutdown(wait=False)

    async def _run(self, work: Callable[[], T]) -> T:
        """Return what `work` returns, run in the thread: a disk may take its time, and the event loop goes on."""
        if self._thread is None:
            self._thread = OneThread("gate store")
        call = asyncio.wrap_future(self._thread.submit(self._use, work))
        try:
            async with asyncio.timeout(2 * self._timeout):  # SQLite itself waits for `timeout`; a disk for ever
                return await call
        except TimeoutError:
            problem = StoreUnavailableError(f"{self._path} cannot be read or written within {2 * self._timeout:g} s")
        except (sqlite3.Error, OSError, WrongFileError) as error:
            problem = self._explain(error)
        raise problem

    # The methods below run in the thread.

    def _use(self, work: Callable[[], T]) -> T:
        until = time.monotonic() + self._timeout
        while True:
            try:
                with self._file.lock:
                    return work()
            except sqlite3.Error as error:
                if kind_of(error) != sqlite3.SQLITE_BUSY:
                    self._close_now()  # it is opened again, whatever was wrong
                    raise
                if time.monotonic() >= until:
                    raise
            least, most = _PAUSES
            time.sleep(least + (most - least) * secrets.randbelow(1000) / 1000)

    def _load(self, key: str) -> Stored:
        row = self._open().execute(_LOAD, (key,)).fetchone()
        now = time.monotonic()
        if row is None:
            return Stored(None, 0, now)
        text, version, boot, written_at = row
        has_restarted = not is_same_boot(boot, self._boot)
        if has_restarted and is_elsewhere(boot, self._boot, age=time.time() - written_at, uptime=now):
            raise StoreUnavailableError(
                f"{self._path} is in use by another machine, which has a clock of its own; "
                "machines share through Redis or PostgreSQL"
            )
        return Stored(text, version, now, has_restarted)

    def _swap(self, key: str, version: int, text: str, keep: float) -> bool:
        db, now = self._open(), time.monotonic()
        values = (text, self._boot, time.time(), now + keep, key)
        if version:
            changed = db.execute(_SWAP, (*values, version))
        else:
            db.execute(_FORGET, (self._boot, now))
            changed = db.execute(_PUT, (*values, 1 + secrets.randbits(48)))  # so that a lost one is not met again
        return changed.rowcount == 1 and self._file.is_open

    def _open(self) -> sqlite3.Connection:
        if not self._file.is_open:
            self._boot = read_boot()
            if not self._path.parent.exists():
                make_folder(self._path.parent, mode=_PRIVATE)
            self._check_owner()
            self._file.open().execute("PRAGMA busy_timeout = 0")  # its pauses are longer than what there is to wait for
            try:
                self._check_owner()
            except OSError:
                self._file.close()
                raise
        return self._file.open()

    def _check_owner(self) -> None:
        """Refuse a file that somebody else may have put there, in a folder that others write to, such as `/tmp`."""
        if os.name == "nt" or not self._path.parent.stat().st_mode & _OTHERS_WRITE:
            return
        try:
            status = self._path.lstat()
        except FileNotFoundError:
            return
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "it is a link or somebody else's, in a folder that others can write to")

    def _close_now(self) -> None:
        with self._file.lock:
            self._file.close()

    def _forget_thread(self) -> None:
        self._thread = None

    def _explain(self, error: Exception) -> StoreUnavailableError:
        if isinstance(error, OSError):
            message = f"{self._path} cannot be written ({reason_of(error)}); {self._way_out}"
            return StoreUnavailableError(message, permanent=error.errno in _REFUSED)
        kind = kind_of(error) if isinstance(error, sqlite3.Error) else sqlite3.SQLITE_NOTADB
        if kind in _DAMAGED:
            message = f"{self._path} is damaged, or something else; remove it, or {self._way_out}"
            return StoreUnavailableError(message, permanent=True)
        if kind == sqlite3.SQLITE_BUSY:
            return StoreUnavailableError(f"{self._path} has been locked for {self._timeout:g} s by another process")
        is_refused = kind in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM)
        return StoreUnavailableError(f"{self._path}: {error}; {self._way_out}", permanent=is_refused)
