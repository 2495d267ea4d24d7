"""Moves a journal to another place: all of it or nothing, and at no moment do runs accept both places.

```
the target is sealed, as it awaits rows -> the source is sealed -> the target gets all rows, and loses its seal, in one
transaction -> the source's seal says that they left
```

Killed in between, the same move is finished by starting it again. How an end does its part is up to the file or
database that it is; nothing here touches either.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from hashlib import blake2b
from typing import Any, Final, Protocol

import attrs

from aistemsplitter_async.errors import JournalError
from aistemsplitter_async.journal.seal import MOVES, SEAL, Seal, build_sealed, dump_moves, load_moves

NOTES: Final = "meta"
TABLES: Final[Mapping[str, tuple[str, ...]]] = {  # what is moved
    NOTES: ("name", "value"),
    "sources": ("path", "size", "mtime_ns", "ctime_ns", "inode", "content", "identity"),
    "tracks": (
        *("id", "content", "identity", "variant", "run", "source", "state", "folder", "pattern", "place", "input"),
        *("expires_at", "idempotency_key", "body", "intended_at", "split_id", "credits_used", "created_at", "split"),
        *("files", "failure", "sender"),
    ),
    "aliases": ("identity", "track"),
}
NAMES: Final[Mapping[str, str]] = {
    "sources": "path",
    "tracks": "source",
}  # columns with a file's name, as Python has it
_OF_MOVES: Final = frozenset({SEAL, MOVES})  # notes that are not moved as they are
_DIGEST_BYTES: Final = 16
_STEP: Final = 1000  # rows between two calls of a listener

Row = tuple[Any, ...]
Rows = Mapping[str, Callable[[], Iterator[Row]]]
"""Of each table, what begins to read it: its columns as `TABLES` has them, with the types that SQLite has."""


class End(Protocol):
    """A journal that is moved, or that another is moved to: open, and nobody else works on it. Its calls block."""

    @property
    def place(self) -> str:
        """Where it is: an absolute path, or a URL without a password."""

    def note(self, name: str) -> str | None:
        """Return the note of this name."""

    def seal(self, seal: Seal | None) -> None:
        """Seal it, durably; with `None`, let runs use it again."""

    def size(self) -> int:
        """Return how many rows of songs and files it has."""

    def is_vacant(self) -> bool:
        """Return whether it knows no song."""

    def rows(self) -> Rows:
        """Return what reads all of it."""

    def receive(self, rows: Rows, check: Callable[[Rows], None]) -> None:
        """Replace all of it, its seal too, durably; or nothing, if `check` raises of what it reads afterwards."""


OpenEnd = Callable[[str], AbstractContextManager[End]]


@attrs.frozen
class Moved:
    """What a move has done.

    Attributes:
        counts: the rows at the target, by table.
        already: whether an earlier move had taken them there.
    """

    counts: Mapping[str, int]
    already: bool = False


def move(
    source: End,
    target: End,
    open_end: OpenEnd,
    *,
    new_move: Callable[[], str],
    on_rows: Callable[[int], object] = lambda _: None,
) -> Moved:
    """Move everything from `source` to `target`, or finish a move that was interrupted.

    Args:
        source: is sealed.
        target: must know no song, or only what was once moved from there to `source`.
        open_end: opens another place: that of an earlier move that was not finished.
        new_move: returns what no other move is called.
        on_rows: called now and then with the number of rows that were moved and, once all are, that were compared too.
            If it raises, the move is interrupted.

    Raises:
        JournalError: an end cannot be used so, which has changed nothing; or the move was interrupted.
    """
    seal, left = read_seal(source), read_seal(target)
    if seal is not None and _has(target, seal):
        source.seal(attrs.evolve(seal, state="left"))
        return Moved(_count(target.rows()), already=True)
    if seal is not None and seal.place != target.place:
        _check_abandoned(source, seal, open_end)
        seal = None
    _check_replaceable(source, target, left)
    if seal is None:
        is_begun = left is not None and left.state == "awaited"
        seal = Seal(target.place, left.move if is_begun and left is not None else new_move())
        target.seal(Seal(source.place, seal.move, "awaited"))
        source.seal(seal)
    sent = _Summed(_with_move(source, seal.move), on_rows)

    def check(received: Rows) -> None:
        moved = sent.counts.total()
        held = _Summed(received, lambda rows: on_rows(moved + rows))
        if (Counter(_count(held.rows)), held.digest) != (sent.counts, sent.digest):
            raise JournalError(
                f"{target.place} did not keep what it was given, so nothing was moved there; this is a bug"
            )

    target.receive(sent.rows, check)
    source.seal(attrs.evolve(seal, state="left"))
    return Moved(sent.counts)


def stay(end: End, open_end: OpenEnd) -> bool:
    """Take off the seal of a move that was interrupted and is given up; return whether there was one.

    Raises:
        JournalError: the rows may be at the other end, or come from there.
    """
    seal = read_seal(end)
    if seal is None:
        return False
    if seal.state == "awaited" and not end.is_vacant():  # they were moved away, and the source is where they are
        raise build_sealed(end.place, seal)
    _check_abandoned(end, seal, open_end)
    end.seal(None)
    return True


def rename(table: str, rows: Iterable[Row], spell: Callable[[Any], Any]) -> Iterator[Row]:
    """Iterate over rows of a table, with names of files spelled otherwise: no database holds each as Python does."""
    if (name := NAMES.get(table)) is None:
        yield from rows
        return
    place = TABLES[table].index(name)
    for row in rows:
        yield (*row[:place], spell(row[place]), *row[place + 1 :])


def read_seal(end: End) -> Seal | None:
    """Return the seal of a journal, if it has one."""
    text = end.note(SEAL)
    return None if text is None else Seal.load(text)


def _has(end: End, seal: Seal) -> bool:
    return seal.move in load_moves(end.note(MOVES))


def _check_abandoned(end: End, seal: Seal, open_end: OpenEnd) -> None:
    """Check that the other end neither has the rows of this move nor sends them."""
    if seal.state == "left":
        raise build_sealed(end.place, seal)
    with open_end(seal.place) as other:
        theirs = read_seal(other)
        if _has(other, seal):
            raise build_sealed(end.place, attrs.evolve(seal, state="left"))
        if seal.state == "awaited" and theirs is not None and theirs.move == seal.move:
            raise build_sealed(end.place, seal)


def _check_replaceable(source: End, target: End, left: Seal | None) -> None:
    """Check that what the target has may be replaced: nothing, or what the source has got from there."""
    if source.is_vacant():
        raise JournalError(f"{source.place} knows no songs, so there is nothing to move; is it the right one?")
    if left is None and not target.is_vacant():
        raise JournalError(
            f"{target.place} has songs of its own, so nothing can be moved there; name a place that has none, such as "
            "another file, or another ?schema= of the database"
        )
    is_begun = left is not None and left.state == "awaited" and left.place == source.place
    if left is not None and not (is_begun or left.move in load_moves(source.note(MOVES))):
        raise build_sealed(target.place, left)


def _with_move(source: End, move: str) -> Rows:
    """Return what reads all of the source, with this move among its notes."""
    rows, moves = source.rows(), dump_moves([*load_moves(source.note(MOVES)), move])

    def notes() -> Iterator[Row]:
        yield from (row for row in rows[NOTES]() if row[0] not in _OF_MOVES)
        yield MOVES, moves

    return {**rows, NOTES: notes}


def _count(rows: Rows) -> dict[str, int]:
    return {table: sum(1 for _ in read()) for table, read in rows.items()}


class _Summed:
    """Rows that are counted and summed as they are read, in whatever order: each database sorts text in its own.

    The sums are those of two tables only if every value in every row of the one is in the other.
    """

    def __init__(self, rows: Rows, on_rows: Callable[[int], object] = lambda _: None) -> None:
        self.counts: Counter[str] = Counter()
        self.digest = 0
        self.rows: Rows = {table: self._reading(table, read) for table, read in rows.items()}
        self._on_rows = on_rows

    def _reading(self, table: str, read: Callable[[], Iterator[Row]]) -> Callable[[], Iterator[Row]]:
        def begin() -> Iterator[Row]:
            for row in read():
                digest = blake2b(repr((table, row)).encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES)
                self.digest = (self.digest + int.from_bytes(digest.digest())) % (1 << 8 * _DIGEST_BYTES)
                self.counts[table] += 1
                yield row
                if self.counts.total() % _STEP == 0:
                    self._on_rows(self.counts.total())

        return begin
