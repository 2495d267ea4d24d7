"""The rules of a journal hold in PostgreSQL as they do in a file: the same tests, on the other database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from aistemsplitter_async.journal.place import JournalURL, parse_journal
from aistemsplitter_async.journal.store import JournalStore
from tests.core.journal import test_store

for _name, _test in vars(test_store).items():
    if _name.startswith("test_") and "store" in getattr(_test, "__annotations__", {}):
        globals()[_name] = _test


class Committing(JournalStore):
    """Each call of it is a transaction."""

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        ours = name.startswith("_") or name in ("begin", "close", "commit", "recover", "roll_back")
        if ours or not callable(value) or vars(self).get("busy"):
            return value

        def call(*args: Any, **kwargs: Any) -> Any:
            self.begin()
            self.busy = True
            try:
                return value(*args, **kwargs)
            finally:
                self.busy = False
                self.commit()

        return call


@pytest.fixture
def store(postgres_dsn: str) -> Iterator[JournalStore]:
    place = parse_journal(postgres_dsn)
    assert isinstance(place, JournalURL)
    with closing(Committing(place)) as opened:
        yield opened
