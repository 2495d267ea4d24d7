"""Headers as servers write them, by hand on a bare socket: repeated lines, several limits, interim answers, 425."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from aistemsplitter_async import APIStatusError, AsyncAIStemSplitter, DirectURL, RateLimit, SubmissionUncertainError
from aistemsplitter_async.config import RetryPolicy
from aistemsplitter_async.events import Event, GateClosed
from tests.e2e.raw import CREATED, KEY, Got, RawAPI, answer, envelope, head, listening, raw_api, read_request

SONG = DirectURL("https://example.com/a.wav")
CREDITS = envelope({"balance": 5, "unit": "seconds"})
HINTS = head("103 Early Hints", "Link: </a>; rel=preload", "Link: </b>; rel=preload")
INTERIM = head("100 Continue") + HINTS + head("102 Processing") + HINTS


def client_of(url: str, **options: Any) -> AsyncAIStemSplitter:
    return AsyncAIStemSplitter(KEY, base_url=url, **{"retry": RetryPolicy().scaled(0.001)} | options)


async def limits_after(*lines: str, limit: RateLimit | None = None) -> list[tuple[int | None, float]]:
    """All limits that the gate keeps after one answer with these lines."""
    api = RawAPI(polled=lambda _, __: answer(CREDITS, *lines))
    async with listening(api.serve) as port, client_of(f"http://127.0.0.1:{port}/v1", rate_limit=limit) as client:
        await client.get_credits()
        shown = client.gate.snapshot()
    return [(shown.limit, shown.per), *((use.limit, use.per) for use in shown.further)]


SEVERAL = [
    ('RateLimit-Policy: "m";q=60;w=60', 'RateLimit-Policy: "h";q=900;w=3600'),
    ('RateLimit-Policy: "h";q=900;w=3600, "m";q=60;w=60', 'RateLimit: "m";r=59;t=60', 'RateLimit: "h";r=899;t=60'),
    ("ratelimit-policy: 60;w=60", "RATELIMIT-POLICY: 900;w=3600"),
    ("RateLimit-Limit: 60, 60;w=60", "RateLimit-Limit: 900;w=3600"),
    ("X-RateLimit-Limit-Minute: 60", "X-RateLimit-Limit-Hour: 900", "X-RateLimit-Remaining-Hour: 899"),
    (
        *("X-RateLimit-Limit: 60", "X-RateLimit-Remaining: 59", "X-RateLimit-Reset: 40"),
        *("X-RateLimit-Limit: 900", "X-RateLimit-Remaining: 899", "X-RateLimit-Reset: 3540"),
    ),
]


@pytest.mark.parametrize("lines", SEVERAL)
async def test_limits_in_several_lines_or_one_list_are_all_kept(lines: tuple[str, ...]) -> None:
    assert await limits_after(*lines) == [(60, 60.0), (900, 3600.0)]


async def test_a_declared_limit_is_kept_beside_those_that_are_announced() -> None:
    lines = ("RateLimit-Policy: 100;w=60, 5000;w=86400",)
    declared = RateLimit(60, further=(RateLimit(1000, 86_400.0),))
    assert await limits_after(*lines, limit=declared) == [(60, 60.0), (1000, 86_400.0)]


async def test_of_two_retry_after_lines_the_longer_wait_counts() -> None:
    events: list[Event] = []
    busy = json.dumps({"success": False, "error": {"code": "RATE_LIMITED", "message": "slow down"}}).encode()
    lines = "Retry-After: 70", "Retry-After: 95", "Retry-After: 3"
    api = RawAPI(polled=lambda _, __: answer(busy, *lines, status="429 Too Many Requests"))
    async with (
        listening(api.serve) as port,
        client_of(f"http://127.0.0.1:{port}/v1", on_event=events.append) as client,
    ):
        with pytest.raises(APIStatusError) as caught:
            await client.get_credits(timeout=5)
    assert getattr(caught.value, "retry_after", None) == 95
    assert [round(event.duration) for event in events if isinstance(event, GateClosed)] == [95]


class Worker(RawAPI):
    """An API whose upload worker, and every other answer, is announced by interim ones."""

    def reply(self, got: Got) -> bytes:
        self.got.append(got)
        uploaded = envelope({"url": "https://files.test/u", "key": "u"})
        reserved = {
            "uploadId": "u",
            "uploadUrl": self.url.replace("/v1", "/up"),
            "uploadHeaders": {},
            "expiresAt": "2099-01-01T00:00:00Z",
        }
        body = {"/v1/audio/uploads": envelope(reserved), "/up": uploaded, "/v1/audio/splits": envelope(CREATED)}
        return INTERIM + answer(body[got.path])

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            raw = self.reply(await read_request(reader))
            for start in range(0, len(raw), 50):  # no interim answer begins or ends where a packet does
                writer.write(raw[start : start + 50])
                await writer.drain()
                await asyncio.sleep(0)


async def test_interim_answers_before_the_last_one_are_passed_over_on_every_call() -> None:
    api = Worker()
    async with listening(api.serve) as port:
        api.url = f"http://127.0.0.1:{port}/v1"
        async with client_of(api.url) as client:
            upload = await client.upload_audio(b"RIFF" * 500, filename="a.wav")
            created = await client.create_split(upload.input)
    assert created.id == CREATED["id"]
    assert [got.path for got in api.got] == ["/v1/audio/uploads", "/up", "/v1/audio/splits"]


def too_early(times: int) -> Any:
    def created(_: Got, split_id: str) -> bytes:
        nonlocal times
        times -= 1
        return answer(b"", status="425 Too Early") if times >= 0 else answer(envelope(CREATED | {"id": split_id}))

    return created


async def test_too_early_is_a_refusal_and_is_tried_again_under_the_same_key() -> None:
    async with raw_api(too_early(2)) as api, client_of(api.url) as client:
        created = await client.create_split(SONG)
        assert created.id == "split_1"
        assert len({got.key for got in api.creates}) == 1
        assert len(api.creates) == 3


async def test_what_stays_too_early_was_never_done() -> None:
    async with raw_api(too_early(99)) as api, client_of(api.url) as client:
        with pytest.raises(APIStatusError) as caught:
            await client.create_split(SONG)
    assert not isinstance(caught.value, SubmissionUncertainError)
    assert caught.value.status_code == 425


async def test_too_early_after_an_attempt_that_may_have_happened_settles_nothing() -> None:
    answers = iter([b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"])
    late = too_early(99)
    async with raw_api(lambda got, split: next(answers, None) or late(got, split)) as api, client_of(api.url) as client:
        with pytest.raises(SubmissionUncertainError):
            await client.create_split(SONG)
