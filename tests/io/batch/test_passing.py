"""A batch whose gateway, replicas and CDN are late: it waits in sight, and what it gives up the next run takes up."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aistemsplitter_async import (
    AuthenticationError,
    Done,
    Failed,
    Outcome,
    RateLimit,
    Reply,
    Skipped,
    StemsExpiredError,
    SubmissionUncertainError,
)
from aistemsplitter_async.testing import Exchange, error_reply
from tests.io.fakes import Script, World

pytestmark = pytest.mark.usefixtures("inline_threads")
MINUTE = 60.0
HOUR = 3600.0


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no power cut here


@pytest.fixture
def home(tmp_path: Path) -> dict[str, Path]:
    return {"into": tmp_path / "out", "journal": tmp_path / "journal"}


def urls(number: int) -> list[str]:
    return [f"https://example.com/{index}.mp3" for index in range(number)]


def wavs(folder: Path, number: int) -> list[Path]:
    for index in range(number):
        (folder / f"{index}.wav").write_bytes(b"sound %d" % index)
    return sorted(folder.glob("*.wav"))


async def run(world: World, sources: Any, **options: Any) -> list[Outcome]:
    async with world.client(rate_limit=RateLimit(1000)) as client, client.split_many(sources, **options) as batch:
        return [outcome async for outcome in batch]


def page(status: int) -> Reply:
    return Reply(status=status, headers={"content-type": "text/html"}, body=b"<html><title>Forbidden</title></html>")


def during(world: World, begin: float, end: float, what: str, wrong: Script) -> None:
    """Answer wrongly for a while, which begins and ends in seconds of the clock."""

    def answer(exchange: Exchange) -> Any:
        return wrong if begin <= world.elapsed() < end else getattr(world.api, f"do_{what}")(exchange)

    world.api.always(what, answer)


STAGES = ["reserve", "upload", "create", "get", "download"]


@pytest.mark.parametrize("what", STAGES)
@pytest.mark.parametrize("status", [403, 404, 200])
async def test_a_minute_of_pages_at_any_stage_costs_a_minute_and_no_song(
    world: World, home: Any, tmp_path: Path, what: str, status: int
) -> None:
    during(world, 0, MINUTE, what, page(status))
    outcomes = await run(world, wavs(tmp_path, 5), **home)
    assert [type(outcome) for outcome in outcomes] == [Done] * 5
    assert len(world.api.created) == 5, "each is charged once"
    assert world.elapsed() < 4 * MINUTE
    assert world.api.count(what) < (5 * 4 * 11 if what == "download" else 200)


async def test_one_page_of_a_gateway_does_not_stop_a_batch(world: World, home: Any) -> None:
    """It was taken for the API's word about the key, and no more splits were created."""
    world.api.script("create", page(403))
    async with world.client() as client, client.split_many(urls(3), **home) as batch:
        report = await batch.report()
    assert (report.done, report.failed, report.stopped_by) == (3, 0, None)
    keys = [asked.headers["Idempotency-Key"] for asked in world.api.of("create")]
    assert (len(keys), len(set(keys))) == (4, 3), "the one that was answered so is sent again under its own key"


async def test_a_gateway_that_refuses_for_hours_stops_the_batch_and_leaves_what_may_be_paid(
    world: World, home: Any
) -> None:
    during(world, 0, 5 * HOUR, "create", page(403))
    async with world.client() as client, client.split_many(urls(30), **home) as batch:
        watching = asyncio.create_task(batch.report())
        await world.clock.sleep(10 * MINUTE)
        notices = batch.progress().notices
        assert any(notice.startswith("paused for ") for notice in notices)
        assert all("HTTP 403, a web page titled" in notice for notice in notices)
        report = await watching
    assert isinstance(report.stopped_by, SubmissionUncertainError)
    assert 0.98 * HOUR < world.elapsed() < 1.2 * HOUR
    assert world.api.count("create") < 350
    sent = {asked.headers["Idempotency-Key"] for asked in world.api.of("create")}
    await world.clock.sleep(5 * HOUR)
    assert [type(outcome) for outcome in await run(world, urls(30), **home)] == [Done] * 30
    assert sent <= set(world.api.created), "each was sent again under its first key"
    assert len(world.api.created) == 30


async def test_a_song_that_gives_up_an_outage_before_its_create_says_why(
    world: World, home: Any, tmp_path: Path
) -> None:
    world.api.always("upload", page(502))
    async with world.client() as client, client.split_many(wavs(tmp_path, 3), patience=5, **home) as batch:
        outcomes = [outcome async for outcome in batch]
        report = await batch.report()
    failed = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
    assert report.stopped_by in [outcome.error for outcome in failed]
    assert {outcome.reason for outcome in outcomes if isinstance(outcome, Skipped)} <= {"not begun"}


async def test_the_apis_own_word_about_the_key_stops_at_once(world: World, home: Any) -> None:
    world.api.always("create", error_reply(403, "FORBIDDEN"))
    async with world.client() as client, client.split_many(urls(3), **home) as batch:
        report = await batch.report()
    assert isinstance(report.stopped_by, AuthenticationError)
    assert world.elapsed() < 1


