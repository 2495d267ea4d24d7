"""Helpers for the package's own files: private creation, atomic replacement, plain reasons for failures.

These functions block; a caller on the event loop goes through `_tasks.run_in_thread`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Final

from aistemsplitter_async._logs.loggers import Log

if sys.platform != "win32":
    import fcntl

_log = Log("transfer")
PRIVATE: Final = 0o600
_OTHERS: Final = 0o077
_UNKNOWN: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})
"""What file systems answer to what they have no notion of."""
# A sync of a folder is also refused to a descriptor that only reads, and in Windows there is none. Names are as durable
# as they ever get there; anything else says that they may be lost: EIO, or EROFS, with which ext4 answers once it has
# given up on a disk.
_NO_FOLDER_SYNC: Final = _UNKNOWN | {errno.EACCES, errno.EBADF, errno.EISDIR, errno.EPERM}
_NO_LOCKS: Final = _UNKNOWN | {errno.ENOLCK}
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_TRIAL_BYTES: Final = 64 * 1024  # of a few blocks, which a full disk has not
# What network shares and Windows answer to the rename of a file that a program has open, or over one.
IN_USE: Final = frozenset({errno.EACCES, errno.EBUSY, errno.EPERM, errno.ETXTBSY})
_LOCK_PAUSE: Final = 0.01  # s
_LONGEST_LOCKED: Final = 10.0  # s; a small file is read, written and synced meanwhile
_PAUSES: Final = (0.05, 0.1, 0.25)  # s until another program has read a small file, or has looked for viruses in it


def create_private(path: Path) -> None:
    """Create an empty file that only its owner can read.

    An existing file is not opened: closing it again would drop the locks that other connections of this process hold
    on it (sqlite.org/howtocorrupt.html, 2.2).

    Raises:
        FileExistsError: it exists already.
        OSError: it cannot be created.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, PRIVATE))


def make_private(path: Path) -> bool:
    """Let only the owner read a file, and return whether that is so now: not every file system has such rights.

    Raises:
        OSError: the file cannot be found.
    """
    if sys.platform == "win32":  # who may read a file there, it has from its folder
        return True
    with contextlib.suppress(OSError):
        path.chmod(PRIVATE)
    return not path.stat().st_mode & _OTHERS  # some file systems accept the change, and forget it


def has_locks(path: Path) -> bool:
    """Return whether programs can lock the existing file at `path`, be it locked now or not.

    It must not be open: this process would lose its locks on it.

    Raises:
        OSError: it cannot be opened.
    """
    if sys.platform == "win32":
        return True
    descriptor = os.open(path, os.O_RDWR)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _NO_LOCKS
    finally:
        os.close(descriptor)
    return True


def are_missing_locks(error: OSError) -> bool:
    """Return whether `error`, of an attempt to lock a file, says that files cannot be locked there."""
    return error.errno in _NO_LOCKS


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = False, mode: int = PRIVATE) -> Iterator[IO[str]]:
    """Write text that replaces `path` when the block ends: a reader sees the old file or the new one, never a part.

    If the block raises, the old file stays. A symbolic link at the path of the new file is refused.

    Args:
        path: what to replace; the text is written to `<name>.new` beside it first.
        durable: whether it must survive a power cut once the block has ended.
        mode: who may read a file that is new.

    Raises:
        OSError: the file cannot be written.
    """
    fresh = fresh_path(path)
    with open(fresh, "w", encoding="utf-8", opener=lambda name, flags: open_no_link(name, flags, mode)) as file:
        yield file
        if durable:
            file.flush()
            os.fsync(file.fileno())
    put_over(fresh, path)
    if durable:
        sync_folder(path.parent)


def put_over(fresh: Path, path: Path) -> None:
    """Rename `fresh` to `path`, atomically if the file system replaces files; otherwise the old one is removed first.

    Raises:
        OSError: it cannot be renamed.
    """
    try:
        rename(fresh, path)
    except OSError as error:
        if error.errno not in IN_USE | {errno.EEXIST} or not os.path.lexists(path):
            raise
        path.unlink()
        fresh.replace(path)


