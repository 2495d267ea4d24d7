"""Threads and tasks that must not be abandoned: the caller waits for their end, cancelled or not.

A thread cannot be stopped. A caller that returned earlier would close a descriptor the thread still uses, whose number
may by then belong to another file.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar, TypeVarTuple

from aistemsplitter_async.clock import Clock, Deadline

T = TypeVar("T")
P = ParamSpec("P")
Arguments = TypeVarTuple("Arguments")


async def run_in_thread(
    function: Callable[[*Arguments], T], *arguments: *Arguments, undo: Callable[[T], object] | None = None
) -> T:
    """Return `function(*arguments)`, run in a thread. If the caller is cancelled, the thread ends first.

    Args:
        function: may block.
        arguments: for `function`.
        undo: called with the result that a cancelled caller does not get, such as an open file.
    """
    work = asyncio.get_running_loop().run_in_executor(None, function, *arguments)
    try:
        await wait_out(work)
    except asyncio.CancelledError:
        if work.exception() is None and undo is not None:
            undo(work.result())
        raise
    return work.result()


async def wait_out(*works: asyncio.Future[Any]) -> None:
    """Wait until all `works` are done, however often the caller is cancelled; the cancellation is raised then."""
    cancelled = None
    while pending := [work for work in works if not work.done()]:
        try:
            await asyncio.wait(pending)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


async def finish_before_cancel(work: Coroutine[Any, Any, T], *, clock: Clock, grace: float) -> T:
    """Await `work`; if the caller is cancelled, let it finish for up to `grace` seconds before cancelling it too."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        await _settle(task, clock, grace)
        raise
    return task.result()


async def _settle(task: asyncio.Task[T], clock: Clock, grace: float) -> None:
    try:
        async with Deadline.after(clock, grace).scope():
            await asyncio.wait([task])
    except TimeoutError:
        pass
    finally:
        await cancel_and_wait(task)


async def cancel_and_wait(*tasks: asyncio.Future[Any]) -> None:
    """Cancel `tasks` and wait until all have ended, however often the caller is cancelled. Errors are dropped."""
    for task in tasks:
        task.cancel()
    try:
        await wait_out(*tasks)
    finally:
        for task in tasks:
            if not task.cancelled():
                task.exception()  # retrieve it, or asyncio logs "exception was never retrieved"


class OneThread(Executor):
    """An executor with one thread, which runs its work in order of submission.

    A pool refuses work once the main thread has ended. This one continues, for an event loop in another thread: what
    that loop has paid for must still be recorded.
    """

    def __init__(self, name: str) -> None:
        self._calls = SimpleQueue[Callable[[], None] | None]()
        self._is_over = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Return the future of `fn(*args, **kwargs)`.

        Raises:
            RuntimeError: the executor was shut down.
        """
        if self._is_over:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future = Future[T]()

        def call() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(fn(*args, **kwargs))
                except BaseException as error:  # noqa: BLE001  # the future passes it on
                    future.set_exception(error)

        self._calls.put(call)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002  # all are done
        """Let the thread end once all submitted work is done."""
        self._is_over = True
        self._calls.put(None)
        if wait:
            self._thread.join()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
