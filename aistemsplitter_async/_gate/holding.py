"""What one process holds of a shared budget, and what of that the others do not know yet.

Nothing is put back when a conversation fails: news are dropped only when an answer shows that they were heard. They are
counted, so that each is heard once, whatever became of the answers before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from aistemsplitter_async._gate.lanes import Order
from aistemsplitter_async._gate.rate_headers import RateAdvice
from aistemsplitter_async._gate.shared_state import Ask, Named, Over, Reply
from aistemsplitter_async.config import RateLimit


class Holding:
    """The slots of one process and its news, on its own monotonic clock.

    Args:
        me: the name of the process, of this life of it.
        declared: the limit that it was given.
    """

    def __init__(self, me: str, declared: RateLimit) -> None:
        self._me = me
        self._declared = declared
        self._held = set[int]()
        self._numbers = 0  # of slots that were asked for
        self._over: list[tuple[Over, float]] = []  # and when it was over
        self._named: list[tuple[Named, float]] = []  # and when the reply's request was sent
        self._told = 0
        self._last: str | None = None

    @property
    def is_empty(self) -> bool:
        """Whether no slot is held."""
        return not self._held

    @property
    def has_news(self) -> bool:
        """Whether there is something that the others do not know."""
        return bool(self._over or self._named)

    def end(self, over: Over, now: float) -> bool:
        """Note that a slot is over; return whether it was held."""
        if over.slot not in self._held:
            return False
        self._held.remove(over.slot)
        self._over.append((over, now))
        return True

    def end_all(self, now: float) -> None:
        """Note that all slots are over: their requests may have been answered, but nobody will say so."""
        for slot in sorted(self._held):
            self.end(Over(slot, "settle"), now)

    def note_named(self, advice: RateAdvice | None, further: Sequence[RateAdvice], sent: float) -> None:
        """Note what the headers of a reply say of limits; its request was sent at `sent`."""
        self._named.append((Named(advice, tuple(further)), sent))

    def ask(self, now: float, *, want: int, **details: Any) -> Ask:
        """Return all there is to say. `details` are further attributes of the `Ask`."""
        first, self._numbers = self._numbers, self._numbers + want
        return Ask(
            me=self._me,
            declared=self._declared,
            held=frozenset(self._held),
            over=tuple(attrs.evolve(over, age=max(0.0, now - at)) for over, at in self._over),
            told=self._told,
            named=tuple(attrs.evolve(named, age=max(0.0, now - sent)) for named, sent in self._named),
            want=want,
            first_id=first,
            last=self._last,
            **details,
        )

    def note_heard(self, ask: Ask, reply: Reply, text: str) -> None:
        """Note that `ask` was answered, and what is kept in the store since then."""
        self._told += len(ask.over)
        del self._over[: len(ask.over)]
        del self._named[: len(ask.named)]
        self._held.update(reply.granted)
        self._last = text


@attrs.define
class Denials:
    """Until when it makes no sense to ask for slots, by what was asked for in vain."""

    _until: dict[tuple[Order, int], float] = attrs.field(factory=dict[tuple[Order, int], float])

    def until(self, order: Order, spare: int) -> float:
        """Return when to ask for a request of this order, which must leave `spare` slots free; in the past: at once.

        What is denied to one is denied to those that go behind it and must leave as many free.
        """
        return max((at for (first, few), at in self._until.items() if first <= order and few <= spare), default=0.0)

    def note(self, order: Order, spare: int, until: float | None, now: float) -> None:
        """Note that no slot was free for such a request `until` then; `None` if there was one."""
        kept = {key: at for key, at in self._until.items() if at > now}
        if until is None:
            kept = {(first, few): at for (first, few), at in kept.items() if first > order or few > spare}
        else:
            kept[order, spare] = until
        self._until = kept

    def clear(self) -> None:
        """Forget all."""
        self._until = {}
