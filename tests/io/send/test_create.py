"""A create whose caller is cancelled, or whose hooks fail: it is always known whether there is a split."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from aistemsplitter_async import (
    AIStemSplitterError,
    APIConnectionError,
    APITimeoutError,
    AsyncAIStemSplitter,
    ConfigurationError,
    CreateAbandoned,
    DirectURL,
    Gate,
    InsufficientCreditsError,
    RateLimit,
    SplitCreated,
    Submission,
    SubmissionUncertainError,
)
from aistemsplitter_async.testing import error_reply
from tests.io.fakes import Script, World, hang, reset

URL = DirectURL("https://example.com/a.mp3")
KEY = "key-1"


def created_after(world: World, seconds: float) -> Script:
    """The server creates the split at once and answers later."""

    async def answer(exchange: Any) -> Any:
        reply = world.api.do_create(exchange)
        await world.clock.sleep(seconds)
        return reply

    return answer


async def start(world: World, work: Awaitable[object]) -> asyncio.Task[object]:
    task = asyncio.ensure_future(work)
    await world.clock.settle()
    return task


def create(client: AsyncAIStemSplitter, **options: Any) -> Awaitable[object]:
    return client.create_split(URL, idempotency_key=KEY, **options)


def cause(task: asyncio.Task[object]) -> BaseException | None:
    """The cause of a task's cancellation."""
    try:
        task.result()
    except asyncio.CancelledError as cancelled:
        return cancelled.__cause__
    raise AssertionError("not cancelled")


def abandoned(world: World) -> list[Submission]:
    return [event.submission for event in world.of(CreateAbandoned)]


async def resubmit(world: World, client: AsyncAIStemSplitter, submission: Submission) -> str:
    """Resubmit while time moves, and return the split's id."""
    task = await start(world, client.resubmit(submission))
    await world.clock.advance(60)
    return task.result().id  # type: ignore[attr-defined, no-any-return]


async def test_a_cancellation_within_the_grace_names_the_split_that_was_created(still: World) -> None:
    still.api.script("create", created_after(still, 4))
    async with still.client() as client:
        task = await start(still, create(client))
        for _ in range(8):
            task.cancel()
            await still.clock.advance(0.5)
        error = cause(task)
    assert isinstance(error, AIStemSplitterError)
    assert (error.code, error.split_id, error.idempotency_key) == ("CREATED", "split_1", KEY)
    assert [event.split_id for event in still.of(SplitCreated)] == ["split_1"]
    assert abandoned(still) == []


async def test_when_the_grace_ends_an_event_and_the_cancellation_carry_what_to_resubmit(still: World) -> None:
    still.api.script("create", created_after(still, 60))
    async with still.client() as client:
        task = await start(still, create(client))
        task.cancel()
        await still.clock.advance(5.1)
        error = cause(task)
        assert isinstance(error, SubmissionUncertainError)
        assert abandoned(still) == [error.submission]
        assert error.submission == Submission(KEY, still.api.of("create")[0].body)
        assert await resubmit(still, client, error.submission) == "split_1"
    assert still.api.created == {KEY: "split_1"}


async def test_a_cancellation_between_two_attempts_carries_what_to_resubmit(still: World) -> None:
    still.api.script("create", reset())
    async with still.client() as client:
        task = await start(still, create(client))
        assert still.api.count("create") == 1  # and now it waits for its second attempt
        task.cancel()
        await still.clock.settle()
        error = cause(task)
    assert isinstance(error, SubmissionUncertainError)
    assert abandoned(still) == [error.submission]


async def test_a_resubmission_cancelled_at_the_gate_stays_uncertain(still: World) -> None:
    gate = Gate(RateLimit(1), clock=still.clock)
    (await gate.admit()).settle()
    submission = Submission(KEY, b"{}")
    async with still.client(gate=gate) as client:
        task = await start(still, client.resubmit(submission))
        task.cancel()
        await still.clock.settle()
        error = cause(task)
    assert isinstance(error, SubmissionUncertainError)
    assert error.submission == submission
    assert abandoned(still) == [submission]


async def test_a_create_cancelled_before_it_was_sent_has_nothing_to_resubmit(still: World) -> None:
    gate = Gate(RateLimit(1), clock=still.clock)
    (await gate.admit()).settle()
    async with still.client(gate=gate) as client:
        task = await start(still, create(client))
        task.cancel()
        await still.clock.settle()
        assert cause(task) is None
    assert abandoned(still) == []


