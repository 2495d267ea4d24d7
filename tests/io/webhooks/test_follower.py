"""A client remembers events: enough for waiters that come late, and never without bound."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator
from contextvars import ContextVar

import pytest

from aistemsplitter_async.testing import FakeClock
from aistemsplitter_async.webhooks import MemoryInbox, WebhookEvent
from aistemsplitter_async.webhooks.follower import InboxFollower

COMPLETED = "audio.split.completed"


async def test_waiters_are_woken_and_splits_remembered_only_when_they_are_done() -> None:
    clock, woken = FakeClock(), list[str]()
    inbox = MemoryInbox(clock=clock)
    follower = InboxFollower(inbox, woken.append, clock=clock)
    await inbox.put(WebhookEvent(COMPLETED, "split_1", "succeeded"))
    assert not follower.is_done("split_1")  # the first call begins to follow the inbox
    await clock.settle()
    await inbox.put(WebhookEvent("audio.split.progress", "split_2", "processing"))
    await inbox.put(WebhookEvent("audio.split.failed", "split_3", "failed"))
    await clock.settle()
    assert woken == ["split_1", "split_3"]
    assert [follower.is_done(f"split_{n}") for n in (1, 2, 3)] == [True, False, True]
    await follower.aclose()


async def test_finished_splits_are_forgotten_after_a_while_and_beyond_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aistemsplitter_async.webhooks.follower.INBOX_EVENTS", 3)
    monkeypatch.setattr("aistemsplitter_async.webhooks.follower.INBOX_KEEP", 60.0)
    clock = FakeClock()
    inbox = MemoryInbox(clock=clock)
    follower = InboxFollower(inbox, lambda _: None, clock=clock)
    follower.is_done("")
    await clock.settle()
    for n in range(5):
        await inbox.put(WebhookEvent(COMPLETED, f"split_{n}", "succeeded"))
        await clock.settle()
    assert [follower.is_done(f"split_{n}") for n in range(5)] == [False, False, True, True, True]
    await clock.advance(60.0)
    assert not follower.is_done("split_4")
    await follower.aclose()


async def test_a_notification_is_expected_until_it_comes() -> None:
    clock = FakeClock()
    inbox = MemoryInbox(clock=clock)
    follower = InboxFollower(inbox, lambda _: None, clock=clock)
    follower.expect("split_1")
    assert not follower.is_done("split_1")
    assert [follower.expects("split_1"), follower.expects("split_2")] == [True, False]
    await inbox.put(WebhookEvent(COMPLETED, "split_1", "succeeded"))
    await clock.settle()
    assert not follower.expects("split_1")
    await follower.aclose()


async def test_no_more_than_so_many_notifications_are_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aistemsplitter_async.webhooks.follower.INBOX_EVENTS", 3)
    follower = InboxFollower(MemoryInbox(), print, clock=FakeClock())
    for n in range(5):
        follower.expect(f"split_{n}")
    assert [follower.expects(f"split_{n}") for n in range(5)] == [False, False, True, True, True]


class Repeating(MemoryInbox):
    """Fails after all its events, and starts over when it is followed again."""

    async def follow(self) -> AsyncGenerator[WebhookEvent, None]:
        for event in list(self._events):
            yield event
        raise OSError("the database is away")


async def test_a_repeated_event_is_kept_longer_and_does_not_keep_others_from_being_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aistemsplitter_async.webhooks.follower.INBOX_KEEP", 60.0)
    clock = FakeClock()
    inbox = Repeating(keep=math.inf, clock=clock)
    follower = InboxFollower(inbox, lambda _: None, clock=clock)
    for split_id in ("split_1", "split_2"):
        await inbox.put(WebhookEvent(COMPLETED, split_id, "succeeded"))
    follower.is_done("")
    await clock.settle()
    inbox._events.popitem(last=True)
    await clock.advance(61.0)
    assert [follower.is_done(f"split_{n}") for n in (1, 2)] == [True, False]
    await follower.aclose()


class Unusable(MemoryInbox):
    """Never works, for one reason or another, or only for a while."""

    reason = "the database is away"
    works_for = 0.0

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock=clock)
        self.clock = clock
        self.tried: list[float] = []

    async def follow(self) -> AsyncGenerator[WebhookEvent, None]:
        self.tried.append(self.clock.monotonic())
        if self.works_for:
            await self.clock.sleep(self.works_for)
        if self.reason:
            raise OSError(self.reason)
        yield WebhookEvent(COMPLETED, "split_1", "succeeded")


async def test_a_broken_inbox_is_tried_less_and_less_often_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = FakeClock(start=0.0)
    inbox = Unusable(clock)
    follower = InboxFollower(inbox, lambda _: None, clock=clock)
    follower.is_done("")
    await clock.advance(200.0)
    assert inbox.tried == [0, 1, 3, 7, 15, 31, 63, 123, 183]
    assert [(record.levelno, record.exc_info) for record in caplog.records] == [(logging.WARNING, None)]
    assert "the database is away" in caplog.text
    inbox.reason = "it is another one"
    await clock.advance(100.0)
    assert len(caplog.records) == 2
    inbox.works_for = 60.0  # after which trouble is logged again, and the backoff starts over
    await clock.advance(122.0)
    assert len(caplog.records) == 3
    await follower.aclose()


async def test_a_client_that_never_waits_follows_nothing() -> None:
    before = asyncio.all_tasks()
    follower = InboxFollower(MemoryInbox(), print, clock=FakeClock())
    await follower.aclose()
    assert asyncio.all_tasks() == before


CALLER = ContextVar("CALLER", default="nobody")


async def test_an_inbox_is_followed_in_no_waits_context() -> None:
    """It serves every wait for as long as the client lives, and the first of them only begins it."""
    whose, woken = list[str](), asyncio.Event()

    class Noting(MemoryInbox):
        async def follow(self) -> AsyncGenerator[WebhookEvent, None]:
            whose.append(CALLER.get())
            woken.set()
            await asyncio.Event().wait()
            yield WebhookEvent("never", "split_1")

    CALLER.set("the first wait")
    follower = InboxFollower(Noting(), lambda _: None, clock=FakeClock())
    follower.is_done("split_1")
    await woken.wait()
    await follower.aclose()
    assert whose == ["nobody"]
