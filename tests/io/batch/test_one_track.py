"""One track that always fails, and an outage: the one ends alone, in minutes; the other is waited out."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from aistemsplitter_async import (
    AIStemSplitterError,
    APIConnectionError,
    Done,
    Failed,
    IncompleteDownloadError,
    Outcome,
    RateLimit,
    RateLimitedError,
    Reply,
    ServerError,
    SubmissionUncertainError,
)
from aistemsplitter_async._send.cause import Failures
from aistemsplitter_async.batch.outcome import BatchReport
from aistemsplitter_async.batch.patience import Patience, SignsOfLife
from aistemsplitter_async.testing import Exchange, FakeClock, error_reply
from tests.io.fakes import CDN, Script, World, reset

MINUTE = 60.0


@attrs.define
class Life:
    """The signs of a service's life, as a test says."""

    clock: FakeClock = attrs.field(factory=lambda: FakeClock(autojump=True))
    well_from: float = 0.0
    traffic: bool = False
    asked: int = 0
    attempts: int = 0
    given_up: list[AIStemSplitterError] = attrs.field(factory=list)

    @property
    def now(self) -> float:
        return self.clock.monotonic() - 1000.0

    @property
    def is_well(self) -> bool:
        return self.now >= self.well_from

    def answers(self) -> int:
        return int(self.now) if self.traffic and self.is_well else 0

    async def ask(self) -> bool:
        self.asked += 1
        return self.is_well

    def patience(self, *, same_origin: bool = True) -> Patience:
        return Patience(
            clock=self.clock,
            random=lambda: 1.0,
            on_give_up=self.given_up.append,
            signs=SignsOfLife(self.answers, self.ask, same_origin=same_origin),
        )

    def failing(self, *errors: AIStemSplitterError, until: float = float("inf")) -> Callable[[], Awaitable[float]]:
        """Return an attempt of two seconds that fails until then, with each of these errors in turn."""

        async def attempt() -> float:
            await self.clock.sleep(2.0)
            self.attempts += 1
            if self.now < until:
                raise errors[self.attempts % len(errors)]
            return self.now

        return attempt


BROKEN = ServerError("broken", status_code=500)
GATEWAY = ServerError("down", status_code=503)


@pytest.mark.parametrize("traffic", [True, False])
@pytest.mark.parametrize("error", [BROKEN, GATEWAY, APIConnectionError("reset")], ids=repr)
async def test_a_track_that_fails_alone_while_the_service_answers_ends_in_minutes(
    error: AIStemSplitterError, *, traffic: bool
) -> None:
    life = Life(traffic=traffic)
    with pytest.raises(type(error)):
        await life.patience().retry_through_outage(life.failing(error))
    assert 5 * MINUTE <= life.now < 8 * MINUTE
    assert life.given_up == []
    assert life.asked == (0 if traffic else 3)


async def test_a_track_alone_in_an_outage_is_waited_out_at_one_more_request_a_round() -> None:
    life = Life(well_from=40 * MINUTE)
    assert (
        40 * MINUTE
        <= await life.patience().retry_through_outage(life.failing(GATEWAY, until=40 * MINUTE))
        < 41 * MINUTE
    )
    assert life.asked <= life.attempts <= 90


async def test_an_outage_that_is_just_over_when_the_service_is_asked_fails_nobody() -> None:
    life = Life(well_from=10 * MINUTE)
    assert await life.patience().retry_through_outage(life.failing(BROKEN, until=10 * MINUTE + 40)) < 12 * MINUTE


async def test_creates_that_are_down_for_ten_minutes_while_polls_succeed_fail_no_track_of_many() -> None:
    life = Life(traffic=True)
    patience, attempt = life.patience(), life.failing(BROKEN, until=10 * MINUTE)
    ends = await asyncio.gather(*(patience.retry_through_outage(attempt) for _ in range(20)))
    assert max(ends) < 11 * MINUTE


