"""The sandbox's webhooks as a receiver gets them, without any other code of this package."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from aiohttp import web

from aistemsplitter_async.sandbox import Limits, Manual, Sandbox, faults
from aistemsplitter_async.sandbox.faults.rules import Faults
from tests.e2e.harness import BareAPI, Connect

SONG = "https://example.com/a.mp3?seconds=10"


@attrs.define
class Target:
    """A server that keeps what it receives and answers with the statuses listed, then with 200."""

    url: str
    answers: list[int]
    requests: list[tuple[dict[str, str], bytes]]
    arrived: asyncio.Condition

    async def take(self, count: int) -> list[dict[str, Any]]:
        """Return the first events, as soon as so many have come."""
        async with asyncio.timeout(10), self.arrived:
            await self.arrived.wait_for(lambda: len(self.requests) >= count)
        return [json.loads(body) for _, body in self.requests]

    def is_signed(self, request: int, secret: str) -> bool:
        headers, body = self.requests[request]
        timestamp, _, v1 = headers["AIStemSplitter-Signature"].removeprefix("t=").partition(",v1=")
        return v1 == hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()

    def age(self, request: int) -> float:
        return time.time() - int(self.requests[request][0]["AIStemSplitter-Signature"][2:].partition(",")[0])


@pytest.fixture
async def target() -> AsyncIterator[Target]:
    answers: list[int] = []
    found: list[tuple[dict[str, str], bytes]] = []
    arrived = asyncio.Condition()

    async def answer(request: web.BaseRequest) -> web.Response:
        body = await request.read()
        async with arrived:
            found.append((dict(request.headers), body))
            arrived.notify_all()
        return web.Response(status=answers.pop(0) if answers else 200, headers={"Location": "/elsewhere"})

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield Target(f"http://127.0.0.1:{runner.addresses[0][1]}/hooks", answers, found, arrived)
    await runner.cleanup()


async def create(api: BareAPI, target: Target, source: str = SONG) -> str:
    answer = await api.create(source, webhookUrl=target.url)
    assert answer.status == 200
    return str(answer.json["data"]["id"])


async def settled(sandbox: Sandbox, attempts: int) -> list[tuple[int, str]]:
    """Return the attempts once there are so many."""
    async with asyncio.timeout(10):
        while len(sandbox.ledger.deliveries) < attempts:  # noqa: ASYNC110  # the ledger has no event
            await asyncio.sleep(0.005)
    return [(record.status, record.note) for record in sandbox.ledger.deliveries]


async def delivery_of(api: BareAPI, split_id: str) -> Any:
    url = f"{api.sandbox.base_url.removesuffix('/v1')}/control/splits/{split_id}"
    return (await api.send("GET", url)).json["webhook"]


async def test_a_finished_split_is_announced_once_and_signed(api: BareAPI, target: Target) -> None:
    split_id = await create(api, target)
    assert await target.take(1) == [{"event": "audio.split.completed", "data": {"id": split_id, "status": "succeeded"}}]
    assert target.is_signed(0, api.sandbox.webhook_secret)
    assert -2 < target.age(0) < 2
    assert target.requests[0][0]["Content-Type"] == "application/json"
    assert "Authorization" not in target.requests[0][0]
    assert await settled(api.sandbox, 1) == [(200, "")]
    assert api.sandbox.ledger.count() == 1  # a delivery is not a request to the API


async def test_a_failed_split_is_announced_too(api: BareAPI, target: Target) -> None:
    api.sandbox.faults.add("create", faults.FailedSplit())
    split_id = await create(api, target)
    assert await target.take(1) == [{"event": "audio.split.completed", "data": {"id": split_id, "status": "failed"}}]


async def test_a_split_without_a_webhook_or_before_its_end_is_not_announced(connect: Connect, target: Target) -> None:
    async with connect(progression=Manual()) as api:
        silent = (await api.create(SONG)).json["data"]["id"]
        announced = await create(api, target)
        for split_id in (silent, announced):
            await api.sandbox.step(split_id)
        assert target.requests == []
        for split_id in (silent, announced):
            await api.sandbox.step(split_id)
        assert [event["data"]["id"] for event in await target.take(1)] == [announced]


@pytest.mark.parametrize("refusal", [500, 503, 400, 404, 307])
async def test_delivery_is_retried_with_longer_and_longer_waits_until_the_answer_is_2xx(
    api: BareAPI, target: Target, refusal: int
) -> None:
    target.answers += [refusal] * 4 + [204]
    split_id = await create(api, target)
    for n in range(4):
        await settled(api.sandbox, n + 1)
        api.sandbox.advance(2.0**n - 0.1)
        await asyncio.sleep(0.01)
        assert len(target.requests) == n + 1
        api.sandbox.advance(0.1)
    assert [status for status, _ in await settled(api.sandbox, 5)] == [refusal] * 4 + [204]
    assert (await delivery_of(api, split_id))["state"] == "delivered"
    assert (
        len({headers["AIStemSplitter-Signature"] for headers, _ in target.requests}) == 5
    )  # each with its own signature
    api.sandbox.advance(10_000)
    await asyncio.sleep(0.02)
    assert len(target.requests) == 5


async def test_a_receiver_that_never_accepts_is_given_up(connect: Connect, target: Target) -> None:
    async with connect(limits=Limits(webhook_attempts=3)) as api:
        target.answers += [500] * 9
        split_id = await create(api, target)
        for n in range(3):
            await settled(api.sandbox, n + 1)
            api.sandbox.advance(300)
        await asyncio.sleep(0.02)
        assert len(target.requests) == 3
        assert (await delivery_of(api, split_id))["state"] == "given_up"


@pytest.mark.parametrize(
    ("url", "note"),
    [
        ("http://127.0.0.1:1/", "The connection failed."),
        (
            "http://10.0.0.1/",
            "webhookUrl leads to 10.0.0.1, an address of a private network, which the sandbox does not visit.",
        ),
        ("http://example.com/", "webhookUrl must be https (plain http is taken from loopback only)."),
        ("https://user:secret@example.com/", "webhookUrl is not a valid URL: it contains credentials."),
    ],
)
async def test_the_reason_for_a_failed_delivery_is_kept(api: BareAPI, url: str, note: str) -> None:
    await api.create(SONG, webhookUrl=url)
    assert await settled(api.sandbox, 1) == [(0, note)]


async def test_an_answer_that_does_not_come_is_a_timeout(connect: Connect) -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):  # until the sandbox hangs up
            pass
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    async with server, connect(limits=Limits(webhook_timeout=0.1)) as api:
        await api.create(SONG, webhookUrl=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
        assert await settled(api.sandbox, 1) == [(0, "No answer within 0.1 s.")]


async def test_a_lost_event_never_comes(api: BareAPI, target: Target) -> None:
    rule = api.sandbox.faults.add("webhook", faults.Lost())
    lost, found = await create(api, target), await create(api, target)
    assert await settled(api.sandbox, 2) == [(0, "lost"), (200, "")]
    api.sandbox.advance(10_000)
    await asyncio.sleep(0.02)
    assert [event["data"]["id"] for event in await target.take(1)] == [found]
    assert ((await delivery_of(api, lost))["state"], rule.consumed) == ("lost", 1)


async def test_a_duplicated_event_comes_so_often(api: BareAPI, target: Target) -> None:
    api.sandbox.faults.add("webhook", faults.Duplicated(copies=4))
    await create(api, target)
    events = await target.take(5)
    assert all(event == events[0] for event in events)
    assert await settled(api.sandbox, 1) == [(200, "duplicated")]


async def test_an_event_out_of_order_comes_after_the_next(api: BareAPI, target: Target) -> None:
    api.sandbox.faults.add("webhook", faults.OutOfOrder())
    first, second = await create(api, target), await create(api, target)
    assert [event["data"]["id"] for event in await target.take(2)] == [second, first]


async def test_an_event_out_of_order_with_no_next_comes_all_the_same(api: BareAPI, target: Target) -> None:
    api.sandbox.faults.add("webhook", faults.OutOfOrder(seconds=60))
    await create(api, target)
    await asyncio.sleep(0.03)
    assert target.requests == []
    api.sandbox.advance(60)
    await target.take(1)


async def test_a_late_event_is_signed_when_it_is_sent(api: BareAPI, target: Target) -> None:
    api.sandbox.faults.add("webhook", faults.Late(seconds=1000))
    await create(api, target)
    await asyncio.sleep(0.03)
    assert target.requests == []
    api.sandbox.advance(1000)
    await target.take(1)
    assert -1002 < target.age(0) < -998  # by the sandbox's clock it is now


async def test_a_forged_or_stale_event_is_followed_by_the_genuine_one_if_it_is_refused(
    api: BareAPI, target: Target
) -> None:
    secret = api.sandbox.webhook_secret
    target.answers += [400, 400]
    api.sandbox.faults.add("webhook", faults.Forged())
    api.sandbox.faults.add("webhook", faults.Stale(seconds=900))
    await create(api, target)
    for n in range(2):
        await settled(api.sandbox, n + 1)
        api.sandbox.advance(2.0**n)
    await target.take(3)
    assert [target.is_signed(n, secret) for n in range(3)] == [False, True, True]
    assert [round(target.age(n), -2) for n in range(3)] == [0, 900, 0]
    assert await settled(api.sandbox, 3) == [(400, "forged"), (400, "stale"), (200, "")]


@pytest.mark.parametrize("text", ["webhook:status:status=500", "get:lost", "any:duplicated", "webhook:latency"])
def test_faults_of_webhooks_and_of_requests_cannot_be_mixed(text: str) -> None:
    with pytest.raises(ValueError, match="operation webhook takes the faults lost, duplicated"):
        Faults().add_text(text)


def test_any_request_does_not_mean_a_webhook() -> None:
    rules = Faults()
    rules.add_text("any:extra_fields:times=always")
    assert rules.take("webhook") is None
    assert rules.take("get") is not None


async def test_a_pending_delivery_is_made_after_a_restart(connect: Connect, target: Target, tmp_path: Path) -> None:
    target.answers += [503] * 2
    async with connect(data=tmp_path) as api:
        secret = api.sandbox.webhook_secret
        done = await create(api, target)
        await settled(api.sandbox, 1)
    async with connect(data=tmp_path) as api:
        await target.take(2)  # at once, however long the sandbox was stopped
        await settled(api.sandbox, 1)
        api.sandbox.advance(2)
        await target.take(3)
        await settled(api.sandbox, 2)
        delivery = await delivery_of(api, done)
    assert (delivery["state"], [attempt["status"] for attempt in delivery["attempts"]]) == (
        "delivered",
        [503, 503, 200],
    )
    assert target.is_signed(2, secret)
    async with connect(data=tmp_path) as api:
        await asyncio.sleep(0.05)
        assert api.sandbox.ledger.deliveries == []


async def test_the_page_gets_deliveries_and_their_answers(api: BareAPI, target: Target) -> None:
    target.answers += [500]
    split_id = await create(api, target)
    await api.create(SONG)
    await settled(api.sandbox, 1)
    url = api.sandbox.base_url.removesuffix("/v1") + "/control/state"
    state = (await api.send("GET", url)).json
    assert state["deliveries"] == {"500": 1}
    split, other = state["splits"]
    assert (split["id"], split["webhook"]["url"], split["webhook"]["state"]) == (split_id, target.url, "pending")
    (attempt,) = split["webhook"]["attempts"]
    assert (attempt["status"], attempt["note"]) == (500, "")
    assert attempt["at"].endswith("Z")
    assert other["webhook"] is None
    ledger = (await api.send("GET", url.replace("state", "ledger"))).json
    assert [(record["split_id"], record["status"]) for record in ledger["deliveries"]] == [(split_id, 500)]
