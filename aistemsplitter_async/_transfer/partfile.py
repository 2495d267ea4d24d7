"""An unfinished stem: written to a part file next to its final name, and renamed once it is complete.

Everything here blocks, and is called in a thread.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from aistemsplitter_async._files import open_no_link, reason_of, sync_folder
from aistemsplitter_async.errors import DownloadError

if sys.platform != "win32":
    import fcntl


def part_path(folder: Path, name: str) -> Path:
    """Return the path of a stem's unfinished bytes; `name` has passed `check_name`."""
    return folder / f".{name}.part"


def status_of(path: Path) -> os.stat_result | None:
    """Return the status of `path` itself, links not followed, or `None` if it cannot be read."""
    try:
        return path.lstat()
    except OSError:
        return None


class PartFile:
    """An open part, locked against other processes."""

    def __init__(self, path: Path) -> None:
        """Open the part or create it.

        Raises:
            DownloadError: it is a link or not a regular file, or another process is writing it.
        """
        self.path = path
        with as_download_error(path):
            if (found := status_of(path)) is not None and found.st_nlink > 1 and stat.S_ISREG(found.st_mode):
                path.unlink()  # it shares its bytes with another file, which must not change too
            self._descriptor = open_no_link(path, os.O_RDWR | os.O_CREAT)
        opened = os.fstat(self._descriptor)
        problem = None
        if not stat.S_ISREG(opened.st_mode):
            problem = f"{path} is not a regular file"
        elif not _lock(self._descriptor):
            problem = f"another process is downloading {path}"
        elif (standing := status_of(path)) is None or not os.path.samestat(opened, standing):
            problem = f"another process has just finished {path}"  # the opened file has its final name now
        if problem:
            os.close(self._descriptor)
            raise DownloadError(problem)

    def size(self) -> int:
        """Return how many bytes are here."""
        return os.fstat(self._descriptor).st_size

    def start_at(self, offset: int) -> None:
        """Keep the first `offset` bytes and continue writing from there."""
        with as_download_error(self.path):
            os.ftruncate(self._descriptor, offset)
            os.lseek(self._descriptor, offset, os.SEEK_SET)

    def write(self, data: bytes | bytearray) -> None:
        """Write all of `data`."""
        with as_download_error(self.path):
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]

    def publish(self, target: Path, *, overwrite: bool) -> None:
        """Sync the part and make it `target`, atomically.

        Raises:
            DownloadError: `target` exists and may not be overwritten, or it cannot be written.
        """
        with as_download_error(target):
            os.fsync(self._descriptor)
            if overwrite:
                self.path.replace(target)
            else:
                _rename_to_new(self.path, target)
            sync_folder(target.parent)

    def close(self) -> None:
        """Close the descriptor, and with it give up the lock."""
        os.close(self._descriptor)


def _lock(descriptor: int) -> bool:
    """Lock the file if the system can; return `False` if another process holds the lock."""
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _rename_to_new(part: Path, target: Path) -> None:
    """Rename without replacing anything: a hard link fails where a rename would overwrite."""
    try:
        os.link(part, target, follow_symlinks=False)
    except FileExistsError:
        raise
    except (OSError, NotImplementedError):  # no hard links here
        if os.path.lexists(target):
            raise FileExistsError from None
        part.replace(target)
    else:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def as_download_error(path: Path) -> Iterator[None]:
    """Turn the disk's refusals into `DownloadError`."""
    try:
        yield
    except FileExistsError:
        raise DownloadError(f"{path} exists already; nothing was overwritten", code="EXISTS") from None
    except OSError as error:
        raise DownloadError(f"cannot write {path}: {reason_of(error)}", code="DISK") from error
