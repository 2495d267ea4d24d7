"""What the user got to know in one run, and what the run left behind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import attrs

from aistemsplitter_async import Job
from aistemsplitter_async.models import Submission

_DEPTH = 7  # what is deeper, nobody finds


@attrs.define
class Seen:
    """What the user got to know in one run, and what the run left behind.

    Attributes:
        outcomes: of a batch.
        results: returned by single calls.
        streams: what was handed over of stems, by their names.
        whole: those that ended.
        errors: raised by the call.
        heard: events, and the submissions that `before_send` stored.
        gate: what `before_send` or the iterable of sources raised: the caller gets that.
        left: tasks and descriptors that outlived the client, and complaints of asyncio.
        logs: what was logged.
        hung: why the run never ended.
        turns: of the loop.
        creates: that reached the service.
        took: seconds (virtual) of the call.
        ended: seconds of the loop when it had ended.
        again: what came of making it again: an error, or nothing.
        answered: the requests as the service noted them.
        swallowed: requests sent on dead connections.
        on_loop: files that were synced by the event loop itself.
        written: bytes written to files.
        stopped_by: of a batch.
        asleep: seconds of the loop at which the machine fell asleep.
    """

    outcomes: list[Any] = attrs.field(factory=list[Any])
    results: list[Any] = attrs.field(factory=list[Any])
    streams: dict[str, bytearray] = attrs.field(factory=dict[str, bytearray])
    whole: list[str] = attrs.field(factory=list[str])
    errors: list[BaseException] = attrs.field(factory=list[BaseException])
    heard: list[Any] = attrs.field(factory=list[Any])
    gate: list[BaseException] = attrs.field(factory=list[BaseException])
    left: list[str] = attrs.field(factory=list[str])
    logs: list[str] = attrs.field(factory=list[str])
    hung: str = ""
    turns: int = 0
    creates: int = 0
    took: float = 0.0
    ended: float = 0.0
    again: list[BaseException | None] = attrs.field(factory=list[BaseException | None])
    answered: list[Any] = attrs.field(factory=list[Any])
    swallowed: int = 0
    on_loop: list[str] = attrs.field(factory=list[str])
    written: int = 0
    stopped_by: BaseException | None = None
    asleep: float | None = None

    def known(self) -> set[str | Submission]:
        """Return every text and every submission in what was seen."""
        found: set[str | Submission] = set()
        for value in (*self.outcomes, *self.results, *self.errors, *self.heard):
            found.update(_leaves(value, 0))
        return found


def _leaves(value: Any, depth: int) -> Iterator[str | Submission]:
    if isinstance(value, str | Submission):
        yield value
    elif depth < _DEPTH:
        for inner in _parts(value):
            yield from _leaves(inner, depth + 1)


def _parts(value: Any) -> Iterable[Any]:
    """Return what a user finds in a value."""
    if isinstance(value, dict):
        return (*value.keys(), *value.values())
    if isinstance(value, list | tuple | set):
        return value
    if isinstance(value, BaseException):
        return (vars(value), value.args, value.__cause__, value.__context__)
    if isinstance(value, Job):
        return (value.id, value.idempotency_key)
    if attrs.has(type(value)):
        return (getattr(value, field.name) for field in attrs.fields(type(value)))
    return ()
