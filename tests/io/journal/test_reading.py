"""A journal that is read while a batch writes it: what was committed, and not a byte of the file changes."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from aistemsplitter_async import JournalError, JournalLockedError
from aistemsplitter_async.journal import reading
from aistemsplitter_async.journal.file_end import FileEnd
from aistemsplitter_async.journal.moving import move
from aistemsplitter_async.journal.reading import FileReader
from aistemsplitter_async.journal.record import AudioId, Variant
from aistemsplitter_async.journal.rows import Sighting
from aistemsplitter_async.journal.sqlite import SQLiteDatabase
from aistemsplitter_async.journal.store import JournalStore
from aistemsplitter_async.models import DirectURL

OLD = Path(__file__).parents[2] / "samples" / "old.journal"


def add(store: JournalStore, name: str) -> int:
    found = Sighting(
        audio=AudioId(None, name),
        source=name,
        folder=name,
        pattern="{stem}",
        split_input=DirectURL(f"https://a/{name}"),
    )
    return store.claim(found, Variant(), dedupe=True).record.id


def connection(store: JournalStore) -> sqlite3.Connection:
    assert isinstance(store._db, SQLiteDatabase)
    return store._db.connection


def sources(path: Path) -> list[str]:
    with FileReader(path) as reader:
        return [record.source for page in reader.pages() for record in page]


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Of the lock file only its bytes: looking whether a process has the lock opens it, which changes its time."""
    return {
        file.name: (file.read_bytes(), 0 if file.suffix == ".lock" else file.stat().st_mtime_ns)
        for file in folder.iterdir()
    }


def test_what_is_committed_is_read_while_a_batch_has_the_journal_and_nothing_changes(tmp_path: Path) -> None:
    path = tmp_path / "a b#?.journal"
    with closing(JournalStore(path)) as store:
        store.begin()
        add(store, "one")
        store.commit()
        store.begin()
        add(store, "two")
        before = contents(tmp_path)
        assert sources(path) == ["one"]
        assert contents(tmp_path) == before
        store.commit()
        assert sources(path) == ["one", "two"]


def test_what_a_commit_disturbed_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    with closing(JournalStore(path)) as store:
        store.begin()
        store.set_note("x", "0")
        store.commit()
        with FileReader(path) as reader:
            read: list[str] = []

            def query(db: sqlite3.Connection) -> str:
                if len(read) < 3:
                    store.begin()
                    store.set_note("x", str(len(read) + 1))
                    store.commit()
                read.append(db.execute("SELECT value FROM meta WHERE name = 'x'").fetchone()[0])
                return read[-1]

            assert (reader._read(query), len(read)) == ("3", 4)


@pytest.mark.skipif(sys.platform == "win32", reason="fork")
def test_a_commit_that_was_never_finished_is_not_read_and_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch is killed when its commit is half in the file; another, which lives, is stopped there."""
    path = tmp_path / "a.journal"
    with closing(JournalStore(path)) as store:
        store.begin()
        for number in range(50):
            add(store, f"one{number}")
        store.commit()
    (ready, said), (held, go_on) = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        os.close(go_on)
        store = JournalStore(path)
        connection(store).execute("PRAGMA cache_size = 1")  # so that it writes to the file before the commit
        store.begin()
        for number in range(50):
            add(store, f"two{number}")
        os.write(said, b"x")
        os.read(held, 1)  # until the test has ended, if not killed before
        os._exit(1)
    os.close(said)
    assert os.read(ready, 1) == b"x"
    monkeypatch.setattr(reading, "_LONGEST_COMMIT", 0.0)
    with pytest.raises(JournalLockedError, match="was stopped while it did"):
        sources(path)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    before = contents(tmp_path)
    assert sources(path) == [f"one{number}" for number in range(50)]
    assert contents(tmp_path) == before


def test_journals_of_older_versions_and_sealed_ones_are_read_as_they_are(tmp_path: Path) -> None:
    old, new = tmp_path / "old.journal", tmp_path / "new.journal"
    shutil.copyfile(OLD, old)
    before = contents(tmp_path)
    assert len(sources(old)) == 3
    assert contents(tmp_path) == before
    with closing(FileEnd(old)) as source, closing(FileEnd(new, create=True)) as target:
        move(source, target, lambda _: source, new_move=lambda: "1")  # type: ignore[arg-type, return-value]
    with FileReader(old) as reader:
        seal = reader.seal()
        assert seal is not None
        assert (seal.place, seal.state, len(sources(old))) == (str(new), "left", 3)


@pytest.mark.parametrize("what", ["missing", "music", "newer", "damaged"])
def test_what_is_no_journal_is_refused_with_its_name(what: str, tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    if what == "music":
        path.write_bytes(b"RIFF" * 1000)
    elif what != "missing":
        shutil.copyfile(OLD, path)
        with closing(JournalStore(path)) as store:
            connection(store).execute("PRAGMA user_version = 99")
        if what == "damaged":
            data = path.read_bytes()
            path.write_bytes(data[:5000] + b"x" * (len(data) - 5000))
    with pytest.raises(JournalError, match=r"a\.journal"):
        sources(path)
