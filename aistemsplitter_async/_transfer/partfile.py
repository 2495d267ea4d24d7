"""An unfinished stem: written to a part file next to its final name, and renamed once it is complete.

Everything here blocks, and is called in a thread.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path

from aistemsplitter_async._files import IN_USE, open_no_link, put_over, reason_of, rename, sync_folder
from aistemsplitter_async._logs.loggers import Log
from aistemsplitter_async.config import DISK_ROOM_BYTES
from aistemsplitter_async.errors import DownloadError

if sys.platform != "win32":
    import fcntl

EXISTS = "EXISTS"  # the code of the error that says that a file would have been overwritten
NAME_REFUSED = "NAME_REFUSED"  # the code of the error that says that a file system does not take a name
WRITTEN_ELSEWHERE = "IN_USE"  # of the one that says that another process is writing a stem, or has just finished it
_log = Log("transfer")
_LOCKED = frozenset({errno.EAGAIN, errno.EACCES})  # the second from some network shares


def part_path(folder: Path, name: str) -> Path:
    """Return the path of a stem's unfinished bytes; `name` has passed `check_name`."""
    return folder / f".{name}.part"


def status_of(path: Path) -> os.stat_result | None:
    """Return the status of `path` itself, links not followed, or `None` if it cannot be read."""
    try:
        return path.lstat()
    except OSError:
        return None


def is_superseded(part: Path, target: Path, *, durable: bool) -> bool:
    """Return whether a part is of no use beside `target`, which is as long as its stem: it is the same, or shorter.

    A process begins such a part that looked for the stem before another one finished it. What is as long, and differs,
    may be the stem, and `target` a file of the user's.

    Args:
        part: not the same file as `target`.
        target: of the stem.
        durable: whether all of the stem is known to be durable, and so cannot be in a shorter part.

    Raises:
        OSError: one of them cannot be read.
    """
    with target.open("rb") as whole, open(part, "rb", opener=open_no_link) as begun:
        left, right = os.fstat(begun.fileno()).st_size, os.fstat(whole.fileno()).st_size
        return (durable and left < right) or (left == right and _digest(begun) == _digest(whole))


def remove_left(part: Path) -> None:
    """Remove a part, unless another process is writing it.

    Raises:
        OSError: it cannot be removed.
    """
    try:
        descriptor = open_no_link(part, os.O_RDWR)
    except FileNotFoundError:
        return
    try:
        if _lock(descriptor, part.parent):
            part.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _digest(file: BufferedReader) -> bytes:
    return hashlib.file_digest(file, "sha256").digest()


