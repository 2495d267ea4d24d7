"""When requests were made, for the chart of a report."""

from __future__ import annotations

from collections import deque

import attrs

from aistemsplitter_async.cli.screen.board import HOST_STAGES
from aistemsplitter_async.events import Event, RequestSent

_MOST = 200_000  # requests kept: a day at 140 a minute


@attrs.frozen
class Sent:
    """One API request: when (monotonic seconds), for which stage, and the HTTP status of the reply, if one came."""

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
        """Record an event, if it is an API request."""
        if isinstance(event, RequestSent) and event.stage not in HOST_STAGES:
            self.total += 1
            self.sent.append(Sent(event.at, event.stage, event.status))
