"""Whether a batch is running on a journal, without disturbing it."""

from __future__ import annotations

import sys
from pathlib import Path

if sys.platform != "win32":
    import fcntl

# Where SQLite's locks are in a file, and what an owner has locked whole (https://www.sqlite.org/src/file/src/os_unix.c).
_SHARED_FIRST = 0x40000000 + 2
_SHARED_BYTES = 510


def is_locked(journal: Path) -> bool | None:
    """Return whether a process has the journal open, `None` where that cannot be told.

    Never call it in the process of that batch: closing the file would give up the batch's own lock.
    """
    if sys.platform == "win32":
        return None
    try:
        with journal.open("rb") as file:
            # A shared lock, for a moment: a batch that begins just then tries again.
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB, _SHARED_BYTES, _SHARED_FIRST)
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False
