"""Saves a manifest from the event loop: in a thread, one save at a time, shared by the changes that wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from concurrent.futures import Executor
from functools import partial

import attrs

from aistemsplitter_async._tasks import join, own, run_in_thread
from aistemsplitter_async._transfer.manifest import Manifest, StemRecord


class ManifestSaver:
    """The manifest of one download, written by all its stems.

    A save takes as long as the disk needs for a sync. Changes that come meanwhile share the next one, so that a slow
    disk is not asked for a save per stem.

    Attributes:
        manifest: as it will be once every save is done.
        syncs: threads of those who sync, each perhaps for long.

    Args:
        ours: mixes that it knows better than what another process has written meanwhile.
    """

    def __init__(self, manifest: Manifest, syncs: Executor, *, ours: Collection[str] = ()) -> None:
        self.manifest = manifest
        self.syncs = syncs
        self._recorded = set(ours)
        self._turn = asyncio.Lock()
        self._next: asyncio.Task[None] | None = None  # a save that has not begun, and so will have every change

    async def record(self, stem: str, entry: StemRecord) -> None:
        """Return once the manifest on the disk says `entry` of `stem`. A cancelled caller waits for that too.

        Raises:
            DownloadError: it cannot be written.
        """
        self.manifest.stems[stem] = entry
        self._recorded.add(stem)
        if self._next is None:
            self._next = own(self._save())
        await join(self._next)

    async def _save(self) -> None:
        async with self._turn:
            self._next = None
            now = attrs.evolve(
                self.manifest, stems=dict(self.manifest.stems), mixes=dict(self.manifest.mixes)
            )  # the thread's own
            await run_in_thread(partial(now.save, frozenset(self._recorded)), pool=self.syncs)
