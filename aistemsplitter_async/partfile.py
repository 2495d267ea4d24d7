"""The disk side of a download: parts, what is remembered of them, and the rename that makes a part a file.

Everything here blocks, and is called in a thread.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import attrs

from aistemsplitter_async._core.naming import check_name
from aistemsplitter_async._core.ranges import read_etag
from aistemsplitter_async.config import REPLY_CAP_BYTES
from aistemsplitter_async.errors import DownloadError, UnsafeNameError

if sys.platform != "win32":
    import fcntl

MEMORY_NAME = ".stems.json"
_VERSION = 1
_EXTENSION = re.compile(r"[a-z0-9]{1,5}")


@attrs.frozen(kw_only=True)
class Remembered:
    """One stem's file name, strong validator and length in bytes, as far as they are known."""

    file: str
    etag: str | None = None
    total: int | None = None


@attrs.define
class Memory:
    """What a folder's downloads belong to. Lost or unreadable, it only costs downloading again.

    It lies where others may write, so it is believed only as far as our own `save` could have written it: above all, a
    stem's file is in this very folder and named after the stem.
    """

    folder: Path
    split_id: str
    stems: dict[str, Remembered] = attrs.field(factory=dict[str, Remembered])

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """Return what is remembered in `folder`, or `None` if nothing usable is."""
        try:
            saved: Any = json.loads(_read_small(folder / MEMORY_NAME))
            stems = {stem: Remembered(**entry) for stem, entry in saved["stems"].items()}
            version, split_id = saved["version"], saved["split_id"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        known = version == _VERSION and isinstance(split_id, str) and split_id.isprintable()
        usable = known and all(_is_ours(*item) for item in stems.items())
        return cls(folder, split_id, stems) if usable else None

    def save(self) -> None:
        """Write the memory; a reader sees the old or the new one, never half of it.

        Raises:
            DownloadError: the disk refuses.
        """
        saved = {
            "version": _VERSION,
            "split_id": self.split_id,
            "stems": {name: attrs.asdict(entry) for name, entry in self.stems.items()},
        }
        fresh = self.folder / f"{MEMORY_NAME}.new"
        with _as_download_error(fresh):
            with open(fresh, "w", encoding="utf-8", opener=_open_no_link) as file:
                file.write(json.dumps(saved, indent=1))
            fresh.replace(self.folder / MEMORY_NAME)

    def finished(self, stem: str) -> Path | None:
        """Return the stem's file if it is here and complete: renamed, and as long as was promised."""
        entry = self.stems.get(stem)
        if entry is None or entry.total is None:
            return None
        target = self.folder / entry.file
        held = _status(target)
        if held is None or not stat.S_ISREG(held.st_mode) or held.st_size != entry.total:
            return None
        part = part_path(self.folder, target.stem)
        unfinished = _status(part)
        if unfinished is None:
            return target
        if not os.path.samestat(held, unfinished):
            return None
        with _as_download_error(part):  # a crash between the two halves of `_rename_to_new`: finish it
            part.unlink(missing_ok=True)
        return target


def part_path(folder: Path, name: str) -> Path:
    """Return where the unfinished bytes of a stem are kept; `name` has passed `check_name`."""
    return folder / f".{name}.part"


def _is_ours(stem: str, entry: Remembered) -> bool:
    """Return whether an entry is one that `save` may have written for `stem`."""
    if not isinstance(entry.file, str) or not _EXTENSION.fullmatch(entry.file.rpartition(".")[2]):
        return False
    try:
        named = check_name(stem) == entry.file.rpartition(".")[0]
    except UnsafeNameError:
        return False
    strong = entry.etag is None or (isinstance(entry.etag, str) and read_etag({"etag": entry.etag}) == entry.etag)
    counted = entry.total is None or (type(entry.total) is int and entry.total >= 0)
    return named and strong and counted


def _read_small(path: Path) -> bytes:
    """Return a regular file's bytes; anything that could be endless is refused."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > REPLY_CAP_BYTES:
        raise ValueError("not a memory")
    return path.read_bytes()


def _status(path: Path) -> os.stat_result | None:
    """Return the status of `path` itself, links not followed, or `None` if there is nothing to be seen."""
    try:
        return path.lstat()
    except OSError:
        return None


def _open_no_link(path: str | Path, flags: int) -> int:
    """Open `path` with `flags`; fail where it is a symbolic link."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0), 0o666)


class PartFile:
    """An open part, locked against other processes."""

    def __init__(self, path: Path) -> None:
        """Open the part or create it.

        Raises:
            DownloadError: it is a link or no regular file, or another process is writing it.
        """
        self.path = path
        with _as_download_error(path):
            if (found := _status(path)) is not None and found.st_nlink > 1 and stat.S_ISREG(found.st_mode):
                path.unlink()  # it shares its bytes with another file, which must not change with it
            self._descriptor = _open_no_link(path, os.O_RDWR | os.O_CREAT)
        opened = os.fstat(self._descriptor)
        problem = None
        if not stat.S_ISREG(opened.st_mode):
            problem = f"{path} is not a regular file"
        elif not _lock(self._descriptor):
            problem = f"another process is downloading {path}"
        elif (standing := _status(path)) is None or not os.path.samestat(opened, standing):
            problem = f"another process has just finished {path}"  # what was opened is a file by its final name now
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
        if os.path.lexists(target):
            raise FileExistsError from None
        part.replace(target)
    else:
        part.unlink(missing_ok=True)


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
            with _as_download_error(part_path(folder, name)):
                part_path(folder, name).unlink(missing_ok=True)
    return Memory(folder, split_id)
