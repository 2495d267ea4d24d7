"""Every API request of a key goes through one gate, which keeps the per-minute limit without wasting any of it.

The gate *pulls*: when a slot comes free it asks each of its sources for the best candidate at that very moment, so that
a request that was worth sending a minute ago does not go out stale. One source is built in, the queues of calls that
wait in `admit`; a poller is another.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from enum import IntEnum
from typing import Literal, Protocol

import attrs

from aistemsplitter_async._core.limiter import Limiter
from aistemsplitter_async._core.pollplan import Budget
from aistemsplitter_async.clock import Clock, SystemClock
from aistemsplitter_async.config import INTERACTIVE_SHARE, RateLimit, RetryPolicy

Priority = Literal["interactive", "bulk"]


class Rank(IntEnum):
    """What goes first when a slot comes free; within a rank, who came first."""

    CREATE = 0  # of an uploaded file: its reservation is running out
    RESERVE = 1  # and creates of URLs, credits, single looks
    POLL = 2


_INTERACTIVE_MEMORY = 2.0  # windows without an interactive call until batches may have its slots

Order = tuple[int, Rank]
"""Lane (0 interactive, 1 bulk), then rank: the smallest goes first."""


def order_of(priority: Priority, rank: Rank) -> Order:
    """Return the order that a call of this priority and rank waits in."""
    return (0 if priority == "interactive" else 1, rank)


class Source(Protocol):
    """Something that has requests worth sending, and chooses among them only when a slot is there."""

    def best(self, now: float) -> Order | None:
        """Return the order of the best candidate at `now`, or `None` if none is worth a request."""
        ...

    def next_change(self, now: float) -> float:
        """Return when `best` may answer differently through time alone (monotonic seconds, or infinity)."""
        ...

    def grant(self, slot: Slot) -> None:
        """Take the slot for the candidate that `best` spoke of."""
        ...


@attrs.frozen
class GateSnapshot:
    """The gate at one moment: for users to look at.

    Attributes:
        limit: requests per window, or `None` if unknown.
        used: slots occupied now.
        waiting: calls that wait for a slot, per lane.
        closed_for: seconds until a 429 is over, 0 if the gate is open.
    """

    limit: int | None
    used: int
    waiting: dict[Priority, int]
    closed_for: float


class Slot:
    """The right to send one request. Settle it when the reply came; restore it if nothing was sent."""

    def __init__(self, gate: Gate, taken_at: float) -> None:
        self._gate: Gate | None = gate
        self._taken_at = taken_at

    def settle(self) -> None:
        """Give the slot back one window from now. Later calls do nothing."""
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.note_reply(self._taken_at)

    def refuse(self, retry_after: float | None) -> None:
        """Note that the request was answered 429, which closes the gate. Later calls do nothing.

        It stays closed for `retry_after` seconds if the server said so, else until a believed slot is free again.
        """
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.note_refusal(self._taken_at, retry_after)

    def restore(self) -> None:
        """Give the slot back at once: its request was never sent. Later calls do nothing."""
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.note_unsent()


class Gate:
    """Admission to one key's budget. Clients that share a key share its gate.

    Args:
        limit: what is known about the key's limit.
        clock: where time comes from.
        retry: the backoff after a 429 that does not say how long.
    """

    def __init__(
        self,
        limit: RateLimit = RateLimit(),  # noqa: B008  # frozen
        *,
        clock: Clock | None = None,
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008  # frozen
    ) -> None:
        self._per = limit.per
        self._clock = clock or SystemClock()
        self._limiter = Limiter(limit, retry, now=self._clock.monotonic())
        self._interactive_at = -math.inf  # when an interactive call last came
        self._queues = _Queues()
        self._sources: list[Source] = [self._queues]
        self._timer: asyncio.Task[None] | None = None
        self._timer_at = math.inf

    async def admit(self, priority: Priority = "interactive", rank: Rank = Rank.RESERVE) -> Slot:
        """Wait for a slot and return it. Cancelling gives the place back."""
        if priority == "interactive" and rank < Rank.POLL:
            self._interactive_at = self._clock.monotonic()
        waiter = self._queues.join(order_of(priority, rank))
        self.pump()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                waiter.result().restore()  # granted and cancelled in the same turn of the loop
            waiter.cancel()
            self.pump()
            raise

    def attach(self, source: Source) -> None:
        """Ask `source` too, from now on. Call `pump` when it has a better candidate than before."""
        self._sources.append(source)
        self.pump()

    def detach(self, source: Source) -> None:
        """Ask `source` no more."""
        if source in self._sources:
            self._sources.remove(source)
        self.pump()

    def close_for(self, seconds: float) -> float:
        """Hold everything back for `seconds`; return how long the gate is closed now.

        What is on its way cannot be called back; a close that ends sooner than an earlier one changes nothing.
        """
        now = self._clock.monotonic()
        self._limiter.close_until(now + seconds)
        self.pump()
        return self._limiter.closed_until - now

    def snapshot(self) -> GateSnapshot:
        """Return how things stand."""
        now = self._clock.monotonic()
        return GateSnapshot(
            limit=self._limiter.believed,
            used=self._limiter.used(now),
            waiting=self._queues.count(),
            closed_for=max(0.0, self._limiter.closed_until - now),
        )

    def budget(self) -> Budget:
        """Return what there is to plan looks with."""
        return Budget(
            limit=self._limiter.believed,
            per=self._per,
            used=self._limiter.used(self._clock.monotonic()),
            wanted=sum(self._queues.count().values()),
        )

    def note_reply(self, taken_at: float) -> None:
        """Take back the slot of a request that was answered or given up: `Slot` calls this."""
        self._limiter.settle(self._clock.monotonic(), sent=taken_at)
        self.pump()

    def note_refusal(self, taken_at: float, retry_after: float | None) -> None:
        """Take back the slot of a request that was answered 429: `Slot` calls this."""
        self._limiter.refuse(self._clock.monotonic(), sent=taken_at, retry_after=retry_after)
        self.pump()

    def note_unsent(self) -> None:
        """Take back a slot that was not used: `Slot` calls this."""
        self._limiter.restore()
        self.pump()

    def pump(self) -> None:
        """Grant what can be granted now, and make sure to come back when more can be."""
        now = self._clock.monotonic()
        wake_at = math.inf
        while True:
            chosen, wake_at = self._choose(now)
            if chosen is None:
                break
            order, source = chosen
            free_at = self._limiter.free_at(now, spare=self._kept_from(order, now))
            if free_at > now:
                wake_at = free_at
                break
            self._limiter.take(now)
            source.grant(Slot(self, now))
        self._wake_at(wake_at)

    def _kept_from(self, order: Order, now: float) -> int:
        """Return how many slots a request of this order must leave free for interactive calls that may come.

        Nothing is kept while none come: a batch alone has the whole limit.
        """
        limit = self._limiter.believed
        if order < (0, Rank.POLL) or limit is None or now > self._interactive_at + _INTERACTIVE_MEMORY * self._per:
            return 0
        return round(INTERACTIVE_SHARE * limit)

    def _choose(self, now: float) -> tuple[tuple[Order, Source] | None, float]:
        """Return the best candidate's order and source, or when there may be one."""
        best: tuple[Order, Source] | None = None
        for source in self._sources:
            order = source.best(now)
            if order is not None and (best is None or order < best[0]):
                best = (order, source)
        if best is not None:
            return best, now
        return None, min((source.next_change(now) for source in self._sources), default=math.inf)

    def _wake_at(self, when: float) -> None:
        if self._timer is not None and (self._timer_at != when or self._timer.done()):  # done: somebody cancelled it
            self._timer.cancel()
            self._timer = None
        if self._timer is None and math.isfinite(when):
            self._timer_at = when
            self._timer = asyncio.get_running_loop().create_task(self._sleep_until(when), name="gate timer")

    async def _sleep_until(self, when: float) -> None:
        await self._clock.sleep(when - self._clock.monotonic())
        self._timer = None
        self.pump()


class _Queues:
    """The calls that wait in `admit`: a queue per order. Who gave up is dropped when the queue reaches it."""

    def __init__(self) -> None:
        self._queues: dict[Order, deque[asyncio.Future[Slot]]] = {}

    def join(self, order: Order) -> asyncio.Future[Slot]:
        waiter: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(order, deque()).append(waiter)
        return waiter

    def best(self, now: float) -> Order | None:  # noqa: ARG002  # these candidates are good at any time
        for order, queue in list(self._queues.items()):
            while queue and queue[0].done():
                queue.popleft()
            if not queue:
                del self._queues[order]
        return min(self._queues, default=None)

    def next_change(self, now: float) -> float:  # noqa: ARG002
        return math.inf

    def grant(self, slot: Slot) -> None:
        self._queues[min(self._queues)].popleft().set_result(slot)

    def count(self) -> dict[Priority, int]:
        lanes: dict[Priority, int] = {"interactive": 0, "bulk": 0}
        for (lane, _), queue in self._queues.items():
            lanes["interactive" if lane == 0 else "bulk"] += sum(not waiter.done() for waiter in queue)
        return lanes
