"""What one client hears of webhook events, which it expects, and whom it wakes."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable

from aistemsplitter_async.clock import Clock
from aistemsplitter_async.config import INBOX_EVENTS, INBOX_KEEP
from aistemsplitter_async.webhooks.inbox import Inbox

_AGAIN = 1.0  # s after the inbox failed; meanwhile splits are looked at as if their events were lost
_AGAIN_CAP = (
    60.0  # s; the wait doubles up to this while it keeps failing, and an inbox that lasts so long is well again
)

_log = logging.getLogger(__name__)


class Hearing:
    """Follows an inbox, and remembers which splits are done: an event may come before anybody waits for it.

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
        """Note that the end of a split will be announced here."""
        self._expected[split_id] = None
        if len(self._expected) > INBOX_EVENTS:
            self._expected.popitem(last=False)

    def expects(self, split_id: str) -> bool:
        """Return whether the end of a split will be announced here, and was not yet."""
        return split_id in self._expected

    def heard_of(self, split_id: str) -> bool:
        """Return whether a split is known to be done; from the first call on, events are heard."""
        if self._following is None:
            self._following = asyncio.get_running_loop().create_task(self._follow(), name="follow the webhook inbox")
        self._forget()
        return split_id in self._done

    async def aclose(self) -> None:
        """Hear no more."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait({self._following})

    async def _follow(self) -> None:
        again, told = _AGAIN, ""
        while True:
            began = self._clock.monotonic()
            try:
                async for event in self._inbox.follow():
                    if event.is_terminal:
                        self._note(event.split_id)
            except Exception as error:  # noqa: BLE001  # an inbox may be anybody's code; waits must outlive its trouble
                trouble = f"{type(error).__name__}: {error}"
            else:
                trouble = ""
            if self._clock.monotonic() - began >= _AGAIN_CAP:
                again, told = _AGAIN, ""
            if trouble not in ("", told):
                told = trouble
                _log.warning("the webhook inbox cannot be followed; splits are looked at meanwhile (%s)", trouble)
            await self._clock.sleep(again)
            again = min(2 * again, _AGAIN_CAP)

    def _note(self, split_id: str) -> None:
        self._expected.pop(split_id, None)
        self._done[split_id] = self._clock.monotonic()
        self._done.move_to_end(split_id)  # where the inbox was followed from its beginning once more
        self._forget()
        self._wake(split_id)

    def _forget(self) -> None:
        over = self._clock.monotonic() - INBOX_KEEP
        while self._done and (next(iter(self._done.values())) <= over or len(self._done) > INBOX_EVENTS):
            self._done.popitem(last=False)
