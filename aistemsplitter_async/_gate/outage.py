"""Whether the store of a shared gate answers, and what follows if it does not. Nothing is sent meanwhile."""

from __future__ import annotations

import math

from aistemsplitter_async._gate.store import StoreUnavailableError
from aistemsplitter_async.config import SHARED_AGAIN, SHARED_REFUSED
from aistemsplitter_async.errors import GATE_UNREACHABLE, APIConnectionError

_NOTICEABLE = 1.0  # s; what is over sooner needs no words
_FIRST_PAUSE = 0.05  # s after the first conversation that failed, doubled with each
_MOST_DOUBLINGS = 10


class Outage:
    """The conversations that had no answer, since the last one that had. Times are monotonic seconds.

    Args:
        patience: seconds that a call waits for an answer.

    Attributes:
        again_at: when to ask the store again; in the past: at once.
        is_told: whether a listener has heard of it.
    """

    def __init__(self, *, patience: float) -> None:
        self.again_at = -math.inf
        self.is_told = False
        self._patience = patience
        self._since: float | None = None  # when the first of them began
        self._failures = 0
        self._error: StoreUnavailableError | None = None

    @property
    def is_permanent(self) -> bool:
        """Whether asking again does not help."""
        return self._error is not None and self._error.permanent

    def note_question(self, now: float) -> None:
        """Note that a conversation begins."""
        self._since = now if self._since is None else self._since

    def note_answer(self) -> None:
        """Note that the store answers."""
        self.again_at = -math.inf
        self._since, self._failures, self._error = None, 0, None
        self.is_told = False

    def note_failure(self, error: StoreUnavailableError, now: float) -> None:
        """Note that a conversation had no answer."""
        self._error = error
        self._failures += 1
        pause = min(SHARED_AGAIN, _FIRST_PAUSE * 2.0 ** min(self._failures - 1, _MOST_DOUBLINGS))
        self.again_at = now + (SHARED_REFUSED if error.permanent else pause)

    def came_by(self, now: float) -> float:
        """Return when the calls came at the latest that have waited for long enough; -infinity if none has."""
        if self._since is None or now - self._since < self._patience:
            return -math.inf
        return now - self._patience

    def describe(self, now: float) -> str | None:
        """Return what is wrong, `None` if nothing is, or not for long enough to be told."""
        if self._since is None or (now - self._since < _NOTICEABLE and not self.is_permanent):
            return None
        return f"nothing is sent: the shared gate cannot be asked ({self._reason})"

    def build_error(self) -> APIConnectionError:
        """Return what a call fails with."""
        return APIConnectionError(
            f"the request was not sent: the shared gate cannot be asked ({self._reason})",
            may_have_arrived=False,
            permanent=self.is_permanent,
            code=GATE_UNREACHABLE,
        )

    @property
    def _reason(self) -> str:
        return "its store has not answered yet" if self._error is None else str(self._error)
