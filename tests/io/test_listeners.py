"""Whatever listeners raise, at any of their calls, a client and a batch do the same as without them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from aistemsplitter_async import (
    BatchItem,
    ConfigurationError,
    Done,
    Gate,
    Progress,
    RateLimit,
    SplitCreated,
    SubmissionUncertainError,
)
from aistemsplitter_async._listeners import Listener
from aistemsplitter_async.testing import error_reply
from tests.io.fakes import World, reset

pytestmark = pytest.mark.usefixtures("inline_threads")

SONG = bytes(range(256)) * 600
ERRORS = [BrokenPipeError("the reader is gone"), ValueError(), TimeoutError(), asyncio.CancelledError()]


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


@attrs.define(eq=False)
class Raising:
    """A listener that raises at every call, or at the n-th only."""

    error: BaseException
    at: int | None = None
    heard: list[str] = attrs.field(factory=list[str])

    def __call__(self, value: object) -> None:
        self.heard.append(type(value).__name__)
        if self.at is None or self.at == len(self.heard) - 1:
            raise self.error


def set_up(world: World) -> None:
    """A server with a little trouble at every step, so that every kind of event occurs."""
    world.api.script("reserve", error_reply(429, "RATE_LIMITED", headers={"retry-after": "3"}))
    world.api.script("upload", reset())
    world.api.script("create", reset())
    world.api.script("get", error_reply(503, "BUSY"))
    world.api.script("download", reset())
    world.api.statuses["split_1"] = ["queued", "processing", "succeeded"]


async def split(world: World, folder: Path, on_event: Any, on_progress: Any) -> Done:
    set_up(world)
    async with world.client(on_event=on_event, rate_limit=RateLimit(2, per=2.0)) as client:
        return await client.split(SONG, filename="song.wav", into=folder, on_progress=on_progress)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_a_split_succeeds_whatever_its_listeners_raise_at_every_call(
    world: World, tmp_path: Path, error: BaseException
) -> None:
    on_event, on_progress = Raising(error), Raising(error)
    done = await split(world, tmp_path, on_event, on_progress)
    assert {path.name for path in done.files.values()} == {f"{stem}.mp3" for stem in world.api.stem_names}
    assert world.api.created == {world.api.of("create")[0].headers["Idempotency-Key"]: "split_1"}
    expected = {"RequestSent", "RetryPlanned", "Throttled", "GateClosed", "GateOpened"}
    assert expected | {"PollPlanned", "PollMade", "SplitCreated"} <= set(on_event.heard)
    assert on_progress.heard.count("Progress") > 4


async def test_a_listener_that_raises_at_any_single_call_changes_no_request(tmp_path: Path, world: World) -> None:
    usual = Raising(ValueError(), at=-1)
    await split(world, tmp_path / "usual", usual, None)
    requests = [asked.what for asked in world.api.asked]
    for number in range(len(usual.heard)):
        world.api.asked.clear()
        world.api.created.clear()
        listener = Raising(ValueError(), at=number)
        await split(world, tmp_path / str(number), listener, None)
        assert sorted(asked.what for asked in world.api.asked) == sorted(requests), f"at {usual.heard[number]} {number}"
        assert set(world.api.created.values()) == {"split_1"}


async def test_the_checks_above_would_notice_a_listener_that_is_called_directly(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: what a listener raises goes through the work."""

    def call(listener: Listener[Any], value: Any) -> None:
        assert listener._function is not None
        listener._function(value)

    monkeypatch.setattr(Listener, "__call__", call)
    with pytest.raises(BrokenPipeError):
        await split(world, tmp_path, Raising(ERRORS[0]), None)
    world.api._scripts.clear()


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("on", ["on_event", "on_progress"])
async def test_a_batch_is_done_whatever_its_listeners_raise(
    world: World, tmp_path: Path, error: BaseException, on: str
) -> None:
    sources = [tmp_path / f"{number}.wav" for number in range(3)]
    for number, path in enumerate(sources):
        path.write_bytes(SONG + bytes([number]))
    listener = Raising(error)
    items = [BatchItem(source=path, on_progress=listener if on == "on_progress" else None) for path in sources]
    options = {"on_event": listener} if on == "on_event" else {}
    began = world.clock.monotonic()
    async with (
        world.client(rate_limit=RateLimit(1000), **options) as client,
        client.split_many(items, into=tmp_path / "out", journal=tmp_path / "journal") as batch,
    ):
        outcomes = [outcome async for outcome in batch]
    assert [type(outcome) for outcome in outcomes] == [Done] * 3
    assert world.clock.monotonic() - began < 60  # nothing was paused as if for an outage
    assert len(world.api.created) == world.api.count("create") == world.api.count("upload") == 3
    assert listener.heard


async def test_the_listener_of_a_shared_gate_may_raise_too(world: World) -> None:
    listener = Raising(ValueError())
    gate = Gate(clock=world.clock, on_event=listener)
    world.api.script("credits", error_reply(429, "RATE_LIMITED", headers={"retry-after": "3"}))
    async with world.client(gate=gate) as client:
        await client.get_credits()
    assert {"GateClosed", "GateOpened"} <= set(listener.heard)
    assert gate.snapshot().closed_for == 0


async def test_one_listener_logs_each_kind_once_whatever_calls_it(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await split(world, tmp_path, Raising(ValueError("1")), Raising(ValueError("2")))
    messages = [record.message.partition(",")[0] for record in caplog.records if record.levelname == "ERROR"]
    assert sorted(messages) == ["on_event raised ValueError", "on_progress raised ValueError"]


async def refused(_: object) -> None: ...


async def test_an_async_progress_listener_is_refused_before_anything_is_spent(world: World, tmp_path: Path) -> None:
    listener: Callable[[Progress], Any] = refused
    async with world.client() as client:
        job = client.job("split_1")
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: client.split("https://example.com/a.mp3", into=tmp_path, on_progress=listener),
            lambda: client.submit("https://example.com/a.mp3", on_progress=listener),
            lambda: client.upload_audio(SONG, on_progress=listener),
            lambda: job.download(tmp_path, on_progress=listener),
        ]
        for call in calls:
            with pytest.raises(ConfigurationError, match="on_progress must be an ordinary function"):
                await call()
    assert world.api.asked == []


async def test_a_listener_may_start_a_task_and_return_it(world: World) -> None:
    heard: list[object] = []

    async def note(event: object) -> None:
        heard.append(event)

    async with world.client(on_event=lambda event: asyncio.ensure_future(note(event))) as client:
        await client.get_credits()
    await world.clock.settle()
    assert [type(event).__name__ for event in heard] == ["SlotGranted", "AttemptStarted", "RequestSent"]


async def test_a_listener_may_cancel_the_call_it_listens_to(still: World) -> None:
    """That is a real cancellation, at the next await."""

    def listen(event: object) -> None:
        if type(event).__name__ == "RetryPlanned":
            tasks[0].cancel()
        still.events.append(event)  # type: ignore[arg-type]

    tasks: list[asyncio.Task[Any]] = []
    still.api.script("create", reset())
    async with still.client(on_event=listen) as client:
        tasks.append(asyncio.ensure_future(client.submit("https://example.com/a.mp3")))
        await still.clock.settle()
        with pytest.raises(asyncio.CancelledError) as caught:
            await tasks[0]
    assert isinstance(caught.value.__cause__, SubmissionUncertainError)
    assert still.of(SplitCreated) == []
