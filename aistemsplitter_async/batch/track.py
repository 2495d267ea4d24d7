"""One source's way through a batch: look at its record, do the step it calls for, write down what came of it, repeat.

A track found after a crash goes the same way as a fresh one, only its record says more from the start.
"""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path

import attrs

from aistemsplitter_async._send.pipeline import Doubt
from aistemsplitter_async._tasks import run_in_thread
from aistemsplitter_async._transfer.meter import Progress
from aistemsplitter_async.batch.bounds import NotBegunError, OutdatedError
from aistemsplitter_async.batch.item import BatchItem, Opened, open_item
from aistemsplitter_async.batch.outcome import Done, Failed, Outcome, Skipped, SkipReason
from aistemsplitter_async.batch.works import Works
from aistemsplitter_async.config import BATCH_WAIT, RESERVATIONS
from aistemsplitter_async.errors import (
    AIStemSplitterError,
    APITimeoutError,
    AuthenticationError,
    DownloadError,
    InsufficientCreditsError,
    JournalError,
    ProtocolError,
    SpendLimitError,
    SplitFailedError,
    SubmissionUncertainError,
    WaitTimeoutError,
)
from aistemsplitter_async.journal.record import Record, StageName, State, Step, StoredFile, build_failure, plan_step
from aistemsplitter_async.journal.store import Claim, Store
from aistemsplitter_async.models import CreatedSplit, DirectURL, Split, Submission, Upload

_BEFORE_CREATE: frozenset[StageName] = frozenset({"prepare", "upload"})
_STOPPING = (AuthenticationError, InsufficientCreditsError, SpendLimitError)  # none would do better


