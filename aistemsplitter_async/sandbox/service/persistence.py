"""Keeps splits, uploads and balances in one SQLite file; they are written before they are acknowledged.

A commit reaches the operating system before the request that caused it is answered, so killing the process at any
moment loses no acknowledged split and no charge. A power cut may lose the last few: this is a sandbox.
"""

from __future__ import annotations

import errno
import json
import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import cattrs

from aistemsplitter_async._files import create_private, has_locks, replacing
from aistemsplitter_async.sandbox.service.account import Account
from aistemsplitter_async.sandbox.service.state import Split, Upload

Record = Account | Split | Upload

_T = TypeVar("_T", Split, Upload)
_FILE: Final = "sandbox.sqlite3"
_VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS records (
    kind TEXT NOT NULL, id TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (kind, id)
) WITHOUT ROWID
"""
_PUT: Final = "INSERT INTO records VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET value = excluded.value"


class Records:
    """Keeps records and notes. This base keeps nothing, which is the sandbox's default."""

    def save(self, *records: Record) -> None:
        """Write records in one step; they are safe from a kill when this returns."""

    def forget(self, *records: Record) -> None:
        """Delete records in one step."""

    def load(self, kind: type[_T]) -> list[_T]:  # noqa: ARG002  for `SQLiteRecords`
        """Return every upload or split, oldest first."""
        return []

    def load_balances(self) -> dict[str, int]:
        """Return the balance of every account by its label."""
        return {}

    def load_note(self, name: str) -> Any:  # noqa: ARG002  for `SQLiteRecords`
        """Return the JSON value noted under a name; `None` if there is none."""
        return None

    def save_note(self, name: str, value: object) -> None:
        """Note a JSON value under a name."""

    def close(self) -> None:
        """Close the database."""


class SQLiteRecords(Records):
    """Keeps records in `folder`; one process at a time.

    Raises:
        RuntimeError: Another sandbox uses the folder, or the database in it is not a sandbox's.
        OSError: The folder cannot be written to, or files in it cannot be locked.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / _FILE
        with suppress(FileExistsError):
            create_private(path)
        self._db = sqlite3.connect(path, timeout=0.0)
        try:
            version = self._prepare()
        except sqlite3.DatabaseError as error:
            self._db.close()
            busy = isinstance(error, sqlite3.OperationalError)
            if busy and not has_locks(path):  # SQLite takes that for the lock of another process
                raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK), str(path)) from None
            message = f"another sandbox is using {folder}" if busy else f"{path} is not a sandbox's file"
            raise RuntimeError(message) from None
        if version not in (0, _VERSION):
            self._db.close()
            raise RuntimeError(f"{path} was written by another version of the sandbox")

    def _prepare(self) -> int:
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = OFF")  # enough to survive a kill, which is all that is promised
        with self._db:
            self._db.execute("BEGIN EXCLUSIVE")
            version: int = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                self._db.execute(_SCHEMA)
                self._db.execute(f"PRAGMA user_version = {_VERSION}")
        return version

    def save(self, *records: Record) -> None:
        with self._db:
            self._db.executemany(_PUT, [_row(record) for record in records])

    def forget(self, *records: Record) -> None:
        with self._db:
            self._db.executemany(
                "DELETE FROM records WHERE kind = ? AND id = ?", [_row(record)[:2] for record in records]
            )

    def load(self, kind: type[_T]) -> list[_T]:
        rows = self._db.execute("SELECT value FROM records WHERE kind = ?", (kind.__name__,))
        found = [cattrs.structure(json.loads(value), kind) for (value,) in rows]
        return sorted(found, key=lambda record: record.created_at)

    def load_balances(self) -> dict[str, int]:
        rows = self._db.execute("SELECT id, value FROM records WHERE kind = ?", (Account.__name__,))
        return {label: int(json.loads(value)["balance"]) for label, value in rows}

    def load_note(self, name: str) -> Any:
        row = self._db.execute("SELECT value FROM records WHERE kind = 'note' AND id = ?", (name,)).fetchone()
        return None if row is None else json.loads(row[0])

    def save_note(self, name: str, value: object) -> None:
        with self._db:
            self._db.execute(_PUT, ("note", name, json.dumps(value)))

    def close(self) -> None:
        self._db.close()


def remember_secret(folder: Path, name: str, made_up: str) -> str:
    """Return the secret in the file `name` of `folder`; write `made_up` there if there is none yet."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    if not path.exists():
        with replacing(path) as file:
            file.write(made_up)
    return path.read_text(encoding="ascii").strip()


def _row(record: Record) -> tuple[str, str, str]:
    kind = type(record).__name__
    if isinstance(record, Account):
        return kind, record.label, json.dumps({"balance": record.balance})
    return kind, record.id, json.dumps(cattrs.unstructure(record))
