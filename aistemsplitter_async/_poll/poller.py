"""Looks at running splits, as a source of the gate: when a slot comes free, the plan says which split to look at.

Any number of waiters on one split share its looks. A passing failure never ends a wait; what ends it is a terminal
status, the waiter's own deadline, or an answer that no later look can improve.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator

import attrs

from aistemsplitter_async._gate.lanes import Lane, Order, Priority, Rank
from aistemsplitter_async._gate.slot import Slot
from aistemsplitter_async._poll.plan import Entry, PollPlan
from aistemsplitter_async._send.pipeline import Pipeline
from aistemsplitter_async._wire import operations
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
from aistemsplitter_async.events import PollMade, PollPlanned
from aistemsplitter_async.models import Split

_REQUEST_TIMEOUT = 408
_MOST_PATIENT = 30.0  # times the first wait is the longest between two looks that bring nothing


@attrs.define(eq=False)
class _Watch:
    """One split under observation."""

    split_id: str
    priority: Priority
    since: float  # monotonic seconds
    waiters: int = 0
    last: Split | None = None
    failure: Exception | None = None
    empty_successes: int = 0
    failures: int = 0  # looks in a row that brought nothing
    changed: asyncio.Event = attrs.field(factory=asyncio.Event)

    @property
    def over(self) -> bool:
        return self.failure is not None or (self.last is not None and self.last.is_terminal)


class Poller:
    """The waiting stage of one client.

    Args:
        pipeline: sends the looks.
        base_url: of the API.
        policy: when a look is worth a request.
    """

    def __init__(self, pipeline: Pipeline, base_url: str, policy: PollPolicy) -> None:
        self._pipeline = pipeline
        self._base_url = base_url
        self._watches: dict[str, _Watch] = {}
        self._policy = policy
        self._plan = PollPlan(policy, random=pipeline.random)
        self._chosen: dict[Order, Entry] = {}  # what `best` spoke of last
        self._looks: set[asyncio.Task[None]] = set()
        self._attached = False
        self._closed = False

    async def updates(
        self,
        split_id: str,
        *,
        priority: Priority,
        since: float | None = None,
        credits_used: float | None = None,
        told: bool = False,
        done: bool = False,
        deadline: float | None = None,
    ) -> AsyncGenerator[Split, None]:
        """Yield the split as it is first seen and at every change, the terminal state last.

        Args:
            split_id: which one.
            priority: the lane its looks wait in; an interactive waiter pulls a bulk one along.
            since: when it was created (monotonic seconds), or `None` to look at once.
            credits_used: its price, from which its processing time is predicted.
            told: whether its end will be announced with `wake`: then looks are only made in case that gets lost.
            done: whether its end was announced before anybody waited: then it is looked at at once.
            deadline: when the caller will give up (monotonic seconds): a look is made before, announced or not.

        Raises:
            AIStemSplitterError: an answer that waiting cannot improve: 401, 404, an undecodable reply.
        """
        watch = self._watches.get(split_id)
        if watch is None:
            watch = self._begin(split_id, priority, since)
            self._plan.add(
                split_id,
                since=watch.since,
                credits_used=credits_used,
                lane=Lane.of(priority),
                look_at=watch.since if since is None else None,
                told=told,
            )
            if done:
                self._plan.wake(split_id)
        if deadline is not None:
            self._plan.note_deadline(split_id, now=self._pipeline.clock.monotonic(), deadline=deadline)
        self._join(watch, priority)
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

    def wake(self, split_id: str) -> bool:
        """Look at a split at once, ahead of the others of its lane: a webhook says that it is done.

        Returns whether somebody waits for it.
        """
        watch = self._watches.get(split_id)
        if watch is None or watch.over:
            return False
        self._plan.wake(split_id)
        self._pipeline.gate.pump()
        self._tell_planned(split_id)
        return True

    def typical(self) -> float | None:
        """Return the median processing time in seconds as far as known, `None` while nothing is."""
        return self._plan.model.typical()

    async def aclose(self) -> None:
        """Stop looking; whoever still waits is told that the client is closed."""
        self._closed = True
        if self._attached:
            self._pipeline.gate.detach(self)
            self._attached = False
        for watch in self._watches.values():
            if not watch.over:
                watch.failure = ConfigurationError("the client was closed while this split was waited for")
            watch.changed.set()
        for look in self._looks:
            look.cancel()
        if self._looks:
            await asyncio.wait(self._looks)

    def best(self, now: float, after: Order | None = None) -> Order | None:
        """Return the order of the split to look at, of those behind `after`."""
        first = next((lane for lane in Lane if after is None or Order(lane, Rank.POLL) > after), None)
        entry = self._plan.best(now, self._pipeline.gate.budget(), first) if first is not None else None
        if entry is None:
            return None
        order = Order(entry.lane, Rank.POLL)
        self._chosen[order] = entry
        return order

    def next_change(self, now: float) -> float:  # noqa: ARG002  # the plan was just asked
        """Return when the next split is due."""
        return self._plan.next_due()

    def grant(self, order: Order, slot: Slot) -> None:
        """Look at the split that `best` just spoke of."""
        entry = self._chosen.pop(order)
        self._plan.note_looking(entry)
        watch = self._watches[entry.split_id]
        look = asyncio.get_running_loop().create_task(self._look(watch, slot), name=f"look at {watch.split_id}")
        self._looks.add(look)
        look.add_done_callback(self._looks.discard)
        look.add_done_callback(lambda _: slot.restore())  # where it was cancelled before it used the slot

    def _begin(self, split_id: str, priority: Priority, since: float | None) -> _Watch:
        if self._closed:
            raise ConfigurationError("this client is closed; make a new one")
        if not self._attached:
            self._pipeline.gate.attach(self)
            self._attached = True
        watch = _Watch(split_id, priority, self._pipeline.clock.monotonic() if since is None else since)
        self._watches[split_id] = watch
        return watch

    def _join(self, watch: _Watch, priority: Priority) -> None:
        if priority == "interactive" and watch.priority == "bulk":
            watch.priority = priority
            self._plan.raise_lane(watch.split_id)
        watch.waiters += 1
        self._pipeline.gate.pump()
        self._tell_planned(watch.split_id)

    def _leave(self, watch: _Watch) -> None:
        watch.waiters -= 1
        if not watch.waiters:
            del self._watches[watch.split_id]  # a look under way finds that out
            self._plan.remove(watch.split_id)
            self._pipeline.gate.pump()

    async def _look(self, watch: _Watch, slot: Slot) -> None:
        pipeline = self._pipeline
        looked_at = pipeline.clock.monotonic()
        again_in = None  # seconds, where the look brought nothing
        status: str | None = None
        try:
            operation = operations.get_split(self._base_url, watch.split_id)
            split = await pipeline.send(operation, priority=watch.priority, slot=slot)
            watch.failures, status = 0, split.status
            self._note(watch, split)
        except AIStemSplitterError as error:
            if _passes(error):
                asked = error.retry_after if isinstance(error, APIStatusError) else None
                # Each look was retried already; an outage is not met with more and more of them.
                again_in = max(self._policy.first * min(_MOST_PATIENT, 2.0**watch.failures), asked or 0.0)
                watch.failures += 1
            else:
                error.split_id = watch.split_id
                watch.failure = error
        except Exception as error:  # noqa: BLE001  # whatever it is, it must reach the waiters and not vanish in a task
            watch.failure = error
        finally:
            watch.changed.set()
            watch.changed = asyncio.Event()
        pipeline.emit(lambda: PollMade(split_id=watch.split_id, status=status, at=looked_at))
        if self._watches.get(watch.split_id) is watch:
            self._plan_on(watch, looked_at, again_in)
            pipeline.gate.pump()
            self._tell_planned(watch.split_id)

    def _tell_planned(self, split_id: str) -> None:
        """Tell when the split is to be looked at, unless that is happening already."""
        entry, at = self._plan.find(split_id), self._pipeline.clock.monotonic()
        if entry is not None and not entry.looking:
            self._pipeline.emit(lambda: PollPlanned(split_id=split_id, due_in=max(0.0, entry.due - at), at=at))

    def _plan_on(self, watch: _Watch, looked_at: float, again_in: float | None) -> None:
        """Tell the plan what the look brought."""
        if again_in is not None:
            self._plan.note_nothing(watch.split_id, look_at=self._pipeline.clock.monotonic() + again_in)
        elif not watch.over:
            created = watch.last.created_at.timestamp() if watch.last is not None else math.inf
            age = max(0.0, self._pipeline.clock.now() - created)
            self._plan.note_running(watch.split_id, looked_at=looked_at, age=age)
        elif watch.last is not None and watch.last.is_terminal:
            seconds = (watch.last.updated_at - watch.last.created_at).total_seconds()
            self._plan.note_done(watch.split_id, seconds, looked_at=looked_at)
        else:
            self._plan.remove(watch.split_id)

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
