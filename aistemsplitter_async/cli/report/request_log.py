"""Records the times of requests, for the chart of a report."""

from __future__ import annotations

from collections import deque

from aistemsplitter_async.cli.screen.board import HOST_STAGES
from aistemsplitter_async.events import Event, RequestSent

_MOST = 200_000  # requests kept: a day at 140 a minute


class RequestLog:
    """The API requests of one run.

    Attributes:
        total: how many there were.
        sent: of the newest ones the time (monotonic seconds), and the HTTP status of the reply, if one came.
    """

    def __init__(self) -> None:
        self.total: int = 0
        self.sent: deque[tuple[float, int | None]] = deque(maxlen=_MOST)

    def note(self, event: Event) -> None:
        """Record an event, if it is an API request."""
        if isinstance(event, RequestSent) and event.stage not in HOST_STAGES:
            self.total += 1
            self.sent.append((event.at, event.status))
