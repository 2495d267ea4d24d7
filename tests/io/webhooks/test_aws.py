"""Webhooks in a Lambda function: events written from AWS's documentation, of each service that has one."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from aistemsplitter_async import WebhookReceiver
from aistemsplitter_async.clock import SystemClock
from aistemsplitter_async.webhooks import SIGNATURE_HEADER, WebhookEvent, sign

BODY = b'{"event": "audio.split.completed", "data": {"id": "split_1", "status": "succeeded"}}'
SECRET = "whsec_test"

Event = dict[str, Any]


def headers(body: bytes = BODY) -> dict[str, str]:
    signature = sign(body, SECRET, int(SystemClock().now()))
    return {SIGNATURE_HEADER: signature, "Content-Type": "application/json", "Content-Length": str(len(body))}


def rest_api() -> Event:
    both = {"headers": headers(), "multiValueHeaders": {name: [value] for name, value in headers().items()}}
    return {"resource": "/w", "path": "/w", "httpMethod": "POST", "requestContext": {"stage": "p"}, **both}


def http_api() -> Event:
    context = {"http": {"method": "POST", "path": "/w", "protocol": "HTTP/1.1"}, "stage": "$default"}
    lower = {name.lower(): value for name, value in headers().items()}
    return {"version": "2.0", "routeKey": "$default", "rawPath": "/w", "headers": lower, "requestContext": context}


def balancer(*, lists: bool = False) -> Event:
    context = {"elb": {"targetGroupArn": "arn:aws:elasticloadbalancing:x"}}
    given: Event = {name.lower(): [value] if lists else value for name, value in headers().items()}
    return {"requestContext": context, "httpMethod": "POST", "multiValueHeaders" if lists else "headers": given}


EVENTS: dict[str, Callable[[], Event]] = {
    "rest": rest_api,
    "http": http_api,
    "balancer": balancer,
    "balancer, lists": partial(balancer, lists=True),
}


def make_receiver(seen: list[WebhookEvent]) -> WebhookReceiver:
    return WebhookReceiver(SECRET, url="https://example.com/w", on_event=seen.append)


@pytest.mark.parametrize("encoded", [False, True])
@pytest.mark.parametrize("name", EVENTS)
async def test_an_event_of_every_service_is_handled_and_answered_as_it_wants(name: str, *, encoded: bool) -> None:
    seen: list[WebhookEvent] = []
    receiver = make_receiver(seen)
    text = base64.b64encode(BODY).decode() if encoded else BODY.decode()
    event = EVENTS[name]() | {"body": text, "isBase64Encoded": encoded}
    result = await receiver.handle_lambda(event)
    assert [one.split_id for one in seen] == ["split_1"]
    assert result["statusCode"] == 200
    assert json.loads(json.dumps(result)) == result
    assert (result.get("statusDescription") == "200 OK") == name.startswith("balancer")
    forged = await receiver.handle_lambda(event | {"body": text[:-4] + "AAAA"})
    assert forged["statusCode"] == 400
    assert len(seen) == 1


@pytest.mark.parametrize("name", EVENTS)
async def test_what_is_refused_is_not_decoded_or_handled(name: str) -> None:
    receiver, event = make_receiver([]), EVENTS[name]()
    for body, encoded, status in (
        ("x" * 70_000, False, 413),
        ("A" * 100_000, True, 413),
        ("!" * 60, True, 400),
        (None, False, 400),
    ):
        result = await receiver.handle_lambda(event | {"body": body, "isBase64Encoded": encoded})
        assert result["statusCode"] == status
    get = event | {"httpMethod": "GET"} if "httpMethod" in event else {"requestContext": {"http": {"method": "GET"}}}
    result = await receiver.handle_lambda(get)
    assert result["statusCode"] == 405
    assert "POST" in str(result)


@pytest.mark.parametrize("event", [{"Records": []}, {}, [], None])
async def test_an_event_that_is_no_request_is_a_mistake_of_the_caller(event: Any) -> None:
    with pytest.raises(TypeError, match="event"):
        await make_receiver([]).handle_lambda(event)


async def test_parsed_json_is_refused_with_the_reason() -> None:
    with pytest.raises(TypeError, match="raw bytes, or their text, not dict"):
        await make_receiver([]).handle(json.loads(BODY), headers())
    with pytest.raises(TypeError, match="must be its text, not dict"):
        await make_receiver([]).handle_lambda(rest_api() | {"body": json.loads(BODY)})
