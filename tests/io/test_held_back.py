"""A server that asks for a pause: nothing is sent too early, one request asks after an hour, every deadline holds."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from aistemsplitter_async import (
    APITimeoutError,
    AsyncAIStemSplitter,
    BatchItem,
    Failed,
    RateLimit,
    RateLimitedError,
    ServerError,
    Skipped,
    UploadedFile,
    WaitTimeoutError,
)
from aistemsplitter_async._gate.gate import Gate
from aistemsplitter_async.events import GateClosed
from aistemsplitter_async.journal.store import JournalStore
from aistemsplitter_async.testing import Exchange, error_reply
from tests.io.fakes import World

pytestmark = pytest.mark.usefixtures("inline_threads")

HOUR = 3600.0
NOW = 1_800_000_000.0  # the fake wall clock at its start
SONG = b"RIFF a song"
SOURCE = UploadedFile("upl_1", "https://cdn.test/sources/1", "sources/1")


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no power cut here


def busy(retry_after: object, **headers: str) -> Any:
    return error_reply(429, "RATE_LIMITED", headers={"retry-after": str(retry_after), **headers})


# --- never earlier than it says, up to an hour; then one request asks


@pytest.mark.parametrize(
    ("says", "seconds"),
    [
        ("100", 100),
        ("3000", 3000),
        ("30000", HOUR),
        ("1000000000", HOUR),
        ("9" * 400, HOUR),
        (str(int(NOW) + 200), 200),
        (str(int(NOW) * 1000 + 200_000), 200),
        ("Fri, 31 Dec 9999 23:59:59 GMT", HOUR),
        (formatdate(NOW + 500, usegmt=True), 500),
        ("120, 240, 60", 240),
        ("5m", 300),
    ],
)
@pytest.mark.parametrize("what", ["interactive", "bulk"])
async def test_after_a_429_nothing_is_sent_before_its_time_and_then_one_request(
    world: World, says: str, seconds: float, what: Any
) -> None:
    async def refuse(_: Exchange) -> Any:
        await world.clock.sleep(1)
        return busy(says, date=formatdate(NOW, usegmt=True))

    async def slow(exchange: Exchange) -> Any:
        await world.clock.sleep(7)
        return world.api.do_get(exchange)

    world.api.script("get", refuse)
    world.api.always("get", slow)
    async with world.client(rate_limit=RateLimit(1000)) as client:
        waits = (client.wait_for_split(f"split_{n}", timeout=9 * HOUR, priority=what) for n in range(20))
        await asyncio.gather(*waits)
    second, third, *_ = (at - 1 for at in world.api.times("get") if at >= 1)  # the others were sent before the answer
    assert seconds <= second <= seconds * 1.11
    assert third >= second + 7, "the answer of the one that asks was not waited for"


@pytest.mark.parametrize("stage", ["upload", "download"])
async def test_a_host_that_asks_for_a_long_pause_is_left_alone_and_then_asked_once(
    world: World, tmp_path: Path, stage: str
) -> None:
    world.api.script(stage, busy("1000000000"))
    usual = getattr(world.api, f"do_{stage}")

    async def slow(exchange: Exchange) -> Any:
        await world.clock.sleep(7)
        return usual(exchange)

    world.api.always(stage, slow)
    async with world.client(rate_limit=RateLimit(1000)) as client:

        async def use(name: str) -> object:
            if stage == "upload":
                return await client.upload_audio(SONG, filename=name)
            split = await client.get_split(name)
            return await client.download_stems(split, tmp_path, name=name)

        with pytest.raises(RateLimitedError) as caught:
            await use("first")
        assert caught.value.retry_after == 1e9, "the server's own number"
        asked = world.api.count(stage)
        for later in (1, 1000, HOUR - 1200):
            await world.clock.sleep(later)
            with pytest.raises(RateLimitedError) as caught:
                await use("second")
            assert caught.value.retry_after == pytest.approx(HOUR - world.elapsed(), abs=30)
        assert world.api.count(stage) == asked
        await world.clock.sleep(180)  # what is left is not longer than a call may wait
        await asyncio.gather(use("third"), use("fourth"), use("fifth"))
    times = world.api.times(stage)[asked:]
    assert times[0] >= HOUR
    assert times[1] >= times[0] + 7, "the answer of the one that asks was not waited for"


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("stage", ["reserve", "upload", "create", "download"])
async def test_a_batch_does_not_ask_again_within_the_hour_at_any_stage(
    world: World, tmp_path: Path, status: int, stage: str
) -> None:
    for n in range(6):
        (tmp_path / f"{n}.wav").write_bytes(b"sound %d" % n)
    said: list[float] = []

    def say(exchange: Exchange) -> Any:
        if said and world.elapsed() >= said[0] + HOUR:
            return getattr(world.api, f"do_{stage}")(exchange)
        said.append(world.elapsed())
        return error_reply(status, "LATER", headers={"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"})

    world.api.always(stage, say)
    client = world.client(rate_limit=RateLimit(1000))
    batch = client.split_many([str(tmp_path / f"{n}.wav") for n in range(6)], into=tmp_path / "out")
    async with client, batch:
        await world.clock.sleep(1800)
        assert batch.progress().notices or batch.progress().gate.closed_for > 0
        kinds = [type(outcome).__name__ async for outcome in batch]
    assert kinds == ["Done"] * 6
    times = world.api.times(stage)
    at_first = [at for at in times if at < said[0] + HOUR]
    assert set(at_first) == {said[0]}, "those that were on their way"


@pytest.mark.parametrize("closed_for", [1e12, 1800.0])
async def test_a_gate_that_was_closed_when_the_journal_was_left_opens_within_the_hour(
    world: World, tmp_path: Path, closed_for: float
) -> None:
    store = JournalStore(tmp_path / "journal")
    store.set_note(
        "gate",
        json.dumps({"version": 1, "at": NOW, "per": 60.0, "believed": 60, "ages": [], "closed_for": closed_for}),
    )
    store.close()
    client = world.client()
    batch = client.split_many([f"https://example.com/{n}.mp3" for n in range(5)], journal=tmp_path / "journal")
    async with client, batch:
        await world.clock.sleep(60)
        assert "HTTP 429" in "".join(batch.progress().notices), "it waits and does not say why"
        assert [type(outcome).__name__ async for outcome in batch] == ["Done"] * 5
    times = [round(asked.at - 1000.0, 6) for asked in world.api.asked]
    assert times[0] == min(closed_for, HOUR)


async def test_a_clock_that_was_set_back_keeps_a_restored_gate_closed_for_an_hour_at_most(world: World) -> None:
    gate = Gate(clock=world.clock)
    gate.restore({"version": 1, "at": NOW + 1e9, "per": 60.0, "closed_for": 1e12})
    assert gate.snapshot().closed_for == HOUR
    with pytest.raises(RateLimitedError) as caught:
        await gate.admit()
    assert caught.value.retry_after == HOUR


# --- every deadline holds, and the reason is told

Call = Callable[[AsyncAIStemSplitter], Awaitable[object]]
CALLS: dict[str, Call] = {
    "get_credits": lambda client: client.get_credits(timeout=50),
    "create_upload": lambda client: client.create_upload(
        filename="a", content_type="audio/wav", content_length=1, timeout=50
    ),
    "upload_audio": lambda client: client.upload_audio(SONG, timeout=50),
    "create_split": lambda client: client.create_split(SOURCE, timeout=50),
    "get_split": lambda client: client.get_split("split_1", timeout=50),
    "submit": lambda client: client.submit(SONG, timeout=50),
}
WAITS: dict[str, Call] = {
    "wait_for_split": lambda client: client.wait_for_split("split_1", timeout=50),
    "job.wait": lambda client: client.job("split_1").wait(timeout=50),
    "job.download": lambda client: client.job("split_1").download("stems", timeout=50),
}


async def close_gate(world: World, client: AsyncAIStemSplitter, seconds: object) -> asyncio.Task[object]:
    """Let another call be answered 429."""
    world.api.script("credits", busy(seconds))
    task = asyncio.ensure_future(client.get_credits())
    await world.clock.sleep(0)
    await world.clock.settle()
    assert client.gate.snapshot().closed_for
    return task


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_that_waits_for_the_gate_ends_at_its_deadline_and_says_why(world: World, name: str) -> None:
    async with world.client() as client:
        other = await close_gate(world, client, 100)
        with pytest.raises(APITimeoutError, match=r"asked to send nothing"):
            await CALLS[name](client)
        assert world.elapsed() == 50
        other.cancel()
    assert len(world.api.asked) == 1


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_that_would_wait_for_too_long_says_so_at_once(world: World, name: str) -> None:
    async with world.client() as client:
        other = await close_gate(world, client, "1000000000")
        with pytest.raises(RateLimitedError) as caught:
            await CALLS[name](client)
        assert caught.value.retry_after == HOUR
        with pytest.raises(RateLimitedError) as caught:
            await other
        assert caught.value.retry_after == 1e9, "the server's own number"
    assert world.elapsed() == 0
    assert len(world.api.asked) == 1


@pytest.mark.parametrize("name", WAITS)
@pytest.mark.parametrize("asked", [100, "1000000000"])
async def test_a_wait_keeps_its_deadline_and_says_why(world: World, name: str, asked: object) -> None:
    async with world.client() as client:
        other = await close_gate(world, client, asked)
        with pytest.raises(WaitTimeoutError, match=r"asked to send nothing"):
            await WAITS[name](client)
        assert world.elapsed() == 50
        other.cancel()
        await asyncio.gather(other, return_exceptions=True)
    assert len(world.api.asked) == 1


async def test_updates_without_a_deadline_show_why_they_wait_and_go_on_after_an_hour(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.api.script("get", busy("1000000000"))
    with caplog.at_level(logging.WARNING):
        async with world.client() as client:
            states = [split.status async for split in client.job("split_1").updates()]
    assert states == ["succeeded"]
    assert world.api.times("get") == [0, HOUR]
    assert [event.duration for event in world.of(GateClosed)] == [HOUR]
    assert [record.getMessage() for record in caplog.records if record.name.endswith(".gate")] == [
        "nothing is sent for this key for 3600 s: the server asked for that (HTTP 429)"
    ]


@pytest.mark.parametrize("asked", [100, "1000000000"])
@pytest.mark.parametrize("stage", ["reserve", "create", "get", "upload", "download"])
async def test_a_source_of_a_batch_keeps_its_deadline(world: World, tmp_path: Path, asked: object, stage: str) -> None:
    (tmp_path / "a.wav").write_bytes(SONG)
    world.api.always(stage, busy(asked))
    client = world.client(rate_limit=RateLimit(1000))
    batch = client.split_many([BatchItem(source=tmp_path / "a.wav", timeout=50)], into=tmp_path / "out")
    async with client, batch:
        (outcome,) = [outcome async for outcome in batch]
    assert isinstance(outcome, Failed)
    assert world.elapsed() == 50
    assert isinstance(outcome.error, APITimeoutError | WaitTimeoutError)
    if stage in ("reserve", "create", "get"):
        assert "asked to send nothing" in str(outcome.error)


@pytest.mark.parametrize("stage", ["reserve", "create", "upload", "download"])
async def test_a_batch_that_is_never_let_in_ends(world: World, tmp_path: Path, stage: str) -> None:
    for n in range(6):
        (tmp_path / f"{n}.wav").write_bytes(b"sound %d" % n)
    world.api.always(stage, busy("1000000000"))
    client = world.client(rate_limit=RateLimit(1000))
    batch = client.split_many([str(tmp_path / f"{n}.wav") for n in range(6)], into=tmp_path / "out")
    async with client, batch:
        outcomes = [outcome async for outcome in batch]
        report = await batch.report()
    assert all(isinstance(outcome, Failed | Skipped) for outcome in outcomes)
    assert isinstance(report.stopped_by, RateLimitedError)
    assert HOUR <= world.elapsed() <= HOUR + 120


async def test_splits_that_are_never_told_of_end_their_waits(world: World, tmp_path: Path) -> None:
    world.api.always("get", busy("1000000000"))
    client = world.client(rate_limit=RateLimit(1000))
    async with client, client.split_many(["https://example.com/1.mp3"], into=tmp_path / "out") as batch:
        (outcome,) = [outcome async for outcome in batch]
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, WaitTimeoutError)
    assert world.elapsed() <= 6 * HOUR + 60
    gaps = [later - at for at, later in zip(world.api.times("get"), world.api.times("get")[1:], strict=False)]
    assert min(gaps) >= HOUR


# --- a client that is closed


@pytest.mark.parametrize("name", [*CALLS, "submit url"])
async def test_a_call_that_waits_at_a_shared_gate_ends_when_its_client_is_closed(world: World, name: str) -> None:
    gate = Gate(RateLimit(1, per=600.0), clock=world.clock)
    (await gate.admit()).settle()
    client, other = world.client(gate=gate), world.client(gate=gate)
    call: Call = CALLS.get(name) or (lambda one: one.submit("https://example.com/1.mp3"))
    waiting, others = asyncio.ensure_future(call(client)), asyncio.ensure_future(other.get_credits())
    await world.clock.sleep(10)
    assert gate.snapshot().waiting["interactive"] == 2
    await client.aclose()
    with pytest.raises(Exception, match="the client is closed"):
        await waiting
    assert world.elapsed() == 10
    assert gate.snapshot().waiting["interactive"] == 1
    await others
    assert world.elapsed() == 600
    await other.aclose()


async def test_a_call_that_waits_after_a_failure_ends_when_its_client_is_closed(world: World) -> None:
    world.api.always("credits", error_reply(503, "DOWN", headers={"retry-after": "100"}))
    client = world.client()
    waiting = asyncio.ensure_future(client.get_credits())
    await world.clock.sleep(10)
    await client.aclose()
    with pytest.raises(Exception, match="the client is closed"):
        await waiting
    assert world.elapsed() == 10
    assert not isinstance(waiting.exception(), ServerError)
