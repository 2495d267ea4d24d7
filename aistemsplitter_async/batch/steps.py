"""The steps of one source that spend nothing: upload, wait, download, and a check of what was downloaded before.

Each takes the record the journal has, returns the one it has afterwards, and raises what the engine raises. `create`
sends the create.
"""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

import attrs

from aistemsplitter_async._files import reason_of
from aistemsplitter_async._tasks import run_in_thread
from aistemsplitter_async._transfer.selection import Selection
from aistemsplitter_async._transfer.uploader import Delivery
from aistemsplitter_async._wire.messages import Stage
from aistemsplitter_async.batch.context import BatchContext
from aistemsplitter_async.batch.item import OpenedItem
from aistemsplitter_async.batch.options import BatchOptions
from aistemsplitter_async.batch.standing import Standing
from aistemsplitter_async.config import BATCH_WAIT
from aistemsplitter_async.errors import DownloadError, ProtocolError, SplitFailedError, StemsExpiredError
from aistemsplitter_async.journal.record import Record, StoredFile, build_failure
from aistemsplitter_async.journal.store import JournalStore
from aistemsplitter_async.models import DirectURL


@attrs.frozen
class Steps:
    """The steps of one source."""

    _context: BatchContext
    _standing: Standing

    async def upload(self, opened: OpenedItem, record: Record) -> Record:
        """Upload the audio, unless the batch creates no more splits."""
        context, standing, audio = self._context, self._standing, opened.audio
        assert not isinstance(audio, DirectURL)  # noqa: S101  # those need no upload
        await context.check_target(record)
        standing.expect_requests(2)

        async def attempt() -> Delivery:
            context.stop_switch.check()
            standing.expect_requests(1)  # besides the reservation, which is made now
            standing.enter("upload", audio.content_length)
            delivery = await context.engine.uploader.deliver(
                audio, priority=context.options.priority, on_progress=standing.note_progress
            )
            await opened.check_unchanged()
            return delivery

        delivery = await context.uploading.retry_through_outage(attempt)
        standing.uploads += 1
        standing.sure_until, upload = delivery.sure_until, delivery.upload
        return await context.write(JournalStore.uploaded, record.id, upload.input, upload.expires_at.timestamp())

    async def wait(self, record: Record) -> Record:
        """Wait until the split is terminal."""
        context, standing, clock = self._context, self._standing, self._context.clock
        assert record.split_id is not None  # noqa: S101  # implied by the state
        await standing.acquire_in_flight()
        standing.enter("wait")
        since = standing.created_at
        if since is None:  # created by an earlier run
            since = clock.monotonic() - max(0.0, clock.now() - (record.created_at or 0.0))
            if record.submission is not None:
                context.engine.expect_event(record.split_id, record.submission)
        split = await context.engine.wait(
            record.split_id,
            timeout=BATCH_WAIT,
            raise_on_failed=False,
            since=since,
            credits_used=record.credits_used,
            priority=context.options.priority,
            of_many=True,
        )
        standing.has_worked = True
        if standing.cost is not None:
            context.budget.correct(standing.cost, split.credits_used)
            standing.cost = None
        if split.status == "failed":
            return await context.write(
                JournalStore.fail, record.id, build_failure("wait", SplitFailedError(split)), split
            )
        return await context.write(JournalStore.succeeded, record.id, split)

    async def download(self, record: Record) -> Record:
        """Download the wanted stems that are not here.

        Raises:
            DownloadError: the split does not have one of them; nothing was fetched.
        """
        context, standing, split = self._context, self._standing, record.split
        into = context.options.into
        assert into is not None and split is not None  # noqa: S101, PT018  # checked by `plan_step`
        standing.release_in_flight()
        missing = await self.find_missing(record)
        if record.stems and not missing:
            return await context.write(JournalStore.downloaded, record.id, {})
        urls = context.engine.downloader.urls(split)

        async def attempt() -> dict[str, StoredFile]:
            standing.enter("download")
            files = await context.engine.downloader.download(
                split,
                into / record.folder,
                overwrite=context.options.overwrite,
                on_progress=standing.note_progress,
                pattern=record.pattern,
                urls=urls,
                selection=Selection(missing),
            )
            return await run_in_thread(_describe, into, files)

        # Stems that are refused are waited out outside: it makes room for the downloads of others.
        stored = await context.engine.pipeline.outlast(
            Stage.DOWNLOAD, partial(context.downloading.retry_through_outage, attempt), (StemsExpiredError,)
        )
        standing.has_worked = True
        downloaded = await context.write(JournalStore.downloaded, record.id, stored)
        return attrs.evolve(downloaded, split=split)  # with the URLs, which the journal does not keep

    async def find_missing(self, record: Record) -> tuple[str, ...]:
        """Return the wanted stems that are not here; see `find_missing`."""
        self._standing.enter("download")
        return await run_in_thread(find_missing, self._context.options, record)

    async def refresh(self, record: Record) -> Record:
        """Get new URLs of stems that are not here.

        Raises:
            ProtocolError: the split has no stems any more.
        """
        context, split_id = self._context, record.split_id
        assert split_id is not None  # noqa: S101  # implied by the state
        split = await context.creating.retry_through_outage(
            lambda: context.engine.get_split(split_id, context.options.priority)
        )
        if split.status != "succeeded" or not split.stems:
            raise ProtocolError(f"split {split.id} has no stems any more (it is {split.status})", split_id=split.id)
        return await context.write(JournalStore.succeeded, record.id, split)


def find_missing(options: BatchOptions, record: Record) -> tuple[str, ...]:
    """Return the stems that are wanted and not here. An edited stem is here, unless it may be overwritten.

    Raises:
        DownloadError: the split does not have one that is wanted.
    """
    return tuple(stem for stem in options.selection.kept(record.stems) if not _is_here(options, record.files.get(stem)))


def list_files(options: BatchOptions, record: Record) -> dict[str, Path]:
    """Return the wanted stems that were downloaded, in any run.

    Raises:
        DownloadError: see `find_missing`.
    """
    if options.into is None:
        return {}
    wanted = [stem for stem in options.selection.kept(record.stems) if stem in record.files]
    return {stem: options.into / record.files[stem].path for stem in wanted}


def _is_here(options: BatchOptions, file: StoredFile | None) -> bool:
    if file is None or options.into is None:
        return False
    size = _size(options.into / file.path)
    return size is not None and (size == file.size or not options.overwrite)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _describe(into: Path, files: dict[str, Path]) -> dict[str, StoredFile]:
    """Return the journal's record of downloaded files."""
    return {stem: _read(into, path) for stem, path in files.items()}


def _read(into: Path, path: Path) -> StoredFile:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return StoredFile(path.relative_to(into).as_posix(), file.tell(), digest)
    except OSError as error:
        raise DownloadError(f"{path} was downloaded and cannot be read: {reason_of(error)}") from None
