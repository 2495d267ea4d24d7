"""The journal as a file: created privately, locked by one process, checked and migrated when it is opened.

These functions block; a caller on the event loop goes through `_tasks.run_in_thread`.
"""

from __future__ import annotations

import random
import sqlite3
import sys
import time
from pathlib import Path
from typing import Final

from aistemsplitter_async._files import PRIVATE, create_private, reason_of
from aistemsplitter_async.errors import JournalError, JournalLockedError

if sys.platform != "win32":
    import fcntl

# Where SQLite's locks are in a file; the owner holds all of these bytes
# (https://www.sqlite.org/src/file/src/os_unix.c).
_SHARED_FIRST = 0x40000000 + 2
_SHARED_BYTES = 510
_APPLICATION_ID: Final = 0x41535350  # "ASSP": distinguishes a journal from other SQLite files
# One script per version; a journal of version n runs those from n on, all in one transaction.
MIGRATIONS: Final = (
    """
    CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE sources (  -- what is known of files: they are read again only if any of this changed
        path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER, inode INTEGER, identity TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE tracks (
        id INTEGER PRIMARY KEY,
        identity TEXT NOT NULL,  -- of the audio: its SHA-256 or its URL
        variant TEXT NOT NULL,   -- stem model and output format, as they were asked for
        run INTEGER NOT NULL,    -- the newest run that came across it
        source TEXT NOT NULL,
        state TEXT NOT NULL,
        folder TEXT NOT NULL,
        pattern TEXT NOT NULL,
        place TEXT NOT NULL UNIQUE,  -- folder and pattern as a file system that ignores case sees them
        input TEXT, expires_at REAL,
        idempotency_key TEXT UNIQUE, body BLOB, intended_at REAL,
        split_id TEXT, credits_used REAL, created_at REAL,
        split TEXT, files TEXT, failure TEXT
    );
    CREATE INDEX tracks_by_identity ON tracks (identity, variant);
    CREATE INDEX tracks_by_state ON tracks (state, failure IS NULL);
    """,
    # What was called identity was the SHA-256 of all bytes, which another tag changes. The audio of old rows is unknown
    # until a file with the same bytes is read, so their identity, and that of known files, may be NULL.
    """
    CREATE TABLE old_sources AS SELECT * FROM sources;
    DROP TABLE sources;
    CREATE TABLE sources (  -- what is known of files: they are read again only if any of this changed
        path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER, inode INTEGER,
        content TEXT NOT NULL,  -- the SHA-256 of all bytes
        identity TEXT           -- of the audio alone
    ) WITHOUT ROWID;
    INSERT INTO sources SELECT path, size, mtime_ns, ctime_ns, inode, identity, NULL FROM old_sources;
    DROP TABLE old_sources;
    CREATE TABLE new_tracks (
        id INTEGER PRIMARY KEY,
        content TEXT,            -- the SHA-256 of all bytes; NULL for a URL
        identity TEXT,           -- of the audio alone, or the URL
        variant TEXT NOT NULL,   -- stem model and output format, as they were asked for
        run INTEGER NOT NULL,    -- the newest run that came across it
        source TEXT NOT NULL,
        state TEXT NOT NULL,
        folder TEXT NOT NULL,
        pattern TEXT NOT NULL,
        place TEXT NOT NULL UNIQUE,  -- folder and pattern as a file system that ignores case sees them
        input TEXT, expires_at REAL,
        idempotency_key TEXT UNIQUE, body BLOB, intended_at REAL,
        split_id TEXT, credits_used REAL, created_at REAL,
        split TEXT, files TEXT, failure TEXT
    );
    INSERT INTO new_tracks
        SELECT id, iif(identity LIKE 'sha256:%', identity, NULL), iif(identity LIKE 'sha256:%', NULL, identity),
            variant, run, source, state, folder, pattern, place, input, expires_at, idempotency_key, body, intended_at,
            split_id, credits_used, created_at, split, files, failure
        FROM tracks;
    DROP TABLE tracks;
    ALTER TABLE new_tracks RENAME TO tracks;
    CREATE INDEX tracks_by_identity ON tracks (identity);
    CREATE INDEX tracks_by_content ON tracks (content);
    CREATE INDEX tracks_by_state ON tracks (state, failure IS NULL);
    """,
)
# s at most between attempts: two processes that start at the same moment may each hold a part of the lock.
_LOCK_PAUSES: Final = (0.05, 0.1, 0.2, 0.2)


