"""The journal's tables and every statement on them. Plain blocking SQLite: `journal` calls this in its one thread."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import attrs

from aistemsplitter_async.errors import ConfigurationError, JournalError, SubmissionUncertainError
from aistemsplitter_async.journal.file import open_file
from aistemsplitter_async.journal.record import (
    BEFORE,
    SAME_SPLIT,
    Record,
    State,
    StoredFailure,
    StoredFile,
    plan_reopening,
)
from aistemsplitter_async.journal.rows import COLUMNS, Stamp, dump_input, dump_name, dump_value, load_name, load_record
from aistemsplitter_async.library.template import Place, choose_place
from aistemsplitter_async.models import CreatedSplit, Split, SplitInput, Submission

_RESPLIT: Final = "anew"  # the note that says which run started a re-split; its name is part of the file format
_SELECT: Final = f"SELECT {COLUMNS} FROM tracks"  # noqa: S608  # our own columns
_OF_CREATE: Final = ("idempotency_key", "body", "intended_at")
_OF_SPLIT: Final = ("split_id", "credits_used", "created_at", "split")


@attrs.frozen
class Claim:
    """A track and how this run found it: `new`, `known` from an earlier run, or met `again` in this run."""

    record: Record
    met: Literal["new", "known", "again"]


class JournalStore:
    """One open journal file, or with `path=None` a temporary one that is gone when it is closed.

    Attributes:
        path: the file.
        run: the number of this run; each opening of the file is one.

    Raises:
        JournalLockedError: another process, or another batch of this one, has it open.
        JournalError: it is damaged, another kind of file, of a newer version, or cannot be written.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._file = open_file(path)
        self._db, self.run = self._file.db, self._file.run

    def close(self) -> None:
        """Close the file, and let another process open it."""
        self._file.close()

    def check_in_place(self) -> None:
        """Check that the journal still is the file that the next run will find.

        Raises:
            JournalError: it was deleted, moved or replaced (`code` is `MOVED`).
        """
        self._file.check_in_place()

    def begin(self) -> None:
        """Begin the transaction that the next calls belong to."""
        self._db.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Make the transaction durable."""
        self._db.execute("COMMIT")

    def roll_back(self) -> None:
        """Undo the transaction, if one is open."""
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def bind(self, owner: Mapping[str, str]) -> None:
        """Note whose splits these are, or check that the owner is the same as before.

        As long as nothing was uploaded or created, the journal is not bound: a key that was mistyped at first can be
        corrected.

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
                    f"{self.path} belongs to another {what}; use the one it was started with, or another journal"
                )

    def note(self, name: str) -> str | None:
        """Return the note of this name."""
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def set_note(self, name: str, value: str) -> None:
        """Write the note of this name."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def identity_of(self, path: str, stamp: Stamp) -> str | None:
        """Return the identity of a file that was read before and has not changed since."""
        row = self._db.execute(
            "SELECT identity FROM sources WHERE (path, size, mtime_ns, ctime_ns, inode) = (?, ?, ?, ?, ?)",
            (dump_name(path), *attrs.astuple(stamp)),
        ).fetchone()
        return None if row is None else str(row[0])

    def remember_identity(self, path: str, stamp: Stamp, identity: str) -> None:
        """Note the identity of a file's audio."""
        self._db.execute(
            "INSERT OR REPLACE INTO sources VALUES (?, ?, ?, ?, ?, ?)",
            (dump_name(path), *attrs.astuple(stamp), identity),
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
        resplit: bool,
    ) -> Claim:
        """Return the track of this audio, that of an earlier run or a new one. One run meets each only once.

        Args:
            identity: of the audio.
            variant: the model and format asked of it.
            source: the path or URL it was found under.
            folder: where its stems would go; numbered if that is taken. A known track keeps its own.
            pattern: how their files would be called.
            split_input: the URL, if the source is one.
            dedupe: whether the same audio met again is the same track, rather than another one.
            resplit: whether a finished track of an earlier run is dropped, to be split, and paid for, once more. A
                run that was stopped before `finish_resplit` and those that continue it count as one.
        """
        rows = self._db.execute(
            f"SELECT run, {COLUMNS} FROM tracks WHERE identity = ? AND variant = ? ORDER BY id",  # noqa: S608  # ours
            (identity, variant),
        ).fetchall()
        started = self._begin_resplit() if resplit else 0
        for run, *row in rows:
            if run == self.run:
                continue
            if run < started and load_record(row).state is State.DOWNLOADED:
                self._db.execute("DELETE FROM tracks WHERE id = ?", (row[0],))
                continue
            self._db.execute("UPDATE tracks SET run = ? WHERE id = ?", (self.run, row[0]))
            return Claim(load_record(row), "known")
        met = [row for run, *row in rows if run == self.run]
        if met and dedupe:
            return Claim(load_record(met[0]), "again")
        place = choose_place(Place(folder, pattern), self._is_taken)
        cursor = self._db.execute(
            "INSERT INTO tracks (identity, variant, run, source, state, folder, pattern, place, input) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(identity, variant, self.run, dump_name(source), State.FOUND),
                *(place.folder, place.pattern, place.key, dump_input(split_input)),
            ),
        )
        return Claim(self.get(int(cursor.lastrowid or 0)), "new")

    def finish_resplit(self) -> None:
        """Note that the run reached the end of its sources: the next re-split starts from the beginning."""
        self._db.execute("DELETE FROM meta WHERE name = ?", (_RESPLIT,))

    def _begin_resplit(self) -> int:
        """Return the run that started the unfinished re-split, this one if there is none."""
        since = self.note(_RESPLIT)
        if since is None:
            self.set_note(_RESPLIT, since := str(self.run))
        return int(since)

    def open_creates(self) -> list[Record]:
        """Return the tracks whose create may have happened without the journal knowing."""
        return self._select("WHERE state IN (?, ?) ORDER BY id", State.INTENT, State.UNCERTAIN)

    def get(self, track: int) -> Record:
        """Return a track."""
        (record,) = self._select("WHERE id = ?", track)
        return record

    def uploaded(self, track: int, split_input: SplitInput, expires_at: float) -> Record:
        """Note that its audio is at the worker until `expires_at` (POSIX seconds)."""
        return self._move(track, State.UPLOADED, input=dump_input(split_input), expires_at=expires_at)

    def intend(self, track: int, submission: Submission, at: float) -> Record:
        """Note that its create is about to be sent for the first time: from here on the split may exist.

        Raises:
            ConfigurationError: another track's create has this idempotency key.
            JournalError: the journal was deleted, moved or replaced (`code` is `MOVED`).
        """
        self.check_in_place()
        key, body = submission.idempotency_key, submission.body
        try:
            return self._move(track, State.INTENT, idempotency_key=key, body=body, intended_at=at)
        except sqlite3.IntegrityError:
            raise ConfigurationError(
                f"the idempotency key {key!r} belongs to another source of this journal; give each its own"
            ) from None

    def refused(self, track: int) -> Record:
        """Note that its create was refused before it had any effect: the record is as if it had not been sent."""
        return self._move(track, self._state_before_create(track), before={State.INTENT}, **dict.fromkeys(_OF_CREATE))

    def uncertain(self, track: int) -> Record:
        """Note that its create was sent, and that no answer says whether it happened."""
        return self._move(track, State.UNCERTAIN)

    def needs_review(self, track: int) -> Record:
        """Note that its create is too old to resend without confirmation."""
        return self._move(track, State.NEEDS_REVIEW)

    def created(self, track: int, created: CreatedSplit, at: float) -> Record:
        """Note that it is a split now, and paid for: with no credits, if a track of the same audio has that split.

        Raises:
            SubmissionUncertainError: the split belongs to another song, so this answer does not say whether this one
                has a split (`code` is `SAME_SPLIT`).
        """
        holders = self._db.execute(
            "SELECT source, identity = (SELECT identity FROM tracks WHERE id = ?) FROM tracks "
            "WHERE split_id = ? AND id != ?",
            (track, created.id, track),
        ).fetchall()
        others = [load_name(source) for source, is_same in holders if not is_same]
        if others:
            raise _build_mixed_up(self.get(track), created.id, others[0])
        used = None if created.credits_used is None else float(created.credits_used)
        price = 0.0 if holders else used
        return self._move(track, State.CREATED, split_id=created.id, credits_used=price, created_at=at)

    def succeeded(self, track: int, split: Split) -> Record:
        """Note that its stems can be downloaded; again, if they were downloaded before and are gone."""
        return self._move(track, State.SUCCEEDED, split=dump_value(split), files=None)

    def downloaded(self, track: int, files: Mapping[str, StoredFile]) -> Record:
        """Note that its stems are on disk. Their URLs are no longer needed, and are not kept."""
        record = self._move(track, State.DOWNLOADED, files=dump_value(dict(files)))
        assert record.split is not None  # noqa: S101  # implied by the previous state
        return self._set(track, split=dump_value(attrs.evolve(record.split, stems={})))

    def fail(self, track: int, failure: StoredFailure, split: Split | None) -> Record:
        """Note why the run did not finish it."""
        known = {} if split is None else {"split": dump_value(split)}
        return self._set(track, failure=dump_value(failure), **known)

    def reopen(self, track: int) -> Record:
        """Clear the failure for another attempt, which continues at the stage that failed."""
        failure = self.get(track).failure
        if failure is None or not plan_reopening(failure):
            return self._set(track, failure=None)
        state = self._state_before_create(track)
        return self._set(track, state=state, failure=None, **dict.fromkeys((*_OF_CREATE, *_OF_SPLIT)))

    def page(self, after: int, most: int) -> list[Record]:
        """Return up to `most` tracks whose number is higher than `after`, in order."""
        return self._select("WHERE id > ? ORDER BY id LIMIT ?", after, most)

    def count(self) -> dict[str, int]:
        """Return the number of tracks per state, `failed` among them."""
        query = "SELECT state, failure IS NULL, count(*) FROM tracks GROUP BY state, failure IS NULL"  # of the index
        counts: Counter[str] = Counter()
        for state, fine, number in self._db.execute(query):
            counts[str(state) if fine else "failed"] += int(number)
        return dict(counts)

    def _select(self, where: str, *values: Any) -> list[Record]:
        return [load_record(row) for row in self._db.execute(f"{_SELECT} {where}", values)]

    def _state_before_create(self, track: int) -> State:
        (upload,) = self._db.execute("SELECT expires_at FROM tracks WHERE id = ?", (track,)).fetchone()
        return State.FOUND if upload is None else State.UPLOADED

    def _move(self, track: int, state: State, *, before: Iterable[State] | None = None, **values: Any) -> Record:
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


def _build_mixed_up(record: Record, split_id: str, other: str) -> SubmissionUncertainError:
    """Return the error of a create that was answered with the split of another song."""
    assert record.submission is not None  # noqa: S101  # implied by the state
    return SubmissionUncertainError(
        f"the create of {record.source} was answered with {split_id}, which is the split of {other}, so it may or may "
        "not have a split of its own; nothing was downloaded for it. Ask the service about its idempotency key",
        submission=record.submission,
        code=SAME_SPLIT,
    )
