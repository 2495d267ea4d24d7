"""A store of the shared gate's state in this process: what the real ones do, with knobs for what may go wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aistemsplitter_async._gate.store import Stored, StoreUnavailableError
from aistemsplitter_async.clock import Clock


class MemoryGateStore:
    """Keeps texts in this process, shared by all gates that are given it; its time is `clock`'s plus `ahead`.

    Attributes:
        delay: seconds of the clock that every call takes.
        fail: raised by every call while it is set; `StoreUnavailableError("...")` as the real ones.
        lose: makes the next so many swaps and then raises: their answers are lost.
        ahead: seconds that the store's clock is ahead; may be set back.
        restarted: the flag of every load until a swap.
        before_swap: awaited by every swap when its delay is over, such as to let another one be quicker.
        loads, swaps, conflicts: how many there were.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: dict[str, tuple[str, int]] = {}
        self._version = 0
        self.delay = 0.0
        self.fail: Exception | None = None
        self.lose = 0
        self.ahead = 0.0
        self.restarted = False
        self.before_swap: Callable[[], Awaitable[None]] | None = None
        self.loads = self.swaps = self.conflicts = 0
        self.closed = False

    def empty(self) -> None:
        """Forget everything."""
        self._kept.clear()

    def text(self, key: str) -> str | None:
        """Return what is kept for `key`."""
        return self._kept.get(key, (None, 0))[0]

    async def load(self, key: str) -> Stored:
        await self._travel()
        self.loads += 1
        text, version = self._kept.get(key, (None, 0))
        return Stored(text, version, self._clock.monotonic() + self.ahead, self.restarted)

    async def swap(self, key: str, version: int, text: str, keep: float) -> bool:  # noqa: ARG002  # nothing is forgotten
        await self._travel()
        if self.before_swap is not None:
            await self.before_swap()
        if self._kept.get(key, (None, 0))[1] != version:
            self.conflicts += 1
            return False
        self.swaps += 1
        self._version += 1
        self._kept[key] = (text, self._version)
        self.restarted = False
        if self.lose:
            self.lose -= 1
            raise StoreUnavailableError("the answer was lost")
        return True

    async def aclose(self) -> None:
        self.closed = True

    async def _travel(self) -> None:
        if self.delay:
            await self._clock.sleep(self.delay)
        else:
            await asyncio.sleep(0)
        if self.fail is not None:
            raise self.fail
