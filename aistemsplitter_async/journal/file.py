"""The journal as a file: created privately, owned by one process, checked and migrated when it is opened.

Committed content is always in the file itself; the file that SQLite keeps beside it (`-journal`) only undoes a commit
that was interrupted. With a write-ahead log the newest commits would be beside it, and a journal copied or renamed
without that log would look new: everything would be bought again.

These functions block; a caller on the event loop goes through `_tasks.run_in_thread`.
"""

from __future__ import annotations

import os
import random
import re
import sqlite3
import stat
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

import attrs

from aistemsplitter_async._files import (
    FULL,
    create_private,
    fresh_path,
    is_full,
    make_folder,
    make_private,
    reason_of,
    sync_folder,
)
from aistemsplitter_async._logs.loggers import Log
from aistemsplitter_async.errors import JournalError, JournalLockedError
from aistemsplitter_async.journal.lock import JournalLock, has_no_locks, lock_path, no_locks
from aistemsplitter_async.journal.schema import MIGRATIONS
from aistemsplitter_async.journal.seal import SEAL, SEALED_VERSIONS, Seal, build_sealed

_log = Log("journal")

MOVED: Final = "MOVED"  # the code of the error that says that the journal is not where it was
UNUSABLE: Final = "JOURNAL_UNUSABLE"  # of the error that says that its file system refuses it
_WAL: Final = "-wal"  # of earlier versions
_UNDO: Final = "-journal"
_RESCUED: Final = ".rescued"
_LOCKING: Final = re.compile("SQLITE_(BUSY|LOCKED|PROTOCOL|IOERR_.*LOCK)")  # what SQLite says if it cannot lock
APPLICATION_ID: Final = 0x41535350  # "ASSP": distinguishes a journal from other SQLite files
# s at most between attempts: two processes that start at the same moment may each hold a part of the lock.
_LOCK_PAUSES: Final = (0.05, 0.1, 0.2, 0.2)


def status_path(journal: Path) -> Path:
    """Return the path of the status file of the batch on `journal`, the same for every link to it."""
    return Path(f"{os.path.realpath(journal)}.status.json")


def content_files(journal: Path) -> tuple[Path, ...]:
    """Return the paths with the content of `journal`, its own first; with those that exist a copy is complete."""
    path = os.path.realpath(journal)
    return tuple(Path(path + suffix) for suffix in ("", _UNDO, _WAL))


def own_files(journal: Path) -> tuple[Path, ...]:
    """Return the paths that belong to `journal`, its own first: none of them is a source. They need not exist."""
    status = status_path(journal)
    others = (_beside(journal, "-shm"), _beside(journal, _RESCUED), lock_path(journal), status, fresh_path(status))
    return (*content_files(journal), *others)


@attrs.frozen
class JournalFile:
    """One open journal file, owned by this process.

    Attributes:
        db: the connection; its tables are up to date.
        run: the number of this run; each opening of the file is one, but that of a move, which has the number 0.
        lock: of the file, if it has a name.
    """

    db: sqlite3.Connection
    run: int
    _path: Path | None
    _identity: tuple[int, int] | None  # device and inode
    lock: JournalLock | None

    def check_in_place(self) -> None:
        """Check that the journal still is the file that the next run will find.

        Raises:
            JournalError: it was deleted, moved or replaced (`code` is `MOVED`).
        """
        if self._path is None:
            return
        try:
            identity, what = _identify(self._path), "replaced by another file"
        except OSError as error:
            identity, what = None, f"deleted or moved ({reason_of(error)})"
        if identity != self._identity:
            raise JournalError(
                f"{self._path} was {what} while the batch runs on it, so no more splits are created: the next run "
                "would not know of them and pay again. What is paid for is finished; then the journal is written back "
                f"to its place, or as {_beside(self._path, _RESCUED)} if something else is there. If the folder is "
                "gone, put it back yourself",
                code=MOVED,
            )

    def close(self) -> None:
        """Close the file, and let another process own it. If it is not in its place, write it back there."""
        try:
            with suppress(OSError):  # the batch has said already that the journal is gone
                self._write_back()
            with suppress(sqlite3.Error):
                self.db.execute("PRAGMA journal_mode = DELETE")  # of the undo file
            self.db.close()
        finally:
            if self.lock is not None:
                self.lock.release()

    def _write_back(self) -> None:
        """Write everything to a new file, at the journal's place or beside what is there now."""
        try:
            self.check_in_place()
        except JournalError:
            assert self._path is not None  # noqa: S101  # or else it is in its place
            place = _beside(self._path, "")
            _write_copy(self.db, _beside(place, _RESCUED) if place.exists() else place)