def is_locked(journal: Path) -> bool | None:
    """Return whether a process has the journal open, `None` where that cannot be known.

    Never call it in the process of that batch: closing the file would drop the batch's own lock.
    """
    if sys.platform == "win32":
        return None
    try:
        with journal.open("rb") as file:
            # A shared lock, for a moment: a batch that starts just then tries again.
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB, _SHARED_BYTES, _SHARED_FIRST)
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False


def status_path(journal: Path) -> Path:
    """Return the path of the status file of the batch on `journal`."""
    return journal.with_name(f"{journal.name}.status.json")


def open_database(path: Path | None) -> tuple[sqlite3.Connection, int]:
    """Return the journal at `path`, locked for this process and with its tables up to date, and the number of this run.

    Args:
        path: the file; created if it is missing, with its folder. `None` for a temporary one.

    Raises:
        JournalLockedError: another process, or another batch of this one, has it open.
        JournalError: it is damaged, another kind of file, of a newer version, or cannot be written.
    """
    if path is not None:
        _ensure_file(path)
    for pause in _LOCK_PAUSES:
        try:
            return _open_once(path)
        except JournalLockedError:
            time.sleep(pause * random.random())  # noqa: S311  # not a secret
    return _open_once(path)


def _open_once(path: Path | None) -> tuple[sqlite3.Connection, int]:
    try:
        db = sqlite3.connect(path or "", timeout=0.0, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise explain(error, path) from None
    try:
        _lock_and_migrate(db, path)
        return db, _begin_run(db)
    except BaseException as error:
        db.close()
        if isinstance(error, sqlite3.Error):
            raise explain(error, path) from None
        raise


def _lock_and_migrate(db: sqlite3.Connection, path: Path | None) -> None:
    # SQLite's own lock decides who owns the journal: the system releases it the moment the owner dies, and child
    # processes do not inherit it.
    db.execute("PRAGMA locking_mode = EXCLUSIVE")
    kind: int = db.execute("PRAGMA application_id").fetchone()[0]
    empty = not db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if not empty and kind != _APPLICATION_ID:
        raise JournalError(f"{path} is not a journal; name the right file, or one that does not exist")
    if path is not None:  # it may have existed already, readable by others
        _make_private(path)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute(f"PRAGMA synchronous = {'FULL' if path else 'OFF'}")  # FULL: a commit survives a power cut
    db.execute("BEGIN EXCLUSIVE")
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise JournalError(f"{path} was written by a newer version of aistemsplitter_async; upgrade it")
    if not empty and db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
        raise sqlite3.DatabaseError
    for statement in (part for script in MIGRATIONS[version:] for part in script.split(";\n")):
        db.execute(statement)
    db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
    db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    db.execute("COMMIT")


def _begin_run(db: sqlite3.Connection) -> int:
    row = db.execute("SELECT value FROM meta WHERE name = 'run'").fetchone()
    run = int(row[0]) + 1 if row is not None else 1
    db.execute("INSERT OR REPLACE INTO meta VALUES ('run', ?)", (str(run),))  # a transaction by itself
    return run


def _ensure_file(path: Path) -> None:
    """Create the file, readable by its owner only; SQLite gives its companion files the same mode."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():  # a device, too: its mode would be changed for every user
            raise JournalError(f"{path} is a folder or a device, not a journal; name another file")
        if path.exists() and not path.stat().st_size and (_wal_of(path).exists() or status_path(path).exists()):
            raise JournalError(
                f"{path} is empty, but was a journal. Restore a copy; without it, every split is paid for again"
            )
        if not path.exists():
            create_private(path)
    except FileExistsError:
        if not path.exists():
            raise JournalError(f"cannot create {path}: {path.parent} is not a folder") from None
    except OSError as error:
        raise JournalError(f"cannot create {path}: {reason_of(error)}") from None


def _make_private(path: Path) -> None:
    for file in (path, _wal_of(path)):
        if file.exists():
            file.chmod(PRIVATE)


def _wal_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def explain(error: sqlite3.Error, path: Path | None) -> JournalError:
    """Return this package's error for one of SQLite's."""
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return JournalLockedError(f"another batch is running on {path}; wait for it or stop it", code="LOCKED")
    if name.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
        return JournalError(f"cannot write {path}: the disk is full or failing", code="DISK")
    if name.startswith(("SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_READONLY")):
        return JournalError(f"cannot write {path}: permission denied, or its folder is missing")
    if isinstance(error, sqlite3.OperationalError | sqlite3.ProgrammingError | sqlite3.InterfaceError):
        return JournalError(f"the journal refused: {error}")
    return JournalError(
        f"{path} is damaged or not a journal; it was left as it is. Restore a copy: with another file, what it has is "
        "paid for again"
    )
