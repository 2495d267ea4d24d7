"""Sends a source to the upload worker: reserve, stream, and start over as long as that is harmless."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import attrs

from aistemsplitter_async._gate.lanes import Priority
from aistemsplitter_async._listeners import Listener, as_listener
from aistemsplitter_async._send.attempt import Call
from aistemsplitter_async._send.course import stage
from aistemsplitter_async._send.pipeline import Pipeline
from aistemsplitter_async._send.reactions import Action, action_for, is_outage
from aistemsplitter_async._send.retry import Streak
from aistemsplitter_async._send.transfer import Transfer
from aistemsplitter_async._transfer.audio import AudioSource, Source, build_source
from aistemsplitter_async._transfer.file_source import BLOCK_BYTES
from aistemsplitter_async._transfer.foreign import build_silence
from aistemsplitter_async._transfer.lifetime import Lifetime
from aistemsplitter_async._transfer.meter import Meter, OnProgress, Progress
from aistemsplitter_async._transfer.metered import STALLED, run_metered
from aistemsplitter_async._wire import operations
from aistemsplitter_async._wire.dates import parse_date
from aistemsplitter_async._wire.messages import BodyStream, Reply, Stage
from aistemsplitter_async._wire.operations import Operation
from aistemsplitter_async._wire.urls import URLPolicy
from aistemsplitter_async.config import RESERVATIONS
from aistemsplitter_async.errors import (
    AIStemSplitterError,
    APIConnectionError,
    APITimeoutError,
    SourceChangedError,
    SourceUnreadableError,
    UnsafeURLError,
    UploadError,
)
from aistemsplitter_async.models import (
    DirectURL,
    Reservation,
    SplitInput,
    Upload,
    UploadedFile,
    WorkerReceipt,
    redact_url,
)

# A slice is what progress and stalls are measured in. It grows while the network is fast, since every slice costs a
# turn of the event loop, and shrinks while it is slow, so that a slow uplink still shows life.
_SMALLEST_SLICE_BYTES = 16 * 1024
_FIRST_SLICE_BYTES = 64 * 1024
_FAST = 0.05  # s for a slice
_SLOW = 1.0  # s
_PASSING = frozenset({Action.RETRY, Action.ONCE, Action.CONFLICT, Action.OUTLAST})
_LATER = 4  # doublings of a pause from one upload to the next: there are only three, and what passes takes seconds


@attrs.frozen
class Delivery:
    """A finished upload, and until when its reservation has surely not expired (monotonic seconds)."""

    upload: Upload
    sure_until: float


class Uploader:
    """The upload stage of one client."""

    def __init__(self, pipeline: Pipeline, base_url: str, urls: URLPolicy) -> None:
        self._pipeline = pipeline
        self._base_url = base_url
        self._urls = urls

    async def reserve(
        self, *, filename: str, content_type: str, content_length: int, priority: Priority
    ) -> Reservation:
        """Reserve an upload of `content_length` bytes at the worker."""
        reservation, _ = await self._reserve(filename, content_type, content_length, priority)
        return reservation

    async def deliver(
        self,
        source: Source,
        *,
        filename: str | None = None,
        content_type: str | None = None,
        on_progress: OnProgress | None,
        priority: Priority,
    ) -> Delivery:
        """Send all of `source` to the worker. See `AsyncAIStemSplitter.upload_audio`.

        A refused or expired reservation is replaced, at most twice: nothing is charged before the create.

        Raises:
            SourceUnreadableError: it is a URL, or see `build_source`.
            SourceChangedError: see `AudioSource`.
            UnsafeURLError: the API named a worker whose URL must not be requested.
            AIStemSplitterError: reserving failed, or every attempt to send did.
        """
        listener = as_listener(on_progress, "on_progress")
        audio = await self.open_source(source, filename=filename, content_type=content_type)
        if isinstance(audio, DirectURL):
            raise SourceUnreadableError("a URL is not uploaded; give it to submit, or DirectURL(url) to create_split")
        return await self._upload(audio, listener, priority)

    async def prepare_input(
        self,
        source: Source,
        *,
        filename: str | None,
        content_type: str | None,
        on_progress: OnProgress | None,
        priority: Priority,
    ) -> SplitInput:
        """Return the input of a create: a URL as it is, anything else once it is uploaded. Raises like `deliver`."""
        listener = as_listener(on_progress, "on_progress")
        audio = await self.open_source(source, filename=filename, content_type=content_type)
        if isinstance(audio, DirectURL):
            return self.vet_source(audio)
        return (await self._upload(audio, listener, priority)).upload.input

    async def open_source(
        self, source: Source, *, filename: str | None, content_type: str | None
    ) -> AudioSource | DirectURL:
        """Return the audio source for `source`, checked to be readable. See `build_source`."""
        clock, stall = self._pipeline.clock, self._pipeline.timeouts.stall
        return await build_source(source, filename=filename, content_type=content_type, clock=clock, stall=stall)

    def vet_source(self, audio: DirectURL) -> DirectURL:
        """Return a URL that the API may be asked to fetch.

        Raises:
            SourceUnreadableError: it may not.
        """
        try:
            self._urls.vet(audio.url)
            return audio
        except UnsafeURLError as error:
            problem = str(error).partition(": ")[2]
        raise SourceUnreadableError(f"the API cannot fetch {redact_url(audio.url)}: {problem}")

    async def _reserve(
        self, filename: str, content_type: str, content_length: int, priority: Priority
    ) -> tuple[Reservation, Lifetime]:
        operation = operations.create_upload(
            self._base_url, filename=filename, content_type=content_type, content_length=content_length
        )
        clock = self._pipeline.clock

        def parse(reply: Reply) -> tuple[Reservation, Lifetime]:
            reservation = operation.parse(reply)
            return reservation, Lifetime.between(
                reservation.expires_at,
                server_now=parse_date(reply.headers.get("date", "")),
                now=clock.now(),
                begins=clock.monotonic(),
            )

        dated = Operation(
            name=operation.name, stage=operation.stage, what=operation.what, request=operation.request, parse=parse
        )
        return await self._pipeline.send(dated, priority=priority)

    async def _upload(
        self, source: AudioSource, on_progress: Listener[Progress] | None, priority: Priority
    ) -> Delivery:
        with stage(self._pipeline.emit, "upload"):
            return await self._reserve_and_send(source, on_progress, priority)

    async def _reserve_and_send(
        self, source: AudioSource, on_progress: Listener[Progress] | None, priority: Priority
    ) -> Delivery:
        clock = self._pipeline.clock
        async with source.opened() as body:
            for renewals_left in range(RESERVATIONS, -1, -1):
                reservation, lifetime = await self._reserve(
                    source.filename, source.content_type, source.content_length, priority
                )
                reservation = attrs.evolve(reservation, upload_url=self._urls.vet(reservation.upload_url))
                try:
                    uploaded = await self._send(source, body, reservation, on_progress)
                except AIStemSplitterError as error:
                    if not renewals_left or not _calls_for_renewal(
                        error, expired=lifetime.has_passed(clock.monotonic())
                    ):
                        raise
                    failure = error
                else:
                    now = clock.monotonic()
                    expires_at = datetime.fromtimestamp(clock.now(), UTC) + timedelta(seconds=lifetime.left(now))
                    upload = Upload(uploaded, source.filename, source.content_type, source.content_length, expires_at)
                    return Delivery(upload, lifetime.sure_until)
                await self._pause_after(failure, RESERVATIONS - renewals_left)
        raise AssertionError("unreachable")  # the last turn returns or raises

    async def _pause_after(self, failure: AIStemSplitterError, renewals: int) -> None:
        """Pause before another upload, unless the worker's own word was that the reservation is at fault."""
        if is_outage(failure):
            pipeline = self._pipeline
            streak = Streak(since=pipeline.clock.monotonic(), pauses=_LATER * renewals)
            pause = pipeline.plan_pause(streak, longest=pipeline.retry.passing) or 0.0
            await pipeline.pause(_call(renewals), pause, failure)

    async def _send(
        self, source: AudioSource, body: BodyStream, reservation: Reservation, on_progress: Listener[Progress] | None
    ) -> UploadedFile:
        pipeline, call = self._pipeline, _call()

        async def once() -> UploadedFile:
            sending = _Sending(source, body, pipeline, on_progress)
            operation = operations.upload_audio(
                reservation, sending.slices, content_type=source.content_type, content_length=source.content_length
            )
            with pipeline.attempt(call, operation.request) as attempt:
                try:
                    reply = await self._exchange(operation, source, sending)
                finally:
                    attempt.sent = sending.handed
                    transfer.bytes += sending.handed
                attempt.note_reply(reply)
                if sending.broken_by is not None:
                    raise sending.broken_by
                receipt = self._read_receipt(operation, reply, whole=sending.handed == source.content_length)
                return UploadedFile(reservation.upload_id, receipt.url, receipt.key)

        with Transfer(call, pipeline.emit, source=source.filename) as transfer:
            return await pipeline.run(call, once, url=reservation.upload_url)

    async def _exchange(self, operation: Operation[WorkerReceipt], source: AudioSource, sending: _Sending) -> Reply:
        """Send the body, and return the answer."""
        pipeline = self._pipeline
        work = pipeline.transport.send(operation.request)
        try:
            return await run_metered(work, sending.meter, clock=pipeline.clock, what="the upload")
        except AIStemSplitterError as error:
            failure: BaseException = sending.broken_by or error
            if error.code == STALLED and sending.waits_for_source:
                failure = build_silence(source.filename, pipeline.timeouts.stall)
            elif error.code == STALLED and sending.waits_for_answer:
                failure = APITimeoutError(
                    f"the upload was sent, and no answer came within {pipeline.timeouts.stall:g} s; a proxy that "
                    "takes the whole of it before it passes any on needs longer: raise Timeouts.stall",
                    code=STALLED,
                )
        raise failure

    def _read_receipt(self, operation: Operation[WorkerReceipt], reply: Reply, *, whole: bool) -> WorkerReceipt:
        if reply.ok and not whole:
            raise APIConnectionError("the upload worker answered before it had the whole file")
        return operation.read(reply, now=self._pipeline.clock.now())


