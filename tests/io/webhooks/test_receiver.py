"""The receiver: each event has an effect once, and nothing is acknowledged before it is kept."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any

import pytest

from aistemsplitter_async._wire.signature import SIGNATURE_HEADER, sign
from aistemsplitter_async.config import WEBHOOK_HANDLING, Secret
from aistemsplitter_async.errors import ConfigurationError, WebhookError
from aistemsplitter_async.testing import FakeClock
from aistemsplitter_async.webhooks.event import WebhookEvent
from aistemsplitter_async.webhooks.inbox import MemoryInbox
from aistemsplitter_async.webhooks.receiver import WebhookReceiver

SECRET = "whsec_canary"
URL = "https://example.com/webhooks"


def event(split_id: str = "split_1", status: str = "succeeded") -> WebhookEvent:
    return WebhookEvent("audio.split.completed", split_id, status)


async def send(
    receiver: WebhookReceiver, clock: FakeClock, split_id: str = "split_1", *, secret: str = SECRET, late: int = 0
) -> int:
    """Let the receiver handle an event that was signed `late` seconds ago."""
    data = {"id": split_id, "status": "succeeded"}
    body = json.dumps({"event": "audio.split.completed", "data": data}).encode()
    return await receiver.handle(body, {SIGNATURE_HEADER: sign(body, secret, int(clock.now()) - late)})


def make(clock: FakeClock, **options: Any) -> WebhookReceiver:
    given: dict[str, Any] = {"url": URL, "clock": clock} | options
    return WebhookReceiver(SECRET, **given)


async def test_an_event_has_an_effect_once_however_often_it_comes() -> None:
    clock, seen = FakeClock(), list[WebhookEvent]()
    receiver = make(clock, on_event=seen.append)
    assert [await send(receiver, clock, late=n) for n in range(3)] == [200] * 3
    assert await asyncio.gather(*(send(receiver, clock, "split_2", late=n) for n in range(50))) == [200] * 50
    assert seen == [event(), event("split_2")]


async def test_duplicates_that_come_while_the_first_is_handled_wait_for_its_outcome() -> None:
    clock, handled, calls = FakeClock(), asyncio.Event(), 0

    async def on_event(_: WebhookEvent) -> None:
        nonlocal calls
        calls += 1
        await handled.wait()
        raise OSError("the database is away")

    receiver = make(clock, on_event=on_event)
    sending = [asyncio.create_task(send(receiver, clock)) for _ in range(3)]
    await clock.settle()
    assert not any(task.done() for task in sending)
    handled.set()
    assert await asyncio.gather(*sending) == [503] * 3
    assert calls == 1


def test_the_same_event_in_another_event_loop_waits_for_no_future_of_this_one() -> None:
    """As Flask runs `async` views: each in a loop and a thread of its own. Such a future would wake no call."""
    clock, both = FakeClock(), threading.Barrier(2, timeout=5)
    receiver = make(clock, on_event=lambda _: both.wait())
    with ThreadPoolExecutor(2) as threads:
        answers = threads.map(
            lambda late: asyncio.run(asyncio.wait_for(send(receiver, clock, late=late), 10)), range(2)
        )
        assert list(answers) == [200, 200]


async def test_a_handler_that_fails_is_called_again_when_the_sender_tries_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock, attempts = FakeClock(), list[WebhookEvent]()

    def on_event(new: WebhookEvent) -> None:
        attempts.append(new)
        if len(attempts) < 3:
            raise KeyError("not yet")

    receiver = make(clock, on_event=on_event)
    assert [await send(receiver, clock, late=n) for n in range(4)] == [503, 503, 200, 200]
    assert len(attempts) == 3
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert SECRET not in caplog.text


class Odd(BaseException):
    """An exception that no handler should raise."""


async def wait_for_a_cancelled_task() -> None:
    task = asyncio.create_task(asyncio.sleep(10))
    task.cancel()
    await task


async def run_out_of_time() -> None:
    async with asyncio.timeout(0):
        await asyncio.Event().wait()


async def fail_in_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(run_out_of_time())


async def fail_oddly() -> None:
    raise Odd


@pytest.mark.parametrize("fail", [wait_for_a_cancelled_task, run_out_of_time, fail_in_a_group, fail_oddly])
async def test_however_a_handler_fails_the_sender_is_asked_to_try_again(
    fail: Callable[[], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    clock, broken = FakeClock(), True

    async def on_event(_: WebhookEvent) -> None:
        if broken:
            await fail()

    receiver = make(clock, on_event=on_event)
    assert await send(receiver, clock) == 503
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    broken = False
    assert await send(receiver, clock) == 200


async def test_a_handler_that_hangs_is_cancelled_and_its_duplicates_fail_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock, calls = FakeClock(), 0

    async def hang(_: WebhookEvent) -> None:
        nonlocal calls
        calls += 1
        await asyncio.Event().wait()

    receiver = make(clock, on_event=hang)
    sending = [asyncio.create_task(send(receiver, clock)) for _ in range(3)]
    await clock.advance(WEBHOOK_HANDLING - 1)
    assert not any(task.done() for task in sending)
    sending.append(asyncio.create_task(send(receiver, clock)))
    await clock.advance(1)
    assert [task.result() for task in sending] == [503] * 4
    assert calls == 1
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


class BrokenInbox(MemoryInbox):
    """A disk that is full for a while."""

    full = True

    async def put(self, event: WebhookEvent) -> None:
        if self.full:
            raise OSError("no space left on device")
        await super().put(event)


async def test_an_event_that_cannot_be_kept_is_not_acknowledged() -> None:
    clock, seen = FakeClock(), list[WebhookEvent]()
    inbox = BrokenInbox(clock=clock)
    receiver = make(clock, on_event=seen.append, inbox=inbox)
    assert await send(receiver, clock) == 503
    assert not await inbox.has(event())
    inbox.full = False
    assert await send(receiver, clock) == 200
    assert await inbox.has(event())


async def test_an_event_whose_request_is_cancelled_is_not_acknowledged_and_taken_when_it_comes_again() -> None:
    clock, attempts, seen = FakeClock(), asyncio.Semaphore(0), list[WebhookEvent]()

    async def on_event(new: WebhookEvent) -> None:
        await attempts.acquire()
        seen.append(new)

    receiver = make(clock, on_event=on_event)
    sending = [asyncio.create_task(send(receiver, clock)) for _ in range(3)]
    await clock.settle()
    sending[0].cancel()
    outcomes = await asyncio.gather(*sending, return_exceptions=True)
    assert isinstance(outcomes[0], asyncio.CancelledError)
    assert (outcomes[1:], seen) == ([503, 503], [])
    attempts.release()
    assert await send(receiver, clock) == 200
    assert seen == [event()]


async def test_a_refused_request_has_no_effect_and_only_on_refused_gets_the_reason() -> None:
    clock, seen, refusals = FakeClock(), list[WebhookEvent](), list[WebhookError]()
    receiver = make(clock, on_event=seen.append, on_refused=refusals.append)
    statuses = [
        await send(receiver, clock, secret="another"),
        await send(receiver, clock, late=301),
        await send(receiver, clock, late=-301),
        await receiver.handle(b"{}", {}),
        await receiver.handle(b"{}", {SIGNATURE_HEADER: "t=1"}),
        await receiver.handle(b"{}", {SIGNATURE_HEADER: sign(b"{}", SECRET, int(clock.now()))}),
        await receiver.handle(b" " * 70_000, {}),
        await receiver.handle(b"", {"Content-Encoding": "gzip"}),
    ]
    assert statuses == [400] * 6 + [413, 400]
    assert [refusal.code for refusal in refusals] == [
        "SIGNATURE_MISMATCH",
        "TIMESTAMP_STALE",
        "TIMESTAMP_FUTURE",
        "SIGNATURE_MISSING",
        "SIGNATURE_MALFORMED",
        "EVENT_MALFORMED",
        "BODY_TOO_LARGE",
        "BODY_ENCODED",
    ]
    assert seen == []


async def test_an_on_refused_that_fails_does_not_change_the_answer(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: WebhookError) -> None:
        raise KeyError("not prepared for this")

    receiver = make(FakeClock(), on_refused=fail)
    assert [await receiver.handle(b"{}", {}), receiver.refuse_unread({}, size=70_000)] == [400, 413]
    (record,) = caplog.records  # once for each kind
    assert record.message.startswith("on_refused raised KeyError")


@pytest.mark.parametrize(("late", "status"), [(299, 200), (-299, 200), (301, 400), (-301, 400)])
async def test_the_tolerance_counts_both_ways(late: int, status: int) -> None:
    clock = FakeClock()
    assert await send(make(clock), clock, late=late) == status


async def test_secrets_come_from_the_environment_and_may_be_several(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    monkeypatch.setenv("AISTEMSPLITTER_WEBHOOK_SECRET", " old_one new_one\n")
    receiver = WebhookReceiver(url=URL, clock=clock)
    assert await send(receiver, clock, "split_1", secret="old_one") == 200
    assert await send(receiver, clock, "split_2", secret="new_one") == 200
    assert await send(receiver, clock, "split_3", secret=SECRET) == 400
    monkeypatch.delenv("AISTEMSPLITTER_WEBHOOK_SECRET")
    with pytest.raises(ConfigurationError, match="set AISTEMSPLITTER_WEBHOOK_SECRET or pass secrets") as caught:
        WebhookReceiver(url=URL)
    assert caught.value.code == "NO_WEBHOOK_SECRET"


@pytest.mark.parametrize("secrets", ["", [""], [SECRET, ""], b"", b"whsec", [b"whsec"], [None], [SECRET, None], 5, 0])
def test_a_secret_that_is_empty_or_not_text_is_refused_and_not_shown(secrets: Any) -> None:
    with pytest.raises(ConfigurationError, match="secret") as caught:
        WebhookReceiver(secrets, url=URL)
    assert "whsec" not in str(caught.value)


def test_an_async_on_refused_is_refused() -> None:
    async def on_refused(_: WebhookError) -> None: ...

    with pytest.raises(ConfigurationError, match="on_refused must be an ordinary function"):
        WebhookReceiver(SECRET, url=URL, on_refused=on_refused)


@pytest.mark.parametrize(
    "options",
    [
        {"url": "example.com/webhooks"},
        {"url": "ftp://example.com"},
        {"url": "https://"},
        {"url": "https://[::1"},
        {"url": "https://example.com:port/"},
        {"url": "https://example.com/#here"},
        {"url": "https://example.com/a b"},
        {"url": " https://example.com/"},
        {"url": "https://example.com/\n"},
        {"url": "https://exam\tple.com/"},
        {"url": None},
        {"url": b"https://example.com/"},
        {"tolerance": "300"},
        {"tolerance": None},
        {"tolerance": True},
        {"tolerance": 0},
        {"tolerance": -1.0},
        {"tolerance": float("inf")},
        {"tolerance": float("nan")},
    ],
)
def test_what_cannot_be_right_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        WebhookReceiver(SECRET, **({"url": URL} | options))


async def test_a_receiver_without_secrets_follows_its_inbox_and_receives_nothing() -> None:
    receiver = WebhookReceiver([], url=URL)
    with pytest.raises(ConfigurationError, match="only follows its inbox"):
        await receiver.handle(b"{}", {})
    with pytest.raises(ConfigurationError, match="only follows its inbox"):
        _ = receiver.asgi
    with pytest.raises(ConfigurationError, match="only follows its inbox"):
        _ = receiver.aiohttp_handler


def test_no_secret_is_shown() -> None:
    receiver = WebhookReceiver([SECRET, Secret("whsec_more")], url="https://user:pass@example.com/hooks?token=abc")
    assert repr(receiver) == "WebhookReceiver(url='https://example.com/hooks')"
    assert "whsec" not in f"{vars(receiver)}"


async def first(events: AsyncIterator[WebhookEvent], count: int) -> list[WebhookEvent]:
    return [await anext(events) for _ in range(count)]


async def test_a_late_follower_gets_the_events_from_before() -> None:
    inbox = MemoryInbox(clock=FakeClock())
    for split_id in ("split_1", "split_2", "split_1"):
        await inbox.put(event(split_id))
    async with aclosing(inbox.follow()) as one, aclosing(inbox.follow()) as other:
        assert await first(one, 2) == [event("split_1"), event("split_2")]
        waiting = asyncio.create_task(first(one, 1))
        await asyncio.sleep(0)
        await inbox.put(event("split_3"))
        assert await waiting == [event("split_3")]
        assert await first(other, 3) == [event("split_1"), event("split_2"), event("split_3")]


async def test_events_are_kept_for_a_while_and_no_more_than_so_many() -> None:
    clock = FakeClock()
    inbox = MemoryInbox(capacity=3, keep=60.0, clock=clock)
    for n in range(5):
        await inbox.put(event(f"split_{n}"))
    assert [await inbox.has(event(f"split_{n}")) for n in range(5)] == [False, False, True, True, True]
    await clock.advance(59.0)
    await inbox.put(event("split_9"))
    await clock.advance(2.0)
    assert [await inbox.has(event(f"split_{n}")) for n in (4, 9)] == [False, True]


def test_events_in_memory_are_not_lost_silently_between_event_loops(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    receiver = make(clock)

    async def follow() -> None:
        async for _ in receiver.inbox.follow():
            pass

    async def in_one_loop() -> int:
        following = asyncio.create_task(follow())
        await asyncio.sleep(0)
        with ThreadPoolExecutor() as pool:
            status = pool.submit(asyncio.run, send(receiver, clock)).result()
        following.cancel()
        await asyncio.wait({following})
        return status

    assert asyncio.run(in_one_loop()) == 503
    assert "give each an SQLiteInbox on the same file" in caplog.text
    assert asyncio.run(send(receiver, clock)) == 200  # there is no follower in another loop any more


def test_a_follower_in_a_loop_that_was_closed_without_a_word_is_in_nobodys_way() -> None:
    clock = FakeClock()
    receiver = make(clock)
    followed = receiver.inbox.follow()

    async def follow() -> None:
        await receiver.inbox.put(event("split_0"))
        await anext(followed)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(follow())
    loop.close()
    assert asyncio.run(send(receiver, clock)) == 200


async def test_a_follower_that_leaves_is_forgotten() -> None:
    inbox = MemoryInbox()
    await inbox.put(event())
    async with aclosing(inbox.follow()) as events:
        await anext(events)
        assert len(inbox._followers) == 1
    assert inbox._followers == set()
