"""Keeps events between the receiver that gets them and the clients that wait for them."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Protocol

from aistemsplitter_async.clock import Clock, SystemClock
from aistemsplitter_async.config import INBOX_EVENTS, INBOX_KEEP
from aistemsplitter_async.errors import ConfigurationError
from aistemsplitter_async.webhooks.event import WebhookEvent


class Inbox(Protocol):
    """Keeps the newest events for a while. Yours may be a table, a stream or a queue that several processes share."""

    async def has(self, event: WebhookEvent) -> bool:
        """Return whether an equal event is kept, so that duplicates have no effect."""
        ...

    async def put(self, event: WebhookEvent) -> None:
        """Keep an event. Returning means that it is safe, and it is acknowledged. Must be idempotent.

        Raises:
            Exception: it could not be kept; the sender is asked to try again.
        """
        ...

    def follow(self) -> AsyncIterator[WebhookEvent]:
        """Iterate, without end, over the events that are kept, oldest first, and then over new ones as they come."""
        ...


class MemoryInbox:
    """The default: an inbox for a receiver and clients in the same event loop. Others get a `ConfigurationError`.

    Args:
        capacity: the most events to keep.
        keep: seconds to keep them.
        clock: where time comes from.
    """

    def __init__(self, *, capacity: int = INBOX_EVENTS, keep: float = INBOX_KEEP, clock: Clock | None = None) -> None:
        self._capacity = capacity
        self._keep = keep
        self._clock = clock or SystemClock()
        self._events: OrderedDict[WebhookEvent, float] = OrderedDict()
        self._followers: set[asyncio.Queue[WebhookEvent]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None  # of the followers

    async def has(self, event: WebhookEvent) -> bool:
        return self._events.get(event, -math.inf) > self._clock.monotonic() - self._keep

    async def put(self, event: WebhookEvent) -> None:
        self._check_loop()
        self._forget_old()
        if event in self._events:
            return
        self._events[event] = self._clock.monotonic()
        if len(self._events) > self._capacity:
            self._events.popitem(last=False)
        for follower in self._followers:
            follower.put_nowait(event)

    async def follow(self) -> AsyncGenerator[WebhookEvent, None]:
        self._check_loop()
        self._forget_old()
        news: asyncio.Queue[WebhookEvent] = asyncio.Queue()
        for event in self._events:
            news.put_nowait(event)
        self._followers.add(news)
        try:
            while True:
                yield await news.get()
        finally:
            self._followers.discard(news)

    def _check_loop(self) -> None:
        """Check that the followers are of the running event loop. Those of one that was closed follow no more."""
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        if self._followers and self._loop is not None and not self._loop.is_closed():  # they would not wake up
            raise ConfigurationError(
                "the receiver and one of its clients run in different event loops; "
                "give each an SQLiteInbox on the same file"
            )
        self._loop = loop
        self._followers.clear()

    def _forget_old(self) -> None:
        expiry = self._clock.monotonic() - self._keep
        while self._events and next(iter(self._events.values())) <= expiry:
            self._events.popitem(last=False)
