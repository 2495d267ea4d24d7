"""The only retry loop. Every request passes through it, one attempt at a time.

Each attempt of an API request is admitted by the gate: a retry costs a slot like a first try. The upload worker and the
CDN have no such limit; there a 429 pauses that host for all calls.
"""

from __future__ import annotations

import random as random_module
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

import attrs
from anyio import CancelScope

from aistemsplitter_async._gate.gate import Gate
from aistemsplitter_async._gate.lanes import RANKS, Priority
from aistemsplitter_async._gate.slot import Slot
from aistemsplitter_async._listeners import Emitter
from aistemsplitter_async._send.attempt import Attempt, Call
from aistemsplitter_async._send.pauses import HostPauses
from aistemsplitter_async._send.reactions import Action, action_for, wait_time
from aistemsplitter_async._send.retry import Attempts, Retry, RetryQuota, Streak, plan_pause, plan_retry
from aistemsplitter_async._send.transport import Transport
from aistemsplitter_async._tasks import OwnedTasks, run_in_thread
from aistemsplitter_async._wire.encodings import may_be_large
from aistemsplitter_async._wire.messages import Reply, Request, Stage
from aistemsplitter_async._wire.operations import Operation
from aistemsplitter_async.clock import Clock, Random
from aistemsplitter_async.config import COMMIT_GRACE, RetryPolicy, Timeouts
from aistemsplitter_async.errors import AIStemSplitterError, APIConnectionError, APITimeoutError, RateLimitedError
from aistemsplitter_async.events import OnEvent, RetryPlanned, SlotGranted, Throttled

