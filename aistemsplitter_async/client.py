"""The client: one key, one gate, and a method for everything the API does."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from aistemsplitter_async._listeners import as_listener
from aistemsplitter_async._loading import load
from aistemsplitter_async._logs.setup import set_up_logging
from aistemsplitter_async._send.course import Course, stage
from aistemsplitter_async._send.network import build_network
from aistemsplitter_async._transfer.names import ANY_STEM
from aistemsplitter_async._transfer.selection import Selection
from aistemsplitter_async._wire.credentials import parse_api_key, parse_base_url, parse_idempotency_key
from aistemsplitter_async._wire.urls import parse_allowed_hosts
from aistemsplitter_async.batch.batch import Batch
from aistemsplitter_async.batch.options import BatchOptions
from aistemsplitter_async.batch.outcome import Done
from aistemsplitter_async.clock import Clock, Deadline, SystemClock
from aistemsplitter_async.config import (
    API_KEY_VARIABLE,
    BASE_URL,
    BASE_URL_VARIABLE,
    DOWNLOADS,
    KEY_AGE,
    PARK,
    SHARED_VARIABLE,
    UPLOADS,
    PollPolicy,
    RateLimit,
    RetryPolicy,
    Timeouts,
)
from aistemsplitter_async.errors import ConfigurationError, SplitFailedError
from aistemsplitter_async.job import Job, follow
from aistemsplitter_async.models import DirectURL

if TYPE_CHECKING:  # loaded with the engine, at the first call
    from ssl import SSLContext

    import aiohttp

    from aistemsplitter_async._engine import Engine
    from aistemsplitter_async._gate.gate import Gate
    from aistemsplitter_async._gate.lanes import Priority
    from aistemsplitter_async._send.create import BeforeSend
    from aistemsplitter_async._send.network import ConnectorFactory
    from aistemsplitter_async._send.transport import Transport
    from aistemsplitter_async._transfer.audio import Source
    from aistemsplitter_async._transfer.meter import OnProgress
    from aistemsplitter_async._transfer.selection import Mixes, StemNames
    from aistemsplitter_async._transfer.stem_stream import StemStream
    from aistemsplitter_async.batch.feeder import Sources
    from aistemsplitter_async.events import OnEvent
    from aistemsplitter_async.journal.place import JournalURL
    from aistemsplitter_async.journal.record import Changed, RetryFailed
    from aistemsplitter_async.models import (
        CreatedSplit,
        Credits,
        OutputFormat,
        Reservation,
        Split,
        SplitInput,
        StemModel,
        Submission,
        Upload,
    )
    from aistemsplitter_async.webhooks.receiver import WebhookReceiver


_POLICIES = {"retry": RetryPolicy, "poll": PollPolicy, "timeouts": Timeouts}


def _check_kinds(**policies: object) -> None:
    for name, policy in policies.items():
        kind = _POLICIES[name]
        if policy is not None and not isinstance(policy, kind):
            raise ConfigurationError(f"{name} is a {kind.__name__}, not {type(policy).__name__}")


class AsyncAIStemSplitter:
    """An asyncio client of the AIStemSplitter API. Use it as `async with`, or call `aclose()`.

    Entering it, or else the first call, loads aiohttp and the rest in a thread, so that the event loop is not blocked;
    that is no part of any `timeout`. It belongs to the event loop of its first call. Every method takes `timeout`
    (seconds, one deadline over queueing, retries and transfers) and `priority`, the lane its requests wait in when the
    key's limit is the bottleneck.

    Every call may raise `APIConnectionError` (`APITimeoutError` when `timeout` ran out), `APIStatusError` with its
    kinds (`AuthenticationError`, `InsufficientCreditsError`, `ValidationError`, `RateLimitedError`, `ServerError`) and
    `ProtocolError`, after the retries that are safe; methods list what they raise besides.

    Args:
        api_key: `AISTEMSPLITTER_API_KEY` from the environment if not given.
        base_url: `AISTEMSPLITTER_BASE_URL`, else the hosted service; `/v1` is appended to one without a path.
        session: carries the API calls, and is never closed here, nor are its connections that died while the machine
            slept (`docs/connections.md`). It must not resend by itself.
        rate_limit: what is known about the key's limit.
        retry: whether and when failed attempts are retried.
        poll: when running splits are polled.
        timeouts: how long one attempt may take.
        gate: shared by clients of one key in one event loop, instead of `rate_limit` and `shared`. Whoever made it
            closes it, if it is a `SharedGate`.
        shared: where processes that use the same key keep what they know of its limit, so that all together keep it:
            `"host"` (a file of this user on this machine), `"sqlite:///path"`, `"redis://host"` (extra `redis`; also
            `rediss://`, `unix://`) or `"postgresql://host/database"` (extra `postgres`). All must name the same.
            `AISTEMSPLITTER_SHARED` if neither this nor `gate` nor `transport` is given. It is opened on entering, or at
            the first call.
        webhooks: receives a notification when a split is done, so that few polls are needed; may serve several clients.
        transport: replaces aiohttp, for tests.
        clock: where time comes from.
        proxy: the URL of an http(s) proxy for everything, like `http://user:password@proxy.example.com:3128`. It
            resolves names itself: through it, names of upload workers and CDNs are vetted, addresses cannot be. For an
            API on this machine over plain http, it must be here as well.
        trust_env: use the proxies of `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, as they are now. Nothing
            else of the environment is trusted, no `.netrc` either.
        ssl: whom to trust, for all requests, instead of the system's certificates.
        connector_factory: a function that makes a new `aiohttp.TCPConnector`, or a kind of it, for each of the client's
            own sessions, which close it. Its own limits and sockets are kept, and the vetting of names is added.
        allow_hosts: hosts (`nas.local`, `10.0.0.7`, `[fd00::7]`, with or without `:port`) of upload workers and CDNs
            that need not be public or https, and of an API over plain http.
        on_event: a listener: called with each event, a value of `events`. It must be an ordinary function and return
            quickly. What it raises changes nothing; each kind is logged once, by the logger `aistemsplitter_async`.

    Raises:
        ConfigurationError: no key, an invalid URL, proxy, policy or `ssl`, a bad value of a variable that `trust_env`
            reads, an async `on_event`, or arguments that exclude each other. An invalid `shared` is found on entering.
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
        shared: str | None = None,
        webhooks: WebhookReceiver | None = None,
        transport: Transport | None = None,
        clock: Clock | None = None,
        proxy: str | None = None,
        trust_env: bool = False,
        ssl: SSLContext | None = None,
        connector_factory: ConnectorFactory | None = None,
        allow_hosts: Collection[str] = (),
        on_event: OnEvent | None = None,
    ) -> None:
        if gate is not None and (rate_limit is not None or shared is not None):
            raise ConfigurationError("give either gate, or rate_limit and shared: a gate has its own")
        theirs = session, proxy, ssl, connector_factory
        if transport is not None and (trust_env or any(argument is not None for argument in theirs)):
            raise ConfigurationError(
                "session, proxy, trust_env, ssl and connector_factory belong to the aiohttp transport; give them or "
                "transport"
            )
        _check_kinds(retry=retry, poll=poll, timeouts=timeouts)
        if isinstance(allow_hosts, str):
            raise ConfigurationError("allow_hosts is a collection of host names, not one string")
        hosts = parse_allowed_hosts(allow_hosts)
        self.base_url: str = parse_base_url(base_url or os.environ.get(BASE_URL_VARIABLE) or BASE_URL, hosts)
        network = build_network(
            self.base_url,
            proxy=proxy,
            trust_env=trust_env,
            environment=os.environ,
            ssl=ssl,
            connector_factory=connector_factory,
        )
        set_up_logging(os.environ)
        self._clock = clock or SystemClock()
        listener = as_listener(on_event, "on_event")
        secret = parse_api_key(api_key if api_key is not None else os.environ.get(API_KEY_VARIABLE))
        self._shared = shared or None
        if gate is None and transport is None:  # what a test makes up has no limit that others know of
            self._shared = shared or os.environ.get(SHARED_VARIABLE) or None

        def build_gate() -> Gate:
            from aistemsplitter_async._gate.gate import Gate  # noqa: PLC0415  # not for a client that is only made

            limit, policy = rate_limit or RateLimit(), retry or RetryPolicy()
            if self._shared is None:
                return Gate(limit, clock=self._clock, retry=policy, on_event=listener)
            from aistemsplitter_async._gate.shared_gate import SharedGate  # noqa: PLC0415  # few clients have one
            from aistemsplitter_async.shared.urls import open_gate_store  # noqa: PLC0415

            store = open_gate_store(self._shared, os.environ, name="shared" if shared else SHARED_VARIABLE)
            return SharedGate(store, limit, clock=self._clock, retry=policy, on_event=listener)

        def build_engine() -> Engine:
            from aistemsplitter_async._engine import Engine  # noqa: PLC0415  # most of what an import would cost

            return Engine(
                base_url=self.base_url,
                api_key=secret,
                session=session,
                retry=retry or RetryPolicy(),
                poll=poll or PollPolicy(),
                timeouts=timeouts or Timeouts(),
                gate=self.gate,
                owns_gate=self._owns_gate,
                transport=transport,
                clock=self._clock,
                network=network,
                allow_hosts=hosts,
                on_event=listener,
                webhooks=webhooks,
            )

        self._gate = gate
        self._owns_gate = gate is None
        self._transport = transport
        self._build_gate = build_gate
        self._build_engine = build_engine
        self._built: Engine | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    @property
    def _engine(self) -> Engine:
        if self._built is None:
            self._built = self._build_engine()
        return self._built

    async def _bound_engine(self) -> Engine:
        """Return the engine for a call on the running event loop, loaded in a thread. Raises like `_bind`."""
        self._bind()
        if self._built is None:
            await load("_engine", "Engine")
            if self._shared is not None:
                await load("_gate.shared_gate", "SharedGate")
                await load("shared.urls", "open_gate_store")
            self._bind()  # it may have been closed meanwhile
        return self._engine

    def _bind(self) -> None:
        """Check that the client is open and belongs to the running event loop.

        Raises:
            ConfigurationError: the client is closed, or belongs to another event loop, or there is none.
        """
        loop = _running_loop()
        if self._closed:
            raise ConfigurationError("this client is closed; make a new one")
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise ConfigurationError(
                "a client belongs to the event loop of its first call, and this is another one; make the client inside "
                "the coroutine that asyncio.run runs, one per loop"
            )

    def __repr__(self) -> str:
        return f"AsyncAIStemSplitter(base_url={self.base_url!r})"

    async def __aenter__(self) -> Self:
        """Load what calls need, aiohttp first of all, in a thread. Without `async with`, the first call does.

        Raises:
            ConfigurationError: the client is closed, or belongs to another event loop.
        """
        await self._bound_engine()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop waiting for splits and close the connections. Splits continue at the server.

        Creates that are being sent get a few seconds to be answered first, so that their splits are known. All of this
        is done even if the caller is cancelled; another call waits for the same end. With `shared`, the other processes
        are told what they must know, in a few seconds at most.
        """
        _running_loop()
        self._closed = True
        if self._built is not None:
            await self._built.aclose()
            return
        if self._gate is not None and self._owns_gate:
            await self._gate.aclose()
        if self._transport is not None:
            await self._transport.aclose()

    @property
    def gate(self) -> Gate:
        """The gate to this key's request budget; pass it to other clients of the same key.

        Read it inside `async with`, or after the first call: before, its modules load here, which takes some 30 ms, or
        more with `shared`.
        """
        if self._gate is None:
            self._gate = self._build_gate()
        return self._gate

    async def get_credits(self, *, timeout: float | None = None, priority: Priority = "interactive") -> Credits:
        """Return the credits that the key may still spend; one credit is one second of source audio."""
        engine = await self._bound_engine()
        return await engine.finish_by(self._deadline(timeout), engine.get_credits(priority))

    async def create_upload(
        self,
        *,
        filename: str,
        content_type: str,
        content_length: int,
        timeout: float | None = None,
        priority: Priority = "interactive",
    ) -> Reservation:
        """Reserve an upload of `content_length` bytes at the upload worker. `upload_audio` does this itself."""
        engine = await self._bound_engine()
        reservation = engine.uploader.reserve(
            filename=filename, content_type=content_type, content_length=content_length, priority=priority
        )
        return await engine.finish_by(self._deadline(timeout), reservation)

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
        """Send audio to the upload worker, in constant memory, and return what `create_split` needs (`.input`).

        Args:
            source: a path, bytes, a binary file object (read from where it stands to its end, in a thread, and not
                closed), or the result of `stream_source`.
            filename: the name to send; by default the file's own.
            content_type: by default inferred from the name.
            on_progress: a listener like `on_event`, called with a `Progress` as bytes leave.
            timeout: seconds for the whole call; by default unlimited as long as bytes move.
            priority: the lane of the reservation.

        Raises:
            SourceUnreadableError: nothing to read; no request was made.
            SourceChangedError: the source changed while it was read.
            UnsafeURLError: the API named an upload worker whose URL must not be requested.
        """
        engine = await self._bound_engine()
        delivering = engine.uploader.deliver(
            source, filename=filename, content_type=content_type, on_progress=on_progress, priority=priority
        )
        return (await engine.finish_by(self._deadline(timeout), delivering)).upload

    async def create_split(
        self,
        split_input: SplitInput | Mapping[str, Any],
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

        It is sent under an idempotency key, yours or a fresh one, so that repeating it cannot charge twice. An attempt
        that is under way has five seconds to finish, however often the caller is cancelled; the `__cause__` of the
        `CancelledError` is then an error with the `split_id`, or a `SubmissionUncertainError` (`docs/cancellation.md`).

        Args:
            split_input: `upload.input`, `DirectURL(url)`, or a dict as the official clients take it: the input, with
                its `type`, or the whole body with an `input` in it.
            stem_model: `"4s"` or `"6s"`; by default the server's choice.
            output_format: `"mp3"` or `"wav"`; by default the server's choice.
            webhook_url: where the API sends a notification when the split is terminal.
            idempotency_key: 1 to 255 printable ASCII characters.
            before_send: awaited with the `Submission` before each attempt; store it and a crash loses nothing. If it
                raises, nothing is sent, and the call raises just that, with a note that names the idempotency key.
            timeout: seconds for the whole call.
            priority: the lane it waits in.

        Raises:
            SubmissionUncertainError: it may or may not have happened; `resubmit(error.submission)` finds out.
            ConfigurationError: `before_send` is not async, or a field of the dict is wrong; nothing was sent.
        """
        engine = await self._bound_engine()
        submission = engine.build_submission(
            split_input,
            idempotency_key=_key_or_fresh(idempotency_key),
            stem_model=stem_model,
            output_format=output_format,
            webhook_url=webhook_url,
        )
        return await engine.create(
            submission, deadline=self._deadline(timeout), priority=priority, before_send=before_send
        )

    async def resubmit(
        self,
        submission: Submission,
        *,
        before_send: BeforeSend | None = None,
        timeout: float | None = None,
        priority: Priority = "interactive",
    ) -> Job:
        """Send a create again, byte for byte, and return the job of the one split it stands for.

        Safe as long as the server remembers the key; how long that is has not been published, so do not wait for days.

        Raises:
            SubmissionUncertainError: still uncertain. A refusal now says nothing about the first attempt.
            ConfigurationError: its body is empty, as in an error that a task queue made again (`docs/values.md`).
        """
        if not submission.body:
            raise ConfigurationError(
                "the body of this submission was not kept, since it names a URL that grants access; store "
                "submission.to_dict() where the error is caught, or in before_send"
            )
        created = await (await self._bound_engine()).resubmit(
            submission, deadline=self._deadline(timeout), priority=priority, before_send=before_send
        )
        return self._job(created, submission.idempotency_key, priority)

    async def get_split(
        self, split_id: str, *, timeout: float | None = None, priority: Priority = "interactive"
    ) -> Split:
        """Return the current state of the split."""
        engine = await self._bound_engine()
        return await engine.finish_by(self._deadline(timeout), engine.get_split(split_id, priority))

    async def wait_for_split(
        self,
        split_id: str,
        *,
        timeout: float | None = None,
        raise_on_failed: bool = True,
        since: float | None = None,
        credits_used: float | None = None,
        priority: Priority = "interactive",
    ) -> Split:
        """Return the split once it is terminal. Transient failures of the network or the server do not end the wait.

        Wrong answers that may pass are waited out for two minutes in a row (`RetryPolicy.passing_paid`): a 404 or 410,
        a reply that cannot be decoded or is about another split, success without stems, a page of a gateway. A 404 for
        an id of which nothing is known here (no `since`, never seen) only for five seconds: it may be mistyped.

        Args:
            split_id: the split to wait for.
            timeout: seconds, 30 minutes if not given (`PollPolicy.wait`).
            raise_on_failed: `False` returns a failed split, as the official clients do.
            since: when it was created (`clock.monotonic()`), to avoid a poll that comes too early.
            credits_used: its price, from which its processing time is predicted.
            priority: the lane its polls wait in.

        Raises:
            SplitFailedError: it ended as `failed`.
            WaitTimeoutError: it was not terminal in time; it continues and can be waited for again.
            AuthenticationError: the key was refused; without a `code`, by something on the way to the API.
            ProtocolError: replies did not become readable, or stems did not come, in time.
            APIStatusError: the API does not know the split, or refuses to tell.
        """
        return await (await self._bound_engine()).wait(
            split_id,
            timeout=timeout,
            raise_on_failed=raise_on_failed,
            since=since,
            credits_used=credits_used,
            priority=priority,
        )

    def updates(
        self,
        split_id: str,
        *,
        since: float | None = None,
        credits_used: float | None = None,
        priority: Priority = "interactive",
    ) -> AsyncIterator[Split]:
        """Iterate over the split as it is first seen and at every observed change, the terminal state last.

        Arguments and errors are those of `wait_for_split`, but there is no deadline: `asyncio.timeout` sets one.
        """
        self._bind()
        return follow(self._bound_engine, split_id, priority=priority, since=since, credits_used=credits_used)

    async def download_stems(
        self,
        split: Split,
        into: str | PathLike[str],
        *,
        name: str | None = None,
        stems: StemNames | None = None,
        mixes: Mixes | None = None,
        overwrite: bool = False,
        on_progress: OnProgress | None = None,
        timeout: float | None = None,
    ) -> dict[str, Path]:
        """Download the stems to `into/<name>/<stem>.<ext>` and return the files by stem name.

        A file under its final name is complete. Bytes that an earlier attempt downloaded are not downloaded again, and
        a stem that is not asked for is not fetched: another call with other `stems` fetches what is missing then.

        Args:
            split: one that succeeded; expired stem URLs are renewed with `get_split`.
            into: the folder for all splits, created if missing.
            name: the folder for this one; by default the source's name without its extension, or else the split's id.
            stems: the names of those to download, like `("vocals",)`; all by default.
            mixes: files to make of sums of stems, by their names: `{"instrumental": "-vocals"}` is all but the vocals,
                and `{"rhythm": ("drums", "bass")}` those two. Each is as long as its stems, of their format, and begins
                where they do; stems that only a mix needs are fetched and not kept. Where a sum would clip, the whole
                mix is made quieter (`Done.gain_db`, `MixMade`). It takes the extra `audio`.
            overwrite: whether files of other splits, or of your own, may be replaced.
            on_progress: a listener like `on_event`, called with a `Progress` per stem as bytes arrive.
            timeout: seconds for the whole call; by default unlimited as long as bytes move.

        Raises:
            ConfigurationError: `stems` are no names, or none; or `mixes` are written wrongly, or cannot be made since
                the extra `audio` is not installed.
            DownloadError: the split does not have one of `stems`, files would be overwritten, writing failed, a stem
                cannot be decoded, or is longer than audio of the split's duration can be, or there are more than 256 of
                them; its `code` says which.
            IncompleteDownloadError: a stem kept ending early, or something else kept coming in its place.
            MixError: a stem cannot be mixed; the stems that were asked for are here, and all is still paid for.
            UnsafeNameError, UnsafeURLError: the server named a file or URL that is not safe.
            StemsExpiredError: the URLs were refused for two minutes, fresh ones too.
        """
        return await (await self._bound_engine()).download_stems(
            split,
            Path(into),
            name=name,
            overwrite=overwrite,
            on_progress=on_progress,
            deadline=self._deadline(timeout),
            selection=Selection.parse(stems, mixes),
        )

    @asynccontextmanager
    async def open_stem(self, split: Split, stem: str, *, timeout: float | None = None) -> AsyncIterator[StemStream]:
        """Open one stem as a stream of bytes, to be passed on without a file. Use it as `async with`.

        It yields a `StemStream` (`name`, `length`, `content_type`, `filename`), once its first bytes are here: iterate
        over it with `async for`, or read it like an async file. Each byte comes once, in constant memory; next to
        nothing is received ahead of its reader. A broken connection is resumed and an expired URL renewed. The stream
        ends only where the stem does; anything else is an error. Leaving the block closes the connection.

        Args:
            split: one that succeeded.
            stem: the stem's name.
            timeout: seconds to open it; reading takes as long as its reader does, and bytes move.

        Raises:
            DownloadError: when it is entered, if the split has no stems (`code` is `NO_STEMS`), such as one that is not
                finished, or not this one (`NO_SUCH_STEM`). Entering and reading raise what `StemStream.read` does.
        """
        deadline = self._deadline(timeout)
        async with (await self._bound_engine()).open_stem(split, stem, deadline) as stream:
            yield stream

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

        Arguments and errors are those of `upload_audio` and `create_split`; `source` may also be an `https` URL, as
        text, as `DirectURL` or as a dict, which the API fetches itself.
        """
        engine, deadline, key = await self._bound_engine(), self._deadline(timeout), _key_or_fresh(idempotency_key)
        prepared = engine.uploader.prepare_input(
            source, filename=filename, content_type=content_type, on_progress=on_progress, priority=priority
        )
        submission = engine.build_submission(
            await engine.finish_by(deadline, prepared),
            idempotency_key=key,
            stem_model=stem_model,
            output_format=output_format,
            webhook_url=webhook_url,
        )
        engine = await self._bound_engine()  # the client may have been closed during the upload
        created = await engine.create(submission, deadline=deadline, priority=priority, before_send=before_send)
        return self._job(created, key, priority)

    def job(self, split_id: str, *, priority: Priority = "interactive") -> Job:
        """Return the job of a split that exists, for example after a restart. Makes no request."""
        return Job(self._bound_engine, split_id, clock=self._clock, priority=priority)

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
        before_send: BeforeSend | None = None,
        stems: StemNames | None = None,
        mixes: Mixes | None = None,
        overwrite: bool = False,
        raise_on_failed: bool = True,
        on_progress: OnProgress | None = None,
        timeout: float | None = None,
        priority: Priority = "interactive",
    ) -> Done:
        """Upload, split, wait, and download the stems to `into/<name>/<stem>.<ext>`.

        Arguments and errors are those of `submit`, `wait_for_split` and `download_stems`. A folder that holds
        stems already is refused before anything is spent, and so are `stems` that the model cannot have.
        """
        selection = Selection.parse(stems, mixes)
        selection.check_model(stem_model)
        on_progress = as_listener(on_progress, "on_progress")  # the same one up and down
        engine = await self._bound_engine()
        with Course(source, engine.pipeline.emit, filename, stem_model, output_format) as course:
            with stage(engine.pipeline.emit, "prepare"):
                audio = await engine.uploader.open_source(source, filename=filename, content_type=content_type)
                folder = engine.plan_folder(audio, name)
                target = Path(into) / folder
                overwritten = overwrite or not folder
                await engine.check_target(target, overwrite=overwritten, selection=selection, pattern=ANY_STEM)
            deadline = self._deadline(timeout)
            job = await self.submit(
                audio.url if isinstance(audio, DirectURL) else audio,
                stem_model=stem_model,
                output_format=output_format,
                webhook_url=webhook_url,
                idempotency_key=idempotency_key,
                before_send=before_send,
                on_progress=on_progress,
                timeout=timeout,
                priority=priority,
            )
            split = await job.wait(timeout=deadline.left, raise_on_failed=raise_on_failed)
            course.note(split)
            if split.status == "failed":
                course.fail(SplitFailedError(split))
                return Done(source, split, {})
            files = await job.download(
                into,
                name=folder or None,
                stems=stems,
                mixes=mixes,
                overwrite=overwrite,
                on_progress=on_progress,
                timeout=deadline.left,
            )
            return Done(source, split, files, gain_db=await engine.collector.read_gains(files, selection))

    def split_many(
        self,
        sources: Sources,
        *,
        into: str | PathLike[str] | None = None,
        journal: str | PathLike[str] | None = None,
        stem_model: StemModel | None = None,
        output_format: OutputFormat | None = None,
        stems: StemNames | None = None,
        mixes: Mixes | None = None,
        in_flight: int | None = None,
        uploads: int = UPLOADS,
        downloads: int = DOWNLOADS,
        dedupe: bool = True,
        priority: Priority = "bulk",
        max_credits: float | None = None,
        webhook_url: str | None = None,
        key_age: float = KEY_AGE,
        patience: float = PARK,
        retry_failed: RetryFailed = False,
        overwrite: bool = False,
        changed: Changed = "refuse",
        new_key: bool = False,
        resend: bool = False,
    ) -> Batch:
        """Split many sources as fast as the key allows. Enter the returned batch, and iterate over it for the outcomes.

        Outcomes (`Done`, `Failed`, `Skipped`) come as they finish. With a journal, running the same batch again
        after any interruption resumes it: finished sources cost no request, and nothing is charged twice.

        Args:
            sources: an iterable or async iterable of sources, or of `BatchItem`s for sources with names of their own.
                Consumed only as fast as they are processed. A path is one file, called exactly so; folders, lists,
                patterns and names in other spellings are for the command, `aistemsplitter-async batch`.
            into: the folder for all stems, `into/<source name>/<stem>.<ext>`; nothing is downloaded without it.
            journal: the file that records everything; without one, a crash loses what was in progress. With the URL
                of a PostgreSQL database (`postgresql://..`, where `?schema=` may name the schema), several workers, on
                several machines, can run the same batch at once: each song is the work of one of them, and `into` must
                be the same folder for all.
            stem_model: `"4s"` or `"6s"`; by default the server's choice. A song of the journal is bought once more only
                if it was delivered as something else than is asked for here; without this argument, never.
            output_format: `"mp3"` or `"wav"`; by default the server's choice, with the same rule.
            stems: the names of those to download, like `("vocals",)`; all by default. Another run on the journal that
                asks for more fetches what is missing, and buys nothing.
            mixes: files to make of sums of stems, as in `download_stems`: `{"instrumental": "-vocals"}`.
            in_flight: splits being processed at a time; by default as many as keep the key busy.
            uploads: parallel uploads.
            downloads: tracks whose stems are downloaded at a time.
            dedupe: whether the same audio, whatever its tags, or the same URL is split only once.
            priority: the lane its requests wait in.
            max_credits: stop before a split that would make this run, of all workers together, cost more; all must be
                given the same. Files are measured by their content. One without a certain length is priced at the
                longest it can be. What can have any length (a URL, a stream or an unknown format without
                `BatchItem.seconds`) is not created: it fails with `SpendLimitError`, and the others go on.
            webhook_url: where the API sends a notification for every split.
            key_age: seconds the server is trusted to remember an idempotency key: until then an unanswered create is
                resent under its key; after that a person must decide.
            patience: seconds to wait out an outage (no network, a failing server, a long 429) before the batch stops;
                with 0 each source fails on its own. What fails one source alone, while the service answers others, is
                no outage: that source fails.
            retry_failed: try tracks again that failed for good in an earlier run; `"unpaid"` leaves out those whose
                split failed, which would be paid for again.
            overwrite: whether files of other splits, or of your own, may be replaced.
            changed: what a file is that was bought with other bytes, where nothing shows whether only its tags
                changed: the `"same"` song, a `"new"` one, or by default a `Failed` with a `SourceChangedError` whose
                code is `CHANGED`. That is for files that were bought by an older version of this package, or of
                formats other than WAV, AIFF, FLAC, MP3, Ogg and MP4.
            new_key: whether a journal that was started with another API key accepts this one, if it sees a split that
                the journal paid for, and so is of the same account. It is asked once; both keys are accepted then.
            resend: whether creates of these sources that are left for review are sent again: those whose answer is not
                known, and that are older than `key_age` or were sent with another API key. Check first that their
                splits do not exist; they may be paid for once more, and count against `max_credits` like new ones.

        Raises:
            ConfigurationError: an argument out of its range, or `stems` that the model cannot have. Entering it raises
                it if the extra `audio` is missing for `mixes`, `JournalLockedError` if another process is running on
                the journal, and `JournalError` if that cannot be used.
        """
        options = BatchOptions(
            into=None if into is None else Path(into),
            stem_model=stem_model,
            output_format=output_format,
            selection=Selection.parse(stems, mixes),
            webhook_url=webhook_url,
            in_flight=in_flight,
            uploads=uploads,
            downloads=downloads,
            dedupe=dedupe,
            priority=priority,
            max_credits=max_credits,
            key_age=key_age,
            patience=patience,
            retry_failed=retry_failed,
            overwrite=overwrite,
            changed=changed,
            new_key=new_key,
            resend=resend,
        )
        place: Path | JournalURL | None = None
        if journal is not None:
            from aistemsplitter_async.journal.place import parse_journal  # noqa: PLC0415  # few clients have a journal

            place = parse_journal(journal)
        return Batch(self._bound_engine, sources, options, journal=place, clock=self._clock)

    def _job(self, created: CreatedSplit, key: str, priority: Priority) -> Job:
        return Job(
            self._bound_engine,
            created.id,
            clock=self._clock,
            idempotency_key=key,
            created=created,
            created_at=self._clock.monotonic(),
            priority=priority,
        )

    def _deadline(self, timeout: float | None) -> Deadline:
        return Deadline.after(self._clock, timeout)


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        pass
    raise ConfigurationError(
        "no asyncio event loop is running here: await this in a coroutine that asyncio.run(..) runs. Trio and curio "
        'have none; with anyio, run it with backend="asyncio"'
    )


def _key_or_fresh(key: str | None) -> str:
    return str(uuid.uuid4()) if key is None else parse_idempotency_key(key)
