"""The session a caller holds: one key, one gate, and a method for everything the API does."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine
from functools import partial
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import aiohttp

from aistemsplitter_async._core import operations
from aistemsplitter_async._core.naming import KNOWN_STEMS, folder_name, is_loopback_url, make_name, vet_url
from aistemsplitter_async._core.transfer import OnProgress
from aistemsplitter_async._net.gate import Gate, Priority
from aistemsplitter_async._net.pipeline import Doubt, Pipeline
from aistemsplitter_async._net.threads import run_in_thread
from aistemsplitter_async._net.transport import AiohttpTransport, Transport
from aistemsplitter_async.audio import Source, build_source, source_name
from aistemsplitter_async.batch.outcome import Done
from aistemsplitter_async.clock import Clock, SystemClock
from aistemsplitter_async.config import (
    API_KEY_VARIABLE,
    BASE_URL,
    BASE_URL_VARIABLE,
    PollPolicy,
    RateLimit,
    RetryPolicy,
    Secret,
    Timeouts,
)
from aistemsplitter_async.downloader import Downloader
from aistemsplitter_async.errors import (
    AIStemSplitterError,
    APITimeoutError,
    ConfigurationError,
    DownloadError,
    SourceUnreadableError,
    SplitFailedError,
    SubmissionUncertainError,
    UnsafeURLError,
    WaitTimeoutError,
)
from aistemsplitter_async.events import OnEvent, SplitCreated
from aistemsplitter_async.job import Job
from aistemsplitter_async.models import (
    CreatedSplit,
    Credits,
    DirectURL,
    OutputFormat,
    Reservation,
    Split,
    SplitInput,
    StemModel,
    Submission,
    Upload,
    redact_url,
)
from aistemsplitter_async.partfile import Memory
from aistemsplitter_async.poller import Poller
from aistemsplitter_async.uploader import Uploader

T = TypeVar("T")
BeforeSend = Callable[[Submission], Awaitable[None]]
_KEY_CAP = 255  # characters; what servers commonly take as an Idempotency-Key


class AsyncAIStemSplitter:
    """An asyncio client of the AIStemSplitter API. Use it as `async with`, or call `aclose()`.

    It belongs to the event loop of its first call. Every method takes `timeout` (seconds, one deadline over queueing,
    retries and transfers) and `priority`, the lane its requests wait in when the key's limit is the bottleneck.

    Every call may raise `APIConnectionError` (`APITimeoutError` when `timeout` ran out), `APIStatusError` with its
    kinds (`AuthenticationError`, `InsufficientCreditsError`, `ValidationError`, `RateLimitedError`, `ServerError`) and
    `ProtocolError`, after the retries that are safe; methods list what they raise besides.

    Args:
        api_key: `AISTEMSPLITTER_API_KEY` from the environment if not given.
        base_url: `AISTEMSPLITTER_BASE_URL`, else the hosted service; `/v1` is appended to one without a path.
        session: carries the API calls, and is never closed here. It must not resend by itself.
        rate_limit: what is known about the key's limit.
        retry: when failed attempts are made again.
        poll: when running splits are looked at.
        timeouts: how long one attempt may take.
        gate: shared by clients of one key, instead of `rate_limit`.
        transport: replaces aiohttp, for tests.
        clock: where time comes from.
        proxy: an http(s) proxy URL for everything.
        allow_hosts: host names of upload workers and CDNs that need not be public or https.
        on_event: told what happens, with values of `events`; must return quickly and not raise.

    Raises:
        ConfigurationError: no key, a URL that cannot be right, or arguments that exclude each other.
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        session: aiohttp.ClientSession | None = None,
        rate_limit: RateLimit | None = None,
        retry: RetryPolicy | None = None,
        poll: PollPolicy | None = None,
        timeouts: Timeouts | None = None,
        gate: Gate | None = None,
        transport: Transport | None = None,
        clock: Clock | None = None,
        proxy: str | None = None,
        allow_hosts: Collection[str] = (),
        on_event: OnEvent | None = None,
    ) -> None:
        if gate is not None and rate_limit is not None:
            raise ConfigurationError("give either gate or rate_limit: a gate has its limit already")
        if transport is not None and (session is not None or proxy is not None):
            raise ConfigurationError("session and proxy belong to the aiohttp transport; give them or transport")
        if isinstance(allow_hosts, str):
            raise ConfigurationError("allow_hosts is a collection of host names, not one string")
        hosts = frozenset(host.lower() for host in allow_hosts)
        self.base_url = parse_base_url(base_url or os.environ.get(BASE_URL_VARIABLE) or BASE_URL, hosts)
        secret = parse_api_key(api_key if api_key is not None else os.environ.get(API_KEY_VARIABLE))
        local = is_loopback_url(self.base_url)
        timeouts = timeouts or Timeouts()
        self._clock = clock or SystemClock()
        self._gate = gate or Gate(rate_limit or RateLimit(), clock=self._clock, retry=retry or RetryPolicy())
        self._pipeline = Pipeline(
            transport=transport
            or AiohttpTransport(
                api_key=secret,
                base_url=self.base_url,
                session=session,
                timeouts=timeouts,
                proxy=proxy,
                allow_loopback=local,
                allow_hosts=hosts,
            ),
            gate=self._gate,
            retry=retry or RetryPolicy(),
            timeouts=timeouts,
            clock=self._clock,
            on_event=on_event,
        )
        self._poll = poll or PollPolicy()
        self._allow_loopback = local
        self._allow_hosts = hosts
        self._uploader = Uploader(self._pipeline, self.base_url, allow_loopback=local, allow_hosts=hosts)
        self._poller = Poller(self._pipeline, self.base_url, self._poll)
        self._downloader = Downloader(self._pipeline, self._look, allow_loopback=local, allow_hosts=hosts)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"AsyncAIStemSplitter(base_url={self.base_url!r})"

    async def __aenter__(self) -> Self:
        self._bind()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop waiting for splits and close the connections. Splits go on at the server."""
        if not self._closed:
            self._closed = True
            await self._poller.aclose()
            await self._pipeline.transport.aclose()

    @property
    def gate(self) -> Gate:
        """The admission to this key's budget; hand it to other clients of the same key."""
        return self._gate

    async def get_credits(self, *, timeout: float | None = None, priority: Priority = "interactive") -> Credits:
        """Return what the key may still spend; one credit is one second of source audio."""
        operation = operations.get_credits(self.base_url)
        return await self._within(timeout, self._pipeline.send(operation, priority=priority))

    async def create_upload(
        self,
        *,
        filename: str,
        content_type: str,
        content_length: int,
        timeout: float | None = None,
        priority: Priority = "interactive",
    ) -> Reservation:
        """Reserve a place at the upload worker for `content_length` bytes. `upload_audio` does this by itself."""
        operation = operations.create_upload(
            self.base_url, filename=filename, content_type=content_type, content_length=content_length
        )
        return await self._within(timeout, self._pipeline.send(operation, priority=priority))

    async def upload_audio(
        self,
        source: Source,
        *,
        filename: str | None = None,
        content_type: str | None = None,
        on_progress: OnProgress | None = None,
        timeout: float | None = None,
        priority: Priority = "interactive",
    ) -> Upload:
        """Bring audio to the upload worker, in constant memory, and return what `create_split` needs (`.input`).

        Args:
            source: a path, bytes, or what `stream_source` makes.
            filename: the name to send; the file's own otherwise.
            content_type: inferred from the name otherwise.
            on_progress: called with a `Progress` as bytes leave.
            timeout: seconds for everything; unlimited as long as bytes move otherwise.
            priority: the lane of the reservation.

        Raises:
            SourceUnreadableError: nothing to read; no request was made.
            SourceChangedError: the source changed while it was read.
            UnsafeURLError: the API named an upload worker that must not be visited.
        """
        return await self._within(timeout, self._upload(source, filename, content_type, on_progress, priority))

    async def create_split(
        self,
        split_input: SplitInput,
        *,
        stem_model: StemModel | None = None,
        output_format: OutputFormat | None = None,
        webhook_url: str | None = None,
        idempotency_key: str | None = None,
        before_send: BeforeSend | None = None,
        timeout: float | None = None,
        priority: Priority = "interactive",
    ) -> CreatedSplit:
        """Create a split: the call that costs credits.

        It is sent under an idempotency key, yours or a fresh one, so that repeating it cannot charge twice. Cancelling
        lets an attempt that is under way finish for a few seconds.

        Args:
            split_input: `upload.input` or `DirectURL(url)`.
            stem_model: `"4s"` or `"6s"`; the server's default otherwise.
            output_format: `"mp3"` or `"wav"`; the server's default otherwise.
            webhook_url: told when the split is terminal.
            idempotency_key: 1 to 255 printable ASCII characters.
            before_send: awaited with the `Submission` before each attempt; store it and a crash loses nothing. If it
                raises, nothing is sent.
            timeout: seconds for everything.
            priority: the lane it waits in.

        Raises:
            SubmissionUncertainError: it may or may not have happened; `resubmit(error.submission)` finds out.
        """
        submission = operations.build_submission(
            split_input,
            idempotency_key=_parse_idempotency_key(idempotency_key),
            stem_model=stem_model,
            output_format=output_format,
            webhook_url=webhook_url,
        )
        return await self._create(submission, self._deadline(timeout), priority, before_send)

    async def resubmit(
        self,
        submission: Submission,
        *,
        before_send: BeforeSend | None = None,
        timeout: float | None = None,
        priority: Priority = "interactive",
    ) -> Job:
        """Send a create again, byte for byte, and return the job of the one split it stands for.

        Safe as long as the server remembers the key; how long that is, is not published, so do not wait for days.

        Raises:
            SubmissionUncertainError: still uncertain. A refusal now says nothing about the first attempt.
        """
        created = await self._create(submission, self._deadline(timeout), priority, before_send, replay=True)
        return self._job(created, submission.idempotency_key, priority)

    async def get_split(
        self, split_id: str, *, timeout: float | None = None, priority: Priority = "interactive"
    ) -> Split:
        """Return the split as it is now."""
        return await self._within(timeout, self._look(split_id, priority))

    async def wait_for_split(
        self,
        split_id: str,
        *,
        timeout: float | None = None,
        raise_on_failed: bool = True,
        since: float | None = None,
        priority: Priority = "interactive",
    ) -> Split:
        """Return the split once it is terminal. Passing failures of the network or the server do not end the wait.

        Args:
            split_id: which one.
            timeout: seconds, 30 minutes if not given (`PollPolicy.wait`).
            raise_on_failed: `False` returns a failed split, as the official clients do.
            since: when it was created (`clock.monotonic()`), to spare a look that comes too soon.
            priority: the lane its looks wait in.

        Raises:
            SplitFailedError: it ended as `failed`.
            WaitTimeoutError: it was not terminal in time; it goes on and can be waited for again.
        """
        last = None
        deadline = self._clock.monotonic() + (self._poll.wait if timeout is None else timeout)
        try:
            async with self._clock.timeout_at(deadline):
                async for split in self.updates(split_id, since=since, priority=priority):
                    last = split
        except TimeoutError:
            pass
        if last is None or not last.is_terminal:
            raise WaitTimeoutError(split_id, last)
        if last.status == "failed" and raise_on_failed:
            raise SplitFailedError(last)
        return last

    def updates(
        self, split_id: str, *, since: float | None = None, priority: Priority = "interactive"
    ) -> AsyncIterator[Split]:
        """Iterate over the split as it is first seen and at every observed change, the terminal state last."""
        self._bind()
        return self._poller.updates(split_id, priority=priority, since=since)

    async def download_stems(
        self,
        split: Split,
        into: str | PathLike[str],
        *,
        name: str | None = None,
        overwrite: bool = False,
        on_progress: OnProgress | None = None,
        timeout: float | None = None,
    ) -> dict[str, Path]:
        """Fetch every stem to `into/<name>/<stem>.<ext>` and return stem name to file.

        A file under its final name is complete. What was fetched already, whole or in part, is not fetched again.

        Args:
            split: a succeeded one; expired stem URLs are renewed with `get_split`.
            into: the folder for all splits, created if need be.
            name: the folder for this one; the source's name without its extension, or the id, otherwise.
            overwrite: whether files of other splits, or of your own, may be replaced.
            on_progress: called with a `Progress` per stem as bytes arrive.
            timeout: seconds for everything; unlimited as long as bytes move otherwise.

        Raises:
            DownloadError: files would be overwritten, or the disk refuses.
            IncompleteDownloadError: a stem kept ending early.
            UnsafeNameError, UnsafeURLError: the server named a file or place that is not safe.
            StemsExpiredError: the URLs were refused, fresh ones too.
        """
        folder = Path(into) / (name or folder_name(split.filename, fallback=make_name(split.id, fallback="split")))
        try:
            return await self._within(
                timeout, self._downloader.download(split, folder, overwrite=overwrite, on_progress=on_progress)
            )
        except AIStemSplitterError as error:
            error.split_id = error.split_id or split.id
            raise

    async def submit(
        self,
        source: Source,
        *,
        filename: str | None = None,
        content_type: str | None = None,
        stem_model: StemModel | None = None,
        output_format: OutputFormat | None = None,
        webhook_url: str | None = None,
        idempotency_key: str | None = None,
        before_send: BeforeSend | None = None,
        on_progress: OnProgress | None = None,
        timeout: float | None = None,
        priority: Priority = "interactive",
    ) -> Job:
        """Upload `source` if it is not a URL, create its split, and return the job to wait for.

        Arguments and errors are those of `upload_audio` and `create_split`; `source` may also be an `https` URL, which
        the API fetches by itself.
        """
        deadline = self._deadline(timeout)
        key = _parse_idempotency_key(idempotency_key)
        audio = await build_source(source, filename=filename, content_type=content_type)
        if isinstance(audio, DirectURL):
            split_input: SplitInput = self._vet_source(audio)
        else:
            upload = self._uploader.upload(audio, priority=priority, on_progress=on_progress)
            split_input = (await self._until(deadline, upload)).input
        submission = operations.build_submission(
            split_input,
            idempotency_key=key,
            stem_model=stem_model,
            output_format=output_format,
            webhook_url=webhook_url,
        )
        return self._job(await self._create(submission, deadline, priority, before_send), key, priority)

    def job(self, split_id: str, *, priority: Priority = "interactive") -> Job:
        """Return the job of a split that exists, for example after a restart. Makes no request."""
        return Job(self, split_id, clock=self._clock, priority=priority)

    async def split(
        self,
        source: Source,
        *,
        into: str | PathLike[str],
        name: str | None = None,
        filename: str | None = None,
        content_type: str | None = None,
        stem_model: StemModel | None = None,
        output_format: OutputFormat | None = None,
        webhook_url: str | None = None,
        idempotency_key: str | None = None,
        overwrite: bool = False,
        raise_on_failed: bool = True,
        on_progress: OnProgress | None = None,
        timeout: float | None = None,
        priority: Priority = "interactive",
    ) -> Done:
        """Do all of it: upload, split, wait, and fetch the stems to `into/<name>/<stem>.<ext>`.

        Arguments and errors are those of `submit`, `wait_for_split` and `download_stems`. A folder that holds
        stems already is refused before anything is spent.
        """
        audio = await build_source(source, filename=filename, content_type=content_type)
        folder = name or folder_name(source_name(audio), fallback="")
        if folder and not overwrite:
            await run_in_thread(_check_free, Path(into) / folder)
        deadline = self._deadline(timeout)
        job = await self.submit(
            source,
            filename=filename,
            content_type=content_type,
            stem_model=stem_model,
            output_format=output_format,
            webhook_url=webhook_url,
            idempotency_key=idempotency_key,
            on_progress=on_progress,
            timeout=timeout,
            priority=priority,
        )
        split = await job.wait(timeout=self._left(deadline), raise_on_failed=raise_on_failed)
        if split.status == "failed":
            return Done(source, split, {})
        files = await job.download(
            into,
            name=folder or None,
            overwrite=overwrite,
            on_progress=on_progress,
            timeout=self._left(deadline),
        )
        return Done(source, split, files)

    async def _upload(
        self,
        source: Source,
        filename: str | None,
        content_type: str | None,
        on_progress: OnProgress | None,
        priority: Priority,
    ) -> Upload:
        audio = await build_source(source, filename=filename, content_type=content_type)
        if isinstance(audio, DirectURL):
            raise SourceUnreadableError("a URL is not uploaded; give it to submit, or DirectURL(url) to create_split")
        return await self._uploader.upload(audio, priority=priority, on_progress=on_progress)

    async def _create(
        self,
        submission: Submission,
        deadline: float | None,
        priority: Priority,
        before_send: BeforeSend | None,
        *,
        replay: bool = False,
    ) -> CreatedSplit:
        self._bind()
        doubt = Doubt(open=replay)
        created: CreatedSplit | None = None

        async def note_created(answer: CreatedSplit) -> None:
            nonlocal created
            created = answer
            self._pipeline.emit(
                lambda: SplitCreated(
                    split_id=answer.id,
                    idempotency_key=submission.idempotency_key,
                    credits_used=answer.credits_used,
                    at=self._clock.monotonic(),
                )
            )

        operation = operations.create_split(self.base_url, submission)
        try:
            async with self._clock.timeout_at(deadline):
                return await self._pipeline.send(
                    operation,
                    priority=priority,
                    before_send=None if before_send is None else partial(before_send, submission),
                    after_reply=note_created,
                    doubt=doubt,
                )
        except TimeoutError:
            if not self._is_past(deadline):  # the caller's hook timed out, not the call
                raise
        except AIStemSplitterError as error:
            error.idempotency_key = submission.idempotency_key
            raise
        if created is not None:  # the answer came while the deadline struck
            return created
        if doubt.open:
            raise SubmissionUncertainError(
                "the split may or may not have been created (time ran out); resubmit it to find out",
                submission=submission,
                code="TIMEOUT",
            )
        raise APITimeoutError(
            "could not create the split in time; none was created",
            code="TIMEOUT",
            idempotency_key=submission.idempotency_key,
        )

    def _job(self, created: CreatedSplit, key: str, priority: Priority) -> Job:
        now = self._clock.monotonic()
        return Job(
            self,
            created.id,
            clock=self._clock,
            idempotency_key=key,
            created=created,
            created_at=now,
            priority=priority,
        )

    async def _look(self, split_id: str, priority: Priority = "interactive") -> Split:
        operation = operations.get_split(self.base_url, split_id)
        try:
            return await self._pipeline.send(operation, priority=priority)
        except AIStemSplitterError as error:
            error.split_id = split_id
            raise

    def _vet_source(self, audio: DirectURL) -> DirectURL:
        try:
            vet_url(audio.url, allow_loopback=self._allow_loopback, allow_hosts=self._allow_hosts)
            return audio
        except UnsafeURLError as error:
            problem = str(error).partition(": ")[2]
        raise SourceUnreadableError(f"the API cannot fetch {redact_url(audio.url)}: {problem}")

    def _bind(self) -> None:
        """Check that this call may be made here and now."""
        loop = asyncio.get_running_loop()
        if self._closed:
            raise ConfigurationError("this client is closed; make a new one")
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise ConfigurationError("a client belongs to the event loop of its first call; make one per loop")

    def _deadline(self, timeout: float | None) -> float | None:
        return None if timeout is None else self._clock.monotonic() + timeout

    def _is_past(self, deadline: float | None) -> bool:
        return deadline is not None and self._clock.monotonic() >= deadline

    def _left(self, deadline: float | None) -> float | None:
        return None if deadline is None else max(0.0, deadline - self._clock.monotonic())

    async def _within(self, timeout: float | None, work: Coroutine[Any, Any, T]) -> T:
        return await self._until(self._deadline(timeout), work)

    async def _until(self, deadline: float | None, work: Coroutine[Any, Any, T]) -> T:
        try:
            self._bind()
            async with self._clock.timeout_at(deadline):
                return await work
        except TimeoutError:
            if not self._is_past(deadline):  # the source or a callback timed out, not the call
                raise
        finally:
            work.close()  # where it never began
        # Raised here, outside the `except`: the cancelled call's frames hold request headers.
        raise APITimeoutError("the call did not finish in the time it was given", code="TIMEOUT")


