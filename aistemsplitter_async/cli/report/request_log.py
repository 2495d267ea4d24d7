"""When requests were made: what a report draws against the limit."""

from __future__ import annotations

from collections import deque

import attrs

from aistemsplitter_async.events import Event, RequestSent

_HOST_STAGES = frozenset({"upload", "download"})  # what is not sent to the API counts against no limit
_MOST = 200_000  # requests kept: a day at 140 a minute


@attrs.frozen
class Sent:
    """One API request: when (monotonic seconds), which step of a split, and the answer's HTTP status, if one came."""

    at: float
    stage: str
    status: int | None


class RequestLog:
    """The API requests of one run.

    Attributes:
        total: how many there were.
        sent: the newest ones.
    """

    def __init__(self) -> None:
        self.total = 0
        self.sent: deque[Sent] = deque(maxlen=_MOST)

    def note(self, event: Event) -> None:
        """Take note of what happens."""
        if isinstance(event, RequestSent) and event.stage not in _HOST_STAGES:
            self.total += 1
            self.sent.append(Sent(event.at, event.stage, event.status))
