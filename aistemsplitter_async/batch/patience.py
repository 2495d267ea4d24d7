"""Waits out an outage: the batch pauses rather than fails.

While something is down, one track at a time probes whether it is back, each time another one; the others wait for its
result. So an outage of ten minutes costs a request every half minute, whatever the size of the batch, and when it is
over all tracks continue at once; and a track that fails while the service is well for others stops no other
(`_send.cause`).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from typing import TypeVar

import attrs

from aistemsplitter_async._files import FULL
from aistemsplitter_async._logs.loggers import Log
from aistemsplitter_async._send.cause import Failures
from aistemsplitter_async._send.reactions import is_outage
from aistemsplitter_async.clock import Clock, Random
from aistemsplitter_async.config import LONGEST_CLOSED, PARK
from aistemsplitter_async.errors import (
    GATE_UNREACHABLE,
    AIStemSplitterError,
    APIConnectionError,
    APIStatusError,
    AuthenticationError,
    DownloadError,
    InsufficientCreditsError,
    JournalError,
    SubmissionUncertainError,
)
from aistemsplitter_async.journal.record import SAME_SPLIT
from aistemsplitter_async.journal.tables import DOWN

_log = Log("batch")
T = TypeVar("T")

_FIRST = 1.0  # s before the first probe
_LONGEST = 30.0  # s between two probes
_MINUTE = 60.0


def is_storage_out(error: BaseException) -> bool:
    """Return whether the disk has no room left, or the database of a shared journal cannot be used."""
    if isinstance(error, JournalError):
        return error.code in ("DISK", DOWN)
    cause = error.__cause__
    return isinstance(error, DownloadError) and isinstance(cause, OSError) and cause.errno in FULL


def is_transient(error: AIStemSplitterError) -> bool:
    """Return whether the cause of `error` may end by itself; each was retried already."""
    if isinstance(error, SubmissionUncertainError) and error.status_code is None:
        return error.code != SAME_SPLIT  # the same create would be answered in the same way
    return is_outage(error) or is_storage_out(error)


def concerns_all(error: AIStemSplitterError) -> bool:
    """Return whether every source fails alike, so that a batch stops: the key, the account or the gate's store refuses.

    A gateway's page (`is_outage`) is not one of these, whatever it says.
    """
    if error.code == GATE_UNREACHABLE:
        return isinstance(error, APIConnectionError) and error.permanent
    return isinstance(error, AuthenticationError | InsufficientCreditsError) and not is_outage(error)


@attrs.frozen
class SignsOfLife:
    """Tells whether the service is well, whatever becomes of one kind of work.

    Attributes:
        answers: how many requests it has answered so far.
        ask: sends it one request; whether that was answered.
        same_origin: whether the work is sent to the origin that answers these.
    """

    answers: Callable[[], int]
    ask: Callable[[], Awaitable[bool]]
    same_origin: bool


class Patience:
    """Waits out the outages of one kind of work, for all tracks that do it.

    Args:
        clock: where time comes from.
        random: uniform in [0, 1), for jitter.
        on_give_up: called with the error when an outage lasted longer than `longest`; the batch stops.
        concurrency: how many tracks may try at a time, if that is bounded. A track that fails lets the next one try.
        longest: seconds an outage is waited out; with 0 there is no waiting, and each track fails on its own.
        signs: of the service's life; without any, only other tracks that succeed at the same work show it.

    Attributes:
        outage: the error that pauses all tracks now, if any.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        random: Random,
        on_give_up: Callable[[AIStemSplitterError], None],
        concurrency: int | None = None,
        longest: float = PARK,
        signs: SignsOfLife | None = None,
    ) -> None:
        self.outage: AIStemSplitterError | None = None
        self._clock = clock
        self._random = random
        self._on_give_up = on_give_up
        self._concurrency = nullcontext() if concurrency is None else asyncio.Semaphore(concurrency)
        self._probing = asyncio.Lock()  # a track whose probe failed goes to the end of its queue
        self._over = asyncio.Event()  # set while no track has to wait
        self._over.set()
        self._given_up = False
        self._longest = longest
        self._signs = signs
        self._since = 0.0  # monotonic seconds when the outage began
        self._probe_at = 0.0
        self._probes = 0  # failed ones in this outage
        self._successes = 0
        self._active = 0  # tracks that may find out that the outage is over

    @property
    def notice(self) -> str | None:
        """The text to show during an outage."""
        if self.outage is None:
            return None
        now = self._clock.monotonic()
        left = self._probe_at - now
        soon = f"trying again in {math.ceil(left)} s" if left > 0 else "trying again"
        return f"paused for {_in_words(now - self._since)}, {soon}: {self.outage}"

    async def retry_through_outage(self, attempt: Callable[[], Awaitable[T]], *, suspect: bool = False) -> T:
        """Return the result of `attempt`, which is repeated until an outage is over.

        Args:
            attempt: the work of one track.
            suspect: whether it failed in an earlier run so that the cause may be the track.

        Raises:
            AIStemSplitterError: what `attempt` raised, if it is not transient, or concerns this track alone.
        """
        self._active += 1
        try:
            return await self._retry(attempt, suspect=suspect)
        finally:
            self._active -= 1
            if not self._active:  # the last one left, perhaps cancelled: without probes nothing would end the outage
                self.outage = None
                self._over.set()

    async def _retry(self, attempt: Callable[[], Awaitable[T]], *, suspect: bool) -> T:
        signs = self._signs
        failures = Failures(
            origin_known=signs is not None and signs.same_origin,
            successes=self._successes,
            answers=self._answers(),
            suspect=suspect,
        )
        while True:
            try:
                async with self._concurrency:
                    result = await self._attempt_in_turn(attempt)
            except AIStemSplitterError as error:
                if not is_transient(error):
                    self._note_answer()
                    raise
                now = self._clock.monotonic()
                failures.note(error, now, successes=self._successes, answers=self._answers())
                is_about_track = failures.is_track_beside_others() and not isinstance(error, JournalError)
                if is_about_track or not self._note_outage(error):
                    raise
                if signs is None or is_storage_out(error):  # that says nothing about the track
                    continue
                if failures.needs_answer(error, now) and await signs.ask():
                    failures.note_answer(error, self._answers())
                if failures.is_track(now):
                    raise
            else:
                self._note_answer()
                return result

    def _answers(self) -> int:
        return 0 if self._signs is None else self._signs.answers()

    async def wait_until_over(self) -> None:
        """Wait until there is no outage, without probing."""
        await self._over.wait()

    async def _attempt_in_turn(self, attempt: Callable[[], Awaitable[T]]) -> T:
        while not self._over.is_set():
            async with self._probing:
                if not await self._is_over_in_time():
                    self._probes += 1
                    self._probe_at = self._clock.monotonic() + self._plan_wait()  # the next one probes in any case
                    break
        return await attempt()

    async def _is_over_in_time(self) -> bool:
        """Return whether the outage is over before it is time to probe."""
        with suppress(TimeoutError):
            async with self._clock.timeout_at(self._probe_at):
                await self._over.wait()
        return self._over.is_set()

    def _plan_wait(self) -> float:
        return min(_LONGEST, _FIRST * 2.0 ** min(self._probes, 10)) * (0.75 + 0.25 * self._random())

    def _note_answer(self) -> None:
        self._successes += 1
        if not self._given_up:
            self.outage = None
            self._over.set()

    def _note_outage(self, error: AIStemSplitterError) -> bool:
        """Note that `error` shows an outage; return whether to wait for its end."""
        if not self._longest:
            return False
        now = self._clock.monotonic()
        if self.outage is None:
            self._since, self._probes = now, 0
            self._probe_at = now + self._plan_wait()
            _log.warning(
                "the batch pauses, and tries again in %.0f s: %s", self._probe_at - now, error, code=error.code
            )
        if isinstance(error, APIStatusError | SubmissionUncertainError) and error.retry_after is not None:
            self._probe_at = max(self._probe_at, now + min(error.retry_after, LONGEST_CLOSED))
        self.outage = error
        began = self._since if self._probes else now  # tracks that were under way when it began get their answers later
        takes_too_long = max(now, self._probe_at) > began + self._longest
        if self._given_up or (takes_too_long and not is_storage_out(error)):  # that needs a person
            self._given_up = True
            self._over.set()  # each track finds out on its own
            self._on_give_up(error)
            return False
        self._over.clear()
        return True


def _in_words(seconds: float) -> str:
    return f"{int(seconds)} s" if seconds < _MINUTE else f"{seconds // _MINUTE:.0f} min"