class PartFile:
    """An open part, locked against other processes.

    What was written but not synced may be lost in a power cut, or become zeros, though the file keeps its length. So of
    an earlier process's bytes only those are kept that are known to be durable. If the disk refuses anything, the part
    is removed: after a failed sync a second one may succeed although the bytes are gone (Rebello et al., "Can
    Applications Recover from fsync Failures?", 2020), and on a full disk its room is needed.

    Attributes:
        path: where it is.
        size: how many of its bytes are good: the durable ones that it was opened with, and what was written since.
        broken: whether it was removed; nothing of it is good.
    """

    def __init__(self, path: Path, *, durable: int = 0) -> None:
        """Open the part or create it.

        Args:
            path: where it is.
            durable: how many of its first bytes are known to be durable. If it has fewer, none is kept.

        Raises:
            DownloadError: it is a link or not a regular file, or another process is writing it.
        """
        self.path = path
        self.size: int = 0
        self.broken: bool = False
        self._is_name_synced = False
        self._is_left = False  # published, with its old name too
        with as_download_error(path):
            if (found := status_of(path)) is not None and found.st_nlink > 1 and stat.S_ISREG(found.st_mode):
                path.unlink()  # it shares its bytes with another file, which must not change too
            self._descriptor = open_no_link(path, os.O_RDWR | os.O_CREAT)
        try:
            self.size = self._keep(durable)
        except BaseException:
            os.close(self._descriptor)
            raise

    def _keep(self, durable: int) -> int:
        opened = os.fstat(self._descriptor)
        problem: str | None = None
        code: str | None = WRITTEN_ELSEWHERE
        if not stat.S_ISREG(opened.st_mode):
            problem, code = f"{self.path} is not a regular file", None
        elif not _lock(self._descriptor, self.path.parent):
            problem = f"another process is downloading {self.path}"
        elif not self._is_in_place():
            problem = f"another process has just finished {self.path}"  # the opened file has its final name now
        if problem:
            raise DownloadError(problem, code=code)
        if opened.st_size < durable:
            return 0
        with as_download_error(self.path):
            os.ftruncate(self._descriptor, durable)
        return durable

    def start_at(self, offset: int) -> None:
        """Keep the first `offset` bytes and continue writing from there."""
        with self._or_discard():
            os.ftruncate(self._descriptor, offset)
            os.lseek(self._descriptor, offset, os.SEEK_SET)
        self.size = offset

    def write(self, data: bytes | bytearray) -> None:
        """Write all of `data`."""
        with self._or_discard():
            self._leave_room(len(data))
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]
        self.size += len(data)

    def take_over(self) -> None:
        """Take all that another library has written to the file, by its path, for good."""
        with self._or_discard():
            self._check_in_place()
            self.size = os.fstat(self._descriptor).st_size

    def check_room(self, count: int) -> None:
        """Check that `count` more bytes fit on the disk.

        Raises:
            DownloadError: they would leave too little for the journal.
        """
        with self._or_discard():
            self._leave_room(count)

    def sync(self) -> int:
        """Make what was written before durable, and the part's name; return how many bytes that is.

        Other threads may write meanwhile.
        """
        size = self.size
        with self._or_discard():
            os.fsync(self._descriptor)
            if not self._is_name_synced:  # or else another part, removed before, might have the name again
                sync_folder(self.path.parent)
        self._is_name_synced = True
        return size

    def publish(self, target: Path, *, overwrite: bool) -> None:
        """Make the part, which is synced, `target`, atomically and durably.

        Raises:
            DownloadError: `target` exists and may not be overwritten, it cannot be written, or the part is not in its
                place any more.
        """
        self._check_in_place()
        with as_download_error(target):
            try:
                self._rename(target, overwrite, Path.replace, Path.replace)
            except OSError as error:
                if error.errno not in IN_USE:
                    raise
                # It is open, which some network shares mind. No other process can take it over meanwhile: then it would
                # be open again, and have no new name either.
                self.close()
                if (left := status_of(self.path)) is None or left.st_size != self.size:
                    raise
                self._rename(target, overwrite, put_over, rename)

    def _rename(
        self, target: Path, overwrite: bool, over: Callable[[Path, Path], object], move: Callable[[Path, Path], object]
    ) -> None:
        if overwrite:
            over(self.path, target)
            sync_folder(target.parent)
        else:
            self._is_left = not _rename_to_new(self.path, target, move)

    def _check_in_place(self) -> None:
        if not self._is_in_place():  # another split's, perhaps, which replaces this one
            raise DownloadError(f"another program removed or replaced {self.path} while it was downloaded")

    def _is_in_place(self) -> bool:
        standing = status_of(self.path)
        return standing is not None and os.path.samestat(os.fstat(self._descriptor), standing)

    def discard(self) -> None:
        """Remove the part, as far as the disk lets us."""
        if self.broken:
            return
        self.broken = True
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the descriptor, and with it give up the lock. All that must be durable is synced by then."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with contextlib.suppress(OSError):  # some network shares report here what no sync has waited for
                os.close(descriptor)
        if self._is_left:
            with contextlib.suppress(OSError):  # otherwise `Manifest.finished` does it
                self.path.unlink()

    def _leave_room(self, count: int) -> None:
        try:
            usage = shutil.disk_usage(self.path.parent)
        except OSError:  # not every system tells
            return
        if usage.total and usage.free - count < DISK_ROOM_BYTES:
            kept = f"{os.strerror(errno.ENOSPC)} ({DISK_ROOM_BYTES >> 20} MiB are kept free)"
            raise OSError(errno.ENOSPC, kept)

    @contextlib.contextmanager
    def _or_discard(self) -> Iterator[None]:
        try:
            with as_download_error(self.path):
                yield
        except DownloadError:
            self.discard()
            raise


def _lock(descriptor: int, folder: Path) -> bool:
    """Lock a file in `folder` if the system can; return `False` if another process holds the lock."""
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _LOCKED:
            return False
        what = "files in %s cannot be locked (%s): let no two programs download the same stems there at a time"
        _log.warn_once(what, str(folder), reason_of(error))
    return True


def _rename_to_new(part: Path, target: Path, move: Callable[[Path, Path], object]) -> bool:
    """Rename durably, without replacing anything: a hard link fails where a rename would overwrite.

    Return whether the old name is gone; where an open file cannot be removed, it is not.
    """
    try:
        os.link(part, target, follow_symlinks=False)
    except FileExistsError:
        raise
    except (OSError, NotImplementedError):  # no hard links here
        if os.path.lexists(target):
            raise FileExistsError from None
        move(part, target)
        sync_folder(target.parent)
        return True
    sync_folder(target.parent)  # before the old name goes: a power cut could keep neither
    try:
        part.unlink(missing_ok=True)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def as_download_error(path: Path) -> Iterator[None]:
    """Turn the disk's refusals, and those of paths that are none, into `DownloadError`."""
    try:
        yield
    except FileExistsError:
        raise DownloadError(f"{path} exists already; nothing was overwritten", code=EXISTS) from None
    except OSError as error:
        raise DownloadError(f"cannot write {path}: {reason_of(error)}", code="DISK") from error
    except ValueError as error:  # NUL, or characters that the process cannot encode
        raise DownloadError(f"cannot write {str(path)!r}: {reason_of(error)}", code=NAME_REFUSED) from error
