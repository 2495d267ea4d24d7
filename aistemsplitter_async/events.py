"""What `on_event` is told: frozen values, made only when somebody listens. Times are monotonic seconds."""

from __future__ import annotations

from collections.abc import Callable

import attrs


@attrs.frozen(kw_only=True)
class RequestSent:
    """An attempt was answered (`status`) or broke (`status` is `None`); `duration` in seconds, gate not included."""

    stage: str
    status: int | None
    duration: float
    at: float


@attrs.frozen(kw_only=True)
class RetryPlanned:
    """An attempt failed and will be made again in `delay` seconds; `reason` is fit for a log line."""

    stage: str
    delay: float
    reason: str
    at: float


@attrs.frozen(kw_only=True)
class Throttled:
    """An attempt was answered 429, which said to wait `retry_after` seconds, or not how long (`None`).

    A `RetryPlanned` follows if the call goes on, and for the API a `GateClosed` goes before.
    """

    stage: str
    retry_after: float | None
    at: float


@attrs.frozen(kw_only=True)
class GateClosed:
    """The server said 429: nothing is sent for this key for `duration` seconds.

    A gate that several clients share tells only its own `on_event` about itself.
    """

    duration: float
    at: float


@attrs.frozen(kw_only=True)
class GateOpened:
    """A 429 is over: one request asks whether the others may follow. It is told when there is something to send."""

    at: float


@attrs.frozen(kw_only=True)
class LimitLearned:
    """The key's limit is believed to be `new` requests per window and no more `old` (`None`: unknown)."""

    old: int | None
    new: int | None
    at: float


@attrs.frozen(kw_only=True)
class PollPlanned:
    """A split is to be looked at `due_in` seconds from now, by what is known now: the plan moves with the budget."""

    split_id: str
    due_in: float
    at: float


@attrs.frozen(kw_only=True)
class PollMade:
    """A look at a split found it in `status`, or brought no answer (`None`)."""

    split_id: str
    status: str | None
    at: float


@attrs.frozen(kw_only=True)
class SplitCreated:
    """A create succeeded and its credits are charged. `idempotency_key` is the one it was made under."""

    split_id: str
    idempotency_key: str
    credits_used: float
    at: float


Event = (
    RequestSent
    | RetryPlanned
    | Throttled
    | GateClosed
    | GateOpened
    | LimitLearned
    | PollPlanned
    | PollMade
    | SplitCreated
)
OnEvent = Callable[[Event], None]
