"""The journal's tables and every statement on them. Plain blocking SQLite: `journal` calls this in its one thread."""

from __future__ import annotations

import random
import sqlite3
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import attrs

from aistemsplitter_async.errors import ConfigurationError, JournalError, JournalLockedError
from aistemsplitter_async.journal.file import _APPLICATION_ID, _LOCK_PAUSES, MIGRATIONS, _create_private, _make_private
from aistemsplitter_async.journal.record import BEFORE, Failure, Record, State, StoredFile, plan_reopening
from aistemsplitter_async.journal.rows import _COLUMNS, Stamp, _dump_input, _dump_name, _json, _record
from aistemsplitter_async.library.template import Place, choose_place
from aistemsplitter_async.models import CreatedSplit, Split, SplitInput, Submission

_ANEW: Final = "anew"  # the note that splitting anew was begun, and in which run
_GET: Final = f"SELECT {_COLUMNS} FROM tracks WHERE id = ?"  # noqa: S608  # our own columns


@attrs.frozen
class Claim:
    """A track, and how this run came by it: it is `new`, `known` from earlier, or met already in this run."""

    record: Record
    met: Literal["new", "known", "again"]


class Store:
    """One open journal file, or with `path=None` a temporary one that is gone when it is closed.

    Raises:
        JournalLockedError: another process, or another batch of this one, has it open.
        JournalError: it is damaged, another kind of file, of a newer version, or cannot be written.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        if path is not None:
            _create_private(path)
        for pause in (*_LOCK_PAUSES, None):
            try:
                self._open()
            except JournalLockedError:
                if pause is None:
                    raise
                time.sleep(pause * random.random())  # noqa: S311  # not a secret
            else:
                return

    def _open(self) -> None:
        try:
            self._db = sqlite3.connect(self._path or "", timeout=0.0, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise self.explain(error) from None
        try:
            self._prepare()
            self.run = int(self.note("run") or 0) + 1
            self._db.execute("BEGIN IMMEDIATE")
            self.set_note("run", str(self.run))
            self._db.execute("COMMIT")
        except BaseException as error:
            self._db.close()
            if isinstance(error, sqlite3.Error):
                raise self.explain(error) from None
            raise

    def _prepare(self) -> None:
        """Take the file for this process alone and bring its tables up to date."""
        db = self._db
        # SQLite's own lock decides who owns the journal: the system gives it back the moment the owner dies, and
        # children do not inherit it.
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        kind: int = db.execute("PRAGMA application_id").fetchone()[0]
        empty = not db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        if not empty and kind != _APPLICATION_ID:
            raise JournalError(f"{self._path} is not a journal; name another file")
        if self._path is not None:  # it may have been there already, and be readable by others
            _make_private(self._path)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA synchronous = {'FULL' if self._path else 'OFF'}")  # FULL: a commit survives a power cut
        db.execute("BEGIN EXCLUSIVE")
        version: int = db.execute("PRAGMA user_version").fetchone()[0]
        if version > len(MIGRATIONS):
            raise JournalError(f"{self._path} was written by a newer version of aistemsplitter_async; upgrade it")
        if not empty and db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError
        for statement in (part for script in MIGRATIONS[version:] for part in script.split(";\n")):
            db.execute(statement)
        db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        db.execute("COMMIT")

    def close(self) -> None:
        """Close the file, and with it give up the lock."""
        self._db.close()

    def begin(self) -> None:
        """Begin the transaction that the next calls belong to."""
        self._db.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Make them durable."""
        self._db.execute("COMMIT")

    def roll_back(self) -> None:
        """Undo them."""
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def bind(self, owner: Mapping[str, str]) -> None:
        """Note whose splits these are, or check that they are the same as before.

        As long as nothing was uploaded or created, a journal belongs to nobody: a key that was mistyped at first can
        be put right.

        Raises:
            JournalError: the journal belongs to another API or another key.
        """
        for name, value in owner.items():
            known = self.note(name)
            if known is None or (known != value and not self._is_begun()):
                self.set_note(name, value)
            elif known != value:
                what = "API key" if name == "key" else f"API ({known})"
                raise JournalError(
                    f"{self._path} belongs to another {what}; use the one it was begun with, or another journal"
                )

    def note(self, name: str) -> str | None:
        """Return what was noted under `name`."""
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def set_note(self, name: str, value: str) -> None:
        """Note `value` under `name`."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def identity_of(self, path: str, stamp: Stamp) -> str | None:
        """Return the identity of a file that was read before and has not changed since."""
        row = self._db.execute(
            "SELECT identity FROM sources WHERE (path, size, mtime_ns, ctime_ns, inode) = (?, ?, ?, ?, ?)",
            (_dump_name(path), *attrs.astuple(stamp)),
        ).fetchone()
        return None if row is None else str(row[0])

    def remember_identity(self, path: str, stamp: Stamp, identity: str) -> None:
        """Note what a file holds."""
        self._db.execute(
            "INSERT OR REPLACE INTO sources VALUES (?, ?, ?, ?, ?, ?)",
            (_dump_name(path), *attrs.astuple(stamp), identity),
        )

    def claim(
        self,
        identity: str,
        variant: str,
        *,
        source: str,
        folder: str,
        pattern: str,
        split_input: SplitInput | None,
        dedupe: bool,
        anew: bool,
    ) -> Claim:
        """Return the track of this audio, the one of an earlier run or a new one. One run meets each only once.

        Args:
            identity: of the audio.
            variant: what is asked of it.
            source: what it was found as.
            folder: where its stems would go; numbered if that is taken. A known track keeps its own.
            pattern: how their files would be called.
            split_input: the URL, if it is one.
            dedupe: whether the same audio met again is the same track, rather than another one.
            anew: whether a finished track of an earlier run is dropped, to be split, and paid, once more. Runs that
                were stopped before `finish` and the one that goes on with them count as one.
        """
        rows = self._db.execute(
            f"SELECT run, {_COLUMNS} FROM tracks WHERE identity = ? AND variant = ? ORDER BY id",  # noqa: S608  # ours
            (identity, variant),
        ).fetchall()
        finished_before = self._begin_anew() if anew else 0
        mine = [row for run, *row in rows if run == self.run]
        for run, *row in rows:
            if run != self.run:
                if run < finished_before and _record(row).state is State.DOWNLOADED:
                    self._db.execute("DELETE FROM tracks WHERE id = ?", (row[0],))
                    continue
                self._db.execute("UPDATE tracks SET run = ? WHERE id = ?", (self.run, row[0]))
                return Claim(_record(row), "known")
        if mine and dedupe:
            return Claim(_record(mine[0]), "again")
        place = choose_place(Place(folder, pattern), self._is_taken)
        cursor = self._db.execute(
            "INSERT INTO tracks (identity, variant, run, source, state, folder, pattern, place, input) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                identity,
                variant,
                self.run,
                _dump_name(source),
                State.FOUND,
                place.folder,
                place.pattern,
                place.key,
                None if split_input is None else _dump_input(split_input),
            ),
        )
        return Claim(self.get(int(cursor.lastrowid or 0)), "new")

    def finish(self) -> None:
        """Note that the run came to the end of its sources: the next one to split them anew begins from the start."""
        self._db.execute("DELETE FROM meta WHERE name = ?", (_ANEW,))

    def _begin_anew(self) -> int:
        """Return the run with which splitting anew began that was not finished yet, this one if there is none."""
        since = self.note(_ANEW)
        if since is None:
            self.set_note(_ANEW, since := str(self.run))
        return int(since)

    def open_creates(self) -> list[Record]:
        """Return the tracks whose create may have happened, as far as is known."""
        rows = self._db.execute(
            f"SELECT {_COLUMNS} FROM tracks WHERE state IN (?, ?) ORDER BY id",  # noqa: S608  # our own columns
            (State.INTENT, State.UNCERTAIN),
        )
        return [_record(row) for row in rows]

    def get(self, track: int) -> Record:
        """Return a track."""
        return _record(self._db.execute(_GET, (track,)).fetchone())

    def uploaded(self, track: int, split_input: SplitInput, expires_at: float) -> Record:
        """Its audio is at the worker until `expires_at` (POSIX seconds)."""
        return self._move(track, State.UPLOADED, input=_dump_input(split_input), expires_at=expires_at)

    def intend(self, track: int, submission: Submission, at: float) -> Record:
        """Its create is about to be sent for the first time: from here on it may exist.

        Raises:
            ConfigurationError: another track's create has this idempotency key.
        """
        key, body = submission.idempotency_key, submission.body
        try:
            return self._move(track, State.INTENT, idempotency_key=key, body=body, intended_at=at)
        except sqlite3.IntegrityError:
            problem = f"the idempotency key {key!r} belongs to another source of this journal; give each its own"
        raise ConfigurationError(problem)

    def refused(self, track: int) -> Record:
        """Its create was refused before it could have any effect: it is as if it had not been sent."""
        (had_upload,) = self._db.execute("SELECT expires_at FROM tracks WHERE id = ?", (track,)).fetchone()
        return self._move(
            track,
            State.FOUND if had_upload is None else State.UPLOADED,
            before={State.INTENT},
            idempotency_key=None,
            body=None,
            intended_at=None,
        )

    def uncertain(self, track: int) -> Record:
        """Its create was sent, and no answer came that says what became of it."""
        return self._move(track, State.UNCERTAIN)

    def needs_review(self, track: int) -> Record:
        """Its create is too old to be sent again without somebody's word."""
        return self._move(track, State.NEEDS_REVIEW)

    def created(self, track: int, created: CreatedSplit, at: float) -> Record:
        """It is a split now, and paid."""
        return self._move(
            track, State.CREATED, split_id=created.id, credits_used=float(created.credits_used), created_at=at
        )

    def succeeded(self, track: int, split: Split) -> Record:
        """Its stems can be fetched; again, if they were fetched before and are gone."""
        return self._move(track, State.SUCCEEDED, split=_json.dumps(split), files=None)

    def downloaded(self, track: int, files: Mapping[str, StoredFile]) -> Record:
        """Its stems are here. Their addresses are of no more use, and are not kept."""
        record = self._move(track, State.DOWNLOADED, files=_json.dumps(dict(files)))
        assert record.split is not None  # noqa: S101  # what the state before says
        return self._set(track, split=_json.dumps(attrs.evolve(record.split, stems={})))

    def fail(self, track: int, failure: Failure, split: Split | None) -> Record:
        """It is not to be tried again unasked."""
        known = {} if split is None else {"split": _json.dumps(split)}
        return self._set(track, failure=_json.dumps(failure), **known)

    def reopen(self, track: int) -> Record:
        """Somebody asked for another try: go on at the stage that failed."""
        failure = self.get(track).failure
        if failure is None or not plan_reopening(failure):
            return self._set(track, failure=None)
        fresh = dict.fromkeys(
            ("idempotency_key", "body", "intended_at", "split_id", "credits_used", "created_at", "split")
        )
        (had_upload,) = self._db.execute("SELECT expires_at FROM tracks WHERE id = ?", (track,)).fetchone()
        return self._set(track, state=State.FOUND if had_upload is None else State.UPLOADED, failure=None, **fresh)

    def page(self, after: int, most: int) -> list[Record]:
        """Return up to `most` tracks whose number is higher than `after`, in order."""
        rows = self._db.execute(
            f"SELECT {_COLUMNS} FROM tracks WHERE id > ? ORDER BY id LIMIT ?",  # noqa: S608  # our own columns
            (after, most),
        )
        return [_record(row) for row in rows]

    def count(self) -> dict[str, int]:
        """Return the number of tracks per state, `failed` among them."""
        query = "SELECT state, failure IS NULL, count(*) FROM tracks GROUP BY state, failure IS NULL"  # of the index
        counts: Counter[str] = Counter()
        for state, fine, number in self._db.execute(query):
            counts[str(state) if fine else "failed"] += int(number)
        return dict(counts)

    def _move(self, track: int, state: State, *, before: set[State] | None = None, **values: Any) -> Record:
        (held,) = self._db.execute("SELECT state FROM tracks WHERE id = ?", (track,)).fetchone()
        if State(held) not in (before if before is not None else BEFORE[state]):
            raise JournalError(f"track {track} cannot go from {held} to {state}")
        return self._set(track, state=state, **values)

    def _set(self, track: int, **values: Any) -> Record:
        names = ", ".join(f"{name} = ?" for name in values)
        self._db.execute(f"UPDATE tracks SET {names} WHERE id = ?", (*values.values(), track))  # noqa: S608  # our names
        return self.get(track)

    def _is_begun(self) -> bool:
        return self._db.execute("SELECT 1 FROM tracks WHERE state != ?", (State.FOUND,)).fetchone() is not None

    def _is_taken(self, place: str) -> bool:
        return self._db.execute("SELECT 1 FROM tracks WHERE place = ?", (place,)).fetchone() is not None

    def explain(self, error: sqlite3.Error) -> JournalError:
        """Return an error of SQLite as ours."""
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            return JournalLockedError(
                f"another batch is running on {self._path}; wait for it or stop it", code="LOCKED"
            )
        if name.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
            return JournalError(f"cannot write {self._path}: the disk is full or failing", code="DISK")
        if name.startswith(("SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_READONLY")):
            return JournalError(f"cannot write {self._path}: permission denied, or its folder is missing")
        if isinstance(error, sqlite3.OperationalError | sqlite3.ProgrammingError | sqlite3.InterfaceError):
            return JournalError(f"the journal refused: {error}")
        return JournalError(
            f"{self._path} is damaged or not a journal; it was left as it is. Restore a copy, or name another file"
        )
