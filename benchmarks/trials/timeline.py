"""An event loop whose time moves only when nothing else can happen, and which counts its turns.

Sockets are real. A timer fires when no socket has anything to say, so that hours pass in milliseconds, and a position
in a run is a number of turns, which is the same in every replay. Threads are replaced by later turns for that reason.
"""

from __future__ import annotations

import asyncio
import os
import selectors
import time
from collections.abc import Callable
from typing import Any, TypeVar

import aiohttp.connector
import attrs

import aistemsplitter_async.batch.runner  # noqa: F401  # a first call loads it in a thread, which no loop here sees
from benchmarks.trials.watchdog import Watchdog

T = TypeVar("T")

_DEADLOCK = 0.25  # s (real) without an event and without a timer
_SPIN_TURNS = 3000  # without an event of a socket or time moving on
_MOST_TURNS = 15_000  # a trial takes up to two thousand
_TURNS_PER_SECOND = 15  # besides, per second (virtual) of an hour that it may be told to wait: a batch has a ticker
_START = 1000.0  # s (virtual): when a loop begins
_LONGEST = 5 * 3600.0  # s (virtual); each Retry-After may take an hour
EPOCH = 1_800_000_000.0  # POSIX seconds at which a trial begins


class HungError(BaseException):
    """The program under test waits for what never comes, or spins. Nothing in it may catch this."""


class _Selector(selectors.DefaultSelector):
    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.loop.note_turn()
        events = super().select(0)
        if events:
            self.loop.note_progress()
        if events or (timeout is not None and timeout <= 0):
            return events
        os.sched_yield()  # what was sent on this machine has arrived
        events = super().select(0 if timeout is not None else _DEADLOCK)
        if not events:
            self.loop.move_on(timeout)
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop of one run.

    Attributes:
        turns: how often it has looked for something to do.
        reports: what asyncio complained about: exceptions that nobody retrieved, tasks that were destroyed.
        in_thread: whether what happens now would happen in a thread.
        watchdog: watches the run, if there is one.

    Args:
        thread_seconds: what a call in a thread takes (virtual seconds).
    """

    def __init__(self, *, thread_seconds: float = 0.0) -> None:
        self.turns = 0
        self.reports: list[str] = []
        self.in_thread = False
        self.watchdog: Watchdog | None = None
        self._time = _START
        self._slept = 0.0
        self._still = 0
        self._hooks: dict[int, list[Callable[[], object]]] = {}
        self._thread_seconds = thread_seconds
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)
        self.set_exception_handler(self._report)

    def time(self) -> float:
        return self._time

    def at_turn(self, turn: int, hook: Callable[[], object]) -> None:
        """Call `hook` at that turn, counted from now."""
        self._hooks.setdefault(self.turns + max(1, turn), []).append(hook)

    def note_turn(self) -> None:
        self.turns += 1
        self._still += 1
        for hook in self._hooks.pop(self.turns, ()):
            self.call_soon(hook)
        if self._still > _SPIN_TURNS:
            raise HungError(f"it spins: {self._still} turns without anything happening")
        if self.turns > _MOST_TURNS + _TURNS_PER_SECOND * (self._time - _START):
            raise HungError(f"it goes on and on: {self.turns} turns")
        if self.watchdog is not None and self.watchdog.broken:
            raise HungError(self.watchdog.broken[0])

    def note_progress(self) -> None:
        self._still = 0

    def move_on(self, timeout: float | None) -> None:
        if timeout is None:
            raise HungError("everything waits, and nothing is due")
        if self.watchdog is not None:
            self.watchdog.move_on(self._time + timeout)
        self._time += timeout
        self._still = 0
        if self._time > _START + self._slept + _LONGEST:
            raise HungError("it takes more than five hours")

    def sleep(self, seconds: float) -> None:
        """Let time pass while the machine sleeps."""
        self._time += seconds
        self._slept += seconds

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        del executor
        future: asyncio.Future[T] = self.create_future()

        def work() -> None:  # even if nobody waits for it any more: a thread cannot be stopped
            self.in_thread = True
            try:
                result = func(*args)
            except BaseException as error:  # noqa: BLE001  # the future passes it on
                if not future.cancelled():
                    future.set_exception(error)
            else:
                if not future.cancelled():
                    future.set_result(result)
            finally:
                self.in_thread = False

        if self._thread_seconds:
            self.call_later(self._thread_seconds, work)
        else:
            self.call_soon(work)
        return future

    def _report(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.reports.append(f"{context.get('message')}: {context.get('exception')!r}")


class MachineClocks:
    """While it is entered, the clocks of the machine show that it has slept."""

    _NAMES = ("time", "monotonic", "clock_gettime")

    def __init__(self) -> None:
        self._slept = self._counted = 0.0
        self._real = {name: getattr(time, name) for name in self._NAMES}

    def sleep(self, seconds: float, *, monotonic: bool) -> None:
        """Let them go on by so much, the monotonic one only if it counts a sleep."""
        self._slept += seconds
        self._counted += seconds if monotonic else 0.0

    def __enter__(self) -> None:
        real = self._real
        shown: dict[str, Callable[..., float]] = {
            "time": lambda: real["time"]() + self._slept,
            "monotonic": lambda: real["monotonic"]() + self._counted,
            "clock_gettime": lambda clock: (
                real["clock_gettime"](clock) + (self._counted if clock == time.CLOCK_MONOTONIC else self._slept)
            ),
        }
        for name, function in shown.items():
            setattr(time, name, function)
        aiohttp.connector.monotonic = shown["monotonic"]  # type: ignore[attr-defined]  # where it was imported to

    def __exit__(self, *_: object) -> None:
        for name, function in self._real.items():
            setattr(time, name, function)
        aiohttp.connector.monotonic = self._real["monotonic"]  # type: ignore[attr-defined]


@attrs.define
class LoopClock:
    """The client's clock: the loop's time, and a wall clock that jumps at given calls.

    Attributes:
        jumps: seconds to jump by, by the number of the call of `now`.
        offset: POSIX seconds at the loop's time 0.
    """

    loop: VirtualLoop
    jumps: dict[int, float] = attrs.field(factory=dict[int, float])
    offset: float = EPOCH
    _calls: int = 0

    def monotonic(self) -> float:
        return self.loop.time()

    def now(self) -> float:
        self.offset += self.jumps.get(self._calls, 0.0)
        self._calls += 1
        return self.offset + self.loop.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))

    def timeout_at(self, deadline: float | None) -> asyncio.Timeout:
        return asyncio.timeout_at(deadline)
