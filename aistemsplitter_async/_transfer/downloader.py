"""Downloads stems: a file under its final name is complete, even after a crash or a broken connection.

Bytes go to `.<name>.part` beside the target. The manifest in the same folder says what that part belongs to: the split,
and each stem's validator, its length, and how much of it is durable, so that an interrupted download resumes, in this
process or the next, and a finished one is not fetched again. A part becomes the target in this order, each step durable
before the next: its length was checked, its bytes are synced, the manifest says so, it is renamed.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urljoin

import attrs

from aistemsplitter_async._listeners import Listener
from aistemsplitter_async._send.pipeline import Pipeline
from aistemsplitter_async._send.reactions import Action, action_for
from aistemsplitter_async._send.transport import StreamedReply
from aistemsplitter_async._tasks import run_in_thread
from aistemsplitter_async._transfer.manifest import Manifest, StemRecord
from aistemsplitter_async._transfer.meter import Meter, Progress
from aistemsplitter_async._transfer.metered import run_metered
from aistemsplitter_async._transfer.names import extension_for
from aistemsplitter_async._transfer.partfile import PartFile, part_path
from aistemsplitter_async._transfer.ranges import Incoming, build_range_headers, read_incoming
from aistemsplitter_async._transfer.saver import ManifestSaver
from aistemsplitter_async._transfer.stem_urls import Refresh, StemURLs
from aistemsplitter_async._transfer.writer import StemWriter
from aistemsplitter_async._wire.error_replies import build_status_error
from aistemsplitter_async._wire.messages import Origin, Reply, Request, Stage
from aistemsplitter_async._wire.urls import URLPolicy
from aistemsplitter_async.config import DOWNLOADS, REDIRECT_HOPS
from aistemsplitter_async.errors import (
    APIConnectionError,
    APIStatusError,
    DownloadError,
    IncompleteDownloadError,
    StemsExpiredError,
    UnsafeURLError,
)
from aistemsplitter_async.models import Split

_WORTH_RETRYING_BYTES = 64 * 1024  # a broken connection is retried as long as each attempt gains this much
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_OK = 200
_RANGE_NOT_SATISFIABLE = 416

MAY_PASS = (StemsExpiredError, IncompleteDownloadError)  # a CDN that does not have the stems yet, or answers with pages


@attrs.frozen(kw_only=True)
class StemDownload:
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


class Downloader:
    """The download stage of one client."""

    def __init__(self, pipeline: Pipeline, refresh: Refresh, urls: URLPolicy) -> None:
        self._pipeline = pipeline
        self._refresh = refresh
        self._allowed = urls
        self._parallel = asyncio.Semaphore(DOWNLOADS)

    def urls(self, split: Split) -> StemURLs:
        """Return the stem URLs of `split`, to be shared by several calls."""
        return StemURLs(split, self._refresh, self._pipeline)

    async def download(self, item: StemDownload, split: Split, urls: StemURLs) -> Path:
        """Download one stem, or find it; return its file, or its part if it is not kept.

        Raises:
            DownloadError: and its kinds; also `APIConnectionError` and `APIStatusError` of the CDN.
        """
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

    async def _fetch(self, item: StemDownload, url: str) -> Path:
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

    async def _fill(self, item: StemDownload, url: str, writer: StemWriter) -> None:
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

    async def _attempt(self, item: StemDownload, url: str, writer: StemWriter) -> None:
        clock = self._pipeline.clock
        meter = Meter(self._pipeline.timeouts, now=clock.monotonic())
        work = self._receive(item, url, writer, meter)
        await run_metered(work, meter, clock=clock, what=f"the download of {item.stem}")

    async def _receive(self, item: StemDownload, url: str, writer: StemWriter, meter: Meter) -> None:
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

    async def _status_error(self, reply: StreamedReply, item: StemDownload) -> APIStatusError:
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
