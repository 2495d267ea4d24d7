"""A journal that several workers share, in memory and in virtual time: SQLite with an owner per row.

It has the rules of the real one's statements, not its transactions: each is over before the next one begins.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from aistemsplitter_async.errors import JournalError, LostLeaseError
from aistemsplitter_async.journal.database import Row
from aistemsplitter_async.journal.record import State
from aistemsplitter_async.journal.sqlite import SQLiteDatabase
from aistemsplitter_async.journal.workers import Worker
from aistemsplitter_async.testing import FakeClock

LEASE = 15.0


class Library:
    """The tables, and who is at work on them.

    Attributes:
        is_down: whether the server can be reached.
        desks: the workers' connections, in the order they came.
    """

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.is_down = False
        self.desks: list[Desk] = []
        self.file = SQLiteDatabase(None)
        self.file.connection.executescript(
            """
            ALTER TABLE tracks ADD COLUMN owner TEXT;
            ALTER TABLE tracks ADD COLUMN budget INTEGER;
            ALTER TABLE tracks ADD COLUMN reserved REAL NOT NULL DEFAULT 0;
            CREATE TABLE readings (path TEXT PRIMARY KEY, worker TEXT NOT NULL);
            CREATE TABLE credit_budget (
                id INTEGER PRIMARY KEY, first_run INTEGER NOT NULL UNIQUE, most REAL NOT NULL,
                used REAL NOT NULL DEFAULT 0, reserved REAL NOT NULL DEFAULT 0, stopped TEXT NOT NULL DEFAULT ''
            );
            """
        )

    def open(self, _: object) -> Desk:
        """Return a worker's connection: what is opened in the place of PostgreSQL's."""
        self.desks.append(Desk(self))
        return self.desks[-1]

    def owners(self) -> list[str | None]:
        """Return whose each row is."""
        return [owner for (owner,) in self.file.connection.execute("SELECT owner FROM tracks ORDER BY id")]

    def living(self) -> list[Desk]:
        return [desk for desk in self.desks if desk.until > self.clock.monotonic()]


class Desk(SQLiteDatabase):
    """One worker's connection."""

    is_shared = True
    most_changes = 100
    _numbers = itertools.count(1)

    def __init__(self, library: Library) -> None:
        self.library = library
        self.connection = library.file.connection
        self.me = f"worker {next(self._numbers)}"
        self.run = len(library.desks) + 1
        self.first_run = min([self.run, *(desk.first_run for desk in library.living())])
        self.until = math.inf  # it renews its lease for as long as it lives
        self.is_killed = False
        self.shown = ""

    def fall_silent(self) -> None:
        """Be taken for dead, once the lease is over, by everybody else."""
        self.until = self.library.clock.monotonic() + LEASE

    def kill(self) -> None:
        """Do nothing more."""
        self.fall_silent()
        self.is_killed = True

    def begin(self) -> None:
        if self.is_killed or self.library.is_down:
            raise JournalError("the server is gone", code="JOURNAL_DOWN")
        super().begin()

    def recover(self, error: Exception, failures: int) -> JournalError:
        if isinstance(error, JournalError):
            return error
        return super().recover(error, failures)

    def close(self) -> None:
        if not self.is_killed:
            self.until = -math.inf
            self.connection.execute("DELETE FROM readings WHERE worker = ?", (self.me,))

    def check_in_place(self) -> None:
        if self.until < math.inf:
            raise JournalError("this worker is silent", code="JOURNAL_DOWN")

    def server_time(self) -> float:
        return self.library.clock.now()

    def insert_track(self, values: Mapping[str, Any]) -> Row:
        return super().insert_track({**values, "owner": self.me})

    def change_track(self, track: int, values: Mapping[str, Any], before: Iterable[State] | None = None) -> Row | None:
        if self._owner(track) != self.me:
            raise LostLeaseError("it is another worker's now", code="LOST_LEASE")
        return super().change_track(track, values, before)

    def take_track(self, track: int, values: Mapping[str, Any]) -> Row:
        row = super().change_track(track, {**values, "owner": self.me})
        assert row is not None
        return row

    def take_tracks(self, states: Collection[State], besides: Collection[int] = (), most: int = 50) -> list[Row]:
        found = self.connection.execute("SELECT id, state, owner FROM tracks ORDER BY id").fetchall()
        others = self._others()
        free = [
            track
            for track, state, owner in found
            if state in states and owner not in others and owner != self.me and track not in besides
        ]
        return [self.take_track(track, {}) for track in free[:most]]

    def hold(self, tracks: Collection[int], had: Collection[int]) -> set[int]:
        return self.busy(tracks) | {track for track in tracks if track in had and self._owner(track) != self.me}

    def busy(self, tracks: Collection[int]) -> set[int]:
        others = self._others()
        return {track for track in tracks if self._owner(track) in others}

    def release(self, tracks: Collection[int]) -> None:
        for track in tracks:
            self.connection.execute("UPDATE tracks SET owner = NULL WHERE id = ? AND owner = ?", (track, self.me))

    def begin_reading(self, path: str | bytes) -> bool:
        held = self.row("SELECT worker FROM readings WHERE path = ?", path)
        if held is not None and held[0] in self._others():
            return False
        self.execute("INSERT OR REPLACE INTO readings VALUES (?, ?)", path, self.me)
        return True

    def end_reading(self, paths: Collection[str | bytes]) -> None:
        for path in paths:
            self.execute("DELETE FROM readings WHERE path = ? AND worker = ?", path, self.me)

    def reserved_elsewhere(self, budget: int) -> tuple[float, float]:
        rows = self.rows("SELECT owner, state, reserved FROM tracks WHERE budget = ?", budget)
        others = [(state, reserved) for owner, state, reserved in rows if owner != self.me]
        kept = sum(reserved for state, reserved in others if state in (State.UNCERTAIN, State.NEEDS_REVIEW))
        return sum(reserved for _, reserved in others), kept

    def oldest_run(self) -> int:
        return min((desk.first_run for desk in self.library.living()), default=self.first_run)

    def others(self) -> int:
        return len(self._others())

    def workers(self) -> list[Worker]:
        return [
            Worker(desk.me, desk.run, "here", 1, 0.0, LEASE, desk.shown, desk is self) for desk in self.library.living()
        ]

    def show(self, status: str) -> None:
        self.shown = status

    def _others(self) -> set[str]:
        return {desk.me for desk in self.library.living()} - {self.me}

    def _owner(self, track: int) -> str | None:
        row = self.row("SELECT owner FROM tracks WHERE id = ?", track)
        return None if row is None else row[0]