def open_file(path: Path | None, *, for_move: bool = False) -> JournalFile:
    """Return the journal at `path`, owned by this process.

    Args:
        path: the file; created if it is missing, with its folder. `None` for a temporary one.
        for_move: whether it is opened to be moved: no run begins, and it may be sealed.

    Raises:
        JournalLockedError: another process, or another batch of this one, has it open.
        JournalError: it is damaged, another kind of file, of a newer version, was moved to another place (`code` is
            `SEALED`), or cannot be written or locked.
    """
    for pause in _LOCK_PAUSES:
        try:
            return _open_once(path, for_move)
        except JournalLockedError:
            time.sleep(pause * random.random())  # noqa: S311  # not a secret
    return _open_once(path, for_move)


def _open_once(path: Path | None, for_move: bool) -> JournalFile:  # as `open_file` has it
    if path is None:
        return _connect(None, None, for_move)
    try:
        _check_kind(path)
        lock = JournalLock(path)
        try:
            check_not_lost(path)
            if not path.exists():
                create_private(path)  # SQLite gives its companion files the same mode
            return _connect(path, lock, for_move)
        except BaseException:
            lock.discard()
            raise
    except (OSError, ValueError) as error:  # the second of a path that is none: NUL, or what no name can have here
        raise refused(error, path) from error


