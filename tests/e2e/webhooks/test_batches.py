"""A batch whose client is notified by webhooks: two requests a track, even if it or its events fail."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from aistemsplitter_async import AsyncAIStemSplitter, Done, PollPolicy, RateLimit, WebhookReceiver
from aistemsplitter_async.sandbox import Manual, Sandbox, Timed, faults
from aistemsplitter_async.webhooks import SQLiteInbox
from tests.e2e.harness import SECRET, serve_receiver

MINUTE = 1 / 60  # a second stands for a minute
TRACKS = [f"https://example.com/{n}.mp3?seconds=60" for n in range(100)]
BUSY: dict[str, Any] = {
    "separation": "silent",
    "webhook_secret": SECRET,
    "requests_per_minute": 60,
    "minute": 60 * MINUTE,
    "progression": Timed(base=1.5, per_second=0.0, jitter=0.3, workers=100),
    "seed": 5,
}
STILL = BUSY | {"requests_per_minute": None, "progression": Manual()}


def connect(sandbox: Sandbox, receiver: WebhookReceiver, *, limit: int | None = 60) -> AsyncAIStemSplitter:
    return AsyncAIStemSplitter(
        sandbox.api_key,
        base_url=sandbox.base_url,
        webhooks=receiver,
        rate_limit=RateLimit(limit).scaled(MINUTE),
        poll=PollPolicy().scaled(MINUTE),
    )


async def run(client: AsyncAIStemSplitter, tracks: list[str], **options: Any) -> None:
    """Split all of them, and check that each came to its stems."""
    async with asyncio.timeout(50), client.split_many(tracks, **options) as outcomes:
        found = [outcome async for outcome in outcomes]
    assert sorted(str(outcome.source) for outcome in found) == sorted(tracks)
    assert all(isinstance(outcome, Done) and outcome.split.stems for outcome in found)


def most_polls(sandbox: Sandbox) -> int:
    return max(split.polls for split in sandbox.ledger.splits)


async def test_a_hundred_tracks_cost_two_requests_each_and_never_too_many_at_once() -> None:
    async with serve_receiver() as receiver, Sandbox(**BUSY) as sandbox, connect(sandbox, receiver) as client:
        await run(client, TRACKS)
        assert sandbox.ledger.count() <= 210
        assert sandbox.ledger.throttled == 0
        assert len(sandbox.ledger.splits) == 100


async def test_with_every_fifth_event_lost_all_tracks_finish_and_none_is_polled_more_than_three_times() -> None:
    async with serve_receiver() as receiver, Sandbox(**BUSY) as sandbox, connect(sandbox, receiver) as client:
        rule = sandbox.faults.add("webhook", faults.Lost(), probability=0.2)
        await run(client, TRACKS)
        assert 10 <= rule.consumed <= 35
        assert most_polls(sandbox) <= 3
        assert sandbox.ledger.throttled == 0


async def begin(sandbox: Sandbox, receiver: WebhookReceiver, tracks: list[str], journal: Path) -> None:
    """Let a run create all splits, and end it there."""
    async with (
        asyncio.timeout(30),
        connect(sandbox, receiver, limit=None) as client,
        client.split_many(tracks, journal=journal, in_flight=len(tracks)) as outcomes,
    ):
        while outcomes.progress().stages.get("wait", 0) < len(tracks):  # noqa: ASYNC110  # a batch has no such event
            await asyncio.sleep(0.01)


async def finish_all(sandbox: Sandbox) -> None:
    """Let all splits end, and their events be delivered or lost."""
    for split in sandbox.ledger.splits:
        await sandbox.step(split.split_id)
        await sandbox.step(split.split_id)
    async with asyncio.timeout(10):
        while len(sandbox.ledger.deliveries) < len(sandbox.ledger.splits):  # noqa: ASYNC110  # nor has the ledger
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("kept_in", ["file", "memory"])
async def test_events_that_came_between_runs_cost_the_next_run_one_poll_each(tmp_path: Path, kept_in: str) -> None:
    tracks, journal = TRACKS[:20], tmp_path / "journal"
    inbox = SQLiteInbox(tmp_path / "inbox") if kept_in == "file" else None
    async with serve_receiver(inbox=inbox) as receiver, Sandbox(**STILL) as sandbox:
        await begin(sandbox, receiver, tracks, journal)
        await finish_all(sandbox)
        async with connect(sandbox, receiver, limit=None) as client:
            await run(client, tracks, journal=journal)
        assert sandbox.ledger.count("create") == sandbox.ledger.count("get") == 20
    if inbox is not None:
        await inbox.aclose()


async def test_events_lost_with_an_earlier_run_are_made_up_for_by_polling(tmp_path: Path) -> None:
    tracks, journal = TRACKS[:20], tmp_path / "journal"
    async with serve_receiver() as receiver, Sandbox(**STILL) as sandbox:
        await begin(sandbox, receiver, tracks, journal)
        await finish_all(sandbox)
        forgetful = WebhookReceiver(SECRET, url=receiver.url)  # as after a crash: its inbox was in memory
        async with connect(sandbox, forgetful, limit=None) as client:
            await run(client, tracks, journal=journal)
        assert sandbox.ledger.count("create") == 20
        assert most_polls(sandbox) <= 3


async def test_tracks_of_an_earlier_run_wait_for_their_events_too(tmp_path: Path) -> None:
    tracks, journal = TRACKS[:20], tmp_path / "journal"
    async with serve_receiver() as receiver, Sandbox(**STILL) as sandbox:
        await begin(sandbox, receiver, tracks, journal)
        async with AsyncAIStemSplitter(sandbox.api_key, base_url=sandbox.base_url, webhooks=receiver) as client:
            going_on = asyncio.create_task(run(client, tracks, journal=journal))
            await asyncio.sleep(0.3)
            assert sandbox.ledger.count("get") == 0
            await finish_all(sandbox)
            await going_on
        assert sandbox.ledger.count("get") == 20


async def test_tracks_created_for_another_receiver_are_polled_as_without_one(tmp_path: Path) -> None:
    tracks, journal = TRACKS[:5], tmp_path / "journal"
    async with serve_receiver() as receiver, Sandbox(**STILL) as sandbox:
        await begin(sandbox, receiver, tracks, journal)
        elsewhere = WebhookReceiver(SECRET, url="https://example.com/hooks")
        async with connect(sandbox, elsewhere, limit=None) as client:
            going_on = asyncio.create_task(run(client, tracks, journal=journal))
            async with asyncio.timeout(10):
                while sandbox.ledger.count("get") < 15:  # noqa: ASYNC110  # nor has the ledger
                    await asyncio.sleep(0.01)
            await finish_all(sandbox)
            await going_on
