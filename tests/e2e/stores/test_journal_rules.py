"""The rules of a journal hold in PostgreSQL as they do in a file: the same tests, on the other database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from aistemsplitter_async.journal.place import JournalURL, parse_journal
from aistemsplitter_async.journal.store import JournalStore
from tests.core.journal import test_claims, test_store

_LONG = "test_a_thousand_of_one_name_are_numbered_without_reading_all_the_others"
_OF_FILES = "sqlite3"  # what a test says that looks into the file
for _name, _test in (vars(test_store) | vars(test_claims)).items():
    asked = getattr(_test, "__annotations__", {}).keys() & {"store", "runs"}
    if _name.startswith("test_") and asked and _name != _LONG and _OF_FILES not in _test.__code__.co_names:
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
def place(postgres_dsn: str) -> JournalURL:
    place = parse_journal(postgres_dsn)
    assert isinstance(place, JournalURL)
    return place


@pytest.fixture
def store(place: JournalURL) -> Iterator[JournalStore]:
    with closing(Committing(place)) as opened:
        yield opened


@pytest.fixture
def runs(place: JournalURL, monkeypatch: pytest.MonkeyPatch) -> test_claims.Runs:
    monkeypatch.setattr(test_claims, "JournalStore", Committing)
    return test_claims.Runs(place)
