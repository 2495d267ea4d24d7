"""Decides whether the cause of a track's failures is the service or the track, from what else succeeded meanwhile.

An outage fails everybody; what fails one track alone, however often, while the service answers others, is about that
track. Both look the same at first, so a track is given time: less if the same work of other tracks succeeds, more if
all that is known is that the service answers something else.
"""

from __future__ import annotations

import attrs

from aistemsplitter_async.errors import AIStemSplitterError, APIConnectionError, RateLimitedError

_ROUNDS = 3  # failures, each after a success that an outage would not have allowed
_FAILURES = 5  # in all, before successes of other work count: a part of the service may be down for a moment
_ALONE = 300.0  # s since the first failure, likewise; creates may be down for a while though polls are answered
_GATEWAY = frozenset({408, 425, 429, 502, 503, 504})  # what stands before a service that is down, or busy, answers


@attrs.define
class Failures:
    """The failures of one track at one kind of work, one after the other.

    Attributes:
        origin_known: whether successes of other work came from the origin that this work is sent to. Otherwise they say
            nothing about it, unless it answers this track itself: always the same, and as no gateway would.
        successes: of other tracks at this work, when it was last looked.
        answers: of the service to any work, when it was last looked.
        suspect: whether it ended like this in an earlier run: then it is given less time.
    """

    origin_known: bool
    successes: int
    answers: int
    suspect: bool = False
    _first: float | None = None  # monotonic seconds
    _count: int = 0
    _beside: int = 0  # after other tracks succeeded
    _answered: int = 0  # after the service answered something else
    _kind: tuple[type[AIStemSplitterError], int | None] | None = None

    def note(self, error: AIStemSplitterError, now: float, *, successes: int, answers: int) -> None:
        """Record a failure at `now` (monotonic seconds)."""
        kind = type(error), error.status_code
        if self._kind not in (None, kind) and not self.origin_known:
            self._first, self._count, self._answered = None, 0, 0
        self._kind = kind
        self._first = now if self._first is None else self._first
        self._count += 1
        self._beside += successes > self.successes
        self._answered += answers > self.answers and self._may_concern_track(error)
        self.successes, self.answers = successes, answers

    def note_answer(self, error: AIStemSplitterError, answers: int) -> None:
        """Record that the service, asked after `error`, answers something else."""
        self._answered += self._may_concern_track(error)
        self.answers = answers

    def is_track_beside_others(self) -> bool:
        """Return whether the same work of other tracks succeeded so often that the cause is the track."""
        return self._beside >= _ROUNDS

    def is_track(self, now: float) -> bool:
        """Return whether the service answered other work for so long that the cause is the track."""
        return self._is_suspect(now) and self._answered >= _ROUNDS

    def needs_answer(self, error: AIStemSplitterError, now: float) -> bool:
        """Return whether to send the service another kind of request, because no other caller has done so lately."""
        return self._is_suspect(now) and self._answered < _ROUNDS and self._may_concern_track(error)

    def _is_suspect(self, now: float) -> bool:
        return self.suspect or (self._first is not None and now - self._first >= _ALONE and self._count >= _FAILURES)

    def _may_concern_track(self, error: AIStemSplitterError) -> bool:
        if isinstance(error, RateLimitedError):
            return False
        return self.origin_known or not (isinstance(error, APIConnectionError) or error.status_code in _GATEWAY)
