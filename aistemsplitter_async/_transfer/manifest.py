"""The manifest of a stems folder: which split its files belong to, and what is known of each.

Everything here blocks, and is called in a thread.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from collections.abc import Iterable, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any, Self

import attrs

from aistemsplitter_async._files import (
    find_refused_name,
    fresh_path,
    is_read_only,
    make_folder,
    reason_of,
    replacing,
    sync_folder,
)
from aistemsplitter_async._transfer.names import (
    ANY_STEM,
    AUDIO_EXTENSIONS,
    UNKNOWN_EXTENSION,
    check_name,
    fold,
    plan_names,
    stem_file_name,
)
from aistemsplitter_async._transfer.partfile import NAME_REFUSED, as_download_error, part_path, status_of
from aistemsplitter_async._transfer.ranges import read_etag
from aistemsplitter_async._transfer.selection import ALL_STEMS, Selection
from aistemsplitter_async.config import REPLY_CAP_BYTES
from aistemsplitter_async.errors import DownloadError, UnsafeNameError

MANIFEST_NAME = ".stems.json"
_VERSION = 1
_NOT_BOUGHT = (
    "nothing was bought: if they are the stems of this song, it is paid for; another folder, or overwriting, buys it"
)
_EXTENSIONS = AUDIO_EXTENSIONS | {UNKNOWN_EXTENSION}


@attrs.frozen(kw_only=True)
class StemRecord:
    """What is known of one stem.

    Attributes:
        file: its file's name.
        etag: its strong validator.
        total: its length in bytes.
        durable: how many bytes of it have certainly reached the disk, in the part or the file; all of them once it is
            complete. `None` in manifests of earlier versions, which did not keep count.
    """

    file: str
    etag: str | None = None
    total: int | None = None
    durable: int | None = None


@attrs.define
class Manifest:
    """The record of a folder's stems. If it is lost or unreadable, they are only downloaded again.

    Each name pattern has its own manifest, so that splits that share a folder do not disturb each other.

    Other programs may write to it, so it is believed only as far as our own `save` could have written it: above all, a
    stem's file is in this very folder and named after the stem.

    Attributes:
        folder: where the stems are.
        split_id: whose stems they are.
        stems: what is known of each.
        pattern: what the files are called: a name with `{stem}` in it.
        replaced: files of an earlier split that these stems replace, and their lengths in bytes.
    """

    folder: Path
    split_id: str
    stems: dict[str, StemRecord] = attrs.field(factory=dict[str, StemRecord])
    pattern: str = attrs.field(default=ANY_STEM, kw_only=True)
    replaced: dict[str, int] = attrs.field(factory=dict[str, int], kw_only=True)

    @classmethod
    def load(cls, folder: Path, pattern: str = ANY_STEM) -> Self | None:
        """Return the manifest in `folder` of the stems named by `pattern`, or `None` if there is no usable one.

        Raises:
            UnsafeNameError: the pattern is not a safe name.
        """
        path = folder / manifest_name(pattern)
        try:  # where nothing is renamed over a file, a kill may leave only the fresh one; what it says was true before
            saved: Any = json.loads(_read_small(path if os.path.lexists(path) else fresh_path(path)))
            stems = {stem: StemRecord(**entry) for stem, entry in saved["stems"].items()}
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
        """Write the manifest; a reader sees the old or the new one, never half of it.

        Raises:
            DownloadError: it cannot be written.
        """
        saved = {
            "version": _VERSION,
            "split_id": self.split_id,
            "stems": {name: attrs.asdict(entry) for name, entry in self.stems.items()},
            "replaced": self.replaced,
        }
        path = self.folder / manifest_name(self.pattern)
        # Durable: after a power cut, a stem without a manifest would be taken for another program's file.
        with as_download_error(fresh_path(path)), replacing(path, durable=True, mode=0o666) as file:
            file.write(json.dumps(saved, indent=1))

    def finished(self, stem: str) -> Path | None:
        """Return the stem's file if it is here and complete: renamed, durably, and as long as was promised.

        Raises:
            DownloadError: the disk fails.
        """
        entry = self.stems.get(stem)
        if entry is None or entry.total is None or entry.durable not in (None, entry.total):
            return None
        target = self.folder / entry.file
        held = _status_if_whole(target, entry.total)
        if held is None:
            return None
        part = part_path(self.folder, target.stem)
        unfinished = status_of(part)
        if unfinished is not None and not os.path.samestat(held, unfinished):
            return None
        with as_download_error(target):  # the process that renamed it may have been killed before it synced that
            sync_folder(self.folder)
            part.unlink(missing_ok=True)  # the second half of `_rename_to_new`
        return target

    def replace(self, split_id: str) -> Self:
        """Return the saved manifest of a split that replaces this one. The old files stay until the new are complete.

        Raises:
            DownloadError: it cannot be written.
        """
        names, _ = plan_names(self.stems, self.pattern)
        remove_parts(self.folder, names.values())
        with as_download_error(self.folder):
            files = [path for stem in self.stems if (path := self.finished(stem)) is not None]
            finished = {path.name: path.stat().st_size for path in files}
        manifest = type(self)(self.folder, split_id, pattern=self.pattern, replaced={**self.replaced, **finished})
        manifest.save()
        return manifest

    def remove_replaced(self) -> None:
        """Remove the files that these stems replaced, unless they were changed by others.

        No power cut brings those back then, nor the names of finished parts.

        Raises:
            DownloadError: the disk fails.
        """
        if not self.replaced:
            with as_download_error(self.folder):
                sync_folder(self.folder)
            return
        ours = {fold(entry.file) for entry in self.stems.values()}
        for file, total in self.replaced.items():
            if _status_if_whole(self.folder / file, total) is not None and fold(file) not in ours:
                with contextlib.suppress(OSError):  # an old file that stays does not make the new ones a failure
                    (self.folder / file).unlink()
        self.replaced = {}
        self.save()


def manifest_name(pattern: str) -> str:
    """Return the name of the manifest of the files that are named by `pattern`.

    Raises:
        UnsafeNameError: the pattern is not a safe name.
    """
    return MANIFEST_NAME if pattern == ANY_STEM else f".{check_name(pattern)}.json"


def pattern_of(name: str) -> str | None:
    """Return the pattern whose manifest would be called `name`, or `None` if it is not a manifest's name."""
    if name == MANIFEST_NAME:
        return ANY_STEM
    pattern = name.removeprefix(".").removesuffix(".json")
    try:
        return pattern if ANY_STEM in pattern and manifest_name(pattern) == name else None
    except UnsafeNameError:
        return None


