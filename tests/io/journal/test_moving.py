"""A journal that is moved between files: whatever kills the move, it is at one place, whole, and nowhere else."""

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

import pytest

from aistemsplitter_async import JournalError, JournalLockedError
from aistemsplitter_async.journal import file, moving
from aistemsplitter_async.journal.file_end import FileEnd
from aistemsplitter_async.journal.moving import TABLES, Moved, Row, Rows, move, stay
from aistemsplitter_async.journal.seal import SEALED
from aistemsplitter_async.journal.store import JournalStore

OLD = Path(__file__).parents[2] / "samples" / "old.journal"
Content = dict[str, list[tuple[Any, ...]]]


@contextmanager
def opened(place: str | Path) -> Iterator[FileEnd]:
    with closing(FileEnd(Path(place))) as end:
        yield end


def carry(source: Path, target: Path) -> Moved:
    with opened(source) as giving, closing(FileEnd(target, create=True)) as taking:
        return move(giving, taking, opened, new_move=lambda: uuid4().hex)


def content(path: Path) -> Content:
    """Return everything in a journal, without the notes of moves; no run begins on it."""
    with closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as db:
        held = {
            table: sorted(db.execute(f"SELECT {', '.join(names)} FROM {table}"), key=repr)  # noqa: S608  # ours
            for table, names in TABLES.items()
        }
    return held | {"meta": [row for row in held["meta"] if row[0] not in ("sealed", "moves")]}


def is_live(path: Path, folder: Path) -> bool:
    """Return whether a run would go on with it, which is tried on a copy."""
    if not path.exists():
        return False
    copy = folder / "copy.journal"
    for suffix in ("", "-journal"):
        Path(f"{copy}{suffix}").unlink(missing_ok=True)
        if Path(f"{path}{suffix}").exists():
            shutil.copyfile(f"{path}{suffix}", f"{copy}{suffix}")
    try:
        with closing(JournalStore(copy)) as store:
            return bool(store.page(0, 1))
    except JournalError as error:
        if error.code != SEALED:
            raise
        return False


class Deadly(sqlite3.Connection):
    """Kills its process before one of the statements that change something, or one of the rows."""

    left = 0

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        if not statement.startswith(("SELECT", "PRAGMA", "CREATE")):  # what changes nothing, or is rolled back
            self._live()
        return super().execute(statement, *values)

    def executemany(self, statement: str, rows: Any) -> sqlite3.Cursor:
        return super().executemany(statement, map(self._passed, rows))

    def _passed(self, row: Any) -> Any:
        self._live()
        return row

    @classmethod
    def _live(cls) -> None:
        cls.left -= 1
        if not cls.left:
            os.kill(os.getpid(), signal.SIGKILL)


def killed_at(statement: int, work: Callable[[], object]) -> bool:
    """Do the work in a process that is killed at its n-th statement; return whether it got so far."""
    pid = os.fork()
    if not pid:
        connect = sqlite3.connect
        Deadly.left = statement
        file.sqlite3.connect = lambda *args, **options: connect(*args, **options, factory=Deadly)  # type: ignore[attr-defined]
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


@pytest.mark.skipif(sys.platform == "win32", reason="fork")
def test_a_move_killed_at_any_statement_has_not_begun_or_is_finished_by_the_same_move(tmp_path: Path) -> None:
    source, target = tmp_path / "a.journal", tmp_path / "b.journal"
    shutil.copyfile(OLD, source)
    with opened(source):  # migrates it
        pass
    start, whole = source.read_bytes(), content(source)
    seen = set[tuple[bool, bool]]()
    for statement in count(1):
        source.write_bytes(start)
        target.unlink(missing_ok=True)
        was_killed = killed_at(statement, lambda: carry(source, target))
        seen.add(alive := (is_live(source, tmp_path), is_live(target, tmp_path)))
        assert alive != (True, True)
        carry(source, target)
        assert content(target) == whole
        assert (is_live(source, tmp_path), is_live(target, tmp_path)) == (False, True)
        if not was_killed:
            break
    assert seen == {(True, False), (False, False), (False, True)}  # of which the middle one is the dangerous


