"""A limit on concurrent work that can be resized while some wait for their turn."""

from __future__ import annotations

import asyncio
from collections import deque


class Capacity:
    """Limits the number of holders; waiters are admitted in the order they came.

    `asyncio.Semaphore` cannot be resized. anyio's `CapacityLimiter` can, but before 4.16 it forgets on whose behalf a
    cancelled `acquire_on_behalf_of` took its token: a `RuntimeError` replaces the cancellation.

    Args:
        size: at most so many at once. A smaller size set later takes nothing away from present holders.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._held = 0
        self._waiting = deque[asyncio.Future[None]]()

    def resize(self, size: int) -> None:
        """Allow `size` holders from now on."""
        self._size = size
        self._admit()

    async def acquire(self) -> None:
        """Wait until there is room. A caller that is cancelled holds nothing."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # admitted at the moment it was cancelled
                self.release()
            raise

    def release(self) -> None:
        """Admit the next waiter."""
        self._held -= 1
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._held < self._size:
            turn = self._waiting.popleft()
            if not turn.cancelled():
                self._held += 1
                turn.set_result(None)
