"""Looks at running splits, as a source of the gate: when a slot comes free, the split most overdue is looked at.

Any number of waiters on one split share its looks. A passing failure never ends a wait; what ends it is a terminal
status, the waiter's own deadline, or an answer that no later look can improve.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import AsyncIterator
from itertools import count

import attrs

from aistemsplitter_async._core import operations
from aistemsplitter_async._core.pollplan import plan_look
from aistemsplitter_async._net.gate import Order, Priority, Rank, Slot, order_of
from aistemsplitter_async._net.pipeline import Pipeline
from aistemsplitter_async.config import EMPTY_SUCCESS_LOOKS, PollPolicy
from aistemsplitter_async.errors import (
    AIStemSplitterError,
    APIConnectionError,
    APIStatusError,
    ConfigurationError,
    ProtocolError,
    RateLimitedError,
    ServerError,
)
from aistemsplitter_async.models import Split

_REQUEST_TIMEOUT = 408


@attrs.define(eq=False)
class _Watch:
    """One split under observation."""

    split_id: str
    priority: Priority
    since: float  # monotonic seconds
    due: float
    waiters: int = 0
    looking: bool = False
    last: Split | None = None
    failure: Exception | None = None
    empty_successes: int = 0
    changed: asyncio.Event = attrs.field(factory=asyncio.Event)

    @property
    def over(self) -> bool:
        return self.failure is not None or (self.last is not None and self.last.is_terminal)


class Poller:
    """The waiting stage of one client."""

    def __init__(self, pipeline: Pipeline, base_url: str, policy: PollPolicy) -> None:
        self._pipeline = pipeline
        self._base_url = base_url
        self._policy = policy
        self._watches: dict[str, _Watch] = {}
        # Per lane a heap by due time; stale entries are dropped at the top.
        self._agendas: dict[Priority, list[tuple[float, int, _Watch]]] = {"interactive": [], "bulk": []}
        self._tie = count()
        self._looks: set[asyncio.Task[None]] = set()
        self._attached = False
        self._closed = False

    async def updates(self, split_id: str, *, priority: Priority, since: float | None = None) -> AsyncIterator[Split]:
        """Yield the split as it is first seen and at every change, the terminal state last.

        Args:
            split_id: which one.
            priority: the lane its looks wait in; an interactive waiter pulls a bulk one along.
            since: when it was created (monotonic seconds), or `None` to look at once.

        Raises:
            AIStemSplitterError: an answer that waiting cannot improve: 401, 404, an undecodable reply.
        """
        watch = self._join(split_id, priority, since)
        seen = None
        try:
            while True:
                if watch.last is not None and watch.last != seen:
                    seen = watch.last
                    yield seen
                    continue  # there may have been another change while the caller had it
                if watch.failure is not None:
                    raise watch.failure
                if watch.over:
                    return
                await watch.changed.wait()
        finally:
            self._leave(watch)

    async def aclose(self) -> None:
        """Stop looking; whoever still waits is told that the client is closed."""
        self._closed = True
        if self._attached:
            self._pipeline.gate.detach(self)
            self._attached = False
        for watch in self._watches.values():
            watch.failure = (
                watch.failure
                if watch.over
                else ConfigurationError("the client was closed while this split was waited for")
            )
            watch.changed.set()
        for look in self._looks:
            look.cancel()
        if self._looks:
            await asyncio.wait(self._looks)

    def best(self, now: float) -> Order | None:
        """Return the order of the split to look at."""
        top = self._due(now)
        return order_of(top.priority, Rank.POLL) if top is not None else None

    def next_change(self, now: float) -> float:  # noqa: ARG002  # the agendas know
        """Return when the next split is due."""
        return min((top.due for lane in self._agendas if (top := self._top(lane)) is not None), default=math.inf)

    def grant(self, slot: Slot) -> None:
        """Look at the split most overdue, interactive ones first."""
        watch = self._due(self._pipeline.clock.monotonic())
        if watch is None:
            slot.restore()
            return
        heapq.heappop(self._agendas[watch.priority])
        watch.looking = True
        look = asyncio.get_running_loop().create_task(self._look(watch, slot), name=f"look at {watch.split_id}")
        self._looks.add(look)
        look.add_done_callback(self._looks.discard)
        look.add_done_callback(lambda _: slot.restore())  # where it was cancelled before it used the slot

    def _join(self, split_id: str, priority: Priority, since: float | None) -> _Watch:
        if self._closed:
            raise ConfigurationError("this client is closed; make a new one")
        if not self._attached:
            self._pipeline.gate.attach(self)
            self._attached = True
        now = self._pipeline.clock.monotonic()
        watch = self._watches.get(split_id)
        if watch is None:
            due = now if since is None else max(now, since + self._policy.first)
            watch = _Watch(split_id, priority, since if since is not None else now, due)
            self._watches[split_id] = watch
            self._schedule(watch)
        elif priority == "interactive" and watch.priority == "bulk":
            watch.priority = priority
            self._schedule(watch)
        watch.waiters += 1
        self._pipeline.gate.pump()
        return watch

    def _leave(self, watch: _Watch) -> None:
        watch.waiters -= 1
        if not watch.waiters:
            del self._watches[watch.split_id]  # its agenda entry, or a look under way, finds that out
            self._pipeline.gate.pump()

    def _due(self, now: float) -> _Watch | None:
        """Return the split most overdue of the first lane that has one."""
        for lane in self._agendas:
            top = self._top(lane)
            if top is not None and top.due <= now:
                return top
        return None

    def _top(self, lane: Priority) -> _Watch | None:
        agenda = self._agendas[lane]
        while agenda:
            due, _, watch = agenda[0]
            if watch.waiters and not watch.looking and due == watch.due and lane == watch.priority:
                return watch
            heapq.heappop(agenda)
        return None

    def _schedule(self, watch: _Watch) -> None:
        heapq.heappush(self._agendas[watch.priority], (watch.due, next(self._tie), watch))

    async def _look(self, watch: _Watch, slot: Slot) -> None:
        pipeline = self._pipeline
        asked = 0.0
        try:
            operation = operations.get_split(self._base_url, watch.split_id)
            split = await pipeline.send(operation, priority=watch.priority, slot=slot)
            self._note(watch, split)
        except AIStemSplitterError as error:
            if _passes(error):
                asked = (error.retry_after or 0.0) if isinstance(error, APIStatusError) else 0.0
            else:
                error.split_id = watch.split_id
                watch.failure = error
        except Exception as error:  # noqa: BLE001  # whatever it is, it must reach the waiters and not vanish in a task
            watch.failure = error
        finally:
            watch.looking = False
            watch.changed.set()
            watch.changed = asyncio.Event()
        if not watch.over and watch.waiters:
            now = pipeline.clock.monotonic()
            watch.due = now + max(asked, plan_look(self._policy, elapsed=now - watch.since, random=pipeline.random))
            self._schedule(watch)
            pipeline.gate.pump()

    def _note(self, watch: _Watch, split: Split) -> None:
        if split.status == "succeeded" and not split.stems:
            # The status may run ahead of the stems; that is worth a few more looks, not an endless wait.
            watch.empty_successes += 1
            if watch.empty_successes > EMPTY_SUCCESS_LOOKS:
                raise ProtocolError(f"split {split.id} succeeded, but has no stems")
            return
        watch.last = split


def _passes(error: AIStemSplitterError) -> bool:
    """Return whether a later look may go better than this one, which was retried already."""
    if isinstance(error, APIConnectionError):
        return not error.permanent
    return isinstance(error, RateLimitedError | ServerError) or error.status_code == _REQUEST_TIMEOUT
