"""Opens a journal, wherever it is, to be moved or to be read.

These functions block; a caller on the event loop goes through `_tasks.run_in_thread`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Protocol

from aistemsplitter_async.errors import JournalError
from aistemsplitter_async.journal.file_end import FileEnd
from aistemsplitter_async.journal.moving import End
from aistemsplitter_async.journal.place import JournalURL
from aistemsplitter_async.journal.postgres_end import PostgresEnd
from aistemsplitter_async.journal.postgres_reading import NO_JOURNAL, PostgresReader
from aistemsplitter_async.journal.reading import FileReader
from aistemsplitter_async.journal.record import Record
from aistemsplitter_async.journal.seal import Seal, build_sealed


class Reader(Protocol):
    """A journal that is read, and not changed."""

    def seal(self) -> Seal | None:
        """Return what says that the journal was moved."""
        ...

    def pages(self) -> Iterator[list[Record]]:
        """Iterate over all records, oldest first, some at a time."""
        ...


@contextmanager
def open_end(place: Path | JournalURL, *, create: bool = False) -> Iterator[End]:
    """Open a journal as one end of a move.

    Args:
        place: where it is.
        create: whether one is created if there is none.

    Raises:
        JournalLockedError: somebody works on it.
        JournalError: there is none, or it cannot be used.
        ConfigurationError: what PostgreSQL needs is not installed.
    """
    if isinstance(place, Path):
        with closing(FileEnd(place, create=create)) as file:
            yield file
    else:
        with closing(PostgresEnd(place, create=create)) as database:
            yield database


def open_reader(place: Path | JournalURL) -> AbstractContextManager[Reader]:
    """Open a journal to read it, whoever works on it meanwhile.

    Raises:
        JournalError: there is none, or it cannot be read.
        ConfigurationError: what PostgreSQL needs is not installed.
    """
    return FileReader(place) if isinstance(place, Path) else PostgresReader(place)


def copy_shared(place: JournalURL, folder: Path) -> Path:
    """Copy a shared journal, as it is at this moment, to a file in a folder, and return its path; nothing is locked.

    The copy is empty if there is no journal yet.

    Raises:
        JournalError: it cannot be read, or was moved (`code` is `SEALED`).
        ConfigurationError: psycopg is missing.
    """
    copy = folder / "copy.journal"
    try:
        with PostgresReader(place) as reader, closing(FileEnd(copy, create=True)) as end:
            if (seal := reader.seal()) is not None:
                raise build_sealed(place.database.shown, seal)
            end.receive(reader.rows(), lambda _: None)
    except JournalError as error:
        if error.code != NO_JOURNAL:
            raise
    return copy
