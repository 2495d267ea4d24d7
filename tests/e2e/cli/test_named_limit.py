"""A limit that is not declared but named in the replies: over real sockets it is kept from the first reply on."""

from __future__ import annotations

import asyncio

import pytest

from aistemsplitter_async import AsyncAIStemSplitter, PollPolicy, RateLimit, RetryPolicy
from aistemsplitter_async.events import Event, LimitLearned
from aistemsplitter_async.sandbox import Sandbox, Timed


@pytest.mark.parametrize(
    ("window", "dialect", "scale", "splits"),
    [
        ("fixed", "ratelimit", 1 / 40, 40),  # 1.5 s stand for a minute
        ("sliding", "x-ratelimit", 1 / 10, 18),  # it names no window, and its resets are whole seconds
    ],
)
async def test_a_limit_named_in_headers_is_kept_with_at_most_two_refusals(
    window: str, dialect: str, scale: float, splits: int
) -> None:
    events = list[Event]()
    async with (
        Sandbox(
            separation="silent",
            requests_per_minute=30,
            minute=60 * scale,
            window=window,
            rate_headers=dialect,
            progression=Timed(base=0.5, per_second=0.0, workers=100),
        ) as sandbox,
        AsyncAIStemSplitter(
            sandbox.api_key,
            base_url=sandbox.base_url,
            rate_limit=RateLimit().scaled(scale),
            retry=RetryPolicy().scaled(scale),
            poll=PollPolicy().scaled(scale),
            on_event=events.append,
        ) as client,
    ):
        urls = (f"https://example.com/{n}.mp3?seconds=60" for n in range(splits))
        jobs = await asyncio.gather(*(client.submit(url, priority="bulk") for url in urls))
        await asyncio.gather(*(job.wait() for job in jobs))
        assert sandbox.ledger.throttled <= 2
        assert client.gate.snapshot().limit == 30
    assert [(event.old, event.new) for event in events if isinstance(event, LimitLearned)] == [(None, 30)]
