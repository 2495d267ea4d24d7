"""What a run asks of a shared journal while others are at work on it: another key, and a re-split."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import pytest

from aistemsplitter_async import JournalError
from aistemsplitter_async.journal.binding import KEY_IN_USE, OTHER_KEY
from aistemsplitter_async.journal.place import JournalURL, parse_journal
from aistemsplitter_async.journal.record import AudioId, Variant
from aistemsplitter_async.journal.rows import Sighting
from aistemsplitter_async.journal.store import JournalStore
from aistemsplitter_async.models import DirectURL

OLD, NEW = {"api": "a", "key": "old"}, {"api": "a", "key": "new"}


@pytest.fixture
def database(postgres_dsn: str) -> JournalURL:
    place = parse_journal(postgres_dsn)
    assert isinstance(place, JournalURL)
    return place


@contextmanager
def writing(store: JournalStore) -> Iterator[JournalStore]:
    store.begin()
    try:
        yield store
        store.commit()
    finally:
        store.roll_back()


def test_no_worker_has_another_key_than_those_at_work(database: JournalURL) -> None:
    with (
        closing(JournalStore(database)) as first,
        closing(JournalStore(database)) as second,
        ThreadPoolExecutor() as pool,
    ):
        first.begin()
        first.bind(OLD)
        late = pool.submit(bind, second, NEW)
        wait_for_another(first)
        first.commit()
        with pytest.raises(JournalError, match="in use with another API key by 1 worker: process") as refused:
            late.result(timeout=10)
        assert refused.value.code == KEY_IN_USE
        with writing(first):
            found = Sighting(
                audio=AudioId(None, "a"), source="a", folder="a", pattern="a", split_input=DirectURL("https://a")
            )
            first.uploaded(first.claim(found, Variant(), dedupe=True).record.id, DirectURL("https://a"), 1e12)
        with writing(second), pytest.raises(JournalError, match="in use with another") as refused:
            second.accept_key("new", proven=True)
        with writing(second), pytest.raises(JournalError, match="belongs to another API key") as refused:
            second.bind(NEW)
        assert refused.value.code == OTHER_KEY
        first.close()
        with writing(second):
            second.accept_key("new", proven=True)
            second.bind(NEW)
        with closing(JournalStore(database)) as third, writing(third), pytest.raises(JournalError) as refused:
            third.bind(OLD)  # of the same account, but not the one in use
        assert refused.value.code == KEY_IN_USE


def wait_for_another(store: JournalStore) -> None:
    """Wait until another worker waits for the transaction of this one, whose notes it does not see yet."""
    until = time.monotonic() + 20
    while (
        store._db.row("SELECT 1 FROM pg_locks WHERE transactionid::text = pg_current_xact_id()::text AND NOT granted")
        is None
    ):
        assert time.monotonic() < until


def bind(store: JournalStore, owner: dict[str, str]) -> None:
    with writing(store):
        store.bind(owner)


def test_workers_that_begin_a_resplit_at_the_same_moment_begin_the_same_one(database: JournalURL) -> None:
    with (
        closing(JournalStore(database)) as first,
        closing(JournalStore(database)) as second,
        ThreadPoolExecutor() as pool,
    ):
        first.begin()
        assert first._begin_resplit() == first.run
        late = pool.submit(begin_resplit, second)
        wait_for_another(first)
        first.commit()
        assert late.result(timeout=10) == first.run  # or what the first has bought since would be bought again
        assert begin_resplit(first) == first.run


def begin_resplit(store: JournalStore) -> int:
    with writing(store):
        return store._begin_resplit()
