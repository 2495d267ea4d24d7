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
class GateClosed:
    """The server said 429: nothing is sent for this key for `duration` seconds."""

    duration: float
    at: float


@attrs.frozen(kw_only=True)
class SplitCreated:
    """A create succeeded and its credits are charged. `idempotency_key` is the one it was made under."""

    split_id: str
    idempotency_key: str
    credits_used: float
    at: float


Event = RequestSent | RetryPlanned | GateClosed | SplitCreated
OnEvent = Callable[[Event], None]
