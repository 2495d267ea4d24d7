"""Who goes first at the gate, and the queues of those who wait there."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from enum import IntEnum
from typing import Literal

from aistemsplitter_async._gate.slot import Slot

Priority = Literal["interactive", "bulk"]


class Rank(IntEnum):
    """What goes first when a slot comes free; within a rank, who came first."""

    CREATE = 0  # of an uploaded file: its reservation is running out
    RESERVE = 1  # and creates of URLs, credits, single looks
    POLL = 2


Order = tuple[int, Rank]
"""Lane (0 interactive, 1 bulk), then rank: the smallest goes first."""

_PASSED_OVER = 20  # grants in a row to one order, after which a later one that waits has its turn


def order_of(priority: Priority, rank: Rank) -> Order:
    """Return the order that a call of this priority and rank waits in."""
    return (0 if priority == "interactive" else 1, rank)


class Turns:
    """Keeps a steady stream of one order from starving those behind it: they get one grant in 21."""

    def __init__(self) -> None:
        self._in_a_row: dict[Order, int] = {}

    def is_over(self, order: Order) -> bool:
        """Return whether one who waits behind `order` should go before it."""
        return self._in_a_row.get(order, 0) >= _PASSED_OVER

    def note(self, order: Order) -> None:
        """Note a grant to `order`: whoever waits before it was passed over for this once."""
        self._in_a_row[order] = self._in_a_row.get(order, 0) + 1
        for earlier in self._in_a_row:
            if earlier < order:
                self._in_a_row[earlier] = 0


class Queues:
    """The calls that wait to be admitted: a queue per order. Who gave up is dropped when the queue reaches it."""

    def __init__(self) -> None:
        self._queues: dict[Order, deque[asyncio.Future[Slot]]] = {}
        self._waiting = [0, 0]  # per lane

    def join(self, order: Order) -> asyncio.Future[Slot]:
        """Return what is set to a slot when it is this call's turn."""
        waiter: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(order, deque()).append(waiter)
        self._waiting[order[0]] += 1
        return waiter

    def leave(self, order: Order) -> None:
        """Note that a call which waited in `order` has cancelled what it waited for."""
        self._waiting[order[0]] -= 1

    def best(self, now: float, after: Order | None = None) -> Order | None:  # noqa: ARG002  # good at any time
        """Return the first order in which somebody waits, of those behind `after`."""
        for order, queue in list(self._queues.items()):
            while queue and queue[0].done():
                queue.popleft()
            if not queue:
                del self._queues[order]
        return min((order for order in self._queues if after is None or order > after), default=None)

    def next_change(self, now: float) -> float:  # noqa: ARG002
        """Return infinity: nothing changes here through time alone."""
        return math.inf

    def grant(self, order: Order, slot: Slot) -> None:
        """Give `slot` to who waits longest in `order`."""
        self._queues[order].popleft().set_result(slot)
        self._waiting[order[0]] -= 1

    def refuse(self, build: Callable[[], Exception]) -> None:
        """Send everybody away with an error of their own."""
        for queue in self._queues.values():
            for waiter in queue:
                if not waiter.done():
                    waiter.set_exception(build())
        self._queues.clear()
        self._waiting = [0, 0]

    def count(self) -> dict[Priority, int]:
        """Return how many wait in each lane."""
        return {"interactive": self._waiting[0], "bulk": self._waiting[1]}
