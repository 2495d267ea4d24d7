"""The database under a journal, as its statements see it: one file of one process, or tables that many workers share.

`JournalStore` has every rule and nearly every statement, once. What the two databases do differently is here.
Statements are in the SQL that both read, with `?` for values.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from aistemsplitter_async.errors import JournalError
from aistemsplitter_async.journal.record import State
from aistemsplitter_async.journal.workers import Worker

Row = Sequence[Any]
LOST_LEASE: Final = "LOST_LEASE"  # the code of a track that is another worker's


class Database(Protocol):
    """One open database. All calls but `begin`, `recover` and `close` belong to a transaction.

    Attributes:
        is_shared: whether other workers may change it at the same time. Then each track is of at most one of them.
        run: the number of this run; each opening is one.
        first_run: the lowest number among the runs that began while a worker of this run's fleet was at work.
        most_changes: how many changes one transaction may have; `None` for any number.
    """

    is_shared: bool
    run: int
    first_run: int
    most_changes: int | None

    def begin(self) -> None:
        """Begin a transaction."""

    def commit(self) -> None:
        """Make the transaction durable."""

    def roll_back(self) -> None:
        """Undo the transaction, if one is open."""

    def recover(self, error: Exception, failures: int) -> JournalError | None:
        """Undo a transaction that ended in `error`, and return the error for its callers; `None` to run it again.

        Args:
            error: of any kind.
            failures: how often it has failed so.
        """

    def close(self) -> None:
        """Close it. What this worker had is free for others."""

    def hurry(self) -> None:
        """Let no call wait for a server that does not answer, as the journal is about to be closed. From any thread."""

    def check_in_place(self) -> None:
        """Check that a create that is recorded now is found by the next run.

        Raises:
            JournalError: it may not be.
        """

    def server_time(self) -> float | None:
        """Return the time of the journal's server (POSIX seconds), `None` if it has none. From any thread."""

    def rows(self, statement: str, *values: Any) -> Iterable[Row]:
        """Return the rows of a query."""

    def row(self, statement: str, *values: Any) -> Row | None:
        """Return the first row of a query, if it has any."""

    def execute(self, statement: str, *values: Any) -> int:
        """Carry out a change; return the number of rows that it concerned."""

    def insert_track(self, values: Mapping[str, Any]) -> Row:
        """Add a track of this worker; return its `COLUMNS`."""

    def change_track(self, track: int, values: Mapping[str, Any], before: Iterable[State] | None = None) -> Row | None:
        """Change a track of this worker, if it is in one of the states `before`; return its `COLUMNS`.

        `None` is returned if it is in another state.

        Raises:
            LostLeaseError: the track is another worker's now; nothing was changed.
        """

    def take_track(self, track: int, values: Mapping[str, Any]) -> Row:
        """Change a track that `hold` has held for this worker, which it is from now on; return its `COLUMNS`."""

    def take_tracks(self, states: Collection[State], besides: Collection[int], most: int) -> list[Row]:
        """Make tracks in these states this worker's that are nobody's; return their `COLUMNS`, in order.

        Args:
            states: of them.
            besides: tracks to leave alone.
            most: how many of a shared journal, so that other workers get some too.
        """

    def hold(self, tracks: Collection[int], had: Collection[int]) -> set[int]:
        """Let nobody else take these tracks until the transaction ends; return those that are other workers'.

        So are those that this worker `had` and that are its own no longer, even if nobody has them now.
        """

    def busy(self, tracks: Collection[int]) -> set[int]:
        """Return those of these tracks that other workers have in hand."""

    def release(self, tracks: Collection[int]) -> None:
        """Let other workers have these tracks, those that are this worker's."""

    def begin_reading(self, path: str | bytes) -> bool:
        """Note that this worker reads a file; return `False` if another one does."""

    def end_reading(self, paths: Collection[str | bytes]) -> None:
        """Note that this worker reads these files no longer."""

    def reserved_elsewhere(self, budget: int) -> tuple[float, float]:
        """Return what other workers' tracks have set aside, and how much of that for creates that nobody resolves."""

    def lock(self, names: Collection[str]) -> bool:
        """Let nobody else pass here with one of these names until the transaction ends; return whether it succeeded."""

    def oldest_run(self) -> int:
        """Return the lowest `first_run` of the workers that are at work."""

    def others(self) -> int:
        """Return how many other workers are at work."""

    def workers(self) -> list[Worker]:
        """Return the workers that are at work, in the order they began."""

    def show(self, status: str) -> None:
        """Note what this worker shows of itself."""

    def dump_name(self, name: str) -> str | bytes:
        """Return a file's name as a column holds it; the name need not be text."""

    def load_name(self, name: str | bytes) -> str:
        """Return a file's name from its column."""
