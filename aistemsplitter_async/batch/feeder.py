"""Takes the sources of a batch, one by one, from an iterable that is other people's code.

It may raise, cancel the task that reads it, or not let itself be closed: each is reported, and what was taken before is
finished.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from contextlib import aclosing

from aistemsplitter_async._tasks import cancel_within, wait_out
from aistemsplitter_async._transfer.audio import Source
from aistemsplitter_async.batch.item import BatchItem
from aistemsplitter_async.clock import Clock
from aistemsplitter_async.config import CLOSE_GRACE
from aistemsplitter_async.errors import ConfigurationError

Sources = Iterable[Source | BatchItem] | AsyncIterable[Source | BatchItem]


class Feeder:
    """Feeds a batch.

    Args:
        sources: the iterable. A plain one must not block the event loop.
        take: takes a source once there is room for it; returns whether to go on.
        clock: where time comes from.

    Attributes:
        exhausted: whether the iterable has ended.
    """

    def __init__(
        self, sources: Sources, take: Callable[[Source | BatchItem], Awaitable[bool]], *, clock: Clock
    ) -> None:
        self.exhausted: bool = False
        self._sources = sources
        self._take = take
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._is_reading = False
        self._told = asyncio.Event()  # to stop

    def start(self, first: Callable[[], Awaitable[None]]) -> None:
        """Start to take sources once `first` is done."""
        self._task = asyncio.get_running_loop().create_task(self._feed(first), name="batch feeder")

    def stop(self) -> None:
        """Take no more sources. Returns at once."""
        self._told.set()
        if self._task is not None:
            self._task.cancel()

    async def find_fault(self) -> BaseException | None:
        """Wait until no more sources are taken, and return why the iterable is at fault, if it is."""
        assert self._task is not None  # noqa: S101  # the batch was entered
        told = asyncio.ensure_future(self._told.wait())
        try:
            await asyncio.wait([self._task, told], return_when=asyncio.FIRST_COMPLETED)
        finally:
            told.cancel()
        await self.wait_out()
        if not self._task.done():
            return ConfigurationError(
                f"the iterable of sources did not let itself be closed within {CLOSE_GRACE:g} s; it is left behind"
            )
        if not self._task.cancelled():
            return self._task.exception()
        if self._told.is_set():
            return None
        return ConfigurationError("the sources are not complete: their iterable raised CancelledError")

    async def wait_out(self) -> None:
        """Wait for the end of what was started; once it was told to stop, for the iterable no longer than the grace."""
        if self._task is None or self._task.done():
            return
        if self._is_reading:
            await cancel_within(CLOSE_GRACE, self._task, clock=self._clock)
        else:
            await wait_out(self._task)

    async def _feed(self, first: Callable[[], Awaitable[None]]) -> None:
        await first()
        self._is_reading = True
        async with aclosing(_each(self._sources)) as sources:
            async for source in sources:
                if self._told.is_set() or not await self._take(source):
                    return
        self.exhausted = True


async def _each(sources: Sources) -> AsyncGenerator[Source | BatchItem, None]:
    """Iterate over an async or plain iterable."""
    if isinstance(sources, AsyncIterable):
        iterator = aiter(sources)
        try:
            async for source in iterator:
                yield source
        finally:
            if isinstance(iterator, AsyncGenerator):  # also that of a class whose `__aiter__` is a generator
                await iterator.aclose()
        return
    for source in sources:
        yield source
        await asyncio.sleep(0)