def parse_base_url(text: str, allow_hosts: Collection[str] = ()) -> str:
    """Return a base URL without a trailing slash, `/v1` appended if it has no path.

    Raises:
        ConfigurationError: not an http(s) URL, or plain http to another machine, which would show the key to the
            network (name the host in `allow_hosts` if that network is your own).
    """
    url = text.strip().rstrip("/")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urlsplit("")
    if parts.scheme not in ("http", "https") or not host or "@" in parts.netloc or "?" in url or "#" in url:
        raise ConfigurationError(f"{redact_url(text)!r} is not a base URL; it looks like {BASE_URL}")
    if parts.scheme == "http" and not is_loopback_url(url) and host not in allow_hosts:
        raise ConfigurationError(f"refused to send the key to {host} over plain http; use https")
    return url if parts.path else f"{url}/v1"


def parse_api_key(text: str | None) -> Secret:
    """Return the key as a secret.

    Raises:
        ConfigurationError: there is none, or it cannot be one.
    """
    key = (text or "").strip()
    if not key:
        raise ConfigurationError(f"no API key: set {API_KEY_VARIABLE} or pass api_key", code="NO_API_KEY")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigurationError("the API key has characters that no key has", code="NO_API_KEY")
    return Secret(key)


def _parse_idempotency_key(key: str | None) -> str:
    if key is None:
        return str(uuid.uuid4())
    if not (0 < len(key) <= _KEY_CAP and key.isascii() and key.isprintable()):
        raise ConfigurationError(f"an idempotency key has 1 to {_KEY_CAP} printable ASCII characters")
    return key


def _check_free(folder: Path) -> None:
    memory = Memory.load(folder)
    if memory is not None:
        raise DownloadError(
            f"{folder} holds the stems of split {memory.split_id} already; choose another folder or overwrite them",
            code="EXISTS",
        )
    for name in KNOWN_STEMS:  # not ours, but the download would refuse to overwrite them after the split was paid for
        taken = next(
            (folder / f"{name}.{kind}" for kind in ("mp3", "wav") if (folder / f"{name}.{kind}").exists()), None
        )
        if taken is not None:
            raise DownloadError(f"{taken} exists already; choose another folder or overwrite it", code="EXISTS")
