"""The journal's tables and every statement on them. It blocks: `journal` calls this in its one thread."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import attrs

from aistemsplitter_async.config import MENDED_AT_ONCE
from aistemsplitter_async.errors import ConfigurationError, JournalError, LostLeaseError, SubmissionUncertainError
from aistemsplitter_async.journal.database import LOST_LEASE
from aistemsplitter_async.journal.matching import is_same_song
from aistemsplitter_async.journal.place import JournalURL
from aistemsplitter_async.journal.postgres import PostgresDatabase
from aistemsplitter_async.journal.record import (
    BEFORE,
    SAME_SPLIT,
    AudioId,
    Record,
    State,
    StoredFailure,
    StoredFile,
    Variant,
    plan_reopening,
)
from aistemsplitter_async.journal.rows import Stamp, dump_input, dump_value
from aistemsplitter_async.journal.spending import Spending
from aistemsplitter_async.journal.sqlite import SQLiteDatabase
from aistemsplitter_async.journal.workers import Worker
from aistemsplitter_async.models import CreatedSplit, Split, SplitInput, Submission

_OF_CREATE: Final = ("idempotency_key", "body", "intended_at", "sender")
_OF_SPLIT: Final = ("split_id", "credits_used", "created_at", "split")

# Both are answered by indexes alone, even for a million tracks. The second counts the failed among all of a state, too.
_COUNT: Final = "SELECT state, failure IS NOT NULL, count(*) FROM tracks GROUP BY state, failure IS NULL"
_COUNT_SHARED: Final = (
    "SELECT state, false, count(*) FROM tracks GROUP BY state "
    "UNION ALL SELECT state, true, count(*) FROM tracks WHERE failure IS NOT NULL GROUP BY state"
)


class JournalStore(Spending):
    """One open journal: a file, a temporary one with `None` that is gone when it is closed, or tables in PostgreSQL.

    Attributes:
        place: the file or the database.
        is_shared: whether other workers may be running on it. Then each track is of at most one, and only that one
            changes it.
        run: the number of this run; each opening is one.

    Raises:
        JournalLockedError: another process, or another batch of this one, has the file open.
        JournalError: it is damaged, another kind of file, of a newer version, or cannot be written.
        ConfigurationError: psycopg is missing.
    """

    def __init__(self, place: Path | JournalURL | None) -> None:
        self.place: Path | JournalURL | None = place
        super().__init__(PostgresDatabase(place) if isinstance(place, JournalURL) else SQLiteDatabase(place))
        self.is_shared: bool = self._db.is_shared

    @property
    def path(self) -> Path | None:
        """The file, if it is one."""
        return self.place if isinstance(self.place, Path) else None

    @property
    def most_changes(self) -> int | None:
        """How many changes may be made in one transaction, if that is bounded."""
        return self._db.most_changes

    def close(self) -> None:
        """Close it, and let another process open it; what was this worker's in a shared one is free."""
        self._db.close()

    def hurry(self) -> None:
        """Let no call wait for a server that does not answer, as it is about to be closed. From any thread."""
        self._db.hurry()

    def check_in_place(self) -> None:
        """Check that what is recorded now is found by the next run.

        Raises:
            JournalError: the file was deleted, moved or replaced (`code` is `MOVED`); or this worker of a shared
                journal may be taken for dead (`code` is `JOURNAL_DOWN`).
        """
        self._db.check_in_place()

    def server_time(self) -> float | None:
        """Return the time of a shared one's server (POSIX seconds); `None` for a file. From any thread."""
        return self._db.server_time()

    def begin(self) -> None:
        """Begin the transaction that the next calls belong to."""
        self._db.begin()
        self._takes.clear()

    def commit(self) -> None:
        """Make the transaction durable."""
        self._db.commit()
        self._has |= self._takes

    def roll_back(self) -> None:
        """Undo the transaction, if one is open."""
        self._db.roll_back()

    def recover(self, error: Exception, failures: int) -> JournalError | None:
        """Undo a transaction that ended in `error`, and return what to tell its callers; `None` to run it again."""
        return self._db.recover(error, failures)

    def workers(self) -> list[Worker]:
        """Return the workers that are running on a shared journal, this one among them, in the order they began."""
        return self._db.workers()

    def show(self, status: str) -> None:
        """Note what this worker shows of itself to those who ask for `workers`."""
        self._db.show(status)

    def take(self, track: int) -> Record:
        """Return a track, which is this worker's from now on.

        Raises:
            LostLeaseError: it is another worker's.
        """
        if not self._db.is_shared:
            return self.get(track)
        if self._db.hold([track], self._has):
            raise LostLeaseError("another worker has the song in hand, and finishes it", code=LOST_LEASE)
        return self._own(self._db.take_track(track, {}))

    def busy_elsewhere(self, tracks: Collection[int]) -> set[int]:
        """Return those of these tracks that other workers have in hand."""
        return self._db.busy(tracks)

    def release(self, held: Collection[int | str]) -> None:
        """Let other workers have these tracks, and read these files."""
        tracks = [one for one in held if isinstance(one, int)]
        files = [self._db.dump_name(one) for one in held if isinstance(one, str)]
        if tracks:
            self._db.release(tracks)
            self._has.difference_update(tracks)
            self._takes.difference_update(tracks)
        if files:
            self._db.end_reading(files)

    def begin_reading(self, path: str, stamp: Stamp) -> AudioId | Literal["unread", "read elsewhere"]:
        """Return what identifies a file, or whether this worker is to read it; until it releases it, no other does."""
        known = self.audio_of(path, stamp)
        if known is not None:
            return known
        return "unread" if self._db.begin_reading(self._db.dump_name(path)) else "read elsewhere"

    def open_creates(self, *, besides: Collection[int] = ()) -> list[Record]:
        """Return tracks whose create may have happened without the journal knowing; they are this worker's now.

        Of a shared journal these are some of those that no worker has in hand, and that are not `besides`.
        """
        open_states = (State.INTENT, State.UNCERTAIN)
        rows = self._db.take_tracks(open_states, {*besides, *self._has}, MENDED_AT_ONCE)
        return [self._own(row) for row in rows]

    def uploaded(self, track: int, split_input: SplitInput, expires_at: float) -> Record:
        """Note that its audio is at the worker until `expires_at` (POSIX seconds)."""
        return self._move(track, State.UPLOADED, input=dump_input(split_input), expires_at=expires_at)

    def intend(self, track: int, submission: Submission, at: float, *, price: float | None = None) -> Record:
        """Note that its create is about to be sent for the first time: from here on the split may exist.

        Args:
            track: its number.
            submission: the create.
            at: now (POSIX seconds).
            price: credits that it may cost, if this worker has joined a budget.

        Raises:
            SpendLimitError: like `reserve`.
            ConfigurationError: another track's create has this idempotency key.
            JournalError: like `check_in_place`.
            LostLeaseError: the track is another worker's now, so nothing may be sent.
        """
        self.check_in_place()
        key, body = submission.idempotency_key, submission.body
        if self._db.row("SELECT 1 FROM tracks WHERE idempotency_key = ? AND id != ?", key, track) is not None:
            raise ConfigurationError(
                f"the idempotency key {key!r} belongs to another source of this journal; give each its own"
            )
        if price is not None:
            self.reserve(track, price)
        return self._move(track, State.INTENT, idempotency_key=key, body=body, intended_at=at, sender=self.sender())

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
        record = self._move(track, state, before={State.INTENT}, **dict.fromkeys(clear))
        self._settle(track, 0.0)
        return record

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
        record = self._move(track, State.CREATED, split_id=created.id, credits_used=price, created_at=at)
        self._settle(track, price if price is None or 0 <= price < math.inf else None)
        return record

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
        rows = self._db.rows(
            "SELECT source FROM tracks WHERE identity IS NULL AND run < ? AND state NOT IN (?, ?) ORDER BY id",
            *(self._db.first_run, State.FOUND, State.UPLOADED),
        )
        return [self._db.load_name(source) for (source,) in rows]

    def count(self) -> dict[str, int]:
        """Return the number of tracks per state, `failed` among them."""
        counts: Counter[str] = Counter()
        for state, failed, number in self._db.rows(_COUNT_SHARED if self.is_shared else _COUNT):
            counts["failed" if failed else str(state)] += int(number)
            if failed and self.is_shared:
                counts[str(state)] -= int(number)
        return dict(+counts)

    def _state_before_create(self, track: int) -> State:
        row = self._db.row("SELECT 1 FROM tracks WHERE id = ? AND expires_at IS NOT NULL", track)
        return State.FOUND if row is None else State.UPLOADED

    def _move(self, track: int, state: State, *, before: Iterable[State] | None = None, **values: Any) -> Record:
        allowed = BEFORE[state] if before is None else before
        row = self._db.change_track(track, {"state": state, **values}, allowed)
        if row is None:
            raise JournalError(f"track {track} cannot go from {self.get(track).state} to {state}")
        return self._load(row)


def _build_mixed_up(record: Record, split_id: str, other: str) -> SubmissionUncertainError:
    """Return the error of a create that was answered with the split of another song."""
    assert record.submission is not None  # noqa: S101  # implied by the state
    return SubmissionUncertainError(
        f"the create of {record.source} was answered with {split_id}, which is the split of {other}, so it may or may "
        "not have a split of its own; nothing was downloaded for it. Ask the service about its idempotency key",
        submission=record.submission,
        code=SAME_SPLIT,
    )
