"""Opens a journal, wherever it is, to be moved or to be read.

These functions block; a caller on the event loop goes through `_tasks.run_in_thread`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Protocol

from aistemsplitter_async.journal.file_end import FileEnd
from aistemsplitter_async.journal.moving import End
from aistemsplitter_async.journal.place import JournalURL
from aistemsplitter_async.journal.postgres_end import PostgresEnd
from aistemsplitter_async.journal.postgres_reading import PostgresReader
from aistemsplitter_async.journal.reading import FileReader
from aistemsplitter_async.journal.record import Record
from aistemsplitter_async.journal.seal import Seal


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
