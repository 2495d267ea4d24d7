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

from aistemsplitter_async._core.window import build_window
from aistemsplitter_async.clock import Clock, SystemClock
from aistemsplitter_async.config import RateLimit

Priority = Literal["interactive", "bulk"]


class Rank(IntEnum):
    """What goes first when a slot comes free; within a rank, who came first."""

    CREATE = 0  # of an uploaded file: its reservation is running out
    RESERVE = 1  # and creates of URLs, credits, single looks
    POLL = 2


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

    def __init__(self, gate: Gate) -> None:
        self._gate: Gate | None = gate

    def settle(self) -> None:
        """Give the slot back one window from now. Later calls do nothing."""
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.give_back(sent=True)

    def restore(self) -> None:
        """Give the slot back at once: its request was never sent. Later calls do nothing."""
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.give_back(sent=False)


class Gate:
    """Admission to one key's budget. Clients that share a key share its gate.

    Args:
        limit: what is known about the key's limit.
        clock: where time comes from.
    """

    def __init__(self, limit: RateLimit = RateLimit(), *, clock: Clock | None = None) -> None:  # noqa: B008  # frozen
        self._limit = limit
        self._clock = clock or SystemClock()
        self._window = build_window(limit, self._clock.monotonic())
        self._closed_until = -math.inf
        self._queues = _Queues()
        self._sources: list[Source] = [self._queues]
        self._timer: asyncio.Task[None] | None = None
        self._timer_at = math.inf

    async def admit(self, priority: Priority = "interactive", rank: Rank = Rank.RESERVE) -> Slot:
        """Wait for a slot and return it. Cancelling gives the place back."""
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
        self._closed_until = max(self._closed_until, now + seconds)
        self.pump()
        return self._closed_until - now

    def slot_free_in(self) -> float:
        """Return the seconds until the believed window has a free slot, 0 if it has one (or only replies can tell)."""
        now = self._clock.monotonic()
        free_at = self._window.free_at(now)
        return max(0.0, free_at - now) if math.isfinite(free_at) else 0.0

    def snapshot(self) -> GateSnapshot:
        """Return how things stand."""
        now = self._clock.monotonic()
        return GateSnapshot(
            limit=self._limit.requests,
            used=self._window.used(now),
            waiting=self._queues.count(),
            closed_for=max(0.0, self._closed_until - now),
        )

    def give_back(self, *, sent: bool) -> None:
        """Take a slot back: `Slot` calls this."""
        if sent:
            self._window.settle(self._clock.monotonic())
        else:
            self._window.restore()
        self.pump()

    def pump(self) -> None:
        """Grant what can be granted now, and make sure to come back when more can be."""
        now = self._clock.monotonic()
        wake_at = math.inf
        while True:
            chosen, wake_at = self._choose(now)
            if chosen is None:
                break
            open_at = max(self._window.free_at(now), self._closed_until)
            if open_at > now:
                wake_at = open_at
                break
            self._window.take(now)
            chosen.grant(Slot(self))
        self._wake_at(wake_at)

    def _choose(self, now: float) -> tuple[Source | None, float]:
        """Return the source with the best candidate, or when there may be one."""
        best: tuple[Order, Source] | None = None
        for source in self._sources:
            order = source.best(now)
            if order is not None and (best is None or order < best[0]):
                best = (order, source)
        if best is not None:
            return best[1], now
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
