"""The only retry loop. Every request passes through it, one attempt at a time.

Each attempt of an API request is admitted by the gate: a retry costs a slot like a first try. The upload worker and the
CDN have no such limit; there a 429 pauses that host for all calls.
"""

from __future__ import annotations

import random as random_module
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar
from urllib.parse import urlsplit

from anyio import CancelScope

from aistemsplitter_async._gate.gate import Gate
from aistemsplitter_async._gate.lanes import RANKS, Priority
from aistemsplitter_async._gate.slot import Slot
from aistemsplitter_async._listeners import as_listener
from aistemsplitter_async._send.pauses import HostPauses
from aistemsplitter_async._send.retry import Attempts, Retry, RetryQuota, plan_retry
from aistemsplitter_async._send.transport import Transport
from aistemsplitter_async._tasks import OwnedTasks
from aistemsplitter_async._wire.messages import Reply, Stage
from aistemsplitter_async._wire.operations import Operation
from aistemsplitter_async.clock import Clock, Random
from aistemsplitter_async.config import COMMIT_GRACE, RetryPolicy, Timeouts
from aistemsplitter_async.errors import AIStemSplitterError, APIConnectionError, APITimeoutError, RateLimitedError
from aistemsplitter_async.events import Event, OnEvent, RequestSent, RetryPlanned, Throttled

T = TypeVar("T")


class Pipeline:
    """Sends operations: admission, one attempt, and what `retry` decides about its failure.

    Args:
        transport: makes the attempts.
        gate: admits API requests.
        retry: when to try again.
        timeouts: how long one admitted attempt may take.
        clock: where time comes from.
        random: uniform in [0, 1), for jitter.
        on_event: a listener, called with each event.

    Attributes:
        creates: the attempts of creates that are under way.
        answers: how many requests the API has answered, failures left out.
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
        self.answers = 0
        self.creates = OwnedTasks(clock=clock, grace=COMMIT_GRACE)
        self._retry = retry
        self._quota = RetryQuota(retry, now=clock.monotonic())
        self._pauses = HostPauses(retry)
        self._waits = set[CancelScope]()
        self._closed = False
        self._on_event = as_listener(on_event, "on_event")

    def emit(self, build: Callable[[], Event]) -> None:
        """Call the listener, if there is one, with what `build` returns."""
        if self._on_event is not None:
            self._on_event(build())

    async def send(self, operation: Operation[T], *, priority: Priority = "interactive", slot: Slot | None = None) -> T:
        """Send an API operation and return its decoded reply. A create is sent by `create.Create`.

        Args:
            operation: from `_wire.operations`.
            priority: the lane it waits in at the gate.
            slot: one that was granted already, for the first attempt.

        Raises:
            AIStemSplitterError: the failure that ended the last attempt.
        """
        granted = [slot] if slot is not None else []

        async def once() -> T:
            return await self.exchange(operation, granted.pop() if granted else await self.admit(operation, priority))

        return await self.run(operation.stage, once)

    async def admit(self, operation: Operation[Any], priority: Priority) -> Slot:
        """Wait at the gate for the slot of one attempt.

        Raises:
            RateLimitedError: the server asked for a longer wait than the policy allows.
            APIConnectionError: the client was closed meanwhile.
        """
        return await self._wait(self.gate.admit(priority, RANKS[operation.stage]))

    async def exchange(self, operation: Operation[T], slot: Slot) -> T:
        """Make one admitted attempt, and give its slot back. A 429 closes the gate."""
        try:
            return operation.read(await self._attempt(operation), now=self.clock.now())
        except RateLimitedError as error:
            self._close_gate(slot, operation.stage, error)
            raise
        finally:
            slot.settle()

    async def run(self, stage: Stage, once: Callable[[], Awaitable[T]], *, url: str | None = None) -> T:
        """Make attempts with `once` until one succeeds or the table in `retry` says to stop.

        Args:
            stage: the column of the table its failures are looked up in.
            once: makes one attempt, and raises this package's errors.
            url: where the attempts go, for hosts outside the API: a 429 pauses the whole host.

        Raises:
            RateLimitedError: the host asked for a longer wait than the policy allows, perhaps when another call asked.
            AIStemSplitterError: the failure that ended the last attempt.
        """
        attempts = Attempts()
        host = urlsplit(url).netloc if url is not None else None
        while True:
            await self._wait_for(host)
            try:
                result = await once()
            except AIStemSplitterError as error:
                failure = error
            else:
                self._quota.succeed()
                if host is None:
                    self.answers += 1
                else:
                    self._pauses.note_answer(host)
                return result
            now = self.clock.monotonic()
            retry = plan_retry(self._retry, stage, attempts, failure, now=now, random=self.random)
            if retry is not None and not self._quota.take(retry, now=now):
                retry = None
            if isinstance(failure, RateLimitedError) and host is not None:
                self._emit_throttled(stage, failure)
                self._pauses.note_refusal(host, failure.retry_after, retry, now=now)
            if retry is None:
                raise failure
            attempts = retry.attempts
            await self._back_off(retry, stage, failure)

    @property
    def holdup(self) -> str:
        """Why API requests are held back now, to be added to the message of a call that timed out; or nothing."""
        left = self.gate.snapshot().closed_for
        return f"; the server asked to send nothing for another {left:.0f} s" if left >= 1 else ""

    def close(self) -> None:
        """End every wait for an attempt. Attempts that are under way go on."""
        self._closed = True
        for scope in list(self._waits):
            scope.cancel()

    async def _wait(self, wait: Coroutine[Any, Any, T]) -> T:
        """Return the result of `wait`, which ends when the client is closed."""
        scope = CancelScope()
        self._waits.add(scope)
        try:
            with scope:
                if not self._closed:
                    return await wait
        finally:
            self._waits.discard(scope)
            wait.close()  # in case it never started
        raise APIConnectionError("the client is closed", may_have_arrived=False, permanent=True)

    async def _back_off(self, retry: Retry, stage: Stage, failure: AIStemSplitterError) -> None:
        at = self.clock.monotonic()
        self.emit(lambda: RetryPlanned(stage=stage, delay=retry.delay, reason=str(failure), at=at))
        if not retry.throttled:  # else the gate or the host's pause holds it back, as it does all other calls
            await self._wait(self.clock.sleep(retry.delay))

    async def _wait_for(self, host: str | None) -> None:
        """Wait until a request may be sent to `host`; a pause may be extended meanwhile."""
        while host is not None and (left := self._pauses.enter(host, now=self.clock.monotonic())) > 0:
            await self._wait(self.clock.sleep(left))

    def _close_gate(self, slot: Slot, stage: Stage, failure: RateLimitedError) -> None:
        """Stop all calls of this key, even when the call that got the 429 gives up."""
        asked = failure.retry_after
        if asked is not None and asked <= self._retry.retry_after_cap:
            asked *= 1 + 0.1 * self.random()  # a longer wait goes to the caller as it is, without jitter
        slot.refuse(asked)
        self._emit_throttled(stage, failure)

    def _emit_throttled(self, stage: Stage, failure: RateLimitedError) -> None:
        at = self.clock.monotonic()
        self.emit(lambda: Throttled(stage=stage, retry_after=failure.retry_after, at=at))

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
        return reply
