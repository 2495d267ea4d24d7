"""The receiver behind real servers: the same bytes get the same answer from each, and never a 500."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import random
import socket
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from aiohttp import web
from hypothesis import given, settings, strategies as st

from aistemsplitter_async._wire.signature import SIGNATURE_HEADER, sign
from aistemsplitter_async.webhooks.event import WebhookEvent
from aistemsplitter_async.webhooks.receiver import WebhookReceiver

SECRET = "whsec_test"
Wire = bytes | list[bytes]


@asynccontextmanager
async def aiohttp_server(receiver: WebhookReceiver, *middlewares: Any) -> AsyncIterator[int]:
    app = web.Application(middlewares=middlewares)
    app.router.add_route("*", "/hooks", receiver.aiohttp_handler)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def asgi_server(receiver: WebhookReceiver) -> AsyncIterator[int]:
    config = uvicorn.Config(receiver.asgi, http="h11", lifespan="on", log_config=None, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            await serving


Server = Callable[[WebhookReceiver], Any]
SERVERS: dict[str, Server] = {"aiohttp": aiohttp_server, "asgi": asgi_server}


async def exchange(port: int, wire: Wire, *, hang_up: bool = False) -> int:
    """Send raw bytes, and return the status of the answer; 0 for none."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in [wire] if isinstance(wire, bytes) else wire:
            writer.write(part)
            await writer.drain()
        if hang_up:
            return 0
        async with asyncio.timeout(10):
            line = await reader.readline()
        return int(line.split()[1]) if line else 0
    except ConnectionError:  # refused while we were still sending
        return int(line.split()[1]) if (line := await reader.readline()) else 0
    finally:
        writer.close()


def event_body(split_id: str = "split_1") -> bytes:
    return json.dumps({"event": "audio.split.completed", "data": {"id": split_id, "status": "succeeded"}}).encode()


def request(
    body: bytes,
    *,
    signature: bytes | None = None,
    headers: tuple[bytes, ...] = (),
    method: bytes = b"POST",
    length: bytes | None = None,
    signed: bool = True,
) -> bytes:
    """Return a request as bytes, signed now by default."""
    lines = [method + b" /hooks HTTP/1.1", b"Host: localhost"]
    if signed:
        signature = signature or sign(body, SECRET, int(time.time())).encode()
        lines.append(SIGNATURE_HEADER.encode() + b": " + signature)
    lines += [*headers, b"Content-Length: " + (length or str(len(body)).encode())]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chunked(body: bytes, size: int, *headers: bytes) -> bytes:
    """Return a signed request whose body comes in chunks."""
    signature = f"{SIGNATURE_HEADER}: {sign(body, SECRET, int(time.time()))}".encode()
    head = [b"POST /hooks HTTP/1.1", b"Host: localhost", b"Transfer-Encoding: chunked", signature, *headers]
    pieces = [body[begin : begin + size] for begin in range(0, len(body), size)]
    return (
        b"\r\n".join(head)
        + b"\r\n\r\n"
        + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
        + b"0\r\n\r\n"
    )


