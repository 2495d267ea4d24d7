"""Runs a transfer under a meter: it may take any time, but must not stall."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from aistemsplitter_async._tasks import cancel_and_wait
from aistemsplitter_async._transfer.meter import Meter
from aistemsplitter_async.clock import Clock
from aistemsplitter_async.errors import APITimeoutError

T = TypeVar("T")
STALLED = "STALLED"  # the code of that error


async def run_metered(work: Coroutine[Any, Any, T], meter: Meter, *, clock: Clock, what: str) -> T:
    """Await `work`, which feeds `meter`.

    Raises:
        APITimeoutError: the meter found the transfer stalled; `work` was cancelled.
    """
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            try:
                async with clock.timeout_at(meter.deadline()):
                    await asyncio.wait([task])
            except TimeoutError:
                if meter.is_stalled(now=clock.monotonic()):
                    break
        else:
            return task.result()
    finally:
        await cancel_and_wait(task)  # it may have a thread at work on a file that the caller is about to close
    raise APITimeoutError(f"{what} stalled: too few bytes moved for too long", code=STALLED)
