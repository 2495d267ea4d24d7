"""A journal has one owner: whoever opens it in whatever process and under whatever name, one of them is refused."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import filelock
import pytest
from filelock import FileLock

from aistemsplitter_async import JournalError, JournalLockedError
from aistemsplitter_async.journal import lock
from aistemsplitter_async.journal.lock import is_locked, lock_path
from aistemsplitter_async.journal.store import JournalStore

OWNER = """
    import os, sys
    from pathlib import Path
    from aistemsplitter_async.journal import file
    from aistemsplitter_async.journal.store import JournalStore

    class NoLock:
        def __init__(self, journal): pass
        def release(self): pass
        discard = release

    path, broken = Path(sys.argv[1]), sys.argv[2] == "broken"
    if broken:  # SQLite's own lock decides alone
        file.JournalLock = NoLock
    store = JournalStore(path)
    store.begin()
    store.set_note("owner", "first")
    store.commit()
    {act}
    print("ready", flush=True)
    sys.stdin.readline()
    store.close()
"""
READ = "path.read_bytes()"
FORK = """
    pid = os.fork()
    if not pid:
        sys.exit()  # with everything that the interpreter does at its end
    os.waitpid(pid, 0)
"""
LEAVE_CHILD = """
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        import time
        os.write(writing, b"x")
        time.sleep(600)
    os.read(reading, 1)
    print(pid, flush=True)
"""


@contextmanager
def owning(path: Path, act: str = "", *, broken: bool = False) -> Iterator[subprocess.Popen[str]]:
    """A process that has the journal open, and has done `act` since."""
    script = textwrap.dedent(OWNER.replace("{act}", "ACT")).replace("ACT", textwrap.dedent(act).strip())
    command = [sys.executable, "-W", "ignore", "-c", script, str(path), "broken" if broken else "as it is"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_until_ready(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    said = list(iter(lambda: process.stdout.readline().strip(), "ready"))  # type: ignore[union-attr]
    assert "" not in said
    return said


def is_refused(path: Path) -> bool:
    try:
        JournalStore(path).close()
    except JournalLockedError:
        return True
    return False


@pytest.mark.parametrize("act", ["pass", READ], ids=["left alone", "read by its own process"])
@pytest.mark.parametrize("broken", [False, True], ids=["lock file", "SQLite's lock alone"])
def test_a_second_process_is_refused_even_if_the_first_one_reads_its_journal(
    act: str, broken: bool, tmp_path: Path
) -> None:
    path = tmp_path / "journal"
    with owning(path, act, broken=broken) as first:
        wait_until_ready(first)
        given_away = broken and act == READ and sys.platform != "win32"
        assert is_refused(path) is not given_away
        assert is_locked(path) is not broken


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_that_ends_takes_no_lock_with_it(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with owning(path, FORK) as first:
        wait_until_ready(first)
        path.read_bytes()
        assert is_locked(path)
        assert is_refused(path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_that_outlives_the_owner_does_not_own_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with owning(path, LEAVE_CHILD) as first:
        (child,) = wait_until_ready(first)
        first.kill()
        first.wait()
        try:
            assert not is_locked(path)
            assert not is_refused(path)
        finally:
            os.kill(int(child), signal.SIGTERM)


def test_a_killed_owner_leaves_the_journal_to_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with owning(path) as first:
        wait_until_ready(first)
        first.kill()
        first.wait()
        assert lock_path(path).exists()
        assert not is_locked(path)
        with closing(JournalStore(path)) as store:
            assert store.note("owner") == "first"


def test_a_lock_file_that_is_deleted_while_a_batch_runs_lets_nobody_in(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with owning(path) as first:
        wait_until_ready(first)
        lock_path(path).unlink()
        assert is_refused(path)


def test_a_version_that_knows_no_lock_file_is_kept_out_and_keeps_out(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with owning(path, broken=True) as first:  # takes SQLite's lock alone
        wait_until_ready(first)
        assert is_refused(path)
    JournalStore(path).close()
    with owning(path) as first, closing(sqlite3.connect(path, timeout=0)) as older:
        wait_until_ready(first)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            older.execute("SELECT * FROM meta")


@pytest.mark.parametrize("spell", ["relative", "dots", "link", "link to its folder"])
def test_another_spelling_is_the_same_journal(spell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    path = folder / "journal"
    other = {
        "relative": Path("journal"),
        "dots": folder / ".." / "folder" / "journal",
        "link": tmp_path / "link",
        "link to its folder": tmp_path / "folder link" / "journal",
    }[spell]
    (tmp_path / "link").symlink_to(path)
    (tmp_path / "folder link").symlink_to(folder)
    with closing(JournalStore(path)):
        assert is_refused(other)
        assert is_locked(other)
    JournalStore(other).close()
    assert sorted(file.name for file in folder.iterdir()) == ["journal", "journal.lock"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["folder", "folder link", "link"]


def test_a_journal_with_two_names_is_refused(tmp_path: Path) -> None:
    path, other = tmp_path / "journal", tmp_path / "other"
    JournalStore(path).close()
    other.hardlink_to(path)
    for name in (path, other):
        with pytest.raises(JournalError, match="hard links"):
            JournalStore(name)
    path.unlink()
    JournalStore(other).close()


def test_a_link_that_leads_nowhere_is_no_new_journal(tmp_path: Path) -> None:
    link = tmp_path / "journal"
    link.symlink_to(tmp_path / "unmounted" / "journal")
    with pytest.raises(JournalError, match="does not exist"):
        JournalStore(link)


@pytest.mark.parametrize("make", [lambda path: path.write_text("mine"), lambda path: path.mkdir()])
def test_a_file_that_has_the_name_of_the_lock_file_keeps_its_content(
    make: Callable[[Path], object], tmp_path: Path
) -> None:
    path = tmp_path / "journal"
    make(lock_path(path))
    with pytest.raises(JournalError, match="is something else"):
        JournalStore(path)
    assert lock_path(path).is_dir() or lock_path(path).read_text() == "mine"
    assert is_locked(path) is None


def test_a_link_with_the_name_of_the_lock_file_is_not_followed(tmp_path: Path) -> None:
    path, mine = tmp_path / "journal", tmp_path / "mine"
    lock_path(path).symlink_to(mine)
    with pytest.raises(JournalError, match="is something else"):
        JournalStore(path)
    assert not mine.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="flock")
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_where_nothing_can_be_locked_the_journal_is_refused(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))  # what such a file system answers cannot be had without one

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(JournalError, match="put journal on a local disk"):
        JournalStore(tmp_path / "journal")


def test_a_lock_that_is_only_a_file_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "FileLock", filelock.SoftFileLock)
    with pytest.raises(JournalError, match="cannot be locked"):
        JournalStore(tmp_path / "journal")


def test_asking_whether_it_is_locked_makes_no_file(tmp_path: Path) -> None:
    assert is_locked(tmp_path / "journal") is False
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_no_lock_file_can_have_is_refused_and_asking_raises_nothing(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 252)  # a name of 255 bytes is the longest
    assert is_locked(path) is None
    with pytest.raises(JournalError, match="too long"):
        JournalStore(path)


def test_a_lock_file_that_another_process_made_meanwhile_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its name, a third process would make another one, and the journal would have two owners."""

    def create(path: Path) -> None:
        path.touch()  # by the other process
        raise FileExistsError

    def acquire(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(lock, "create_private", create)
    monkeypatch.setattr(FileLock, "acquire", acquire)
    with pytest.raises(JournalError, match="too many open files"):
        lock.JournalLock(tmp_path / "journal")
    assert (tmp_path / "journal.lock").exists()
