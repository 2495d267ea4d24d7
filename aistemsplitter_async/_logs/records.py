"""The log record of each event: which logger writes it, at which level, with which words and fields."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import attrs

from aistemsplitter_async.events import (
    AttemptStarted,
    BatchFinished,
    BatchStarted,
    BoughtBefore,
    CreateAbandoned,
    Event,
    GateClosed,
    GateOpened,
    GateUnreachable,
    LimitLearned,
    MixMade,
    PollMade,
    PollPlanned,
    RequestSent,
    RetryPlanned,
    SlotGranted,
    SplitCreated,
    SplitFinished,
    SplitStarted,
    StageFinished,
    StageStarted,
    Throttled,
    TransferFinished,
)
from aistemsplitter_async.models import Submission

ROOT = "aistemsplitter_async"
CHILDREN = ("http", "gate", "poll", "transfer", "split", "batch", "journal", "webhooks", "sandbox")
DEBUG, INFO, WARNING = logging.DEBUG, logging.INFO, logging.WARNING

E = TypeVar("E", bound=Event)
_TOO_MANY_REQUESTS = 429
_NOT_LOGGED = frozenset({"type", "submission", "at"})  # the body of a create, and a time that no other clock has


@attrs.frozen
class Line:
    """A record to be logged: `message % args`, and the fields of the event as `extra`."""

    child: str
    level: int
    message: str
    args: tuple[object, ...]
    extra: Mapping[str, Any]


Words = tuple[str, tuple[object, ...]]


@attrs.frozen
class Kind:
    """How events of one class are logged.

    Attributes:
        child: the logger, below that of the package.
        level: the highest that such an event has.
        write: returns the message and its arguments.
        lower: returns the level of an event, if that is not always the same.
    """

    child: str
    level: int
    write: Callable[[Any], Words]
    lower: Callable[[Any], int] | None = None


def describe(event: Event) -> Line:
    """Return the record of an event, in which nothing grants access: neither a key nor the query of a URL."""
    kind, plain = KINDS[type(event)], event.to_dict()
    fields = {name: value for name, value in plain.items() if name not in _NOT_LOGGED}
    texts: dict[str, Any] = {name: value for name, value in fields.items() if isinstance(value, str)}
    fields["event_type"] = plain["type"]  # not `event`: that is what structlog calls the message
    if isinstance(event, CreateAbandoned):
        fields["idempotency_key"] = key = plain["submission"]["idempotency_key"]
        texts["submission"] = Submission(key, b"")
    shown: Any = event
    message, args = kind.write(attrs.evolve(shown, **texts))  # in its texts, too
    level = kind.level if kind.lower is None else kind.lower(event)
    return Line(kind.child, level, message, args, fields)


def _subject(event: AttemptStarted | RequestSent | RetryPlanned | SlotGranted | Throttled | TransferFinished) -> str:
    return " ".join(filter(None, (event.operation, event.stem, event.split_id)))


def _failure(event: BatchFinished | RequestSent | StageFinished | SplitFinished | TransferFinished) -> str:
    return "" if event.error is None else f", {event.error}{f' ({event.code})' if event.code else ''}"


def _attempt_started(event: AttemptStarted) -> Words:
    return "%s: attempt %d, %s to %s", (_subject(event), event.attempt, event.method, event.url)


def _request_sent(event: RequestSent) -> Words:
    took, answer = event.duration * 1000, "no answer" if event.status is None else f"HTTP {event.status}"
    id_ = f", request id {event.request_id}" if event.request_id else ""
    message = "%s: %s from %s in %.0f ms (attempt %d%s)%s"
    return message, (_subject(event), answer, event.url, took, event.attempt, id_, _failure(event))


def _retry_planned(event: RetryPlanned) -> Words:
    return "%s: trying again in %.1f s, after attempt %d: %s", (
        _subject(event),
        event.delay,
        event.attempt,
        event.reason,
    )


def _throttled(event: Throttled) -> Words:
    asked = "does not say for how long" if event.retry_after is None else f"asks for {event.retry_after:.0f} s"
    return "%s: HTTP 429, too many requests; the server %s", (_subject(event), asked)


def _slot_granted(event: SlotGranted) -> Words:
    limit = "unknown" if event.limit is None else event.limit
    message = "%s: a slot after %.1f s; %d used, limit %s per %g s, %d waiting"
    return message, (_subject(event), event.seconds, event.used, limit, event.per, event.waiting)


def _limit_learned(event: LimitLearned) -> Words:
    old, new = ("unknown" if limit is None else limit for limit in (event.old, event.new))
    return "the key's limit: %s requests per window (before: %s)", (new, old)


def _poll_made(event: PollMade) -> Words:
    return "%s: %s", (event.split_id, event.status or "the poll failed")


def _transfer_finished(event: TransferFinished) -> Words:
    message = "%s: %d bytes in %.1f s (attempts: %d, resumed from %d)%s"
    subject = f"{_subject(event)} {event.source}" if event.source else _subject(event)
    return message, (subject, event.bytes, event.seconds, event.attempt, event.resumed_from, _failure(event))


def _mix_made(event: MixMade) -> Words:
    return "%s %s: mixed in %.1f s, gain %.2f dB", (event.split_id, event.mix, event.seconds, event.gain_db)


def _split_created(event: SplitCreated) -> Words:
    price = "at a price not told" if event.credits_used is None else f"for {event.credits_used:g} credits"
    subject = f"{event.source} ({event.split_id})" if event.source else event.split_id
    return "%s: created %s, under idempotency key %s", (subject, price, event.idempotency_key)


def _split_finished(event: SplitFinished) -> Words:
    source, split_id = event.source, f" ({event.split_id})" if event.split_id else ""
    return "%s%s: %s after %.1f s%s", (source, split_id, event.outcome, event.seconds, _failure(event))


def _batch_finished(event: BatchFinished) -> Words:
    message = "the batch ended after %.1f s: %d done, %d failed, %d skipped%s"
    return message, (event.seconds, event.done, event.failed, event.skipped, _failure(event))


def _stage_finished(event: StageFinished) -> Words:
    return "%s: %.1f s%s", (_stage(event), event.seconds, _failure(event))


def _stage(event: StageStarted | StageFinished) -> str:
    return " ".join(filter(None, (event.stage, event.split_id)))


def _create_abandoned(event: CreateAbandoned) -> Words:
    message = "the create under idempotency key %s was given up, and may have happened: %s"
    return message, (event.submission.idempotency_key, event.reason)


def _bought_before(event: BoughtBefore) -> Words:
    message = "%s was bought before, as %s, and is bought again as %s"
    return message, (event.source, event.delivered or "unknown", event.asked or "the service chooses")


KINDS: Mapping[type[Event], Kind] = {
    AttemptStarted: Kind("http", DEBUG, _attempt_started),
    RequestSent: Kind("http", DEBUG, _request_sent),
    RetryPlanned: Kind(  # of a 429, there is a warning already
        "http", WARNING, _retry_planned, lambda event: INFO if event.status == _TOO_MANY_REQUESTS else WARNING
    ),
    Throttled: Kind("http", WARNING, _throttled),
    SlotGranted: Kind("gate", DEBUG, _slot_granted),
    GateClosed: Kind("gate", INFO, lambda event: ("nothing is sent for this key for %.1f s", (event.duration,))),
    GateOpened: Kind("gate", INFO, lambda _: ("requests are sent again for this key", ())),
    GateUnreachable: Kind("gate", WARNING, lambda event: ("%s", (event.reason,))),
    LimitLearned: Kind("gate", INFO, _limit_learned),
    PollPlanned: Kind("poll", DEBUG, lambda event: ("%s: next poll in %.1f s", (event.split_id, event.due_in))),
    PollMade: Kind("poll", DEBUG, _poll_made),
    TransferFinished: Kind("transfer", DEBUG, _transfer_finished),
    MixMade: Kind("transfer", DEBUG, _mix_made),
    SplitStarted: Kind("split", DEBUG, lambda event: ("%s: started", (event.source,))),
    StageStarted: Kind("split", DEBUG, lambda event: ("%s: started", (_stage(event),))),
    StageFinished: Kind("split", DEBUG, _stage_finished),
    SplitCreated: Kind("split", INFO, _split_created),
    SplitFinished: Kind(
        "split", WARNING, _split_finished, lambda event: WARNING if event.outcome == "failed" else INFO
    ),
    CreateAbandoned: Kind("split", WARNING, _create_abandoned),
    BatchStarted: Kind("batch", DEBUG, lambda _: ("the batch began", ())),
    BatchFinished: Kind("batch", INFO, _batch_finished),
    BoughtBefore: Kind("batch", WARNING, _bought_before),
}


def parse_levels(text: str) -> dict[str, int]:
    """Return the level of each logger named in text such as `info,http=debug`; that of the package is called ``.

    Raises:
        ValueError: it is not such a list; the message says what is.
    """
    levels: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        child, _, name = part.rpartition("=")
        level = _LEVELS.get(name.strip().lower())
        if level is None:
            raise ValueError(f"{name.strip()[:50]!r} is no level; use one of {', '.join(_LEVELS)}")
        if child.strip() not in ("", *CHILDREN):
            raise ValueError(f"{child.strip()[:50]!r} is no logger; use one of {', '.join(CHILDREN)}")
        levels[child.strip()] = level
    return levels


_LEVELS = {"debug": DEBUG, "info": INFO, "warning": WARNING, "error": logging.ERROR, "off": logging.CRITICAL + 1}
