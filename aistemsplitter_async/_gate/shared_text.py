"""The text that is kept for a key, parsed: the limiter, who holds which slots of it, and who waits.

It is JSON, a list whose first item is the number of its format. Times of holders are milliseconds from the second of
the last change, which keeps them short; a process that waits or holds a slot costs some 50 bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import product, starmap
from typing import Any, Final, Self

import attrs

from aistemsplitter_async._gate.lanes import Lane, Order, Rank, Turns
from aistemsplitter_async._gate.line import Ticket
from aistemsplitter_async._gate.shared_limiter import SharedLimiter, dump_limit, load_limit
from aistemsplitter_async._gate.store import StoreUnavailableError
from aistemsplitter_async.config import RateLimit, RetryPolicy
from aistemsplitter_async.errors import ConfigurationError

FORMAT: Final = 1
TICKS: Final = 1000.0  # a second, in which holders' times are kept
_ORDERS: Final[dict[tuple[int, int], Order]] = {order: order for order in starmap(Order, product(Lane, Rank))}
_LATEST = 1e12  # s; no clock is there
_LONGEST = 1_000_000  # characters; a hostile text must not exhaust memory
_UNREADABLE: Final = (
    *(TypeError, ValueError, LookupError, ArithmeticError, AttributeError),
    RecursionError,
    ConfigurationError,
)


class UnreadableTextError(Exception):
    """A text that is not of this form, whatever it is."""


@attrs.define
class Holder:
    """What one process holds.

    Attributes:
        until: when its lease ends.
        declared: the limit that it was given.
        heard: how many slots it has said to be over.
        waiting: calls that wait there.
        slots: when each was taken, by its number.
        ticket: its place in the line, if it waits.
    """

    until: float
    declared: RateLimit
    heard: int = 0
    waiting: int = 0
    slots: dict[int, float] = attrs.field(factory=dict[int, float])
    ticket: Ticket | None = None


@attrs.define
class Kept:
    """The text, parsed.

    Attributes:
        lineage: a number drawn when it began, from nothing or from a text that others have a later one of; the texts
            that follow have the same.
        at: when it was last changed.
        ahead: seconds to add to the store's clock, because it was set back.
        interactive_at: when an interactive call last came to any process.
        recalled: lineages of lost texts, and until when (`at`) it has heard of each.
    """

    lineage: int
    at: float
    ahead: float
    interactive_at: float
    limiter: SharedLimiter
    turns: Turns
    holders: dict[str, Holder]
    recalled: dict[int, float] = attrs.field(factory=dict[int, float])

    def dump(self) -> str:
        """Return the text."""
        distinct = {id(one.declared): one.declared for one in self.holders.values()}  # hashing each would take longer
        limits = list(dict.fromkeys(distinct.values()))
        index = {key: limits.index(limit) for key, limit in distinct.items()}
        base = math.floor(self.at)
        holders = {
            name: [
                round((one.until - base) * TICKS),
                index[id(one.declared)],
                one.heard,
                one.waiting,
                [number for slot, taken in one.slots.items() for number in (slot, round((taken - base) * TICKS))],
                *_dump_ticket(one.ticket, base),
            ]
            for name, one in self.holders.items()
        }
        interactive_at = self.interactive_at if math.isfinite(self.interactive_at) else None
        turns = [number for order, grants in self.turns.in_a_row.items() for number in (*order, grants)]
        declared = [*map(dump_limit, limits)]
        times = [self.at, self.ahead, interactive_at]
        whole = [FORMAT, self.lineage, *times, self.limiter.dump(), turns, declared, holders, [*self.recalled.items()]]
        return json.dumps(whole, separators=(",", ":"))

    @classmethod
    def load(cls, text: str, retry: RetryPolicy) -> Self:
        """Return what `text` says.

        Raises:
            UnreadableTextError: it cannot be read.
            StoreUnavailableError: it is of a newer version.
        """
        try:
            if len(text) > _LONGEST:
                raise ValueError(len(text))
            return cls._load(text, retry)
        except _UNREADABLE as error:
            raise UnreadableTextError from error

    @classmethod
    def _load(cls, text: str, retry: RetryPolicy) -> Self:
        whole = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
        if isinstance(whole, list) and whole and isinstance(whole[0], int) and whole[0] > FORMAT:
            raise StoreUnavailableError(
                f"the shared limit is kept in format {whole[0]}, and this version reads {FORMAT}: "
                "upgrade this process, or give the newer ones another store",
                permanent=True,
            )
        version, lineage, at, ahead, interactive_at, limiter, turns, declared, holders, recalled = whole
        if version != FORMAT:
            raise ValueError(version)
        if not 0 <= ahead < _LATEST or not abs(at) < _LATEST:
            raise ValueError(at)
        limits = [load_limit(tuple(limit)) for limit in declared]
        base = math.floor(at)
        parsed: dict[str, Holder] = {}
        for name, (until, limit, heard, waiting, slots, *ticket) in holders.items():
            taken = (
                {int(slot): base + at / TICKS for slot, at in zip(slots[::2], slots[1::2], strict=True)}
                if slots
                else {}
            )
            place = _load_ticket(ticket, base) if ticket else None
            parsed[name] = Holder(base + until / TICKS, limits[limit], int(heard), int(waiting), taken, place)
        numbers = iter(turns)
        in_a_row = {
            _ORDERS[lane, rank]: int(grants) for lane, rank, grants in zip(numbers, numbers, numbers, strict=True)
        }
        return cls(
            lineage=int(lineage),
            at=float(at),
            ahead=float(ahead),
            interactive_at=-math.inf if interactive_at is None else float(interactive_at),
            limiter=SharedLimiter.load(limiter, retry),
            turns=Turns(in_a_row),
            holders=parsed,
            recalled={int(lost): float(until) for lost, until in recalled},
        )


def lineage_of(text: str) -> tuple[int, float]:
    """Return the lineage of a text that `dump` returned, and when it was last changed, without parsing it."""
    _, lineage, at, _ = text.split(",", 3)
    return int(lineage), float(at)


def _dump_ticket(ticket: Ticket | None, base: float) -> list[int]:
    if ticket is None:
        return []
    return [*ticket.order, ticket.turn, ticket.want, round((ticket.due - base) * TICKS)]


def _load_ticket(dumped: list[int], base: float) -> Ticket:
    lane, rank, turn, want, due = dumped
    return Ticket(_ORDERS[lane, rank], int(turn), int(want), base + due / TICKS)


def _finite(text: str) -> float:
    number = float(text)
    if not abs(number) < _LATEST:
        raise ValueError(text)
    return number


def _refuse_constant(name: str) -> Mapping[str, Any]:
    raise ValueError(name)  # NaN and infinities are no JSON
