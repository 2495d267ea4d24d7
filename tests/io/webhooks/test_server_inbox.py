"""What inboxes on servers have in common, over a server that fails as it is told to, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import pytest

from aistemsplitter_async import ConfigurationError
from aistemsplitter_async.config import INBOX_IDLE, INBOX_OUTAGE, INBOX_PATIENCE
from aistemsplitter_async.testing import FakeClock
from aistemsplitter_async.webhooks import WebhookEvent
from aistemsplitter_async.webhooks.server_inbox import ServerInbox


def event(number: int) -> WebhookEvent:
    return WebhookEvent("audio.split.completed", f"split_{number}", "succeeded")


class Server:
    """Events in a list. Where something is wrong with it, every request raises that, or gets no answer."""

    def __init__(self) -> None:
        self.events: list[WebhookEvent] = []
        self.wrong: Exception | None = None
        self.hangs = False
        self.log: list[str] = []
        self.open = 0


class Line:
    def __init__(self, server: Server, clock: FakeClock) -> None:
        self.server = server
        self.clock = clock
        self.aborted = False
        server.open += 1

    async def find(self, events: Collection[WebhookEvent]) -> Collection[WebhookEvent]:
        await self.request(f"find {len(events)}")
        return {one for one in events if one in self.server.events}

    async def put(self, events: Collection[WebhookEvent]) -> None:
        await self.request(f"put {len(events)}")
        self.server.events.extend(one for one in events if one not in self.server.events)

    async def read(self, after: int | None) -> list[tuple[int, WebhookEvent]]:
        await self.request("read")
        return [pair for pair in enumerate(self.server.events) if after is None or pair[0] > after]

    async def newest(self) -> int | None:
        return len(self.server.events) - 1 if self.server.events else None

    async def wait(self, after: int | None, seconds: float) -> None:  # noqa: ARG002
        await self.clock.sleep(seconds)

    def abort(self) -> None:
        self.aborted = True

    async def aclose(self) -> None:
        self.server.open -= 1

    async def request(self, what: str) -> None:
        self.server.log.append(what)
        while self.server.hangs:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if self.aborted:
                    raise
                await asyncio.Event().wait()  # as psycopg does: it asks the server to end the request
        if self.server.wrong is not None:
            raise self.server.wrong


class Inbox(ServerInbox):
    def __init__(self, server: Server, clock: FakeClock) -> None:
        super().__init__(clock=clock)
        self.server = server
        self.time = clock

    async def _connect(self) -> Line:
        self.server.log.append("connect")
        if self.server.wrong is not None:
            raise self.server.wrong
        return Line(self.server, self.time)

    def _explain(self, error: Exception) -> Exception:
        return error


async def test_what_comes_together_is_one_question_and_one_commit_and_a_failure_fails_all_of_it() -> None:
    clock, server = FakeClock(), Server()
    inbox = Inbox(server, clock)
    await inbox.put(event(0))
    known = await asyncio.gather(
        *(inbox.has(event(n % 3)) for n in range(6)), *(inbox.put(event(n)) for n in (1, 1, 2))
    )
    assert known[:6] == [True, False, False, True, False, False]
    assert server.log == ["connect", "put 1", "find 3", "put 2"]
    server.wrong = OSError("disk full")
    outcomes = await asyncio.gather(*(inbox.put(event(n)) for n in (3, 4)), return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["disk full"] * 2
    assert server.log[4:] == ["put 2", "connect"]  # the connection at hand may have died, so a new one is tried
    await inbox.aclose()
    assert server.open == 0


async def test_an_event_is_kept_although_the_request_that_brought_it_was_cancelled() -> None:
    clock, server = FakeClock(), Server()
    inbox = Inbox(server, clock)
    first, second = (asyncio.create_task(inbox.put(event(n))) for n in (1, 2))
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert first.cancelled()
    assert server.events == [event(1), event(2)]
    await inbox.aclose()


async def test_a_server_that_does_not_answer_fails_a_put_in_time_and_is_left() -> None:
    clock, server = FakeClock(), Server()
    inbox = Inbox(server, clock)
    await inbox.put(event(1))
    server.hangs = True
    putting = asyncio.create_task(inbox.put(event(2)))
    await clock.settle()
    await clock.advance(INBOX_PATIENCE)
    with pytest.raises(TimeoutError):
        await putting
    assert server.open == 0
    await inbox.aclose()


async def test_a_connection_that_nobody_uses_is_closed_after_a_while() -> None:
    clock, server = FakeClock(), Server()
    inbox = Inbox(server, clock)
    await inbox.put(event(1))
    await clock.advance(INBOX_IDLE - 1)
    assert server.open == 1
    await clock.advance(1)
    assert server.open == 0
    await inbox.put(event(2))
    assert server.events == [event(1), event(2)]
    await inbox.aclose()


class Following:
    """A task that follows, and what it heard."""

    def __init__(self, inbox: ServerInbox) -> None:
        self.heard: list[WebhookEvent] = []
        self.task = asyncio.create_task(self.run(inbox))

    async def run(self, inbox: ServerInbox) -> None:
        async for one in inbox.follow():
            self.heard.append(one)


async def test_a_follower_outlasts_an_outage_hears_what_it_missed_and_nothing_twice() -> None:
    clock, server = FakeClock(), Server()
    server.events = [event(1), event(2)]
    following = Following(Inbox(server, clock))
    await clock.settle()
    server.wrong = ConnectionError("away")
    await clock.advance(INBOX_OUTAGE - 5)
    assert server.open == 0
    server.wrong = None
    server.events = [event(1), event(3)]  # a replica that had not got the second, and gives its place again
    await clock.advance(2.0)
    assert following.heard == [event(1), event(2), event(3)]
    following.task.cancel()
    await asyncio.wait([following.task])
    assert server.open == 0


async def test_a_follower_notices_that_the_server_was_emptied_while_it_was_connected() -> None:
    clock, server = FakeClock(), Server()
    server.events = [event(1), event(2)]
    following = Following(Inbox(server, clock))
    await clock.settle()
    server.events = [event(3)]
    await clock.advance(2.0)
    assert following.heard == [event(1), event(2), event(3)]
    following.task.cancel()
    await asyncio.wait([following.task])


async def test_a_follower_says_at_once_what_is_wrong_at_first_and_after_a_minute_what_became_wrong() -> None:
    clock, server = FakeClock(), Server()
    server.wrong = ConnectionError("away")
    with pytest.raises(ConnectionError):
        await Following(Inbox(server, clock)).task
    server.wrong = None
    following = Following(Inbox(server, clock))
    await clock.settle()
    server.wrong = ConnectionError("away")
    await clock.advance(INBOX_OUTAGE - 1)
    assert not following.task.done()
    await clock.advance(4.0)
    with pytest.raises(ConnectionError):
        await following.task
    server.wrong = None
    following = Following(Inbox(server, clock))
    await clock.settle()
    server.wrong = ConfigurationError("another password")
    await clock.advance(1.0)
    with pytest.raises(ConfigurationError):
        await following.task


async def test_following_ends_at_once_when_it_is_cancelled_even_if_the_server_hangs() -> None:
    clock, server = FakeClock(), Server()
    following = Following(Inbox(server, clock))
    await clock.settle()
    server.hangs = True
    await clock.advance(1.0)
    following.task.cancel()
    async with asyncio.timeout(10):  # of real time; nothing moves the clock
        await asyncio.wait([following.task])
    assert following.task.cancelled()
    assert server.open == 0
