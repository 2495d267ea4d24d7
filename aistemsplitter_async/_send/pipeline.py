"""The only loop that retries. Everything that leaves this machine passes here, one attempt at a time.

API requests are admitted by the gate, each attempt anew: a retry pays like a first try. The upload worker and the CDN
have no such limit; there a 429 pauses that host for everyone.
"""

from __future__ import annotations

import random as random_module
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar
from urllib.parse import urlsplit

import attrs

from aistemsplitter_async._gate.gate import Gate
from aistemsplitter_async._gate.lanes import Priority, Rank
from aistemsplitter_async._gate.slot import Slot
from aistemsplitter_async._send.retry import Attempts, GiveUp, Retry, RetryQuota, is_ambiguous, plan_retry
from aistemsplitter_async._send.transport import Transport
from aistemsplitter_async._tasks import finish_before_cancel
from aistemsplitter_async._wire.error_replies import build_status_error
from aistemsplitter_async._wire.messages import Reply, Stage
from aistemsplitter_async._wire.operations import Operation
from aistemsplitter_async.clock import Clock, Random
from aistemsplitter_async.config import COMMIT_GRACE, RetryPolicy, Timeouts
from aistemsplitter_async.errors import AIStemSplitterError, APITimeoutError, RateLimitedError, SubmissionUncertainError
from aistemsplitter_async.events import Event, OnEvent, RequestSent, RetryPlanned, Throttled
from aistemsplitter_async.models import Submission

T = TypeVar("T")
Hook = Callable[[], Awaitable[None]]

_RANKS = {Stage.CREATE: Rank.CREATE, Stage.GET: Rank.POLL}


@attrs.define
class Doubt:
    """Whether a create may have happened that nobody knows of: kept by the caller, who may be cancelled meanwhile."""

    open: bool = False