def corpus() -> dict[str, tuple[Wire, int]]:
    """Requests by what they are about, each with the status it has to get."""
    good = event_body()
    now = int(time.time())
    value = sign(good, SECRET, now).encode()
    field = SIGNATURE_HEADER.encode() + b": "
    v1 = value.partition(b",")[2]
    return {
        "genuine": (request(good), 200),
        "another event": (request(b'{"event": "ping"}'), 200),
        "in chunks": (chunked(good, 7), 200),
        "in chunks of a byte": (chunked(good, 1), 200),
        "in two packets": ([request(good)[:-20], request(good)[-20:]], 200),
        "field name in capitals": (request(good, signed=False, headers=((field + value).upper()[:26] + value,)), 200),
        "unsigned": (request(good, signed=False), 400),
        "forged": (request(good, signature=sign(good, "x", now).encode()), 400),
        "another body": (request(good + b" ", signature=value), 400),
        "no body": (request(b""), 400),
        "280 s old": (request(good, signature=sign(good, SECRET, now - 280).encode()), 200),
        "330 s old": (request(good, signature=sign(good, SECRET, now - 330).encode()), 400),
        "330 s ahead": (request(good, signature=sign(good, SECRET, now + 330).encode()), 400),
        "eight signatures": (request(good, signature=b",".join([value, *[b"v1=" + b"0" * 64] * 7])), 200),
        "nine signatures": (request(good, signature=b",".join([value, *[b"v1=" + b"0" * 64] * 8])), 400),
        "a hundred signatures": (request(good, signature=b",".join([value, *[v1] * 100])), 400),
        "a thousand signatures": (request(good, signature=b",".join([value, *[v1] * 1000])), 400),
        "field twice": (request(good, headers=(field + value,)), 400),
        "field twice, one forged": (request(good, headers=(field + b"t=1,v1=" + b"0" * 64,)), 400),
        "field in two halves": (
            request(good, signature=value.partition(b",")[0], headers=(field + v1,)),
            200,
        ),
        "UTF-8 in the field": (request(good, signature="t=\u0661,v1=é".encode()), 400),
        "invalid UTF-8 in the field": (request(good, signature=value + b"\xff\xfe"), 400),
        "invalid UTF-8 in the body": (request(b'{"event": "\xff\xfe"}'), 400),
        "invalid UTF-8, unsigned": (request(b"\xff\xfe" * 100, signed=False), 400),
        "not JSON": (request(b"event=audio.split.completed"), 400),
        "deep JSON": (request(b"[" * 60_000), 400),
        "a long number": (request(b'{"event": ' + b"9" * 60_000 + b"}"), 400),
        "64 KiB": (request(b"x" * 65_536), 400),
        "a byte more": (request(b"x" * 65_537), 413),
        "10 MB": (request(b"x" * 10_000_000), 413),
        "10 MB declared": (request(b"", length=b"10000000"), 413),
        "10 MB in chunks": (chunked(b"x" * 10_000_000, 50_000), 413),
        "70 kB in chunks of a byte": (chunked(b"x" * 70_000, 1), 413),
        "gzip": (request(gzip.compress(good), headers=(b"Content-Encoding: gzip",)), 400),
        "gzip, signed unpacked": (
            request(gzip.compress(good), signature=value, headers=(b"Content-Encoding: gzip",)),
            400,
        ),
        "gzip in chunks": (chunked(gzip.compress(good), 9, b"Content-Encoding: gzip"), 400),
        "deflate": (request(zlib.compress(good), headers=(b"Content-Encoding: deflate",)), 400),
        "br": (request(good, headers=(b"Content-Encoding: br",)), 400),
        "a bomb": (request(gzip.compress(bytes(50_000_000)), headers=(b"Content-Encoding: gzip",)), 400),
        "not what it says": (request(good, headers=(b"Content-Encoding: gzip",)), 400),
        "gzip that does not say so": (request(gzip.compress(good), signature=value), 400),
        "identity": (request(good, headers=(b"Content-Encoding: identity",)), 200),
        "broken chunks": (
            b"POST /hooks HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nxx\r\n0\r\n\r\n",
            400,
        ),
        "GET": (request(b"", method=b"GET"), 405),
        "PUT": (request(good, method=b"PUT"), 405),
    }