def remove_parts(folder: Path, names: Iterable[str]) -> None:
    """Remove the unfinished files of the stems called `names`.

    Raises:
        DownloadError: one cannot be removed.
    """
    for name in names:
        with as_download_error(part_path(folder, name)):
            part_path(folder, name).unlink(missing_ok=True)


def _is_ours(pattern: str, stem: str, entry: StemRecord) -> bool:
    """Return whether an entry is one that `save` may have written for `stem`."""
    if not isinstance(entry.file, str) or entry.file.rpartition(".")[2] not in _EXTENSIONS:
        return False
    try:
        named = stem_file_name(stem, pattern) == entry.file.rpartition(".")[0]
    except UnsafeNameError:
        return False
    strong = entry.etag is None or (isinstance(entry.etag, str) and read_etag({"etag": entry.etag}) == entry.etag)
    counted = all(count is None or (type(count) is int and count >= 0) for count in (entry.total, entry.durable))
    return named and strong and counted


def _was_ours(pattern: str, file: object, total: object) -> bool:
    """Return whether a file may have been one of an earlier split's, by the same pattern."""
    if not isinstance(file, str) or type(total) is not int:
        return False
    before, _, after = pattern.partition(ANY_STEM)
    stem = file.rpartition(".")[0].removeprefix(before).removesuffix(after)
    return _is_ours(pattern, stem, StemRecord(file=file, total=total))


