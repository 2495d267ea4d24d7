"""Clients that are notified by webhooks, against the sandbox: few requests, and no wait without end."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

from aistemsplitter_async import (
    AsyncAIStemSplitter,
    Job,
    MemoryInbox,
    PollPolicy,
    RateLimit,
    SplitFailedError,
    WebhookEvent,
    WebhookReceiver,
)
from aistemsplitter_async.sandbox import Manual, Sandbox, Timed, faults
from tests.e2e.harness import SECRET, serve_receiver

MINUTE = 1 / 60  # a second stands for a minute
SONG = "https://example.com/a.mp3?seconds=60"


@attrs.frozen
class Notified:
    """A sandbox, a receiver, and a client that it notifies."""

    sandbox: Sandbox
    receiver: WebhookReceiver
    client: AsyncAIStemSplitter

    def polls(self) -> Counter[str]:
        """How often each split was polled."""
        return Counter({split.split_id: split.polls for split in self.sandbox.ledger.splits})


Start = Callable[..., AbstractAsyncContextManager[Notified]]


@pytest.fixture
def start() -> Start:
    """Start all three; silent and without a limit by default."""

    @asynccontextmanager
    async def all_three(
        client: dict[str, Any] | None = None, receiver: dict[str, Any] | None = None, **options: Any
    ) -> AsyncIterator[Notified]:
        given = {"separation": "silent", "requests_per_minute": None, "webhook_secret": SECRET} | options
        async with AsyncExitStack() as stack:
            serving = await stack.enter_async_context(serve_receiver(**(receiver or {})))
            sandbox = await stack.enter_async_context(Sandbox(**given))
            setup = AsyncAIStemSplitter(sandbox.api_key, base_url=sandbox.base_url, webhooks=serving, **(client or {}))
            yield Notified(sandbox, serving, await stack.enter_async_context(setup))

    return all_three


async def wait_for_all(jobs: list[Job]) -> None:
    async with asyncio.timeout(50):
        for split in await asyncio.gather(*(job.wait() for job in jobs)):
            assert split.status == "succeeded"
            assert split.stems


BUSY: dict[str, Any] = {
    "client": {"rate_limit": RateLimit(60).scaled(MINUTE), "poll": PollPolicy().scaled(MINUTE)},
    "requests_per_minute": 60,
    "minute": 60 * MINUTE,
    "progression": Timed(base=0.4, per_second=0.0, jitter=0.3, workers=100),
    "seed": 5,
}


async def submit(client: AsyncAIStemSplitter, count: int) -> list[Job]:
    return list(await asyncio.gather(*(client.submit(f"https://example.com/{n}.mp3?seconds=60") for n in range(count))))


async def test_a_hundred_splits_cost_two_requests_each(start: Start) -> None:
    async with start(**BUSY) as setup:
        await wait_for_all(await submit(setup.client, 100))
        assert setup.sandbox.ledger.count() <= 210
        assert setup.sandbox.ledger.throttled == 0
        assert {record.status for record in setup.sandbox.ledger.deliveries} == {200}


async def test_with_every_fifth_event_lost_all_finish_and_none_is_polled_more_than_three_times(
    start: Start,
) -> None:
    async with start(**BUSY) as setup:
        rule = setup.sandbox.faults.add("webhook", faults.Lost(), probability=0.2)
        await wait_for_all(await submit(setup.client, 100))
        assert 10 <= rule.consumed <= 35
        assert max(setup.polls().values()) <= 3
        assert setup.sandbox.ledger.count("get") <= 100 + 2 * rule.consumed


async def test_with_every_event_lost_they_are_found_by_polling(start: Start) -> None:
    async with start(client={"poll": PollPolicy().scaled(0.01)}) as setup:
        setup.sandbox.faults.add("webhook", faults.Lost(), times="always")
        setup.client._engine.poller._plan.model.learn(60, 0.02, running=[])  # else it takes as long as a song does
        await wait_for_all(await submit(setup.client, 5))


async def test_a_waiter_is_woken_by_the_event_and_polls_once(start: Start) -> None:
    async with start(progression=Manual()) as setup:
        job = await setup.client.submit(SONG)
        waiting = asyncio.create_task(job.wait())
        for _ in range(2):
            await asyncio.sleep(0.05)
            assert setup.sandbox.ledger.count("get") == 0
            await setup.sandbox.step(job.id)
        async with asyncio.timeout(15):
            assert (await waiting).status == "succeeded"
        assert setup.sandbox.ledger.count("get") == 1


async def arrived(setup: Notified, count: int = 1) -> None:
    """Wait until so many events have been delivered."""
    async with asyncio.timeout(15):
        while len(setup.sandbox.ledger.deliveries) < count:  # noqa: ASYNC110  # the ledger has no event
            await asyncio.sleep(0.005)


async def test_an_event_that_came_before_the_wait_is_kept(start: Start) -> None:
    async with start() as setup:
        job = await setup.client.submit(SONG)
        await arrived(setup)
        async with asyncio.timeout(15):  # by the model alone it would take much longer until the first poll
            assert (await job.wait()).status == "succeeded"
        assert setup.sandbox.ledger.count("get") == 1


async def test_the_test_above_would_notice_an_event_that_is_forgotten(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: an inbox that does not give a follower the events from before."""
    monkeypatch.setattr(MemoryInbox, "follow", _follow_nothing)
    async with start() as setup:
        job = await setup.client.submit(SONG)
        await arrived(setup)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await job.wait()