def rename(path: Path, target: Path) -> None:
    """Rename a file; if another program has it or `target` open, where that matters, wait for a moment.

    Raises:
        OSError: it cannot be renamed.
    """
    for pause in _PAUSES:
        try:
            path.replace(target)
        except OSError as error:
            if error.errno not in IN_USE:
                raise
            time.sleep(pause)
        else:
            return
    path.replace(target)


def fresh_path(path: Path) -> Path:
    """Return the path that `replacing` writes before it replaces `path`."""
    return path.with_name(f"{path.name}.new")


def open_no_link(path: str | Path, flags: int, mode: int = 0o666) -> int:
    """Open a file, but refuse a symbolic link at its path; an `opener` for `open`."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0), mode)


def make_folder(folder: Path, *, mode: int = 0o777) -> None:
    """Create a folder, and those above it that are missing, so that it survives a power cut once this returns.

    What is synced in a folder is lost with the folder's own name. Each name is synced before anything is made below it,
    and that of `folder` even if it exists: an earlier process may have been killed before it came to that.

    Args:
        folder: to create.
        mode: who may do what in `folder`, if it is new.

    Raises:
        FileExistsError: something else has its name.
        OSError: it cannot be created or synced.
    """
    if not folder.parent.exists():
        make_folder(folder.parent)
    folder.mkdir(mode, exist_ok=True)
    sync_folder(folder)  # on a disk without a journal, its name might lead to what the disk had in its place
    if not os.path.ismount(folder):  # that has its name in another file system, perhaps a read-only one
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut, where the system supports that.

    Raises:
        OSError: it supports that, and failed.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:  # Windows opens no folders; others do not where names may be used but not listed
        if error.errno not in _NO_FOLDER_SYNC:
            raise
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
        _log.warn_once("names in %s may not survive a power cut: its file system does not sync folders", str(folder))
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Let only one at a time, of all processes, run the block for a folder, where folders can be locked.

    One that holds it for long, since it was stopped, is not waited for.
    """
    descriptor = None
    if sys.platform != "win32":
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            _wait_for_lock(descriptor)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _wait_for_lock(descriptor: int) -> None:
    for _ in range(round(_LONGEST_LOCKED / _LOCK_PAUSE)):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOCK_PAUSE)
        else:
            return


def is_read_only(path: Path) -> bool:
    """Return whether the file system at `path` says that nothing can be written to it."""
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except (OSError, AttributeError):  # Windows
        return False


def is_full(folder: Path) -> bool:
    """Return whether the disk of `folder`, or a quota, has no room left, rather than that it fails."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_TRIAL_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno in FULL
    return False


def find_refused_name(folder: Path, *names: str) -> tuple[str, OSError] | None:
    """Return the first of `names` that no file below `folder` can have, and why; nothing of the trial is left.

    Names of ASCII, which `check_name` has passed, every file system takes; they are not tried.

    Raises:
        OSError: nothing can be written there.
    """
    doubtful = [name for name in names if not name.isascii()]
    if not doubtful:
        return None
    with tempfile.TemporaryDirectory(prefix=".names-", dir=folder, ignore_cleanup_errors=True) as trial:
        for name in doubtful:
            try:
                Path(trial, name).mkdir()
            except FileExistsError:  # as the one before
                continue
            except OSError as error:
                Path(trial, "plain").mkdir()  # raises if it is not the name that is refused
                return name, error
    return None


def find_same(path: str | os.PathLike[str], others: Iterable[Path]) -> Path | None:
    """Return which of `others` is the file at `path`, whatever either is called. Nothing is opened."""
    status = _status(path)
    for other in others:
        found = _status(other)
        if status is not None and found is not None and os.path.samestat(status, found):
            return other
        if Path(path).name == other.name and os.path.realpath(path) == os.path.realpath(other):
            return other  # replaced since a moment ago
    return None


def _status(path: str | os.PathLike[str]) -> os.stat_result | None:
    try:
        return os.stat(path)  # noqa: PTH116  # a path may be text or bytes
    except (OSError, ValueError):
        return None


def reason_of(error: OSError | ValueError) -> str:
    """Return the system's own text of the error, without the path."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, UnicodeEncodeError):
        lost = error.object[error.start : error.end]
        way = "" if error.encoding == "utf-8" else "; with PYTHONUTF8=1 in the environment they are UTF-8"
        return f"file names are {error.encoding} in this process, which has no {lost!a}{way}"
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
