"""A journal that is moved to PostgreSQL and back: at one place, whole, and nowhere else, whatever kills the move."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from aistemsplitter_async import JournalError, JournalLockedError, Submission
from aistemsplitter_async._databases.postgres import connect
from aistemsplitter_async.journal import file
from aistemsplitter_async.journal.ends import open_end
from aistemsplitter_async.journal.moving import End, Moved, move
from aistemsplitter_async.journal.place import JournalURL, parse_journal
from aistemsplitter_async.journal.postgres_reading import PostgresReader
from aistemsplitter_async.journal.record import AudioId, Variant
from aistemsplitter_async.journal.rows import Sighting, Stamp
from aistemsplitter_async.journal.seal import SEALED
from aistemsplitter_async.journal.store import JournalStore
from aistemsplitter_async.models import DirectURL
from tests.io.journal.test_moving import OLD, content

Place = Path | JournalURL
ODD = ['a\nb\x00c".wav', "\udcff\ud800.wav", '"quoted".wav', "plain ünïcode 🎵.wav", "tab\\t%s?.wav"]


@pytest.fixture
def database(postgres_dsn: str) -> JournalURL:
    place = parse_journal(postgres_dsn)
    assert isinstance(place, JournalURL)
    return place


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """A journal in a file, with every kind of value a row may have."""
    path = tmp_path / "a.journal"
    shutil.copyfile(OLD, path)
    with closing(JournalStore(path)) as store:
        store.begin()
        for number, name in enumerate(ODD):
            found = Sighting(
                audio=AudioId(f"sha256:{number}", f"audio:{number}"),
                source=name,
                stamp=Stamp(number, 2**62 + number, -number),
                folder=str(number),
                pattern="{stem}",
                split_input=DirectURL("https://a"),
            )
            track = store.claim(found, Variant("6s", None), dedupe=True).record.id
            store.intend(track, Submission(f"key {number}", bytes(range(256))), 1e9 + 0.1 * number)
        store.commit()
    return path


@contextmanager
def opened(place: str) -> Iterator[End]:
    with open_end(parse_journal(place)) as end:
        yield end


def carry(source: Place, target: Place) -> Moved:
    with open_end(source) as giving, open_end(target, create=True) as taking:
        return move(giving, taking, opened, new_move=lambda: uuid4().hex)


def is_live(place: Place) -> bool:
    """Return whether a worker would go on with it."""
    try:
        with closing(JournalStore(place)) as store:
            store.begin()
            return bool(store.page(0, 1))
    except JournalError as error:
        if error.code != SEALED:
            raise
        return False


def test_a_journal_comes_back_from_postgres_with_every_byte(
    journal: Path, database: JournalURL, tmp_path: Path
) -> None:
    whole, back = content(journal), tmp_path / "back.journal"
    moved = carry(journal, database)
    assert (moved.counts["tracks"], moved.counts["sources"]) == (len(whole["tracks"]), len(whole["sources"]))
    with PostgresReader(database) as reader:
        records = [record for page in reader.pages() for record in page]
    assert [record.source for record in records][-len(ODD) :] == ODD
    assert carry(journal, database).already
    carry(database, back)
    assert content(back) == whole
    carry(back, journal)  # a sealed one that has what is in the other
    assert content(journal) == whole
    carry(journal, database)
    with closing(JournalStore(database)) as store:  # new rows have new numbers
        store.begin()
        found = Sighting(audio=AudioId(None, "new"), source="new", folder="new", pattern="{stem}")
        assert store.claim(found, Variant(), dedupe=True).record.id == len(records) + 1
        store.commit()


def test_a_sealed_database_refuses_new_workers_and_those_that_wake(
    journal: Path, database: JournalURL, tmp_path: Path
) -> None:
    carry(journal, database)
    asleep = JournalStore(database)
    asleep.begin()
    found = Sighting(audio=AudioId(None, "late"), source="late", folder="late", pattern="{stem}")
    track = asleep.claim(found, Variant(), dedupe=True).record.id
    asleep.commit()
    with pytest.raises(JournalLockedError, match=r"in use by 1 worker: process \d+ on .*stop them first"):
        carry(database, tmp_path / "b.journal")
    with connect(database.database, timeout=5.0) as admin:  # as if it had been stopped for longer than its lease
        asleep._db._lease.close()  # type: ignore[attr-defined]
        admin.execute(f"UPDATE {database.database.schema}.workers SET until = clock_timestamp()")  # noqa: S608
    carry(database, tmp_path / "b.journal")
    asleep.begin()
    with pytest.raises(Exception, match="was moved to") as refused:
        asleep.intend(track, Submission("k", b"{}"), 1.0)
    problem = asleep.recover(refused.value, 0)
    assert isinstance(problem, JournalError)
    assert problem.code == SEALED
    asleep.close()
    with pytest.raises(JournalError, match=rf"was moved to {tmp_path}/b.journal: use that") as refused:
        JournalStore(database)
    assert refused.value.code == SEALED


def test_a_place_that_has_songs_or_workers_or_nothing_is_refused(
    journal: Path, database: JournalURL, tmp_path: Path
) -> None:
    other = tmp_path / "other.journal"
    shutil.copyfile(OLD, other)
    with pytest.raises(JournalError, match=r"there is no journal at postgresql://.*schema=test_"):
        carry(database, tmp_path / "b.journal")
    with closing(JournalStore(database)), pytest.raises(JournalLockedError, match="in use by 1 worker"):
        carry(journal, database)
    carry(other, database)
    with pytest.raises(JournalError, match="songs of its own"):
        carry(journal, database)
    with closing(JournalStore(journal)) as store:
        assert store.page(0, 1)


class Deadly:
    """Kills its process before or after one of the commits that change something, and in the middle of one.

    With `thorough`, before every statement and every row that is copied: by hand, as that takes minutes.
    """

    def __init__(self, left: int, *, thorough: bool = False) -> None:
        self._left = left
        self._is_thorough = thorough
        self._changes = 0

    def install(self) -> None:
        """Let SQLite and psycopg pass here with every statement, in this process."""
        passing, connect = self._pass, sqlite3.connect

        class Watched(sqlite3.Connection):
            def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
                with passing(statement):
                    return super().execute(statement, *values)

            def executemany(self, statement: str, rows: Any) -> sqlite3.Cursor:
                def passed() -> Iterator[Any]:
                    for row in rows:
                        with passing("COPY"):
                            yield row

                return super().executemany(statement, passed())

        def watch(kind: type[Any], name: str, statement: str = "") -> None:
            call = getattr(kind, name)

            def passed(self: Any, given: Any, *rest: Any, **options: Any) -> Any:
                with passing(statement or str(given).strip()):
                    return call(self, given, *rest, **options)

            setattr(kind, name, passed)

        file.sqlite3.connect = lambda *args, **options: connect(*args, **options, factory=Watched)  # type: ignore[attr-defined]
        watch(psycopg.Cursor, "execute")
        watch(psycopg.ServerCursor, "execute")
        watch(psycopg.Copy, "write_row", "COPY")

    @contextmanager
    def _pass(self, statement: str) -> Iterator[None]:
        is_commit = statement.startswith("COMMIT")
        self._changes += statement.startswith(("INSERT", "DELETE", "ALTER", "CREATE", "COPY", "PRAGMA user_version ="))
        self._changes *= not statement.startswith("BEGIN")
        if self._is_thorough or (is_commit and self._changes) or self._changes == _MIDDLE:
            self._live()
        yield
        if is_commit and self._changes and not self._is_thorough:
            self._live()

    def _live(self) -> None:
        self._left -= 1
        if not self._left:
            os.kill(os.getpid(), signal.SIGKILL)


_MIDDLE = 10  # changes after which a transaction is in its middle


def killed_at(point: int, work: Callable[[], object], *, thorough: bool) -> bool:
    """Do the work in a process that is killed at its n-th point; return whether it got so far."""
    pid = os.fork()
    if not pid:
        Deadly(point, thorough=thorough).install()
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


@pytest.mark.skipif(sys.platform == "win32", reason="fork")
def test_a_move_killed_at_any_commit_has_not_begun_or_is_finished_by_the_same_move(
    journal: Path, database: JournalURL
) -> None:
    """It goes to and fro, and is killed one step later each time."""
    whole, seen = content(journal), set[tuple[bool, ...]]()
    places: list[Place] = [journal, database]
    thorough = "THOROUGH" in os.environ
    points = {place: count(1) for place in places}
    going = set(places)
    while going:
        source, target = places
        point = next(points[source])
        if not killed_at(point, lambda: carry(source, target), thorough=thorough):  # noqa: B023  # called at once
            going.discard(source)
        alive = tuple(is_live(place) for place in (source, target))
        seen.add(alive)
        assert alive != (True, True)
        carry(source, target)
        assert (is_live(source), is_live(target)) == (False, True)
        if target == journal:
            assert content(journal) == whole | {"meta": content(journal)["meta"]}
        places.reverse()
    assert seen == {(True, False), (False, False), (False, True)}