async def _follow_nothing(_: MemoryInbox) -> AsyncIterator[WebhookEvent]:
    await asyncio.Event().wait()
    yield WebhookEvent("", "")


async def test_updates_end_with_the_event(start: Start) -> None:
    async with start(progression=Manual()) as setup:
        job = await setup.client.submit(SONG)

        async def collect() -> list[str]:
            return [split.status async for split in job.updates()]

        seen = asyncio.create_task(collect())
        await setup.sandbox.step(job.id)
        await setup.sandbox.step(job.id)
        async with asyncio.timeout(15):
            assert await seen == ["succeeded"]


async def test_a_split_that_failed_notifies_and_raises(start: Start) -> None:
    async with start() as setup:
        setup.sandbox.faults.add("create", faults.FailedSplit("BAD_AUDIO"))
        job = await setup.client.submit(SONG)
        with pytest.raises(SplitFailedError, match="BAD_AUDIO"):
            async with asyncio.timeout(15):
                await job.wait()


async def test_a_hundred_duplicates_and_impatient_polls_lead_to_one_set_of_downloads(
    start: Start, tmp_path: Path
) -> None:
    seen: list[WebhookEvent] = []
    async with start(receiver={"on_event": seen.append}) as setup:
        rule = setup.sandbox.faults.add("webhook", faults.Duplicated(copies=99))
        polling = [asyncio.create_task(_poll(setup, 20)) for _ in range(3)]
        async with asyncio.timeout(20):
            done = await setup.client.split(SONG, into=tmp_path)
            await asyncio.gather(*polling)
        assert rule.consumed == 1
        assert setup.sandbox.ledger.count("download", 200) == len(done.files) == 4
        assert [event.split_id for event in seen] == [done.split.id]


async def _poll(setup: Notified, polls: int) -> None:
    """Poll all the splits there are, repeatedly."""
    for _ in range(polls):
        for split in setup.sandbox.ledger.splits:
            await setup.client.get_split(split.split_id)
        await asyncio.sleep(0.002)


