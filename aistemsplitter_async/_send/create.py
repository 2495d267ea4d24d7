"""Sends a create: the call that costs credits and must not be lost.

Each attempt is admitted by the gate, committed by the caller's hook, sent, and answered, in this order. The commit and
the exchange run in tasks of their own, so that a cancelled caller still learns which split exists; one who is cancelled
before the exchange sends nothing. However a create ends, it is known whether there is a split: `SplitCreated` or
`CreateAbandoned` is emitted, or else there is none.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from aistemsplitter_async._gate.lanes import Priority
from aistemsplitter_async._gate.slot import Slot
from aistemsplitter_async._send.attempt import Call
from aistemsplitter_async._send.course import stage
from aistemsplitter_async._send.pipeline import Pipeline
from aistemsplitter_async._send.retry import Ambiguity
from aistemsplitter_async._wire.operations import Operation
from aistemsplitter_async.errors import (
    AIStemSplitterError,
    APIConnectionError,
    APIStatusError,
    ConfigurationError,
    SubmissionUncertainError,
)
from aistemsplitter_async.events import CreateAbandoned
from aistemsplitter_async.models import CreatedSplit, Submission

T = TypeVar("T")
BeforeSend = Callable[[Submission], Awaitable[None]]
OnCreated = Callable[[CreatedSplit], Awaitable[None]]


class Create:
    """One create, sent until it is answered or given up.

    Args:
        pipeline: sends it.
        operation: of `submission`.
        submission: the key and the exact bytes.
        priority: the lane it waits in.
        before_send: awaited after each admission and before anything is sent; if it raises, nothing is.
        on_created: awaited with the answer before the caller sees it.
        ambiguity: whether an earlier attempt may have happened, and what is known from now on.

    Attributes:
        created: the answer, as soon as there is one.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        operation: Operation[CreatedSplit],
        submission: Submission,
        *,
        priority: Priority = "interactive",
        before_send: BeforeSend | None = None,
        on_created: OnCreated | None = None,
        ambiguity: Ambiguity | None = None,
    ) -> None:
        self.created: CreatedSplit | None = None
        self._pipeline = pipeline
        self._operation = operation
        self._call = Call.of(operation)
        self._submission = submission
        self._priority: Priority = priority
        self._before_send = before_send
        self._on_created = on_created
        self._ambiguity = ambiguity or Ambiguity()

    async def run(self) -> CreatedSplit:
        """Send the create until it is answered, and return the answer.

        Raises:
            SubmissionUncertainError: it was given up, but may have happened.
            AIStemSplitterError: it did not happen.
            Exception: what a hook raised: `before_send` before anything was sent, `on_created` after it happened.
            asyncio.CancelledError: the caller was cancelled. Its `__cause__` is a `SubmissionUncertainError` if the
                create may have happened, an `AIStemSplitterError` with the `split_id` if it did, else not ours.
        """
        with stage(self._pipeline.emit, "create") as run:
            try:
                return await self._send()
            finally:
                run.split_id = None if self.created is None else self.created.id

    async def _send(self) -> CreatedSplit:
        failure: AIStemSplitterError | _HookError
        try:
            return await self._pipeline.run(self._call, self._once)
        except (AIStemSplitterError, _HookError) as error:
            failure = error
        except BaseException as ended:
            if self._ambiguity.open:
                is_cancelled = isinstance(ended, asyncio.CancelledError)
                raise ended from self._abandon("it was cancelled" if is_cancelled else type(ended).__name__)
            if self.created is not None:
                raise ended from self._describe_created(self.created)
            raise
        # Raised outside the `except`: an error's context can hold request headers.
        hooks_own = failure.error if isinstance(failure, _HookError) else None
        if self._ambiguity.open:
            raise self._abandon(hooks_own or failure) from hooks_own
        raise hooks_own or failure

    def uncertain(self, reason: Exception | str) -> SubmissionUncertainError:
        """Return the error that carries the submission to resend."""
        known = reason if isinstance(reason, AIStemSplitterError) else AIStemSplitterError("")
        return SubmissionUncertainError(
            f"{reason}; the split may or may not have been created: resubmit it to find out",
            submission=self._submission,
            code=known.code,
            status_code=known.status_code,
            request_id=known.request_id,
            retry_after=known.retry_after if isinstance(known, APIStatusError) else None,
        )

    def _abandon(self, reason: Exception | str) -> SubmissionUncertainError:
        """Emit that the create is given up although it may have happened, and return the error for that."""
        error, at = self.uncertain(reason), self._pipeline.clock.monotonic()
        self._pipeline.emit(
            CreateAbandoned, lambda: CreateAbandoned(submission=self._submission, reason=str(reason), at=at)
        )
        return error

    def _describe_created(self, created: CreatedSplit) -> AIStemSplitterError:
        return AIStemSplitterError(
            f"split {created.id} was created before its caller was cancelled",
            code="CREATED",
            idempotency_key=self._submission.idempotency_key,
            split_id=created.id,
        )

    async def _once(self) -> CreatedSplit:
        pipeline = self._pipeline
        while True:
            slot = await pipeline.admit(self._operation, self._priority)
            try:
                # Two tasks, so that a caller who was cancelled by the end of the first one sends nothing.
                await self._run_owned(self._commit_intent())
                if not slot.is_stale:  # or else it was stopped for so long that others have the slot
                    return await self._run_owned(self._attempt(slot))
            finally:
                slot.restore()  # unless the exchange has given it back

    async def _run_owned(self, work: Coroutine[Any, Any, T]) -> T:
        creates = self._pipeline.creates
        if creates.draining:
            work.close()
            raise APIConnectionError("the client is closed", may_have_arrived=False, permanent=True)
        return await creates.run(work)

    async def _attempt(self, slot: Slot) -> CreatedSplit:
        self._ambiguity.note_sent()
        try:
            created = await self._exchange(slot)
        except AIStemSplitterError as error:
            self._ambiguity.note_failure(error)
            raise
        self._ambiguity.note_success()
        self.created = created
        if self._on_created is not None:
            await _run_hook(self._on_created, created, "on_created")
        return created

    async def _commit_intent(self) -> None:
        if self._before_send is None:
            return
        try:
            await _run_hook(self._before_send, self._submission, "before_send")
        except BaseException as error:
            own = error.error if isinstance(error, _HookError) else error
            key = self._submission.idempotency_key
            note = f"raised by before_send, so the create was not sent; its idempotency key is {key}"
            if note not in getattr(own, "__notes__", ()):
                own.add_note(note)
            raise

    async def _exchange(self, slot: Slot) -> CreatedSplit:
        """Exchange the request for its answer, whatever a transport that is not ours may raise."""
        try:
            return await self._pipeline.exchange(self._operation, slot, self._call)
        except AIStemSplitterError:
            raise
        except Exception as error:  # noqa: BLE001  # the moment is unknown, so the request may have been sent
            kind = type(error).__name__
        raise APIConnectionError(f"the transport raised {kind}")


class _HookError(Exception):
    """A caller's hook failed: the call ends without another attempt; the server is not at fault."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


async def _run_hook(hook: Callable[[T], Awaitable[None]], value: T, name: str) -> None:
    try:
        result = hook(value)
        if inspect.isawaitable(result):
            await result
            return
    except Exception as error:
        raise _HookError(error) from error
    raise _HookError(ConfigurationError(f"{name} must be an async function: what it returns is awaited"))
