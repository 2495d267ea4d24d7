"""The API origin over sockets: envelopes, keys, the limit, credits, idempotency."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from aistemsplitter_async.sandbox import Limits
from tests.e2e.harness import BareAPI, Connect, MakeWav

SONG = "https://example.com/music/My%20Song.mp3?seconds=10"
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


async def test_credits_are_in_seconds(api: BareAPI) -> None:
    answer = await api.call("GET", "/credits")
    assert answer.status == 200
    assert answer.json == {"success": True, "data": {"balance": 36_000, "unit": "seconds"}}


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ast_wrong", "Basic {key}", "{key}", "Bearer {key}x"])
async def test_a_missing_or_wrong_key_is_401(api: BareAPI, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header.format(key=api.sandbox.api_key)}
    answer = await api.send("GET", f"{api.sandbox.base_url}/credits", headers=headers)
    assert answer.status == 401
    assert answer.json["success"] is False
    assert answer.json["error"]["code"] == "UNAUTHORIZED"


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/nothing", 404, None),
        ("GET", "/credits/", 404, None),
        ("GET", "/audio/splits/", 404, None),
        ("GET", "/audio/splits/a/b", 404, None),
        ("GET", "/audio/splits/split_x%2Fy", 404, None),
        ("POST", "/credits", 405, "GET"),
        ("GET", "/audio/uploads", 405, "POST"),
        ("GET", "/audio/splits", 405, "POST"),
        ("DELETE", "/audio/splits/split_1", 405, "GET"),
    ],
)
async def test_what_is_not_in_the_api_is_refused_in_its_envelope(
    api: BareAPI, method: str, path: str, status: int, allow: str | None
) -> None:
    answer = await api.call(method, path)
    assert answer.status == status
    assert answer.headers.get("Allow") == allow
    assert set(answer.json) == {"success", "error"}
    assert set(answer.json["error"]) == {"code", "message"}


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff", b"[" * 50_000])
@pytest.mark.parametrize("path", ["/audio/uploads", "/audio/splits"])
async def test_a_body_that_is_not_a_json_object_is_422(api: BareAPI, path: str, body: bytes) -> None:
    answer = await api.call("POST", path, data=body)
    assert (answer.status, answer.json["error"]["code"]) == (422, "VALIDATION_ERROR")


async def test_a_body_beyond_the_cap_is_413(connect: Connect) -> None:
    async with connect(limits=Limits(max_json_bytes=1000)) as api:
        answer = await api.call("POST", "/audio/splits", data=b" " * 1001)
        assert answer.status == 413


async def test_a_split_of_a_url_goes_from_created_to_succeeded(api: BareAPI) -> None:
    created = (await api.create(SONG, stemModel="6s", outputFormat="wav")).json["data"]
    assert set(created) == {"id", "status", "creditsUsed", "createdAt"}
    assert created["id"].startswith("split_")
    assert (created["status"], created["creditsUsed"]) == ("queued", 10)
    assert TIMESTAMP.fullmatch(created["createdAt"])
    split = await api.get(created["id"])
    assert split["status"] == "succeeded"
    assert split["filename"] == "My Song.mp3"
    assert (split["stemModel"], split["durationSeconds"], split["error"]) == ("6s", 10, None)
    assert set(split["stems"]) == {"vocals", "drums", "bass", "other", "guitar", "piano"}
    assert all(url.startswith(api.sandbox.cdn_url) for url in split["stems"].values())
    assert TIMESTAMP.fullmatch(split["updatedAt"])
    assert split["updatedAt"] >= split["createdAt"] == created["createdAt"]


async def test_a_url_without_a_stated_length_counts_as_three_minutes(api: BareAPI) -> None:
    for url in ("https://example.com/a.mp3", "https://example.com/a.mp3?seconds=-1"):
        assert (await api.create(url)).json["data"]["creditsUsed"] == 180


async def test_credits_are_charged_at_creation_and_never_below_zero(api: BareAPI) -> None:
    api.sandbox.set_credits(25)
    for balance in (15, 5):
        assert (await api.create(SONG)).status == 200
        assert (await api.call("GET", "/credits")).json["data"]["balance"] == balance
    answer = await api.create(SONG)
    assert (answer.status, answer.json["error"]["code"]) == (402, "INSUFFICIENT_CREDITS")
    assert "5 are missing" in answer.json["error"]["message"]
    assert api.sandbox.credits == 5


async def test_fifty_requests_with_one_key_are_one_split_and_one_charge(api: BareAPI) -> None:
    answers = await asyncio.gather(*(api.create(SONG, key="k") for _ in range(50)))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.raw for answer in answers}) == 1
    assert api.sandbox.credits == 36_000 - 10
    (charge,) = api.sandbox.ledger.charges
    assert (charge.requests, charge.credits, len(charge.bodies)) == (50, 10, 1)


async def test_without_a_key_each_request_is_a_split_of_its_own(api: BareAPI) -> None:
    answers = await asyncio.gather(*(api.create(SONG) for _ in range(3)))
    assert len({answer.json["data"]["id"] for answer in answers}) == 3
    assert len(api.sandbox.ledger.charges) == 3


async def test_a_replay_says_queued_even_when_the_split_is_finished(api: BareAPI) -> None:
    first = await api.create(SONG, key="k")
    assert (await api.get(first.json["data"]["id"]))["status"] == "succeeded"
    assert (await api.create(SONG, key="k")).raw == first.raw


async def test_a_key_with_another_body_is_422_and_costs_nothing(api: BareAPI) -> None:
    await api.create(SONG, key="k")
    answer = await api.create(SONG, key="k", stemModel="6s")
    assert (answer.status, answer.json["error"]["code"]) == (422, "VALIDATION_ERROR")
    assert "Idempotency-Key" in answer.json["error"]["message"]
    assert api.sandbox.credits == 36_000 - 10


async def test_a_key_whose_request_was_refused_can_be_used_again(api: BareAPI) -> None:
    api.sandbox.set_credits(0)
    assert (await api.create(SONG, key="k")).status == 402
    api.sandbox.set_credits(100)
    assert (await api.create(SONG, key="k")).status == 200
    assert api.sandbox.credits == 90


async def test_the_ledger_has_a_replay_of_the_same_values_in_other_bytes(api: BareAPI) -> None:
    body = b'{"input": {"type": "direct_url", "url": "https://example.com/a.mp3"}}'
    for raw in (body, body.replace(b" ", b"")):
        answer = await api.call("POST", "/audio/splits", data=raw, headers={"Idempotency-Key": "k"})
        assert answer.status == 200
    assert len(api.sandbox.ledger.charges[0].bodies) == 2


async def limited(connect: Connect, **options: Any) -> list[tuple[int, str | None]]:
    answers = []
    async with connect(**options) as api:
        for _ in range(4):
            answer = await api.call("GET", "/credits")
            answers.append((answer.status, answer.headers.get("Retry-After")))
        api.sandbox.advance(2 * options.get("minute", 60.0))  # `counter` still weighs the minute before
        answers.append(((await api.call("GET", "/credits")).status, None))
    return answers


@pytest.mark.parametrize("window", ["fixed", "sliding", "counter", "bucket"])
async def test_the_limit_is_enforced_and_a_whole_minute_can_pass_at_once(connect: Connect, window: str) -> None:
    answers = await limited(connect, requests_per_minute=3, window=window)
    assert [status for status, _ in answers] == [200, 200, 200, 429, 200]
    retry_after = answers[3][1]
    assert retry_after is not None
    assert 1 <= int(retry_after) <= (120 if window == "counter" else 60)


async def test_a_shortened_minute_has_decimal_delays(connect: Connect) -> None:
    answers = await limited(connect, requests_per_minute=3, minute=0.6)
    assert answers[3][0] == 429
    assert 0 < float(answers[3][1] or "") <= 0.6


async def test_only_requests_with_a_valid_key_count_and_unknown_paths_do(connect: Connect) -> None:
    async with connect(requests_per_minute=2) as api:
        for _ in range(5):
            assert (await api.call("GET", "/credits", key="ast_wrong")).status == 401
        statuses = [(await api.call("GET", path)).status for path in ("/nothing", "/credits", "/credits")]
        assert statuses == [404, 200, 429]
        answer = await api.call("GET", "/credits")
        assert answer.json["error"]["code"] == "RATE_LIMITED"
        assert api.sandbox.ledger.throttled == 2


async def test_uploads_and_downloads_are_not_api_requests(connect: Connect, make_wav: MakeWav) -> None:
    async with connect(requests_per_minute=3) as api:
        split = await api.finish(await api.upload(make_wav()))
        for url in split["stems"].values():
            assert (await api.send("GET", url)).status == 200
        assert api.sandbox.ledger.count("download") == 4
        assert (await api.call("GET", "/credits")).status == 429


async def test_the_ledger_has_account_operation_and_time(api: BareAPI) -> None:
    created = (await api.create(SONG, key="k")).json["data"]
    await api.get(created["id"])
    await api.get(created["id"])
    ledger = api.sandbox.ledger
    assert [(r.operation, r.status, r.split_id) for r in ledger.requests] == [
        ("create", 200, created["id"]),
        ("get", 200, created["id"]),
        ("get", 200, created["id"]),
    ]
    (view,) = ledger.splits
    assert view.polls == 2
    assert view.lag is not None
    assert view.lag >= 0
    assert api.sandbox.api_key not in str(ledger.as_dict())