def ours(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """The records of our own logger; servers log broken requests in their own ways."""
    return [record for record in caplog.records if record.name.startswith("aistemsplitter_async")]


CASES = {name: status for name, (_, status) in corpus().items()}


@pytest.mark.parametrize("name", SERVERS)
async def test_every_server_answers_the_whole_corpus_as_it_should(name: str, caplog: pytest.LogCaptureFixture) -> None:
    refused: list[str | None] = []
    receiver = WebhookReceiver(
        SECRET, url="https://example.com/hooks", on_refused=lambda error: refused.append(error.code)
    )
    async with SERVERS[name](receiver) as port:
        answered = {what: await exchange(port, wire) for what, (wire, _) in corpus().items()}
        assert answered == CASES
        assert await exchange(port, request(event_body("split_after"))) == 200
    assert refused
    assert ours(caplog) == []


async def test_the_plain_call_answers_as_the_servers_do() -> None:
    receiver = WebhookReceiver(SECRET, url="https://example.com/hooks")
    for what, (wire, status) in corpus().items():
        head, _, body = (wire if isinstance(wire, bytes) else b"".join(wire)).partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        if b"chunked" in head or status == 405 or what == "10 MB declared" or len(head) > 60_000:
            continue  # that is the server's part
        headers = [tuple(line.split(b": ", 1)) for line in lines[1:]]
        assert await receiver.handle(body, headers) == status, what  # type: ignore[arg-type]


BROKEN: dict[str, Wire] = {
    "gzip that is none": request(event_body(), signed=False, headers=(b"Content-Encoding: gzip",)),
    "deflate that is none": request(event_body(), signed=False, headers=(b"Content-Encoding: deflate",)),
    "gzip that breaks off": request(gzip.compress(bytes(9_000_000))[:5000], headers=(b"Content-Encoding: gzip",)),
    "gzip that goes wrong": request(
        gzip.compress(random.Random(1).randbytes(300_000)) + b"x" * 300_000,  # noqa: S311
        headers=(b"Content-Encoding: gzip",),
    ),
}


@pytest.mark.parametrize("what", BROKEN)
async def test_a_stranger_with_a_broken_body_is_refused_and_fills_no_log(
    what: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with aiohttp_server(WebhookReceiver(SECRET, url="https://example.com/hooks")) as port:
        assert await exchange(port, BROKEN[what]) == 400
        assert await exchange(port, request(event_body())) == 200
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_body_that_a_middleware_has_read_is_taken_from_it() -> None:
    @web.middleware
    async def read_first(request: web.Request, handler: Any) -> web.StreamResponse:
        await request.read()
        answer: web.StreamResponse = await handler(request)
        return answer

    seen: list[WebhookEvent] = []
    receiver = WebhookReceiver(SECRET, url="https://example.com/hooks", on_event=seen.append)
    async with aiohttp_server(receiver, read_first) as port:
        answers = [
            await exchange(port, request(event_body())),
            await exchange(port, chunked(event_body("split_2"), 9)),
            await exchange(port, request(b"")),
            await exchange(port, request(event_body(), signed=False)),
            await exchange(port, chunked(b"x" * 70_000, 9999)),
        ]
    assert answers == [200, 200, 400, 400, 413]
    assert [event.split_id for event in seen] == ["split_1", "split_2"]


ODD_SIGNATURES = st.lists(
    st.sampled_from([bytes([one]) for one in b"tv1=,0a \xff\xc3\xa9;"]), min_size=1, max_size=90
).map(lambda parts: b"".join(parts).strip() or b"t")
BODIES = st.one_of(
    st.binary(max_size=300),
    st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner)).map(
        lambda value: json.dumps({"event": "audio.split.completed", "data": value}).encode()
    ),
    st.text(min_size=1, max_size=300).map(event_body),
)


@settings(max_examples=10)
@given(cases=st.lists(st.tuples(BODIES, st.none() | ODD_SIGNATURES), min_size=10, max_size=30))
async def test_whatever_comes_gets_the_same_answer_from_every_server_and_the_plain_call(
    cases: list[tuple[bytes, bytes | None]],
) -> None:
    """Bodies with a good signature, where none is given, and with one that is anything."""
    signed = [(body, odd or sign(body, SECRET, int(time.time())).encode()) for body, odd in cases]
    plain = WebhookReceiver(SECRET, url="https://example.com/hooks")
    expected = [await plain.handle(body, [(SIGNATURE_HEADER, signature)]) for body, signature in signed]
    assert set(expected) <= {200, 400}
    for serve in SERVERS.values():
        async with serve(WebhookReceiver(SECRET, url="https://example.com/hooks")) as port:
            assert [await exchange(port, request(body, signature=value)) for body, value in signed] == expected


@pytest.mark.parametrize("name", SERVERS)
async def test_a_sender_that_hangs_up_in_the_middle_leaves_nothing(name: str, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[WebhookEvent] = []
    receiver = WebhookReceiver(SECRET, url="https://example.com/hooks", on_event=seen.append)
    async with SERVERS[name](receiver) as port:
        whole = request(event_body())
        for cut in (len(whole) - 1, len(whole) - 40):
            await exchange(port, whole[:cut], hang_up=True)
        assert await exchange(port, request(event_body("split_2"))) == 200
    assert [event.split_id for event in seen] == ["split_2"]
    assert ours(caplog) == []


@pytest.mark.parametrize("name", SERVERS)
async def test_a_handler_that_fails_is_503_until_it_works(name: str) -> None:
    attempts = 0

    async def on_event(_: WebhookEvent) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise RuntimeError("not now")

    receiver = WebhookReceiver(SECRET, url="https://example.com/hooks", on_event=on_event)
    async with SERVERS[name](receiver) as port:
        assert [await exchange(port, request(event_body())) for _ in range(3)] == [503, 200, 200]
    assert attempts == 2


async def test_a_websocket_is_closed_politely() -> None:
    receiver = WebhookReceiver(SECRET, url="https://example.com/hooks")
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    talk: Callable[..., Awaitable[None]] = receiver.asgi
    await talk({"type": "websocket"}, receive, send)
    assert [message["type"] for message in sent] == ["websocket.close"]