async def test_whoever_cancels_all_tasks_learns_what_to_resubmit(still: World) -> None:
    """A common way to shut a program down, which cancels the task of the create as well."""
    still.api.script("create", created_after(still, 60))
    async with still.client() as client:
        task = await start(still, create(client))
        for one in asyncio.all_tasks() - {asyncio.current_task()}:
            one.cancel()
        await still.clock.settle()
        error = cause(task)
        assert isinstance(error, SubmissionUncertainError)
        assert abandoned(still) == [error.submission]
    assert client.gate.snapshot().used == 1  # it may have counted
    await still.clock.advance(60)
    assert client.gate.snapshot().used == 0


async def test_a_task_that_is_cancelled_before_it_begins_gives_its_slot_back(still: World) -> None:
    class Cancelling(Gate):
        async def admit(self, *arguments: Any) -> Any:
            def cancel_new_tasks() -> None:
                for task in asyncio.all_tasks() - before:
                    task.cancel()

            slot = await super().admit(*arguments)
            before = asyncio.all_tasks()
            asyncio.get_running_loop().call_soon(cancel_new_tasks)  # runs before the task that is created now
            return slot

    gate = Cancelling(RateLimit(1), clock=still.clock)
    async with still.client(gate=gate) as client:
        task = await start(still, create(client))
        assert cause(task) is None
    assert still.api.asked == []
    assert gate.snapshot().used == 0


async def test_asyncios_timeout_carries_what_to_resubmit(still: World) -> None:
    still.api.script("create", created_after(still, 60))

    async def call(client: AsyncAIStemSplitter) -> None:
        async with still.clock.timeout_at(still.clock.monotonic() + 10):
            await create(client)

    async with still.client() as client:
        task = await start(still, call(client))
        await still.clock.advance(16)
        error = task.exception()
    assert isinstance(error, TimeoutError)
    assert error.__cause__ is not None
    assert isinstance(error.__cause__.__cause__, SubmissionUncertainError)
    assert abandoned(still) == [error.__cause__.__cause__.submission]


def once_it_arrives(do: Callable[[], object], answer: Script) -> Script:
    """Call `do` when the create arrives, and answer it with `answer`."""

    def arrive(_: Any) -> Script:
        do()
        return answer

    return arrive


@pytest.mark.parametrize("seconds", [4.0, 60.0])
async def test_anyios_scope_ends_after_the_attempt_or_its_grace(still: World, seconds: float) -> None:
    scope = anyio.CancelScope()
    still.api.script("create", once_it_arrives(scope.cancel, created_after(still, seconds)))
    began = still.clock.monotonic()

    async def call(client: AsyncAIStemSplitter) -> float:
        with scope:
            await create(client)
        assert scope.cancelled_caught
        return still.clock.monotonic() - began

    async with still.client() as client:
        task = await start(still, call(client))
        await still.clock.advance(10)
        assert task.result() == min(seconds, 5.0)
        known = [event.idempotency_key for event in still.of(SplitCreated)]
        assert known + [submission.idempotency_key for submission in abandoned(still)] == [KEY]


async def test_anyios_timeout_is_raised_as_a_timeout(still: World) -> None:
    async def call(client: AsyncAIStemSplitter) -> None:
        with anyio.fail_after(600) as scope:
            still.api.script(
                "create", once_it_arrives(lambda: setattr(scope, "deadline", 0.0), created_after(still, 60))
            )
            await create(client)

    async with still.client() as client:
        task = await start(still, call(client))
        await still.clock.advance(6)
        assert isinstance(task.exception(), TimeoutError)
    assert len(abandoned(still)) == 1


async def by_its_timeout(client: AsyncAIStemSplitter) -> None:
    with pytest.raises(APITimeoutError, match="none was created"):
        await create(client, timeout=0)


async def by_asyncios_timeout(client: AsyncAIStemSplitter) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await create(client)


async def by_anyios_timeout(client: AsyncAIStemSplitter) -> None:
    with pytest.raises(TimeoutError), anyio.fail_after(0):
        await create(client)


async def by_a_scope_that_is_over(client: AsyncAIStemSplitter) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await create(client)
    assert scope.cancelled_caught


async def by_a_sibling(client: AsyncAIStemSplitter) -> None:
    async def fail() -> None:
        raise ValueError

    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(create(client))  # type: ignore[arg-type]
            group.create_task(fail())

    with pytest.raises(ExceptionGroup):
        await both()


@pytest.mark.parametrize(
    "cancelled",
    [by_its_timeout, by_asyncios_timeout, by_anyios_timeout, by_a_scope_that_is_over, by_a_sibling],
)
async def test_a_create_cancelled_before_its_first_turn_is_not_sent(
    still: World, cancelled: Callable[[AsyncAIStemSplitter], Awaitable[None]]
) -> None:
    async with still.client() as client:
        await cancelled(client)
        assert client.gate.snapshot().used == 0
    assert still.api.asked == []
    assert abandoned(still) == []


