"""The journal's tables and every statement on them. Plain blocking SQLite: `journal` calls this in its one thread."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from aistemsplitter_async.errors import ConfigurationError, JournalError, SubmissionUncertainError
from aistemsplitter_async.journal.binding import Binding
from aistemsplitter_async.journal.file import open_file
from aistemsplitter_async.journal.matching import is_same_song
from aistemsplitter_async.journal.record import (
    BEFORE,
    SAME_SPLIT,
    Record,
    State,
    StoredFailure,
    StoredFile,
    Variant,
    plan_reopening,
)
from aistemsplitter_async.journal.rows import dump_input, dump_value, load_name
from aistemsplitter_async.models import CreatedSplit, Split, SplitInput, Submission

_OF_CREATE: Final = ("idempotency_key", "body", "intended_at", "sender")
_OF_SPLIT: Final = ("split_id", "credits_used", "created_at", "split")


class JournalStore(Binding):
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
        super().__init__(self._file.db, self._file.run)

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

    def open_creates(self) -> list[Record]:
        """Return the tracks whose create may have happened without the journal knowing."""
        return self._select("WHERE state IN (?, ?) ORDER BY id", State.INTENT, State.UNCERTAIN)

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
            return self._move(track, State.INTENT, idempotency_key=key, body=body, intended_at=at, sender=self.sender())
        except sqlite3.IntegrityError:
            raise ConfigurationError(
                f"the idempotency key {key!r} belongs to another source of this journal; give each its own"
            ) from None

    def resent(self, track: int) -> Record:
        """Note that its create is about to be sent with this key, which another one has sent before.

        Its age stays that of the first attempt: where the service knows its idempotency key from that one, it forgets
        it as long after that.
        """
        return self._set(track, sender=self.sender())

    def refused(self, track: int, *, upload_expired: bool = False) -> Record:
        """Note that its create was refused before it had any effect: the record is as if it had not been sent.

        If perhaps that is because its upload has expired, the upload is forgotten too.
        """
        state = State.FOUND if upload_expired else self._state_before_create(track)
        clear = (*_OF_CREATE, "input", "expires_at") if upload_expired else _OF_CREATE
        return self._move(track, state, before={State.INTENT}, **dict.fromkeys(clear))

    def uncertain(self, track: int) -> Record:
        """Note that its create was sent, and that no answer says whether it happened."""
        return self._move(track, State.UNCERTAIN)

    def needs_review(self, track: int) -> Record:
        """Note that its create is not resent without confirmation."""
        return self._move(track, State.NEEDS_REVIEW)

    def created(self, track: int, created: CreatedSplit, at: float) -> Record:
        """Note that it is a split now, and paid for: with no credits, if a track of the same audio has that split.

        Raises:
            SubmissionUncertainError: the split belongs to another song, so this answer does not say whether this one
                has a split (`code` is `SAME_SPLIT`).
        """
        record = self.get(track)
        holders = self._select("WHERE split_id = ? AND id != ?", created.id, track)
        other = next((one for one in holders if not is_same_song(one.audio, record.audio)), None)
        if other is not None:
            raise _build_mixed_up(record, created.id, other.source)
        used = None if created.credits_used is None else float(created.credits_used)
        price = 0.0 if holders else used
        return self._move(track, State.CREATED, split_id=created.id, credits_used=price, created_at=at)

    def succeeded(self, track: int, split: Split) -> Record:
        """Note that its stems can be downloaded; again, if some were downloaded before, which stays known."""
        return self._move(track, State.SUCCEEDED, split=dump_value(split))

    def downloaded(self, track: int, files: Mapping[str, StoredFile]) -> Record:
        """Note that these stems are on disk too. Their URLs are no longer needed: only their names are kept."""
        record = self._move(track, State.DOWNLOADED)
        assert record.split is not None  # noqa: S101  # implied by the state before
        split = attrs.evolve(record.split, stems=dict.fromkeys(record.stems, ""))
        return self._set(track, files=dump_value({**record.files, **files}), split=dump_value(split))

    def fail(self, track: int, failure: StoredFailure, split: Split | None) -> Record:
        """Note why the run did not finish it."""
        known = {} if split is None else {"split": dump_value(split)}
        return self._set(track, failure=dump_value(failure), **known)

    def reopen(self, track: int, wanted: Variant) -> Record:
        """Clear the failure for another attempt, which continues at the stage that failed.

        If that is another create, it asks for what is wanted now.
        """
        failure = self.get(track).failure
        if failure is None or not plan_reopening(failure):
            return self._set(track, failure=None)
        state = self._state_before_create(track)
        clear = dict.fromkeys((*_OF_CREATE, *_OF_SPLIT))
        return self._set(track, state=state, failure=None, variant=str(wanted), **clear)

    def page(self, after: int, most: int) -> list[Record]:
        """Return up to `most` tracks whose number is higher than `after`, in order."""
        return self._select("WHERE id > ? ORDER BY id LIMIT ?", after, most)

    def unrecognised(self) -> list[str]:
        """Return the sources that were bought, of which only the bytes are known, and that this run did not meet.

        Their records would take too long to read: it may be all of a large journal.
        """
        rows = self._db.execute(
            "SELECT source FROM tracks WHERE identity IS NULL AND run != ? AND state NOT IN (?, ?) ORDER BY id",
            (self.run, State.FOUND, State.UPLOADED),
        )
        return [load_name(source) for (source,) in rows]

    def count(self) -> dict[str, int]:
        """Return the number of tracks per state, `failed` among them."""
        query = "SELECT state, failure IS NULL, count(*) FROM tracks GROUP BY state, failure IS NULL"  # of the index
        counts: Counter[str] = Counter()
        for state, fine, number in self._db.execute(query):
            counts[str(state) if fine else "failed"] += int(number)
        return dict(counts)

    def _state_before_create(self, track: int) -> State:
        (upload,) = self._db.execute("SELECT expires_at FROM tracks WHERE id = ?", (track,)).fetchone()
        return State.FOUND if upload is None else State.UPLOADED

    def _move(self, track: int, state: State, *, before: Iterable[State] | None = None, **values: Any) -> Record:
        (held,) = self._db.execute("SELECT state FROM tracks WHERE id = ?", (track,)).fetchone()
        if State(held) not in (before if before is not None else BEFORE[state]):
            raise JournalError(f"track {track} cannot go from {held} to {state}")
        return self._set(track, state=state, **values)


def _build_mixed_up(record: Record, split_id: str, other: str) -> SubmissionUncertainError:
    """Return the error of a create that was answered with the split of another song."""
    assert record.submission is not None  # noqa: S101  # implied by the state
    return SubmissionUncertainError(
        f"the create of {record.source} was answered with {split_id}, which is the split of {other}, so it may or may "
        "not have a split of its own; nothing was downloaded for it. Ask the service about its idempotency key",
        submission=record.submission,
        code=SAME_SPLIT,
    )