async def test_a_few_tracks_that_fail_together_for_ever_end_in_minutes() -> None:
    life = Life(traffic=True)
    patience, attempt = life.patience(), life.failing(BROKEN)
    ends = await asyncio.gather(*(patience.retry_through_outage(attempt) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(one, ServerError) for one in ends)
    assert life.now < 12 * MINUTE
    assert life.given_up == []


@pytest.mark.parametrize("error", [BROKEN, IncompleteDownloadError("cut")], ids=repr)
async def test_a_host_that_always_answers_one_track_alike_while_the_api_is_well_does_not_hold_the_batch(
    error: AIStemSplitterError,
) -> None:
    life = Life()
    with pytest.raises(type(error)):
        await life.patience(same_origin=False).retry_through_outage(life.failing(error))
    assert life.now < 8 * MINUTE


@pytest.mark.parametrize("errors", [(GATEWAY,), (APIConnectionError("reset"),), (BROKEN, GATEWAY)], ids=repr)
async def test_another_host_that_is_down_is_waited_out_though_the_api_is_well(
    errors: tuple[AIStemSplitterError],
) -> None:
    life = Life(traffic=True)
    patience = life.patience(same_origin=False)
    assert await patience.retry_through_outage(life.failing(*errors, until=30 * MINUTE)) >= 30 * MINUTE


async def test_a_429_is_about_the_key_and_not_about_the_track() -> None:
    life = Life(traffic=True)
    attempt = life.failing(RateLimitedError("slowly", status_code=429), until=30 * MINUTE)
    assert await life.patience().retry_through_outage(attempt) >= 30 * MINUTE


def test_failures_before_the_service_answered_count_for_nothing() -> None:
    failures = Failures(origin_known=True, successes=0, answers=0)
    for minute in range(60):
        failures.note(BROKEN, minute * MINUTE, successes=0, answers=0)
        assert not failures.is_track(minute * MINUTE)


# -- whole batches


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no power cut here


def urls(number: int) -> list[str]:
    return [f"https://example.com/{index}.mp3" for index in range(number)]


async def run(world: World, home: Path, sources: Any, **options: Any) -> tuple[dict[int, Outcome], BatchReport]:
    async with (
        world.client(rate_limit=RateLimit(1000)) as client,
        client.split_many(sources, into=home / "out", journal=home / "journal", **options) as batch,
    ):
        outcomes = {outcome.position: outcome async for outcome in batch}
        return outcomes, await batch.report()


def poisoned(url: str) -> Script:
    """Answer 500 to each create of `url`."""

    def answer(exchange: Exchange) -> Script:
        return error_reply(500, "SERVER_ERROR") if url.encode() in exchange.body else None

    return answer


@pytest.mark.usefixtures("inline_threads")
@pytest.mark.parametrize("number", [1, 4])
async def test_a_create_that_is_always_500_stays_uncertain_and_the_batch_ends_without_it(
    world: World, tmp_path: Path, number: int
) -> None:
    bad = number - 1
    sources = urls(number)
    world.api.always("create", poisoned(sources[bad]))
    outcomes, report = await run(world, tmp_path, sources)
    assert world.elapsed() < 9 * MINUTE
    failed = outcomes.pop(bad)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, SubmissionUncertainError)
    assert all(isinstance(outcome, Done) for outcome in outcomes.values())
    assert report.stopped_by is None
    bodies = {asked.body for asked in world.api.of("create") if sources[bad].encode() in asked.body}
    keys = {asked.headers["Idempotency-Key"] for asked in world.api.of("create") if asked.body in bodies}
    assert (len(bodies), len(keys)) == (1, 1)
    before = world.elapsed()
    other = "https://example.com/another.mp3"
    again, _ = await run(world, tmp_path, [*sources, other])
    assert isinstance(again[bad], Failed)
    assert isinstance(again[number], Done)
    assert world.elapsed() - before < 2 * MINUTE  # it is known by now, and all others wait until it is settled
    world.api.always("create", None)
    again, _ = await run(world, tmp_path, sources)
    assert isinstance(again[bad], Done)
    assert {asked.headers["Idempotency-Key"] for asked in world.api.of("create")[-1:]} == keys