@pytest.mark.parametrize("often", [1, 3])
async def test_a_create_cancelled_during_before_send_is_not_sent(still: World, often: int) -> None:
    stored: list[Submission] = []

    async def store(submission: Submission) -> None:
        await still.clock.sleep(3)
        stored.append(submission)

    async with still.client() as client:
        task = await start(still, create(client, before_send=store))
        for _ in range(often):
            task.cancel()
            await still.clock.advance(0.5)
        await still.clock.advance(3)
        assert cause(task) is None
        assert client.gate.snapshot().used == 0
    assert [submission.idempotency_key for submission in stored] == [KEY], "it has time to finish"
    assert still.api.asked == []
    assert abandoned(still) == []


async def test_a_client_closed_during_before_send_sends_nothing(still: World) -> None:
    async def store(_: Submission) -> None:
        await still.clock.sleep(3)

    client = still.client()
    task = await start(still, create(client, before_send=store))
    await start(still, client.aclose())
    await still.clock.advance(4)
    assert isinstance(task.exception(), APIConnectionError)
    assert still.api.asked == []


@pytest.mark.parametrize(
    ("answers", "options", "count"),
    [
        ([reset()] * 5, {}, 1),
        ([reset(), error_reply(402, "INSUFFICIENT_CREDITS")], {}, 1),
        ([hang], {"timeout": 10}, 1),
        ([error_reply(402, "INSUFFICIENT_CREDITS")], {}, 0),
        ([reset(arrived=False)] * 5, {}, 0),
        ([reset(), None], {}, 0),
    ],
)
async def test_every_create_that_is_given_up_while_ambiguous_emits_one_event_and_no_other_does(
    still: World, answers: list[Script], options: dict[str, Any], count: int
) -> None:
    still.api.script("create", *answers)
    async with still.client() as client:
        task = await start(still, create(client, **options))
        await still.clock.advance(600)
        error = task.exception()
    assert isinstance(error, SubmissionUncertainError) is bool(count)
    assert len(abandoned(still)) == count
    if isinstance(error, SubmissionUncertainError):
        assert abandoned(still) == [error.submission]


# --- before_send is a gate


class Stopped(BaseException):
    """An exception that is none of `Exception`."""


async def fail_with(client: AsyncAIStemSplitter, error: BaseException) -> BaseException:
    """Create a split whose `before_send` raises, and return what reaches the caller."""

    async def store(_: Submission) -> None:
        raise error

    with pytest.raises(BaseException) as caught:  # noqa: PT011  # its identity is checked
        await create(client, before_send=store)
    return caught.value


