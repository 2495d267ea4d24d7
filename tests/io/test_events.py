"""What listeners hear: everything has a beginning and an end in one context, and says what it is about."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from pathlib import Path
from typing import Any

import attrs
import pytest

from aistemsplitter_async import (
    APIConnectionError,
    AttemptStarted,
    BatchFinished,
    BatchItem,
    Event,
    RateLimit,
    Reply,
    RequestSent,
    RetryPlanned,
    SlotGranted,
    SplitCreated,
    SplitFinished,
    SplitStarted,
    StageFinished,
    StageStarted,
    Throttled,
    TransferFinished,
)
from aistemsplitter_async._listeners import Emitter
from aistemsplitter_async.testing import error_reply, json_reply
from aistemsplitter_async.webhooks import MemoryInbox, WebhookReceiver
from aistemsplitter_async.webhooks.event import WebhookEvent
from tests.io.fakes import Flow, World, reset

pytestmark = pytest.mark.usefixtures("inline_threads")

SONG = bytes(range(256)) * 600
Opened = tuple[Event, ...]
OPEN = ContextVar[Opened]("OPEN", default=())
CALLER = ContextVar("CALLER", default="nobody")


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no power cut here


@attrs.define(eq=False)
class Spans:
    """A listener as tracing is one: it keeps what it opened in the context, and finds it there at the end."""

    heard: list[tuple[Event, Opened, str]] = attrs.field(factory=list[tuple[Event, Opened, str]])
    wrong: list[str] = attrs.field(factory=list[str])

    def __call__(self, event: Event) -> None:
        opened = OPEN.get()
        self.heard.append((event, opened, CALLER.get()))
        if isinstance(event, SplitStarted | StageStarted | AttemptStarted):
            OPEN.set((*opened, event))
        elif isinstance(event, SplitFinished | StageFinished | RequestSent):
            if not opened or name(opened[-1]) != name(event):
                self.wrong.append(f"{name(event)} ends in {[name(one) for one in opened]}")
            OPEN.set(opened[:-1])

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event, _, _ in self.heard if isinstance(event, kind)]

    def parents(self) -> set[tuple[object, ...]]:
        """The operations, each with what was open when it began."""
        return {
            (*(name(one)[0] for one in opened), event.operation)
            for event, opened, _ in self.heard
            if isinstance(event, AttemptStarted)
        }


def name(event: Event) -> tuple[object, ...]:
    """What the beginning and the end of one thing have in common."""
    match event:
        case SplitStarted() | SplitFinished():
            return "split", event.source
        case StageStarted() | StageFinished():
            return (event.stage,)
        case AttemptStarted() | RequestSent():
            return "attempt", event.operation, event.split_id, event.stem, event.attempt, event.url, event.at
    return ()


def trouble(world: World) -> None:
    world.api.script("reserve", error_reply(429, "RATE_LIMITED", headers={"retry-after": "3", "x-request-id": "r-1"}))
    world.api.script("upload", reset())
    world.api.script("create", reset())
    world.api.script("download", Flow([b"half", reset()], {"content-length": "9", "etag": '"9"'}))
    world.api.statuses["split_1"] = ["queued", "succeeded"]


async def test_a_split_is_a_tree_of_stages_and_attempts(world: World, tmp_path: Path) -> None:
    trouble(world)
    spans = Spans()
    async with world.client(on_event=spans, rate_limit=RateLimit(60)) as client:
        await client.split(SONG, filename="song.wav", into=tmp_path)
    assert spans.wrong == []
    assert OPEN.get() == ()
    assert spans.parents() == {
        ("split", "upload", "create_upload"),
        ("split", "upload", "upload"),
        ("split", "create", "create_split"),
        ("split", "wait", "get_split"),
        ("split", "download", "download_stem"),
    }
    assert [event.stage for event in spans.of(StageStarted)] == ["prepare", "upload", "create", "wait", "download"]
    (finished,) = spans.of(SplitFinished)
    assert (finished.source, finished.outcome, finished.split_id) == ("song.wav", "done", "split_1")
    assert (finished.credits_used, finished.error) == (214, None)
    assert finished.stages == {event.stage: event.seconds for event in spans.of(StageFinished)}
    assert sum(finished.stages.values()) == pytest.approx(finished.seconds)


async def test_an_attempt_says_what_it_is_about(world: World, tmp_path: Path) -> None:
    trouble(world)
    spans = Spans()
    async with world.client(on_event=spans, rate_limit=RateLimit(60)) as client:
        await client.split(SONG, filename="song.wav", into=tmp_path)
    sent: list[RequestSent] = spans.of(RequestSent)
    first, second = [event for event in sent if event.operation == "create_upload"]
    assert (first.attempt, first.status, first.request_id, first.error) == (1, 429, "r-1", "RateLimitedError")
    assert (first.code, first.method, first.url) == ("RATE_LIMITED", "POST", "https://api.test/v1/audio/uploads")
    assert (second.attempt, second.status, second.error) == (2, 200, None)
    assert second.gate_wait == pytest.approx(3.0, abs=0.4)
    assert second.bytes_sent == len(world.api.of("reserve")[0].body)
    assert second.bytes_received > 0
    broken, uploaded = [event for event in sent if event.operation == "upload"]
    assert (broken.status, broken.error, uploaded.status) == (None, "APIConnectionError", 200)
    assert (uploaded.bytes_sent, uploaded.url, uploaded.gate_wait) == (len(SONG), "https://worker.test", 0)
    lost = next(event for event in sent if event.operation == "download_stem" and event.error)
    assert (lost.status, lost.bytes_received, lost.split_id, lost.attempt) == (200, 4, "split_1", 1)
    again = next(event for event in sent if event.stem == lost.stem and not event.error)
    assert again.attempt == 2
    assert {event.split_id for event in sent if event.operation == "get_split"} == {"split_1"}
    planned: list[RetryPlanned] = spans.of(RetryPlanned)
    throttled = planned[0]
    assert (throttled.operation, throttled.status, throttled.request_id) == ("create_upload", 429, "r-1")
    assert {event.operation for event in planned} == {"create_upload", "upload", "create_split", "download_stem"}
    assert [event.operation for event in spans.of(Throttled)] == ["create_upload"]
    grants: list[SlotGranted] = spans.of(SlotGranted)
    assert len(grants) == len([event for event in sent if event.stage not in ("upload", "download")])
    assert all(0 < event.used <= 60 == event.limit for event in grants)


async def test_a_transfer_says_what_moved_and_what_was_there(world: World, tmp_path: Path) -> None:
    world.api.stem_names = ("vocals",)
    world.api.script("upload", reset())
    broken = Flow([SONG, reset()], {"content-length": f"{2 * len(SONG)}", "etag": f'"{2 * len(SONG)}"'})
    world.api.files["/split_1/vocals.mp3"] = SONG + SONG
    world.api.script("download", broken)
    world.api.always("download", reset())
    spans = Spans()
    async with world.client(on_event=spans) as client:
        with pytest.raises(Exception, match="broke"):
            await client.split(SONG, filename="song.wav", into=tmp_path)
        failed: TransferFinished = spans.of(TransferFinished)[-1]
        world.api.always("download", None)
        await client.job("split_1").download(tmp_path, name="song")
    upload, _, resumed = spans.of(TransferFinished)
    assert (upload.operation, upload.source, upload.bytes, upload.attempt) == ("upload", "song.wav", 2 * len(SONG), 2)
    assert (failed.stem, failed.bytes, failed.resumed_from) == ("vocals", len(SONG), 0)
    assert failed.error == "APIConnectionError"
    assert (resumed.bytes, resumed.resumed_from, resumed.error) == (len(SONG), len(SONG), None)
    (finished,) = spans.of(SplitFinished)
    assert (finished.outcome, finished.error, finished.split_id) == ("failed", "APIConnectionError", "split_1")
    assert (finished.credits_used, finished.reason) == (214, "the connection broke")
    assert spans.wrong == []


async def test_a_stem_that_is_streamed_is_a_transfer_too(world: World) -> None:
    world.api.stem_names = ("vocals",)
    world.api.files["/split_1/vocals.mp3"] = SONG
    spans = Spans()
    async with world.client(on_event=spans) as client:
        split = await client.get_split("split_1")
        async with client.open_stem(split, "vocals") as stem:
            assert await stem.read() == SONG
    (transfer,) = spans.of(TransferFinished)
    assert (transfer.stem, transfer.split_id, transfer.bytes, transfer.error) == ("vocals", "split_1", len(SONG), None)
    (sent,) = [event for event in spans.of(RequestSent) if event.stem]
    assert (sent.status, sent.bytes_received) == (200, len(SONG))
    assert spans.wrong == []


async def test_a_stream_that_fails_says_so_unless_it_is_read_on(world: World) -> None:
    world.api.stem_names = ("vocals",)
    world.api.files["/split_1/vocals.mp3"] = SONG
    world.api.always("download", reset())
    spans = Spans()
    async with world.client(on_event=spans) as client:
        split = await client.get_split("split_1")
        with pytest.raises(APIConnectionError):
            async with client.open_stem(split, "vocals"):
                raise AssertionError
        world.api.always("download", None)
        world.api.script("download", Flow([SONG[:70_000], reset()], {"content-length": f"{len(SONG)}", "etag": '"1"'}))
        async with client.open_stem(split, "vocals") as stem:
            world.api.always("download", reset())
            with pytest.raises(APIConnectionError):
                await stem.read()
            world.api.always("download", None)
            await stem.read()
    assert [event.error for event in spans.of(TransferFinished)] == ["APIConnectionError", None]


@pytest.mark.parametrize("what", ["reserve", "upload", "create", "get", "download"])
async def test_what_is_cancelled_ends_for_listeners_too(still: World, tmp_path: Path, what: str) -> None:
    async def hang(_: object) -> None:
        await asyncio.Event().wait()

    still.api.always(what, hang)
    spans = Spans()
    async with still.client(on_event=spans) as client:
        task = asyncio.create_task(client.split(SONG, filename="song.wav", into=tmp_path))
        while not still.api.count(what):
            await still.clock.advance(1)
        task.cancel()
        for _ in range(10):
            await still.clock.advance(1)
        await asyncio.wait([task])
    assert task.cancelled()
    assert [len(spans.of(kind)) for kind in (SplitStarted, SplitFinished)] == [1, 1]
    assert spans.of(SplitFinished)[0].outcome == "cancelled"
    assert len(spans.of(StageStarted)) == len(spans.of(StageFinished))
    assert len(spans.of(AttemptStarted)) == len(spans.of(RequestSent))
    assert spans.wrong == []


async def run_batch(world: World, folder: Path) -> Spans:
    """A batch of four tracks, of which one fails and one is a duplicate, and another batch beside it."""
    spans = Spans()
    trouble(world)

    async def batch_as(caller: str, songs: list[BatchItem | str]) -> None:
        CALLER.set(caller)
        async with client.split_many(songs, into=folder / caller) as outcomes:
            CALLER.set("inside")
            async for _ in outcomes:
                pass

    async with world.client(on_event=spans, rate_limit=RateLimit(3)) as client:
        songs = [BatchItem(source=SONG + bytes([n]), filename=f"{n}.wav") for n in (1, 2, 1)]
        missing = BatchItem(source=folder / "missing.wav")
        await asyncio.gather(batch_as("one", [*songs, missing]), batch_as("two", ["https://a.example/x.wav"]))
    return spans


def leaks(spans: Spans) -> list[str]:
    """The events that were heard in the context of another split than theirs, or of nobody."""
    wrong = list(spans.wrong)
    split_of: dict[str, str] = {}
    for event, opened, caller in spans.heard:
        sources = [one.source for one in opened if isinstance(one, SplitStarted)]
        if isinstance(event, BatchFinished):  # in the context of the block that ends
            continue
        if caller not in ("one", "two") or (isinstance(event, SplitStarted) and opened) or len(sources) > 1:
            wrong.append(f"{type(event).__name__} of {caller} in {sources}")
        if isinstance(event, SplitCreated):
            split_of[event.split_id] = "".join(sources)
            if event.source not in sources:
                wrong.append(f"{event.split_id} of {event.source} in {sources}")
        elif sources and (split_id := getattr(event, "split_id", None)) and split_of.get(split_id) != sources[0]:
            wrong.append(f"{type(event).__name__} of {split_id} in {sources}")
    return wrong


class ForeignError(Exception):
    """As others have them: a `code` that warns, which may raise, or that is a method."""

    @property
    def code(self) -> int:
        raise DeprecationWarning("use status")


async def test_what_an_exception_of_others_calls_its_code_is_not_asked_for(world: World) -> None:
    spans = Spans()
    async with world.client(on_event=spans) as client:
        with pytest.raises(ForeignError):
            async with client.split_many([]):
                raise ForeignError
    (finished,) = spans.of(BatchFinished)
    assert (finished.error, finished.code) == ("ForeignError", None)


async def test_a_call_that_is_abandoned_ends_in_whatever_context_it_is_collected(still: World, tmp_path: Path) -> None:
    spans = Spans()
    async with still.client(on_event=spans) as client:
        call = client.split(SONG, filename="song.wav", into=tmp_path)
        copy_context().run(call.send, None)
        call.close()
    assert [len(spans.of(kind)) for kind in (SplitStarted, SplitFinished, StageFinished)] == [1, 1, 1]


async def test_each_track_of_a_batch_has_a_context_of_its_own(world: World, tmp_path: Path) -> None:
    spans = await run_batch(world, tmp_path)
    assert leaks(spans) == []
    finished: list[SplitFinished] = spans.of(SplitFinished)
    assert sorted(event.outcome for event in finished) == ["done", "done", "done", "failed", "skipped"]
    (failed,) = [event for event in finished if event.outcome == "failed"]
    assert (failed.error, failed.source) == ("SourceUnreadableError", str(tmp_path / "missing.wav"))
    assert sum(event.source == "1.wav" for event in finished) == 2
    assert ("split", "wait", "get_split") in spans.parents()


async def test_the_check_above_finds_a_context_that_is_shared(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control."""
    shared, tell = Context(), Emitter.__call__
    monkeypatch.setattr(Emitter, "__call__", lambda *args: shared.run(tell, *args))
    assert leaks(await run_batch(world, tmp_path)) != []


