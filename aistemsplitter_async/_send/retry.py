"""Decides what follows a failed attempt: one table, one function.

The pipeline executes what is decided here. Time is passed in as `now` (monotonic seconds), chance as `random`
(uniform in [0, 1)).
"""

from __future__ import annotations

import math
from enum import Enum
from typing import Final

import attrs

from aistemsplitter_async._wire.messages import Stage
from aistemsplitter_async.clock import Random
from aistemsplitter_async.config import CONFLICT_WINDOW, LONGEST_CLOSED, RetryPolicy
from aistemsplitter_async.errors import (
    AIStemSplitterError,
    APIConnectionError,
    APIStatusError,
    ConfigurationError,
    IncompleteDownloadError,
    ProtocolError,
    UnsafeURLError,
)


class Action(Enum):
    """How to react to a kind of failure."""

    RETRY = "try again after the backoff"
    ONCE = "try again, but only once"
    CONFLICT = "try again for a while: another attempt of ours may still be at work"
    THROTTLE = "wait as long as the server asks, or as the window needs"
    RAISE = "raise it to the caller"
    RENEW = "raise it to the uploader, which takes a fresh reservation"
    REFRESH = "raise it to the downloader, which asks for fresh URLs"


_R, _1, _C, _T, _X, _N, _F = (
    Action.RETRY,
    Action.ONCE,
    Action.CONFLICT,
    Action.THROTTLE,
    Action.RAISE,
    Action.RENEW,
    Action.REFRESH,
)

# One row per kind of failure; the columns are what it means when reading or reserving, uploading, creating, polling
# and downloading.
_COLUMNS: Final = (Stage.RESERVE, Stage.UPLOAD, Stage.CREATE, Stage.GET, Stage.DOWNLOAD)
_TABLE: Final = {
    "permanent": (_X, _X, _X, _X, _X),
    "connection": (_R, _R, _R, _R, _R),
    "undecodable": (_1, _N, _R, _R, _R),
    "incomplete": (_X, _X, _X, _X, _R),
    "3xx": (_X, _X, _X, _X, _X),
    "401 403": (_X, _N, _X, _X, _F),
    "404 410": (_X, _N, _X, _X, _F),
    "408": (_R, _R, _R, _R, _R),
    "409 423": (_1, _N, _C, _1, _R),
    "429": (_T, _T, _T, _T, _T),
    "4xx": (_X, _N, _X, _X, _X),
    "5xx": (_R, _R, _R, _R, _R),
    "odd": (_X, _X, _X, _X, _X),
    "other": (_X, _X, _X, _X, _X),
}

# Failures of a create that are not ambiguous: the server refused it. For a connection, the error itself says it.
_REFUSALS: Final = frozenset({"401 403", "404 410", "429", "4xx"})


def classify(error: AIStemSplitterError) -> str:
    """Return the row of the table that `error` belongs to."""
    if isinstance(error, APIConnectionError):
        return "permanent" if error.permanent else "connection"
    if isinstance(error, IncompleteDownloadError):
        return "incomplete"
    if isinstance(error, APIStatusError) and error.status_code is not None:
        status = str(error.status_code)
        named = next((row for row in _TABLE if status in row.split()), None)
        by_hundreds = f"{error.status_code // 100}xx"
        return named or (by_hundreds if by_hundreds in _TABLE else "odd")
    return "undecodable" if isinstance(error, ProtocolError) else "other"


def action_for(stage: Stage, error: AIStemSplitterError) -> Action:
    """Return how to react to `error` at `stage`."""
    column = _COLUMNS.index(Stage.RESERVE if stage is Stage.CREDITS else stage)
    return _TABLE[classify(error)][column]


def is_ambiguous(error: AIStemSplitterError) -> bool:
    """Return whether a create that ended in `error` may have taken effect."""
    if isinstance(error, APIConnectionError):
        return error.may_have_arrived
    if isinstance(error, ConfigurationError | UnsafeURLError):  # raised before an attempt; of others that is not known
        return False
    return classify(error) not in _REFUSALS


@attrs.frozen(kw_only=True)
class Attempts:
    """The attempts of one call so far."""

    failures: int = 0
    throttles: int = 0
    throttled: float = 0.0  # seconds waited after 429s
    conflict_since: float | None = None  # monotonic seconds of the first 409 or 423 to a create


@attrs.frozen
class Retry:
    """Try again after `delay` seconds; `throttled` says that the server asked for it."""

    delay: float
    attempts: Attempts
    throttled: bool = False


