"""Work that must not be abandoned outlives any number of cancellations, of any kind, and its caller does not spin."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anyio._backends._asyncio import CancelScope as AnyioScope

from aistemsplitter_async._listeners import Listener
from aistemsplitter_async._tasks import OwnedTasks, cancel_and_wait, own, run_in_thread, run_to_end, wait_out
from aistemsplitter_async.clock import SystemClock
from aistemsplitter_async.testing import FakeClock

Wait = Callable[[asyncio.Future[str]], Awaitable[object]]
TURNS = 200
CALLER = ContextVar("CALLER", default="nobody")


def turns(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the callbacks that the running loop is asked to run."""
    loop, count = asyncio.get_running_loop(), [0]
    call_soon = loop.call_soon

    def counted(*arguments: Any, **options: Any) -> asyncio.Handle:
        count[0] += 1
        return call_soon(*arguments, **options)

    monkeypatch.setattr(loop, "call_soon", counted)
    return count


async def settle() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


async def result(work: asyncio.Future[str]) -> str:
    return await asyncio.shield(work)


WAITS: dict[str, Wait] = {
    "wait_out": wait_out,
    "run_to_end": lambda work: run_to_end(result(work)),
    "OwnedTasks": lambda work: OwnedTasks(clock=FakeClock(), grace=5.0).run(result(work)),
}
every_wait = pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)


