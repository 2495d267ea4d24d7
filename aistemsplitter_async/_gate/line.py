"""The line of the processes that wait for a key's slots: who is next, and when it is worth coming back.

Nobody can be called, so each that waits is told when the slot of its place in the line comes free, and comes for
another one than the rest. One that has not come half a second later has lost its place: no slot waits longer for one
that died.

A better order goes before a worse one wherever it waits; one grant in 21 goes to those behind (`Turns`). Among equals
it is first come, first served: one slot in a turn, or an equal part of those that are free.

If only a reply can tell when, whoever has a reply takes the next slot, until one has waited for as long as its turn
should have taken; for that one the next slot is kept while it looks in.
"""

from __future__ import annotations

import math

import attrs

from aistemsplitter_async._gate.lanes import Order, Turns
from aistemsplitter_async._gate.shared_limiter import SharedLimiter

_GRACE = 0.5  # s after its moment in which a process must have come
_SOON = 0.05  # s before its moment in which a free slot is kept for it
_MOST_WANTED = 16  # slots that one process keeps from those behind it
_PULSE_LEAST, _PULSE_MOST = 0.02, 1.0  # s until it is worth asking again when only a reply can tell
_PULSES = 4.0  # in the time that a reply takes
_PATIENCE = 3.0  # times what a turn should take until one looks in: earlier, most look in vain
_SELDOM = 5.0  # s, the longest wait of one that may be in vain: slots may come free early
_SELDOM_SHARE = 0.25  # of a longer wait, after which to look again
_PITCH = 0.002  # s at least between two that come for slots of one moment


@attrs.define
class Ticket:
    """A place in the line.

    Attributes:
        order: of its best candidate, or a better one if it is its turn.
        turn: among equals, the smallest goes first.
        want: slots it could use.
        due: when it was told to come back.
    """

    order: Order
    turn: int
    want: int
    due: float

    def is_lost(self, now: float) -> bool:
        """Return whether its process has not come back in time."""
        return self.due + _GRACE < now

    def keeps(self, due: float, now: float) -> bool:
        """Return whether coming back at `due` instead need not be written down."""
        if self.due <= now:  # its moment has come: what is free is kept for it
            return due <= self.due + _GRACE
        return self.due - _SOON < due < self.due + _SOON

    def is_before(self, other: Ticket) -> bool:
        """Return whether it goes first."""
        return (self.order, self.turn) < (other.order, other.turn)


@attrs.define
class Line:
    """The tickets of all other processes, from the point of view of one that asks now."""

    others: list[Ticket]
    turns: Turns

    def join(self, mine: Ticket | None, order: Order, want: int) -> Ticket:
        """Return the place of a process that comes with this order, or comes back with its ticket."""
        if mine is None or mine.order > order or (mine.order != order and mine.turn):
            mine = Ticket(order, 1 + max((one.turn for one in self.others), default=0), want, -math.inf)
        mine.want = want
        before = min((one.order for one in self.others if one.order < order), default=order)
        if mine.order == order and before < order and self.turns.is_over(before):
            mine.order, mine.turn = before, 0
            self.turns.note(order)
        return mine

    def share(self, mine: Ticket, limiter: SharedLimiter, now: float, spare: int) -> tuple[int, int]:
        """Return how many slots `mine` may have now, if there are so many, and how many must stay free for others."""
        kept = sum(_wanted(one, mine) for one in self.others if one.due <= now + _SOON and one.is_before(mine))
        free = limiter.free_within(now, 0.0)
        if min(max(1.0, free), limiter.room) - kept < 1 and (free >= 1 or not limiter.room):
            return 0, kept
        equals = sum(one.order == mine.order for one in self.others)
        return max(1, math.ceil((min(free - spare, limiter.room) - kept) / (1 + equals))), kept

    def place(
        self, mine: Ticket, limiter: SharedLimiter, now: float, *, spare: int, latency: float, chance: float
    ) -> tuple[float, float]:
        """Return when `mine` is due, and the seconds until it should come back, which may be earlier."""
        before = [one for one in self.others if one.is_before(mine)]
        rank = sum(_wanted(one, mine) for one in before)
        at = limiter.free_at(now, spare=spare + rank)
        pitch = max(_PITCH, latency)
        if math.isinf(at) or (at <= now and rank >= limiter.room):
            pulse = min(_PULSE_MOST, max(_PULSE_LEAST, limiter.latency / _PULSES, latency))
            due = now + max(pulse, _PATIENCE * limiter.latency * (rank + 1) / limiter.at_once) + chance * pitch
        else:
            last = max((one.due for one in before), default=-math.inf)
            due = max(at, now + pitch, min(last + pitch, at + rank * pitch))
        wait = due - now
        return due, min(wait, max(_SELDOM, _SELDOM_SHARE * wait))


def _wanted(one: Ticket, mine: Ticket) -> int:
    return min(one.want, _MOST_WANTED) if one.order < mine.order else 1