T = TypeVar("T")
_NOTICEABLE = 1.0  # s; shorter pauses are over before anybody has read why


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
        transport, gate, retry, timeouts, clock, random: as they were given.
        creates: the attempts of creates that are under way.
        answers: how many requests the API has answered, failures left out.
        emit: tells the listener of an event.
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
        self.answers: int = 0
        self.creates: OwnedTasks = OwnedTasks(clock=clock, grace=COMMIT_GRACE)
        self.retry = retry
        self._quota = RetryQuota(retry, now=clock.monotonic())
        self._pauses = HostPauses(retry)
        self._wrong: dict[Stage, tuple[float, float]] = {}  # when answers that may pass began, and the newest came
        self._held_up: tuple[str, float] | None = None  # why, and until when, in monotonic seconds
        self._waits = set[CancelScope]()
        self._closed = False
        self.emit: Emitter = Emitter(on_event, clock)

    @property
    def notice(self) -> str | None:
        """The reason of the newest pause, while it lasts, to be shown by those that have no event listener."""
        if self.gate.trouble is not None:
            return self.gate.trouble
        if self._held_up is None or (left := self._held_up[1] - self.clock.monotonic()) <= 0:
            return None
        return f"{self._held_up[0]} (trying again in {left:.0f} s)"

    def hold_up(self, call: Call, delay: float, failure: AIStemSplitterError) -> None:
        """Report that something is tried again in `delay` seconds, and why."""
        at = self.clock.monotonic()
        if delay >= _NOTICEABLE:
            self._held_up = (str(failure), at + delay)
        self.emit(RetryPlanned, lambda: call.describe_retry(delay, failure, at=at))

    def wait_time(self, error: AIStemSplitterError, *, is_known: bool) -> float:
        """Return for how many seconds a wait outlasts polls that fail with `error`. See `reactions.wait_time`."""
        return wait_time(self.retry, error, is_known=is_known)

    def plan_pause(self, streak: Streak, *, longest: float, asked: float | None = None) -> float | None:
        """Return the seconds until the next try of what may pass, `None` if it has not passed in time."""
        now = self.clock.monotonic()
        return plan_pause(self.retry, streak, longest=longest, now=now, random=self.random, asked=asked)

    async def outlast(
        self, call: Call, attempt: Callable[[], Awaitable[T]], passing: tuple[type[AIStemSplitterError], ...]
    ) -> T:
        """Return the result of `attempt`, repeated after growing pauses while it fails with one of `passing`.

        For what is already paid for. The time limit, `RetryPolicy.passing_paid`, starts again after an attempt that
        took longer than the limit: that attempt made progress, so the next failure has another cause.

        Raises:
            AIStemSplitterError: what `attempt` raised, if it is none of `passing` or did not pass in time.
        """
        streak: Streak | None = None
        longest = self.retry.passing_paid
        while True:
            began = self.clock.monotonic()
            call.attempt += 1
            try:
                return await attempt()
            except passing as error:
                failure = error
            now = self.clock.monotonic()
            if streak is None or now - began > longest:
                streak = Streak(since=now, pauses=streak.pauses if streak is not None else 0)
            pause = self.plan_pause(streak, longest=longest)
            if pause is None:
                raise failure
            streak = attrs.evolve(streak, pauses=streak.pauses + 1)
            await self.pause(call, pause, failure)

    async def pause(self, call: Call, delay: float, failure: AIStemSplitterError) -> None:
        """Wait `delay` seconds before the next try, in sight, unless the client is closed.

        Raises:
            APIConnectionError: the client was closed.
        """
        self.hold_up(call, delay, failure)
        await self._wait(self.clock.sleep(delay))

    async def send(self, operation: Operation[T], *, priority: Priority = "interactive", slot: Slot | None = None) -> T:
        """Send an API operation and return its decoded reply. A create is sent by `create.Create`.

        Args:
            operation: from `_wire.operations`.
            priority: the lane it waits in at the gate.
            slot: one that was granted already, for the first attempt.

        Raises:
            AIStemSplitterError: the failure that ended the last attempt.
        """
        granted, call = [slot] if slot is not None else [], Call.of(operation)

        async def once() -> T:
            free = granted.pop() if granted else None
            if free is None or free.is_stale:
                if free is not None:
                    free.restore()
                free = await self.admit(operation, priority)
            return await self.exchange(operation, free, call)

        return await self.run(call, once)

    async def admit(self, operation: Operation[Any], priority: Priority) -> Slot:
        """Wait at the gate for the slot of one attempt.

        Raises:
            RateLimitedError: the server asked for a longer wait than the policy allows.
            APIConnectionError: the client was closed meanwhile, or the store of a shared gate cannot be asked.
        """
        while True:
            slot = await self._wait(self.gate.admit(priority, RANKS[operation.stage]))
            if not slot.is_stale:
                return slot
            slot.restore()  # the process was stopped while it was given

    async def exchange(self, operation: Operation[T], slot: Slot, call: Call | None = None) -> T:
        """Make one admitted attempt, of `call` if it is not the only one, and give its slot back.

        A 429 closes the gate.
        """
        call = call or Call.of(operation)
        try:
            return await self._attempt(operation, slot, call)
        except RateLimitedError as error:
            self._close_gate(slot, call, error)
            raise
        finally:
            slot.settle()

    async def read(self, operation: Operation[T], reply: Reply) -> T:
        """Return what a reply says. One that takes long to read, as no true one does, is read in a thread."""
        read = partial(operation.read, reply, now=self.clock.now())
        return await run_in_thread(read) if may_be_large(reply.body, reply.headers) else read()

    def attempt(self, call: Call, request: Request, *, gate_wait: float = 0.0) -> Attempt:
        """Return an attempt of `call`, to be entered while it is made, so that listeners hear of it."""
        return Attempt(call, request, self.emit, gate_wait=gate_wait)

    async def run(self, call: Call, once: Callable[[], Awaitable[T]], *, url: str | None = None) -> T:
        """Make attempts with `once` until one succeeds or the rules in `retry` say to stop.

        Args:
            call: whose attempts they are; its stage is the column of the table its failures are looked up in.
            once: makes one attempt, and raises this package's errors.
            url: where the attempts go, for hosts outside the API: a 429 pauses the whole host.

        Raises:
            RateLimitedError: the host asked for a longer wait than the policy allows, perhaps when another call asked.
            AIStemSplitterError: the failure that ended the last attempt.
        """
        attempts, stage = Attempts(), call.stage
        host = urlsplit(url).netloc if url is not None else None
        while True:
            await self._wait_for(host)
            call.attempt += 1
            try:
                result = await once()
            except AIStemSplitterError as error:
                failure = error
            else:
                self._quota.succeed()
                self._wrong.pop(stage, None)
                if host is None:
                    self.answers += 1
                else:
                    self._pauses.note_answer(host)
                return result
            now = self.clock.monotonic()
            since = self._note_wrong(stage, failure, now)
            retry = plan_retry(self.retry, stage, attempts, failure, now=now, random=self.random, wrong_since=since)
            if retry is not None and not self._quota.take(retry, now=now):
                retry = None
            if isinstance(failure, RateLimitedError) and host is not None:
                self._emit_throttled(call, failure)
                self._pauses.note_refusal(host, failure.retry_after, retry, now=now)
            if retry is None:
                raise failure
            attempts = retry.attempts
            await self._back_off(retry, call, failure)

    @property
    def holdup(self) -> str:
        """Why API requests are held back now, to be added to the message of a call that timed out; or nothing."""
        if self.gate.trouble is not None:
            return f"; {self.gate.trouble}"
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

    def _note_wrong(self, stage: Stage, failure: AIStemSplitterError, now: float) -> float:
        """Return since when all calls at `stage` are answered with what may pass.

        So a call waits for no longer than is left of that time: once it is over, each sends one request and fails, and
        the pauses between them are the caller's. Without that, a long outage would be multiplied by all of them.
        """
        if action_for(stage, failure) is not Action.OUTLAST:
            self._wrong.pop(stage, None)
            return now
        since, newest = self._wrong.get(stage, (now, now))
        if now - newest > self.retry.passing_paid:  # no call was made for a while
            since = now
        self._wrong[stage] = (since, now)
        return since

    async def _back_off(self, retry: Retry, call: Call, failure: AIStemSplitterError) -> None:
        if retry.throttled:  # the gate or the host's pause holds it back, as it does all other calls
            at = self.clock.monotonic()
            self.emit(RetryPlanned, lambda: call.describe_retry(retry.delay, failure, at=at))
        else:
            await self.pause(call, retry.delay, failure)

    async def _wait_for(self, host: str | None) -> None:
        """Wait until a request may be sent to `host`; a pause may be extended meanwhile."""
        while host is not None and (left := self._pauses.enter(host, now=self.clock.monotonic())) > 0:
            await self._wait(self.clock.sleep(left))

    def _close_gate(self, slot: Slot, call: Call, failure: RateLimitedError) -> None:
        """Stop all calls of this key, even when the call that got the 429 gives up."""
        asked = failure.retry_after
        if asked is not None and asked <= self.retry.retry_after_cap:
            asked *= 1 + 0.1 * self.random()  # a longer wait goes to the caller as it is, without jitter
        slot.refuse(asked)
        self._emit_throttled(call, failure)

    def _emit_throttled(self, call: Call, failure: RateLimitedError) -> None:
        at = self.clock.monotonic()
        self.emit(Throttled, lambda: call.describe_throttling(failure, at=at))

    async def _attempt(self, operation: Operation[T], slot: Slot, call: Call) -> T:
        limit = self.timeouts.create if operation.stage is Stage.CREATE else self.timeouts.call
        attempt = self.attempt(call, operation.request, gate_wait=slot.waited)
        self.emit(SlotGranted, lambda: self._describe_grant(call, slot, at=attempt.started))
        reply: Reply | None = None
        try:
            with attempt:
                try:
                    async with self.clock.timeout_at(attempt.started + limit):
                        reply = await self.transport.send(operation.request)
                except TimeoutError:
                    pass
                if reply is None:
                    raise APITimeoutError(f"could not {operation.what}: no answer within {limit:g} s", code="TIMEOUT")
                attempt.note_reply(reply)
                return await self.read(operation, reply)
        finally:
            if reply is not None:
                self.gate.adopt(reply.headers, sent=attempt.started)

    def _describe_grant(self, call: Call, slot: Slot, *, at: float) -> SlotGranted:
        gate, waited = self.gate.snapshot(), slot.waited
        waiting = sum(gate.waiting.values())
        return SlotGranted(
            **call.fields(), seconds=waited, used=gate.used, limit=gate.limit, per=gate.per, waiting=waiting, at=at
        )