class _Sending:
    """One attempt's body: cuts it into slices, feeds the meter, and keeps the reason if the source broke.

    The transport only sees that the body ended with an error, and reports a broken connection: `broken_by` is why.
    """

    def __init__(
        self, source: AudioSource, body: BodyStream, pipeline: Pipeline, on_progress: Listener[Progress] | None
    ) -> None:
        self.meter = Meter(pipeline.timeouts, now=pipeline.clock.monotonic())
        self.broken_by: BaseException | None = None
        self.waits_for_source = False  # if nothing moves, that is why
        self.waits_for_answer = False
        self.handed = 0  # bytes that the transport was given
        self._source = source
        self._body = body
        self._clock = pipeline.clock
        self._on_progress = on_progress

    async def slices(self) -> AsyncIterator[bytes]:
        size = _FIRST_SLICE_BYTES
        self._report()
        try:
            self.waits_for_source = True
            async for block in self._body():
                self.waits_for_source = False
                start = 0
                while start < len(block):
                    part = memoryview(block)[start : start + size]  # not a copy
                    self._check(self.handed + len(part) <= self._source.content_length)
                    began = self._clock.monotonic()
                    self.handed += len(part)
                    yield part  # type: ignore[misc]  # a transport writes any buffer
                    now = self._clock.monotonic()
                    start += len(part)
                    self.meter.add(len(part), now=now)
                    self._report()
                    size = _next_slice(size, now - began)
                self.waits_for_source = True
            self.waits_for_source = False
            self._check(self.handed == self._source.content_length)
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as error:
            self.broken_by = error
            if isinstance(error, Exception):
                raise
            broken = SourceUnreadableError(f"{self._source.filename} raised {type(error).__name__}")
        else:
            self.meter.finish(now=self._clock.monotonic())
            self.waits_for_answer = True
            return
        raise broken  # a transport need not notice anything but an Exception in a task of its own

    def _check(self, as_long_as_said: bool) -> None:
        if not as_long_as_said:
            raise SourceChangedError(
                f"{self._source.filename} does not have the {self._source.content_length} bytes that were announced"
            )

    def _report(self) -> None:
        if self._on_progress is not None:
            self._on_progress(Progress(self._source.filename, self.handed, self._source.content_length))


def _call(attempts: int = 0) -> Call:
    return Call("upload", Stage.UPLOAD, attempt=attempts)


def _calls_for_renewal(error: AIStemSplitterError, *, expired: bool) -> bool:
    """Return whether a fresh reservation may help after the last attempt with one, which has `expired` or not."""
    if isinstance(error, UploadError):  # the source is at fault, not the reservation
        return False
    action = action_for(Stage.UPLOAD, error)
    return action is Action.RENEW or (expired and action in _PASSING)


def _next_slice(size: int, took: float) -> int:
    """Return the size of the slice after one of `size` bytes that took `took` seconds."""
    if took < _FAST:
        return min(BLOCK_BYTES, size * 2)
    return max(_SMALLEST_SLICE_BYTES, size // 2) if took > _SLOW else size
