"""What one process holds of a shared budget, and what of that the others do not know yet.

Nothing is put back when a conversation fails: news are dropped only when an answer shows that they were heard. They are
counted, so that each is heard once, whatever became of the answers before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import attrs

from aistemsplitter_async._gate.lanes import Order
from aistemsplitter_async._gate.rate_headers import RateAdvice
from aistemsplitter_async._gate.shared_state import Ask, Named, Over, Reply
from aistemsplitter_async._gate.slot import Lease, Slot
from aistemsplitter_async._sleep import Readings
from aistemsplitter_async.clock import Clock
from aistemsplitter_async.config import RateLimit

How = Literal["settle", "refuse", "restore"]


class Holding:
    """The slots of one process and its news, on its own monotonic clock.

    Args:
        me: the name of the process, of this life of it.
        declared: the limit that it was given.
        clock: where time comes from.
        read: returns the machine's clocks, by which a lease ends.
        on_news: called when a slot is over.
    """

    def __init__(
        self,
        me: str,
        declared: RateLimit,
        *,
        clock: Clock,
        read: Callable[[], Readings],
        on_news: Callable[[], None],
    ) -> None:
        self._me = me
        self._declared = declared
        self._clock = clock
        self._read = read
        self._on_news = on_news
        self._lease: Lease | None = None
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

    def news_at(self, patience: float) -> float:
        """Return when to say what there is; that slots were used, and nothing else, can wait for `patience` seconds."""
        if self._named or any(over.how != "settle" for over, _ in self._over):
            return -math.inf
        return self._over[0][1] + patience if self._over else math.inf

    @property
    def has_news(self) -> bool:
        """Whether there is something that the others do not know."""
        return bool(self._over or self._named)

    @property
    def is_forgotten(self) -> bool:
        """Whether the store knows nothing of this process, or nothing any more."""
        return self._lease is None or self._lease.is_over

    def take(self, number: int) -> Slot:
        """Return a slot that was granted."""

        def end(how: How, retry_after: float | None = None) -> None:
            self._end(number, how, retry_after)
            self._on_news()

        return Slot(
            self._clock.monotonic(),
            on_settle=lambda _: end("settle"),
            on_refuse=lambda _, retry_after: end("refuse", retry_after),
            on_restore=lambda: end("restore"),
            lease=self._lease,
        )

    def end_all(self) -> None:
        """Note that all slots are over: their requests may have been answered, but no call will say so."""
        for number in sorted(self._held):
            self._end(number, "settle")

    def _end(self, number: int, how: How, retry_after: float | None = None) -> None:
        if number in self._held:
            self._held.remove(number)
            self._over.append((Over(number, how, retry_after=retry_after), self._clock.monotonic()))

    def note_named(self, advice: RateAdvice | None, further: Sequence[RateAdvice], sent: float) -> None:
        """Note what the headers of a reply say of limits; its request was sent at `sent`."""
        self._named.append((Named(advice, tuple(further)), sent))

    def ask(self, *, want: int, **details: Any) -> Ask:
        """Return all there is to say. `details` are further attributes of the `Ask`."""
        now = self._clock.monotonic()
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

    def note_heard(self, ask: Ask, reply: Reply, *, text: str | None, asked: Readings) -> None:
        """Note that `ask` was answered.

        Args:
            ask: what was said.
            reply: the answer.
            text: what is kept in the store since then, `None` for what was kept before.
            asked: the machine's clocks before the store was asked.
        """
        self._told += len(ask.over)
        del self._over[: len(ask.over)]
        del self._named[: len(ask.named)]
        self._held.update(reply.granted)
        self._last = self._last if text is None else text
        left = reply.until - reply.at
        if self._lease is None or self._lease.is_over:  # its slots stay stale: others have them
            self._lease = Lease(left, self._read, asked)
        else:
            self._lease.renew(left, asked)


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
