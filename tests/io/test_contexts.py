"""What a call causes runs in its context: tracing and logging see whose it is, whoever happened to set it off."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path

import attrs
import pytest

from aistemsplitter_async import (
    AIStemSplitterError,
    APIStatusError,
    AsyncAIStemSplitter,
    RateLimit,
    Reply,
    Request,
    StreamedReply,
    stream_source,
)
from aistemsplitter_async.events import Event, GateClosed, GateOpened, PollMade, PollPlanned
from aistemsplitter_async.testing import error_reply
from tests.io.fakes import World

pytestmark = pytest.mark.usefixtures("inline_threads")
CALLER = ContextVar("CALLER", default="nobody")


@attrs.define
class Tracing:
    """A transport and a listener that note in whose context they are called."""

    world: World
    sent: list[tuple[str, str]] = attrs.field(factory=list[tuple[str, str]])  # the end of the URL, whose
    events: list[tuple[Event, str]] = attrs.field(factory=list[tuple[Event, str]])

    async def send(self, request: Request, /) -> Reply:
        self.sent.append((request.url.rpartition("/")[2], CALLER.get()))
        return await self.world.api.send(request)

    @asynccontextmanager
    async def stream(self, request: Request, /) -> AsyncIterator[StreamedReply]:
        self.sent.append((request.url.partition("?")[0].rpartition("/")[2], CALLER.get()))
        async with self.world.api.stream(request) as reply:
            yield reply

    async def aclose(self) -> None:
        await self.world.api.aclose()

    def note(self, event: Event) -> None:
        self.events.append((event, CALLER.get()))

    def client(self, **options: object) -> AsyncAIStemSplitter:
        return self.world.client(transport=self, on_event=self.note, **options)

    def whose_polls(self) -> set[tuple[str, str]]:
        return {(event.split_id, caller) for event, caller in self.events if isinstance(event, PollMade | PollPlanned)}


async def credits_as(caller: str, client: AsyncAIStemSplitter) -> None:
    CALLER.set(caller)
    await client.get_credits()


async def wait_as(caller: str, client: AsyncAIStemSplitter, split_id: str) -> None:
    CALLER.set(caller)
    await client.wait_for_split(split_id, since=1000.0)


async def test_polls_run_in_the_context_of_the_call_that_waits(world: World) -> None:
    """One slot a window: each poll is set off by another call, by a timer, or by the answer to another's poll."""
    tracing = Tracing(world)
    names = [f"split_{n}" for n in range(6)]
    for name in names:
        world.api.statuses[name] = ["processing", "processing", "succeeded"]
    async with tracing.client(rate_limit=RateLimit(3)) as client:
        await asyncio.gather(*(wait_as(f"caller of {name}", client, name) for name in names))
    assert set(tracing.sent) == {(name, f"caller of {name}") for name in names}
    assert len(tracing.sent) == 3 * len(names)
    assert tracing.whose_polls() == set(tracing.sent)


async def test_a_shared_poll_runs_for_those_that_still_wait(world: World) -> None:
    tracing = Tracing(world)
    world.api.statuses["split_1"] = ["processing"] * 3 + ["succeeded"]
    async with tracing.client() as client:
        first = asyncio.create_task(wait_as("first", client, "split_1"))
        second = asyncio.create_task(wait_as("second", client, "split_1"))
        while not tracing.sent:
            await world.clock.sleep(1.0)
        first.cancel()
        await asyncio.wait([first])
        await second
    assert [caller for _, caller in tracing.sent] == ["first", "second", "second", "second"]


async def test_the_gate_opens_in_the_context_of_the_call_that_closed_it(world: World) -> None:
    tracing = Tracing(world)
    world.api.script("credits", error_reply(429, "RATE_LIMITED", headers={"retry-after": "7"}))
    async with tracing.client() as client:
        refused = asyncio.create_task(credits_as("refused", client))
        await asyncio.gather(refused, credits_as("waiting", client))
    gate = [(type(event), caller) for event, caller in tracing.events if isinstance(event, GateClosed | GateOpened)]
    assert gate == [(GateClosed, "refused"), (GateOpened, "refused")]


async def test_uploads_creates_and_downloads_run_in_their_callers_context(world: World, tmp_path: Path) -> None:
    tracing, opened = Tracing(world), list[str]()

    async def audio() -> AsyncIterator[bytes]:
        opened.append(CALLER.get())
        yield b"song"

    async def split_as(caller: str) -> None:
        CALLER.set(caller)
        source = stream_source(audio, content_length=4, filename=f"{caller}.wav")
        await client.split(source, into=tmp_path / caller)

    async with tracing.client(rate_limit=RateLimit(2)) as client:
        await asyncio.gather(split_as("one"), split_as("two"))
    assert sorted(opened) == ["one", "two"]
    assert sorted(caller for _, caller in tracing.sent) == ["one"] * 8 + ["two"] * 8
    assert {caller for event, caller in tracing.events if not isinstance(event, GateOpened)} == {"one", "two"}


async def test_a_batch_runs_in_the_context_it_was_entered_in(world: World) -> None:
    tracing = Tracing(world)

    async def batch_as(caller: str) -> None:
        CALLER.set(caller)
        async with client.split_many([f"https://a.example/{caller}.wav"]) as outcomes:
            CALLER.set("inside")
            assert [type(outcome).__name__ async for outcome in outcomes] == ["Done"]

    async with tracing.client(rate_limit=RateLimit(1)) as client:
        await asyncio.gather(batch_as("one"), batch_as("two"))
    assert sorted(caller for _, caller in tracing.sent) == ["one", "one", "two", "two"]


async def test_what_the_iterable_of_sources_sets_is_not_what_its_tracks_see(world: World) -> None:
    tracing = Tracing(world)

    async def sources() -> AsyncIterator[str]:
        for number in range(2):
            CALLER.set("iterable")
            yield f"https://a.example/{number}.wav"

    CALLER.set("batch")
    async with tracing.client() as client, client.split_many(sources()) as outcomes:
        assert len([outcome async for outcome in outcomes]) == 2
    assert {caller for _, caller in [*tracing.sent, *tracing.events]} == {"batch"}


async def test_each_waiter_gets_an_error_of_its_own(world: World) -> None:
    world.api.always("get", error_reply(400, "NO_SUCH_THING"))
    async with world.client() as client:
        waits = [client.wait_for_split("split_1"), client.wait_for_split("split_1")]
        one, other = await asyncio.gather(*waits, return_exceptions=True)
    assert isinstance(one, APIStatusError)
    assert isinstance(other, AIStemSplitterError)
    assert one is not other
    assert one.to_dict() == other.to_dict()


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no power cut here
