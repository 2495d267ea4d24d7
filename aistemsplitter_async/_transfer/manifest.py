"""The disk side of a download: parts, what is remembered of them, and the rename that makes a part a file.

Everything here blocks, and is called in a thread.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import attrs

from aistemsplitter_async._transfer.names import (
    ANY_STEM,
    AUDIO_EXTENSIONS,
    KNOWN_STEMS,
    UNKNOWN_EXTENSION,
    check_name,
    fold,
    plan_names,
    stem_file_name,
)
from aistemsplitter_async._transfer.partfile import _as_download_error, _open_no_link, _status, part_path
from aistemsplitter_async._transfer.ranges import read_etag
from aistemsplitter_async.config import REPLY_CAP_BYTES
from aistemsplitter_async.errors import DownloadError, UnsafeNameError

if TYPE_CHECKING:
    pass


if sys.platform != "win32":
    pass

MEMORY_NAME = ".stems.json"
_VERSION = 1
_EXTENSIONS = AUDIO_EXTENSIONS | {UNKNOWN_EXTENSION}


@attrs.frozen(kw_only=True)
class Remembered:
    """One stem's file name, strong validator and length in bytes, as far as they are known."""

    file: str
    etag: str | None = None
    total: int | None = None


@attrs.define
class Memory:
    """What a folder's downloads belong to. Lost or unreadable, it only costs downloading again.

    Each name pattern has a memory of its own, so that splits that share a folder do not disturb each other.

    It lies where others may write, so it is believed only as far as our own `save` could have written it: above all, a
    stem's file is in this very folder and named after the stem.

    Attributes:
        folder: where the stems are.
        split_id: whose stems they are.
        stems: what is known of each.
        pattern: what the files are called: a name with `{stem}` in it.
        replaced: files of an earlier split that these stems take the place of, and their lengths in bytes.
    """

    folder: Path
    split_id: str
    stems: dict[str, Remembered] = attrs.field(factory=dict[str, Remembered])
    pattern: str = attrs.field(default=ANY_STEM, kw_only=True)
    replaced: dict[str, int] = attrs.field(factory=dict[str, int], kw_only=True)

    @classmethod
    def load(cls, folder: Path, pattern: str = ANY_STEM) -> Self | None:
        """Return what is remembered in `folder` of the stems called by `pattern`, or `None` if nothing usable is.

        Raises:
            UnsafeNameError: the pattern is no safe name.
        """
        path = folder / memory_name(pattern)
        try:
            saved: Any = json.loads(_read_small(path))
            stems = {stem: Remembered(**entry) for stem, entry in saved["stems"].items()}
            version, split_id, replaced = saved["version"], saved["split_id"], dict(saved.get("replaced", {}))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        known = version == _VERSION and isinstance(split_id, str) and split_id.isprintable()
        usable = (
            known
            and all(_is_ours(pattern, *item) for item in stems.items())
            and all(_was_ours(pattern, *item) for item in replaced.items())
        )
        return cls(folder, split_id, stems, pattern=pattern, replaced=replaced) if usable else None

    def save(self) -> None:
        """Write the memory; a reader sees the old or the new one, never half of it.

        Raises:
            DownloadError: the disk refuses.
        """
        saved = {
            "version": _VERSION,
            "split_id": self.split_id,
            "stems": {name: attrs.asdict(entry) for name, entry in self.stems.items()},
            "replaced": self.replaced,
        }
        path = self.folder / memory_name(self.pattern)
        fresh = path.with_name(f"{path.name}.new")
        with _as_download_error(fresh):
            with open(fresh, "w", encoding="utf-8", opener=_open_no_link) as file:
                file.write(json.dumps(saved, indent=1))
                file.flush()
                os.fsync(file.fileno())  # a stem that nobody remembers would be taken for somebody else's
            fresh.replace(path)

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

    def replace(self, split_id: str) -> Self:
        """Return the memory of another split that takes this one's place. Its files stay until the new ones are whole.

        Raises:
            DownloadError: the disk refuses.
        """
        names, _ = plan_names(self.stems, self.pattern)
        remove_parts(self.folder, names.values())
        finished = {path.name: path.stat().st_size for stem in self.stems if (path := self.finished(stem)) is not None}
        return type(self)(self.folder, split_id, pattern=self.pattern, replaced={**self.replaced, **finished})

    def remove_replaced(self) -> None:
        """Remove the files that these stems took the place of, unless somebody changed them."""
        if not self.replaced:
            return
        ours = {fold(entry.file) for entry in self.stems.values()}
        for file, total in self.replaced.items():
            held = _status(self.folder / file)
            unchanged = held is not None and stat.S_ISREG(held.st_mode) and held.st_size == total
            if unchanged and fold(file) not in ours:
                with contextlib.suppress(OSError):  # an old file too many is no reason to call the new ones failed
                    (self.folder / file).unlink()
        self.replaced = {}
        self.save()


