"""Downloads stems: a file under its final name is complete, even after a crash or a broken connection.

Bytes go to `.<name>.part` beside the target. The manifest in the same folder says what that part belongs to: the split,
and each stem's validator, its length, and how much of it is durable, so that an interrupted download resumes, in this
process or the next, and a finished one is not fetched again. A part becomes the target in this order, each step durable
before the next: its length was checked, its bytes are synced, the manifest says so, it is renamed.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from aistemsplitter_async._listeners import Listener
from aistemsplitter_async._send.attempt import Attempt
from aistemsplitter_async._send.pipeline import Pipeline
from aistemsplitter_async._send.transfer import Transfer
from aistemsplitter_async._send.transport import StreamedReply
from aistemsplitter_async._tasks import run_in_thread
from aistemsplitter_async._transfer.contents import longest_stem
from aistemsplitter_async._transfer.manifest import Manifest, StemRecord
from aistemsplitter_async._transfer.meter import Meter, Progress
from aistemsplitter_async._transfer.metered import run_metered
from aistemsplitter_async._transfer.names import extension_for
from aistemsplitter_async._transfer.partfile import EXISTS, PartFile, part_path
from aistemsplitter_async._transfer.ranges import Incoming
from aistemsplitter_async._transfer.saver import ManifestSaver
from aistemsplitter_async._transfer.selection import NO_STEMS, Selection
from aistemsplitter_async._transfer.stem_stream import StemStream
from aistemsplitter_async._transfer.stem_urls import Refresh, StemURLs
from aistemsplitter_async._transfer.writer import StemWriter
from aistemsplitter_async._wire.urls import URLPolicy
from aistemsplitter_async.config import DOWNLOADS
from aistemsplitter_async.errors import APIConnectionError, DownloadError, IncompleteDownloadError
from aistemsplitter_async.models import Split

Opened = Callable[[Coroutine[Any, Any, None]], Awaitable[None]]
_WORTH_RETRYING_BYTES = 64 * 1024  # a broken connection is retried as long as each attempt gains this much


@attrs.frozen(kw_only=True)
class StemDownload:
    """One stem to download; if it is not `kept`, only as a part."""

    stem: str
    name: str
    urls: StemURLs
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

    def check_free(self) -> None:
        """Check that no file has the stem's name.

        Raises:
            DownloadError: one has (`code` is `EXISTS`).
        """
        target = self.manifest.folder / f"{self.name}.{extension_for(self.urls.of(self.stem), None)}"
        if os.path.lexists(target):
            raise DownloadError(f"{target} exists already; nothing was overwritten", code=EXISTS)

    def find_finished(self) -> Path | None:
        """Return the stem's file if another process has finished it since the manifest was loaded.

        Raises:
            DownloadError: the disk fails.
        """
        latest = Manifest.load(self.manifest.folder, self.manifest.pattern)
        same_split = latest is not None and latest.split_id == self.manifest.split_id
        return latest.finished(self.stem) if latest is not None and same_split else None

    def report(self, done: int, total: int | None) -> None:
        if self.on_progress is not None:
            self.on_progress(Progress(self.stem, done, total))


class Downloader:
    """The download stage of one client."""

    def __init__(self, pipeline: Pipeline, refresh: Refresh, urls: URLPolicy) -> None:
        self._pipeline = pipeline
        self._refresh = refresh
        self._allowed = urls
        self._parallel = asyncio.Semaphore(DOWNLOADS)

    def urls(self, split: Split) -> StemURLs:
        """Return the stem URLs of `split`, to be shared by several calls."""
        return StemURLs(split, self._refresh, self._pipeline, self._allowed)

    @asynccontextmanager
    async def open_stem(self, split: Split, stem: str, opened: Opened) -> AsyncGenerator[StemStream, None]:
        """Open the stream of one stem of `split`. How many there are at a time is the caller's choice.

        Args:
            split: one that succeeded.
            stem: the stem's name.
            opened: awaits the opening, by a deadline.

        Raises:
            DownloadError: the split has none (`code` is `NO_STEMS`), or not this one (`NO_SUCH_STEM`). Also what
                `StemStream.read` raises.
        """
        check_stems(split, Selection.parse((stem,)))
        stream = StemStream(stem, self.urls(split), self._pipeline, cap=longest_stem(split.duration_seconds))
        try:
            await opened(stream.open())
            yield stream
        finally:
            await stream.aclose()

    async def download(self, item: StemDownload) -> Path:
        """Download one stem, or find it; return its file, or its part if it is not kept.

        Raises:
            DownloadError: and its kinds; also `APIConnectionError` and `APIStatusError` of the CDN.
        """
        if not item.overwrite:
            finished = await run_in_thread(item.manifest.finished, item.stem, pool=item.saver.syncs)
            if finished is not None:
                return finished
        try:
            async with self._parallel:
                if not item.overwrite and item.kept:  # better now than after the download
                    await run_in_thread(item.check_free)
                return await item.urls.run(item.stem, partial(self._fetch, item))
        except DownloadError as error:
            if error.code != EXISTS or (finished := await run_in_thread(item.find_finished)) is None:
                raise
            return finished

    async def _fetch(self, item: StemDownload, url: str) -> Path:
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

    async def _fill(self, item: StemDownload, url: str, writer: StemWriter) -> None:
        """Download the whole stem to the part."""
        pipeline = self._pipeline
        call = item.urls.call(item.stem)
        held = writer.held.offset
        with Transfer(call, pipeline.emit, resumed_from=held) as transfer:
            while True:
                before = writer.held.offset
                try:
                    await pipeline.run(call, lambda: self._attempt(item, url, writer, transfer), url=url)
                except (APIConnectionError, IncompleteDownloadError):
                    await writer.flush()
                    if writer.held.offset - before < _WORTH_RETRYING_BYTES:
                        raise
                else:
                    return

    async def _attempt(self, item: StemDownload, url: str, writer: StemWriter, transfer: Transfer) -> None:
        await writer.flush()  # what came before the connection broke
        held = writer.held
        if writer.record.file and held.offset and held.offset == held.total:  # only the rename was missing
            return
        clock = self._pipeline.clock
        meter = Meter(self._pipeline.timeouts, now=clock.monotonic())
        with item.urls.attempt(transfer.call, url) as attempt:
            try:
                work = self._receive(item, url, writer, meter, attempt)
                await run_metered(work, meter, clock=clock, what=f"the download of {item.stem}")
            finally:
                transfer.bytes += attempt.received

    async def _receive(self, item: StemDownload, url: str, writer: StemWriter, meter: Meter, attempt: Attempt) -> None:
        opening = item.urls.open(item.stem, url, writer.held, attempt, forget=writer.forget)
        async with opening as (reply, incoming):
            extension = extension_for(url, reply.headers.get("content-type"))
            record = StemRecord(file=f"{item.name}.{extension}", etag=incoming.etag, total=incoming.total)
            writer.begin(record, incoming)
            received = await self._write(item, reply, incoming, writer, meter)
        if incoming.length not in (None, received):
            raise IncompleteDownloadError(f"{item.stem} ended after {received} of {incoming.length} bytes")

    async def _write(
        self, item: StemDownload, reply: StreamedReply, incoming: Incoming, writer: StemWriter, meter: Meter
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


def check_stems(split: Split, selection: Selection) -> None:
    """Check that a split has what is selected of it.

    Raises:
        DownloadError: it has no stems (`code` is `NO_STEMS`), or not those (`NO_SUCH_STEM`).
    """
    if not split.stems:
        ahead = "" if split.is_terminal else "; wait until it has succeeded, with wait_for_split or a job"
        raise DownloadError(
            f"split {split.id} has no stems (it is {split.status}){ahead}", code=NO_STEMS, split_id=split.id
        )
    try:
        selection.kept(split.stems)
    except DownloadError as error:
        error.split_id = split.id
        raise