def test_a_sealed_journal_is_refused_with_its_new_place_and_can_be_taken_back(tmp_path: Path) -> None:
    source, target = tmp_path / "a b.journal", tmp_path / "b.journal"
    shutil.copyfile(OLD, source)
    moved = carry(source, target)
    assert (moved.already, moved.counts["tracks"]) == (False, 3)
    held = source.read_bytes()
    with pytest.raises(JournalError, match=f"{source} was moved to {target}: use that") as refused:
        JournalStore(source)
    assert (refused.value.code, source.read_bytes()) == (SEALED, held)
    assert carry(source, target).already
    with closing(JournalStore(target)) as store:
        store.begin()
        store.set_note("work", "at the new place")
        store.commit()
    whole = content(target)
    carry(target, source)
    assert content(source) == whole
    carry(source, target)
    assert content(target) == whole
    assert carry(source, target).already


def test_a_version_without_seals_refuses_a_sealed_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "a.journal"
    shutil.copyfile(OLD, source)
    carry(source, tmp_path / "b.journal")
    monkeypatch.setattr(file, "SEALED_VERSIONS", 10**9)  # its check, before there were seals
    with pytest.raises(JournalError, match="newer version"):
        JournalStore(source)


def test_nothing_is_moved_from_a_running_batch_or_over_other_songs_or_from_nowhere(tmp_path: Path) -> None:
    source, target, third = tmp_path / "a.journal", tmp_path / "b.journal", tmp_path / "c.journal"
    shutil.copyfile(OLD, source)
    shutil.copyfile(OLD, third)
    with closing(JournalStore(source)), pytest.raises(JournalLockedError, match="another batch is running"):
        carry(source, target)
    assert not target.exists()
    with pytest.raises(JournalError, match="songs of its own"):
        carry(source, third)
    with pytest.raises(JournalError, match="there is no journal"):
        carry(tmp_path / "typo", target)
    (tmp_path / "empty").touch()
    with pytest.raises(JournalError, match="knows no songs"):
        carry(tmp_path / "empty", target)
    assert not [file.name for file in tmp_path.iterdir() if file.name.startswith("b.journal")]
    with closing(JournalStore(source)) as store:
        assert len(store.page(0, 10)) == 3
    assert not (tmp_path / "typo").exists()


def begin(source: Path, target: Path) -> None:
    """Begin a move that is interrupted after both journals were sealed."""
    with opened(source) as giving, closing(FileEnd(target, create=True)) as taking, pytest.raises(ZeroDivisionError):
        move(giving, taking, opened, new_move=lambda: "1", on_rows=lambda _: 1 // 0)


def test_an_interrupted_move_can_be_given_up_or_go_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target, third = tmp_path / "a.journal", tmp_path / "b.journal", tmp_path / "c.journal"
    shutil.copyfile(OLD, source)
    monkeypatch.setattr(moving, "_STEP", 1)
    begin(source, target)
    for path, what in [(source, "is being moved to"), (target, "awaits what is moved from")]:
        with pytest.raises(JournalError, match=f"{what}.*interrupted.* journal move {source} {target}"):
            JournalStore(path)
    with opened(target) as end, pytest.raises(JournalError, match="awaits"):  # the source still sends its rows there
        stay(end, opened)
    carry(source, third)
    with opened(target) as end:
        assert stay(end, opened)
    begin(third, target)
    with opened(third) as end:
        assert stay(end, opened)
        assert not stay(end, opened)
    assert (is_live(third, tmp_path), is_live(target, tmp_path)) == (True, False)
    carry(third, target)
    with opened(third) as end, pytest.raises(JournalError, match="was moved to"):
        stay(end, opened)


def test_what_a_database_did_not_keep_as_it_was_is_not_moved(tmp_path: Path) -> None:
    class Lossy(FileEnd):
        def receive(self, rows: Rows, check: Callable[[Rows], None]) -> None:
            def cut() -> Iterator[Row]:
                for row in rows["tracks"]():
                    yield (*row[:-1], None)

            super().receive({**rows, "tracks": cut}, check)

    source, target = tmp_path / "a.journal", tmp_path / "b.journal"
    shutil.copyfile(OLD, source)
    with (
        opened(source) as giving,
        closing(Lossy(target, create=True)) as taking,
        pytest.raises(JournalError, match="did not keep"),
    ):
        move(giving, taking, opened, new_move=lambda: "1")
    assert not is_live(target, tmp_path)
    carry(source, target)
    assert is_live(target, tmp_path)