FAULTS = {
    "duplicated": faults.Duplicated(copies=3),
    "out of order": faults.OutOfOrder(seconds=0.05),
    "late": faults.Late(seconds=0.05),
    "forged": faults.Forged(),
    "stale": faults.Stale(seconds=900),
    "from the future": faults.Stale(seconds=-900),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_whatever_happens_to_events_on_their_way_all_splits_are_found(start: Start, fault: faults.Fault) -> None:
    async with start() as setup:
        rule = setup.sandbox.faults.add("webhook", fault, probability=0.5)
        moving = asyncio.create_task(_move_on(setup.sandbox))
        await wait_for_all(await submit(setup.client, 12))
        moving.cancel()
        assert rule.consumed
        assert max(setup.polls().values()) == 1


async def _move_on(sandbox: Sandbox) -> None:
    """Let time pass ten times as fast, so that refused events come again soon."""
    while True:
        await asyncio.sleep(0.01)
        sandbox.advance(0.1)


async def test_every_way_to_create_a_split_names_the_receiver_unless_the_caller_names_another(start: Start) -> None:
    async with start(progression=Manual()) as setup:
        job = await setup.client.submit(SONG)
        other = await setup.client.submit(SONG, webhook_url="https://example.com/mine")
        splits = setup.sandbox._running.service.splits
        urls = [found and found.webhook_url for found in map(splits.find, (job.id, other.id))]
        assert urls == [setup.receiver.url, "https://example.com/mine"]


async def test_clients_may_share_a_receiver_and_leave_it(start: Start) -> None:
    async with start(progression=Manual()) as setup:
        async with AsyncAIStemSplitter(
            setup.sandbox.api_key, base_url=setup.sandbox.base_url, webhooks=setup.receiver
        ) as other:
            jobs = [await setup.client.submit(SONG), await other.submit(SONG)]
            both = [asyncio.create_task(job.wait()) for job in (*jobs, other.job(jobs[0].id))]
            for job in jobs * 2:
                await setup.sandbox.step(job.id)
            async with asyncio.timeout(15):
                assert {split.status for split in await asyncio.gather(*both)} == {"succeeded"}
        inbox = setup.receiver.inbox
        assert isinstance(inbox, MemoryInbox)
        await asyncio.sleep(0)
        assert len(inbox._followers) == 1


@pytest.mark.parametrize("how", ["notifying another URL", "reattached in another process"])
async def test_a_split_whose_event_is_not_expected_is_polled_as_without_webhooks(start: Start, how: str) -> None:
    async with (
        start(progression=Timed(base=0.2, per_second=0.0), client={"poll": PollPolicy().scaled(0.01)}) as setup,
        AsyncAIStemSplitter(setup.sandbox.api_key, base_url=setup.sandbox.base_url) as alone,
    ):
        if how == "notifying another URL":
            job = await setup.client.submit(SONG, webhook_url="https://example.com/mine")
        else:
            job = setup.client.job((await alone.submit(SONG)).id)
        waiting = asyncio.create_task(job.wait())
        await asyncio.sleep(0.1)
        assert setup.sandbox.ledger.count("get") >= 2  # with an expected event: none until 99 % should be done
        async with asyncio.timeout(10):
            assert (await waiting).status == "succeeded"


async def test_an_event_that_was_not_expected_wakes_waiters_all_the_same(start: Start) -> None:
    async with start(progression=Manual()) as setup:
        async with AsyncAIStemSplitter(setup.sandbox.api_key, base_url=setup.sandbox.base_url) as other:
            created = await other.submit(SONG, webhook_url=setup.receiver.url)
        waiting = asyncio.create_task(setup.client.job(created.id).wait())
        await asyncio.sleep(0.05)
        for _ in range(2):
            await setup.sandbox.step(created.id)
        began = asyncio.get_running_loop().time()
        assert (await waiting).status == "succeeded"
        assert asyncio.get_running_loop().time() - began < 0.5


class FaultyInbox(MemoryInbox):
    """Ends, or fails, now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.failures = 2

    async def follow(self) -> Any:
        if self.failures:
            self.failures -= 1
            if self.failures:
                raise OSError("the database is away")
            return
        async for event in super().follow():
            yield event


async def test_an_inbox_that_fails_is_followed_again(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("aistemsplitter_async.webhooks.follower._BACKOFF", 0.01)
    async with start(receiver={"inbox": FaultyInbox()}) as setup:
        job = await setup.client.submit(SONG)
        async with asyncio.timeout(15):
            assert (await job.wait()).status == "succeeded"
    assert [record.message.partition(";")[0] for record in caplog.records] == ["cannot follow the webhook inbox"]
