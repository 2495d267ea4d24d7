"""Collects the files of a split in a folder: the stems that are wanted, and the mixes of them.

The stems come from the `downloader`, several at a time; then a thread makes the mixes, of a few songs at a time.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Collection, Mapping
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from weakref import WeakValueDictionary

import attrs
from anyio import create_task_group

from aistemsplitter_async._listeners import Listener, as_listener
from aistemsplitter_async._send.pipeline import Pipeline
from aistemsplitter_async._tasks import further_threads, run_in_thread, run_stoppable
from aistemsplitter_async._transfer.contents import longest_stem
from aistemsplitter_async._transfer.downloader import Downloader, StemDownload, check_stems
from aistemsplitter_async._transfer.manifest import Manifest
from aistemsplitter_async._transfer.meter import OnProgress, Progress
from aistemsplitter_async._transfer.mixing import (
    MixPlan,
    find_unmade,
    load_audio,
    make_mix,
    plan_mixes,
    read_gains,
    sweep,
)
from aistemsplitter_async._transfer.names import ANY_STEM, extension_for, plan_names
from aistemsplitter_async._transfer.partfile import PartFile, part_path
from aistemsplitter_async._transfer.saver import ManifestSaver
from aistemsplitter_async._transfer.selection import ALL_STEMS, Selection
from aistemsplitter_async._transfer.stem_urls import MAY_PASS, StemURLs
from aistemsplitter_async._transfer.target import prepare_folder
from aistemsplitter_async.config import DOWNLOADS, MIXES
from aistemsplitter_async.events import MixMade
from aistemsplitter_async.models import Split

Files = dict[str, Path]
Work = Callable[[], Awaitable[Files]]
Around = Callable[[Work], Awaitable[Files]]


@attrs.define(eq=False)
class _Delivery:
    """What is to be in a folder.

    Attributes:
        manifest: of the folder, once the stems are fetched.
        unmade: the mixes that are still to be made then.
        held: parts of stems that only these need, locked, or another process would finish or remove them.
    """

    split: Split
    folder: Path
    pattern: str
    selection: Selection
    plans: list[MixPlan]
    overwrite: bool = attrs.field(kw_only=True)
    threads: Executor = attrs.field(kw_only=True)
    manifest: Manifest | None = attrs.field(default=None, init=False)
    unmade: list[MixPlan] = attrs.field(factory=list[MixPlan], init=False)
    held: list[PartFile] = attrs.field(factory=list[PartFile], init=False)

    @property
    def kept(self) -> tuple[str, ...]:
        return self.selection.kept(self.split.stems)

    def release(self) -> None:
        """Let go of the parts that are held."""
        while self.held:
            self.held.pop().close()

    def finish(self, mixes: Collection[str]) -> None:
        """Remove what is not needed any more, now that all files are here.

        Raises:
            DownloadError: the disk fails.
        """
        assert self.manifest is not None  # noqa: S101  # all files are here
        self.release()
        self.manifest.take_over(())
        sweep(self.manifest, self.kept, mixes)
        self.manifest.remove_replaced()


async def _at_once(work: Work) -> Files:
    return await work()


class Collector:
    """Collects the files of splits, for one client."""

    def __init__(self, pipeline: Pipeline, downloader: Downloader) -> None:
        self._pipeline = pipeline
        self._downloader = downloader
        self._mixing = asyncio.Semaphore(max(1, min(MIXES, (os.cpu_count() or 1) - 1)))
        self._turns = WeakValueDictionary[tuple[Path, str], asyncio.Lock]()  # of downloads with the same manifest

    async def collect(
        self,
        split: Split,
        folder: Path,
        *,
        overwrite: bool,
        on_progress: OnProgress | None,
        pattern: str = ANY_STEM,
        urls: StemURLs | None = None,
        selection: Selection = ALL_STEMS,
        fetching: Around = _at_once,
        mixing: Around = _at_once,
    ) -> Files:
        """Download what is selected of `split` into `folder`; return the files by the names of stems and mixes.

        A stem that fails does not stop its siblings; the first failure, or first of `MAY_PASS`, is raised once they are
        done. Another call continues where this one ended, and skips the stems that are complete. Where another
        split's stems are overwritten, those without a successor are removed once the new ones are complete. Another
        download of files with the same names waits for this one, and finds what it has finished.

        Args:
            split: one that succeeded.
            folder: created if missing. Several splits may share it, each with a pattern of its own.
            overwrite: whether files of other splits, or of the user, may be replaced.
            on_progress: a listener, called with a `Progress` per stem as bytes arrive.
            pattern: what the files are called, without extension: a name that contains `{stem}` once.
            urls: those of an earlier call for the same split.
            selection: what is downloaded; nothing else is fetched.
            fetching: how to call what downloads; perhaps again, or only when there is room for it.
            mixing: how to call what makes the mixes; a place for downloads need not be held meanwhile.

        Raises:
            DownloadError: and its kinds; also `APIConnectionError` and `APIStatusError` of the CDN.
            ConfigurationError: mixes cannot be made here; nothing was fetched.
        """
        listener = as_listener(on_progress, "on_progress")
        check_stems(split, selection)
        plans = plan_mixes(selection, split.stems, pattern)
        if plans:
            await run_in_thread(load_audio)
        turn = self._turns.setdefault((folder, pattern), asyncio.Lock())
        urls = urls or self._downloader.urls(split)
        async with turn:
            with further_threads(DOWNLOADS) as threads:  # a slow disk would keep all of the loop's busy
                delivery = _Delivery(split, folder, pattern, selection, plans, overwrite=overwrite, threads=threads)
                try:
                    files = await fetching(partial(self._fetch_all, delivery, listener, urls))
                    return await mixing(partial(self._mix_all, delivery, files))
                finally:
                    delivery.release()

    async def _fetch_all(self, delivery: _Delivery, listener: Listener[Progress] | None, urls: StemURLs) -> Files:
        """Download the stems that are kept, and those that are needed for mixes that are not made yet."""
        split, selection, syncs, overwrite = delivery.split, delivery.selection, delivery.threads, delivery.overwrite
        names, refused = plan_names(split.stems, delivery.pattern, wanted=selection.fetched(split.stems))
        prepare = partial(
            prepare_folder, delivery.folder, split.id, names, overwrite=overwrite, pattern=delivery.pattern
        )
        delivery.release()  # of an earlier attempt
        delivery.manifest = manifest = await run_in_thread(prepare, pool=syncs)
        delivery.unmade = await self._find_unmade(delivery, manifest, urls)
        saver = ManifestSaver(manifest, syncs, ours=[plan.name for plan in delivery.unmade])
        cap, kept = longest_stem(split.duration_seconds), delivery.kept
        mixed = {stem for plan in delivery.unmade for stem in plan.stems}
        items = [
            StemDownload(
                stem=stem,
                name=name,
                urls=urls,
                saver=saver,
                cap=cap,
                kept=stem in kept,
                overwrite=overwrite,
                on_progress=listener,
            )
            for stem, name in names.items()
            if stem in kept or stem in mixed
        ]
        files: Files = {}
        failures: list[Exception] = [*refused.values()]

        async def fetch(item: StemDownload) -> None:
            try:
                files[item.stem] = file = await self._downloader.download(item)
                if file == part_path(delivery.folder, item.name):
                    delivery.held.append(await run_in_thread(item.open_part, undo=PartFile.close))
            except Exception as error:  # noqa: BLE001  # returned, so that it does not cancel the siblings
                failures.append(error)

        async with create_task_group() as group:
            for item in items:
                group.start_soon(fetch, item)
        if failures:
            raise next((error for error in failures if isinstance(error, MAY_PASS)), failures[0])
        return {item.stem: files[item.stem] for item in items}

    async def _find_unmade(self, delivery: _Delivery, manifest: Manifest, urls: StemURLs) -> list[MixPlan]:
        if not delivery.plans:
            return []
        extension = extension_for(urls.of(delivery.plans[0].stems[0]), None)
        find = partial(find_unmade, manifest, delivery.plans, extension, overwrite=delivery.overwrite)
        return await run_in_thread(find, pool=delivery.threads)

    async def _mix_all(self, delivery: _Delivery, files: Files) -> Files:
        """Make the mixes of downloaded stems, a few songs at a time; remove what was only needed for that."""
        manifest = delivery.manifest
        assert manifest is not None  # noqa: S101  # the stems are fetched
        for plan in [*delivery.unmade]:
            async with self._mixing:
                await self._mix(delivery, manifest, plan, {stem: files[stem] for stem in plan.stems})
            delivery.unmade.remove(plan)  # the next may fail, and be tried again
        mixes = {plan.name: delivery.folder / manifest.mixes[plan.name].file for plan in delivery.plans}
        await run_in_thread(delivery.finish, mixes, pool=delivery.threads)
        return {stem: files[stem] for stem in delivery.kept} | mixes

    async def _mix(self, delivery: _Delivery, manifest: Manifest, plan: MixPlan, stems: Files) -> None:
        clock, overwrite = self._pipeline.clock, delivery.overwrite
        began = clock.monotonic()
        gain_db = await run_stoppable(
            lambda is_stopped: make_mix(manifest, plan, stems, is_stopped, overwrite=overwrite), pool=delivery.threads
        )
        now = clock.monotonic()
        self._pipeline.emit(
            MixMade,
            lambda: MixMade(
                split_id=delivery.split.id,
                mix=plan.name,
                stems=plan.stems,
                gain_db=gain_db,
                seconds=now - began,
                at=now,
            ),
        )

    @staticmethod
    async def check_mixes(selection: Selection) -> None:
        """Check that the selected mixes can be made here, before anything is spent.

        Raises:
            ConfigurationError: what they are made with is not installed.
        """
        if selection.mixes:
            await run_in_thread(load_audio)

    @staticmethod
    async def read_gains(files: Mapping[str, Path], selection: Selection) -> dict[str, float]:
        """Return the gain of each selected mix among downloaded files, in dB: 0 or less."""
        return await run_in_thread(read_gains, files, selection.mixes)
