"""What is used in the wrong place, and what the service does not offer, is told with the way out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from aistemsplitter_async import (
    AsyncAIStemSplitter,
    ConfigurationError,
    Gate,
    SourceUnreadableError,
    Submission,
    ValidationError,
)
from aistemsplitter_async.testing import FakeTransport, error_reply, json_reply
from tests.io.fakes import World

URL = "https://a.example/s.mp3"


def client() -> AsyncAIStemSplitter:
    return AsyncAIStemSplitter("ast_x", transport=FakeTransport(lambda _: json_reply({"balance": 1})))


CALLS: list[Callable[[AsyncAIStemSplitter], Awaitable[object]]] = [
    lambda client: client.get_credits(),
    lambda client: client.create_split({"type": "direct_url", "url": URL}),
    lambda client: client.submit(URL),
    lambda client: client.wait_for_split("split_1"),
    lambda client: client.__aenter__(),
    lambda client: client.aclose(),
    lambda client: client.split_many([URL]).__aenter__(),
    lambda client: client.job("split_1").wait(),
]


def step(call: Callable[[AsyncAIStemSplitter], Awaitable[object]], of: AsyncAIStemSplitter) -> None:
    """Run a call until it first waits, as trio and curio do."""
    call(of).__await__().send(None)


@pytest.mark.parametrize("call", CALLS)
async def test_a_call_without_an_asyncio_loop_says_what_to_do(call: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"no asyncio event loop.*asyncio\.run.*Trio.*backend=\"asyncio\""):
        await asyncio.to_thread(step, call, client())


async def test_a_client_of_another_run_says_where_to_make_it() -> None:
    one = client()

    async def ask() -> None:
        await one.get_credits()

    await asyncio.to_thread(asyncio.run, ask())
    with pytest.raises(ConfigurationError, match=r"make the client inside the coroutine that asyncio\.run runs"):
        await asyncio.to_thread(asyncio.run, ask())


@pytest.mark.parametrize(
    ("detail", "hint"),
    [
        ("outputFormat wav is not available on your plan", '; ask for output_format="mp3"'),
        ("invalid request", '; if that is about wav, ask for output_format="mp3"'),
        ("outputFormat must be mp3.", 'must be mp3; ask for output_format="mp3"'),
        ("", '; if that is about wav, ask for output_format="mp3"'),
    ],
)
async def test_a_refused_wav_is_told_with_the_way_out(world: World, detail: str, hint: str) -> None:
    world.api.script("create", error_reply(422, "VALIDATION_ERROR", detail))
    async with world.client() as one:
        with pytest.raises(ValidationError) as caught:
            await one.submit(URL, output_format="wav")
    error = caught.value
    assert str(error).endswith(hint)
    assert (error.output_format, error.code, error.status_code, error.detail) == (
        "wav",
        "VALIDATION_ERROR",
        422,
        detail,
    )
    assert error.idempotency_key
    assert world.api.count("create") == 1


@pytest.mark.parametrize("options", [{}, {"output_format": "mp3"}, {"stem_model": "6s"}])
async def test_no_other_refusal_speaks_of_formats(world: World, options: Any) -> None:
    world.api.script("create", error_reply(422, "VALIDATION_ERROR", "bad audio"))
    async with world.client() as one:
        with pytest.raises(ValidationError) as caught:
            await one.submit(URL, **options)
    assert str(caught.value) == "could not create the split: HTTP 422, VALIDATION_ERROR: bad audio"


async def test_the_dicts_of_the_official_clients_go_out_as_they_are(world: World) -> None:
    body: dict[str, Any] = {"input": {"type": "direct_url", "url": URL}, "stemModel": "6s", "outputFormat": "mp3"}
    async with world.client() as one:
        await one.create_split(body)
        await one.submit(body["input"], stem_model="6s", output_format="mp3")
        with pytest.raises(SourceUnreadableError, match=r"this dict is no source: input\.url is missing"):
            await one.submit({"type": "direct_url"})
        with pytest.raises(ConfigurationError, match="has no field 'stem_model'"):
            await one.create_split(body | {"stem_model": "4s"})
    assert [json.loads(asked.body) for asked in world.api.of("create")] == [body, body]


async def test_a_submission_whose_body_was_not_kept_is_not_sent(world: World) -> None:
    async with world.client() as one:
        with pytest.raises(ConfigurationError, match=r"the body of this submission was not kept.*to_dict\(\)"):
            await one.resubmit(Submission("key", b""))
    assert world.api.asked == []


@pytest.mark.parametrize("limit", ["60/min", 60])
def test_a_limit_that_is_none_is_refused_where_it_is_given(limit: Any) -> None:
    for make in (lambda: Gate(limit), lambda: AsyncAIStemSplitter(api_key="ast_x", rate_limit=limit)):
        with pytest.raises(ConfigurationError, match=r'RateLimit.parse\("60/min,1000/day"\), not (str|int)'):
            make()