@pytest.mark.usefixtures("inline_threads")
async def test_a_batch_of_one_track_waits_out_half_an_hour_without_any_answer(world: World, tmp_path: Path) -> None:
    def down(_: Exchange) -> Script:
        return reset() if world.elapsed() < 30 * MINUTE else None

    for what in ("credits", "reserve", "create", "get"):
        world.api.always(what, down)
    outcomes, _ = await run(world, tmp_path, urls(1))
    assert isinstance(outcomes[0], Done)
    assert world.api.count("credits") < 70
    assert len(world.api.created) == 1


@pytest.mark.usefixtures("inline_threads")
async def test_one_stem_that_cannot_be_downloaded_does_not_keep_the_rest_from_being_bought(
    world: World, tmp_path: Path
) -> None:
    def broken(exchange: Exchange) -> Script:
        first = exchange.request.url.startswith(f"{CDN}/split_1/vocals")
        return error_reply(500, "SERVER_ERROR") if first else None

    async def slow(exchange: Exchange) -> Script:
        await world.clock.sleep(30.0)  # so that all of them wait until stems can be downloaded before they are bought
        return world.api.do_upload(exchange)

    world.api.always("download", broken)
    world.api.always("upload", slow)
    files = [tmp_path / f"{index}.wav" for index in range(5)]
    for file in files:
        file.write_bytes(file.name.encode() * 100)
    outcomes, report = await run(world, tmp_path, [*urls(1), *files])
    assert world.elapsed() < 15 * MINUTE
    assert report.stopped_by is None
    assert sorted(type(outcome).__name__ for outcome in outcomes.values()) == ["Done"] * 5 + ["Failed"]
    assert isinstance(outcomes[0], Failed)
    assert outcomes[0].stage == "download"


def html(status: int) -> Reply:
    return Reply(status=status, headers={"content-type": "text/html"}, body=b"<title>Blocked</title>")


@pytest.mark.usefixtures("inline_threads")
@pytest.mark.parametrize(
    ("what", "refusal"),
    [("upload", error_reply(403, "BLOCKED")), ("get", html(401))],
)
async def test_what_a_gateway_or_the_worker_refuses_of_one_song_stops_no_other(
    world: World, tmp_path: Path, what: str, refusal: Reply
) -> None:
    """It was taken for the API's word about the key, so no later run got past that song either."""

    def answer(exchange: Exchange) -> Script:
        asked = exchange.request.url.encode() + exchange.body
        return refusal if any(mark in asked for mark in (b"0.wav", b"sound 0", b"split_1")) else None

    world.api.always(what, answer)
    files = [tmp_path / f"{index}.wav" for index in range(2)]
    for index, file in enumerate(files):
        file.write_bytes(b"sound %d" % index)
    outcomes, report = await run(world, tmp_path, files)
    assert report.stopped_by is None
    assert sorted(type(outcome).__name__ for outcome in outcomes.values()) == ["Done", "Failed"]
    assert world.elapsed() < 9 * MINUTE


@pytest.mark.usefixtures("inline_threads")
async def test_a_split_whose_polls_always_fail_does_not_keep_the_batch(world: World) -> None:
    def answer(exchange: Exchange) -> Script:
        return error_reply(500, "SERVER_ERROR") if exchange.request.url.endswith("/split_1") else None

    world.api.always("get", answer)
    async with world.client() as client, client.split_many(urls(2)) as batch:
        outcomes = [outcome async for outcome in batch]
    assert world.elapsed() < 8 * MINUTE
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Done", "Failed"]


@pytest.mark.usefixtures("inline_threads")
async def test_a_key_that_may_not_read_the_credits_still_shows_that_the_service_is_well(world: World) -> None:
    world.api.always("credits", error_reply(403, "FORBIDDEN"))
    world.api.always("create", error_reply(500, "SERVER_ERROR"))
    async with world.client() as client, client.split_many(urls(1)) as batch:
        report = await batch.report()
    assert world.elapsed() < 9 * MINUTE
    assert report.stopped_by is None
