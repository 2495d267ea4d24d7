"""The journal as a file: private, locked, migrated."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from aistemsplitter_async.errors import JournalError

if sys.platform != "win32":
    import fcntl

# Where SQLite's locks are in a file, and what an owner has locked whole (https://www.sqlite.org/src/file/src/os_unix.c).
_SHARED_FIRST = 0x40000000 + 2
_SHARED_BYTES = 510


def is_locked(journal: Path) -> bool | None:
    """Return whether a process has the journal open, `None` where that cannot be told.

    Never call it in the process of that batch: closing the file would give up the batch's own lock.
    """
    if sys.platform == "win32":
        return None
    try:
        with journal.open("rb") as file:
            # A shared lock, for a moment: a batch that begins just then tries again.
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB, _SHARED_BYTES, _SHARED_FIRST)
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False


def status_path(journal: Path) -> Path:
    """Return where the status of the batch on `journal` is."""
    return journal.with_name(f"{journal.name}.status.json")


_APPLICATION_ID: Final = 0x41535350  # "ASSP": tells a journal from any other SQLite file
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
)
# s, at most: of two who come at the same moment, each may hold a part of the lock and be refused the rest.
_LOCK_PAUSES: Final = (0.05, 0.1, 0.2, 0.2)


def _make_private(path: Path) -> None:
    for file in (path, _beside(path, "-wal")):
        if file.exists():
            file.chmod(0o600)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _create_private(path: Path) -> None:
    """Create the file readable by its owner only; SQLite gives the files beside it the same mode.

    An existing one is not opened: closing it again would give up SQLite's lock of another batch in this process.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():  # a device, too: its mode would be changed for everybody
            raise JournalError(f"{path} is a folder or a device, not a journal; name another file")
        if path.exists() and not path.stat().st_size and (_beside(path, "-wal").exists() or status_path(path).exists()):
            raise JournalError(f"{path} is empty, but was a journal. Restore a copy; without it, all is paid again")
        if not path.exists():
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        if not path.exists():
            raise JournalError(f"cannot create {path}: {path.parent} is not a folder") from None
    except OSError as error:
        reason = error.strerror
        raise JournalError(f"cannot create {path}: {reason}") from None
