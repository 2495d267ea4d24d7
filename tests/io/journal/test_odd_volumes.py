"""Volumes that know less than a local disk: each refusal is made where such a file system makes it."""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import stat
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from aistemsplitter_async import JournalError, JournalLockedError
from aistemsplitter_async._files import make_folder, put_over, reason_of, sync_folder
from aistemsplitter_async._transfer.manifest import Manifest
from aistemsplitter_async._transfer.names import ANY_STEM
from aistemsplitter_async._transfer.partfile import NAME_REFUSED, PartFile, part_path
from aistemsplitter_async._transfer.target import check_target, prepare_folder
from aistemsplitter_async.cli.failures import Context, explain
from aistemsplitter_async.errors import DownloadError
from aistemsplitter_async.journal.file import UNUSABLE, explain as explain_sqlite
from aistemsplitter_async.journal.journal import Journal
from aistemsplitter_async.journal.lock import NO_LOCKS
from aistemsplitter_async.journal.store import JournalStore
from aistemsplitter_async.webhooks import SQLiteInbox

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="file systems of POSIX")


def refusing(number: int, real: Any = None, *, when: Callable[[str], bool] = lambda _: True) -> Callable[..., Any]:
    """What answers like `real` except for paths that `when` holds for, which are refused with `number`."""

    def call(path: Any, *args: Any, **kwargs: Any) -> Any:
        if when(str(path)):
            raise OSError(number, os.strerror(number), str(path))
        return real(path, *args, **kwargs)

    return call


