"""SQLite files that several processes of one machine open at once, and that others must not read.

These functions block; a caller on the event loop goes through a thread.
"""

from __future__ import annotations

import mmap
import sqlite3
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from aistemsplitter_async._files import create_private

FileID = tuple[int, int]
"""Device and inode."""

_BUSY_PAUSE: Final = 0.01  # s between two attempts to change the journal mode
_PRIMARY_CODE: Final = 0xFF  # mask: the kind of error, without SQLite's extended code


class WrongFileError(Exception):
    """The file at the path is something else."""


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