def _connect(path: Path | None, lock: JournalLock | None, for_move: bool) -> JournalFile:
    try:
        # SQLite puts its files beside the one that a link leads to, and so do we.
        place = "" if path is None else os.path.realpath(path)
        db = sqlite3.connect(place, timeout=0.0, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise explain(error, path) from None
    try:
        _claim_and_migrate(db, path, for_move)
        return JournalFile(db, 0 if for_move else _begin_run(db), path, None if path is None else _identify(path), lock)
    except BaseException as error:
        db.close()
        if isinstance(error, sqlite3.Error):
            if path is not None and _LOCKING.match(getattr(error, "sqlite_errorname", "")) and has_no_locks(path):
                raise no_locks(path, path) from None
            raise explain(error, path) from None
        raise


def _claim_and_migrate(db: sqlite3.Connection, path: Path | None, for_move: bool) -> None:
    # Keeps out versions of this package that know no lock file.
    db.execute("PRAGMA locking_mode = EXCLUSIVE")
    lost = _beside(path or Path(), _WAL)
    has_log = path is not None and _is_filled(lost)
    kind: int = db.execute("PRAGMA application_id").fetchone()[0]
    empty = not db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if not empty and kind != APPLICATION_ID:
        raise JournalError(f"{path} is not a journal; name the right file, or one that does not exist")
    if empty and not has_log and db.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
        raise JournalError(
            f"{path} is an empty shell: an earlier version of aistemsplitter_async kept its content in a file beside "
            f"it, named as it was then and {_WAL}. Put that back as {lost}; without it, every split is paid for again"
        )
    held: int = db.execute("PRAGMA user_version").fetchone()[0]
    is_sealed, version = divmod(held, SEALED_VERSIONS)
    if version > len(MIGRATIONS):
        raise JournalError(f"{path} was written by a newer version of aistemsplitter_async; upgrade it")
    if is_sealed and not for_move:
        raise build_sealed(path, Seal.load(db.execute("SELECT value FROM meta WHERE name = ?", (SEAL,)).fetchone()[0]))
    # With every index: one that misses a row would make what is paid for look new.
    if not empty and db.execute("PRAGMA integrity_check(1)").fetchone()[0] != "ok":
        raise sqlite3.DatabaseError
    if path is not None and not _make_private(path):  # it may have existed already, readable by others
        _log.warning("others can read the journal in %s: the file system there keeps no private files", path.parent)
    # The undo file is kept as it is between commits, which saves syncing its size; clearing its first bytes commits.
    mode: str = db.execute("PRAGMA journal_mode = PERSIST").fetchone()[0]
    if mode != "persist":
        raise JournalError(f"{path} cannot leave the mode {mode!r} of an earlier version")
    db.execute(f"PRAGMA synchronous = {'FULL' if path else 'OFF'}")  # FULL: a commit survives a power cut
    db.execute("BEGIN EXCLUSIVE")
    for statement in (part for script in MIGRATIONS[version:] for part in script.split(";\n")):
        db.execute(statement)
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute(f"PRAGMA user_version = {is_sealed * SEALED_VERSIONS + len(MIGRATIONS)}")
    db.execute("COMMIT")


def _begin_run(db: sqlite3.Connection) -> int:
    row = db.execute("SELECT value FROM meta WHERE name = 'run'").fetchone()
    run = int(row[0]) + 1 if row is not None else 1
    db.execute("INSERT OR REPLACE INTO meta VALUES ('run', ?)", (str(run),))  # a transaction by itself
    return run


def _write_copy(db: sqlite3.Connection, path: Path) -> None:
    """Write everything to a new file at `path`, or if that fails, nothing.

    Raises:
        OSError: a file cannot be created there.
    """
    fresh = fresh_path(path)
    create_private(fresh)
    try:
        with closing(sqlite3.connect(fresh)) as copy:
            db.backup(copy)
        with fresh.open("r+b") as file:
            os.fsync(file.fileno())
        fresh.rename(path)
        sync_folder(path.parent)
    except (sqlite3.Error, OSError):
        with suppress(OSError):
            fresh.unlink()


def _check_kind(path: Path) -> None:
    """Check that the file, if there is one, can be a journal, and create its folder."""
    try:
        make_folder(path.parent)
    except FileExistsError:
        raise JournalError(f"cannot create {path}: {path.parent} is not a folder") from None
    status = path.stat() if path.exists() else None
    if status is None and path.is_symlink():
        raise JournalError(f"{path} is a link to {path.readlink()}, which does not exist")
    if status is not None and not stat.S_ISREG(status.st_mode):  # a device, too: its mode would be changed for all
        raise JournalError(f"{path} is a folder or a device, not a journal; name another file")
    if status is not None and status.st_nlink > 1:  # each name would have a lock file and an undo file of its own
        raise JournalError(
            f"{path} has {status.st_nlink} names (hard links), and a batch under each would pay for everything again; "
            "make a copy of it, and use that under one name"
        )


def check_not_lost(path: Path) -> None:
    """Check that no journal was at `path` and is gone.

    Raises:
        JournalError: files beside it say that it was, or that what is there has replaced it.
        OSError: that cannot be found out.
    """
    if (rescued := _beside(path, _RESCUED)).exists():
        raise JournalError(
            f"{path} was replaced by another file while a batch ran on it; what that batch paid for is in {rescued}. "
            f"Move that to {path}; or delete it, if you want to go on with what is there and pay again"
        )
    left = [file for file in (status_path(path), _beside(path, _WAL)) if _is_filled(file)]
    if not path.exists():  # an empty one may have been killed in its first commit
        left += [file for file in (_beside(path, _UNDO),) if _is_filled(file)]
    if left and not _is_filled(path):
        what = "is empty, but was a journal" if path.exists() else "is missing"
        raise JournalError(
            f"{path} {what}, and a batch ran on it: {left[0]} is still there. Restore it or a copy; without it, every "
            f"split is paid for again. If that is what you want, delete {left[0].name} too"
        )


def _make_private(path: Path) -> bool:
    private = [make_private(file) for file in (path, _beside(path, _WAL)) if file.exists()]
    return all(private)


def is_exposed(path: Path) -> bool:
    """Return whether others may read the journal, which is open."""
    try:
        return not _make_private(path)
    except OSError:  # the next write reports it
        return False


def _beside(path: Path, suffix: str) -> Path:
    return Path(os.path.realpath(path) + suffix)


def _is_filled(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _identify(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def refused(error: OSError | ValueError, path: Path | None) -> JournalError:
    """Return this package's error for one of the system's."""
    if isinstance(error, ValueError):
        return JournalError(f"cannot use the journal {str(path)!r}: {reason_of(error)}", code=UNUSABLE)
    other = isinstance(error.filename, str) and error.filename not in (str(path), os.path.realpath(path or ""))
    what = f"{error.filename}: {reason_of(error)}" if other else reason_of(error)
    return JournalError(f"cannot use the journal {path}: {what}", code="DISK" if error.errno in FULL else UNUSABLE)


def explain(error: sqlite3.Error, path: Path | None) -> JournalError:
    """Return this package's error for one of SQLite's."""
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return JournalLockedError(f"another batch is running on {path}; wait for it or stop it", code="LOCKED")
    if name.startswith("SQLITE_IOERR") and path is not None and not is_full(path.parent):  # to SQLite, a quota is one
        return JournalError(f"cannot write {path}: the disk is failing", code=UNUSABLE)
    if name.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
        return JournalError(f"cannot write {path}: the disk is full", code="DISK")
    if name.startswith(("SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_READONLY")):
        why = "permission denied, a read-only file system, or its folder is missing"
        return JournalError(f"cannot write {path}: {why}", code=UNUSABLE)
    if isinstance(error, sqlite3.OperationalError | sqlite3.ProgrammingError | sqlite3.InterfaceError):
        return JournalError(f"the journal refused: {error}")
    return JournalError(
        f"{path} is damaged or not a journal; it was left as it is. Restore a copy: with another file, what it has is "
        "paid for again"
    )
