"""One client's view of a webhook inbox: which notifications it expects, and which splits are known to be done."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from contextvars import Context

from aistemsplitter_async._logs.loggers import Log
from aistemsplitter_async._tasks import cancel_and_wait
from aistemsplitter_async.clock import Clock
from aistemsplitter_async.config import INBOX_EVENTS, INBOX_KEEP
from aistemsplitter_async.webhooks.inbox import Inbox

_BACKOFF = 1.0  # s after the inbox failed; until then splits are polled as if their events were lost
_BACKOFF_CAP = 60.0  # s; the backoff doubles up to this, and starts over once the inbox has worked for as long

_log = Log("webhooks")


class InboxFollower:
    """Follows an inbox and remembers which splits are done: an event may come before anything waits for it.

    Args:
        inbox: what to follow.
        wake: called with the id of each split that is done.
        clock: where time comes from.
    """

    def __init__(self, inbox: Inbox, wake: Callable[[str], object], *, clock: Clock) -> None:
        self._inbox = inbox
        self._wake = wake
        self._clock = clock
        self._done: OrderedDict[str, float] = OrderedDict()
        self._expected: OrderedDict[str, None] = OrderedDict()
        self._following: asyncio.Task[None] | None = None

    def expect(self, split_id: str) -> None:
        """Expect a notification when this split is done."""
        self._expected[split_id] = None
        if len(self._expected) > INBOX_EVENTS:
            self._expected.popitem(last=False)

    def expects(self, split_id: str) -> bool:
        """Return whether a notification for this split is expected and has not come yet."""
        return split_id in self._expected

    def is_done(self, split_id: str) -> bool:
        """Return whether a notification said that this split is done. The first call begins to follow the inbox."""
        if self._following is None:
            loop = asyncio.get_running_loop()  # in an empty context: it serves all waits, and outlives the first one
            self._following = loop.create_task(self._follow(), name="follow the webhook inbox", context=Context())
        self._forget_old()
        return split_id in self._done

    async def aclose(self) -> None:
        """Stop following."""
        if self._following is not None:
            await cancel_and_wait(self._following)

    async def _follow(self) -> None:
        backoff, logged = _BACKOFF, ""
        while True:
            began = self._clock.monotonic()
            try:
                async for event in self._inbox.follow():
                    if event.is_terminal:
                        self._note_done(event.split_id)
            except Exception as error:  # noqa: BLE001  # an inbox may be user code; waits must survive its failures
                problem = f"{type(error).__name__}: {error}"
            else:
                problem = ""
            if self._clock.monotonic() - began >= _BACKOFF_CAP:
                backoff, logged = _BACKOFF, ""
            if problem not in ("", logged):
                logged = problem
                _log.warning("cannot follow the webhook inbox; splits are polled meanwhile (%s)", problem)
            await self._clock.sleep(backoff)
            backoff = min(2 * backoff, _BACKOFF_CAP)

    def _note_done(self, split_id: str) -> None:
        self._expected.pop(split_id, None)
        self._done[split_id] = self._clock.monotonic()
        self._done.move_to_end(split_id)  # it may be there already if the inbox was followed again from its start
        self._forget_old()
        self._wake(split_id)

    def _forget_old(self) -> None:
        expiry = self._clock.monotonic() - INBOX_KEEP
        while self._done and (next(iter(self._done.values())) <= expiry or len(self._done) > INBOX_EVENTS):
            self._done.popitem(last=False)
