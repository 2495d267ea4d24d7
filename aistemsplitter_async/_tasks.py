"""Threads and tasks that must not be abandoned: the caller waits for their end, cancelled or not.

A thread cannot be stopped. A caller that returned earlier would close a descriptor the thread still uses, whose number
may by then belong to another file. A request that costs money should not be stopped either: its answer names what was
bought.

Cancellation repeats: asyncio cancels as often as it is asked to, and an anyio scope again at every turn of the loop.
Everything here waits through any number of cancellations, without spinning, in a scope that anyio's do not reach. It
raises the first of them then: by that one anyio recognises its own.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Coroutine, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import Context, copy_context
from functools import partial
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar, TypeVarTuple

from anyio import CancelScope

from aistemsplitter_async.clock import Clock
from aistemsplitter_async.config import COMMIT_GRACE

T = TypeVar("T")
P = ParamSpec("P")
Arguments = TypeVarTuple("Arguments")


async def run_in_thread(
    function: Callable[[*Arguments], T],
    *arguments: *Arguments,
    undo: Callable[[T], object] | None = None,
    pool: Executor | None = None,
) -> T:
    """Return `function(*arguments)`, run in a thread, in a copy of the caller's context (`contextvars`).

    If the caller is cancelled, the thread ends first.

    Args:
        function: may block.
        arguments: for `function`.
        undo: called, in a thread, with the result that a cancelled caller does not get, such as an open file.
        pool: whose thread; by default one of the loop's, which are few, and in which names are resolved too.
    """
    loop, context = asyncio.get_running_loop(), copy_context()
    work = loop.run_in_executor(pool, partial(context.run, function, *arguments))
    try:
        await wait_out(work)
    except asyncio.CancelledError:
        if work.exception() is None and undo is not None:
            await wait_out(loop.run_in_executor(pool, context.run, undo, work.result()))
        raise
    return work.result()


async def run_stoppable(function: Callable[[Callable[[], bool]], T], *, pool: Executor) -> T:
    """Return `function(is_stopped)`, run in a thread; see `run_in_thread`.

    Args:
        function: may block for long, and should end soon once `is_stopped()` is true: then the caller was cancelled.
        pool: whose thread.
    """
    stop = threading.Event()
    work = asyncio.get_running_loop().run_in_executor(pool, function, stop.is_set)
    try:
        await asyncio.wait([work])
    except asyncio.CancelledError:
        stop.set()
        await _outlast([work])
        _retrieve_errors(work)
        raise
    return work.result()


@contextmanager
def further_threads(count: int) -> Iterator[Executor]:
    """Open a pool for `run_in_thread`. All that was run there has been waited for when this is left."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(wait=False)


async def wait_out(*works: asyncio.Future[Any]) -> None:
    """Wait until all `works` are done, however often the caller is cancelled; the cancellation is raised then."""
    if pending := [work for work in works if not work.done()]:
        try:
            await asyncio.wait(pending)
        except asyncio.CancelledError:
            await _outlast(pending)
            raise


async def cancel_and_wait(*tasks: asyncio.Future[Any]) -> None:
    """Cancel `tasks` and wait until all have ended, however often the caller is cancelled. Errors are dropped."""
    for task in tasks:
        task.cancel()
    try:
        await wait_out(*tasks)
    finally:
        _retrieve_errors(*tasks)


async def cancel_within(grace: float, *tasks: asyncio.Future[Any], clock: Clock) -> bool:
    """Cancel `tasks`, which run other people's code, and wait for their end, but no longer than `grace` seconds.

    Return whether all have ended; those that have not are left behind. However often the caller is cancelled, it waits;
    the cancellation is raised then.
    """
    for task in tasks:
        task.cancel()

    async def wait() -> None:
        with suppress(TimeoutError):
            async with clock.timeout_at(clock.monotonic() + grace):
                await asyncio.wait(tasks)

    try:
        await run_to_end(wait())
    finally:
        _retrieve_errors(*(task for task in tasks if task.done()))
    return all(task.done() for task in tasks)


def start_aside(work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
    """Start what serves no call in particular, in an empty context.

    Nothing is logged if its event loop is closed before its end: those who close a loop need not know of it.
    """
    task = asyncio.get_running_loop().create_task(work, name=name, context=Context())
    with suppress(AttributeError):  # it is asyncio's own, and may not be what other loops make
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001
    return task


def own(work: Coroutine[Any, Any, T], context: Context | None = None) -> asyncio.Task[T]:
    """Start `work` in a task that the end of `asyncio.run` cancels only after a grace. The caller waits for its end.

    It runs in a copy of the caller's context, or in `context`.
    """
    return _OwnedTask(work, loop=asyncio.get_running_loop(), context=context)


async def run_to_end(work: Coroutine[Any, Any, T], context: Context | None = None) -> T:
    """Await `work` in a task (see `own`), to its end, however often the caller is cancelled; that is raised then."""
    return await join(own(work, context))


async def join(task: asyncio.Future[T]) -> T:
    """Await a task, which others may await too, to its end, however often the caller is cancelled; see `run_to_end`."""
    try:
        await wait_out(task)
    except asyncio.CancelledError:
        _retrieve_errors(task)
        raise
    return task.result()


class OwnedTasks:
    """Work that is paid for, in tasks of its own: a cancelled caller waits for it, for a bounded time.

    Args:
        clock: where time comes from.
        grace: seconds that a task may go on after its caller was cancelled, or after `drain` was called.

    Attributes:
        draining: whether `drain` was called.
    """

    def __init__(self, *, clock: Clock, grace: float) -> None:
        self.draining: bool = False
        self._clock = clock
        self._grace = grace
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Await `work`. If the caller is cancelled, let it finish within the grace, then cancel it too."""
        task = own(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            await self._wait_within_grace([task])
            task.cancel()
            await _outlast([task])
            _retrieve_errors(task)
            raise
        return task.result()

    async def drain(self) -> None:
        """Wait until no task is running, for as long as the grace; those that are left then continue."""
        self.draining = True
        await self._wait_within_grace(self._tasks)

    async def _wait_within_grace(self, tasks: Collection[asyncio.Task[Any]]) -> None:
        over = own(self._clock.sleep(self._grace))
        await _outlast(tasks, limit=over)
        over.cancel()
        await _outlast([over])


class _OwnedTask(asyncio.Task[T]):
    """Has a grace at the end of `asyncio.run`, which cancels all tasks while the loop is stopped and awaits them."""

    def cancel(self, msg: Any | None = None) -> bool:
        loop = self.get_loop()
        if loop.is_running():
            return super().cancel(msg)
        loop.call_later(COMMIT_GRACE, super().cancel, msg)
        return not self.done()


async def _outlast(works: Collection[asyncio.Future[Any]], *, limit: asyncio.Future[Any] | None = None) -> None:
    """Wait until all `works` are done, or `limit` is, and drop every cancellation.

    Only for a caller that was cancelled before and raises that afterwards, or that nothing may stop.
    """
    with CancelScope(shield=True):
        while (pending := [work for work in works if not work.done()]) and not (limit is not None and limit.done()):
            with suppress(asyncio.CancelledError):
                if limit is None:
                    await asyncio.wait(pending)
                else:
                    await asyncio.wait([*pending, limit], return_when=asyncio.FIRST_COMPLETED)


def _retrieve_errors(*tasks: asyncio.Future[Any]) -> None:
    """Retrieve the tasks' exceptions, or asyncio logs "exception was never retrieved"."""
    for task in tasks:
        if not task.cancelled():
            task.exception()


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
