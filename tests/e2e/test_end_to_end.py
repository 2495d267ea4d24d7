"""The client against the sandbox over real sockets, with and without faults: complete files, one charge, no 429."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aistemsplitter_async import (
    AsyncAIStemSplitter,
    GateClosed,
    PollPolicy,
    RateLimit,
    RetryPolicy,
    SourceChangedError,
    SplitCreated,
    SplitFailedError,
    StemsExpiredError,
    SubmissionUncertainError,
    UnsafeNameError,
    stream_source,
)
from aistemsplitter_async._gate.gate import Gate
from aistemsplitter_async.sandbox import Sandbox, faults

MakeWav = Callable[..., bytes]
Start = Callable[..., AbstractAsyncContextManager[tuple[Sandbox, AsyncAIStemSplitter]]]

MINUTE = 1 / 60  # a second stands for a minute
QUICK: dict[str, Any] = {
    "poll": PollPolicy().scaled(0.01),
    "retry": RetryPolicy().scaled(0.01),
}


@pytest.fixture
def start() -> Start:
    """Start a silent sandbox, without a limit unless one is given, and a quick client of it."""

    @asynccontextmanager
    async def both(
        client: dict[str, Any] | None = None, **options: Any
    ) -> AsyncIterator[tuple[Sandbox, AsyncAIStemSplitter]]:
        async with (
            Sandbox(**({"separation": "silent", "requests_per_minute": None} | options)) as sandbox,
            AsyncAIStemSplitter(sandbox.api_key, base_url=sandbox.base_url, **(QUICK | (client or {}))) as splitter,
        ):
            yield sandbox, splitter

    return both


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def test_a_song_becomes_stems_that_are_really_separated(start: Start, make_wav: MakeWav, tmp_path: Path) -> None:
    song = tmp_path / "my song.wav"
    song.write_bytes(make_wav(2.0, rate=44100))
    async with start(separation="real") as (sandbox, client):
        done = await client.split(song, into=tmp_path / "stems", stem_model="6s", output_format="wav")
        ledger = sandbox.ledger
    assert sorted(done.files) == ["bass", "drums", "guitar", "other", "piano", "vocals"]
    assert {path.parent for path in done.files.values()} == {tmp_path / "stems" / "my song"}
    assert all(path.stat().st_size > 44100 for path in done.files.values())
    assert done.split.credits_used == 2
    assert [upload.sha256 for upload in ledger.uploads] == [digest(song.read_bytes())]
    assert ledger.leaked_keys == []


async def test_bytes_and_streams_arrive_as_they_are(start: Start, make_wav: MakeWav) -> None:
    audio = make_wav(3.0)

    async def chunks() -> AsyncIterator[bytes]:
        for begin in range(0, len(audio), 7777):
            yield audio[begin : begin + 7777]

    async with start() as (sandbox, client):
        await client.upload_audio(audio, filename="a.wav")
        await client.upload_audio(stream_source(chunks, content_length=len(audio), filename="b.wav"))
        assert [upload.sha256 for upload in sandbox.ledger.uploads] == [digest(audio)] * 2


async def test_a_stream_of_another_length_is_noticed_and_nothing_is_charged(start: Start, make_wav: MakeWav) -> None:
    audio = make_wav(1.0)

    async def short() -> AsyncIterator[bytes]:
        yield audio[:-1]

    async with start() as (sandbox, client):
        with pytest.raises(SourceChangedError):
            await client.submit(stream_source(short, content_length=len(audio), filename="a.wav"))
        assert sandbox.ledger.charges == []


@pytest.mark.parametrize("window", ["fixed", "sliding"])
async def test_a_known_limit_is_used_in_full_without_a_429(start: Start, window: str) -> None:
    limit = RateLimit(30).scaled(MINUTE)
    closed: list[object] = []
    async with start(
        {
            "rate_limit": limit,
            "on_event": lambda event: closed.append(event) if isinstance(event, GateClosed) else None,
        },
        requests_per_minute=30,
        minute=60 * MINUTE,
        window=window,
    ) as (sandbox, client):
        jobs = await asyncio.gather(
            *(client.submit(f"https://example.com/{n}.mp3?seconds=60", priority="bulk") for n in range(45))
        )
        splits = await asyncio.gather(*(job.wait() for job in jobs))
        assert {split.status for split in splits} == {"succeeded"}
        assert sandbox.ledger.throttled == 0
        assert sandbox.ledger.count("get") <= 2.2 * 45
    assert closed == []


async def test_an_unknown_limit_is_learned_from_a_few_refusals(start: Start) -> None:
    async with start(
        {"rate_limit": RateLimit().scaled(MINUTE), "retry": RetryPolicy(throttle_waits=20).scaled(MINUTE)},
        requests_per_minute=20,
        minute=60 * MINUTE,
        rate_headers="none",
    ) as (sandbox, client):
        urls = [f"https://example.com/{n}.mp3?seconds=60" for n in range(40)]
        jobs = await asyncio.gather(*(client.submit(url) for url in urls))
        await asyncio.gather(*(job.wait() for job in jobs))
        assert client.gate.snapshot().limit == 20
        assert sandbox.ledger.throttled <= 12


async def test_the_check_above_would_notice_a_gate_that_does_not_learn(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: refusals are taken for replies."""
    monkeypatch.setattr(Gate, "_refuse", lambda gate, taken_at, _: gate._settle(taken_at))
    async with start(
        {"retry": RetryPolicy(throttle_waits=100, quota=1e9).scaled(MINUTE)},
        requests_per_minute=20,
        minute=60 * MINUTE,
        rate_headers="none",
    ) as (sandbox, client):
        submissions = (client.submit(f"https://example.com/{n}.mp3?seconds=60") for n in range(40))
        await asyncio.gather(*submissions, return_exceptions=True)
        assert sandbox.ledger.throttled > 12