def _status_if_whole(path: Path, total: int) -> os.stat_result | None:
    """Return the status of a regular file of `total` bytes, `None` if there is none."""
    held = status_of(path)
    return held if held is not None and stat.S_ISREG(held.st_mode) and held.st_size == total else None


def _read_small(path: Path) -> bytes:
    """Return the bytes of a regular file of reasonable size; a pipe or device could be endless."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > REPLY_CAP_BYTES:
        raise ValueError("not a manifest")
    return path.read_bytes()


def prepare_folder(
    folder: Path, split_id: str, names: Mapping[str, str], *, overwrite: bool, pattern: str = ANY_STEM
) -> Manifest:
    """Create `folder` and return its manifest for this split.

    Args:
        folder: where the stems go.
        split_id: whose stems they are.
        names: file name of each stem.
        overwrite: whether another split's stems may be replaced.
        pattern: the one that `names` were made from.

    Raises:
        DownloadError: the folder cannot be made, or holds another split's stems and `overwrite` is not set.
        UnsafeNameError: the pattern is not a safe name.
    """
    manifest_name(pattern)  # raises before anything is created
    with as_download_error(folder):
        make_folder(folder)
    manifest = Manifest.load(folder, pattern)
    if manifest is None:
        return Manifest(folder, split_id, pattern=pattern)
    if manifest.split_id == split_id:
        return manifest
    if not overwrite and _has_stems(folder, manifest):
        advice = "choose another folder or overwrite them"
        raise DownloadError(f"{_holds(folder, manifest)}; {advice}", code="EXISTS")
    remove_parts(folder, names.values())
    return manifest.replace(split_id)


def check_target(folder: Path, overwrite: bool, pattern: str, selection: Selection = ALL_STEMS) -> None:
    """Check that what is selected can be written to `folder`, named by `pattern`. Nothing is left behind.

    Raises:
        DownloadError: it cannot be written to, or stems would be overwritten without permission.
    """
    with as_download_error(folder):
        _check_writable(folder, pattern)
    if overwrite:
        return
    manifest = Manifest.load(folder, pattern)
    if manifest is not None:
        raise DownloadError(f"{_holds(folder, manifest)}; {_NOT_BOUGHT}", code="EXISTS")
    for stem in selection.files:  # other files in the way: better refused now than after the split is paid for
        name = pattern.replace(ANY_STEM, stem)
        taken = next((path for kind in ("mp3", "wav") if status_of(path := folder / f"{name}.{kind}")), None)
        if taken is not None:
            raise DownloadError(f"{taken} exists already; {_NOT_BOUGHT}", code="EXISTS")


def _check_writable(folder: Path, pattern: str) -> None:
    above = list(takewhile(_is_missing, (folder, *folder.absolute().parents)))
    existing = above[-1].absolute().parent if above else folder
    if not existing.is_dir():
        raise DownloadError(f"cannot write to {existing}: not a folder", code="DISK")
    if not os.access(existing, os.W_OK | os.X_OK):
        reason = errno.EROFS if is_read_only(existing) else errno.EACCES
        raise DownloadError(f"cannot write to {existing}: {os.strerror(reason).lower()}", code="DISK")
    part = part_path(folder, pattern.replace(ANY_STEM, "vocals")).name
    refusal = find_refused_name(existing, *(path.name for path in above), part)
    if refusal is not None:
        name, error = refusal
        raise DownloadError(
            f"cannot write {name!r} to {existing}: the file system there does not take this name "
            f"({reason_of(error)}); nothing was bought",
            code=NAME_REFUSED,
        ) from error


def _is_missing(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    return False


def _has_stems(folder: Path, manifest: Manifest) -> bool:
    return any(status_of(folder / entry.file) is not None for entry in manifest.stems.values())


def _holds(folder: Path, manifest: Manifest) -> str:
    if _has_stems(folder, manifest):
        return f"{folder} holds the stems of split {manifest.split_id} already"
    return f"{folder} held the stems of split {manifest.split_id}, as {manifest_name(manifest.pattern)} in it says"
