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
from aistemsplitter_async._send.attempt import Call
from aistemsplitter_async._send.course import stage
from aistemsplitter_async._tasks import run_in_thread
from aistemsplitter_async._transfer.collector import Files, Work
from aistemsplitter_async._transfer.manifest import Manifest
from aistemsplitter_async._transfer.partfile import WRITTEN_ELSEWHERE
from aistemsplitter_async._transfer.selection import Selection
from aistemsplitter_async._transfer.uploader import Delivery
from aistemsplitter_async._wire.messages import Stage
from aistemsplitter_async.batch.context import BatchContext
from aistemsplitter_async.batch.item import OpenedItem
from aistemsplitter_async.batch.options import BatchOptions
from aistemsplitter_async.batch.standing import Standing
from aistemsplitter_async.config import BATCH_WAIT, FLEET_LOOK, LATE_WRITER
from aistemsplitter_async.errors import DownloadError, ProtocolError, SplitFailedError, StemsExpiredError
from aistemsplitter_async.events import BoughtBefore
from aistemsplitter_async.journal.matching import delivered
from aistemsplitter_async.journal.record import Record, StoredFile, build_failure
from aistemsplitter_async.journal.store import JournalStore
from aistemsplitter_async.models import DirectURL


@attrs.frozen
class Steps:
    """The steps of one source."""

    _context: BatchContext
    _standing: Standing

    def announce(self, besides: Record) -> None:
        """Report that a song is bought that was bought before, before it is."""
        context = self._context
        context.engine.pipeline.emit(
            BoughtBefore,
            lambda: BoughtBefore(
                source=self._standing.label,
                split_id=besides.split_id,
                delivered=str(delivered(besides)),
                asked=str(context.options.variant),
                at=context.clock.monotonic(),
            ),
        )

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
        expires_at = upload.expires_at.timestamp() + context.ahead
        return await context.write(JournalStore.uploaded, record.id, upload.input, expires_at)

    async def wait(self, record: Record) -> Record:
        """Wait until the split is terminal."""
        context, standing, clock = self._context, self._standing, self._context.clock
        assert record.split_id is not None  # noqa: S101  # implied by the state
        await standing.acquire_in_flight()
        standing.enter("wait")
        since = standing.created_at
        if since is None:  # created by an earlier run
            since = clock.monotonic() - max(0.0, context.now() - (record.created_at or 0.0))
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
            more = context.budget.correct(standing.cost, split.credits_used)
            standing.cost = None
            if more and context.spends_together:
                await context.write(JournalStore.overrun, more)
        if split.status == "failed":
            return await context.write(
                JournalStore.fail, record.id, build_failure("wait", SplitFailedError(split)), split
            )
        return await context.write(JournalStore.succeeded, record.id, split)

    async def download(self, record: Record) -> Record:
        """Download the wanted stems that are not here, and make the wanted mixes that are not.

        Raises:
            DownloadError: the split does not have one of them; nothing was fetched.
        """
        context, standing, split = self._context, self._standing, record.split
        into = context.options.into
        assert into is not None and split is not None  # noqa: S101, PT018  # checked by `plan_step`
        standing.release_in_flight()
        missing = await self.find_missing(record)
        if record.stems and missing.is_nothing:
            return await context.write(JournalStore.downloaded, record.id, {})
        folder = into / record.folder

        async def fetch(work: Work) -> Files:
            async def attempt() -> Files:
                standing.enter("download")
                with stage(context.engine.pipeline.emit, "download", split.id):
                    return await work()

            # Stems that are refused are waited out outside: it makes room for the downloads of others.
            return await context.engine.pipeline.outlast(
                Call("download_stem", Stage.DOWNLOAD, split.id),
                partial(context.downloading.retry_through_outage, attempt),
                (StemsExpiredError,),
            )

        async def mix(work: Work) -> Files:
            async def attempt() -> Files:
                if not missing.mixes:
                    return await work()
                standing.enter("mix")
                with stage(context.engine.pipeline.emit, "mix", split.id):
                    return await work()

            return await context.disk.retry_through_outage(attempt)  # it needs no place among the downloads

        async def collect() -> Files:
            return await context.engine.collector.collect(
                split,
                folder,
                overwrite=context.options.overwrite,
                on_progress=standing.note_progress,
                pattern=record.pattern,
                selection=missing,
                fetching=fetch,
                mixing=mix,
            )

        files = await self._outwait_others(collect)
        stored = await run_in_thread(_describe, into, folder, record.pattern, files)
        standing.has_worked = True
        downloaded = await context.write(JournalStore.downloaded, record.id, stored)
        return attrs.evolve(downloaded, split=split)  # with the URLs, which the journal does not keep

    async def _outwait_others(self, work: Work) -> Files:
        """Return the files of `work`, repeated while a worker that was taken for dead is still writing some."""
        context = self._context
        since = context.clock.monotonic()
        while True:
            try:
                return await work()
            except DownloadError as error:
                waited = context.clock.monotonic() - since
                if error.code != WRITTEN_ELSEWHERE or not context.journal.is_shared or waited > LATE_WRITER:
                    raise
            await context.clock.sleep(FLEET_LOOK)

    async def find_missing(self, record: Record) -> Selection:
        """Return what is wanted and not here; see `find_missing`."""
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


def find_missing(options: BatchOptions, record: Record) -> Selection:
    """Return what is wanted and not here. An edited file is here, unless it may be overwritten.

    Raises:
        DownloadError: the split does not have a stem that is wanted.
    """
    wanted = options.selection
    stems = [stem for stem in wanted.kept(record.stems) if not _is_here(options, record.files.get(stem))]
    mixes = {
        name: mix
        for name, mix in wanted.mixes.items()
        if not _is_here(options, record.files.get(name)) or record.files[name].mixed != mix.sum_of(record.stems)
    }
    return Selection(tuple(stems), mixes)


def list_files(options: BatchOptions, record: Record) -> dict[str, Path]:
    """Return the wanted stems and mixes that were downloaded or made, in any run.

    Raises:
        DownloadError: see `find_missing`.
    """
    if options.into is None:
        return {}
    wanted = [*options.selection.kept(record.stems), *options.selection.mixes]
    return {name: options.into / record.files[name].path for name in wanted if name in record.files}


def list_gains(options: BatchOptions, record: Record) -> dict[str, float]:
    """Return the gain of each wanted mix that was made, in dB."""
    return {name: record.files[name].gain_db for name in options.selection.mixes if name in record.files}


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


def _describe(into: Path, folder: Path, pattern: str, files: Files) -> dict[str, StoredFile]:
    """Return the journal's record of files in `folder`."""
    manifest = Manifest.load(folder, pattern)
    mixes = {} if manifest is None else manifest.mixes
    stored = {name: _read(into, path) for name, path in files.items()}
    return {
        name: attrs.evolve(file, mixed=mixes[name].stems, gain_db=mixes[name].gain_db) if name in mixes else file
        for name, file in stored.items()
    }


def _read(into: Path, path: Path) -> StoredFile:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return StoredFile(path.relative_to(into).as_posix(), file.tell(), digest)
    except OSError as error:
        raise DownloadError(f"{path} was downloaded and cannot be read: {reason_of(error)}") from None
