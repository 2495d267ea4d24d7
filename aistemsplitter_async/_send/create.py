"""Sends a create: the call that costs credits and must not be lost.

Each attempt is admitted by the gate, committed by the caller's hook, sent, and answered, in this order. From the commit
to the answer it runs in a task of its own, so that a cancelled caller still learns which split exists.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from aistemsplitter_async._gate.lanes import Priority
from aistemsplitter_async._gate.slot import Slot
from aistemsplitter_async._send.pipeline import Pipeline
from aistemsplitter_async._send.retry import Ambiguity
from aistemsplitter_async._tasks import finish_before_cancel
from aistemsplitter_async._wire.messages import Stage
from aistemsplitter_async._wire.operations import Operation
from aistemsplitter_async.config import COMMIT_GRACE
from aistemsplitter_async.errors import AIStemSplitterError, APIConnectionError, SubmissionUncertainError
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
        """
        failure: Exception
        cause: Exception | None = None
        try:
            return await self._pipeline.run(Stage.CREATE, self._once)
        except AIStemSplitterError as error:
            failure = error
        except _HookError as hook:
            failure = cause = hook.error
        # Raised outside the `except`: an error's context can hold request headers.
        if self._ambiguity.open and cause is not None:
            raise self.uncertain(failure) from cause
        raise self.uncertain(failure) if self._ambiguity.open else failure

    def uncertain(self, reason: Exception) -> SubmissionUncertainError:
        """Return the error that carries the submission to resend."""
        known = reason if isinstance(reason, AIStemSplitterError) else AIStemSplitterError("")
        return SubmissionUncertainError(
            f"the split may or may not have been created ({reason}); resubmit it to find out",
            submission=self._submission,
            code=known.code,
            status_code=known.status_code,
            request_id=known.request_id,
        )

    async def _once(self) -> CreatedSplit:
        pipeline = self._pipeline
        slot = await pipeline.admit(self._operation, self._priority)
        return await finish_before_cancel(self._attempt(slot), clock=pipeline.clock, grace=COMMIT_GRACE)

    async def _attempt(self, slot: Slot) -> CreatedSplit:
        try:
            await _run_hook(self._before_send, self._submission)
        except BaseException:
            slot.restore()
            raise
        self._ambiguity.note_sent()
        try:
            created = await self._exchange(slot)
        except AIStemSplitterError as error:
            self._ambiguity.note_failure(error)
            raise
        self._ambiguity.note_success()
        self.created = created
        await _run_hook(self._on_created, created)
        return created

    async def _exchange(self, slot: Slot) -> CreatedSplit:
        """Exchange the request for its answer, whatever a transport that is not ours may raise."""
        try:
            return await self._pipeline.exchange(self._operation, slot)
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


async def _run_hook(hook: Callable[[T], Awaitable[None]] | None, value: T) -> None:
    if hook is None:
        return
    try:
        await hook(value)
    except Exception as error:
        raise _HookError(error) from error
