"""The journal's file on its own: a copy, another name, another moment, and it never looks new when it is not."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from aistemsplitter_async import JournalError, Submission
from aistemsplitter_async.journal import file
from aistemsplitter_async.journal.file import MOVED, status_path
from aistemsplitter_async.journal.record import AudioId, State, Variant
from aistemsplitter_async.journal.rows import Sighting
from aistemsplitter_async.journal.schema import MIGRATIONS
from aistemsplitter_async.journal.store import JournalStore
from aistemsplitter_async.models import DirectURL

WORK = """
    import os, signal, sqlite3, sys
    from pathlib import Path
    from aistemsplitter_async import DirectURL, Submission
    from aistemsplitter_async.journal import file
    from aistemsplitter_async.journal.record import AudioId, Variant
    from aistemsplitter_async.journal.rows import Sighting
    from aistemsplitter_async.journal.store import JournalStore

    class WithLog(sqlite3.Connection):  # keeps the newest commits in a write-ahead log
        def execute(self, statement, *values):
            if statement == "PRAGMA journal_mode = PERSIST":
                super().execute("PRAGMA journal_mode = WAL")
                return super().execute("SELECT 'persist'")
            return super().execute(statement, *values)

    if sys.argv[2] == "broken":
        connect = sqlite3.connect
        sqlite3.connect = lambda *args, **kwargs: connect(*args, **kwargs, factory=WithLog)
    store = JournalStore(Path(sys.argv[1]))
    store.begin()
    found = Sighting(audio=AudioId(None, "url:a"), source="a", folder="a", pattern="{stem}",
                     split_input=DirectURL("https://a"))
    track = store.claim(found, Variant(), dedupe=True).record.id
    store.intend(track, Submission("key", b"{}"), 1.0)
    store.commit()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def be_killed(path: Path, *, broken: bool = False) -> None:
    """Let a process begin a journal, note an intent, and be killed."""
    command = [sys.executable, "-c", textwrap.dedent(WORK), str(path), "broken" if broken else "as it is"]
    assert subprocess.run(command, timeout=30, check=False).returncode == -signal.SIGKILL


def states(path: Path) -> list[State]:
    with closing(JournalStore(path)) as store:
        return [record.state for record in store.page(0, 100)]


def intend(store: JournalStore, name: str) -> int:
    url = DirectURL(f"https://example.com/{name}")
    found = Sighting(audio=AudioId(None, name), source=name, folder=name, pattern="{stem}", split_input=url)
    claim = store.claim(found, Variant(), dedupe=True)
    store.intend(claim.record.id, Submission(name, b"{}"), 1.0)
    return claim.record.id


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
@pytest.mark.parametrize("take", [shutil.copy, os.rename])
def test_a_killed_journal_that_is_copied_or_renamed_alone_knows_everything(
    take: Callable[[Path, Path], object], tmp_path: Path
) -> None:
    path, alone = tmp_path / "journal", tmp_path / "alone"
    be_killed(path)
    take(path, alone)
    assert states(alone) == [State.INTENT]


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_with_a_log_beside_it_the_copy_would_be_an_empty_shell_and_is_refused_as_one(tmp_path: Path) -> None:
    path, alone, both = tmp_path / "journal", tmp_path / "alone", tmp_path / "both"
    be_killed(path, broken=True)
    shutil.copy(path, alone)
    shutil.copy(path, both)
    shutil.copy(f"{path}-wal", f"{both}-wal")
    with closing(sqlite3.connect(f"file:{alone}?mode=ro&immutable=1", uri=True)) as shell:
        assert shell.execute("SELECT * FROM sqlite_schema").fetchall() == []  # today's code takes it for new
    with pytest.raises(JournalError, match=r"empty shell.*alone-wal; without it, every split is paid for again"):
        JournalStore(alone)
    assert states(both) == [State.INTENT]
    shutil.copy(f"{path}-wal", f"{alone}-wal")  # the way out that the message names
    assert states(alone) == [State.INTENT]


def make_first_version(path: Path) -> None:
    """The files of a journal of version 1 whose process was killed."""
    live = path.with_name("live")
    with closing(sqlite3.connect(live, isolation_level=None)) as db:
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(
            f"BEGIN; {MIGRATIONS[0]}; PRAGMA application_id = {0x41535350}; PRAGMA user_version = 1; COMMIT"
        )
        db.execute(
            "INSERT INTO tracks (identity, variant, run, source, state, folder, pattern, place, split_id) "
            "VALUES ('a', '/', 1, 'a', 'created', 'a', '{stem}', 'a/{stem}', 'split_1')"
        )
        for suffix in ("", "-wal"):
            shutil.copy(f"{live}{suffix}", f"{path}{suffix}")
    live.unlink()


def make_nothing(_: Path) -> None:
    pass


