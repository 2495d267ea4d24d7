"""The disk side of a download: parts, what is remembered of them, and the rename that makes a part a file.

Everything here blocks, and is called in a thread.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import attrs

from aistemsplitter_async.errors import DownloadError

if sys.platform != "win32":
    import fcntl

MEMORY_NAME = ".stems.json"
_VERSION = 1


@attrs.frozen(kw_only=True)
class Remembered:
    """One stem's file name, strong validator and length in bytes, as far as they are known."""

    file: str
    etag: str | None = None
    total: int | None = None


@attrs.define
class Memory:
    """What a folder's downloads belong to. Lost or unreadable, it only costs downloading again."""

    folder: Path
    split_id: str
    stems: dict[str, Remembered] = attrs.field(factory=dict[str, Remembered])

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """Return what is remembered in `folder`, or `None` if nothing usable is."""
        try:
            saved: Any = json.loads((folder / MEMORY_NAME).read_bytes())
            if saved["version"] != _VERSION:
                return None
            stems = {name: Remembered(**entry) for name, entry in saved["stems"].items()}
            return cls(folder, str(saved["split_id"]), stems)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def save(self) -> None:
        """Write the memory; a reader sees the old or the new one, never half of it."""
        saved = {
            "version": _VERSION,
            "split_id": self.split_id,
            "stems": {name: attrs.asdict(entry) for name, entry in self.stems.items()},
        }
        fresh = self.folder / f"{MEMORY_NAME}.new"
        fresh.write_text(json.dumps(saved, indent=1), encoding="utf-8")
        fresh.replace(self.folder / MEMORY_NAME)

    def finished(self, stem: str) -> Path | None:
        """Return the stem's file if it is here and complete: renamed, and as long as was promised."""
        entry = self.stems.get(stem)
        if entry is None or entry.total is None:
            return None
        target = self.folder / entry.file
        if target.is_symlink() or not target.is_file() or target.stat().st_size != entry.total:
            return None
        return None if part_path(self.folder, stem).exists() else target


def part_path(folder: Path, name: str) -> Path:
    """Return where the unfinished bytes of a stem are kept; `name` has passed `check_name`."""
    return folder / f".{name}.part"


class PartFile:
    """An open part, locked against other processes."""

    def __init__(self, path: Path) -> None:
        """Open the part or create it.

        Raises:
            DownloadError: it is a link or no regular file, or another process is writing it.
        """
        self.path = path
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        with _as_download_error(path):
            self._descriptor = os.open(path, flags, 0o666)
        problem = None
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            problem = f"{path} is not a regular file"
        elif not _lock(self._descriptor):
            problem = f"another process is downloading {path}"
        if problem:
            os.close(self._descriptor)
            raise DownloadError(problem)

    def size(self) -> int:
        """Return how many bytes are here."""
        return os.fstat(self._descriptor).st_size

    def start_at(self, offset: int) -> None:
        """Keep the first `offset` bytes and write on from there."""
        with _as_download_error(self.path):
            os.ftruncate(self._descriptor, offset)
            os.lseek(self._descriptor, offset, os.SEEK_SET)

    def write(self, data: bytes | bytearray) -> None:
        """Write all of `data`."""
        with _as_download_error(self.path):
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]

    def publish(self, target: Path, *, overwrite: bool) -> None:
        """Sync the part and make it `target`, atomically.

        Raises:
            DownloadError: `target` exists and may not be overwritten, or the disk refuses.
        """
        with _as_download_error(target):
            os.fsync(self._descriptor)
            if overwrite:
                self.path.replace(target)
            else:
                _rename_to_new(self.path, target)
            _sync_folder(target.parent)

    def close(self) -> None:
        """Close the descriptor, and with it give up the lock."""
        os.close(self._descriptor)


def _lock(descriptor: int) -> bool:
    """Return whether the file is ours alone, as far as the system can tell."""
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
        if target.exists():
            raise FileExistsError from None
        part.replace(target)
    else:
        part.unlink()


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # folders cannot be opened on Windows, nor synced everywhere
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _as_download_error(path: Path) -> Iterator[None]:
    """Turn the disk's refusals into `DownloadError`."""
    try:
        yield
    except FileExistsError:
        raise DownloadError(f"{path} exists already; nothing was overwritten", code="EXISTS") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DownloadError(f"cannot write {path}: {reason}", code="DISK") from error


def prepare_folder(folder: Path, split_id: str, names: Mapping[str, str], *, overwrite: bool) -> Memory:
    """Create `folder` and return what is remembered there of this split.

    Raises:
        DownloadError: the folder cannot be made, or holds another split's stems and `overwrite` is not set.
    """
    with _as_download_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
    memory = Memory.load(folder)
    if memory is not None and memory.split_id == split_id:
        return memory
    if memory is not None:
        if not overwrite and any((folder / entry.file).exists() for entry in memory.stems.values()):
            raise DownloadError(
                f"{folder} holds the stems of split {memory.split_id}; choose another folder or overwrite them",
                code="EXISTS",
            )
        for name in names.values():
            part_path(folder, name).unlink(missing_ok=True)
    return Memory(folder, split_id)
