"""The manifest of a stems folder: which split its files belong to, and what is known of each.

Everything here blocks, and is called in a thread.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import attrs

from aistemsplitter_async._files import fresh_path, replacing, sole_writer, sync_folder
from aistemsplitter_async._transfer.names import (
    ANY_STEM,
    AUDIO_EXTENSIONS,
    UNKNOWN_EXTENSION,
    check_name,
    fold,
    plan_names,
    stem_file_name,
)
from aistemsplitter_async._transfer.partfile import as_download_error, is_superseded, part_path, remove_left, status_of
from aistemsplitter_async._transfer.ranges import read_etag
from aistemsplitter_async.config import REPLY_CAP_BYTES
from aistemsplitter_async.errors import UnsafeNameError

MANIFEST_NAME = ".stems.json"
_VERSION = 1
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


@attrs.frozen(kw_only=True)
class MixRecord:
    """What is known of one mix.

    Attributes:
        file: its file's name.
        stems: which it is the sum of.
        total: its length in bytes; `None` until it is complete.
        gain_db: what kept the sum from clipping, in dB: 0 or less.
    """

    file: str
    stems: tuple[str, ...] = attrs.field(converter=tuple[str, ...])
    total: int | None = None
    gain_db: float = 0.0


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
        mixes: what is known of each mix, once it was begun.
        pattern: what the files are called: a name with `{stem}` in it.
        replaced: files of an earlier split that these stems replace, and their lengths in bytes.
    """

    folder: Path
    split_id: str
    stems: dict[str, StemRecord] = attrs.field(factory=dict[str, StemRecord])
    mixes: dict[str, MixRecord] = attrs.field(factory=dict[str, MixRecord], kw_only=True)
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
            mixes = {name: MixRecord(**entry) for name, entry in saved.get("mixes", {}).items()}
            version, split_id, replaced = saved["version"], saved["split_id"], dict(saved.get("replaced", {}))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        known = version == _VERSION and isinstance(split_id, str) and split_id.isprintable()
        usable = (
            known
            and all(_is_ours(pattern, *item) for item in stems.items())
            and all(_is_our_mix(pattern, *item) for item in mixes.items())
            and all(_was_ours(pattern, *item) for item in replaced.items())
        )
        return cls(folder, split_id, stems, mixes=mixes, pattern=pattern, replaced=replaced) if usable else None

    def save(self, ours: Collection[str] | None = None, *, dropped: Mapping[str, MixRecord] | None = None) -> None:
        """Write the manifest; a reader sees the old or the new one, never half of it.

        Args:
            ours: stems and mixes whose records are newer here. What is on disk of the others is kept, since other
                processes may download them. Without it, nothing is.
            dropped: mixes to forget, as they were when that was decided. Another process may have made one since.

        Raises:
            DownloadError: it cannot be written.
        """
        path = self.folder / manifest_name(self.pattern)
        with as_download_error(fresh_path(path)), sole_writer(self.folder):
            if ours is not None:
                self.take_over(ours)
            if dropped:
                self.mixes = {name: mix for name, mix in self.mixes.items() if dropped.get(name) != mix}
            saved = {
                "version": _VERSION,
                "split_id": self.split_id,
                "stems": {name: attrs.asdict(entry) for name, entry in self.stems.items()},
                "mixes": {name: attrs.asdict(mix) for name, mix in self.mixes.items()},
                "replaced": self.replaced,
            }
            # Durable: after a power cut, a stem without a manifest would be taken for another program's file.
            with replacing(path, durable=True, mode=0o666) as file:
                file.write(json.dumps(saved, indent=1))

    def take_over(self, ours: Collection[str]) -> None:
        """Take over what others have written of the same split since this was loaded, except of `ours`."""
        known = Manifest.load(self.folder, self.pattern)
        if known is not None and known.split_id == self.split_id:
            self.stems |= {stem: entry for stem, entry in known.stems.items() if stem not in ours}
            self.mixes |= {name: mix for name, mix in known.mixes.items() if name not in ours}

    def finished(self, stem: str) -> Path | None:
        """Return the stem's file if it is here and complete: renamed, durably, and as long as was promised.

        Raises:
            DownloadError: the disk fails.
        """
        entry = self.stems.get(stem)
        if entry is None or entry.total is None or entry.durable not in (None, entry.total):
            return None
        # What is replaced may be another split's, whatever this one's manifest says of its own stem.
        is_durable = entry.durable == entry.total and entry.file not in self.replaced
        return self._finished(entry.file, entry.total, durable=is_durable)

    def finished_mix(self, name: str, stems: tuple[str, ...] | None = None) -> Path | None:
        """Return the file of a mix if it is here and complete, and, if `stems` are given, the sum of those.

        Raises:
            DownloadError: the disk fails.
        """
        mix = self.mixes.get(name)
        if mix is None or mix.total is None or stems not in (None, mix.stems):
            return None
        return self._finished(mix.file, mix.total, durable=False)

    def files(self) -> set[str]:
        """Return the names of all files that it knows of."""
        return {entry.file for entry in self.stems.values()} | {mix.file for mix in self.mixes.values()}

    def _finished(self, file: str, total: int, *, durable: bool) -> Path | None:
        target = self.folder / file
        held = _status_if_whole(target, total)
        if held is None:
            return None
        part = part_path(self.folder, target.stem)
        unfinished = status_of(part)
        is_other = unfinished is not None and not os.path.samestat(held, unfinished)
        with as_download_error(target):  # the process that renamed it may have been killed before it synced that
            if is_other and not is_superseded(part, target, durable=durable):
                return None
            sync_folder(self.folder)
            if is_other:
                remove_left(part)
            else:
                part.unlink(missing_ok=True)  # the second half of `_rename_to_new`
        return target

    def replace(self, split_id: str) -> Self:
        """Return the saved manifest of a split that replaces this one. The old files stay until the new are complete.

        Raises:
            DownloadError: it cannot be written.
        """
        names, _ = plan_names([*self.stems, *self.mixes], self.pattern)
        remove_parts(self.folder, names.values())
        with as_download_error(self.folder):
            files = [*map(self.finished, self.stems), *map(self.finished_mix, self.mixes)]
            finished = {path.name: path.stat().st_size for path in files if path is not None}
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
        self.take_over(())
        ours = set(map(fold, self.files()))
        for file, total in self.replaced.items():
            if _status_if_whole(self.folder / file, total) is not None and fold(file) not in ours:
                with contextlib.suppress(OSError):  # an old file that stays does not make the new ones a failure
                    (self.folder / file).unlink()
        self.replaced = {}
        self.save(())


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


def _is_our_mix(pattern: str, name: str, mix: MixRecord) -> bool:
    named = all(isinstance(stem, str) for stem in mix.stems)
    gain = type(mix.gain_db) in (int, float) and mix.gain_db <= 0
    return named and gain and _is_ours(pattern, name, StemRecord(file=mix.file, total=mix.total))


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