@pytest.mark.parametrize("make", [make_nothing, make_first_version])
def test_a_kill_at_any_statement_of_opening_leaves_a_journal_that_opens(
    make: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "live" / "journal"
    path.parent.mkdir()
    make(path)
    connect, moments = sqlite3.connect, list[Path]()

    def keep(_: str = "") -> None:  # what a kill leaves: all that was written until then
        moments.append(tmp_path / f"moment {len(moments)}")
        shutil.copytree(path.parent, moments[-1])

    def traced(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        db: sqlite3.Connection = connect(*args, **kwargs)
        db.set_trace_callback(keep)
        return db

    keep()
    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", traced)
        JournalStore(path).close()
    keep()
    assert len(moments) > 15
    known = [State.CREATED] if make is make_first_version else []
    for moment in moments:
        assert states(moment / "journal") == known
        left = sorted(file.name for file in moment.iterdir())
        assert left == ["journal", "journal.lock"]


@pytest.mark.parametrize("take_away", [Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_journal_that_is_gone_or_empty_is_not_begun_again_while_its_status_says_that_it_was(
    take_away: Callable[[Path], object], tmp_path: Path
) -> None:
    path = tmp_path / "journal"
    JournalStore(path).close()
    status_path(path).write_text("{}")
    take_away(path)
    with pytest.raises(JournalError, match=r"every split is paid for again.*delete journal.status.json too"):
        JournalStore(path)
    status_path(path).unlink()
    JournalStore(path).close()


def delete(path: Path) -> None:
    path.unlink()


def move(path: Path) -> None:
    path.rename(path.with_name("moved"))


def replace(path: Path) -> None:
    other = path.with_name("other")
    JournalStore(other).close()
    other.replace(path)


def move_its_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("moved folder"))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows lets nobody do that to an open file")
@pytest.mark.parametrize("happen", [delete, move, replace, move_its_folder])
def test_a_journal_that_is_not_in_its_place_takes_no_intent_and_all_other_news(
    happen: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "folder" / "journal"
    store = JournalStore(path)
    try:
        track = intend(store, "before")
        happen(path)
        with pytest.raises(JournalError, match="no more splits are created") as caught:
            intend(store, "after")
        assert caught.value.code == MOVED
        assert str(path) in str(caught.value)
        store.uncertain(track)
    finally:
        store.close()
    if happen is replace:
        rescued = path.with_name("journal.rescued")
        with pytest.raises(JournalError, match=r"replaced by another file.*journal.rescued"):
            JournalStore(path)
        assert rescued.stat().st_mode & 0o777 == 0o600
        rescued.replace(path.with_name("aside"))
        assert states(path) == []  # what is there now is not touched
        path.with_name("aside").replace(path)  # the way out that the message names
        assert states(path) == [State.UNCERTAIN, State.FOUND]
    else:  # one that is gone is written back
        found = tmp_path / "moved folder" / "journal" if happen is move_its_folder else path
        assert states(found) == [State.UNCERTAIN, State.FOUND]
        assert found.stat().st_mode & 0o777 == 0o600
    assert not list(tmp_path.rglob("*.new"))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows lets nobody do that to an open file")
def test_a_journal_behind_a_link_is_written_back_to_where_the_link_leads(tmp_path: Path) -> None:
    link, path = tmp_path / "link", tmp_path / "disk" / "journal"
    JournalStore(path).close()
    link.symlink_to(path)
    with closing(JournalStore(link)) as store:
        intend(store, "a")
        path.unlink()
        with pytest.raises(JournalError, match="no more splits"):
            intend(store, "b")
    assert link.is_symlink()
    assert states(path) == [State.INTENT, State.FOUND]


def test_a_journal_in_its_place_stays_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with closing(JournalStore(path)) as store:
        intend(store, "a")
        inode = path.stat().st_ino
    assert path.stat().st_ino == inode
    assert file.own_files(path)[0] == path


@pytest.mark.parametrize("name", ["journal", os.fsdecode(b"jour\xffnal")], ids=["text", "not text"])
@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are text there, or open files stay")
def test_a_file_that_has_the_name_of_the_copy_written_back_is_left_alone(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    mine = tmp_path / f"{name}.new"
    for is_there in (False, True):
        store = JournalStore(path)
        if is_there:
            mine.write_text("mine")
        else:
            intend(store, "a")
        path.unlink()
        store.close()
        assert path.exists() is not is_there
    assert mine.read_text() == "mine"


def test_a_commit_of_which_one_page_is_missing_is_damage(tmp_path: Path) -> None:
    """A kill during a commit, after which the journal was copied without its undo file."""
    path = tmp_path / "journal"
    JournalStore(path).close()
    before = path.read_bytes()
    with closing(JournalStore(path)) as store:
        intend(store, "a")
    with closing(sqlite3.connect(path)) as db:
        query = "SELECT rootpage FROM sqlite_schema WHERE name = 'tracks_by_identity'"
        ((page,),), ((size,),) = db.execute(query).fetchall(), db.execute("PRAGMA page_size").fetchall()
    torn = bytearray(path.read_bytes())
    torn[(page - 1) * size : page * size] = before[(page - 1) * size : page * size]
    path.write_bytes(torn)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA quick_check").fetchall() == [("ok",)]  # which does not look into indexes
        assert db.execute("SELECT * FROM tracks WHERE identity = 'a'").fetchall() == []  # so it would be bought again
    with pytest.raises(JournalError, match="is damaged"):
        JournalStore(path)
    assert path.read_bytes() == torn


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_missing_journal_is_not_begun_again_while_its_undo_file_says_that_it_was(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    be_killed(path)
    path.rename(tmp_path / "moved")
    with pytest.raises(JournalError, match=r"is missing.*delete journal-journal too"):
        JournalStore(path)
    (tmp_path / "moved").rename(path)  # the way out that the message names
    assert states(path) == [State.INTENT]
