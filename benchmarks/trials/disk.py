"""The disk below a trial's folder: what of it is durable, when it is full, which sync fails, and who waits for one.

What was not synced is lost when the power is cut: bytes become zeros or are gone, and names that were not synced in
their folder are the old ones again, new folders with all that is in them. A failed sync loses the bytes at once, as
they are lost where the system drops what it could not write. What is lost is a matter of chance, file by file.

SQLite syncs by itself, which is not seen here: its files are durable if their folder can be reached. Whether it does is
the subject of `benchmarks/power_cut.py`.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import attrs

from benchmarks.trials import scenario

_PATCHED: Final = ("fsync", "fdatasync", "write", "statvfs", "fstatvfs")
_OF_OTHERS: Final = ("ledger", "seen")  # files that are on another disk
_NAMES_LOST: Final = 0.5
_BLOCK = 4096  # bytes in which free space is counted
Names = dict[str, tuple[int, bool]]  # of a folder: inode, and whether it is a folder


class VirtualDisk:
    """While it is entered, what the process does below a folder is what it does to this disk.

    Attributes:
        on_loop: paths that were synced by the event loop itself, which must do other things meanwhile.

    Args:
        folder: of the trial.
        faulty: what is wrong.
        in_thread: whether what happens now happens in a thread.
        keep: where the durable bytes are noted; the process may be killed.
    """

    def __init__(self, folder: Path, faulty: scenario.Disk, in_thread: Callable[[], bool], keep: Path) -> None:
        self.on_loop: list[str] = []
        self._folder = folder
        self._faulty = faulty
        self._in_thread = in_thread
        self._keep = keep
        self._notes = bool(faulty.power or faulty.fails[1])
        self._syncs = 0
        self._real: dict[str, Callable[..., Any]] = {}

    def __enter__(self) -> None:
        if self._notes:
            note_all(self._folder, self._keep)
        for name in _PATCHED:
            self._real[name] = getattr(os, name)
            setattr(os, name, getattr(self, f"_{name}"))

    def __exit__(self, *_: object) -> None:
        for name, function in self._real.items():
            setattr(os, name, function)

    def _fsync(self, descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))  # noqa: PTH115
        if not self._in_thread():
            self.on_loop.append(path.name)
        if self._folder not in path.parents or path.is_dir():
            if self._notes and path.is_dir():
                _note_names(path, self._keep)
            return
        self._syncs += 1
        first, times = self._faulty.fails
        if first <= self._syncs < first + times:
            content = _durable_bytes(os.fstat(descriptor).st_ino, self._keep)
            size = os.fstat(descriptor).st_size
            os.pwrite(descriptor, content[:size].ljust(size, b"\0"), 0)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if self._notes:
            _note_bytes(path, os.fstat(descriptor).st_ino, self._keep, descriptor)

    _fdatasync = _fsync

    def _write(self, descriptor: int, data: Any) -> int:
        if self._faulty.room and self._is_stem(descriptor):
            left = self._left()
            if left <= 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            data = memoryview(data)[:left]
        return int(self._real["write"](descriptor, data))

    def _statvfs(self, path: Any) -> os.statvfs_result:
        return self._with_room(self._real["statvfs"](path))

    def _fstatvfs(self, descriptor: int) -> os.statvfs_result:
        return self._with_room(self._real["fstatvfs"](descriptor))

    def _with_room(self, found: os.statvfs_result) -> os.statvfs_result:
        if not self._faulty.room:
            return found
        fields = list(found)
        fields[0] = fields[1] = _BLOCK
        fields[3] = fields[4] = max(0, self._left()) // _BLOCK
        return os.statvfs_result(fields)

    def _is_stem(self, descriptor: int) -> bool:
        try:
            path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))  # noqa: PTH115
        except OSError:
            return False
        return self._folder / "stems" in path.parents

    def _left(self) -> int:
        files = (path for path in (self._folder / "stems").rglob("*") if path.is_file())
        return self._faulty.room - sum(path.stat().st_size for path in files)


def note_all(folder: Path, keep: Path) -> None:
    """Note that everything below `folder` is durable, unless it was noted what is."""
    if keep.exists():
        return
    keep.mkdir()
    for above, _, files in os.walk(folder):
        if Path(above) == keep:
            continue
        _note_names(Path(above), keep)
        for name in files:
            path = Path(above) / name
            _note_bytes(path, path.stat().st_ino, keep)


def cut_power(folder: Path, keep: Path, chance: random.Random) -> None:
    """Leave below `folder` what survives a power cut."""
    fresh = folder.with_name(f"{folder.name}-after")
    _Cut(keep, chance, names_too=chance.random() < _NAMES_LOST).rebuild(folder, folder.stat().st_ino, fresh)
    shutil.rmtree(keep)
    for entry in list(folder.iterdir()):
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    for entry in fresh.iterdir():
        entry.rename(folder / entry.name)
    fresh.rmdir()


@attrs.frozen
class _Cut:
    """A power cut: what is left, made in another folder.

    Attributes:
        keep: where the durable bytes are noted.
        chance: decides what becomes of a file that was not synced.
        names_too: whether names that were not synced are lost.
        made: the files, by inode: one may have two names.
    """

    keep: Path
    chance: random.Random
    names_too: bool
    made: dict[int, Path] = attrs.field(factory=dict[int, Path], init=False)

    def rebuild(self, old: Path | None, inode: int, new: Path) -> None:
        now = _names(old) if old is not None else {}
        is_journals = any(".journal" in name for name in now)
        names = _durable_names(inode, self.keep) if self.names_too and not is_journals else now
        names |= {name: found for name, found in now.items() if name in _OF_OTHERS}
        new.mkdir()
        for name, (entry, is_folder) in names.items():
            present = old / name if old is not None and now.get(name, (0, False))[0] == entry else None
            if name == self.keep.name:
                continue
            if is_folder:
                self.rebuild(present, entry, new / name)
            elif present is not None and (is_journals or name in _OF_OTHERS):
                shutil.copy(present, new / name)
            elif entry in self.made:
                (new / name).hardlink_to(self.made[entry])
            else:
                held = present.read_bytes() if present is not None else None
                (new / name).write_bytes(_left_of(held, _durable_bytes(entry, self.keep), self.chance))
                self.made[entry] = new / name


def _left_of(held: bytes | None, durable: bytes, chance: random.Random) -> bytes:
    """Return what a file holds after a power cut."""
    if held is None or held == durable:
        return durable
    fate = chance.choice(("written", "zeros", "gone"))
    if fate == "written":
        return held
    return durable if fate == "gone" else durable[: len(held)].ljust(len(held), b"\0")


def _names(folder: Path) -> Names:
    with os.scandir(folder) as entries:
        return {entry.name: (entry.inode(), entry.is_dir()) for entry in entries}


def _note_names(folder: Path, keep: Path) -> None:
    (keep / f"{folder.stat().st_ino}.names").write_text(json.dumps(_names(folder)))


def _durable_names(inode: int, keep: Path) -> Names:
    note = keep / f"{inode}.names"
    return {name: tuple(found) for name, found in json.loads(note.read_text()).items()} if note.exists() else {}


def _note_bytes(path: Path, inode: int, keep: Path, descriptor: int | None = None) -> None:
    source = path if descriptor is None else Path(f"/proc/self/fd/{descriptor}")
    shutil.copyfile(source, keep / f"{inode}.bytes")


def _durable_bytes(inode: int, keep: Path) -> bytes:
    note = keep / f"{inode}.bytes"
    return note.read_bytes() if note.exists() else b""
