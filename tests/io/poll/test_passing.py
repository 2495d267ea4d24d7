"""Waits for a split that is there, while its service says otherwise: waited out, in sight, and not for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from aistemsplitter_async import Reply
from aistemsplitter_async._send import reactions
from aistemsplitter_async.config import PollPolicy
from aistemsplitter_async.errors import AIStemSplitterError, APIStatusError, AuthenticationError, WaitTimeoutError
from aistemsplitter_async.events import RetryPlanned
from aistemsplitter_async.testing import Exchange, error_reply, json_reply
from tests.io.fakes import World

SONG = "https://example.com/a.mp3"


def page(status: int) -> Reply:
    return Reply(status=status, headers={"content-type": "text/html"}, body=b"<html><title>Try later</title></html>")


WRONG: dict[str, Callable[[World], Reply]] = {
    "404": lambda _: error_reply(404, "NOT_FOUND"),
    "410": lambda _: error_reply(410, "GONE"),
    "404 page": lambda _: page(404),
    "403 page": lambda _: page(403),
    "401 page": lambda _: page(401),
    "400 page": lambda _: page(400),
    "HTML in a 200": lambda _: page(200),
    "an empty 200": lambda _: Reply(status=200),
    "another split": lambda world: world.api.split("split_77", "succeeded"),
    "a split of another shape": lambda _: json_reply({"id": "split_1", "status": 5}),
    "no stems yet": lambda world: world.api.split("split_1", "succeeded", stems={}),
    "a redirect": lambda _: Reply(status=302, headers={"location": "https://status.example/"}),
    "409": lambda _: error_reply(409, "CONFLICT"),
}
wrong_for_a_while = pytest.mark.parametrize("answer", WRONG.values(), ids=WRONG.keys())


def wrong_until(world: World, answer: Callable[[World], Reply], seconds: float) -> None:
    until = world.clock.monotonic() + seconds
    world.api.always("get", lambda one: answer(world) if world.clock.monotonic() < until else world.api.do_get(one))


@wrong_for_a_while
@pytest.mark.parametrize("seconds", [1.5, 60, 110])
async def test_a_wait_for_a_split_that_was_just_created_outlasts_what_passes(
    world: World, answer: Callable[[World], Reply], seconds: float
) -> None:
    wrong_until(world, answer, seconds)
    async with world.client() as client:
        job = await client.submit(SONG)
        split = await job.wait()
    assert (split.id, split.status) == ("split_1", "succeeded")
    assert world.elapsed() < seconds + 40
    assert world.api.count("get") <= 40


@wrong_for_a_while
async def test_what_does_not_pass_ends_the_wait_after_two_minutes_and_no_pause_is_silent(
    world: World, answer: Callable[[World], Reply]
) -> None:
    wrong_until(world, answer, 3600)
    async with world.client(poll=PollPolicy(first=1.0)) as client:
        job = await client.submit(SONG)
        with pytest.raises(AIStemSplitterError) as caught:
            await job.wait()
    assert caught.value.split_id == "split_1"
    assert type(caught.value) is not WaitTimeoutError
    assert 120 <= world.elapsed() < 190
    gaps = world.of(RetryPlanned)
    covered = sum(event.delay for event in gaps)
    assert covered >= 118, "each second of waiting has a reason on the screen"
    assert world.api.count("get") <= 45


@pytest.mark.parametrize(
    ("status", "kind"), [(401, AuthenticationError), (403, AuthenticationError), (422, APIStatusError)]
)
async def test_the_apis_own_refusal_ends_the_wait_at_once(world: World, status: int, kind: type[Exception]) -> None:
    world.api.script("get", error_reply(status, "UNAUTHORIZED"))
    async with world.client() as client:
        job = await client.submit(SONG)
        with pytest.raises(kind):
            await job.wait()
    assert world.api.count("get") == 1


@pytest.mark.parametrize("answer", [WRONG["404"], WRONG["410"], WRONG["404 page"]])
async def test_nobody_waits_long_for_an_id_that_is_mistyped(world: World, answer: Callable[[World], Reply]) -> None:
    wrong_until(world, answer, 3600)
    async with world.client() as client:
        with pytest.raises(APIStatusError) as caught:
            await client.job("split_typo").wait()
        assert caught.value.status_code in (404, 410)
        assert world.elapsed() <= 12  # the first and the last poll may take 3.5 s each
        began = world.elapsed()
        with pytest.raises(APIStatusError):
            await anext(aiter(client.updates("split_typo")))
        assert world.elapsed() - began <= 10


async def test_a_plain_get_says_at_once_what_there_is(world: World) -> None:
    wrong_until(world, WRONG["404"], 3600)
    async with world.client() as client:
        with pytest.raises(APIStatusError):
            await client.get_split("split_typo")
    assert world.elapsed() == 0
    assert world.api.count("get") == 1


async def test_a_split_that_was_seen_and_is_gone_for_a_minute_is_known(world: World) -> None:
    """A replica that is behind: the id was not created here, but a poll has found it."""
    world.api.script("get", world.api.split("split_1", "processing"))
    wrong_until(world, WRONG["404"], 60)
    async with world.client() as client:
        assert (await client.wait_for_split("split_1")).status == "succeeded"


async def test_what_passes_is_counted_anew_after_each_good_answer(world: World) -> None:
    """A minute of 404s in every two, for as long as the split takes: never two minutes in a row."""

    def flaky(_: Exchange) -> Any:
        minute = world.elapsed() // 60
        if minute % 2 == 0 and minute < 20:
            return error_reply(404, "NOT_FOUND")
        return world.api.split("split_1", "processing" if minute < 20 else "succeeded")

    world.api.always("get", flaky)
    async with world.client(poll=PollPolicy(typical=1200)) as client:
        job = await client.submit(SONG)
        assert (await job.wait()).status == "succeeded"


async def test_a_deadline_is_kept_while_something_is_waited_out(world: World) -> None:
    wrong_until(world, WRONG["HTML in a 200"], 3600)
    async with world.client() as client:
        job = await client.submit(SONG)
        with pytest.raises(WaitTimeoutError):
            await job.wait(timeout=45)
    assert world.elapsed() == 45


async def test_waiters_share_the_patience_and_its_polls(world: World) -> None:
    wrong_until(world, WRONG["404"], 60)
    async with world.client() as client:
        job = await client.submit(SONG)
        await asyncio.gather(*(job.wait() for _ in range(10)))
    assert world.api.count("get") <= 10


async def test_the_checks_above_would_notice_a_wait_that_ends_at_the_first_wrong_answer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: with a table that lets nothing pass, a 404 right after a create is the end."""
    reaction = reactions._TABLE["404 410"]
    monkeypatch.setitem(reactions._TABLE, "404 410", reactions.Reaction(reaction.calls))
    world.api.script("get", error_reply(404, "NOT_FOUND"))
    async with world.client() as client:
        job = await client.submit(SONG)
        with pytest.raises(APIStatusError):
            await job.wait()
