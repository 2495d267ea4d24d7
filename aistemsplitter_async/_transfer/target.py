"""The folder that stems go to: whether it can take them, and which split's it is.

Everything here blocks, and is called in a thread.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path

from aistemsplitter_async._files import find_refused_name, is_read_only, make_folder, reason_of
from aistemsplitter_async._transfer.manifest import Manifest, manifest_name, remove_parts
from aistemsplitter_async._transfer.names import ANY_STEM
from aistemsplitter_async._transfer.partfile import NAME_REFUSED, as_download_error, part_path, status_of
from aistemsplitter_async._transfer.selection import ALL_STEMS, Selection
from aistemsplitter_async.errors import DownloadError

_NOT_BOUGHT = (
    "nothing was bought: if they are the stems of this song, it is paid for; another folder, or overwriting, buys it"
)


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
    return any(status_of(folder / file) is not None for file in manifest.files())


def _holds(folder: Path, manifest: Manifest) -> str:
    if _has_stems(folder, manifest):
        return f"{folder} holds the stems of split {manifest.split_id} already"
    return f"{folder} held the stems of split {manifest.split_id}, as {manifest_name(manifest.pattern)} in it says"