async def test_while_some_stems_are_late_the_others_are_downloaded(world: World, home: Any) -> None:
    """All places for downloads are wanted by splits whose stems are late by a minute and a half."""
    late = {f"split_{number}" for number in range(1, 21)}
    finished: dict[str, float] = {}

    def download(exchange: Exchange) -> Any:
        is_late = exchange.request.url.split("/")[3] in late and world.elapsed() < 1.5 * MINUTE
        return error_reply(404, "NO_SUCH_KEY") if is_late else world.api.do_download(exchange)

    world.api.always("download", download)
    async with (
        world.client(rate_limit=RateLimit(1000)) as client,
        client.split_many(urls(40), **home, downloads=8) as batch,
    ):
        async for outcome in batch:
            assert isinstance(outcome, Done)
            finished[outcome.split.id] = world.elapsed()
    assert len(finished) == 40
    assert max(at for split, at in finished.items() if split not in late) < MINUTE
    assert max(finished.values()) < 3 * MINUTE
    assert world.api.count("get") < 40 + 20 * 6, "URLs are not renewed with every try"


@pytest.mark.parametrize("what", ["get", "download"])
async def test_no_wait_of_a_batch_is_silent(world: World, home: Any, what: str) -> None:
    during(world, 0, 20 * MINUTE, what, error_reply(404, "NOT_FOUND"))
    seen = list[str]()
    async with world.client() as client, client.split_many(urls(1), **home) as batch:
        task = asyncio.create_task(batch.report())
        await world.clock.sleep(3.0)
        for _ in range(100):
            seen += batch.progress().notices
            await world.clock.sleep(1.0)
        await task
    assert len(seen) >= 90
    assert all("HTTP 404" in notice and "trying again in" in notice for notice in seen)


LATE: dict[str, tuple[str, Callable[[], Script]]] = {
    "404 at wait": ("get", lambda: error_reply(404, "NOT_FOUND")),
    "400 at wait": ("get", lambda: error_reply(400, "BAD_REQUEST")),
    "HTML at wait": ("get", lambda: page(200)),
    "403 at download": ("download", lambda: error_reply(403, "EXPIRED")),
    "404 at download": ("download", lambda: error_reply(404, "NO_SUCH_KEY")),
}


@pytest.mark.parametrize(("what", "wrong"), LATE.values(), ids=LATE.keys())
async def test_what_was_given_up_after_it_was_paid_is_taken_up_by_the_next_run_for_nothing(
    world: World, home: Any, what: str, wrong: Callable[[], Script]
) -> None:
    during(world, 0, HOUR, what, wrong())
    (outcome,) = await run(world, urls(1), **home)
    assert isinstance(outcome, Failed)
    assert world.elapsed() < 5 * MINUTE
    await world.clock.sleep(HOUR)
    (outcome,) = await run(world, urls(1), **home)
    assert isinstance(outcome, Done)
    assert world.api.count("create") == 1


OLD: list[dict[str, Any]] = [
    {"stage": "wait", "kind": "APIStatusError", "message": "gone", "code": "NOT_FOUND", "status_code": 404},
    {"stage": "wait", "kind": "APIStatusError", "message": "gone", "code": None, "status_code": 404},
    {"stage": "wait", "kind": "APIStatusError", "message": "moved", "code": None, "status_code": 302},
    {"stage": "download", "kind": "StemsExpiredError", "message": "refused", "code": None, "status_code": 403},
    {"stage": "download", "kind": "UnsafeURLError", "message": "refused", "code": None, "status_code": None},
    {"stage": "download", "kind": "APIStatusError", "message": "no", "code": None, "status_code": 400},
]


def rewrite(journal: Path, failure: dict[str, Any]) -> None:
    """Put a failure into the journal as the versions before wrote it: with their own verdict that it is final."""
    with sqlite3.connect(journal) as file:
        file.execute("UPDATE tracks SET failure = ?", [json.dumps(failure | {"passing": False, "detail": ""})])
    file.close()


@pytest.mark.parametrize("failure", OLD, ids=lambda failure: f"{failure['kind']} {failure['status_code']}")
async def test_rows_that_earlier_versions_gave_up_are_taken_up(
    world: World, home: Any, failure: dict[str, Any]
) -> None:
    during(world, 0, HOUR, "get" if failure["stage"] == "wait" else "download", error_reply(404, "NOT_FOUND"))
    await run(world, urls(1), **home)
    rewrite(home["journal"], failure)
    await world.clock.sleep(HOUR)
    (outcome,) = await run(world, urls(1), **home)
    assert isinstance(outcome, Done)
    assert world.api.count("create") == 1
    assert [type(outcome) for outcome in await run(world, urls(1), **home)] == [Skipped]


async def test_a_split_that_failed_is_still_not_bought_again(world: World, home: Any) -> None:
    world.api.statuses["split_1"] = ["failed"]
    for _ in range(2):
        (outcome,) = await run(world, urls(1), **home)
        assert isinstance(outcome, Failed)
    assert world.api.count("create") == 1


async def test_the_checks_above_would_notice_a_journal_that_gives_up(world: World, home: Any) -> None:
    """The negative control: a failure that stays final is what the next run leaves alone."""
    during(world, 0, HOUR, "download", error_reply(403, "EXPIRED"))
    (outcome,) = await run(world, urls(1), **home)
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, StemsExpiredError)
    rewrite(home["journal"], OLD[3] | {"kind": "UnsafeNameError"})
    await world.clock.sleep(HOUR)
    asked = len(world.api.asked)
    assert [type(outcome) for outcome in await run(world, urls(1), **home)] == [Failed]
    assert len(world.api.asked) == asked
