"""Reads the journal in a file without opening it as its owner does, also while a batch writes it.

Nothing is locked, and no byte is changed. A batch keeps SQLite's lock all the time, so the file is read without any,
between two commits: the undo file says when one is under way, and is not the same after another.

These functions block; a caller on the event loop goes through `_tasks.run_in_thread`.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Self, TypeVar

from aistemsplitter_async._files import reason_of
from aistemsplitter_async.errors import JournalError, JournalLockedError
from aistemsplitter_async.journal.file import APPLICATION_ID, check_not_lost, content_files, explain, open_file
from aistemsplitter_async.journal.lock import is_locked
from aistemsplitter_async.journal.record import Record
from aistemsplitter_async.journal.rows import COLUMNS, load_record
from aistemsplitter_async.journal.schema import MIGRATIONS
from aistemsplitter_async.journal.seal import SEAL, SEALED_VERSIONS, Seal
from aistemsplitter_async.journal.sqlite import SQLiteDatabase

T = TypeVar("T")
_Moment = tuple[object, ...]

# The first bytes of an undo file: zero, until it is on the disk and what is to be committed may be written to the file;
# and zero again once that is there, which is the commit.
_MAGIC_BYTES: Final = 8
# What comes after them differs after every commit: the first page that was to be undone, of at most 4 KiB behind a
# sector of at most 4 KiB, ends in a sum that begins with a number drawn for that commit.
_HEAD_BYTES: Final = 16 * 1024
_LONGEST_COMMIT: Final = 10.0  # s; after that, whoever commits was stopped
_PAUSE: Final = 0.002  # s until a commit is looked for again; it takes a few
_PAGE: Final = 500  # records read between two commits


class FileReader:
    """The journal in a file, as it was at the last commit whenever something of it is read.

    Raises:
        JournalError: there is none, or it cannot be read.
        JournalLockedError: a batch was stopped while it wrote it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._place = Path(os.path.realpath(path))
        self._db: sqlite3.Connection | None = None
        self._moment: _Moment | None = None  # of that connection
        self._folder: TemporaryDirectory[str] | None = None  # of a copy, where that is read instead
        if not path.exists():
            raise JournalError(f"there is no journal {path}; is its name right?")
        try:
            version = self._read(self._check_kind)
        except _UnfinishedError:
            version = 0
        if version < len(MIGRATIONS) or any(_is_filled(file) for file in content_files(path)[2:]):
            self._copy()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._disconnect()
        if self._folder is not None:
            self._folder.cleanup()

    def seal(self) -> Seal | None:
        """Return what says that the journal was moved."""
        rows = self._read(lambda db: db.execute("SELECT value FROM meta WHERE name = ?", (SEAL,)).fetchall())
        return Seal.load(rows[0][0]) if rows else None

    def pages(self) -> Iterator[list[Record]]:
        """Iterate over all records, oldest first, some at a time; each is as it was when it was read."""
        after = 0
        while page := self._read(lambda db: _select(db, after)):  # noqa: B023  # called at once
            yield page
            after = page[-1].id

    def _read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Return the result of a query that no commit has disturbed."""
        until = time.monotonic() + _LONGEST_COMMIT
        while True:
            moment = self._find_moment()
            if moment is not None:
                try:
                    result = query(self._connect(moment))
                except sqlite3.Error as error:  # of a page that is half written, perhaps
                    if self._find_moment() == moment:
                        raise explain(error, self._path) from None
                else:
                    if self._find_moment() == moment:
                        return result
            elif is_locked(self._path) is False and self._find_moment() is None:
                raise _UnfinishedError
            if time.monotonic() > until:
                raise JournalLockedError(
                    f"the batch on {self._path} commits without a pause, or was stopped while it did; try again",
                    code="LOCKED",
                )
            time.sleep(_PAUSE)

    def _connect(self, moment: _Moment) -> sqlite3.Connection:
        """Return a connection that has read nothing before `moment`."""
        if self._db is None or (moment != self._moment and self._folder is None):
            self._disconnect()
            self._db = sqlite3.connect(
                f"{self._place.as_uri()}?mode=ro&immutable=1", uri=True, isolation_level=None, check_same_thread=False
            )
            self._moment = moment
        return self._db

    def _disconnect(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def _find_moment(self) -> _Moment | None:
        """Return what is another one after the next commit; `None` while one is under way, or was never finished."""
        if self._folder is not None:
            return ()
        file, undo, _ = content_files(self._place)
        head = b""
        try:
            with suppress(FileNotFoundError), undo.open("rb") as opened:
                head = opened.read(_HEAD_BYTES)
            status = file.stat()
        except OSError as error:
            raise JournalError(f"cannot read {self._path}: {reason_of(error)}") from None
        if any(head[:_MAGIC_BYTES]):
            return None
        return head, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

    def _check_kind(self, db: sqlite3.Connection) -> int:
        """Return the number of a journal's tables."""
        kind: int = db.execute("PRAGMA application_id").fetchone()[0]
        version: int = db.execute("PRAGMA user_version").fetchone()[0] % SEALED_VERSIONS
        if kind != APPLICATION_ID:
            raise JournalError(f"{self._path} is not a journal; name the right file")
        if version > len(MIGRATIONS):
            raise JournalError(f"{self._path} was written by a newer version of aistemsplitter_async; upgrade it")
        return version

    def _copy(self) -> None:
        """Read a copy, for which a commit that was never finished is undone, and whose tables are of this version."""
        folder = TemporaryDirectory(prefix="aistemsplitter-")
        try:
            copy = copy_content(self._path, Path(folder.name))
            opened = open_file(copy, for_move=True)
        except JournalError as error:
            folder.cleanup()
            raise JournalError(str(error).replace(str(Path(folder.name) / self._place.name), str(self._path))) from None
        except BaseException:
            folder.cleanup()
            raise
        self._disconnect()
        self._folder, self._db = folder, opened.db


class _UnfinishedError(Exception):
    """A commit was begun and not finished, by a process that is gone."""


def copy_content(journal: Path, folder: Path) -> Path:
    """Copy a journal that nobody has open to a folder, and return its path there.

    Raises:
        JournalLockedError: a batch is running on it.
        JournalError: there was one and it is gone, or it cannot be read.
    """
    if is_locked(journal):
        raise JournalLockedError(f"another batch is running on {journal}; wait for it or stop it", code="LOCKED")
    files = content_files(journal)
    copy = folder / files[0].name
    try:
        check_not_lost(journal)
        for file in files:
            if file.exists():
                shutil.copyfile(file, copy.with_name(file.name))
    except OSError as error:
        raise JournalError(f"cannot read {journal}: {reason_of(error)}") from None
    return copy


def _select(db: sqlite3.Connection, after: int) -> list[Record]:
    rows = db.execute(
        f"SELECT {COLUMNS} FROM tracks WHERE id > ? ORDER BY id LIMIT ?",  # noqa: S608  # our own columns
        (after, _PAGE),
    )
    return [load_record(row, SQLiteDatabase.load_name) for row in rows]


def _is_filled(file: Path) -> bool:
    return file.exists() and file.stat().st_size > 0
