"""Calls to a server, each in a task of its own and with an end, over connections that belong to an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from aistemsplitter_async._tasks import cancel_and_wait, own

T = TypeVar("T")


class Calls:
    """Calls that nobody interrupts: a connection would be out of step with its server afterwards.

    A caller that is cancelled leaves its call, which ends by itself.
    """

    def __init__(self) -> None:
        self._running = set[asyncio.Task[Any]]()

    def start(self, call: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Return the task of `call`, which need not be waited for."""
        task = own(call)
        self._running.add(task)
        task.add_done_callback(self._note_end)
        return task

    async def run(self, call: Coroutine[Any, Any, T]) -> T:
        """Return what `call` returns."""
        task = self.start(call)
        await asyncio.wait([task])
        return task.result()

    async def drain(self) -> None:
        """Wait for the calls of this event loop that are under way."""
        while here := self._here():
            await asyncio.wait(here)

    async def cancel(self) -> None:
        """Cancel the calls of this event loop that are under way."""
        if here := self._here():
            await cancel_and_wait(*here)

    def _here(self) -> list[asyncio.Task[Any]]:
        loop = asyncio.get_running_loop()
        return [task for task in self._running if task.get_loop() is loop]

    def _note_end(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # of a call that was left, nobody else retrieves it


class PerLoop(Generic[T]):
    """One of something, such as a connection, for each event loop that uses it.

    Args:
        make: makes one, for the running loop.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._all: dict[asyncio.AbstractEventLoop, T] = {}

    def get(self) -> T:
        """Return that of the running loop."""
        running = asyncio.get_running_loop()
        if running not in self._all:
            self._all = {loop: one for loop, one in self._all.items() if not loop.is_closed()}
            self._all[running] = self._make()
        return self._all[running]

    def pop(self) -> T | None:
        """Return that of the running loop, if there is one, and forget it."""
        return self._all.pop(asyncio.get_running_loop(), None)