class Track:
    """One source of a running batch.

    Attributes:
        label: what to call it, for people.
        stage: what is being done with it.
        since: since when (monotonic seconds).
        done_bytes: of the upload, or of all stems that are being fetched.
        total_bytes: what there will be, 0 if unknown.
        split_id: once there is one.
        droppable: whether nothing is lost by cancelling it: it has begun, no create of it was sent, nor is it over.
        claiming: set when those after it need not wait any more to say what they are.

    Args:
        after: the `claiming` of the source before. Of two files with the same audio the first is split, however long
            it takes to read.
    """

    def __init__(self, works: Works, item: BatchItem, position: int, after: asyncio.Event | None = None) -> None:
        self.item = item
        self.position = position
        self.label = ""
        self.stage: StageName = "prepare"
        self.since = works.clock.monotonic()
        self.done_bytes = 0
        self.total_bytes = 0
        self.split_id: str | None = None
        self.droppable = False
        self.claiming = asyncio.Event()
        self._works = works
        self._after = after
        self._sizes: dict[str, Progress] = {}
        self._row: int | None = None  # in the journal
        self._flying = False
        self._expected = 0
        self._again = False  # a create of it failed before: the key it was given, if any, is used up
        self._uploads = 0
        self._worked = False  # whether this run did anything for it
        self._created_at: float | None = None  # monotonic seconds

    @property
    def is_paid(self) -> bool:
        """Return whether there is a split, or may be: its create was sent."""
        return self.split_id is not None or (self.stage == "create" and not self.droppable)

    async def run(self) -> Outcome:
        """Bring the source to its outcome.

        Raises:
            JournalError: nothing can be written down, so nothing more may be done.
        """
        try:
            return await self._reach_outcome()
        finally:
            self.claiming.set()
            if self._row is not None:
                self._works.running.pop(self._row).set()

    async def _reach_outcome(self) -> Outcome:
        clock, timeout = self._works.clock, self.item.timeout
        error: AIStemSplitterError
        self.droppable = True
        try:
            async with clock.timeout_at(None if timeout is None else clock.monotonic() + timeout):
                return await self._bring()
        except NotBegunError:
            return self._skip("not begun")
        except JournalError:
            raise
        except TimeoutError:
            error = await self._too_late()
        except AIStemSplitterError as failure:
            error = failure
        finally:
            self.droppable = False
            self._expect(0)
            self._land()
        return await self._fail(error)

    async def _bring(self) -> Outcome:
        works = self._works
        opened = await open_item(self.item)
        self.label = opened.label
        if isinstance(opened.audio, DirectURL):
            works.stages.vet_source(opened.audio)
        identity = await self._identify(opened)
        opened = opened.pinned(identity)
        claim = await self._claim(opened, identity)
        record = claim.record
        if claim.met == "again":
            return await self._follow(record, opened)
        self._hold(record)
        if (unsettled := works.unsettled.pop(record.id, None)) is not None:
            self._enter("create")
            raise unsettled
        if record.failure is not None and (record.failure.passing or works.options.retry_failed):
            self._again = record.failure.stage not in _BEFORE_CREATE
            record = await works.write(Store.reopen, record.id)
        return await self._go(record, opened)

    async def _follow(self, record: Record, opened: Opened) -> Outcome:
        """Wait for the track of the same audio, and end as it does; or go on with it, if it was only its file's end."""
        works = self._works
        self.droppable = False  # if that one is dropped, so is this
        self._enter("wait")
        while (first := works.running.get(record.id)) is not None:
            await first.wait()
        self._hold(record)  # whoever follows too waits for this one
        record = await works.write(Store.get, record.id)
        failure = record.failure
        if failure is not None and failure.stage in _BEFORE_CREATE and failure.passing and not works.brake.on:
            record = await works.write(Store.reopen, record.id)
        if record.failure is not None and record.error is not None:
            return Failed(self.item.source, record.failure.stage, record.error, self.position)
        step = self._plan(record)
        if step is Step.REVIEW:
            return await self._hand_to_review(record)
        if step in (Step.CHECK, Step.NOTHING):
            return self._skip("duplicate", record, same_as=record.source)
        return self._skip("not begun") if works.brake.on else await self._go(record, opened)

    def _hold(self, record: Record) -> None:
        """Be the one that works on this row of the journal."""
        self._row = record.id
        self._works.running[record.id] = asyncio.Event()

    async def _identify(self, opened: Opened) -> str:
        """Find out what the audio is; a file that has not changed since an earlier run is not read again."""
        works, known = self._works, None
        if opened.path is None:
            self.claiming.set()  # a stream may take its time, and nobody waits for that
        if opened.path is not None and opened.stamp is not None:
            known = await works.write(Store.identity_of, opened.label, opened.stamp)
        identity = known
        if identity is None:
            async with works.hashes:
                identity = await opened.identify()
            if opened.path is not None and opened.stamp is not None:
                await works.write(Store.remember_identity, opened.label, opened.stamp, identity)
        return identity

    async def _claim(self, opened: Opened, identity: str) -> Claim:
        """Find out which track of the journal this audio is, in the order of the sources."""
        works = self._works
        if self._after is not None:
            await self._after.wait()
        self.claiming.set()  # wakes who comes after, but only once this one's claim is in the journal's queue
        return await works.write(
            Store.claim,
            identity,
            works.options.variant,
            source=self.label,
            folder=opened.folder,
            pattern=self.item.pattern,
            split_input=opened.audio if isinstance(opened.audio, DirectURL) else None,
            dedupe=works.options.dedupe,
            anew=self.item.anew,
        )

    async def _go(self, record: Record, opened: Opened) -> Outcome:
        """Take steps until there is none left."""
        do: dict[Step, Callable[[Record], Awaitable[Record]]] = {
            Step.UPLOAD: partial(self._upload, opened),
            Step.CREATE: self._create,
            Step.REPLAY: self.replay,
            Step.WAIT: self._wait,
            Step.DOWNLOAD: self._download,
        }
        while True:
            self.split_id = record.split_id
            self.droppable = record.state in (State.FOUND, State.UPLOADED)
            step = self._plan(record)
            if step in do:
                record = await do[step](record)
            elif step is Step.CHECK and not self._worked and not await run_in_thread(self._are_here, record):
                record = await self._look_again(record)
            elif step is Step.REVIEW:
                return await self._hand_to_review(record)
            elif step is Step.FAILED and record.failure is not None and record.error is not None:
                return Failed(self.item.source, record.failure.stage, record.error, self.position)
            else:
                return self._finish(record)

    def _plan(self, record: Record) -> Step:
        now, options = self._works.clock.now(), self._works.options
        return plan_step(record, now=now, key_age=options.key_age, wants_files=options.into is not None)

    async def _upload(self, opened: Opened, record: Record) -> Record:
        works, audio = self._works, opened.audio
        assert not isinstance(audio, DirectURL)  # noqa: S101  # those need no upload
        await self._check_target(record)
        self._expect(2)

        async def attempt() -> Upload:
            works.brake.check()
            self._expect(1)  # besides the reservation, which is made now
            self._enter("upload", audio.content_length)
            upload = await works.stages.uploader.upload(
                audio, priority=works.options.priority, on_progress=self._note_progress
            )
            await opened.check_unchanged()
            return upload

        upload = await works.uploading.endure(attempt)
        self._uploads += 1
        return await works.write(Store.uploaded, record.id, upload.input, upload.expires_at.timestamp())

    async def _create(self, record: Record) -> Record:
        """Create the split; its intent is on disk before anything is sent."""
        works, options = self._works, self._works.options
        await self._check_target(record)
        self._expect(0)  # while it waits for a place in the air, looks are what it waits for
        await self._fly()
        self._enter("create")
        await works.downloading.wait_until_over()  # stems that cannot be fetched are not bought
        assert record.input is not None  # noqa: S101  # what `plan_step` checked
        submission = works.stages.build_submission(
            record.input,
            idempotency_key=(None if self._again else self.item.idempotency_key) or str(uuid.uuid4()),
            stem_model=options.stem_model,
            output_format=options.output_format,
            webhook_url=options.webhook_url,
        )
        async with works.purse.turn(self.item.seconds):
            works.brake.check()
            return await self._send(record, submission)

    async def replay(self, record: Record) -> Record:
        """Send a create again as it was, unless it is too old for that: the one way to learn what became of it.

        Raises:
            AIStemSplitterError: that is still not known.
        """
        assert record.submission is not None  # noqa: S101  # what the state says
        self._enter("create")
        return await self._send(record, record.submission)

    async def _send(self, record: Record, submission: Submission) -> Record:
        """Send a create until it is answered, or until time has made something else of it, such as an old key."""
        works, held, doubt = self._works, record, Doubt()

        async def before_send(_: Submission) -> None:
            """Look once more, now that the key's limit lets it go: that may have taken long."""
            nonlocal held
            if not doubt.open:
                works.brake.check()
            if not self._is_to_send(held):
                raise OutdatedError
            if held.submission is None:
                works.purse.reserve(held.id, self.item.seconds)
                self.droppable = False
                held = await works.journal.write(Store.intend, held.id, submission, works.clock.now())

        async def note(created: CreatedSplit) -> None:
            nonlocal held
            held = await works.write(Store.created, held.id, created, works.clock.now())
            works.purse.pay(held.id, created.credits_used)
            self._created_at = works.clock.monotonic()

        async def attempt() -> Record:
            nonlocal held
            if not self._is_to_send(held):
                return held
            doubt.open = held.submission is not None
            try:
                await works.stages.create(
                    submission, None, works.options.priority, before_send, doubt=doubt, on_created=note
                )
            except (AIStemSplitterError, NotBegunError, OutdatedError) as error:
                held = await self._note_failure(held, error, in_doubt=doubt.open)
                if not isinstance(error, OutdatedError):
                    raise
            return held

        self._worked = True
        return await works.creating.endure(attempt)

    async def _note_failure(self, held: Record, error: Exception, *, in_doubt: bool) -> Record:
        works = self._works
        if isinstance(error, SubmissionUncertainError):
            return await works.journal.write(Store.uncertain, held.id)
        if held.state is not State.INTENT or in_doubt or isinstance(error, JournalError):
            return held
        works.purse.release(held.id)
        self.droppable = True
        return await works.journal.write(Store.refused, held.id)  # or it never arrived: nothing came of it

    def _is_to_send(self, record: Record) -> bool:
        """Return whether its create still is what it needs. What expires again and again is sent all the same."""
        step = self._plan(record)
        if record.submission is not None:
            return step is Step.REPLAY
        return step is Step.CREATE or (step is Step.UPLOAD and self._uploads > RESERVATIONS)

    async def _wait(self, record: Record) -> Record:
        works, clock = self._works, self._works.clock
        assert record.split_id is not None  # noqa: S101  # what the state says
        await self._fly()
        self._enter("wait")
        since = self._created_at
        if since is None:  # created by an earlier run
            since = clock.monotonic() - max(0.0, clock.now() - (record.created_at or 0.0))
            if record.submission is not None:
                works.stages.expect_event(record.split_id, record.submission)
        split = await self._watch(record.split_id, since, record.credits_used)
        self._worked = True
        if split.status == "failed":
            failure = build_failure("wait", SplitFailedError(split))
            return await works.write(Store.fail, record.id, failure, split)
        return await works.write(Store.succeeded, record.id, split)

    async def _watch(self, split_id: str, since: float, credits_used: float | None) -> Split:
        works, last = self._works, None
        deadline = works.clock.monotonic() + BATCH_WAIT
        updates = works.stages.updates(
            split_id, priority=works.options.priority, since=since, credits_used=credits_used, deadline=deadline
        )
        try:
            async with works.clock.timeout_at(deadline), aclosing(updates):
                async for split in updates:
                    last = split
        except TimeoutError:
            pass
        if last is None or not last.is_terminal:
            raise WaitTimeoutError(split_id, last)
        return last

    async def _download(self, record: Record) -> Record:
        works, into = self._works, self._works.options.into
        assert into is not None and record.split is not None  # noqa: S101, PT018  # what `plan_step` checked
        self._land()
        split = record.split

        async def attempt() -> dict[str, StoredFile]:
            self._enter("download")
            files = await works.stages.downloader.download(
                split,
                into / record.folder,
                overwrite=works.options.overwrite,
                on_progress=self._note_progress,
                pattern=record.pattern,
            )
            return await run_in_thread(_describe, into, files)

        stored = await works.downloading.endure(attempt)
        self._worked = True
        downloaded = await works.write(Store.downloaded, record.id, stored)
        return attrs.evolve(downloaded, split=split)  # with the addresses, which the journal does not keep

    async def _look_again(self, record: Record) -> Record:
        """Ask for the addresses of stems that were here once."""
        works = self._works
        assert record.split_id is not None  # noqa: S101  # what the state says
        split = await works.creating.endure(lambda: works.stages.look(str(record.split_id), works.options.priority))
        if split.status != "succeeded" or not split.stems:
            raise ProtocolError(f"split {split.id} has no stems any more (it is {split.status})", split_id=split.id)
        return await works.write(Store.succeeded, record.id, split)

    async def _hand_to_review(self, record: Record) -> Failed:
        works = self._works
        assert record.submission is not None  # noqa: S101  # what the state says
        await works.write(Store.needs_review, record.id)
        error = SubmissionUncertainError(
            "its create was sent too long ago to send it again unasked: the service may have forgotten its idempotency "
            "key and charge twice. Look whether the split exists; raise the key age to have it sent again",
            submission=record.submission,
            code="NEEDS_REVIEW",
        )
        return Failed(self.item.source, "create", error, self.position)

    async def _too_late(self) -> AIStemSplitterError:
        record = None if self._row is None else await self._works.write(Store.get, self._row)
        if record is not None and record.split_id is not None:
            return WaitTimeoutError(record.split_id, record.split)
        if record is not None and record.submission is not None:
            return SubmissionUncertainError(
                "the split may or may not have been created (time ran out); run the same again to find out",
                submission=record.submission,
                code="TIMEOUT",
            )
        return APITimeoutError("no split was created in the time it was given", code="TIMEOUT")

    async def _fail(self, error: AIStemSplitterError) -> Failed:
        """Note why the track goes no further, in the journal too where it has a row there."""
        works = self._works
        if isinstance(error, _STOPPING):
            works.brake.pull(error)
        error.split_id = error.split_id or self.split_id
        if self._row is not None:
            await works.write(Store.fail, self._row, build_failure(self.stage, error), None)
        return Failed(self.item.source, self.stage, error, self.position)

    async def _check_target(self, record: Record) -> None:
        works = self._works
        if works.options.into is not None:
            folder = works.options.into / record.folder
            await works.stages.check_target(folder, overwrite=works.options.overwrite, pattern=record.pattern)

    async def _fly(self) -> None:
        """Take a place among the splits in flight, once."""
        if not self._flying:
            await self._works.in_flight.acquire()
            self._flying = True

    def _land(self) -> None:
        if self._flying:
            self._flying = False
            self._works.in_flight.release()

    def _expect(self, requests: int) -> None:
        """Let the plan of the looks know how many requests come before this one's split can be waited for."""
        self._works.stages.pipeline.gate.expected += requests - self._expected
        self._expected = requests

    def _enter(self, stage: StageName, total_bytes: int = 0) -> None:
        self.stage = stage
        self.since = self._works.clock.monotonic()
        self.done_bytes, self.total_bytes = 0, total_bytes
        self._sizes.clear()

    def _note_progress(self, progress: Progress) -> None:
        self._sizes[progress.name] = progress
        self.done_bytes = sum(part.done_bytes for part in self._sizes.values())
        self.total_bytes = sum(part.total_bytes or 0 for part in self._sizes.values())
        if self.item.on_progress is not None:
            self.item.on_progress(progress)

    def _finish(self, record: Record) -> Outcome:
        if not self._worked:
            return self._skip("finished", record)
        assert record.split is not None  # noqa: S101  # what the state says
        return Done(self.item.source, record.split, self._paths(record), self.position)

    def _skip(self, reason: SkipReason, record: Record | None = None, same_as: str | None = None) -> Skipped:
        source, position = self.item.source, self.position
        if record is None:
            return Skipped(source, reason, position)
        return Skipped(source, reason, position, self._paths(record), same_as, record.split)

    def _paths(self, record: Record) -> dict[str, Path]:
        into = self._works.options.into
        return {} if into is None else {stem: into / file.path for stem, file in record.files.items()}

    def _are_here(self, record: Record) -> bool:
        """Return whether no stem is missing. One that somebody changed is theirs, unless it may be overwritten."""
        into, overwrite = self._works.options.into, self._works.options.overwrite
        sizes = [] if into is None else [(_size(into / file.path), file.size) for file in record.files.values()]
        return all(size is not None and (size == told or not overwrite) for size, told in sizes)


async def settle(works: Works, record: Record) -> None:
    """Learn what became of a create that an earlier run left open, as far as its key can be trusted still.

    Raises:
        JournalError: that cannot be written down.
    """
    try:
        await Track(works, BatchItem(source=record.source), -1).replay(record)
    except JournalError:
        raise
    except AIStemSplitterError as error:
        works.unsettled[record.id] = error  # its track ends with that, if its source is met


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _describe(into: Path, files: dict[str, Path]) -> dict[str, StoredFile]:
    """Return what the journal keeps of files that were brought home."""
    return {stem: _stored(into, path) for stem, path in files.items()}


def _stored(into: Path, path: Path) -> StoredFile:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return StoredFile(path.relative_to(into).as_posix(), file.tell(), digest)
    except OSError as error:
        problem = error.strerror or type(error).__name__
    raise DownloadError(f"{path} was fetched and cannot be read: {problem}")
