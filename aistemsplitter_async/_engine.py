"""Builds and connects the parts of one client that upload, create, wait and download.

`client` loads this at its first call, so that importing the package and making a client cost next to nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import aiohttp

from aistemsplitter_async._gate.gate import Gate
from aistemsplitter_async._gate.lanes import Priority
from aistemsplitter_async._poll.poller import Poller
from aistemsplitter_async._send.attempt import Call
from aistemsplitter_async._send.course import stage, tell_created
from aistemsplitter_async._send.create import BeforeSend, Create, OnCreated
from aistemsplitter_async._send.network import Network
from aistemsplitter_async._send.pipeline import Pipeline
from aistemsplitter_async._send.retry import Ambiguity
from aistemsplitter_async._send.transport import AiohttpTransport, Transport
from aistemsplitter_async._tasks import own, run_in_thread, wait_out
from aistemsplitter_async._transfer.audio import AudioSource, source_name
from aistemsplitter_async._transfer.collector import Collector, Files, Work
from aistemsplitter_async._transfer.downloader import Downloader
from aistemsplitter_async._transfer.meter import OnProgress
from aistemsplitter_async._transfer.names import check_name, folder_name, make_name
from aistemsplitter_async._transfer.selection import Selection
from aistemsplitter_async._transfer.stem_stream import StemStream
from aistemsplitter_async._transfer.stem_urls import MAY_PASS
from aistemsplitter_async._transfer.target import check_target
from aistemsplitter_async._transfer.uploader import Uploader
from aistemsplitter_async._wire import operations
from aistemsplitter_async._wire.credentials import identify_api
from aistemsplitter_async._wire.inputs import parse_create
from aistemsplitter_async._wire.messages import Stage
from aistemsplitter_async._wire.urls import URLPolicy, is_loopback_url
from aistemsplitter_async.clock import Clock, Deadline
from aistemsplitter_async.config import PollPolicy, RetryPolicy, Secret, Timeouts
from aistemsplitter_async.errors import AIStemSplitterError, APITimeoutError, SplitFailedError, WaitTimeoutError
from aistemsplitter_async.events import OnEvent
from aistemsplitter_async.models import CreatedSplit, Credits, DirectURL, Split, SplitInput, Submission
from aistemsplitter_async.webhooks.follower import InboxFollower

if TYPE_CHECKING:
    from aistemsplitter_async.webhooks.receiver import WebhookReceiver

T = TypeVar("T")

with suppress(ImportError):  # another anyio may have it elsewhere
    import_module("anyio._backends._asyncio")  # or it loads with the first scope, on the event loop


class Engine:
    """The working parts of one client. Arguments are those of `AsyncAIStemSplitter`; `owns_gate`: it is closed with it.

    Attributes:
        base_url: of the API.
        owner: identifies the API and the key without showing the key; a journal is bound to it.
    """

    def __init__(
        self,
        *,
        base_url: str,
        api_key: Secret,
        session: aiohttp.ClientSession | None,
        retry: RetryPolicy,
        poll: PollPolicy,
        timeouts: Timeouts,
        gate: Gate,
        owns_gate: bool,
        transport: Transport | None,
        clock: Clock,
        network: Network,
        allow_hosts: frozenset[str],
        on_event: OnEvent | None,
        webhooks: WebhookReceiver | None,
    ) -> None:
        self._urls = URLPolicy(allow_loopback=is_loopback_url(base_url), allow_hosts=allow_hosts)
        self.pipeline: Pipeline = Pipeline(
            transport=transport
            or AiohttpTransport(
                api_key=api_key, base_url=base_url, session=session, timeouts=timeouts, network=network, urls=self._urls
            ),
            gate=gate,
            retry=retry,
            timeouts=timeouts,
            clock=clock,
            on_event=on_event,
        )
        self.uploader: Uploader = Uploader(self.pipeline, base_url, self._urls)
        self.poller: Poller = Poller(self.pipeline, base_url, poll)
        self.downloader: Downloader = Downloader(self.pipeline, self.get_split, self._urls)
        self.collector: Collector = Collector(self.pipeline, self.downloader)
        self._follower = InboxFollower(webhooks.inbox, self.poller.wake, clock=clock) if webhooks is not None else None
        self._webhook_url = webhooks.url if webhooks is not None else None
        self.owner: dict[str, str] = {
            "api": identify_api(base_url),  # a sandbox's port is random; its key is not
            "key": hashlib.sha256(api_key.reveal().encode()).hexdigest()[:16],
        }
        gate.serve(self.owner)
        self._leave_gate = gate.aclose if owns_gate else gate.flush
        self.base_url = base_url
        self._clock = clock
        self._longest_wait = poll.wait
        self._closing: asyncio.Task[None] | None = None

    async def aclose(self) -> None:
        """Give creates that are under way time to be answered; then stop polling, and close connections and gate.

        All of this is done however often the caller is cancelled; another call waits for the same end.
        """
        if self._closing is None:
            self._closing = own(self._close())
        await wait_out(self._closing)
        self._closing.result()

    async def _close(self) -> None:
        self.pipeline.close()
        await self.pipeline.creates.drain()
        if self._follower is not None:
            await self._follower.aclose()
        await self.poller.aclose()
        await self.pipeline.transport.aclose()
        await self._leave_gate()

    async def finish_by(self, deadline: Deadline, work: Coroutine[Any, Any, T]) -> T:
        """Await `work` and return its result.

        Raises:
            APITimeoutError: the deadline came first.
        """
        try:
            async with deadline.scope():
                return await work
        except TimeoutError:
            if not deadline.is_past:  # the source or a callback timed out, not the call
                raise
        finally:
            work.close()  # in case it never started
        # Raised here, outside the `except`: the cancelled call's frames hold request headers.
        raise APITimeoutError(f"the call did not finish within its timeout{self.pipeline.holdup}", code="TIMEOUT")

    async def get_credits(self, priority: Priority) -> Credits:
        """Return the credits that the key may still spend."""
        return await self.pipeline.send(operations.get_credits(self.base_url), priority=priority)

    async def get_split(self, split_id: str, priority: Priority = "interactive") -> Split:
        """Return the current state of the split."""
        try:
            return await self.pipeline.send(operations.get_split(self.base_url, split_id), priority=priority)
        except AIStemSplitterError as error:
            error.split_id = split_id
            raise

    @staticmethod
    def plan_folder(audio: AudioSource | DirectURL, name: str | None) -> str:
        """Return the folder that the stems go to: `name`, or the source's own name; empty for a nameless URL.

        Raises:
            UnsafeNameError: `name` is not safe.
        """
        return check_name(name) if name else folder_name(source_name(audio), fallback="")

    def build_submission(
        self,
        split_input: SplitInput | Mapping[str, Any],
        *,
        idempotency_key: str,
        stem_model: str | None = None,
        output_format: str | None = None,
        webhook_url: str | None = None,
    ) -> Submission:
        """Return the create to send; its webhooks go to our own receiver unless a URL is given.

        Raises:
            ConfigurationError: see `parse_create`.
        """
        body = parse_create(split_input, stem_model=stem_model, output_format=output_format, webhook_url=webhook_url)
        return operations.build_submission(
            body.input,
            idempotency_key=idempotency_key,
            stem_model=body.stem_model,
            output_format=body.output_format,
            webhook_url=body.webhook_url or self._webhook_url,
        )

    async def create(
        self,
        submission: Submission,
        *,
        deadline: Deadline,
        priority: Priority,
        before_send: BeforeSend | None = None,
        on_created: OnCreated | None = None,
        ambiguity: Ambiguity | None = None,
    ) -> CreatedSplit:
        """Send a create, and resolve any ambiguity that can be resolved. Errors are those of `create_split`.

        Args:
            submission: from `build_submission`, or a stored one.
            deadline: when the caller gives up.
            priority: the lane it waits in.
            before_send: see `Create`.
            on_created: awaited with the answer before the caller sees it, and finished even if the caller is cancelled.
            ambiguity: see `Create`.
        """
        ambiguity = ambiguity or Ambiguity()
        create = Create(
            self.pipeline,
            operations.create_split(self.base_url, submission),
            submission,
            priority=priority,
            before_send=before_send,
            on_created=partial(self._note_created, submission, on_created),
            ambiguity=ambiguity,
        )
        hooks_own: TimeoutError | None = None
        try:
            async with deadline.scope():
                try:
                    return await create.run()
                except TimeoutError as error:  # the deadline cancels in here, and raises outside
                    hooks_own = error
        except TimeoutError:
            pass
        except AIStemSplitterError as error:
            error.idempotency_key = submission.idempotency_key
            raise
        if hooks_own is not None:
            raise hooks_own
        if create.created is not None:  # the answer came just as the deadline passed
            return create.created
        if ambiguity.open:
            raise create.uncertain(AIStemSplitterError(f"time ran out{self.pipeline.holdup}", code="TIMEOUT"))
        raise APITimeoutError(
            f"could not create the split in time; none was created{self.pipeline.holdup}",
            code="TIMEOUT",
            idempotency_key=submission.idempotency_key,
        )

    async def resubmit(
        self, submission: Submission, *, deadline: Deadline, priority: Priority, before_send: BeforeSend | None
    ) -> CreatedSplit:
        """Resend a create that may already have happened."""
        return await self.create(
            submission, deadline=deadline, priority=priority, before_send=before_send, ambiguity=Ambiguity(open=True)
        )

    async def _note_created(self, submission: Submission, on_created: OnCreated | None, created: CreatedSplit) -> None:
        self.expect_event(created.id, submission)
        tell_created(self.pipeline.emit, created, submission.idempotency_key)
        if on_created is not None:
            await on_created(created)

    def expect_event(self, split_id: str, submission: Submission) -> None:
        """Expect a webhook for this split if its create carried our receiver's URL."""
        if self._follower is not None and operations.parse_webhook_url(submission) == self._webhook_url:
            self._follower.expect(split_id)

    async def updates(
        self,
        split_id: str,
        *,
        priority: Priority,
        since: float | None,
        credits_used: float | None,
        deadline: Deadline | None = None,
        of_many: bool = False,
    ) -> AsyncGenerator[Split, None]:
        """Iterate over the observed changes of a split. `deadline` is when the caller will give up; see `Poller`."""
        done = self._follower is not None and self._follower.is_done(split_id)
        expects_event = self._follower is not None and self._follower.expects(split_id)
        updates = self.poller.updates(
            split_id,
            priority=priority,
            since=since,
            credits_used=credits_used,
            expects_event=expects_event,
            done=done,
            deadline=deadline.at if deadline is not None else None,
            of_many=of_many,
        )
        async with aclosing(updates):
            async for split in updates:
                yield split

    async def wait(
        self,
        split_id: str,
        *,
        timeout: float | None,
        raise_on_failed: bool,
        since: float | None,
        credits_used: float | None,
        priority: Priority,
        of_many: bool = False,
    ) -> Split:
        """Return the split once it is terminal. See `AsyncAIStemSplitter.wait_for_split` and `Poller.updates`.

        Raises:
            SplitFailedError: it ended as `failed`, and `raise_on_failed` is set.
            WaitTimeoutError: it was not terminal in time.
        """
        last = None
        deadline = Deadline.after(self._clock, self._longest_wait if timeout is None else timeout)
        updates = self.updates(
            split_id, priority=priority, since=since, credits_used=credits_used, deadline=deadline, of_many=of_many
        )
        with stage(self.pipeline.emit, "wait", split_id):
            with suppress(TimeoutError):
                async with deadline.scope(), aclosing(updates):
                    async for split in updates:
                        last = split
            if last is None or not last.is_terminal:
                raise WaitTimeoutError(split_id, last, self.pipeline.holdup)
            if last.status == "failed" and raise_on_failed:
                raise SplitFailedError(last)
            return last

    async def download_stems(
        self,
        split: Split,
        into: Path,
        *,
        name: str | None,
        overwrite: bool,
        on_progress: OnProgress | None,
        deadline: Deadline,
        selection: Selection,
    ) -> dict[str, Path]:
        """Download what is selected to `into/<name>/<stem>.<ext>`. See `AsyncAIStemSplitter.download_stems`."""
        own = folder_name(split.filename, fallback=make_name(split.id, fallback="split"))
        folder = into / (check_name(name) if name else own)
        collect = partial(self.collector.collect, split, folder, overwrite=overwrite, on_progress=on_progress)

        async def fetch(work: Work) -> Files:
            call = Call("download_stem", Stage.DOWNLOAD, split.id)
            with stage(self.pipeline.emit, "download", split.id):
                return await self.pipeline.outlast(call, work, MAY_PASS)

        async def mix(work: Work) -> Files:
            with stage(self.pipeline.emit, "mix", split.id) if selection.mixes else nullcontext():
                return await work()

        try:
            return await self.finish_by(deadline, collect(selection=selection, fetching=fetch, mixing=mix))
        except AIStemSplitterError as error:
            error.split_id = error.split_id or split.id
            raise

    def open_stem(self, split: Split, stem: str, deadline: Deadline) -> AbstractAsyncContextManager[StemStream]:
        """Open the stream of one stem, by the deadline. See `AsyncAIStemSplitter.open_stem`."""
        return self.downloader.open_stem(split, stem, partial(self.finish_by, deadline))

    async def check_target(self, folder: Path, *, overwrite: bool, selection: Selection, pattern: str) -> None:
        """Check that what is selected can be written to `folder`, named by `pattern`, before anything is spent.

        Raises:
            DownloadError, ConfigurationError: it cannot be, or would overwrite stems; or mixes cannot be made here.
        """
        await self.collector.check_mixes(selection)
        await run_in_thread(check_target, folder, overwrite, pattern, selection)
