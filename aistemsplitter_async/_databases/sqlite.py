"""SQLite files that several processes of one machine open at once, and that others must not read.

These functions block; a caller on the event loop goes through a thread.
"""

from __future__ import annotations

import mmap
import os
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final
from weakref import WeakSet

from aistemsplitter_async._files import create_private

FileID = tuple[int, int]
"""Device and inode."""

_BUSY_PAUSE: Final = 0.01  # s between two attempts to change the journal mode
_PRIMARY_CODE: Final = 0xFF  # mask: the kind of error, without SQLite's extended code


class WrongFileError(Exception):
    """The file at the path is something else."""


class SharedFile:
    """A SQLite file that is opened when it is used, again if it was replaced, and that is closed while we fork.

    SQLite knows which files a process has open, and a child would inherit that without the locks.

    Args:
        path: where it is.
        after_fork: called in a child, which has none of the threads.
        options: of `open_shared`.

    Attributes:
        lock: to be held while the file is used.
        file: the one that is open, or was at last.
    """

    def __init__(self, path: Path, *, after_fork: Callable[[], None], **options: Any) -> None:
        self.lock = threading.Lock()
        self.file: FileID | None = None
        self._path = path
        self._options = options
        self._after_fork = after_fork
        self._db: sqlite3.Connection | None = None
        _FILES.add(self)

    @property
    def is_open(self) -> bool:
        """Whether it is open, and still the one at the path, which the other processes use."""
        return self._db is not None and identify(self._path) == self.file

    def open(self) -> sqlite3.Connection:
        """Return the connection. Raises like `open_shared`."""
        if self._db is None or not self.is_open:
            self.close()
            self._db, self.file = open_shared(self._path, **self._options)
        return self._db

    def close(self) -> None:
        """Close it, until it is used again."""
        db, self._db = self._db, None
        if db is not None:
            db.close()

    def hold(self) -> None:
        """Keep it closed until `release`."""
        self.lock.acquire()
        self.close()

    def release(self, *, is_child: bool) -> None:
        """Let it be used again."""
        if is_child:
            self._after_fork()
        self.lock.release()


def open_shared(
    path: Path, *, application_id: int, schema: str, synchronous: str, timeout: float
) -> tuple[sqlite3.Connection, FileID | None]:
    """Open a file, which is created if it does not exist, with write-ahead logging where that works.

    The file that is returned beside the connection is the one that it is open on, or one that was at the path before:
    whoever compares it with the one that is there later learns of a replacement.

    Args:
        path: where it is.
        application_id: distinguishes our file from other SQLite files.
        schema: statements that may be run again.
        synchronous: what `PRAGMA synchronous` shall be.
        timeout: seconds to wait for another process.

    Raises:
        WrongFileError: the file is something else.
        OSError, sqlite3.Error: it cannot be created, opened or written.
    """
    with suppress(FileExistsError):
        create_private(path)
    file = identify(path)
    db = sqlite3.connect(path, timeout=timeout, isolation_level=None, check_same_thread=False)
    try:
        _check_kind(db, application_id)
        if _can_share_memory(path):
            enable_wal(db, timeout)
        db.execute(f"PRAGMA synchronous = {synchronous}")
        db.executescript(f"BEGIN IMMEDIATE; {schema} PRAGMA application_id = {application_id}; COMMIT;")
    except BaseException:
        db.close()
        raise
    return db, file


def kind_of(error: sqlite3.Error) -> int:
    """Return the primary code of an error, such as `sqlite3.SQLITE_BUSY`; 0 if Python raised it itself."""
    return getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE


def identify(path: Path) -> FileID | None:
    """Return the device and inode, which change when a file is replaced; `None` if there is no file."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _check_kind(db: sqlite3.Connection, application_id: int) -> None:
    """Refuse a file that is neither one of ours nor empty."""
    try:
        db.execute("BEGIN")  # so that both are read before, or both after, another process prepares the file
        kind: int = db.execute("PRAGMA application_id").fetchone()[0]
        tables: int = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        db.execute("COMMIT")
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise
        raise WrongFileError from None
    if tables and kind != application_id:
        raise WrongFileError


def _can_share_memory(path: Path) -> bool:
    """Return whether processes can map a file beside `path` into memory together, as write-ahead logging needs.

    Some network shares cannot.
    """
    try:
        with tempfile.TemporaryFile(prefix=f".{path.name}-", dir=path.parent) as file:
            file.truncate(1)
            mmap.mmap(file.fileno(), 1).close()
    except OSError:
        return False
    return True


def enable_wal(db: sqlite3.Connection, timeout: float) -> None:
    """Switch to write-ahead logging. SQLite itself does not wait here while another process does the same."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if kind_of(error) != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
            time.sleep(_BUSY_PAUSE)
        else:
            return


_FILES: Final = WeakSet[SharedFile]()
_HELD: Final = list[SharedFile]()


def _hold_all() -> None:
    for file in list(_FILES):
        file.hold()
        _HELD.append(file)


def _release_all(*, is_child: bool) -> None:
    while _HELD:
        _HELD.pop().release(is_child=is_child)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_hold_all,
        after_in_parent=partial(_release_all, is_child=False),
        after_in_child=partial(_release_all, is_child=True),
    )
