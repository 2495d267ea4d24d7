"""The folder for audio files, and the caps on its size."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from aistemsplitter_async.sandbox.service.errors import StorageFullError
from aistemsplitter_async.sandbox.service.limits import Limits


class Storage:
    """Files by name: `sources/` holds uploads and fetched files, `stems/<split id>/` the stems of a split.

    Space is booked before it is written, so parallel uploads cannot exceed the cap together.
    """

    def __init__(self, root: Path, limits: Limits) -> None:
        self._limits = limits
        self._sources = root / "sources"
        self._stems = root / "stems"
        self._sources.mkdir(parents=True, exist_ok=True)
        self._stems.mkdir(parents=True, exist_ok=True)
        self._booked: dict[str, int] = {}
        self._used_bytes = 0

    @property
    def used_bytes(self) -> int:
        """Bytes booked."""
        return self._used_bytes

    @property
    def files(self) -> int:
        """Number of sources and sets of stems."""
        return len(self._booked)

    def source_path(self, name: str) -> Path:
        """Return the path of the source called `name`."""
        return self._sources / name

    def stem_folder(self, split_id: str) -> Path:
        """Return the folder of a split's stems."""
        return self._stems / split_id

    def holds(self, name: str) -> bool:
        """Return whether space is booked for `name`."""
        return name in self._booked

    def book(self, name: str, size_bytes: int) -> None:
        """Book space for `name`, or change what it has.

        Raises:
            StorageFullError: A cap would be exceeded; nothing is booked.
        """
        before = self._booked.get(name)
        used = self._used_bytes - (before or 0) + size_bytes
        if used > self._limits.max_disk_bytes or (before is None and self.files >= self._limits.max_files):
            raise StorageFullError("The sandbox's storage is full.")
        self._booked[name] = size_bytes
        self._used_bytes = used

    def drop_source(self, name: str) -> None:
        """Delete a source and release its space; an absent one is not an error."""
        self.source_path(name).unlink(missing_ok=True)
        self._used_bytes -= self._booked.pop(name, 0)

    def drop_stems(self, split_id: str) -> None:
        """Delete a split's stems and release their space; absent ones are not an error."""
        shutil.rmtree(self.stem_folder(split_id), ignore_errors=True)
        self._used_bytes -= self._booked.pop(split_id, 0)

    def remove_orphans(self, known: Collection[str]) -> None:
        """Delete sources not in `known`: files that were being written when the process was killed."""
        for path in self._sources.iterdir():
            if path.name not in known:
                path.unlink()
