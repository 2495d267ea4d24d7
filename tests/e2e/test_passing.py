"""A service whose replicas, CDN and gateway are late, on bare sockets: what it sends is written by hand."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

from aistemsplitter_async import AsyncAIStemSplitter, Done, Failed, Skipped
from aistemsplitter_async.config import PollPolicy, RetryPolicy
from aistemsplitter_async.events import Event, RetryPlanned
from tests.e2e.harness import CLI
from tests.e2e.raw import CREATED, KEY, Got, RawAPI, answer, envelope, head, listening, read_request

SONG = "https://example.com/a.wav"
MINUTE = 1 / 60  # a second stands for a minute
STEM = b"the sound of a stem " * 500


def failure(code: str, status: str) -> bytes:
    return answer({"success": False, "error": {"code": code, "message": "no"}}, status=status)


def page(status: str = "200 OK") -> bytes:
    return answer(b"<html><title>Back soon</title></html>", "Content-Type: text/html", status=status)


WRONG: dict[str, Callable[[], bytes]] = {
    "404": lambda: failure("NOT_FOUND", "404 Not Found"),
    "404 page": lambda: page("404 Not Found"),
    "403 page": lambda: page("403 Forbidden"),
    "HTML": page,
    "empty": lambda: answer(b""),
    "204": lambda: head("204 No Content"),
    "another id": lambda: answer(envelope(CREATED | {"id": "split_99", "status": "queued"})),
    "S3's 403": lambda: answer(
        b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", status="403 Forbidden"
    ),
}


@attrs.define
class Late:
    """An API and its CDN that answer wrongly until some time.

    Attributes:
        polls_wrong: seconds from the first poll on in which polls are answered wrongly.
        stems_wrong: seconds from the first request of a stem on in which stems are.
        wrong: what comes before.
        created_wrong: answers to the first creates.
        downloads: requests for stems.
    """

    api: RawAPI
    cdn: str = ""
    polls_wrong: float = 0.0
    stems_wrong: float = 0.0
    wrong: Callable[[], bytes] = page
    created_wrong: list[bytes] = attrs.field(factory=list)
    downloads: int = 0
    since: dict[str, float] = attrs.field(factory=dict[str, float])

    def is_late(self, what: str, seconds: float) -> bool:
        now = time.monotonic()
        return now < self.since.setdefault(what, now) + seconds

    def create(self, _: Got, split_id: str) -> bytes:
        return self.created_wrong.pop(0) if self.created_wrong else answer(envelope(CREATED | {"id": split_id}))

    def poll(self, _: Got, split_id: str) -> bytes:
        if self.is_late("poll", self.polls_wrong):
            return self.wrong()
        stems = {name: f"{self.cdn}/{split_id}/{name}.mp3" for name in ("vocals", "drums")}
        return answer(envelope(CREATED | {"id": split_id, "status": "succeeded", "stems": stems}))

    async def serve_stems(self, reader: Any, writer: Any) -> None:
        while True:
            await read_request(reader)
            self.downloads += 1
            late = self.is_late("stem", self.stems_wrong)
            writer.write(self.wrong() if late else answer(STEM, "Content-Type: audio/mpeg", 'ETag: "1"'))
            await writer.drain()


@asynccontextmanager
async def late_service() -> AsyncIterator[Late]:
    api = RawAPI()
    late = Late(api)
    api.created, api.polled = late.create, late.poll
    async with listening(api.serve) as port, listening(late.serve_stems) as cdn:
        api.url, late.cdn = f"http://127.0.0.1:{port}/v1", f"http://127.0.0.1:{cdn}"
        yield late


def client_of(late: Late, **options: Any) -> AsyncAIStemSplitter:
    quick: dict[str, Any] = {"retry": RetryPolicy().scaled(MINUTE), "poll": PollPolicy().scaled(MINUTE)}
    return AsyncAIStemSplitter(KEY, base_url=late.api.url, **(quick | options))


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
async def test_a_split_that_is_polled_wrongly_for_a_minute_is_finished(
    tmp_path: Path, wrong: Callable[[], bytes]
) -> None:
    events: list[Event] = []
    async with late_service() as late, client_of(late, on_event=events.append) as client:
        late.wrong, late.polls_wrong = wrong, 1
        done = await client.split(SONG, into=tmp_path)
    assert [path.read_bytes() for path in done.files.values()] == [STEM] * 2
    assert len(late.api.splits) == 1
    assert any(isinstance(event, RetryPlanned) and event.stage == "get" for event in events)


@pytest.mark.parametrize("wrong", [WRONG["404"], WRONG["404 page"], WRONG["S3's 403"]])
async def test_stems_that_a_cdn_refuses_for_a_minute_are_downloaded(tmp_path: Path, wrong: Callable[[], bytes]) -> None:
    async with late_service() as late, client_of(late) as client:
        late.wrong, late.stems_wrong = wrong, 1
        done = await client.split(SONG, into=tmp_path)
    assert [path.read_bytes() for path in done.files.values()] == [STEM] * 2
    assert late.downloads < 40
    assert len(late.api.got) < 10


@pytest.mark.parametrize("status", ["403 Forbidden", "404 Not Found", "405 Method Not Allowed", "400 Bad Request"])
async def test_a_create_that_meets_a_gateways_page_is_charged_once(tmp_path: Path, status: str) -> None:
    """The create happened behind the page: only its own key finds out."""
    async with late_service() as late, client_of(late) as client:
        late.created_wrong = [page(status)] * 3
        done = await client.split(SONG, into=tmp_path)
    assert done.split.id == "split_1"
    assert len(late.api.splits) == 1
    assert len({(got.key, got.body) for got in late.api.creates}) == 1
    assert len(late.api.creates) == 4


async def test_a_batch_goes_on_behind_one_page_and_takes_up_what_it_had_to_give_up(tmp_path: Path) -> None:
    songs = [f"https://example.com/{number}.wav" for number in range(5)]
    home: dict[str, Any] = {"into": tmp_path / "out", "journal": tmp_path / "journal"}
    async with late_service() as late:
        late.created_wrong = [page("403 Forbidden")]
        late.wrong, late.stems_wrong = WRONG["404"], 3600
        quick = RetryPolicy(passing_paid=12.0).scaled(MINUTE)
        async with client_of(late, retry=quick) as client, client.split_many(songs, **home) as batch:
            first = [outcome async for outcome in batch]
        assert [type(outcome) for outcome in first] == [Failed] * 5
        late.stems_wrong = 0.0
        for kind in (Done, Skipped):
            async with client_of(late) as client, client.split_many(songs, **home) as batch:
                assert {type(outcome) async for outcome in batch} == {kind}
    assert len(late.api.splits) == 5


async def test_the_command_line_says_why_it_waits_and_finishes(cli: CLI) -> None:
    async with late_service() as late:
        mine = cli.with_(AISTEMSPLITTER_BASE_URL=late.api.url, AISTEMSPLITTER_API_KEY=KEY)
        late.wrong = WRONG["404"]
        late.polls_wrong = 3
        ended = await mine.run("split", SONG, "--into", "out")
        assert (ended.code, len(late.api.splits)) == (0, 1), ended.err
        assert "HTTP 404" in ended.err
        assert "trying again in" in ended.err
        late.since.clear()
        late.wrong, late.polls_wrong, late.stems_wrong = WRONG["S3's 403"], 0, 2
        ended = await mine.run("download", "split_1", "--into", "again")
        assert ended.code == 0, ended.err
        assert "HTTP 403" in ended.err


async def test_the_command_line_does_not_wait_long_for_a_mistyped_id(cli: CLI) -> None:
    async with late_service() as late:
        mine = cli.with_(AISTEMSPLITTER_BASE_URL=late.api.url, AISTEMSPLITTER_API_KEY=KEY)
        late.wrong, late.polls_wrong = WRONG["404"], 3600
        began = time.monotonic()
        ended = await mine.run("wait", "split_typo")
        assert ended.code == 1
        assert "there is no split split_typo" in ended.problem
        assert time.monotonic() - began < 40
