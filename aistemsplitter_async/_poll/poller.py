"""Polls running splits, as a source of requests for the gate: when a slot comes free, the plan says which to poll.

Any number of waiters for one split share its polls, which run in the context of the one that has waited longest: a poll
is set off by whatever call comes by, and must not carry that call's context variables (of tracing, of logging).

A service that does not answer never ends a wait; it ends with a terminal status, at the waiter's own deadline, or with
a reply that no later poll improves: for replies that may pass, such as a 404 right after the create, that is known
after a while (`_send.reactions`).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable
from contextvars import Context, copy_context
from copy import copy

import attrs

from aistemsplitter_async._gate.lanes import Lane, Order, Priority, Rank
from aistemsplitter_async._gate.slot import Slot
from aistemsplitter_async._logs.loggers import Log
from aistemsplitter_async._poll.entry import PlanEntry
from aistemsplitter_async._poll.plan import PollPlan
from aistemsplitter_async._send.attempt import Call
from aistemsplitter_async._send.cause import Failures
from aistemsplitter_async._send.pipeline import Pipeline
from aistemsplitter_async._send.retry import Streak
from aistemsplitter_async._tasks import cancel_and_wait
from aistemsplitter_async._wire import operations
from aistemsplitter_async._wire.messages import Stage
from aistemsplitter_async.config import LONGEST_CLOSED, PollPolicy
from aistemsplitter_async.errors import AIStemSplitterError, APIStatusError, ConfigurationError, ProtocolError
from aistemsplitter_async.events import PollMade, PollPlanned
from aistemsplitter_async.models import Split

_log = Log("webhooks")
_BACKOFF_CAP = 30.0  # times the first wait: the longest time between two failed polls
_ASK_EVERY = 30.0  # s between two polls of another split that only find out whether polls are answered


@attrs.define(eq=False)
class _Watch:
    """One split that is waited for."""

    split_id: str
    priority: Priority
    since: float  # monotonic seconds
    waiters: dict[object, Context] = attrs.field(factory=dict[object, Context])  # in the order in which they came
    last: Split | None = None
    failure: Exception | None = None
    is_known: bool = False  # that it exists: its create was seen, a poll found it, or an event named it
    of_many: bool = False  # and so no reason to wait for hours, if it alone is not answered
    failures: int = 0  # polls in a row without an answer
    cause: Failures | None = None  # of these
    streak: Streak | None = None  # of answers that may pass
    changed: asyncio.Event = attrs.field(factory=asyncio.Event)

    def build_context(self) -> Context:
        """Return a copy of the context of the call that has waited longest."""
        return next(iter(self.waiters.values())).copy()

    def fail(self, failure: Exception) -> None:
        self.failure = failure
        self.note_change()

    def note_change(self) -> None:
        """Wake those who wait."""
        self.changed.set()
        self.changed = asyncio.Event()

    @property
    def over(self) -> bool:
        return self.failure is not None or (self.last is not None and self.last.is_terminal)


class Poller:
    """The waiting stage of one client.

    Args:
        pipeline: sends the polls.
        base_url: of the API.
        policy: when to poll.
    """

    def __init__(self, pipeline: Pipeline, base_url: str, policy: PollPolicy) -> None:
        self._pipeline = pipeline
        self._base_url = base_url
        self._watches: dict[str, _Watch] = {}
        self._policy = policy
        self._plan = PollPlan(policy, random=pipeline.random)
        self._chosen: dict[Order, PlanEntry] = {}  # the last results of `best`
        self._polls: set[asyncio.Task[None]] = set()
        self._answers = 0  # polls
        self._answered: str | None = None  # the split of the newest
        self._asked_at = -math.inf  # about it, once more (monotonic seconds)
        self._attached = False
        self._closed = False

    async def updates(
        self,
        split_id: str,
        *,
        priority: Priority,
        since: float | None = None,
        credits_used: float | None = None,
        expects_event: bool = False,
        done: bool = False,
        deadline: float | None = None,
        of_many: bool = False,
    ) -> AsyncGenerator[Split, None]:
        """Yield the split's first known state and every change, the terminal state last.

        Args:
            split_id: the split to poll.
            priority: the lane its polls wait in; an interactive waiter moves the polls of bulk waiters to its lane.
            since: when it was created (monotonic seconds), or `None` to poll at once.
            credits_used: its price, from which its processing time is predicted.
            expects_event: whether a webhook event should call `wake` when it is done; it is polled only in case the
                event gets lost.
            done: whether such an event came before this call; it is polled at once.
            deadline: when the caller stops waiting (monotonic seconds); it is polled shortly before in any case.
            of_many: whether the wait also ends if nothing but its polls fails for minutes (`_send.cause`).

        Raises:
            AIStemSplitterError: a reply that waiting does not improve: a refused key at once; others, such as a 404 or
                one that cannot be decoded, if they go on for longer than such things take to pass.
        """
        watch = self._watches.get(split_id)
        if watch is None:
            watch = self._begin(split_id, priority, since)
            watch.of_many = of_many
            self._plan.add(
                split_id,
                since=watch.since,
                credits_used=credits_used,
                lane=Lane.of(priority),
                poll_at=watch.since if since is None else None,
                expects_event=expects_event,
            )
            if done:
                self._plan.wake(split_id)
        watch.of_many = watch.of_many and of_many
        watch.is_known = watch.is_known or since is not None or expects_event or done
        if deadline is not None:
            self._plan.note_deadline(split_id, now=self._pipeline.clock.monotonic(), deadline=deadline)
        waiter = object()
        watch.waiters[waiter] = copy_context()
        self._join(watch, priority)
        seen = None
        try:
            while True:
                if watch.last is not None and watch.last != seen:
                    seen = watch.last
                    yield seen
                    continue  # it may have changed again while the caller handled this state
                if watch.failure is not None:
                    raise _own(watch.failure)
                if watch.over:
                    return
                await watch.changed.wait()
        finally:
            self._leave(watch, waiter)

    def wake(self, split_id: str) -> None:
        """Poll a split at once, ahead of the others in its lane, if it is waited for: an event says that it is done."""
        watch = self._watches.get(split_id)
        if watch is not None and not watch.over:
            self._plan.wake(split_id)
            self._pipeline.gate.pump()
            watch.build_context().run(self._emit_planned, split_id)

    def typical(self) -> float | None:
        """Return the median processing time in seconds, `None` while nothing is known about it."""
        return self._plan.model.typical()

    async def aclose(self) -> None:
        """Stop polling. Every wait that is still running raises a `ConfigurationError`."""
        self._closed = True
        if self._attached:
            self._pipeline.gate.detach(self)
            self._attached = False
        for watch in self._watches.values():
            if not watch.over:
                watch.fail(ConfigurationError("the client was closed during the wait for this split"))
        await cancel_and_wait(*self._polls)

    def best(self, now: float, after: Order | None = None) -> Order | None:
        """Return the order of the split to poll first, of those behind `after`."""
        first = next((lane for lane in Lane if after is None or Order(lane, Rank.POLL) > after), None)
        entry = self._plan.best(now, self._pipeline.gate.budget(), first) if first is not None else None
        if entry is None:
            return None
        order = Order(entry.lane, Rank.POLL)
        self._chosen[order] = entry
        return order

    def alike(self, order: Order, now: float) -> int:
        """Return how many splits of a lane are due, perhaps too few of them."""
        return self._plan.count_due(now, order.lane) if order.rank is Rank.POLL else 0

    def next_change(self, now: float) -> float:  # noqa: ARG002  # `best` has just been called with it
        """Return when the next split is due."""
        return self._plan.next_due()

    def grant(self, order: Order, slot: Slot) -> None:
        """Poll the split that `best` returned for this order."""
        entry = self._chosen.pop(order)
        self._plan.note_polling(entry)
        watch = self._watches[entry.split_id]
        poll = asyncio.get_running_loop().create_task(
            self._poll(watch, slot), name=f"poll split {watch.split_id}", context=watch.build_context()
        )
        self._polls.add(poll)
        poll.add_done_callback(self._polls.discard)
        poll.add_done_callback(lambda _: slot.restore())  # in case it was cancelled before it used the slot

    def refuse(self, build: Callable[[], Exception]) -> None:
        """End every wait: no poll will be made."""
        for watch in self._watches.values():
            if not watch.over:
                watch.fail(build())
                self._plan.remove(watch.split_id)

    def _begin(self, split_id: str, priority: Priority, since: float | None) -> _Watch:
        if self._closed:
            raise ConfigurationError("this client is closed; create a new one")
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
        self._pipeline.gate.pump()
        self._emit_planned(watch.split_id)

    def _leave(self, watch: _Watch, waiter: object) -> None:
        del watch.waiters[waiter]
        if not watch.waiters:
            del self._watches[watch.split_id]  # a poll on its way checks for that
            self._plan.remove(watch.split_id)
            self._pipeline.gate.pump()

    async def _poll(self, watch: _Watch, slot: Slot) -> None:
        pipeline = self._pipeline
        polled_at = pipeline.clock.monotonic()
        retry_in = None  # seconds, after a failed poll
        status: str | None = None
        try:
            operation = operations.get_split(self._base_url, watch.split_id)
            split = await pipeline.send(operation, priority=watch.priority, slot=slot)
            status = split.status
            self._note_state(watch, split)
        except AIStemSplitterError as error:
            retry_in = None if await self._is_about_split(watch, error) else self._plan_retry(watch, error)
            if retry_in is None:
                error.split_id = watch.split_id
                watch.failure = error
            else:
                pipeline.hold_up(Call("get_split", Stage.GET, watch.split_id), retry_in, error)
        except Exception as error:  # noqa: BLE001  # any error must reach the waiters instead of vanishing in a task
            watch.failure = error
        finally:
            watch.note_change()
        pipeline.emit(PollMade, lambda: PollMade(split_id=watch.split_id, status=status, at=polled_at))
        if self._watches.get(watch.split_id) is watch:
            self._plan_next(watch, polled_at, retry_in)
            pipeline.gate.pump()
            self._emit_planned(watch.split_id)

    def _emit_planned(self, split_id: str) -> None:
        """Emit when the split will be polled, unless a poll is on its way."""
        entry, at = self._plan.find(split_id), self._pipeline.clock.monotonic()
        if entry is not None and not entry.polling:
            due_in = max(0.0, entry.due - at)
            self._pipeline.emit(PollPlanned, lambda: PollPlanned(split_id=split_id, due_in=due_in, at=at))

    def _plan_next(self, watch: _Watch, polled_at: float, retry_in: float | None) -> None:
        """Give the result of a poll to the plan."""
        if retry_in is not None:
            self._plan.note_no_answer(watch.split_id, poll_at=self._pipeline.clock.monotonic() + retry_in)
        elif not watch.over:
            created = watch.last.created_at if watch.last is not None else None
            age = 0.0 if created is None else max(0.0, self._pipeline.clock.now() - created.timestamp())
            self._plan.note_running(watch.split_id, polled_at=polled_at, age=age)
        elif watch.last is not None and watch.last.is_terminal:
            if self._plan.has_lost_event(watch.split_id, polled_at):
                what = "no webhook came for %s, which is %s: it was polled; is its URL reachable, and its inbox shared?"
                _log.warning(what, watch.split_id, watch.last.status, split_id=watch.split_id)
            seconds = watch.last.processing_seconds
            self._plan.note_done(watch.split_id, 0.0 if seconds is None else seconds, polled_at=polled_at)
        else:
            self._plan.remove(watch.split_id)

    def _plan_retry(self, watch: _Watch, error: AIStemSplitterError) -> float | None:
        """Return the seconds until a failed poll is repeated, `None` if that would not help.

        Each poll was retried already; more of them at once would only add to an outage.
        """
        asked = min(error.retry_after or 0.0, LONGEST_CLOSED) if isinstance(error, APIStatusError) else 0.0
        longest = self._pipeline.wait_time(error, is_known=watch.is_known)
        if math.isinf(longest):
            retry_in = max(self._policy.first * min(_BACKOFF_CAP, 2.0**watch.failures), asked)
            watch.failures, watch.streak = watch.failures + 1, None
            return retry_in
        streak = watch.streak or Streak(since=self._pipeline.clock.monotonic())
        watch.streak = attrs.evolve(streak, pauses=streak.pauses + 1)
        return self._pipeline.plan_pause(streak, longest=longest, asked=asked)

    async def _is_about_split(self, watch: _Watch, error: AIStemSplitterError) -> bool:
        """Return whether the polls of this split have failed for so long, though others do not, that it is given up."""
        endless = math.isinf(self._pipeline.wait_time(error, is_known=watch.is_known))
        if not (watch.of_many and endless):
            watch.cause = None
            return False
        now = self._pipeline.clock.monotonic()
        cause = watch.cause = watch.cause or Failures(origin_known=True, successes=0, answers=self._answers)
        cause.note(error, now, successes=0, answers=self._answers)
        if cause.needs_answer(error, now) and now >= self._asked_at + _ASK_EVERY and await self._are_answered(watch):
            cause.note_answer(error, self._answers)
        return cause.is_track(now)

    async def _are_answered(self, watch: _Watch) -> bool:
        """Return whether the poll of a split that was answered before is still answered."""
        pipeline, known = self._pipeline, self._answered
        if known in (None, watch.split_id):
            return False
        self._asked_at = pipeline.clock.monotonic()
        operation = operations.get_split(self._base_url, known)
        try:
            await pipeline.exchange(operation, await pipeline.admit(operation, watch.priority))
        except Exception:  # noqa: BLE001  # whatever it was, it was no answer, and this wait goes on
            return False
        return True

    def _note_state(self, watch: _Watch, split: Split) -> None:
        watch.is_known = True
        if split.status == "succeeded" and not split.stems:
            raise ProtocolError(f"split {split.id} succeeded, but has no stems")  # which may come a little later
        watch.last = split
        watch.failures, watch.streak, watch.cause = 0, None, None
        self._answers, self._answered = self._answers + 1, split.id


def _own(failure: Exception) -> Exception:
    """Return a waiter's own error: what one of them adds to it is not for the others."""
    if not isinstance(failure, AIStemSplitterError):
        return failure
    own = copy(failure)
    own.__cause__ = failure.__cause__
    return own