@pytest.mark.parametrize(
    "error",
    [
        OSError("disk full"),
        KeyError("missing"),
        TimeoutError("database"),
        ConfigurationError("mine"),
        APIConnectionError("mine"),
        InsufficientCreditsError("mine"),
        Stopped(),
        asyncio.CancelledError("a future of the hook's"),
        StopAsyncIteration(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_before_send_raises_reaches_the_caller_as_it_is_with_the_key(
    world: World, error: BaseException
) -> None:
    gate = Gate(RateLimit(1), clock=world.clock)
    async with world.client(gate=gate) as client:
        for _ in range(2):
            assert await fail_with(client, error) is error
            assert gate.snapshot().used == 0
        assert error.__notes__ == [f"raised by before_send, so the create was not sent; its idempotency key is {KEY}"]
        if isinstance(error, AIStemSplitterError):
            assert error.idempotency_key == KEY
    assert world.api.asked == []
    assert abandoned(world) == []


async def test_what_before_send_raises_before_a_replay_leaves_the_create_ambiguous(world: World) -> None:
    error = KeyError("missing")
    calls: list[Submission] = []

    async def store(submission: Submission) -> None:
        calls.append(submission)
        if len(calls) == 2:
            raise error

    world.api.script("create", reset())
    gate = Gate(RateLimit(5), clock=world.clock)
    async with world.client(gate=gate) as client:
        with pytest.raises(SubmissionUncertainError) as caught:
            await create(client, before_send=store)
        assert gate.snapshot().used == 1  # the first attempt's
    assert caught.value.__cause__ is error
    assert caught.value.submission == calls[0] == calls[1]
    assert abandoned(world) == [calls[0]]
    assert world.api.count("create") == 1


@pytest.mark.parametrize("error", [Stopped(), asyncio.CancelledError("a future of the hook's")])
async def test_a_replay_stopped_by_before_send_in_any_way_stays_ambiguous(world: World, error: BaseException) -> None:
    async def store(_: Submission) -> None:
        raise error

    submission = Submission(KEY, b"{}")
    async with world.client() as client:
        with pytest.raises(type(error)) as caught:
            await client.resubmit(submission, before_send=store)
    assert caught.value is error
    assert isinstance(error.__cause__, SubmissionUncertainError)
    assert abandoned(world) == [submission]
    assert world.api.asked == []


async def test_before_send_that_runs_out_of_time_with_the_call_is_not_mistaken_for_it(world: World) -> None:
    async def store(_: Submission) -> None:
        await world.clock.sleep(9.999)
        world.clock._time += 1  # the deadline passes, but the loop has not noticed
        raise TimeoutError("database")

    async with world.client() as client:
        with pytest.raises(TimeoutError, match="database"):
            await create(client, before_send=store, timeout=10)
    assert world.api.asked == []


@pytest.mark.parametrize("hook", [lambda _: None, lambda _: "stored", print], ids=["lambda", "text", "print"])
async def test_before_send_that_is_not_async_is_refused_and_nothing_is_sent(
    world: World, hook: Callable[[Submission], object]
) -> None:
    gate = Gate(RateLimit(1), clock=world.clock)
    async with world.client(gate=gate) as client:
        with pytest.raises(ConfigurationError, match="before_send must be an async function") as caught:
            await create(client, before_send=hook)
    assert caught.value.idempotency_key == KEY
    assert world.api.asked == []
    assert gate.snapshot().used == 0


async def test_before_send_may_be_anything_that_returns_an_awaitable(world: World) -> None:
    calls: list[Submission] = []

    async def store(submission: Submission) -> None:
        calls.append(submission)

    async with world.client() as client:
        await create(client, before_send=lambda submission: asyncio.ensure_future(store(submission)))
    assert len(calls) == 1


# --- closing the client


async def test_closing_a_client_waits_for_the_create_that_is_under_way(still: World) -> None:
    still.api.script("create", created_after(still, 4))
    client = still.client()
    task = await start(still, create(client))
    closing = await start(still, client.aclose())
    await still.clock.advance(3.9)
    assert not closing.done()
    seen = [still.api.closed]
    await still.clock.advance(0.2)
    assert closing.done()
    assert [*seen, still.api.closed] == [False, True]
    assert task.result().id == "split_1"  # type: ignore[attr-defined]


async def test_closing_a_client_waits_no_longer_than_the_grace(still: World) -> None:
    still.api.script("create", created_after(still, 60))
    client = still.client()
    task = await start(still, create(client))
    closing = await start(still, client.aclose())
    await still.clock.advance(5.1)
    assert closing.done()
    assert still.api.closed
    await still.clock.advance(60)
    assert task.result().id == "split_1"  # type: ignore[attr-defined]  # this transport lets it go on


async def test_a_client_that_is_being_closed_sends_no_create_more(still: World) -> None:
    still.api.script("create", created_after(still, 4))
    client = still.client(rate_limit=RateLimit(1, per=1.0))
    first = await start(still, create(client))
    second = await start(still, client.create_split(URL))
    await start(still, client.aclose())
    await still.clock.advance(10)
    assert first.result().id == "split_1"  # type: ignore[attr-defined]
    assert isinstance(second.exception(), APIConnectionError)
    assert "closed" in str(second.exception())
    assert still.api.count("create") == 1


@pytest.mark.parametrize("by_anyio", [False, True])
async def test_a_client_closed_by_a_cancelled_caller_is_closed(still: World, by_anyio: bool) -> None:
    still.api.script("create", created_after(still, 4))
    client = still.client()
    creating = await start(still, create(client))

    async def work() -> None:
        with anyio.CancelScope() as scope:
            async with client:
                if by_anyio:
                    scope.cancel()
                await asyncio.Event().wait()

    task = await start(still, work())
    for _ in range(0 if by_anyio else 5):
        task.cancel()
        await still.clock.settle()
    assert not task.done()
    await still.clock.advance(4.1)
    assert task.done()
    assert task.cancelled() is not by_anyio
    assert still.api.closed
    assert creating.result().id == "split_1"  # type: ignore[attr-defined]


async def test_closing_twice_waits_for_the_same_end(still: World) -> None:
    still.api.script("create", created_after(still, 4))
    client = still.client()
    await start(still, create(client))
    closings = [await start(still, client.aclose()) for _ in range(2)]
    assert not any(closing.done() for closing in closings)
    await still.clock.advance(4.1)
    assert all(closing.done() for closing in closings)
