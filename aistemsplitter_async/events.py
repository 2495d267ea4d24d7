"""The arguments of `on_event`: frozen values, made only if there is a callback. Times are monotonic seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import attrs

from aistemsplitter_async._plain import PlainValue
from aistemsplitter_async.models import Submission


class _Event(PlainValue):
    """An event goes to logs: its `to_dict()` has no URL that grants access."""

    __slots__ = ()
    _kind: ClassVar[bool] = True
    _shown: ClassVar[bool] = True


@attrs.frozen(kw_only=True)
class RequestSent(_Event):
    """An attempt was answered (`status`) or failed (`None`); `duration` in seconds, without waiting for the gate."""

    stage: str
    status: int | None
    duration: float
    at: float


@attrs.frozen(kw_only=True)
class RetryPlanned(_Event):
    """An attempt failed and will be repeated in `delay` seconds; `reason` is one line for a log.

    So will a poll that failed with all its attempts, and the download of stems that are not there yet.
    """

    stage: str
    delay: float
    reason: str
    at: float


@attrs.frozen(kw_only=True)
class Throttled(_Event):
    """An attempt was answered 429; `retry_after` is the reply's `Retry-After` in seconds, `None` without one.

    If the reply came from the API, a `GateClosed` precedes it. If the call is retried, a `RetryPlanned` follows.
    """

    stage: str
    retry_after: float | None
    at: float


@attrs.frozen(kw_only=True)
class GateClosed(_Event):
    """The server answered 429: nothing is sent for this key for `duration` seconds.

    A gate that several clients share reports this and the next two events only to its own `on_event`.
    """

    duration: float
    at: float


@attrs.frozen(kw_only=True)
class GateOpened(_Event):
    """The wait after a 429 is over: one request is sent alone, and if it is accepted the others follow.

    Emitted only when there is something to send.
    """

    at: float


@attrs.frozen(kw_only=True)
class LimitLearned(_Event):
    """The estimate of the key's limit changed from `old` to `new` requests per window (`None`: unknown)."""

    old: int | None
    new: int | None
    at: float


@attrs.frozen(kw_only=True)
class PollPlanned(_Event):
    """The next poll of a split is planned in `due_in` seconds. The plan changes with the request budget."""

    split_id: str
    due_in: float
    at: float


@attrs.frozen(kw_only=True)
class PollMade(_Event):
    """A split was polled and has this `status`, or the poll failed (`None`)."""

    split_id: str
    status: str | None
    at: float


@attrs.frozen(kw_only=True)
class SplitCreated(_Event):
    """A create succeeded and its credits are charged (`None`: the server did not say how many).

    `idempotency_key` is the key it was sent with.
    """

    split_id: str
    idempotency_key: str
    credits_used: float | None
    at: float


@attrs.frozen(kw_only=True)
class CreateAbandoned(_Event):
    """A create was given up, by an error or a cancellation, although it may have happened and may be charged.

    `client.resubmit(submission)` finds out, without charging twice; so store it, key and bytes. The error raised to the
    caller carries it too, but a cancelled caller may not look at it. A batch with a journal resends by itself.
    """

    submission: Submission
    reason: str
    at: float


@attrs.frozen(kw_only=True)
class BoughtBefore(_Event):
    """A batch is about to buy a song that was bought before and was not delivered as what is asked for now.

    `delivered` and `asked` are a stem model and an output format with `/` between them, empty where the service chose
    or it is not known. `split_id` is the earlier split, `None` if it has none.
    """

    source: str
    split_id: str | None
    delivered: str
    asked: str
    at: float


@attrs.frozen(kw_only=True)
class MixMade(_Event):
    """A mix of a split's stems was made and has its final name, after `duration` seconds of work.

    `mix` is its name, `stems` are those that it is the sum of, and `gain_db` is what kept their sum from clipping: 0,
    or less if the mix is that many decibels quieter than the sum.
    """

    split_id: str
    mix: str
    stems: tuple[str, ...]
    gain_db: float
    duration: float
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
    | CreateAbandoned
    | BoughtBefore
    | MixMade
)
OnEvent = Callable[[Event], None]
