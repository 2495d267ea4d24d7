"""Downloads stems: a file under its final name is complete, even after a crash or a broken connection.

Bytes go to `.<name>.part` beside the target. The manifest in the same folder says what that part belongs to: the split,
and each stem's validator, its length, and how much of it is durable, so that an interrupted download resumes, in this
process or the next, and a finished one is not fetched again. A part becomes the target in this order, each step durable
before the next: its length was checked, its bytes are synced, the manifest says so, it is renamed.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urljoin
from weakref import WeakValueDictionary

import attrs
from anyio import create_task_group

from aistemsplitter_async._listeners import Listener, as_listener
from aistemsplitter_async._send.pipeline import Pipeline
from aistemsplitter_async._send.reactions import Action, action_for
from aistemsplitter_async._send.transport import StreamedReply
from aistemsplitter_async._tasks import further_threads, run_in_thread, run_stoppable
from aistemsplitter_async._transfer.contents import longest_stem
from aistemsplitter_async._transfer.manifest import Manifest, StemRecord
from aistemsplitter_async._transfer.meter import Meter, OnProgress, Progress
from aistemsplitter_async._transfer.metered import run_metered
from aistemsplitter_async._transfer.mixing import MixPlan, find_unmade, load_audio, make_mix, plan_mixes, sweep
from aistemsplitter_async._transfer.names import ANY_STEM, extension_for, plan_names
from aistemsplitter_async._transfer.partfile import PartFile, part_path
from aistemsplitter_async._transfer.ranges import Incoming, build_range_headers, read_incoming
from aistemsplitter_async._transfer.saver import ManifestSaver
from aistemsplitter_async._transfer.selection import ALL_STEMS, Selection
from aistemsplitter_async._transfer.stem_urls import Refresh, StemURLs
from aistemsplitter_async._transfer.target import prepare_folder
from aistemsplitter_async._transfer.writer import StemWriter
from aistemsplitter_async._wire.error_replies import build_status_error
from aistemsplitter_async._wire.messages import Origin, Reply, Request, Stage
from aistemsplitter_async._wire.urls import URLPolicy
from aistemsplitter_async.config import DOWNLOADS, MIXES, REDIRECT_HOPS
from aistemsplitter_async.errors import (
    APIConnectionError,
    APIStatusError,
    DownloadError,
    IncompleteDownloadError,
    StemsExpiredError,
    UnsafeURLError,
)
from aistemsplitter_async.events import MixMade
from aistemsplitter_async.models import Split

Files = dict[str, Path]
Work = Callable[[], Awaitable[Files]]
Around = Callable[[Work], Awaitable[Files]]

_WORTH_RETRYING_BYTES = 64 * 1024  # a broken connection is retried as long as each attempt gains this much
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_OK = 200
_RANGE_NOT_SATISFIABLE = 416

MAY_PASS = (StemsExpiredError, IncompleteDownloadError)  # a CDN that does not have the stems yet, or answers with pages


@attrs.frozen(kw_only=True)
class _StemDownload:
    """One stem to download; if it is not `kept`, only as a part."""

    stem: str
    name: str
    saver: ManifestSaver
    cap: int
    kept: bool
    overwrite: bool
    on_progress: Listener[Progress] | None

    @property
    def manifest(self) -> Manifest:
        return self.saver.manifest

    def open_part(self) -> PartFile:
        known = self.manifest.stems.get(self.stem)
        durable = 0 if known is None else known.durable or 0
        return PartFile(part_path(self.manifest.folder, self.name), durable=durable)

    def report(self, done: int, total: int | None) -> None:
        if self.on_progress is not None:
            self.on_progress(Progress(self.stem, done, total))


@attrs.frozen
class _Delivery:
    """What is to be in a folder."""

    split: Split
    folder: Path
    pattern: str
    selection: Selection
    plans: list[MixPlan]
    overwrite: bool = attrs.field(kw_only=True)
    threads: Executor = attrs.field(kw_only=True)

    @property
    def kept(self) -> tuple[str, ...]:
        return self.selection.kept(self.split.stems)

    def load_manifest(self) -> Manifest:
        """Return the manifest once all stems are here."""
        known = Manifest.load(self.folder, self.pattern)
        return known or Manifest(self.folder, self.split.id, pattern=self.pattern)


async def _at_once(work: Work) -> Files:
    return await work()


class Downloader:
    """The download stage of one client."""

    def __init__(self, pipeline: Pipeline, refresh: Refresh, urls: URLPolicy) -> None:
        self._pipeline = pipeline
        self._refresh = refresh
        self._allowed = urls
        self._parallel = asyncio.Semaphore(DOWNLOADS)
        self._mixing = asyncio.Semaphore(MIXES)
        self._turns = WeakValueDictionary[tuple[Path, str], asyncio.Lock]()  # of downloads with the same manifest

    def urls(self, split: Split) -> StemURLs:
        """Return the stem URLs of `split`, to be shared by several calls."""
        return StemURLs(split, self._refresh, self._pipeline)

    async def download(
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
        if not split.stems:
            raise DownloadError(f"split {split.id} has no stems to download (it is {split.status})", split_id=split.id)
        plans = plan_mixes(selection, split.stems, pattern)
        if plans:
            await run_in_thread(load_audio)
        turn = self._turns.setdefault((folder, pattern), asyncio.Lock())
        urls = urls or self.urls(split)
        async with turn:
            with further_threads(DOWNLOADS) as threads:  # a slow disk would keep all of the loop's busy
                delivery = _Delivery(split, folder, pattern, selection, plans, overwrite=overwrite, threads=threads)
                files = await fetching(partial(self._fetch_all, delivery, listener, urls))
                return await mixing(partial(self._mix_all, delivery, files))

    async def _fetch_all(self, delivery: _Delivery, listener: Listener[Progress] | None, urls: StemURLs) -> Files:
        """Download the stems that are kept, and those that are needed for mixes that are not made yet."""
        split, selection, syncs, overwrite = delivery.split, delivery.selection, delivery.threads, delivery.overwrite
        names, refused = plan_names(split.stems, delivery.pattern, wanted=selection.fetched(split.stems))
        prepare = partial(
            prepare_folder, delivery.folder, split.id, names, overwrite=overwrite, pattern=delivery.pattern
        )
        manifest = await run_in_thread(prepare, pool=syncs)
        saver, cap, kept = ManifestSaver(manifest, syncs), longest_stem(split.duration_seconds), delivery.kept
        mixed: set[str] = {stem for plan in await self._find_unmade(delivery, manifest, urls) for stem in plan.stems}
        items = [
            _StemDownload(
                stem=stem,
                name=name,
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

        async def fetch(item: _StemDownload) -> None:
            try:
                files[item.stem] = await self._download(item, split, urls)
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
        threads, kept, mixes = delivery.threads, delivery.kept, Files()
        manifest = await run_in_thread(delivery.load_manifest, pool=threads)
        for plan in delivery.plans:
            if all(stem in files for stem in plan.stems):
                async with self._mixing:
                    await self._mix(delivery, manifest, plan, {stem: files[stem] for stem in plan.stems})
            mixes[plan.name] = delivery.folder / manifest.mixes[plan.name].file
        await run_in_thread(sweep, manifest, kept, mixes, pool=threads)
        await run_in_thread(manifest.remove_replaced, pool=threads)
        return {stem: files[stem] for stem in kept} | mixes

    async def _mix(self, delivery: _Delivery, manifest: Manifest, plan: MixPlan, stems: Files) -> None:
        clock, overwrite = self._pipeline.clock, delivery.overwrite
        began = clock.monotonic()
        gain_db = await run_stoppable(
            lambda is_stopped: make_mix(manifest, plan, stems, is_stopped, overwrite=overwrite), pool=delivery.threads
        )
        now = clock.monotonic()
        self._pipeline.emit(
            lambda: MixMade(
                split_id=delivery.split.id,
                mix=plan.name,
                stems=plan.stems,
                gain_db=gain_db,
                duration=now - began,
                at=now,
            )
        )

    async def _download(self, item: _StemDownload, split: Split, urls: StemURLs) -> Path:
        if not item.overwrite:
            finished = await run_in_thread(item.manifest.finished, item.stem, pool=item.saver.syncs)
            if finished is not None:
                return finished
            target = item.manifest.folder / f"{item.name}.{extension_for(urls.of(item.stem), None)}"
            if item.kept and await run_in_thread(os.path.lexists, target):  # better now than after the download
                raise DownloadError(f"{target} exists already; nothing was overwritten", code="EXISTS")
        async with self._parallel:
            while True:
                renewals = urls.renewals
                try:
                    return await self._fetch(item, urls.of(item.stem))
                except (APIStatusError, UnsafeURLError) as error:
                    if action_for(Stage.DOWNLOAD, error) is not Action.REFRESH:
                        raise
                    refusal = error
                if not await urls.renew(renewals):
                    break
        if isinstance(refusal, UnsafeURLError):
            raise refusal
        raise StemsExpiredError(
            f"the URL of stem {item.stem!r} was refused (HTTP {refusal.status_code}), and so was a fresh one",
            split_id=split.id,
            status_code=refusal.status_code,
        )

    async def _fetch(self, item: _StemDownload, url: str) -> Path:
        url = self._allowed.vet(url)
        part = await run_in_thread(item.open_part, undo=PartFile.close)
        async with StemWriter(part, item.stem, item.saver, cap=item.cap) as writer:
            await self._fill(item, url, writer)
            await writer.complete()
            if not item.kept:
                return part.path
            target = item.manifest.folder / writer.record.file
            publish = partial(part.publish, target, overwrite=item.overwrite)
            await run_in_thread(publish, pool=item.saver.syncs)
            return target

    async def _fill(self, item: _StemDownload, url: str, writer: StemWriter) -> None:
        """Download the whole stem to the part."""
        while True:
            before = writer.held.offset
            try:
                await self._pipeline.run(Stage.DOWNLOAD, lambda: self._attempt(item, url, writer), url=url)
            except (APIConnectionError, IncompleteDownloadError):
                await writer.flush()
                if writer.held.offset - before < _WORTH_RETRYING_BYTES:
                    raise
            else:
                return

    async def _attempt(self, item: _StemDownload, url: str, writer: StemWriter) -> None:
        clock = self._pipeline.clock
        meter = Meter(self._pipeline.timeouts, now=clock.monotonic())
        work = self._receive(item, url, writer, meter)
        await run_metered(work, meter, clock=clock, what=f"the download of {item.stem}")

    async def _receive(self, item: _StemDownload, url: str, writer: StemWriter, meter: Meter) -> None:
        await writer.flush()  # what came before the connection broke
        held = writer.held
        if writer.record.file and held.offset and held.offset == held.total:  # only the rename was missing
            return
        async with self._open(url, build_range_headers(held)) as reply:
            if reply.status == _RANGE_NOT_SATISFIABLE:
                writer.forget()
                raise IncompleteDownloadError(f"the part of {item.stem} here no longer fits the server's file")
            if not 200 <= reply.status < 300:  # noqa: PLR2004
                raise await self._status_error(reply, item)
            try:
                incoming = read_incoming(reply.status, reply.headers, held)
            except IncompleteDownloadError:
                if reply.status != _OK:  # one that begins at the beginning says nothing of what is here
                    writer.forget()
                raise
            extension = extension_for(url, reply.headers.get("content-type"))
            record = StemRecord(file=f"{item.name}.{extension}", etag=incoming.etag, total=incoming.total)
            writer.begin(record, incoming)
            received = await self._write(item, reply, incoming, writer, meter)
        if incoming.length not in (None, received):
            raise IncompleteDownloadError(f"{item.stem} ended after {received} of {incoming.length} bytes")

    async def _write(
        self, item: _StemDownload, reply: StreamedReply, incoming: Incoming, writer: StemWriter, meter: Meter
    ) -> int:
        """Write the body to the part; return how many bytes it had."""
        clock, length = self._pipeline.clock, incoming.length
        total, received = None if length is None else incoming.start + length, 0
        item.report(incoming.start, total)
        async for chunk in reply.chunks():
            received += len(chunk)
            meter.add(len(chunk), now=clock.monotonic())
            item.report(incoming.start + received, total)
            if length is not None and received > length:
                writer.forget()
                return received
            await writer.add(chunk)
        await writer.end()
        meter.finish(now=clock.monotonic())
        return received

    @asynccontextmanager
    async def _open(self, url: str, headers: dict[str, str]) -> AsyncIterator[StreamedReply]:
        """Open a stem URL, following a few vetted redirects."""
        for hops_left in range(REDIRECT_HOPS, -1, -1):
            request = Request(origin=Origin.CDN, method="GET", url=url, headers=headers)
            async with self._pipeline.transport.stream(request) as reply:
                location = reply.headers.get("location")
                if reply.status not in _REDIRECTS or location is None or not hops_left:
                    yield reply
                    return
            url = self._allowed.vet(_join(url, location))

    async def _status_error(self, reply: StreamedReply, item: _StemDownload) -> APIStatusError:
        body = b""
        async for chunk in reply.chunks():
            body = chunk
            break  # the first bytes of a refusal are enough to show
        answer = Reply(status=reply.status, headers=reply.headers, body=body)
        now = self._pipeline.clock.now()
        return build_status_error(answer, what=f"download {item.stem}", now=now, origin=Origin.CDN)


def _join(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError:
        raise UnsafeURLError(f"refused to visit {location[:200]!r}: not a URL") from None
