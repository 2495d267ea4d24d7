"""The calls that wait to be admitted: a source of the gate."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable

from aistemsplitter_async._gate.lanes import Lane, Order, Priority, Rank
from aistemsplitter_async._gate.slot import Slot


class Queues:
    """A queue per order. A call that gave up is dropped when its turn comes."""

    def __init__(self) -> None:
        self._queues: dict[Order, deque[tuple[asyncio.Future[Slot], float]]] = {}  # and when the call came
        self._waiting = dict.fromkeys(Lane, 0)

    def join(self, order: Order, now: float) -> asyncio.Future[Slot]:
        """Return a future that is set to a slot when it is this call's turn; the call comes at `now`."""
        waiter: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(order, deque()).append((waiter, now))
        self._waiting[order.lane] += 1
        return waiter

    def leave(self, order: Order) -> None:
        """Note that a call that waited in `order` has given up."""
        self._waiting[order.lane] -= 1

    def best(self, now: float, after: Order | None = None) -> Order | None:  # noqa: ARG002  # the same at any time
        """Return the first order in which a call waits, of those behind `after`."""
        for order, queue in list(self._queues.items()):
            while queue and queue[0][0].done():
                queue.popleft()
            if not queue:
                del self._queues[order]
        return min((order for order in self._queues if after is None or order > after), default=None)

    def next_change(self, now: float) -> float:  # noqa: ARG002
        """Return infinity: nothing changes here through time alone."""
        return math.inf

    def grant(self, order: Order, slot: Slot) -> None:
        """Give `slot` to the call that has waited longest in `order`."""
        self._queues[order].popleft()[0].set_result(slot)
        self._waiting[order.lane] -= 1

    def refuse(self, build: Callable[[], Exception], *, came_by: float = math.inf) -> None:
        """Fail every waiter that came at `came_by` or earlier with its own exception."""
        for order, queue in self._queues.items():
            while queue and queue[0][1] <= came_by:
                waiter, _ = queue.popleft()
                if not waiter.done():
                    waiter.set_exception(build())
                    self._waiting[order.lane] -= 1

    def alike(self, order: Order, now: float) -> int:  # noqa: ARG002
        """Return how many calls wait that are given slots under the same conditions; perhaps some have given up."""
        is_poll = order.rank is Rank.POLL
        return sum(
            len(queue)
            for other, queue in self._queues.items()
            if other.lane is order.lane and (other.rank is Rank.POLL) == is_poll
        )

    def count(self) -> dict[Priority, int]:
        """Return how many calls wait in each lane."""
        return {lane.priority: waiting for lane, waiting in self._waiting.items()}
