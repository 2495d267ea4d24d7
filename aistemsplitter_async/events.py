"""The arguments of `on_event`: frozen values, made only if there is a callback. Times are monotonic seconds.

A listener is called in the context (`contextvars`) of the call that caused the event, whatever task it came up in. What
begins and ends (an attempt, a stage, a split) does both in one context, so a listener may keep there what it opened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar, Literal

import attrs

from aistemsplitter_async._plain import PlainValue
from aistemsplitter_async.models import Submission


class _Event(PlainValue):
    """An event goes to logs: its `to_dict()` has no URL that grants access."""

    __slots__ = ()
    _kind: ClassVar[bool] = True
    _shown: ClassVar[bool] = True


@attrs.frozen(kw_only=True)
class _CallEvent(_Event):
    """An event of one call.

    Attributes:
        stage: the step that the call belongs to: `credits`, `reserve`, `upload`, `create`, `get` or `download`.
        operation: the call, by the API's name: `get_credits`, `create_upload`, `upload`, `create_split`, `get_split` or
            `download_stem`.
        attempt: the number of the call's newest attempt, from 1.
        split_id: the split that it is about, if there is one.
        stem: the name of the stem, for a download.
    """

    stage: str
    operation: str = ""
    attempt: int = 1
    split_id: str | None = None
    stem: str | None = None


@attrs.frozen(kw_only=True)
class SlotGranted(_CallEvent):
    """The gate let an API request go, after `seconds` of waiting (0 for a poll, which is chosen when a slot is free).

    `used` of the `limit` (`None`: unknown) in a window of `per` seconds are in use, this one included, and `waiting`
    calls wait.
    """

    seconds: float
    used: int
    limit: int | None
    per: float
    waiting: int
    at: float


@attrs.frozen(kw_only=True)
class AttemptStarted(_CallEvent):
    """A request is about to be sent; a `RequestSent` with the same `at` tells what came of it.

    `url` is where it goes: of the API the address without query, of others only scheme and host, since their paths may
    grant access. `gate_wait` is how many seconds it waited at the gate.
    """

    method: str
    url: str
    gate_wait: float = 0.0
    at: float


@attrs.frozen(kw_only=True)
class RequestSent(_CallEvent):
    """An attempt was answered (`status`) or failed (`None`); `duration` in seconds, without waiting for the gate.

    Attributes:
        request_id: the server's id of the request, if it sent one.
        method: of HTTP.
        url: where it went, as in `AttemptStarted`.
        bytes_sent: of the body, as far as they were handed over.
        bytes_received: of the reply's body.
        gate_wait: seconds that it waited at the gate before.
        error: the class of the error that it ended in, if it did: one of `errors`, or `CancelledError`.
        code: the error's code, such as `RATE_LIMITED`.
    """

    status: int | None
    duration: float
    request_id: str | None = None
    method: str = ""
    url: str = ""
    bytes_sent: int = 0
    bytes_received: int = 0
    gate_wait: float = 0.0
    error: str | None = None
    code: str | None = None
    at: float


@attrs.frozen(kw_only=True)
class RetryPlanned(_CallEvent):
    """An attempt failed and will be repeated in `delay` seconds; `reason` is one line for a log.

    So will a poll that failed with all its attempts, and the download of stems that are not there yet.
    `error`, `code`, `status` and `request_id` are those of the failure.
    """

    delay: float
    reason: str
    error: str | None = None
    code: str | None = None
    status: int | None = None
    request_id: str | None = None
    at: float


@attrs.frozen(kw_only=True)
class Throttled(_CallEvent):
    """An attempt was answered 429; `retry_after` is the reply's `Retry-After` in seconds, `None` without one.

    If the reply came from the API, a `GateClosed` precedes it. If the call is retried, a `RetryPlanned` follows.
    """

    retry_after: float | None
    request_id: str | None = None
    at: float


@attrs.frozen(kw_only=True)
class TransferFinished(_CallEvent):
    """An upload, or the download of a stem, has ended after `attempt` attempts.

    Attributes:
        source: the file name of what was uploaded.
        bytes: of the body, moved in all attempts together.
        resumed_from: how many bytes of a stem were there before the first attempt.
        seconds: from the first attempt to the end, pauses included.
        error: the class of the error that it ended in, if it did.
        code: the error's code.
    """

    source: str | None = None
    bytes: int
    resumed_from: int = 0
    seconds: float
    error: str | None = None
    code: str | None = None
    at: float


StageOfSplit = Literal["prepare", "upload", "create", "wait", "download", "mix"]


@attrs.frozen(kw_only=True)
class BatchStarted(_Event):
    """The block of a batch is entered. A `BatchFinished` follows in any case."""

    at: float


@attrs.frozen(kw_only=True)
class BatchFinished(_Event):
    """The block of a batch has been left.

    Attributes:
        done: how many sources are split.
        failed: how many failed.
        skipped: how many needed nothing, or were not begun.
        seconds: from the start.
        error: the class of the exception that left the block, if one did.
        code: its code.
    """

    done: int
    failed: int
    skipped: int
    seconds: float
    error: str | None = None
    code: str | None = None
    at: float


SourceKind = Literal["file", "bytes", "stream", "url"]


@attrs.frozen(kw_only=True)
class SplitStarted(_Event):
    """`client.split`, or a batch, begins to work on `source` (its name). A `SplitFinished` follows in any case.

    Attributes:
        source: its name.
        kind: what it is; a file object is a `stream`.
        stem_model: as asked for, `None` where the service chooses.
        output_format: likewise.
    """

    source: str
    kind: SourceKind
    stem_model: str | None = None
    output_format: str | None = None
    at: float


@attrs.frozen(kw_only=True)
class SplitFinished(_Event):
    """`client.split`, or a batch, has ended its work on `source`.

    Attributes:
        source: its name.
        outcome: `done`, `failed`, `skipped` (a batch had nothing to do, or stopped first) or `cancelled`.
        split_id: the split, if there is one.
        credits_used: what it cost, if that is known.
        seconds: from the start.
        stages: the seconds in each stage that there was; the rest was waiting for a place among others, or a pause.
        error: the class of the error, if it failed.
        code: the error's code.
        reason: the error's message.
    """

    source: str
    outcome: Literal["done", "failed", "skipped", "cancelled"]
    split_id: str | None = None
    credits_used: float | None = None
    seconds: float
    stages: Mapping[str, float]
    error: str | None = None
    code: str | None = None
    reason: str | None = None
    at: float


@attrs.frozen(kw_only=True)
class StageStarted(_Event):
    """A stage of a split begins, in whichever call; a `StageFinished` follows in any case.

    `prepare` reads the source and checks the target, and only `client.split` and batches have it. A batch repeats a
    stage after a pause.
    """

    stage: StageOfSplit
    split_id: str | None = None
    at: float


@attrs.frozen(kw_only=True)
class StageFinished(_Event):
    """A stage has ended after `seconds`; `error` is the class of the error that ended it, if one did, `code` its code.

    `split_id` is the split, once there is one.
    """

    stage: StageOfSplit
    split_id: str | None = None
    seconds: float
    error: str | None = None
    code: str | None = None
    at: float


@attrs.frozen(kw_only=True)
class GateClosed(_Event):
    """The server answered 429: nothing is sent for this key for `duration` seconds.

    A gate that several clients share reports this and the next three events only to its own `on_event`.
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
class GateUnreachable(_Event):
    """The store of a shared gate has not answered for a second: nothing is sent until it does. `reason` says why.

    Emitted once for each time it does not answer. `GateSnapshot.trouble` tells whether it still does not.
    """

    reason: str
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

    `idempotency_key` is the key it was sent with. `source` is the song's name, if `client.split` or a batch created it.
    """

    split_id: str
    source: str | None = None
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
    """A mix of a split's stems was made and has its final name, after `seconds` of work.

    `mix` is its name, `stems` are those that it is the sum of, and `gain_db` is what kept their sum from clipping: 0,
    or less if the mix is that many decibels quieter than the sum.
    """

    split_id: str
    mix: str
    stems: tuple[str, ...]
    gain_db: float
    seconds: float
    at: float


Event = (
    AttemptStarted
    | RequestSent
    | RetryPlanned
    | Throttled
    | SlotGranted
    | GateClosed
    | GateOpened
    | GateUnreachable
    | LimitLearned
    | PollPlanned
    | PollMade
    | TransferFinished
    | BatchStarted
    | SplitStarted
    | StageStarted
    | SplitCreated
    | StageFinished
    | SplitFinished
    | BatchFinished
    | CreateAbandoned
    | BoughtBefore
    | MixMade
)
OnEvent = Callable[[Event], None]
