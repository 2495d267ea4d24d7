"""Every API request of a key goes through one gate, which keeps the per-minute limit without wasting any of it.

The gate *pulls*: when a slot comes free it asks each of its sources for the best candidate at that very moment, so that
a request that was worth sending a minute ago does not go out stale. One source is built in, the queues of calls that
wait in `admit`; a poller is another.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Mapping, Sequence
from contextvars import Context, copy_context
from typing import Any

from aistemsplitter_async._gate.budget import Budget
from aistemsplitter_async._gate.lanes import Lane, Order, Priority, Rank, Turns
from aistemsplitter_async._gate.limiter import Limiter
from aistemsplitter_async._gate.memory import parse_gate_memory
from aistemsplitter_async._gate.queues import Queues
from aistemsplitter_async._gate.rate_headers import (
    RateAdvice,
    find_rate_headers,
    parse_further_limits,
    parse_rate_headers,
)
from aistemsplitter_async._gate.slot import Slot
from aistemsplitter_async._gate.snapshot import GateSnapshot
from aistemsplitter_async._gate.source import Source
from aistemsplitter_async._gate.timer import Timer
from aistemsplitter_async._listeners import Emitter
from aistemsplitter_async._logs.loggers import Log
from aistemsplitter_async.clock import Clock, SystemClock
from aistemsplitter_async.config import INTERACTIVE_SHARE, RateLimit, RetryPolicy
from aistemsplitter_async.errors import ConfigurationError, RateLimitedError
from aistemsplitter_async.events import GateClosed, GateOpened, LimitLearned, OnEvent

_log = Log("gate")

_BULK = Order(Lane.BULK, Rank.CREATE)
_INTERACTIVE_MEMORY = 2.0  # windows without an interactive call until batches may have its slots


class Gate:
    """Admission to one key's budget. Clients that share a key share its gate.

    It belongs to the event loop of its first call until that loop is closed; another one may use it then, and what is
    known of the key stays known.

    Args:
        limit: what is known about the key's limit.
        clock: where time comes from.
        retry: the backoff after a 429 that does not say how long, and how long a wait may be.
        on_event: a listener, called when the gate closes and opens and when the limit is learned.

    Attributes:
        expected: requests that will be made soon and do not wait here yet: polls leave room for them. A caller that
            is about to make some adds them, and subtracts them when they come.
    """

    def __init__(
        self,
        limit: RateLimit = RateLimit(),  # noqa: B008  # frozen
        *,
        clock: Clock | None = None,
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008  # frozen
        on_event: OnEvent | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._limiter = Limiter(RateLimit.check(limit), retry, now=self._clock.monotonic())
        self._interactive_at = -math.inf  # when an interactive call last came
        self._longest_wait = retry.retry_after_cap
        self._refusing_until = -math.inf  # calls that would have to wait for it longer than allowed fail at once
        self._queues = Queues()
        self._turns = Turns()
        self._sources: list[Source] = [self._queues]
        self._timer = Timer(self._clock, self.pump)
        self._emit = Emitter(on_event, self._clock)
        self._emitted_limit = self._limiter.believed
        self._closed_in: Context | None = None  # of the call that was refused
        self._loop: asyncio.AbstractEventLoop | None = None
        self._worked = deque[float]()  # when requests other than polls were granted, in the last window
        self.expected = 0

    def serve(self, owner: Mapping[str, str]) -> None:
        """Admit the requests of this API and key (`Engine.owner`). Whom it serves makes no difference to this gate."""

    async def flush(self) -> None:
        """Tell others what they do not know yet. Nobody else knows this gate."""

    async def aclose(self) -> None:
        """Give back what the gate holds. This one holds nothing."""

    async def admit(self, priority: Priority = "interactive", rank: Rank = Rank.RESERVE) -> Slot:
        """Wait for a slot and return it. A cancelled call leaves the queue.

        Raises:
            RateLimitedError: the server answered 429 and asked for a longer wait (`retry_after`) than the policy
                allows, or, for an interactive call, a limit such as that of a day is used up for longer. It is raised
                without a request, as long as more of that is left.
            ConfigurationError: the gate belongs to another event loop.
        """
        self._bind()
        now = self._clock.monotonic()
        if self._refusing_until - now > self._longest_wait:
            raise self._refusal()
        used_up_for = self._limiter.quotas.free_at(now) - now
        if priority == "interactive" and self._longest_wait < used_up_for < math.inf:
            raise RateLimitedError(
                f"a limit of the key is used up for another {used_up_for:.0f} s",
                retry_after=used_up_for,
                status_code=429,
            )
        if priority == "interactive" and rank < Rank.POLL:
            self._interactive_at = now
        order = Order.of(priority, rank)
        waiter = self._queues.join(order, now)
        self.pump()
        try:
            slot = await waiter
            slot.waited = self._clock.monotonic() - now
            return slot
        except asyncio.CancelledError:
            if waiter.cancelled():
                self._queues.leave(order)
            elif waiter.exception() is None:
                waiter.result().restore()  # granted and cancelled in the same turn of the loop
            self.pump()
            raise

    def attach(self, source: Source) -> None:
        """Add `source`. Call `pump` when it has a better candidate than before. Raises like `pump`."""
        self._bind()
        self._sources.append(source)
        self.pump()

    def detach(self, source: Source) -> None:
        """Remove `source`."""
        if source in self._sources:
            self._sources.remove(source)
        self.pump()

    @property
    def trouble(self) -> str | None:
        """Why nothing is sent although the server has not asked for that; `None` if all is well."""
        return None

    def snapshot(self) -> GateSnapshot:
        """Return the present state of the gate."""
        now = self._clock.monotonic()
        return GateSnapshot(
            limit=self._limiter.believed,
            used=self._limiter.used(now),
            waiting=self._queues.count(),
            closed_for=max(0.0, self._limiter.closed_until - now),
            per=self._limiter.per,
            further=self._limiter.quotas.uses(now),
            trouble=self.trouble,
        )

    @property
    def changes(self) -> int:
        """How often the state changed by more than the passing of time, which `restore` sees to."""
        return self._limiter.changes

    def export(self) -> dict[str, Any]:
        """Return the learned limit and the slots in use, as plain JSON for `restore` in a later process."""
        return self._limiter.export(self._clock.monotonic()).dump(self._clock.now())

    def restore(self, remembered: Mapping[str, Any]) -> None:
        """Restore what an earlier process exported, aged by the wall clock; invalid values are ignored.

        A declared limit stays as it is, and slots that are in use now stay in use. A gate that a 429 has closed stays
        closed, for an hour at most.

        Raises:
            ConfigurationError: the gate belongs to another event loop.
        """
        if self._is_in_use():
            self._bind()
        memory = parse_gate_memory(remembered, self._clock.now())
        if memory is not None:
            self._limiter.recall(memory, self._clock.monotonic())
            if memory.closed_for:
                self._note_closed(asked=memory.closed_for)
            if self._is_in_use():  # otherwise there are no waiters, and perhaps no event loop
                self.pump()

    def budget(self) -> Budget:
        """Return the budget to plan polls with."""
        now = self._clock.monotonic()
        return Budget(
            limit=self._limiter.believed,
            per=self._limiter.per,
            wanted=sum(self._queues.count().values()) + self.expected,
            free=lambda within: self._limiter.free_within(now, within),
        )

    def adopt(self, headers: Mapping[str, str], *, sent: float | None = None) -> None:
        """Adopt the limits in a reply's rate headers (names in lower case); its request was sent at `sent`."""
        named = find_rate_headers(headers)
        if not named:  # as of most replies: looking closer takes a quarter of a request's own time
            return
        per, now = self._limiter.per, self._clock.now()
        advice = parse_rate_headers(headers, per=per, now=now)
        further = parse_further_limits(headers, per=per, now=now)
        if advice is not None or further:
            self._adopt(advice, further, sent)
            self.pump()
        else:
            _log.warn_once("rate headers not understood (%s): the limit is learned from 429s", ", ".join(named))

    def _adopt(self, advice: RateAdvice | None, further: Sequence[RateAdvice], sent: float | None) -> None:
        self._limiter.adopt(advice, self._clock.monotonic(), further=further, sent=sent)

    def _settle(self, taken_at: float) -> None:
        self._limiter.settle(self._clock.monotonic(), sent=taken_at)
        self.pump()

    def _refuse(self, taken_at: float, retry_after: float | None) -> None:
        now = self._clock.monotonic()
        self._limiter.refuse(now, sent=taken_at, retry_after=retry_after)
        self._note_closed(asked=retry_after)
        self.pump()

    def _note_closed(self, *, asked: float | None) -> None:
        """Report that the gate is closed, and refuse the calls that wait if `asked` is longer than they may."""
        now, closed_until = self._clock.monotonic(), self._limiter.closed_until
        self._closed_in = copy_context()
        self._emit(GateClosed, lambda: GateClosed(duration=closed_until - now, at=now))
        if asked is not None and asked > self._longest_wait:
            _log.warning(
                "nothing is sent for this key for %.0f s: the server asked for that (HTTP 429)", closed_until - now
            )
            self._refusing_until = closed_until
            self._queues.refuse(self._refusal)

    def _restore(self) -> None:
        self._limiter.restore()
        self.pump()

    def pump(self) -> None:
        """Grant every slot that can be granted now, and set the timer for the next one.

        Raises:
            ConfigurationError: the gate belongs to another event loop, whose waiters would not wake up.
        """
        self._bind()
        now = self._clock.monotonic()
        self._emit_changes(now)
        wake_at = math.inf
        while True:
            chosen = self._choose(now)
            if chosen is None:
                wake_at = self._next_change(now)
                break
            order, source, spare = chosen
            free_at = self._limiter.free_at(now, spare=spare)
            if free_at > now:
                wake_at = free_at
                break
            self._limiter.take(now)
            slot = Slot(now, on_settle=self._settle, on_refuse=self._refuse, on_restore=self._restore)
            self._grant(order, source, slot, now)
        self._timer.set(wake_at)

    def _next_change(self, now: float) -> float:
        """Return when there may be a candidate, now that there is none."""
        return min((source.next_change(now) for source in self._sources), default=math.inf)

    def _grant(self, order: Order, source: Source, slot: Slot, now: float) -> None:
        self._turns.note(order)
        if order.rank < Rank.POLL:
            self._worked.append(now)
            self._forget_work(now)
        source.grant(order, slot)

    def _is_in_use(self) -> bool:
        return self._loop is not None and not self._loop.is_closed()

    def _bind(self) -> None:
        """Check that the gate belongs to the running event loop. What waited in one that was closed waits no more."""
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        if self._is_in_use():
            raise ConfigurationError(
                "a gate belongs to the event loop of its first call; make one per loop, each with a share of the limit"
            )
        self._loop = loop
        self._queues = Queues()
        self._sources = [self._queues]
        self._timer = Timer(self._clock, self.pump)

    def _choose(self, now: float) -> tuple[Order, Source, int] | None:
        """Return the order and the source of the best candidate, and how many slots it must leave free.

        A request behind a steady stream of others gets a turn now and then, even if those are interactive.
        """
        best = self._best(now, None)
        spare = self._slots_to_leave(best[0], now) if best is not None else 0
        while best is not None and self._turns.is_over(best[0]):
            later = self._best(now, best[0])
            if later is None:
                break
            spare = 0 if best[0] < _BULK else spare
            best = later
        return (*best, spare) if best is not None else None

    def _best(self, now: float, after: Order | None) -> tuple[Order, Source] | None:
        best: tuple[Order, Source] | None = None
        for source in self._sources:
            order = source.best(now, after)
            if order is not None and (best is None or order < best[0]):
                best = (order, source)
        return best

    def _slots_to_leave(self, order: Order, now: float) -> int:
        """Return how many slots a request of this order must leave free for others that may come.

        Those are interactive calls, if there were any recently, and, for polls of a batch, the requests it is about to
        make: as many as are expected, but no more than there were in the last window. A poll can wait; for the
        slot that it takes, a create may have to.
        """
        limit, per = self._limiter.believed, self._limiter.per
        if order < Order(Lane.INTERACTIVE, Rank.POLL) or limit is None:
            return 0
        kept = round(INTERACTIVE_SHARE * limit) if now <= self._interactive_at + _INTERACTIVE_MEMORY * per else 0
        self._forget_work(now)
        return kept if order < Order(Lane.BULK, Rank.POLL) else max(kept, min(self.expected, len(self._worked)))

    def _forget_work(self, now: float) -> None:
        while self._worked and self._worked[0] <= now - self._limiter.per:
            self._worked.popleft()

    def _refusal(self) -> RateLimitedError:
        left = self._refusing_until - self._clock.monotonic()
        return RateLimitedError(
            f"the server asked to send nothing for another {left:.0f} s (HTTP 429)", retry_after=left, status_code=429
        )

    def _emit_changes(self, now: float) -> None:
        """Emit what has changed since the last call."""
        if self._closed_in is not None and now >= self._limiter.closed_until:
            context, self._closed_in = self._closed_in, None
            context.run(self._emit, GateOpened, lambda: GateOpened(at=now))
        old, new = self._emitted_limit, self._limiter.believed
        if old != new:
            self._emitted_limit = new
            self._emit(LimitLearned, lambda: LimitLearned(old=old, new=new, at=now))
