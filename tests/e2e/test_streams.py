"""Streams of stems over real connections, from servers that break them or lie, and into other people's code."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from aistemsplitter_async import AsyncAIStemSplitter, DownloadError, RetryPolicy, Split, Timeouts
from aistemsplitter_async.errors import APIConnectionError, IncompleteDownloadError
from tests.e2e.raw import Got, head, listening, read_request

SONG = b"".join(number.to_bytes(4) for number in range(100_000))
QUICK = RetryPolicy().scaled(0.001)

Speak = Callable[[Got, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def length_of(got: Got, body: bytes = SONG) -> tuple[int, bytes]:
    """Where the asked range begins, and the head of the answer to it."""
    asked = got.headers.get("range")
    if asked is None or got.headers.get("if-range") != '"one"':
        return 0, head("200 OK", f"Content-Length: {len(body)}", 'ETag: "one"')
    start = int(asked.removeprefix("bytes=").removesuffix("-"))
    lines = f"Content-Length: {len(body) - start}", f"Content-Range: bytes {start}-{len(body) - 1}/{len(body)}"
    return start, head("206 Partial Content", *lines, 'ETag: "one"')


@asynccontextmanager
async def cdn(*speaks: Speak, timeouts: Timeouts | None = None) -> AsyncIterator[tuple[AsyncAIStemSplitter, Split]]:
    """Answer one request after another, the last way again and again."""
    left = list(speaks)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got = await read_request(reader)
        await (left.pop(0) if len(left) > 1 else left[0])(got, reader, writer)

    async with listening(serve) as port:
        client = AsyncAIStemSplitter(
            "ast_key", base_url=f"http://127.0.0.1:{port}/v1", retry=QUICK, timeouts=timeouts or Timeouts()
        )
        async with client:
            yield client, Split("split_1", "succeeded", stems={"vocals": f"http://127.0.0.1:{port}/vocals.mp3?key=1"})


async def honest(got: Got, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    start, lines = length_of(got)
    writer.write(lines + SONG[start:])
    await writer.drain()


def cut(count: int, *, reset: bool) -> Speak:
    async def speak(got: Got, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        start, lines = length_of(got)
        writer.write(lines + SONG[start : start + count])
        await writer.drain()
        if reset:
            await asyncio.sleep(0.05)  # so that some of it arrives before the reset drops the rest
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            writer.transport.abort()

    return speak


def say(raw: bytes) -> Speak:
    async def speak(_: Got, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await writer.drain()

    return speak


async def hang(got: Got, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    start, lines = length_of(got)
    writer.write(lines + SONG[start : start + 150_000])
    await writer.drain()
    await asyncio.Event().wait()


REDIRECT = say(head("302 Found", "Location: /elsewhere", "Content-Length: 0"))
IGNORES = say(head("200 OK", f"Content-Length: {len(SONG)}", 'ETag: "two"') + SONG)
LIES = say(head("206 Partial Content", "Content-Length: 9", "Content-Range: bytes 0-8/9", 'ETag: "one"') + b"RIFF....x")
CHUNKED = say(head("200 OK", "Transfer-Encoding: chunked") + b"61a80\r\n" + SONG + b"\r\n0\r\n\r\n")
OTHER = say(head("200 OK", f"Content-Length: {len(SONG)}", 'ETag: "two"') + SONG[::-1])


@pytest.mark.parametrize(
    "speaks",
    [
        pytest.param([cut(150_000, reset=False), honest], id="ends early"),
        pytest.param([cut(150_000, reset=True), cut(100_000, reset=True), honest], id="reset twice"),
        pytest.param([REDIRECT, cut(150_000, reset=False), REDIRECT, honest], id="redirects"),
        pytest.param([cut(150_000, reset=False), IGNORES], id="ignores the range"),
        pytest.param([cut(150_000, reset=False), LIES, honest], id="lies about the range"),
        pytest.param([cut(150_000, reset=False), CHUNKED], id="chunked the second time"),
        pytest.param([CHUNKED], id="chunked"),
        pytest.param([hang, hang, honest], id="stalls twice"),
    ],
)
async def test_each_byte_comes_once(speaks: list[Speak]) -> None:
    async with cdn(*speaks, timeouts=Timeouts(stall=0.2)) as (client, split), client.open_stem(split, "vocals") as stem:
        assert b"".join([piece async for piece in stem]) == SONG


@pytest.mark.parametrize(
    ("speaks", "errors"),
    [
        ([cut(150_000, reset=False)] * 2 + [OTHER], DownloadError),
        ([cut(150_000, reset=False), say(b"")], APIConnectionError),
        ([say(head("200 OK", "Connection: close") + SONG)], IncompleteDownloadError),
        ([say(head("200 OK", "Transfer-Encoding: chunked") + b"61a80\r\n" + SONG)], APIConnectionError),
        ([hang, say(b"")], APIConnectionError),
    ],
)
async def test_nothing_short_and_no_mixture_ends_like_a_stem(speaks: list[Speak], errors: type[Exception]) -> None:
    async with cdn(*speaks, timeouts=Timeouts(stall=0.2)) as (client, split):
        with pytest.raises(errors):
            async with client.open_stem(split, "vocals") as stem:
                await stem.read()


async def test_only_as_much_is_received_as_is_read() -> None:
    """The negative control of constant memory: a server that could send all of it would say so."""
    held_back = asyncio.get_running_loop().create_future()

    async def pour(_: Got, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        piece = bytes(1 << 20)
        writer.write(head("200 OK", f"Content-Length: {len(piece) * 64}"))
        for number in range(64):
            writer.write(piece)
            try:
                await asyncio.wait_for(writer.drain(), 0.2)
            except TimeoutError:
                held_back.set_result(number)
                await writer.drain()
        if not held_back.done():
            held_back.set_result(None)

    async with cdn(pour) as (client, split), client.open_stem(split, "vocals") as stem:
        first = await anext(stem)
        assert await held_back is not None
        assert len(first) + sum([len(piece) async for piece in stem]) == 64 << 20


async def test_leaving_the_block_early_closes_the_connection() -> None:
    closed = asyncio.Event()

    async def watch(got: Got, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, lines = length_of(got)
        writer.write(lines + SONG[:-1])
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        closed.set()

    async with cdn(watch) as (client, split):
        async with client.open_stem(split, "vocals") as stem:
            assert await stem.read(3) == SONG[:3]
        async with asyncio.timeout(5):
            await closed.wait()


async def test_a_stem_is_the_body_of_a_request_and_of_an_answer() -> None:
    """As aiohttp takes them; both with the length that the server said."""
    kept: dict[str, Any] = {}

    async def keep(request: web.Request) -> web.Response:
        kept["length"], kept["body"] = request.content_length, await request.read()
        return web.Response()

    app = web.Application(client_max_size=1 << 20)
    app.router.add_put("/bucket/vocals.mp3", keep)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    async with (
        cdn(cut(150_000, reset=False), honest) as (client, split),
        aiohttp.ClientSession() as session,
        client.open_stem(split, "vocals") as stem,
    ):
        headers = {"Content-Length": str(stem.length), "Content-Type": stem.content_type}
        url = f"http://127.0.0.1:{port}/bucket/{stem.filename}"
        async with session.put(url, data=stem, headers=headers) as answer:
            assert answer.status == 200
    await runner.cleanup()
    assert kept == {"length": len(SONG), "body": SONG}
