"""The store in a file: what may be wrong with the file, its folder, and the machine's clock."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path
from typing import Any

import pytest

from aistemsplitter_async._gate.store import StoreUnavailableError
from aistemsplitter_async.shared import SQLiteGateStore
from aistemsplitter_async.shared.boot import is_elsewhere, is_same_boot, read_boot


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "gates.db"


def change(path: Path, statement: str, *values: object) -> None:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute(statement, values)
    db.close()


async def test_folder_and_file_are_the_users_alone(path: Path) -> None:
    old = os.umask(0)
    try:
        async with SQLiteGateStore(path) as store:
            await store.load("key")
            modes = {one.name: stat.S_IMODE(one.stat().st_mode) for one in (path.parent, *path.parent.iterdir())}
    finally:
        os.umask(old)
    assert modes == {"state": 0o700, "gates.db": 0o600, "gates.db-wal": 0o600, "gates.db-shm": 0o600}


async def test_after_a_reboot_the_times_mean_nothing_until_there_is_a_new_text(path: Path) -> None:
    async with SQLiteGateStore(path) as store:
        assert await store.swap("key", 0, "text", 60.0)
        change(path, "UPDATE gates SET boot = 'earlier', written_at = written_at - 3600")
        kept = await store.load("key")
        assert (kept.text, kept.restarted) == ("text", True)
        assert await store.swap("key", kept.version, "new", 60.0)
        kept = await store.load("key")
        assert (kept.text, kept.restarted) == ("new", False)


async def test_a_file_that_another_machine_uses_too_is_refused(path: Path) -> None:
    async with SQLiteGateStore(path) as store:
        assert await store.swap("key", 0, "text", 60.0)
        change(path, "UPDATE gates SET boot = 'of another machine'")
        with pytest.raises(StoreUnavailableError, match="in use by another machine") as caught:
            await store.load("key")
        assert not caught.value.permanent


def test_a_boot_is_known_by_its_id_or_else_by_its_moment() -> None:
    assert is_same_boot(read_boot(), read_boot())
    assert is_same_boot("~1000.0", "~1003.5")  # the clock was corrected
    assert not is_same_boot("~1000.0", "~9000.0")
    assert not is_same_boot("one", "~1000.0")
    assert is_elsewhere("one", "two", age=3.0, uptime=500.0)
    assert not is_elsewhere("one", "two", age=3.0, uptime=2.0)  # this machine has just started
    assert not is_elsewhere("one", "two", age=500.0, uptime=1000.0)
    assert not is_elsewhere("~1000.0", "~9000.0", age=3.0, uptime=500.0)


@pytest.mark.parametrize("folder_too", [False, True])
async def test_a_file_that_is_removed_while_it_is_used_is_made_again(path: Path, folder_too: bool) -> None:
    async with SQLiteGateStore(path) as store, SQLiteGateStore(path) as other:
        assert await store.swap("key", 0, "one", 60.0)
        one = await other.load("key")
        for file in path.parent.iterdir():
            file.unlink()
        if folder_too:
            path.parent.rmdir()
        assert (await store.load("key")).version == 0
        assert await store.swap("key", 0, "two", 60.0)
        assert not await other.swap("key", one.version, "three", 60.0)
        assert (await other.load("key")).text == "two"


async def test_a_file_that_is_replaced_between_the_change_and_its_report_was_not_changed(path: Path) -> None:
    async with SQLiteGateStore(path) as store:
        assert await store.swap("key", 0, "one", 60.0)
        one = await store.load("key")
        database: Any = store._file._db

        class Replaced:
            def execute(self, *arguments: Any) -> Any:
                path.rename(path.with_name("old"))
                return database.execute(*arguments)

            def close(self) -> None:
                database.close()

        store._file._db = Replaced()  # type: ignore[assignment]
        assert not await store.swap("key", one.version, "two", 60.0)
        assert (await store.load("key")).version == 0


@pytest.mark.parametrize("content", [b"not a database, but long enough to be read as one" * 100, None])
async def test_a_file_that_is_something_else_is_left_alone(path: Path, content: bytes | None) -> None:
    path.parent.mkdir()
    if content is None:
        change(path, "CREATE TABLE songs (name TEXT)")
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    async with SQLiteGateStore(path) as store:
        with pytest.raises(StoreUnavailableError, match="is damaged, or something else; remove it") as caught:
            await store.load("key")
    assert caught.value.permanent
    assert path.read_bytes() == before


async def test_a_file_that_is_damaged_while_it_is_used_is_an_error_and_no_new_beginning(path: Path) -> None:
    async with SQLiteGateStore(path) as store:
        assert await store.swap("key", 0, "text" * 1000, 60.0)
        await store.aclose()
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(os.urandom(8192))
        with pytest.raises(StoreUnavailableError, match="is damaged") as caught:
            await store.load("key")
        assert caught.value.permanent


async def test_a_disk_that_is_full_or_refuses_is_an_error_that_passes_with_it(path: Path) -> None:
    async with SQLiteGateStore(path) as store:
        assert await store.swap("key", 0, "text", 60.0)
        one = await store.load("key")
        database: Any = store._file._db
        database.execute("PRAGMA max_page_count = 1")
        with pytest.raises(StoreUnavailableError, match="full"):
            await store.swap("key", one.version, "long" * 10_000, 60.0)
        one = await store.load("key")
        assert one.text == "text"
        database = store._file._db
        database.execute("PRAGMA query_only = ON")  # as on a file system that is read-only now
        with pytest.raises(StoreUnavailableError, match="readonly") as caught:
            await store.swap("key", one.version, "two", 60.0)
        assert caught.value.permanent
        assert await store.swap("key", one.version, "two", 60.0)


async def test_a_folder_that_cannot_be_made_is_named_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    async with SQLiteGateStore(tmp_path / "file" / "state" / "gates.db", way_out="set THE_VARIABLE") as store:
        with pytest.raises(StoreUnavailableError, match="set THE_VARIABLE") as caught:
            await store.load("key")
    assert caught.value.permanent


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="of systems that know owners")
@pytest.mark.parametrize("kind", ["link", "owner"])
async def test_what_somebody_else_put_into_a_folder_for_all_is_not_used(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "tmp"
    folder.mkdir()
    folder.chmod(0o1777)
    path, target = folder / "gates.db", tmp_path / "target"
    if kind == "link":
        path.symlink_to(target)
    elif os.geteuid() == 0:
        path.touch()
        os.chown(path, 12345, 12345)
    else:
        pytest.skip("only root can give a file away")
    async with SQLiteGateStore(path) as store:
        with pytest.raises(StoreUnavailableError, match="somebody else's") as caught:
            await store.load("key")
    assert caught.value.permanent
    assert not target.exists()
    path.unlink()
    async with SQLiteGateStore(path) as store:
        assert (await store.load("key")).version == 0


async def test_a_disk_that_hangs_holds_up_nobody(path: Path) -> None:
    """Neither the event loop, nor its end."""
    store = SQLiteGateStore(path, timeout=30.0)
    await store.load("key")
    store._timeout = 0.01
    with store._file.lock:  # the thread cannot go on, as in a system call that does not return
        with pytest.raises(StoreUnavailableError, match="cannot be read or written within") as caught:
            await store.load("key")
        assert not caught.value.permanent
    store._timeout = 30.0
    assert (await store.load("key")).version == 0
    await store.aclose()