AMBIGUOUS = {
    "reset before": faults.Reset(effect=False),
    "reset after": faults.Reset(effect=True),
    "half a reply": faults.Cut(after_bytes=40),
    "500": faults.Status(500),
    "502 page": faults.Status(502),
    "garbage": faults.Body("garbage"),
    "no id": faults.MissingField("data.id"),
}


@pytest.mark.parametrize("fault", AMBIGUOUS.values(), ids=AMBIGUOUS)
async def test_a_create_that_breaks_is_replayed_byte_for_byte_and_charged_once(
    start: Start, make_wav: MakeWav, fault: faults.Fault
) -> None:
    async with start() as (sandbox, client):
        rule = sandbox.faults.add("create", fault, times=2)
        job = await client.submit(make_wav(1.0), filename="a.wav")
        assert rule.consumed == 2
        (charge,) = sandbox.ledger.charges
        assert (charge.idempotency_key, charge.split_id) == (job.idempotency_key, job.id)
        assert len(charge.bodies) == 1


async def test_a_create_that_stays_unclear_can_be_resubmitted_and_is_charged_once(start: Start) -> None:
    async with start() as (sandbox, client):
        sandbox.faults.add("create", faults.Reset(effect=True), times=5)
        with pytest.raises(SubmissionUncertainError) as caught:
            await client.submit("https://example.com/a.mp3?seconds=60")
        job = await client.resubmit(caught.value.submission)
        (charge,) = sandbox.ledger.charges
        assert (charge.idempotency_key, charge.split_id) == (caught.value.idempotency_key, job.id)


async def test_cancelling_a_create_under_way_keeps_its_id(start: Start) -> None:
    seen: list[Any] = []
    async with start({"on_event": seen.append}) as (sandbox, client):
        rule = sandbox.faults.add("create", faults.Latency(0.2))
        sending = asyncio.create_task(client.submit("https://example.com/a.mp3?seconds=60"))
        while not rule.consumed:  # noqa: ASYNC110  # until it is at the server; a rule has no event
            await asyncio.sleep(0.001)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        (charge,) = sandbox.ledger.charges
        assert [event.split_id for event in seen if isinstance(event, SplitCreated)] == [charge.split_id]


BROKEN_DOWNLOADS = {
    "reset": faults.Cut(after_bytes=100, how="reset"),
    "closed": faults.Cut(after_bytes=100, how="close"),
    "chunked and cut": faults.Cut(after_bytes=100, framing="chunked"),
    "end unmarked": faults.Cut(after_bytes=100, framing="close"),
    "500": faults.Status(500),
    "expired": faults.ExpiredURL(),
    "another range": faults.WrongContentRange(),
}


@pytest.mark.parametrize("fault", BROKEN_DOWNLOADS.values(), ids=BROKEN_DOWNLOADS)
async def test_a_broken_download_goes_on_and_the_files_are_whole(
    start: Start, make_wav: MakeWav, tmp_path: Path, fault: faults.Fault
) -> None:
    async with start() as (sandbox, client):
        job = await client.submit(make_wav(4.0, rate=44100), filename="a.wav", output_format="wav")
        whole = await job.download(tmp_path / "whole")
        before = faults.Cut(after_bytes=100) if isinstance(fault, faults.WrongContentRange) else None
        if before is not None:  # a range is only asked for by who holds a part
            sandbox.faults.add("download", before, times=4)
        rule = sandbox.faults.add("download", fault, times=2)
        files = await job.download(tmp_path / "broken")
        assert rule.consumed == 2
    assert {name: digest(path.read_bytes()) for name, path in files.items()} == {
        name: digest(path.read_bytes()) for name, path in whole.items()
    }
    assert list(tmp_path.rglob("*.part")) == []


async def test_urls_that_stay_refused_end_in_an_error_and_leave_no_file(start: Start, tmp_path: Path) -> None:
    async with start() as (sandbox, client):
        job = await client.submit("https://example.com/a.mp3?seconds=1")
        sandbox.faults.add("download", faults.ExpiredURL(), times=100)
        with pytest.raises(StemsExpiredError):
            await job.download(tmp_path)
    assert [path.name for path in (tmp_path / "a").glob("[!.]*")] == []


async def test_hostile_stem_names_write_nothing_outside_the_folder(start: Start, tmp_path: Path) -> None:
    async with start() as (sandbox, client):
        sandbox.faults.add("get", faults.HostileStems(), times=100)
        job = await client.submit("https://example.com/a.mp3?seconds=1")
        with pytest.raises(UnsafeNameError):
            await job.download(tmp_path / "in")
    inside = tmp_path / "in"
    assert [path for path in tmp_path.rglob("*") if path.is_file() and inside not in path.parents] == []


async def test_a_failed_split_is_an_error_with_the_servers_reason(start: Start) -> None:
    async with start() as (sandbox, client):
        sandbox.faults.add("create", faults.FailedSplit("BAD_AUDIO", "nothing but noise"))
        job = await client.submit("https://example.com/a.mp3?seconds=1")
        with pytest.raises(SplitFailedError, match="BAD_AUDIO: nothing but noise"):
            await job.wait()
        assert (await job.wait(raise_on_failed=False)).status == "failed"