def memory_name(pattern: str) -> str:
    """Return the name of the memory of the files that are called by `pattern`.

    Raises:
        UnsafeNameError: the pattern is no safe name.
    """
    return MEMORY_NAME if pattern == ANY_STEM else f".{check_name(pattern)}.json"


def pattern_of(name: str) -> str | None:
    """Return the pattern whose memory would be called `name`, or `None` if it is not a memory's name."""
    if name == MEMORY_NAME:
        return ANY_STEM
    pattern = name.removeprefix(".").removesuffix(".json")
    try:
        return pattern if ANY_STEM in pattern and memory_name(pattern) == name else None
    except UnsafeNameError:
        return None


def remove_parts(folder: Path, names: Iterable[str]) -> None:
    """Remove the unfinished files of the stems called `names`.

    Raises:
        DownloadError: the disk refuses.
    """
    for name in names:
        with _as_download_error(part_path(folder, name)):
            part_path(folder, name).unlink(missing_ok=True)


def _is_ours(pattern: str, stem: str, entry: Remembered) -> bool:
    """Return whether an entry is one that `save` may have written for `stem`."""
    if not isinstance(entry.file, str) or entry.file.rpartition(".")[2] not in _EXTENSIONS:
        return False
    try:
        named = stem_file_name(stem, pattern) == entry.file.rpartition(".")[0]
    except UnsafeNameError:
        return False
    strong = entry.etag is None or (isinstance(entry.etag, str) and read_etag({"etag": entry.etag}) == entry.etag)
    counted = entry.total is None or (type(entry.total) is int and entry.total >= 0)
    return named and strong and counted


def _was_ours(pattern: str, file: object, total: object) -> bool:
    """Return whether a file may have been one of an earlier split's, by the same pattern."""
    if not isinstance(file, str) or type(total) is not int:
        return False
    before, _, after = pattern.partition(ANY_STEM)
    stem = file.rpartition(".")[0].removeprefix(before).removesuffix(after)
    return _is_ours(pattern, stem, Remembered(file=file, total=total))


def _read_small(path: Path) -> bytes:
    """Return a regular file's bytes; anything that could be endless is refused."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > REPLY_CAP_BYTES:
        raise ValueError("not a memory")
    return path.read_bytes()


def prepare_folder(
    folder: Path, split_id: str, names: Mapping[str, str], *, overwrite: bool, pattern: str = ANY_STEM
) -> Memory:
    """Create `folder` and return what is remembered there of this split.

    Args:
        folder: where the stems go.
        split_id: whose stems they are.
        names: file name of each stem.
        overwrite: whether another split's stems may be replaced.
        pattern: what `names` were made by.

    Raises:
        DownloadError: the folder cannot be made, or holds another split's stems and `overwrite` is not set.
        UnsafeNameError: the pattern is no safe name.
    """
    memory_name(pattern)  # before anything is made
    with _as_download_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
    memory = Memory.load(folder, pattern)
    if memory is None:
        return Memory(folder, split_id, pattern=pattern)
    if memory.split_id == split_id:
        return memory
    if not overwrite and any((folder / entry.file).exists() for entry in memory.stems.values()):
        raise DownloadError(
            f"{folder} holds the stems of split {memory.split_id}; choose another folder or overwrite them",
            code="EXISTS",
        )
    remove_parts(folder, names.values())
    return memory.replace(split_id)


def check_target(folder: Path, overwrite: bool, pattern: str) -> None:
    """Check that stems named by `pattern` can be put into `folder`.

    Raises:
        DownloadError: it cannot be written to, or stems would be overwritten unasked.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists() or path.is_symlink())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        reason = "permission denied" if existing.is_dir() else "not a folder"
        raise DownloadError(f"cannot write to {existing}: {reason}", code="DISK")
    if overwrite:
        return
    memory = Memory.load(folder, pattern)
    if memory is not None:
        raise DownloadError(
            f"{folder} holds the stems of split {memory.split_id} already; choose another folder or overwrite them",
            code="EXISTS",
        )
    for stem in KNOWN_STEMS:  # not ours, but the download would refuse to overwrite them after the split was paid for
        name = pattern.replace(ANY_STEM, stem)
        taken = next(
            (folder / f"{name}.{kind}" for kind in ("mp3", "wav") if (folder / f"{name}.{kind}").exists()), None
        )
        if taken is not None:
            raise DownloadError(f"{taken} exists already; choose another folder or overwrite it", code="EXISTS")
