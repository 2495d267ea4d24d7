"""A gate whose budget is kept in a store, for all processes that use one key.

What is decided together, the limit and whose slots they are, is in the store's text (`shared_state.step`). Who of this
process goes first is decided here, as by any gate, at the moment when a slot is granted. There is one conversation with
the store at a time, and only while there is something to say: a call waits, a slot is over, or one is held whose lease
must be renewed. Between two of them the gate looks at what it heard last, moved to its own clock.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import random as random_module
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Self

import attrs

from aistemsplitter_async._gate.budget import Budget
from aistemsplitter_async._gate.contact import Contact, Heard
from aistemsplitter_async._gate.gate import Gate
from aistemsplitter_async._gate.holding import Denials, Holding
from aistemsplitter_async._gate.lanes import Lane, Order, Priority, Rank
from aistemsplitter_async._gate.outage import Outage
from aistemsplitter_async._gate.rate_headers import RateAdvice
from aistemsplitter_async._gate.shared_state import Ask
from aistemsplitter_async._gate.slot import Slot
from aistemsplitter_async._gate.snapshot import GateSnapshot
from aistemsplitter_async._gate.source import Source
from aistemsplitter_async._gate.store import GateStore, StoreUnavailableError
from aistemsplitter_async._sleep import read_clocks, read_from
from aistemsplitter_async._tasks import cancel_and_wait, join, own, start_aside
from aistemsplitter_async.clock import Clock, Random, SystemClock
from aistemsplitter_async.config import (
    SHARED_ANSWER,
    SHARED_AT_ONCE,
    SHARED_GOODBYE,
    SHARED_LEASE,
    SHARED_PATIENCE,
    RateLimit,
    RetryPolicy,
)
from aistemsplitter_async.errors import ConfigurationError
from aistemsplitter_async.events import GateUnreachable, OnEvent

_HEARTBEATS = 3.0  # in a lease, while a slot is held
_POLL = Order(Lane.INTERACTIVE, Rank.POLL)


class SharedGate(Gate):
    """Admission to one key's budget for all processes, on one machine or several, that share a store.

    Each process makes its own, for one event loop at a time; clients of one key in it may share that. A client made
    with `shared=` makes and closes one itself. One that is given as `gate=` serves the key of its first client, and is
    closed by whoever made it: `async with`, or `aclose`.

    While the store cannot be asked, nothing is sent. A call that has waited for `patience` seconds of that fails with
    `APIConnectionError` (`code` is `GATE_UNREACHABLE`); one that comes later waits as long. If the store refuses, as
    for a wrong password, calls fail at once. What is learned of the limit is kept in the store, not in a journal.

    Args:
        store: keeps what the processes share, and is closed with the gate.
        limit: what is known about the key's limit. Of several processes the strictest holds.
        lease: seconds that a process keeps its slots without being heard of; then others have them.
        patience: seconds that calls wait for a store that cannot be asked.
        clock: where time comes from; the store has its own, by which all agree.
        retry: as for any gate.
        on_event: a listener, as for any gate. Each process hears of what another one caused once it asks the store.
        random: uniform in [0, 1).
    """

    def __init__(
        self,
        store: GateStore,
        limit: RateLimit = RateLimit(),  # noqa: B008  # frozen
        *,
        lease: float = SHARED_LEASE,
        patience: float = SHARED_PATIENCE,
        clock: Clock | None = None,
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008  # frozen
        on_event: OnEvent | None = None,
        random: Random = random_module.random,
    ) -> None:
        super().__init__(limit, clock=clock, retry=retry, on_event=on_event)
        if not (0 < lease < math.inf and patience >= 0):
            raise ConfigurationError("lease must be a positive number of seconds, and patience at least 0")
        if isinstance(store, str):
            raise ConfigurationError("store must be a GateStore; give its URL to a client instead, as shared=")
        self._limit = limit
        self._seconds = lease
        self._read = read_clocks if isinstance(self._clock, SystemClock) else partial(read_from, self._clock)
        self._contact = Contact(
            store,
            clock=self._clock,
            read=self._read,
            retry=retry,
            lease=lease,
            longest=min(SHARED_ANSWER, lease / _HEARTBEATS),
            random=random,
        )
        self._key: str | None = None
        self._holding = self._build_holding()
        self._process = os.getpid()
        self._denials = Denials()
        self._talk: asyncio.Task[None] | None = None
        self._spoke_at = -math.inf  # when the last conversation that was answered began
        self._outage = Outage(patience=patience)
        self._closed_until = -math.inf  # on the store's clock, as it was told
        self._holders, self._wanted_elsewhere = 1, 0
        self._news_wait = 0.0  # s for which slots that are over need not be told
        self._leaving = False
        self._closing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def serve(self, owner: Mapping[str, str]) -> None:
        """Admit the requests of this API and key.

        Raises:
            ConfigurationError: it serves another key already.
        """
        name = hashlib.sha256("\n".join(owner[part] for part in ("api", "key")).encode()).hexdigest()[:32]
        if self._key not in (None, name):
            raise ConfigurationError("a shared gate serves one key of one API; make another one for another key")
        self._key = name

    async def admit(self, priority: Priority = "interactive", rank: Rank = Rank.RESERVE) -> Slot:
        """Wait for a slot and return it. A cancelled call leaves the queue.

        Raises:
            APIConnectionError: the store could not be asked for too long, or refuses to be asked.
            RateLimitedError: as for any gate.
            ConfigurationError: as for any gate; or it is closed, or serves no client.
        """
        if self._closing is not None:
            raise _closed()
        if self._key is None:
            raise ConfigurationError("a shared gate must know its key: give it to a client, as gate=")
        if self._outage.is_permanent and self._clock.monotonic() < self._outage.again_at:
            raise self._outage.build_error()
        return await super().admit(priority, rank)

    @property
    def trouble(self) -> str | None:
        """Why nothing is sent, `None` if the store answers."""
        return self._outage.describe(self._clock.monotonic())

    def snapshot(self) -> GateSnapshot:
        """Return the state of the gate as it was heard last."""
        return attrs.evolve(super().snapshot(), holders=self._holders)

    def budget(self) -> Budget:
        """Return the budget to plan polls with: this process's part of what the others' waiting calls leave."""
        whole = super().budget()
        others, holders = self._wanted_elsewhere, self._holders
        return attrs.evolve(whole, free=lambda within: (whole.free(within) - others) / holders, holders=holders)

    @property
    def changes(self) -> int:
        """Always 0: `restore` sees to nothing."""
        return 0

    def export(self) -> dict[str, Any]:
        """Return nothing: the store remembers."""
        return {}

    def restore(self, remembered: Mapping[str, Any]) -> None:
        """Do nothing: what one process remembered is older than what the store does."""

    async def flush(self) -> None:
        """Tell the store what it does not know yet, in a few seconds at most."""
        if self._loop is asyncio.get_running_loop():
            await self._talk_until(lambda: not self._holding.has_news)

    async def aclose(self) -> None:
        """Give back all slots, so that others need not wait for the end of their lease, and close the store.

        That takes a few seconds at most. Calls that still wait fail. Closing again does nothing.
        """
        if self._closing is None:
            self._closing = own(self._close())
        await join(self._closing)

    async def _close(self) -> None:
        if self._loop is asyncio.get_running_loop():
            self._refuse_all(_closed)
            if self._holding.has_news or not self._holding.is_forgotten:
                self._leaving = True
                await self._talk_until(lambda: not self._leaving)
                self._leaving = False
            self._timer.set(math.inf)
            if self._talk is not None:
                await cancel_and_wait(self._talk)
        await self._contact.aclose(SHARED_GOODBYE)

    def pump(self) -> None:
        """Ask the store if there is something to say, or set the timer for when there will be.

        Raises:
            ConfigurationError: as for any gate.
        """
        self._bind()
        now = self._clock.monotonic()
        self._emit_changes(now)
        if self._closing is not None and not self._leaving:
            self._refuse_all(_closed)  # a source may have waiters that came later
            return
        if self._talk is not None or self._key is None:
            return
        chosen = self._choose(now)
        at = -math.inf if self._leaving else min(self._holding.news_at(self._news_wait), self._heartbeat_at())
        if chosen is not None:
            order, _, spare = chosen
            at = min(at, self._denials.until(order, spare))
        at = max(at, self._outage.again_at)
        if at > now:
            self._timer.set(at if chosen is not None else min(at, self._next_change(now)))
            return
        self._timer.set(math.inf)
        self._talk = start_aside(self._converse(), "gate talk")
        self._talk.add_done_callback(self._end_talk)

    async def _converse(self) -> None:
        """Say all there is to say, and act on the answer."""
        began = self._clock.monotonic()
        self._outage.note_question(began)
        chosen = self._choose(began)
        ask = self._ask(chosen)
        try:
            heard = await self._contact.exchange(self._key or "", ask)
        except StoreUnavailableError as error:
            self._bear(error)
            return
        self._spoke_at = began
        self._outage.note_answer()
        self._note_heard(ask, heard)
        if chosen is not None:
            order, _, spare = chosen
            now = self._clock.monotonic()
            wait = min(heard.reply.wait, self._seconds)  # by then, another one may have closed the gate
            self._denials.note(order, spare, now + wait if wait else None, now)

    def _ask(self, chosen: tuple[Order, Source, int] | None) -> Ask:
        order, spare = (chosen[0], chosen[2]) if chosen is not None else (None, 0)
        if self._leaving:
            self._holding.end_all()
            order = None
        return self._holding.ask(
            want=0 if order is None else max(1, min(SHARED_AT_ONCE, self._alike(order))),
            order=order,
            spare=spare,
            interactive=order is not None and order < _POLL,
            waiting=sum(self._queues.count().values()),
            latency=self._contact.latency,
            leaving=self._leaving,
        )

    def _alike(self, order: Order) -> int:
        now = self._clock.monotonic()
        return sum(source.alike(order, now) for source in self._sources)

    def _note_heard(self, ask: Ask, heard: Heard) -> None:
        now, reply = self._clock.monotonic(), heard.reply
        shift = now - reply.at
        self._holding.note_heard(ask, reply, text=heard.text, asked=heard.asked)
        if ask.leaving:
            self._leaving = False
        self._news_wait = reply.news_wait
        self._holders, self._wanted_elsewhere = reply.holders, reply.wanted_elsewhere
        self._interactive_at = max(self._interactive_at, reply.interactive_at + shift)
        closed_until, self._limiter = reply.limiter.closed_until, reply.limiter
        reply.limiter.shift(shift)
        if closed_until > max(self._closed_until, reply.at):
            self._closed_until = closed_until
            self._note_closed(asked=closed_until - reply.at)
        for number in reply.granted:
            slot, best = self._holding.take(number), self._choose(now)
            if best is None:
                slot.restore()
            else:
                self._grant(best[0], best[1], slot, now)

    def _adopt(self, advice: RateAdvice | None, further: Sequence[RateAdvice], sent: float | None) -> None:
        self._holding.note_named(advice, further, self._clock.monotonic() if sent is None else sent)

    def _bear(self, error: StoreUnavailableError) -> None:
        """Keep everything until the store answers, and let go the calls that have waited for too long."""
        now = self._clock.monotonic()
        self._outage.note_failure(error, now)
        if error.permanent:
            self._refuse_all(self._outage.build_error)
        else:
            self._queues.refuse(self._outage.build_error, came_by=self._outage.came_by(now))
        trouble = self._outage.describe(now)
        if trouble is not None and not self._outage.is_told:
            self._outage.is_told = True
            self._emit(GateUnreachable, lambda: GateUnreachable(reason=trouble, at=now))

    def _refuse_all(self, build: Callable[[], Exception]) -> None:
        for source in self._sources:
            source.refuse(build)

    def _end_talk(self, talk: asyncio.Task[None]) -> None:
        if self._talk is talk:
            self._talk = None
            if not talk.cancelled():
                talk.result()
                self.pump()

    async def _talk_until(self, is_over: Callable[[], bool]) -> None:
        """Talk until `is_over`, the store fails, or it takes too long."""
        self._outage.again_at = -math.inf
        with suppress(TimeoutError):
            async with self._clock.timeout_at(self._clock.monotonic() + SHARED_GOODBYE):
                while not is_over():
                    self._news_wait = 0.0
                    self.pump()
                    if self._talk is None:
                        break
                    await asyncio.wait([self._talk])

    def _heartbeat_at(self) -> float:
        """Return when the others must hear that this process lives."""
        return math.inf if self._holding.is_empty else self._spoke_at + self._seconds / _HEARTBEATS

    def _bind(self) -> None:
        before = self._loop
        super()._bind()
        process = os.getpid()
        if self._loop is before and self._process == process:
            return
        if self._process != process:  # a fork: the slots are the parent's
            self._process, self._holding = process, self._build_holding()
        self._holding.end_all()
        self._contact.start_over()
        self._talk = None
        self._outage.again_at = -math.inf

    def _build_holding(self) -> Holding:
        return Holding(secrets.token_hex(5), self._limit, clock=self._clock, read=self._read, on_news=self.pump)


def _closed() -> ConfigurationError:
    return ConfigurationError("this gate is closed; make a new one")
