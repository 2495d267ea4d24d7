"""The line of the processes that wait for a key's slots: who is next, and when it is worth coming back.

No process can call another, so each that waits is told when the slot of its place in the line comes free, and comes for
another one than the rest. Where slots come free quickly, it is told to come for several at once.

A better order goes before a worse one wherever it waits; one grant in 21 goes to those behind (`Turns`). Among equals
whoever has had the fewest slots since it came goes first: each slot moves it back by one.

A slot is kept for one that is due, but not for long: processes wake up late at times, and the next one that comes has
the slot then. One that was passed is waited for longer the next time, so that it does not fall behind for ever. One
that has not come half a second later has lost its place.

If only a reply can tell when, whoever has a reply takes the next slot, until one has waited for as long as its turn
should have taken; for that one the next slot is kept while it looks in.
"""

from __future__ import annotations

import math

import attrs

from aistemsplitter_async._gate.lanes import Order, Turns
from aistemsplitter_async._gate.shared_limiter import SharedLimiter

_GRACE = 0.5  # s after its moment in which a process must have come, or has lost its place
_SLACK = 0.01  # s before and after its moment in which a slot is kept for an equal: scheduling takes that long at times
_SLACKS = 3.0  # conversations; one takes longer if there are races
_SOON = 0.05  # s before its moment in which a free slot is kept for one with a better order
_MOST_WANTED = 16  # slots that one process keeps from those behind it
_PULSE_LEAST, _PULSE_MOST = 0.02, 1.0  # s until it is worth asking again when only a reply can tell
_PULSES = 4.0  # in the time that a reply takes
_PATIENCE = 3.0  # times what a turn should take until one looks in: earlier, most look in vain
_SELDOM = 5.0  # s, the longest wait of one that may be in vain: slots may come free early
_SELDOM_SHARE = 0.25  # of a longer wait, after which to look again
_MOST_DOUBLINGS = 6  # of the time that a slot is kept after its moment, one for each time that equals passed it
_NEAR = 8  # slots by which equals may be apart
_PITCH = 0.002  # s at least between two that come for slots
_PITCHES = 500.0  # in a window, at most: what comes free in between is one grant, and idle for a 1,000th of the window
_GRANTS = 10.0  # in a window, at least, to each of those that wait: more at once would be unequal for long


@attrs.define
class Ticket:
    """A place in the line.

    Attributes:
        order: of its best candidate, or a better one if it is its turn.
        turn: among equals, the smallest goes first. Each slot that it got has moved it back by one.
        want: slots it could use; 0 for one that was given all, and may come again soon.
        due: when it was told to come back.
    """

    order: Order
    turn: int
    want: int
    due: float

    def is_lost(self, now: float) -> bool:
        """Return whether its process has not come back in time."""
        return self.due + _GRACE < now

    def is_expected(self, mine: Ticket, now: float, *, among: int, slack: float) -> bool:
        """Return whether a slot is to be kept for it from `mine`, behind which it goes not; one of `among` that wait.

        One that is late does not hold up its equals, but each time that they pass it, they wait longer for it.
        """
        if self.order < mine.order:
            return self.due <= now + _SOON
        passed = min(max(0, mine.turn - self.turn) // max(among, _NEAR), _MOST_DOUBLINGS)
        return self.due - slack <= now <= self.due + slack * 2.0**passed

    def keeps(self, due: float, now: float) -> bool:
        """Return whether coming back at `due` instead need not be written down."""
        if self.due <= now:  # its moment has come: what is free is kept for it
            return due <= self.due + _GRACE
        return self.due - _SOON < due < self.due + _SOON

    def is_before(self, other: Ticket) -> bool:
        """Return whether it goes first."""
        return (self.order, self.turn, self.due) < (other.order, other.turn, other.due)


@attrs.define
class Line:
    """The tickets of all other processes, from the point of view of one that asks now."""

    others: list[Ticket]
    turns: Turns

    def join(self, mine: Ticket | None, order: Order, want: int) -> Ticket:
        """Return the place of a process that comes with this order, or comes back with its ticket."""
        if mine is None or mine.order > order or (mine.order != order and mine.turn):
            mine = Ticket(order, 1 + max((one.turn for one in self.others), default=0), want, math.inf)
        mine.want = want
        before = min((one.order for one in self.others if one.order < order), default=order)
        if mine.order == order and before < order and self.turns.is_over(before):
            mine.order, mine.turn = before, 0
            self.turns.note(order)
        return mine

    def move_back(self, mine: Ticket, order: Order, slots: int) -> Ticket:
        """Return the place of a process that was given `slots` just now."""
        if not mine.turn:  # a better one than that of its order, for once
            return self.join(None, order, mine.want - slots)
        return Ticket(order, mine.turn + slots, mine.want - slots, math.inf)

    def share(self, mine: Ticket, limiter: SharedLimiter, now: float, *, latency: float) -> tuple[int, int]:
        """Return how many slots `mine` may have now, if there are so many, and how many must stay free for others."""
        among, slack = self._among(mine), max(_SLACK, _SLACKS * latency)
        if limiter.room < among:  # slots come with replies, and whoever has one is quicker than those that wait
            slack = max(slack, limiter.latency)
        batch = _batch(limiter, mine.want, among)
        kept = sum(
            min(one.want, _MOST_WANTED if one.order < mine.order else batch)
            for one in self.others
            if one.is_before(mine) and one.is_expected(mine, now, among=among, slack=slack)
        )
        free = limiter.free_within(now, 0.0)
        if min(max(1.0, free), limiter.room) - kept < 1 and (free >= 1 or not limiter.room):
            return 0, kept
        return batch if mine.turn else 1, kept

    def _among(self, mine: Ticket) -> int:
        return 1 + sum(one.order == mine.order for one in self.others)

    def place(
        self, mine: Ticket, limiter: SharedLimiter, now: float, *, spare: int, latency: float, chance: float
    ) -> tuple[float, float]:
        """Return when `mine` is due, and the seconds until it should come back, which may be earlier."""
        before = [one for one in self.others if one.is_before(mine)]
        better = sum(min(one.want, _MOST_WANTED) for one in before if one.order < mine.order)
        equals = sum(one.order == mine.order for one in before)
        rank, least, pitch = better + equals, max(_PITCH, latency), _pitch(limiter, latency)
        at = limiter.free_at(now, spare=spare + rank)
        if math.isinf(at) or (at <= now and rank >= limiter.room):
            pulse = min(_PULSE_MOST, max(_PULSE_LEAST, limiter.latency / _PULSES, latency))
            due = now + max(pulse, _PATIENCE * limiter.latency * (rank + 1) / max(1, limiter.at_once)) + chance * least
        else:
            last = max((one.due for one in before), default=now)
            batch = _batch(limiter, mine.want, self._among(mine))
            full = limiter.free_at(now, spare=spare + better + (equals + 1) * batch - 1)
            due = max(at, now + least, min(full, last + pitch, at + (rank + 1) * pitch))
        wait = due - now
        return due, min(wait, max(_SELDOM, _SELDOM_SHARE * wait))


def _pitch(limiter: SharedLimiter, latency: float) -> float:
    """Return the seconds between two processes that come for slots."""
    return max(_PITCH, latency, limiter.per / _PITCHES)


def _batch(limiter: SharedLimiter, want: int, among: int) -> int:
    """Return how many slots one process is given at once, of several."""
    most = limiter.at_once if among == 1 or limiter.believed is None else limiter.believed / _GRANTS
    return max(1, min(want, math.ceil(most / among)))