def named(*names: str) -> Callable[[str], bool]:
    return lambda path: Path(path).name in names


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, 0])
def test_where_files_cannot_be_private_the_journal_is_used_and_the_folder_named_once(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "journal"
    path.touch(0o644)  # as on FAT, whatever is asked for
    forget: Callable[..., None] = lambda *_, **__: None  # noqa: E731  # exFAT accepts it, and changes nothing
    for name in ("chmod", "fchmod"):
        monkeypatch.setattr(os, name, refusing(number) if number else forget)
    with caplog.at_level(logging.WARNING), closing(JournalStore(path)) as store:
        store.set_note("kept", "yes")
    assert [str(tmp_path) in message for message in caplog.messages] == [True]
    with closing(JournalStore(path)) as store:
        assert store.note("kept") == "yes"


def test_a_journal_that_can_be_private_is_so_and_nothing_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (path := tmp_path / "journal").touch(0o644)
    with caplog.at_level(logging.WARNING), closing(JournalStore(path)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(Path(f"{path}.lock").stat().st_mode) == 0o600
    assert caplog.messages == []


BROKEN = {
    "its folder cannot be made": ("mkdir", errno.EROFS, named("folder")),
    "its folder cannot be synced": ("fsync", errno.EIO, lambda _: True),
    "it cannot be created": ("open", errno.EDQUOT, named("journal")),
    "nor its lock": ("open", errno.EROFS, named("journal.lock")),
    "it is stale": ("stat", errno.ESTALE, named("journal")),
    "its folder is not to be searched": ("stat", errno.EACCES, named("journal.status.json")),
}


@pytest.mark.parametrize(("name", "number", "when"), BROKEN.values(), ids=BROKEN.keys())
async def test_whatever_the_file_system_refuses_is_one_line_about_the_journal(
    name: str, number: int, when: Callable[[str], bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "folder" / "journal"
    with monkeypatch.context() as patched:
        patched.setattr(os, name, refusing(number, getattr(os, name), when=when))
        with pytest.raises(JournalError) as caught:
            await Journal.open(path, owner={})
    error = caught.value
    assert str(path) in str(error)
    assert os.strerror(number) in str(error)
    shown = explain(error, Context(is_batch=True)).message
    assert "\n" not in shown
    assert "bug" not in shown
    await (await Journal.open(path, owner={})).aclose()  # it is used once the file system lets us


async def test_so_is_what_it_refuses_later(tmp_path: Path) -> None:
    journal = await Journal.open(tmp_path / "journal", owner={})

    def change(_: JournalStore) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    with pytest.raises(JournalError, match=f"journal: {os.strerror(errno.ESTALE)}") as caught:
        await journal.write(change)
    assert caught.value.code == UNUSABLE
    await journal.aclose()


def test_posix_locks_that_do_not_exist_are_no_other_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal"
    JournalStore(path).close()
    problem: JournalError | None = None
    for number, code in ((errno.EAGAIN, "LOCKED"), (errno.ENOLCK, NO_LOCKS)):
        with closing(sqlite3.connect(path, isolation_level=None)) as other:  # to SQLite, ENOLCK looks like this
            other.execute("BEGIN EXCLUSIVE")
            monkeypatch.setattr("fcntl.lockf", refusing(number))
            with pytest.raises(JournalError) as caught:
                JournalStore(path)
        problem = caught.value
        assert problem.code == code
        assert isinstance(problem, JournalLockedError) == (code == "LOCKED")
    assert problem is not None
    assert "--journal" in explain(problem, Context()).message


def test_a_disk_that_fails_is_not_taken_for_a_full_one_nor_for_one_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch waits until there is room; a disk that has failed once is not to be trusted again."""
    failing = sqlite3.OperationalError()
    for name in ("SQLITE_IOERR_LOCK", "SQLITE_IOERR_FSYNC", "SQLITE_IOERR_WRITE"):
        failing.sqlite_errorname = name
        for number, code in ((errno.EIO, UNUSABLE), (errno.EROFS, UNUSABLE), (errno.EDQUOT, "DISK")):
            monkeypatch.setattr(os, "fsync", refusing(number))
            assert explain_sqlite(failing, tmp_path / "journal").code == code


def test_a_part_that_is_locked_elsewhere_is_left_alone_and_one_that_cannot_be_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = part_path(tmp_path, "vocals")
    monkeypatch.setattr("fcntl.flock", refusing(errno.EACCES))  # as network shares say it
    with pytest.raises(DownloadError, match="another process"):
        PartFile(path)
    monkeypatch.setattr("fcntl.flock", refusing(errno.ENOLCK))
    PartFile(path).close()


def test_a_kill_between_removing_and_renaming_leaves_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Manifest(tmp_path, "split_1").save()
    with monkeypatch.context() as patched:
        renames = Renames(patched, over_any=True)

        def remove(path: str) -> None:
            Path(path).rename(tmp_path / "removed")
            renames.fail(errno.EIO)

        patched.setattr(os, "unlink", remove)
        with pytest.raises(DownloadError):
            Manifest(tmp_path, "split_2").save()
    assert not (tmp_path / ".stems.json").exists()
    found = Manifest.load(tmp_path)
    assert found is not None
    assert found.split_id == "split_2"
    found.save()
    assert {path.name for path in tmp_path.iterdir()} == {".stems.json", "removed"}


@pytest.mark.parametrize("name", ["\ud800", "a\0b"])
def test_a_path_that_is_none_is_refused_before_anything_is_bought(name: str, tmp_path: Path) -> None:
    """So is what a process whose file names are not UTF-8 cannot encode."""
    with pytest.raises(JournalError) as unusable:
        JournalStore(tmp_path / name)
    assert unusable.value.code == UNUSABLE
    with pytest.raises(DownloadError) as refused:
        check_target(tmp_path / name, False, ANY_STEM)
    assert refused.value.code == NAME_REFUSED
    with pytest.raises(DownloadError):
        check_target(tmp_path, False, f"{name} {ANY_STEM}")
    with pytest.raises(DownloadError):  # a stem of the server's choice
        PartFile(part_path(tmp_path, name))
    assert list(tmp_path.iterdir()) == []


def test_what_the_process_cannot_encode_is_told_with_the_way_out() -> None:
    with pytest.raises(UnicodeEncodeError) as caught:
        "Björk".encode("ascii")
    assert "PYTHONUTF8=1" in reason_of(caught.value)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EPERM, errno.EACCES])
@pytest.mark.parametrize("call", ["open", "fsync"])
def test_a_folder_that_cannot_be_synced_is_as_durable_as_it_gets(
    number: int, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, call, refusing(number))
    sync_folder(tmp_path)
    for failed in (errno.EIO, errno.EROFS, errno.ENOSPC):  # the second from ext4 that has given up on its disk
        monkeypatch.setattr(os, call, refusing(failed))
        with pytest.raises(OSError, match=os.strerror(failed)):
            sync_folder(tmp_path)


def test_the_name_of_a_mount_point_is_not_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr("aistemsplitter_async._files.sync_folder", synced.append)
    make_folder(tmp_path / "mounted")
    monkeypatch.setattr(os.path, "ismount", lambda path: path == tmp_path / "mounted")
    make_folder(tmp_path / "mounted")
    assert synced == [tmp_path / "mounted", tmp_path, tmp_path / "mounted"]


class Renames:
    """Refuses the first renames; the times slept between them are kept."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *numbers: int, over_any: bool = False) -> None:
        self.slept: list[float] = []
        self._numbers, self._over_any, self._real = list(numbers), over_any, os.replace
        monkeypatch.setattr("time.sleep", self.slept.append)
        monkeypatch.setattr(os, "replace", self)
        monkeypatch.setattr(os, "link", refusing(errno.EPERM))

    def fail(self, *numbers: int) -> None:
        """Refuse the next renames, whatever is there."""
        self._numbers, self._over_any = list(numbers), False

    def __call__(self, source: Any, target: Any) -> None:
        number = errno.EEXIST if self._over_any and Path(target).exists() else (self._numbers or [0]).pop(0)
        if number:
            raise OSError(number, os.strerror(number))
        self._real(source, target)


@pytest.mark.parametrize(
    ("numbers", "over_any", "slept"),
    [((), False, 0), ((errno.EBUSY, errno.ETXTBSY), False, 2), ((errno.EACCES,) * 4, False, 3), ((), True, 0)],
)
def test_a_file_that_is_open_or_cannot_be_replaced_is_replaced_nonetheless(
    numbers: tuple[int, ...], over_any: bool, slept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("old")
    new.write_text("new")
    renames = Renames(monkeypatch, *numbers, over_any=over_any)
    put_over(new, old)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("old", "new")]
    assert len(renames.slept) == slept


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_what_cannot_be_renamed_leaves_the_old_file(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("old")
    new.write_text("new")
    Renames(monkeypatch, *[number] * 9)
    monkeypatch.setattr(os, "unlink", refusing(number))
    with pytest.raises(OSError, match=os.strerror(number)):
        put_over(new, old)
    assert old.read_text() == "old"


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("number", [errno.EBUSY, errno.ETXTBSY, errno.EACCES])
def test_without_hard_links_a_part_that_must_not_be_open_is_published(
    number: int, overwrite: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As over SMB: nothing that a program has open gets another name."""
    replace, close, first = os.replace, os.close, True

    def rename(source: Any, target: Any) -> None:
        nonlocal first
        if part._descriptor >= 0 or first:
            first = part._descriptor >= 0  # another program has it for a moment, too
            raise OSError(number, os.strerror(number))
        replace(source, target)

    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr(os, "link", refusing(errno.EPERM))
    monkeypatch.setattr(os, "replace", rename)
    part = PartFile(path := part_path(tmp_path, "vocals"))
    part.write(b"12345")
    part.publish(tmp_path / "vocals.wav", overwrite=overwrite)
    part.close()
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("vocals.wav", b"12345")]
    part, first = PartFile(path := part_path(tmp_path, "drums")), True
    part.write(b"12345")
    monkeypatch.setattr(os, "close", lambda number: (close(number), path.write_bytes(b"1")))  # another process takes it
    with pytest.raises(DownloadError, match=os.strerror(number)):
        part.publish(tmp_path / "drums.wav", overwrite=overwrite)
    monkeypatch.undo()
    assert not (tmp_path / "drums.wav").exists()


def test_a_part_whose_old_name_stays_while_it_is_open_loses_it_when_it_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = PartFile(path := part_path(tmp_path, "vocals"))
    part.write(b"12345")
    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", refusing(errno.EBUSY))
        part.publish(tmp_path / "vocals.wav", overwrite=False)
        assert path.exists()
    part.close()
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("vocals.wav", b"12345")]


def test_a_part_that_is_synced_may_be_closed_with_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = PartFile(part_path(tmp_path, "vocals"))
    close = os.close
    with monkeypatch.context() as patched:
        patched.setattr(os, "close", lambda number: (close(number), refusing(errno.EDQUOT)(number)))
        part.close()


def test_a_part_that_outgrows_the_file_system_is_a_plain_error_and_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = PartFile(part_path(tmp_path, "vocals"))
    monkeypatch.setattr(os, "write", refusing(errno.EFBIG))
    with pytest.raises(DownloadError, match=os.strerror(errno.EFBIG)):
        part.write(b"12345")
    part.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EILSEQ, errno.ENAMETOOLONG, errno.ENOENT])
def test_a_name_that_the_volume_refuses_is_found_before_anything_is_bought(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = os.mkdir
    monkeypatch.setattr(os, "mkdir", refusing(number, mkdir, when=lambda path: not Path(path).name.isascii()))
    for folder, pattern in ((tmp_path / "A" / "曲", ANY_STEM), (tmp_path / "A" / "b", f"曲 {ANY_STEM}")):
        with pytest.raises(DownloadError, match="曲") as caught:
            check_target(folder, False, pattern)
        assert caught.value.code == NAME_REFUSED
        assert "--template" in explain(caught.value, Context(is_batch=True)).message
    check_target(tmp_path / "A" / "b", False, ANY_STEM)
    monkeypatch.setattr(os, "mkdir", mkdir)
    check_target(tmp_path / "曲" / "曲", False, ANY_STEM)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_refuses_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "mkdir", refusing(errno.ENOSPC))
    with pytest.raises(DownloadError, match=os.strerror(errno.ENOSPC)) as caught:
        check_target(tmp_path / "曲", False, ANY_STEM)
    assert caught.value.code == "DISK"


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES])
def test_a_stems_folder_that_cannot_be_looked_at_is_a_download_error(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "stat", refusing(number, os.stat, when=named("stems")))
    monkeypatch.setattr(os, "lstat", refusing(number, os.lstat, when=named("stems")))
    monkeypatch.setattr(os, "mkdir", refusing(number))
    for work in (
        lambda: prepare_folder(tmp_path / "stems" / "song", "split_1", {}, overwrite=False),
        lambda: check_target(tmp_path / "stems", False, ANY_STEM),
    ):
        with pytest.raises(DownloadError):
            work()


async def test_an_inbox_where_no_memory_is_shared_needs_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mode() -> str:
        with closing(sqlite3.connect(tmp_path / "inbox")) as db:
            return str(db.execute("PRAGMA journal_mode").fetchone()[0])

    monkeypatch.setattr("mmap.mmap", refusing(errno.ENODEV))
    async with SQLiteInbox(tmp_path / "inbox"):
        assert mode() == "delete"
    monkeypatch.undo()
    async with SQLiteInbox(tmp_path / "inbox"):
        assert mode() == "wal"
