"""Helpers for tests on shared journals: stores whose calls are committed in groups, as a batch's are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, cast

import attrs

from aistemsplitter_async import Submission
from aistemsplitter_async._databases import postgres
from aistemsplitter_async.journal import journal
from aistemsplitter_async.journal.claims import Claim
from aistemsplitter_async.journal.place import JournalURL, parse_journal
from aistemsplitter_async.journal.postgres import PostgresDatabase
from aistemsplitter_async.journal.record import AudioId, Variant
from aistemsplitter_async.journal.rows import Sighting, Stamp
from aistemsplitter_async.journal.store import JournalStore
from aistemsplitter_async.models import DirectURL

NO_FUTURE = cast("asyncio.Future[Any]", None)


def at(dsn: str, lease: float = 60.0) -> JournalURL:
    """The journal there, whose workers are not taken for dead within a test unless it says so."""
    place = parse_journal(dsn)
    assert isinstance(place, JournalURL)
    return attrs.evolve(place, lease=lease)


def commit(store: JournalStore, *changes: Callable[[JournalStore], Any]) -> list[Any]:
    """Make changes in one transaction; return what each returned or raised."""
    return [result for _, result in journal._commit(store, [(change, NO_FUTURE) for change in changes])]


def do(store: JournalStore, change: Callable[[JournalStore], Any]) -> Any:
    """Make one change, and return what it returns."""
    (result,) = commit(store, change)
    if isinstance(result, BaseException):
        raise result
    return result


def claiming(
    name: str, *, content: str | None = None, folder: str | None = None, **options: Any
) -> Callable[[JournalStore], Claim]:
    """A change that claims a song."""
    sighting = Sighting(
        audio=AudioId(content or f"sha256:{name}", f"wav:{name}"),
        source=f"/music/{name}.wav",
        stamp=Stamp(1, 2, 3),
        folder=folder or name,
        pattern="{stem}",
        split_input=DirectURL(f"https://example.com/{name}.wav"),
    )
    return lambda store: store.claim(sighting, Variant(), dedupe=True, **options)


def intending(track: int, key: str, **options: Any) -> Callable[[JournalStore], Any]:
    """A change that notes that the create of a track is about to be sent."""
    return lambda store: store.intend(track, Submission(key, b'{"input":{}}'), 1e9, **options)


def bury(store: JournalStore) -> None:
    """Let everybody take the worker for dead, as if it had been stopped for longer than its lease."""
    database = database_of(store)
    assert database._lease is not None
    database._lease.close()
    with raw(database._place) as connection:
        connection.execute(
            "UPDATE workers SET until = clock_timestamp() - interval '1 s' WHERE id = %s", [database._me]
        )


def database_of(store: JournalStore) -> PostgresDatabase:
    assert isinstance(store._db, PostgresDatabase)
    return store._db


@contextmanager
def raw(place: JournalURL) -> Iterator[Any]:
    """A connection of somebody else's to the journal's tables."""
    with closing(postgres.connect(place.database, timeout=5.0)) as connection:
        connection.execute(f"SET search_path = {place.database.schema}".encode())
        yield connection
