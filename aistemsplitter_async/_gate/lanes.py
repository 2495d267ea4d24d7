"""Decides which waiting request goes first at the gate."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Final, Literal, NamedTuple, Self

from aistemsplitter_async._wire.messages import Stage

Priority = Literal["interactive", "bulk"]


class Lane(IntEnum):
    """A priority, as the gate compares it: the smaller goes first."""

    INTERACTIVE = 0
    BULK = 1

    @classmethod
    def of(cls, priority: Priority) -> Lane:
        """Return the lane of a caller's priority."""
        return cls.INTERACTIVE if priority == "interactive" else cls.BULK

    @property
    def priority(self) -> Priority:
        """The lane as callers name it."""
        return "interactive" if self is Lane.INTERACTIVE else "bulk"


class Rank(IntEnum):
    """The order within a lane when a slot comes free; within a rank, first come, first served."""

    CREATE = 0  # its upload, if it has one, is about to expire
    RESERVE = 1
    POLL = 2


# A `get_split` that a caller makes itself is a poll like any other: it can wait, since nothing expires in the meantime.
RANKS: Final = {
    Stage.CREDITS: Rank.RESERVE,
    Stage.RESERVE: Rank.RESERVE,
    Stage.CREATE: Rank.CREATE,
    Stage.GET: Rank.POLL,
}


class Order(NamedTuple):
    """A request's position in the queue: the smallest goes first."""

    lane: Lane
    rank: Rank

    @classmethod
    def of(cls, priority: Priority, rank: Rank) -> Self:
        """Return the order that a call of this priority and rank waits in."""
        return cls(Lane.of(priority), rank)


_PASSED_OVER = 20  # grants in a row to one order, after which a later one that waits has its turn


class Turns:
    """Keeps a steady stream of one order from starving those behind it: they get one grant in 21."""

    def __init__(self, in_a_row: Mapping[Order, int] | None = None) -> None:
        self._in_a_row: dict[Order, int] = dict(in_a_row or {})

    @property
    def in_a_row(self) -> Mapping[Order, int]:
        """How many grants there were in a row to each order."""
        return self._in_a_row

    def is_over(self, order: Order) -> bool:
        """Return whether a request that waits behind `order` should go before it."""
        return self._in_a_row.get(order, 0) >= _PASSED_OVER

    def note(self, order: Order) -> None:
        """Note a grant to `order`: the count starts over for every order that goes before it."""
        self._in_a_row[order] = self._in_a_row.get(order, 0) + 1
        for earlier in self._in_a_row:
            if earlier < order:
                self._in_a_row[earlier] = 0
