"""What a client consists of, wired together: the pipeline and the stages on top of it.

`client` loads this with its first call, so that importing the package and making a client cost next to nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import aiohttp

from aistemsplitter_async._gate.gate import Gate
from aistemsplitter_async._gate.lanes import Priority
from aistemsplitter_async._poll.poller import Poller
from aistemsplitter_async._send.pipeline import Doubt, Pipeline
from aistemsplitter_async._send.transport import AiohttpTransport, Transport
from aistemsplitter_async._tasks import run_in_thread
from aistemsplitter_async._transfer.audio import Source, build_source, source_name
from aistemsplitter_async._transfer.downloader import Downloader
from aistemsplitter_async._transfer.manifest import _check_target
from aistemsplitter_async._transfer.meter import OnProgress
from aistemsplitter_async._transfer.names import ANY_STEM
from aistemsplitter_async._transfer.uploader import Uploader
from aistemsplitter_async._wire import operations
from aistemsplitter_async._wire.urls import is_loopback_url, vet_url
from aistemsplitter_async.clock import Clock
from aistemsplitter_async.config import PollPolicy, RateLimit, RetryPolicy, Secret, Timeouts
from aistemsplitter_async.errors import (
    AIStemSplitterError,
    APITimeoutError,
    SourceUnreadableError,
    SubmissionUncertainError,
    UnsafeURLError,
)
from aistemsplitter_async.events import OnEvent, SplitCreated
from aistemsplitter_async.models import (
    CreatedSplit,
    Credits,
    DirectURL,
    Reservation,
    Split,
    SplitInput,
    Submission,
    Upload,
    redact_url,
)
from aistemsplitter_async.webhooks.follower import Hearing

if TYPE_CHECKING:
    from aistemsplitter_async.webhooks.receiver import WebhookReceiver


BeforeSend = Callable[[Submission], Awaitable[None]]
OnCreated = Callable[[CreatedSplit], Awaitable[None]]


class Stages:
    """The working parts of one client. Arguments are those of `AsyncAIStemSplitter`.

    Attributes:
        owner: tells whose splits these are, without telling the key: what a journal is bound to.
    """

    def __init__(
        self,
        *,
        base_url: str,
        api_key: Secret,
        session: aiohttp.ClientSession | None,
        rate_limit: RateLimit,
        retry: RetryPolicy,
        poll: PollPolicy,
        timeouts: Timeouts,
        gate: Gate | None,
        transport: Transport | None,
        clock: Clock,
        proxy: str | None,
        allow_hosts: frozenset[str],
        on_event: OnEvent | None,
        webhooks: WebhookReceiver | None,
    ) -> None:
        local = is_loopback_url(base_url)
        self.pipeline = Pipeline(
            transport=transport
            or AiohttpTransport(
                api_key=api_key,
                base_url=base_url,
                session=session,
                timeouts=timeouts,
                proxy=proxy,
                allow_loopback=local,
                allow_hosts=allow_hosts,
            ),
            gate=gate or Gate(rate_limit, clock=clock, retry=retry, on_event=on_event),
            retry=retry,
            timeouts=timeouts,
            clock=clock,
            on_event=on_event,
        )
        self.uploader = Uploader(self.pipeline, base_url, allow_loopback=local, allow_hosts=allow_hosts)
        self.poller = Poller(self.pipeline, base_url, poll)
        self._hearing = Hearing(webhooks.inbox, self.poller.wake, clock=clock) if webhooks is not None else None
        self._webhook_url = webhooks.url if webhooks is not None else None
        self.downloader = Downloader(self.pipeline, self.look, allow_loopback=local, allow_hosts=allow_hosts)
        self.owner = {
            "api": _origin(base_url, local=local),
            "key": hashlib.sha256(api_key.reveal().encode()).hexdigest()[:16],
        }
        self._base_url = base_url
        self._clock = clock
        self._vet = partial(vet_url, allow_loopback=local, allow_hosts=allow_hosts)

    async def aclose(self) -> None:
        """Stop looking at splits and close the connections."""
        if self._hearing is not None:
            await self._hearing.aclose()
        await self.poller.aclose()
        await self.pipeline.transport.aclose()

    async def get_credits(self, priority: Priority) -> Credits:
        """Ask what the key may still spend."""
        return await self.pipeline.send(operations.get_credits(self._base_url), priority=priority)

    async def create_upload(
        self, *, filename: str, content_type: str, content_length: int, priority: Priority
    ) -> Reservation:
        """Reserve a place at the upload worker."""
        operation = operations.create_upload(
            self._base_url, filename=filename, content_type=content_type, content_length=content_length
        )
        return await self.pipeline.send(operation, priority=priority)

    async def upload(
        self,
        source: Source,
        *,
        filename: str | None,
        content_type: str | None,
        on_progress: OnProgress | None,
        priority: Priority,
    ) -> Upload:
        """Bring audio to the upload worker."""
        audio = await build_source(source, filename=filename, content_type=content_type)
        if isinstance(audio, DirectURL):
            raise SourceUnreadableError("a URL is not uploaded; give it to submit, or DirectURL(url) to create_split")
        return await self.uploader.upload(audio, priority=priority, on_progress=on_progress)

    async def bring(
        self,
        source: Source,
        *,
        filename: str | None,
        content_type: str | None,
        on_progress: OnProgress | None,
        priority: Priority,
    ) -> SplitInput:
        """Return what a create needs: a URL as it is, anything else once it is uploaded."""
        audio = await build_source(source, filename=filename, content_type=content_type)
        if isinstance(audio, DirectURL):
            return self.vet_source(audio)
        return (await self.uploader.upload(audio, priority=priority, on_progress=on_progress)).input

    def build_submission(
        self,
        split_input: SplitInput,
        *,
        idempotency_key: str,
        stem_model: str | None = None,
        output_format: str | None = None,
        webhook_url: str | None = None,
    ) -> Submission:
        """Return the create that is about to be sent; our own receiver is told where nobody else is to be."""
        return operations.build_submission(
            split_input,
            idempotency_key=idempotency_key,
            stem_model=stem_model,
            output_format=output_format,
            webhook_url=webhook_url or self._webhook_url,
        )

    async def source_name(self, source: Source, filename: str | None) -> str:
        """Return the file name a source goes by, possibly empty for a URL.

        Raises:
            SourceUnreadableError: it cannot be read.
        """
        return source_name(await build_source(source, filename=filename))

    async def create(
        self,
        submission: Submission,
        deadline: float | None,
        priority: Priority,
        before_send: BeforeSend | None,
        *,
        doubt: Doubt | None = None,
        on_created: OnCreated | None = None,
    ) -> CreatedSplit:
        """Send a create, and leave no doubt about it that could be avoided.

        `doubt` is open if an earlier attempt may have happened. `on_created` is awaited with the answer before anybody
        else sees it, and finished even if the caller is cancelled. Errors are those of `create_split`.
        """
        doubt = doubt or Doubt()
        created: CreatedSplit | None = None

        async def note_created(answer: CreatedSplit) -> None:
            nonlocal created
            created = answer
            self.expect_event(answer.id, submission)
            self.pipeline.emit(
                lambda: SplitCreated(
                    split_id=answer.id,
                    idempotency_key=submission.idempotency_key,
                    credits_used=answer.credits_used,
                    at=self._clock.monotonic(),
                )
            )
            if on_created is not None:
                await on_created(answer)

        operation = operations.create_split(self._base_url, submission)
        try:
            async with self._clock.timeout_at(deadline):
                return await self.pipeline.send(
                    operation,
                    priority=priority,
                    before_send=None if before_send is None else partial(before_send, submission),
                    after_reply=note_created,
                    doubt=doubt,
                )
        except TimeoutError:
            if deadline is None or self._clock.monotonic() < deadline:  # the caller's hook timed out, not the call
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

    def expect_event(self, split_id: str, submission: Submission) -> None:
        """Rely on being told of the end of a split, if its create named our own receiver and not somebody else's."""
        if self._hearing is not None and operations.parse_webhook_url(submission) == self._webhook_url:
            self._hearing.expect(split_id)

    async def look(self, split_id: str, priority: Priority = "interactive") -> Split:
        """Return the split as it is now."""
        operation = operations.get_split(self._base_url, split_id)
        try:
            return await self.pipeline.send(operation, priority=priority)
        except AIStemSplitterError as error:
            error.split_id = split_id
            raise

    async def updates(
        self,
        split_id: str,
        *,
        priority: Priority,
        since: float | None,
        credits_used: float | None,
        deadline: float | None = None,
    ) -> AsyncGenerator[Split, None]:
        """Iterate over the observed changes of a split. `deadline` is when the caller will give up."""
        done = self._hearing is not None and self._hearing.heard_of(split_id)
        told = self._hearing is not None and self._hearing.expects(split_id)
        updates = self.poller.updates(
            split_id,
            priority=priority,
            since=since,
            credits_used=credits_used,
            told=told,
            done=done,
            deadline=deadline,
        )
        async with aclosing(updates):
            async for split in updates:
                yield split

    async def check_target(self, folder: Path, *, overwrite: bool, pattern: str = ANY_STEM) -> None:
        """Check that stems called by `pattern` can be put into `folder`, before anything is spent.

        Raises:
            DownloadError: it cannot be written to, or stems would be overwritten unasked.
        """
        await run_in_thread(_check_target, folder, overwrite, pattern)

    def vet_source(self, audio: DirectURL) -> DirectURL:
        """Return a URL that the API may be sent to.

        Raises:
            SourceUnreadableError: it may not.
        """
        try:
            self._vet(audio.url)
            return audio
        except UnsafeURLError as error:
            problem = str(error).partition(": ")[2]
        raise SourceUnreadableError(f"the API cannot fetch {redact_url(audio.url)}: {problem}")


def _origin(base_url: str, *, local: bool) -> str:
    """Return what tells one API from another; the port of a sandbox is a matter of chance, its key is not."""
    return (urlsplit(base_url).hostname or "") if local else base_url
