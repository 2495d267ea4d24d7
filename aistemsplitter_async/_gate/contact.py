"""The conversations with a store, which is other people's code: it may fail, hang, or answer with nonsense.

One that had no answer may have been heard all the same; `shared_state.step` takes that into account.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Any, TypeVar

import attrs

from aistemsplitter_async._gate.shared_state import Ask, Reply, step
from aistemsplitter_async._gate.store import GateStore, Stored, StoreUnavailableError
from aistemsplitter_async._sleep import Readings
from aistemsplitter_async._tasks import start_aside
from aistemsplitter_async.clock import Clock, Random
from aistemsplitter_async.config import RetryPolicy

T = TypeVar("T")

_KEEP = 35 * 86_400.0  # s that a text is of use: longer than the longest window, a month
_CONFLICT_PAUSE = 0.001  # s at most after the first conflict, doubled with each
_MOST_DOUBLINGS = 5
_LATENCY_SHARE = 0.2  # of the newest conversation in the smoothed latency


@attrs.frozen(kw_only=True)
class Heard:
    """What one conversation brought.

    Attributes:
        reply: the answer.
        text: what is kept since then, `None` if nothing had to be changed.
        asked: the machine's clocks before the store was asked for its time.
    """

    reply: Reply
    text: str | None
    asked: Readings


class Contact:
    """Talks to one store.

    Args:
        store: one of ours, or of another author.
        clock: where time comes from.
        read: returns the machine's clocks.
        retry: the backoff after a 429.
        lease: seconds that a process is trusted to live without being heard of.
        longest: seconds that one conversation may take.
        random: uniform in [0, 1).

    Attributes:
        latency: seconds that a conversation takes, smoothed.
    """

    def __init__(
        self,
        store: GateStore,
        *,
        clock: Clock,
        read: Callable[[], Readings],
        retry: RetryPolicy,
        lease: float,
        longest: float,
        random: Random,
    ) -> None:
        self.latency: float = 0.0
        self._store = store
        self._kind = type(store).__name__
        self._clock = clock
        self._read = read
        self._retry = retry
        self._lease = lease
        self._longest = longest
        self._random = random
        self._left: asyncio.Task[Any] | None = None  # a call that was given up, and does not end

    async def exchange(self, key: str, ask: Ask) -> Heard:
        """Say `ask`, and return what is answered.

        Raises:
            StoreUnavailableError: no answer, though it may have been heard. The message has no secrets.
        """
        began = self._clock.monotonic()
        heard = await self._call(partial(self._exchange, key, ask), self._longest)
        self.latency += _LATENCY_SHARE * (self._clock.monotonic() - began - self.latency)
        return heard

    async def aclose(self, longest: float) -> None:
        """Close the store, whatever it raises, in at most `longest` seconds."""
        with suppress(StoreUnavailableError):
            await self._call(self._close, longest)

    def start_over(self) -> None:
        """Forget what was under way in an event loop that is closed."""
        self._left = None

    async def _close(self) -> None:
        await self._store.aclose()

    async def _exchange(self, key: str, ask: Ask) -> Heard:
        for conflicts in count(1):
            asked = self._read()
            stored = self._check(await self._store.load(key))
            text, reply = step(stored, ask, retry=self._retry, lease=self._lease, random=self._random)
            if text is None:
                return Heard(reply=reply, text=None, asked=asked)
            is_kept = await self._store.swap(key, stored.version, text, _KEEP)
            if is_kept is True:
                return Heard(reply=reply, text=text, asked=asked)
            if is_kept is not False:
                raise self._nonsense("swap", is_kept)
            await self._clock.sleep(self._random() * _CONFLICT_PAUSE * 2.0 ** min(conflicts, _MOST_DOUBLINGS))
        raise AssertionError

    async def _call(self, work: Callable[[], Coroutine[Any, Any, T]], longest: float) -> T:
        """Return the result of `work`, in a task of its own, for it may not let itself be cancelled.

        Raises:
            StoreUnavailableError: it raised something, or took too long.
        """
        ends_at = self._clock.monotonic() + longest
        if self._left is not None and not await self._is_done(self._left, ends_at):
            raise StoreUnavailableError(f"{self._kind} does not answer, and does not let itself be cancelled")
        task = start_aside(work(), "ask a gate store")
        task.add_done_callback(_retrieve)
        try:
            await self._is_done(task, ends_at)
        finally:
            if not task.done() and not task.get_loop().is_closed():
                task.cancel()
                self._left = task
        if not task.done():
            raise StoreUnavailableError(f"{self._kind} does not answer within {longest:g} s")
        if task.cancelled():
            raise StoreUnavailableError(f"{self._kind} raised CancelledError")
        error = task.exception()
        if error is None:
            return task.result()
        if isinstance(error, StoreUnavailableError):
            raise error
        # Outside of it, and without its text: that is other people's, and may have a password.
        raise StoreUnavailableError(f"{self._kind} raised {type(error).__name__}") from None

    async def _is_done(self, task: asyncio.Task[Any], ends_at: float) -> bool:
        """Wait for the end of a task until `ends_at` (monotonic seconds), and return whether it has come."""
        with suppress(TimeoutError):
            async with self._clock.timeout_at(ends_at):
                await asyncio.wait([task])
        return task.done()

    def _check(self, stored: object) -> Stored:
        if not isinstance(stored, Stored):
            raise self._nonsense("load", stored)
        text, version, now = stored.text, stored.version, stored.now
        fits = isinstance(text, str | None) and isinstance(version, int) and isinstance(now, int | float)
        if not fits or isinstance(version, bool) or isinstance(now, bool) or not math.isfinite(now):
            raise self._nonsense("load", (text, version, now))
        return stored

    def _nonsense(self, what: str, value: object) -> StoreUnavailableError:
        kinds = [type(part).__name__ for part in value] if isinstance(value, tuple) else type(value).__name__
        return StoreUnavailableError(f"{what} of {self._kind} returned what it must not ({kinds})")


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Retrieve the exception, or asyncio logs that it was never retrieved."""
    if not task.cancelled():
        task.exception()