async def test_a_poll_set_off_by_a_webhook_is_heard_by_the_call_that_waits(world: World) -> None:
    spans, inbox = Spans(), MemoryInbox()
    receiver = WebhookReceiver("secret", url="https://me.example/hook", inbox=inbox)
    world.api.statuses["split_1"] = ["succeeded"]

    async def call(caller: str) -> None:
        CALLER.set(caller)
        job = await client.submit("https://a.example/x.wav")
        await job.wait()

    async with world.client(on_event=spans, webhooks=receiver) as client:
        task = asyncio.create_task(call("waiter"))
        await world.clock.sleep(1)
        CALLER.set("sender")
        await inbox.put(WebhookEvent(event="audio.split.completed", split_id="split_1", status="succeeded"))
        await task
    assert {caller for _, _, caller in spans.heard} == {"waiter"}
    assert world.elapsed() < 30  # of the minute that a poll without the event would have taken


@pytest.mark.parametrize(
    ("answer", "kind"),
    [(json_reply({"wrong": 1}), "ProtocolError"), (Reply(status=502, body=b"<html>"), "ServerError")],
)
async def test_an_answer_that_cannot_be_used_is_an_attempt_that_failed(
    world: World, answer: Reply, kind: str, request: pytest.FixtureRequest
) -> None:
    world.api.script("credits", answer)
    spans = Spans()
    async with world.client(on_event=spans) as client:
        await client.get_credits()
    assert [(event.status, event.error) for event in spans.of(RequestSent)] == [
        (answer.status, kind),
        (200, None),
    ], request.node.name


def test_every_event_can_be_made_with_what_it_had_before() -> None:
    """Programs make them in their own tests."""
    make: list[Callable[[], Event]] = [
        lambda: RequestSent(stage="get", status=200, duration=0.1, at=1.0),
        lambda: RetryPlanned(stage="get", delay=1.0, reason="r", at=1.0),
        lambda: Throttled(stage="get", retry_after=None, at=1.0),
    ]
    assert [event().to_dict()["attempt"] for event in make] == [1, 1, 1]