@every_wait
async def test_an_anyio_scope_that_is_over_waits_for_the_work_without_spinning(
    wait: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    work: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    after: list[str] = []

    async def caller() -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await wait(work)
            after.append("not cancelled")
        assert scope.cancelled_caught

    task = asyncio.create_task(caller())
    await settle()
    count = turns(monkeypatch)
    await settle()
    assert count[0] <= TURNS + 5  # those of `settle` itself
    assert not task.done()
    work.set_result("done")
    await task
    assert after == []
    assert task.cancelling() == 0


async def test_the_count_of_turns_would_notice_spinning(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: a wait that shields itself from asyncio's cancellations only."""
    work: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def caller() -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            while not work.done():
                try:
                    await asyncio.wait([work])
                except asyncio.CancelledError:
                    continue

    task = asyncio.create_task(caller())
    await settle()
    count = turns(monkeypatch)
    await settle()
    assert count[0] > 2 * TURNS
    work.set_result("done")
    await asyncio.wait([task])


@every_wait
async def test_cancelled_again_and_again_the_caller_waits_and_is_cancelled_then(wait: Wait) -> None:
    work: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    task = asyncio.ensure_future(wait(work))
    await settle()
    for number in range(20):
        task.cancel(f"reason {number}")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not task.done()
    work.set_result("done")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


@every_wait
async def test_a_timeout_is_a_timeout_once_the_work_has_ended(wait: Wait) -> None:
    work: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def caller() -> int:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await wait(work)
        return asyncio.current_task().cancelling()  # type: ignore[union-attr]

    task = asyncio.create_task(caller())
    await settle()
    assert not task.done()
    work.set_result("done")
    assert await task == 0


@every_wait
async def test_a_timeout_inside_an_anyio_scope_leaves_both_right(wait: Wait) -> None:
    """Both are over. The scope is the outer one, so it takes the cancellation."""
    work: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    go = asyncio.Event()

    async def caller() -> int:
        with anyio.CancelScope() as scope:
            async with asyncio.timeout(None) as timeout:
                asyncio.get_running_loop().call_soon(scope.cancel)
                go.set()
                timeouts.append(timeout)
                await wait(work)
        assert scope.cancelled_caught
        return asyncio.current_task().cancelling()  # type: ignore[union-attr]

    timeouts: list[asyncio.Timeout] = []
    task = asyncio.create_task(caller())
    await settle()
    timeouts[0].reschedule(0)
    await settle()
    assert not task.done()
    work.set_result("done")
    assert await task == 0


@pytest.mark.skipif(
    not hasattr(AnyioScope, "_cancelling_at_enter"),
    reason="older anyio takes every cancellation in its scope",
)
@every_wait
async def test_a_real_cancellation_is_not_taken_for_that_of_an_anyio_scope(wait: Wait) -> None:
    work: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def caller() -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await wait(work)
        raise AssertionError("the task's own cancellation is lost")

    task = asyncio.create_task(caller())
    await settle()
    task.cancel()
    await settle()
    assert not task.done()
    work.set_result("done")
    with pytest.raises(asyncio.CancelledError):
        await task


@every_wait
async def test_a_failed_sibling_in_a_task_group_waits_for_the_work(wait: Wait) -> None:
    work: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def fail() -> None:
        raise ValueError("sibling")

    async def caller() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(wait(work))  # type: ignore[arg-type]
            group.create_task(fail())

    task = asyncio.create_task(caller())
    await settle()
    assert not task.done()
    work.set_result("done")
    with pytest.raises(ExceptionGroup) as caught:
        await task
    assert [str(error) for error in caught.value.exceptions] == ["sibling"]


@every_wait
async def test_a_cancelled_anyio_task_group_waits_for_the_work(wait: Wait) -> None:
    work: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def caller() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(wait, work)  # type: ignore[arg-type]
            await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()

    task = asyncio.create_task(caller())
    await settle()
    assert not task.done()
    work.set_result("done")
    await task


async def test_a_thread_waited_for_in_a_scope_that_is_over_costs_no_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    go, ended = threading.Event(), list[str]()

    async def caller() -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await run_in_thread(lambda: ended.append(str(go.wait(30))))

    task = asyncio.create_task(caller())
    await settle()
    count = turns(monkeypatch)
    await settle()
    assert count[0] <= TURNS + 5
    assert not task.done()
    go.set()
    await task
    assert ended == ["True"]


async def test_tasks_that_are_cancelled_are_waited_for_without_spinning(monkeypatch: pytest.MonkeyPatch) -> None:
    work: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    stubborn = asyncio.create_task(wait_out(work))
    await settle()

    async def caller() -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await cancel_and_wait(stubborn)

    task = asyncio.create_task(caller())
    await settle()
    count = turns(monkeypatch)
    await settle()
    assert count[0] <= TURNS + 5
    assert not task.done()
    work.set_result("done")
    await task


# --- the grace


@asynccontextmanager
async def owned(clock: FakeClock) -> AsyncIterator[tuple[OwnedTasks, list[asyncio.Task[str]]]]:
    """Tasks, and one that never ends by itself."""
    tasks, started = OwnedTasks(clock=clock, grace=5.0), list[asyncio.Task[str]]()

    async def hang() -> str:
        started.append(asyncio.current_task())  # type: ignore[arg-type]
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    caller = asyncio.create_task(tasks.run(hang()))
    await settle()
    try:
        yield tasks, [caller, *started]
    finally:
        await cancel_and_wait(*started, caller)


@pytest.mark.parametrize("often", [False, True])
async def test_when_the_grace_is_over_the_work_is_cancelled(often: bool) -> None:
    clock = FakeClock()
    async with owned(clock) as (_, (caller, work)):
        caller.cancel()
        for _ in range(49):
            await clock.advance(0.1)
            if often:
                caller.cancel()
        assert not work.done()
        await clock.advance(0.2)
        assert work.cancelled()
        assert caller.cancelled()


async def test_draining_waits_for_the_work_and_no_longer_than_the_grace() -> None:
    clock = FakeClock()
    async with owned(clock) as (tasks, (_, work)):
        draining = asyncio.create_task(tasks.drain())
        await clock.advance(4.9)
        assert not draining.done()
        await clock.advance(0.2)
        assert draining.done()
        assert not work.done()  # its caller is still there, and learns how it ends
        assert tasks.draining


async def test_draining_ends_with_the_last_task() -> None:
    tasks = OwnedTasks(clock=FakeClock(), grace=5.0)
    works: list[asyncio.Future[str]] = [asyncio.get_running_loop().create_future() for _ in range(3)]
    callers = [asyncio.create_task(tasks.run(result(work))) for work in works]
    await settle()
    draining = asyncio.create_task(tasks.drain())
    for work in works:
        await settle()
        assert not draining.done()
        work.set_result("done")
    await draining
    assert await asyncio.gather(*callers) == ["done"] * 3


# --- the end of `asyncio.run`


@pytest.fixture
def fresh_loop() -> Callable[[Awaitable[Any]], Any]:
    """`asyncio.run` in a thread, because a loop is running in this one."""

    def run(main: Any) -> Any:
        ended: list[Any] = []

        def target() -> None:
            try:
                ended.append(asyncio.run(main))
            except BaseException as error:  # noqa: BLE001  # returned
                ended.append(error)

        thread = threading.Thread(target=target)
        thread.start()
        thread.join(30)
        return ended[0]

    return run


def test_work_left_behind_by_the_main_function_finishes_within_the_grace(fresh_loop: Any) -> None:
    ended: list[str] = []

    async def work() -> None:
        for _ in range(50):
            await asyncio.sleep(0)
        ended.append("work")

    async def main() -> str:
        background.append(asyncio.create_task(OwnedTasks(clock=SystemClock(), grace=5.0).run(work())))
        await asyncio.sleep(0)
        return "main"

    background: list[asyncio.Task[None]] = []
    assert fresh_loop(main()) == "main"
    assert ended == ["work"]
    assert background[0].cancelled()


def test_the_check_above_would_notice_work_in_an_ordinary_task(
    fresh_loop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: the end of the loop cancels the work itself."""
    monkeypatch.setattr("aistemsplitter_async._tasks._OwnedTask", asyncio.Task)
    with pytest.raises(AssertionError):
        test_work_left_behind_by_the_main_function_finishes_within_the_grace(fresh_loop)


def test_work_that_nobody_waits_for_does_not_hold_up_the_end_for_longer_than_the_grace(
    fresh_loop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aistemsplitter_async._tasks.COMMIT_GRACE", 0.01)
    left: list[asyncio.Task[Any]] = []

    async def main() -> None:
        left.append(own(asyncio.Event().wait()))
        await asyncio.sleep(0)

    fresh_loop(main())
    assert left[0].cancelled()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_an_interruption_in_a_listener_ends_the_program_after_the_work_of_the_same_turn(
    fresh_loop: Any, error: BaseException
) -> None:
    """As a signal handler raises it: between an answer and its record."""
    recorded: list[str] = []

    def listen(_: object) -> None:
        raise error

    async def attempt() -> None:
        Listener(listen, "on_event")("the answer is here")
        recorded.append("id")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        recorded.append("committed")

    async def main() -> None:
        await OwnedTasks(clock=SystemClock(), grace=5.0).run(attempt())
        await asyncio.Event().wait()

    assert fresh_loop(main()) is error
    assert recorded == ["id", "committed"]


async def test_a_thread_runs_in_a_copy_of_its_callers_context() -> None:
    """What it logs is its caller's."""
    CALLER.set("caller")

    def work() -> str:
        found = CALLER.get()
        CALLER.set("thread")
        return found

    assert await run_in_thread(work) == "caller"
    assert CALLER.get() == "caller"
