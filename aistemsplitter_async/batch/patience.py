"""How a batch meets trouble that passes: it pauses rather than fails.

While something is down, one track at a time finds out whether it is back, each time another one; the others wait for
what it learns. So an outage of ten minutes costs a look every half minute, whatever the size of the batch, and when it
is over everybody goes on at once; and a track whose trouble is its own stops nobody else.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from typing import TypeVar

from aistemsplitter_async.clock import Clock, Random
from aistemsplitter_async.config import PARK
from aistemsplitter_async.errors import (
    AIStemSplitterError,
    APIConnectionError,
    DownloadError,
    IncompleteDownloadError,
    JournalError,
    ProtocolError,
    RateLimitedError,
    ServerError,
    SubmissionUncertainError,
)

T = TypeVar("T")

_FIRST = 1.0  # s before the first look whether it is back
_LONGEST = 30.0  # s between two such looks
_ROUNDS = 3  # failures of one track between which others got through: then it is the track's own trouble
_REQUEST_TIMEOUT = 408
_SERVER_ERROR = 500
_TOO_MANY = 429
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def is_disk_full(error: BaseException) -> bool:
    """Return whether the disk has no room left."""
    if isinstance(error, JournalError):
        return error.code == "DISK"
    cause = error.__cause__
    return isinstance(error, DownloadError) and isinstance(cause, OSError) and cause.errno in _FULL


def is_passing(error: AIStemSplitterError) -> bool:
    """Return whether `error` is of the kind that is over after a while; each was retried already."""
    if isinstance(error, APIConnectionError):
        return not error.permanent
    if isinstance(error, SubmissionUncertainError):
        status = error.status_code  # a refusal of a replay stays one
        return status is None or status in (_REQUEST_TIMEOUT, _TOO_MANY) or status < 400 or status >= _SERVER_ERROR  # noqa: PLR2004
    passing = isinstance(error, ServerError | RateLimitedError | ProtocolError | IncompleteDownloadError)
    return passing or error.status_code == _REQUEST_TIMEOUT or is_disk_full(error)


class Patience:
    """Stands between a stage's tracks and its trouble.

    Args:
        clock: where time comes from.
        random: uniform in [0, 1), for jitter.
        give_up: called with the error when it did not pass within `longest`; the batch stops.
        places: how many may try at a time, if that is bounded. Who fails gives its place to the next.
        longest: seconds of trouble that are waited out; with 0 there is no patience, and each track fails by itself.

    Attributes:
        trouble: what holds everybody up now.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        random: Random,
        give_up: Callable[[AIStemSplitterError], None],
        places: int | None = None,
        longest: float = PARK,
    ) -> None:
        self.trouble: AIStemSplitterError | None = None
        self._clock = clock
        self._random = random
        self._give_up = give_up
        self._places = nullcontext() if places is None else asyncio.Semaphore(places)
        self._turn = (
            asyncio.Lock()
        )  # of finding out whether the trouble is over; who failed goes to the end of the line
        self._over = asyncio.Event()  # nobody has to wait
        self._over.set()
        self._given_up = False
        self._longest = longest
        self._since = 0.0  # monotonic seconds when the trouble began
        self._again_at = 0.0
        self._looks = 0  # that found the trouble still there
        self._successes = 0
        self._enduring = 0  # who would find out that the trouble is over

    @property
    def notice(self) -> str | None:
        """What to tell whoever watches, if there is trouble."""
        if self.trouble is None:
            return None
        left = max(0.0, self._again_at - self._clock.monotonic())
        return f"paused: {self.trouble} (trying again in {left:.0f} s)"

    async def endure(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Return the result of `attempt`, which is made again until trouble that passes has passed.

        Raises:
            AIStemSplitterError: what `attempt` raised, if it does not pass, or is this track's alone.
        """
        self._enduring += 1
        try:
            return await self._endure(attempt)
        finally:
            self._enduring -= 1
            if not self._enduring:  # the last one left, perhaps cancelled: nobody waits for what nobody looks after
                self.trouble = None
                self._over.set()

    async def _endure(self, attempt: Callable[[], Awaitable[T]]) -> T:
        alone, successes = 0, self._successes
        while True:
            try:
                async with self._places:
                    result = await self._attempt_in_turn(attempt)
            except AIStemSplitterError as error:
                if not is_passing(error):
                    self._note_answer()
                    raise
                alone += self._successes > successes
                successes = self._successes
                if alone >= _ROUNDS or not self._note_trouble(error):
                    raise
            else:
                self._note_answer()
                return result

    async def wait_until_over(self) -> None:
        """Wait until there is no trouble; somebody else finds out."""
        await self._over.wait()

    async def _attempt_in_turn(self, attempt: Callable[[], Awaitable[T]]) -> T:
        while not self._over.is_set():
            async with self._turn:
                if not await self._is_over_in_time():
                    self._looks += 1
                    self._again_at = self._clock.monotonic() + self._plan_wait()  # the next one's turn, come what may
                    break
        return await attempt()

    async def _is_over_in_time(self) -> bool:
        """Return whether the trouble is over before it is time to find out."""
        with suppress(TimeoutError):
            async with self._clock.timeout_at(self._again_at):
                await self._over.wait()
        return self._over.is_set()

    def _plan_wait(self) -> float:
        return min(_LONGEST, _FIRST * 2.0 ** min(self._looks, 10)) * (0.75 + 0.25 * self._random())

    def _note_answer(self) -> None:
        self._successes += 1
        if not self._given_up:
            self.trouble = None
            self._over.set()

    def _note_trouble(self, error: AIStemSplitterError) -> bool:
        """Return whether it is worth waiting for the end of it."""
        if not self._longest:
            return False
        now = self._clock.monotonic()
        if self.trouble is None:
            self._since, self._looks = now, 0
            self._again_at = now + self._plan_wait()
        if isinstance(error, RateLimitedError) and error.retry_after is not None:
            self._again_at = max(self._again_at, now + error.retry_after)
        self.trouble = error
        too_long = max(now, self._again_at) - self._since > self._longest and not is_disk_full(
            error
        )  # that waits for its owner
        if self._given_up or too_long:
            self._given_up = True
            self._over.set()  # everybody finds out for themselves
            self._give_up(error)
            return False
        self._over.clear()
        return True