class _HookError(Exception):
    """A caller's hook failed: that ends the call and says nothing about the server."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


class Pipeline:
    """Sends operations: admission, hook, one attempt, and what `_core.retry` decides about its failure.

    Args:
        transport: makes the attempts.
        gate: admits API requests.
        retry: when to try again.
        timeouts: how long one admitted attempt may take.
        clock: where time comes from.
        random: uniform in [0, 1), for jitter.
        on_event: is told what happens; must not raise.
    """

    def __init__(
        self,
        *,
        transport: Transport,
        gate: Gate,
        retry: RetryPolicy,
        timeouts: Timeouts,
        clock: Clock,
        random: Random = random_module.random,
        on_event: OnEvent | None = None,
    ) -> None:
        self.transport = transport
        self.gate = gate
        self.clock = clock
        self.timeouts = timeouts
        self.random = random
        self._retry = retry
        self._quota = RetryQuota(retry, now=clock.monotonic())
        self._paused_until: dict[str, float] = {}
        self._on_event = on_event

    def emit(self, build: Callable[[], Event]) -> None:
        """Tell the listener, if there is one; `build` is not called otherwise."""
        if self._on_event is not None:
            self._on_event(build())

    async def send(
        self,
        operation: Operation[T],
        *,
        priority: Priority = "interactive",
        before_send: Hook | None = None,
        after_reply: Callable[[T], Awaitable[None]] | None = None,
        slot: Slot | None = None,
        doubt: Doubt | None = None,
    ) -> T:
        """Send an API operation and return what its reply means.

        A create runs from `before_send` to `after_reply` in a task of its own: cancelling the caller lets an attempt
        that is under way finish for a few seconds, so that no split id falls into the gap.

        Args:
            operation: from `_core.operations`.
            priority: the lane it waits in at the gate.
            before_send: awaited after each admission and before anything is sent; if it raises, nothing is.
            after_reply: awaited with the result before anybody else sees it.
            slot: one that was granted already, for the first attempt.
            doubt: of a create; open from the start if an earlier attempt may have happened: then only a 2xx closes it.

        Raises:
            SubmissionUncertainError: a create was given up and may have happened.
            AIStemSplitterError: the failure that ended the last attempt.
            Exception: what a hook raised.
        """
        held = slot
        doubt = doubt or Doubt()

        async def attempt(mine: Slot) -> T:
            try:
                await _call_hook(before_send)
            except BaseException:
                mine.restore()
                raise
            try:
                result = await self._exchange(operation, doubt)
            except RateLimitedError as error:
                self._close_gate(mine, operation.stage, error)
                raise
            finally:
                mine.settle()
            await _call_hook(after_reply and partial(after_reply, result))
            return result

        async def once() -> T:
            nonlocal held
            mine, held = held, None
            if mine is None:
                mine = await self.gate.admit(priority, _RANKS.get(operation.stage, Rank.RESERVE))
            if operation.stage is not Stage.CREATE:
                return await attempt(mine)
            return await finish_before_cancel(attempt(mine), clock=self.clock, grace=COMMIT_GRACE)

        try:
            return await self.run(operation.stage, once, submission=operation.submission, doubt=doubt)
        except _HookError as hook:
            failure = hook.error
        if doubt.open and operation.submission is not None:
            raise _uncertain(operation.submission, failure) from failure
        raise failure

    async def run(
        self,
        stage: Stage,
        once: Callable[[], Awaitable[T]],
        *,
        url: str | None = None,
        submission: Submission | None = None,
        doubt: Doubt | None = None,
    ) -> T:
        """Make attempts with `once` until one succeeds or `_core.retry` says to stop.

        Args:
            stage: the column of the table its failures are looked up in.
            once: makes one attempt, and raises this package's errors.
            url: where the attempts go, for hosts outside the API: a 429 pauses the whole host.
            submission: what a create sends, for `SubmissionUncertainError`.
            doubt: see `send`.
        """
        attempts = Attempts(ambiguous=doubt is not None and doubt.open)
        host = urlsplit(url).netloc if url is not None else None
        while True:
            await self._wait_for(host)
            try:
                result = await once()
            except AIStemSplitterError as error:
                failure = error
            else:
                self._quota.succeed()
                return result
            now = self.clock.monotonic()
            plan = plan_retry(self._retry, stage, attempts, failure, now=now, random=self.random)
            if isinstance(plan, Retry) and not self._quota.take(plan, now=now):
                plan = GiveUp(uncertain=plan.attempts.ambiguous)
            if isinstance(failure, RateLimitedError) and host is not None:
                self._tell_throttled(stage, failure)
                self._pause(host, failure, plan)
            if isinstance(plan, GiveUp):
                raise _uncertain(submission, failure) if plan.uncertain and submission else failure
            attempts = plan.attempts
            await self._announce(plan, stage, failure)

    async def _announce(self, plan: Retry, stage: Stage, failure: AIStemSplitterError) -> None:
        at = self.clock.monotonic()
        self.emit(lambda: RetryPlanned(stage=stage, delay=plan.delay, reason=str(failure), at=at))
        if not plan.throttled:  # else the gate or the host's pause holds it back, like everybody
            await self.clock.sleep(plan.delay)

    async def _wait_for(self, host: str | None) -> None:
        """Wait until nothing pauses `host`; the pause may be prolonged meanwhile."""
        while host is not None and (left := self._paused_until.get(host, 0.0) - self.clock.monotonic()) > 0:
            await self.clock.sleep(left)

    def _close_gate(self, slot: Slot, stage: Stage, failure: RateLimitedError) -> None:
        """Keep everybody of this key from sending, also when the call that got the 429 gives up."""
        told = failure.retry_after
        if told is not None and told <= self._retry.retry_after_cap:
            told *= 1 + 0.1 * self.random()  # a longer wait is the caller's, who is told exactly how long it is
        slot.refuse(told)
        self._tell_throttled(stage, failure)

    def _tell_throttled(self, stage: Stage, failure: RateLimitedError) -> None:
        at = self.clock.monotonic()
        self.emit(lambda: Throttled(stage=stage, retry_after=failure.retry_after, at=at))

    def _pause(self, host: str, failure: RateLimitedError, plan: Retry | GiveUp) -> None:
        """Keep everybody from a worker or CDN host that answered 429."""
        told = failure.retry_after
        if told is None or told <= self._retry.retry_after_cap:
            seconds = plan.delay if isinstance(plan, Retry) else told or self._retry.throttle_backoff
            self._paused_until[host] = max(self._paused_until.get(host, 0.0), self.clock.monotonic() + seconds)

    async def _exchange(self, operation: Operation[T], doubt: Doubt) -> T:
        """Make one attempt; of a create, keep book of what it leaves open."""
        was_open, doubt.open = doubt.open, operation.stage is Stage.CREATE
        try:
            result = operation.parse(await self._attempt(operation))
        except AIStemSplitterError as error:
            doubt.open = was_open or (doubt.open and is_ambiguous(error))
            raise
        doubt.open = False
        return result

    async def _attempt(self, operation: Operation[T]) -> Reply:
        limit = self.timeouts.create if operation.stage is Stage.CREATE else self.timeouts.call
        started = self.clock.monotonic()
        reply = None
        try:
            async with self.clock.timeout_at(started + limit):
                reply = await self.transport.send(operation.request)
        except TimeoutError:
            pass
        finally:
            ended, status = self.clock.monotonic(), reply.status if reply is not None else None
            self.emit(lambda: RequestSent(stage=operation.stage, status=status, duration=ended - started, at=started))
        if reply is None:
            raise APITimeoutError(f"could not {operation.what}: no answer within {limit:g} s", code="TIMEOUT")
        self.gate.adopt(reply.headers)
        if not reply.ok:
            raise build_status_error(reply, what=operation.what, now=self.clock.now())
        return reply


async def _call_hook(hook: Hook | None) -> None:
    if hook is None:
        return
    try:
        await hook()
    except Exception as error:
        raise _HookError(error) from error


def _uncertain(submission: Submission, reason: Exception) -> SubmissionUncertainError:
    known = reason if isinstance(reason, AIStemSplitterError) else None
    return SubmissionUncertainError(
        f"the split may or may not have been created ({reason}); resubmit it to find out",
        submission=submission,
        code=known.code if known else None,
        status_code=known.status_code if known else None,
        request_id=known.request_id if known else None,
    )
