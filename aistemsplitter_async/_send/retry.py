"""Decides when a failed attempt is followed by another one. What its failure means is in `reactions`.

The pipeline executes what is decided here. Time is passed in as `now` (monotonic seconds), chance as `random`
(uniform in [0, 1)).
"""

from __future__ import annotations

import math

import attrs

from aistemsplitter_async._send.reactions import Action, action_for, is_ambiguous
from aistemsplitter_async._wire.messages import Stage
from aistemsplitter_async.clock import Random
from aistemsplitter_async.config import CONFLICT_WINDOW, LONGEST_CLOSED, MOST_PAUSES, RetryPolicy
from aistemsplitter_async.errors import AIStemSplitterError, APIStatusError


@attrs.frozen
class Streak:
    """Failures in a row that may pass: when the first of them came (monotonic seconds), and the pauses made since."""

    since: float
    pauses: int = 0


def plan_pause(
    policy: RetryPolicy, streak: Streak, *, longest: float, now: float, random: Random, asked: float | None = None
) -> float | None:
    """Return the seconds until the next try of what may pass, `None` if it has not passed in time.

    Args:
        policy: how the pauses grow.
        streak: the failures so far.
        longest: seconds from the first of them to the last try.
        now: monotonic seconds.
        random: uniform in [0, 1).
        asked: seconds that the server asked to wait.
    """
    left = streak.since + longest - now
    if left <= 0 or streak.pauses >= MOST_PAUSES:
        return None
    pause = min(policy.pause_cap, policy.pause * 2.0**streak.pauses) * (1 - 0.25 * random())
    return max(min(pause, left), asked or 0.0)


@attrs.frozen(kw_only=True)
class Attempts:
    """The attempts of one call so far."""

    failures: int = 0
    throttles: int = 0
    throttled: float = 0.0  # seconds waited after 429s
    conflict_since: float | None = None  # monotonic seconds of the first 409 or 423 to a create
    passing: Streak | None = None  # answers that may pass


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
    wrong_since: float | None = None,
) -> Retry | None:
    """Decide what follows `error`, the newest failure of a call at `stage`: another attempt, or none.

    `wrong_since` is when other calls began to get answers that may pass, and no others, if they did.
    """
    limit = policy.create_attempts if stage is Stage.CREATE else policy.attempts
    match action_for(stage, error):
        case Action.THROTTLE:
            return _plan_throttle(policy, attempts, error, random)
        case Action.OUTLAST if limit > 1:
            streak = attempts.passing or Streak(since=now if wrong_since is None else wrong_since)
            return _plan_outlasting(policy, stage, attempts, streak, error, now=now, random=random)
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


def _plan_outlasting(
    policy: RetryPolicy,
    stage: Stage,
    attempts: Attempts,
    streak: Streak,
    error: AIStemSplitterError,
    *,
    now: float,
    random: Random,
) -> Retry | None:
    longest = policy.passing_paid if stage is Stage.CREATE else policy.passing
    asked = _requested_delay(error, random)
    pause = plan_pause(policy, streak, longest=longest, now=now, random=random, asked=asked)
    if pause is None or _asks_too_much(policy, error):
        return None
    return Retry(pause, attrs.evolve(attempts, passing=attrs.evolve(streak, pauses=streak.pauses + 1)))


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
