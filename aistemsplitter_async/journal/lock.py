"""The lock that says which process owns a journal: on a file of its own, `<journal>.lock`.

SQLite's own lock on the journal is not enough: a POSIX lock ends when *any* descriptor of the file is closed in the
process that holds it, so that whoever reads the journal there gives it away. Beside this one it keeps out versions of
this package that know no lock file. The lock file is empty, and stays when the journal is closed.

These functions block; a caller on the event loop goes through `_tasks.run_in_thread`.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

from aistemsplitter_async._files import are_missing_locks, create_private, has_locks, reason_of
from aistemsplitter_async.errors import JournalError, JournalLockedError

NO_LOCKS = "NO_LOCKS"  # the code of the error that says that nothing can be locked there


def lock_path(journal: Path) -> Path:
    """Return the path of the lock file of `journal`, the same for every link to it."""
    return Path(f"{os.path.realpath(journal)}.lock")


def is_locked(journal: Path) -> bool | None:
    """Return whether a process has the journal open, `None` where that cannot be known. The journal is not opened."""
    try:
        if lock_path(journal).exists():
            JournalLock(journal).release()  # for a moment: a batch that starts just then tries again
    except JournalLockedError:
        return True
    except (JournalError, OSError):
        return None
    return False


class JournalLock:
    """The ownership of a journal, from its creation until it is released or the process ends, however it does.

    Args:
        journal: its folder must exist.

    Raises:
        JournalLockedError: another process, or another batch of this one, owns it.
        JournalError: nothing can be locked there: without that, two processes would buy everything twice.
    """

    def __init__(self, journal: Path) -> None:
        self._path = path = lock_path(journal)
        self._is_new = False
        _check_name(path, journal)
        if issubclass(FileLock, SoftFileLock):
            raise no_locks(path, journal)
        # Acquired in one thread, released in another; a lock that only exists as a file would outlive its owner. It is
        # private from the beginning, so that no mode need be set, which not every file system can.
        self._lock = FileLock(path, thread_local=False, fallback_to_soft=False, preserve_lock_file=True)
        try:
            with suppress(FileExistsError):  # of an earlier run, or of another process that was faster
                create_private(path)
                self._is_new = True
            self._lock.acquire(timeout=0)
        except Timeout:
            raise JournalLockedError(
                f"another batch is running on {journal}; wait for it or stop it", code="LOCKED"
            ) from None
        except (OSError, NotImplementedError) as error:
            self.discard()
            if isinstance(error, NotImplementedError) or are_missing_locks(error):
                raise no_locks(path, journal) from None
            raise JournalError(f"cannot lock {journal}: {path}: {reason_of(error)}") from error

    def release(self) -> None:
        """Let another process own the journal."""
        with suppress(OSError):  # the file system is gone, and the lock with it
            self._lock.release(force=True)

    def discard(self) -> None:
        """Release it because there is no journal; leave no lock file that was not there before."""
        if self._is_new:
            with suppress(OSError):  # on Windows, as long as it is open
                self._path.unlink()  # a process that has it open already finds out that it has no name any more
        self.release()


def _check_name(path: Path, journal: Path) -> None:
    """Check that no other file has the lock file's name: it would be emptied."""
    try:
        status = path.lstat()
    except OSError:  # it does not exist; anything else is reported by the lock
        return
    if not stat.S_ISREG(status.st_mode) or status.st_size:
        raise JournalError(
            f"{path} must be the lock file of {journal}, and is something else; "
            "move it elsewhere, or give the journal another name"
        )


def no_locks(path: Path, journal: Path) -> JournalError:
    """Return the error of a journal that is where files cannot be locked."""
    return JournalError(
        f"cannot lock {path}: files cannot be locked there, and two processes on one journal would pay for everything "
        f"twice; put {journal.name} on a local disk",
        code=NO_LOCKS,
    )


def has_no_locks(journal: Path) -> bool:
    """Return whether SQLite, which holds it for a lock of another process, was told that there are no locks.

    The journal must not be open.
    """
    try:
        return not has_locks(journal)
    except OSError:
        return False