@attrs.define
class Ambiguity:
    """Whether a create may have happened without an answer that says so. Only a 2xx settles that.

    The caller of a create holds it, so it outlives a cancellation. It is open from the start for a create that
    is sent again after an attempt that may have happened.
    """

    open: bool = False
    _before: bool = attrs.field(default=False, init=False)

    def note_sent(self) -> None:
        """Note that an attempt is being sent: until its answer is known, it may have happened."""
        self._before, self.open = self.open, True

    def note_failure(self, error: AIStemSplitterError) -> None:
        """Note how the attempt ended: a refusal is definite, but says nothing of the attempts before."""
        self.open = self._before or is_ambiguous(error)

    def note_success(self) -> None:
        """Note that the server said which split the create stands for."""
        self.open = False


def plan_retry(
    policy: RetryPolicy,
    stage: Stage,
    attempts: Attempts,
    error: AIStemSplitterError,
    *,
    now: float,
    random: Random,
) -> Retry | None:
    """Decide what follows `error`, the newest failure of a call at `stage`: another attempt, or none."""
    limit = policy.create_attempts if stage is Stage.CREATE else policy.attempts
    match action_for(stage, error):
        case Action.THROTTLE:
            return _plan_throttle(policy, attempts, error, random)
        case Action.ONCE if attempts.failures > 0:
            return None
        case Action.CONFLICT:
            # Counted from the first refusal: the call may have waited at the gate for longer than the window.
            since = now if attempts.conflict_since is None else attempts.conflict_since
            if now - since >= CONFLICT_WINDOW:
                return None
            attempts = attrs.evolve(attempts, conflict_since=since)
        case Action.RETRY | Action.ONCE:
            if attempts.failures + 1 >= limit:
                return None
        case _:
            return None
    if _asks_too_much(policy, error):
        return None
    ceiling = min(policy.backoff_cap, policy.backoff * 2.0 ** min(attempts.failures, 30))
    delay = max(random() * ceiling, _requested_delay(error, random) or 0.0)
    return Retry(delay, attrs.evolve(attempts, failures=attempts.failures + 1))


def _plan_throttle(policy: RetryPolicy, attempts: Attempts, error: AIStemSplitterError, random: Random) -> Retry | None:
    if attempts.throttles >= policy.throttle_waits or _asks_too_much(policy, error):
        return None
    ceiling = min(policy.throttle_cap, policy.throttle_backoff * 2.0 ** min(attempts.throttles, 30))
    delay = _requested_delay(error, random) or ceiling * (1 - 0.25 * random())
    if attempts.throttled + delay > policy.throttle_budget:
        return None
    waited = attrs.evolve(attempts, throttles=attempts.throttles + 1, throttled=attempts.throttled + delay)
    return Retry(delay, waited, throttled=True)


def _asks_too_much(policy: RetryPolicy, error: AIStemSplitterError) -> bool:
    """Return whether the server's Retry-After is longer than a call may wait: trying earlier would ignore it."""
    asked = error.retry_after if isinstance(error, APIStatusError) else None
    return asked is not None and asked > policy.retry_after_cap


def _requested_delay(error: AIStemSplitterError, random: Random) -> float | None:
    """Return the server's own Retry-After, if it sent one, up to an hour, plus up to a tenth (never less)."""
    asked = error.retry_after if isinstance(error, APIStatusError) else None
    return min(asked, LONGEST_CLOSED) * (1 + 0.1 * random()) if asked is not None else None


class RetryQuota:
    """A budget of retries shared by a client, so that an outage is not multiplied by every call's own retries.

    Botocore's standard mode has the same idea; this one also refills with time, so that a steady trickle of failures
    does not exhaust it.
    """

    def __init__(self, policy: RetryPolicy, *, now: float) -> None:
        self._policy = policy
        self._tokens = policy.quota
        self._at = now
        self._throttled_until = -math.inf

    def take(self, retry: Retry, *, now: float) -> bool:
        """Pay for `retry`, planned at `now`; return whether there was enough.

        A 429 is paid once for all the calls that it holds back: they wait at the gate and are sent one by one.
        """
        self._add((now - self._at) * self._policy.refill)
        self._at = now
        if retry.throttled and now < self._throttled_until:
            return True
        cost = self._policy.throttle_cost if retry.throttled else self._policy.failure_cost
        if cost > self._tokens:
            return False
        self._tokens -= cost
        if retry.throttled:
            self._throttled_until = now + retry.delay
        return True

    def succeed(self) -> None:
        """Return the tokens that a success earns."""
        self._add(self._policy.success_gain)

    def _add(self, tokens: float) -> None:
        self._tokens = min(self._policy.quota, self._tokens + tokens)
