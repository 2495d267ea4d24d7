"""The API key is found nowhere after any failure: no text, cause, frame, log line or event has it.

Real sockets on loopback, and a server that breaks in every way there is.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from traceback import walk_tb
from types import FrameType
from typing import Any

import aiohttp
import attrs
import pytest

from aistemsplitter_async import AsyncAIStemSplitter
from aistemsplitter_async.config import PollPolicy, RetryPolicy, Secret, Timeouts
from aistemsplitter_async.errors import AIStemSplitterError
from aistemsplitter_async.events import Event
from aistemsplitter_async.models import DirectURL

KEY = "ast_canary_5f1d0c7e9b"
SIGNED = "sig_canary_71c2"  # of a URL; the body of a reply has it, as bytes that no text shows
ONCE = RetryPolicy(attempts=1, create_attempts=1, throttle_waits=0)
TWICE = RetryPolicy(attempts=2, create_attempts=2, throttle_waits=1).scaled(0.001)


# --- the search


def leaks(thing: object) -> list[str]:
    """Where the key can be read in what a logger, a debugger or a crash reporter shows of `thing`."""
    return list(_search(thing, type(thing).__name__, set(), 0))


def _search(thing: object, path: str, seen: set[int], depth: int) -> Iterator[str]:
    if id(thing) in seen or isinstance(thing, Secret) or depth > 6:
        return
    seen.add(id(thing))
    if isinstance(thing, bytes | bytearray):
        if KEY.encode() in thing:
            yield path
        return
    if any(KEY in text or SIGNED in text for text in _texts(thing)):
        yield path
    for name, inner in _inside(thing):
        yield from _search(inner, f"{path}.{name}", seen, depth + 1)


def _texts(thing: object) -> Iterator[str]:
    for show in (repr, str):
        try:
            yield show(thing)
        except Exception:  # noqa: BLE001, S112  # what cannot be shown shows nothing
            continue


def _inside(thing: object) -> Iterator[tuple[str, object]]:
    if isinstance(thing, BaseException):
        yield "args", thing.args
        yield "attributes", vars(thing)
        yield "cause", thing.__cause__
        yield "context", thing.__context__
        for frame, _ in walk_tb(thing.__traceback__):
            yield f"{frame.f_code.co_name}()", frame
    elif isinstance(thing, FrameType):
        if thing.f_code.co_filename != __file__:  # the tests know the key
            yield "locals", dict(thing.f_locals)
    elif isinstance(thing, Mapping):
        yield from ((str(name), inner) for name, inner in thing.items())
    elif isinstance(thing, list | tuple | set | frozenset):
        yield from ((str(n), inner) for n, inner in enumerate(thing))
    elif attrs.has(type(thing)):
        yield from ((field.name, getattr(thing, field.name, None)) for field in attrs.fields(type(thing)))  # type: ignore[arg-type]


# --- the server


Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def says(answer: bytes) -> Script:
    """Read a request's head, answer, and close."""

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()

    return run


async def closes(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")


async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def stalls(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()  # until the client has had enough


async def stalls_in_the_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{")
    await reader.read()


@asynccontextmanager
async def serving(script: Script) -> AsyncIterator[int]:
    """Serve every connection with `script`; the port."""
    connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        try:
            await script(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


def http(status: str, body: bytes = b"", *headers: str) -> Script:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
    return says("\r\n".join(lines).encode() + body)


async def echoes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer as a proxy's page for developers: with the request, in the body and in the headers that become errors."""
    head = await reader.readuntil(b"\r\n\r\n")
    said = head.partition(b"Authorization: ")[2].partition(b"\r\n")[0]
    body = b'{"success": false, "error": {"code": "%b", "message": "you sent %b and https://x.test/?s=%b"}}'
    answer = body % (said, said, SIGNED.encode())
    headers = b"X-Request-Id: %b\r\nRetry-After: 0\r\nContent-Length: %d\r\n" % (said, len(answer))
    writer.write(b"HTTP/1.1 400 Bad Request\r\n%bConnection: close\r\n\r\n%b" % (headers, answer))
    await writer.drain()


SERVERS: dict[str, Script] = {
    "echoes": echoes,
    "closes": closes,
    "resets": resets,
    "stalls": stalls,
    "stalls in the body": stalls_in_the_body,
    "no http": says(b"SSH-2.0-OpenSSH_9.9\r\n\r\n"),
    "a broken status line": says(b"HTTP/1.1 abc\r\n\r\n"),
    "broken headers": says(b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n"),
    "endless headers": says(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n"),
    "a short body": says(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"),
    "broken chunks": says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nxx"),
    "broken gzip": http("200 OK", b"\x1f\x8bnonsense", "Content-Encoding: gzip"),
    "a huge body": http("200 OK", b"[" * 1_200_000),
    "a page": http("502 Bad Gateway", b"<html><title>Bad gateway</title>"),
    "garbage": http("200 OK", b"\xff\xfe"),
    "another shape": http("200 OK", b'{"success": true, "data": 5}'),
    "302": http("302 Found", b"", "Location: https://elsewhere.test/"),
    "401": http("401 Unauthorized", b'{"success": false, "error": {"code": "UNAUTHORIZED", "message": "no"}}'),
    "401 basic": http("401 Unauthorized", b"", "WWW-Authenticate: Basic"),
    "402": http("402 Payment Required"),
    "422": http("422 Unprocessable"),
    "429": http("429 Too Many Requests", b"", "Retry-After: 1000"),
    "500": http("500 Oops"),
}


@attrs.frozen
class Case:
    """What was reported and logged while a call failed."""

    error: BaseException
    events: list[Event]


Call = Callable[[AsyncAIStemSplitter], Awaitable[object]]
CALLS: dict[str, Call] = {
    "credits": lambda client: client.get_credits(),
    "create": lambda client: client.create_split(DirectURL("https://example.com/a.wav")),
    "upload": lambda client: client.upload_audio(b"RIFF"),
    "wait": lambda client: client.wait_for_split("split_1", timeout=0.05),
}


async def provoke(url: str, call: Call, **options: Any) -> Case:
    events: list[Event] = []
    timeouts = Timeouts(connect=0.1, call=0.05, create=0.05, stall=0.05)
    poll = PollPolicy().scaled(0.001)
    settings: dict[str, Any] = {"base_url": url, "retry": ONCE, "timeouts": timeouts, "poll": poll} | options
    async with AsyncAIStemSplitter(KEY, on_event=events.append, **settings) as client:
        with pytest.raises(BaseException) as caught:  # noqa: PT011  # whichever it is
            await call(client)
    for _ in range(5):
        await asyncio.sleep(0)  # aiohttp closes its sockets a turn late
    return Case(caught.value, events)


def assert_silent(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    assert leaks(case.error) == []
    assert leaks(case.events) == []
    assert [record.name for record in caplog.records if record.name == "aistemsplitter_async.http"]
    assert leaks([vars(record) | {"text": record.getMessage()} for record in caplog.records]) == []


@pytest.fixture(autouse=True)
def everything_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
@pytest.mark.parametrize("script", SERVERS.values(), ids=SERVERS.keys())
async def test_no_failure_of_a_server_shows_the_key(
    script: Script, call: Call, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(script) as port:
        case = await provoke(f"http://127.0.0.1:{port}", call)
    assert isinstance(case.error, AIStemSplitterError)
    assert_silent(case, caplog)


@pytest.mark.parametrize("script", [resets, closes, SERVERS["500"], SERVERS["broken headers"]])
async def test_no_failure_that_was_retried_shows_the_key(script: Script, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(script) as port:
        case = await provoke(f"http://127.0.0.1:{port}", CALLS["create"], retry=TWICE)
    assert isinstance(case.error, AIStemSplitterError)
    assert len(case.events) >= 3
    assert_silent(case, caplog)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_no_failure_to_connect_shows_the_key(call: Call, scheme: str, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and not listening: refused
        case = await provoke(f"{scheme}://127.0.0.1:{unused.getsockname()[1]}", call)
    assert isinstance(case.error, AIStemSplitterError)
    assert_silent(case, caplog)


async def test_a_server_that_does_not_speak_tls_does_not_make_it_shown(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(says(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as port:
        case = await provoke(f"https://127.0.0.1:{port}", CALLS["credits"])
    assert isinstance(case.error, AIStemSplitterError)
    assert_silent(case, caplog)


@pytest.mark.parametrize("script", [stalls, stalls_in_the_body])
@pytest.mark.parametrize("call", ["credits", "create", "upload"])
async def test_the_callers_own_timeout_does_not_show_the_key(
    script: Script, call: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def impatient(client: AsyncAIStemSplitter) -> None:
        async with asyncio.timeout(0.03):
            await CALLS[call](client)

    async with serving(script) as port:
        case = await provoke(f"http://127.0.0.1:{port}", impatient, timeouts=Timeouts(create=0.1))
    assert isinstance(case.error, TimeoutError)
    assert isinstance(case.error.__cause__, asyncio.CancelledError)
    assert_silent(case, caplog)


@pytest.mark.parametrize("script", [stalls, stalls_in_the_body])
async def test_the_timeout_argument_does_not_show_the_key(script: Script, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(script) as port:
        url = f"http://127.0.0.1:{port}"
        case = await provoke(url, lambda client: client.get_credits(timeout=0.03), timeouts=Timeouts())
    assert isinstance(case.error, AIStemSplitterError)
    assert_silent(case, caplog)


def signalling(reached: asyncio.Event, script: Script) -> Script:
    """Do as `script` does, and say when a request has come."""

    async def signals(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.set()
        await script(reader, writer)

    return signals


async def test_a_cancelled_call_does_not_show_the_key(caplog: pytest.LogCaptureFixture) -> None:
    reached = asyncio.Event()

    async def cancelled(client: AsyncAIStemSplitter) -> None:
        task = asyncio.ensure_future(CALLS["credits"](client))
        await reached.wait()
        task.cancel("enough")
        await task

    async with serving(signalling(reached, stalls)) as port:
        case = await provoke(f"http://127.0.0.1:{port}", cancelled, timeouts=Timeouts())
    assert isinstance(case.error, asyncio.CancelledError)
    assert_silent(case, caplog)


async def test_an_injected_session_that_is_closed_does_not_show_the_key(caplog: pytest.LogCaptureFixture) -> None:
    session = aiohttp.ClientSession()
    await session.close()
    case = await provoke("http://127.0.0.1:9", CALLS["credits"], session=session)
    assert isinstance(case.error, AIStemSplitterError)
    assert_silent(case, caplog)


@pytest.mark.parametrize("status", ["401", "422", "500"])
async def test_an_injected_session_that_raises_for_status_changes_nothing(
    status: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(SERVERS[status]) as port, aiohttp.ClientSession(raise_for_status=True) as session:
        case = await provoke(f"http://127.0.0.1:{port}", CALLS["create"], session=session)
    assert isinstance(case.error, AIStemSplitterError)
    assert case.error.status_code == int(status)
    assert_silent(case, caplog)


@pytest.mark.parametrize("at", ["on_request_start", "on_request_end", "on_request_exception"])
async def test_what_tracing_of_an_injected_session_raises_does_not_show_the_key(
    at: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(_: object, __: object, params: Any) -> None:
        raise KeyError(dict(params.headers))

    trace = aiohttp.TraceConfig()
    getattr(trace, at).append(fail)
    script = closes if at == "on_request_exception" else SERVERS["500"]
    async with serving(script) as port, aiohttp.ClientSession(trace_configs=[trace]) as session:
        case = await provoke(f"http://127.0.0.1:{port}", CALLS["create"], session=session, timeouts=Timeouts())
    assert isinstance(case.error, AIStemSplitterError)
    assert "KeyError" in str(case.error)
    assert_silent(case, caplog)


async def test_a_call_after_closing_opens_no_connection_and_does_not_show_the_key(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A retry that wakes up after `aclose` must not open a session that is never closed."""

    reached = asyncio.Event()

    async def closed_meanwhile(client: AsyncAIStemSplitter) -> None:
        task = asyncio.ensure_future(CALLS["credits"](client))
        await reached.wait()
        await client.aclose()
        await task

    async with serving(signalling(reached, SERVERS["500"])) as port:
        patient = RetryPolicy(attempts=3, backoff=0.1, backoff_cap=0.1)
        case = await provoke(f"http://127.0.0.1:{port}", closed_meanwhile, retry=patient)
    assert isinstance(case.error, AIStemSplitterError)
    assert_silent(case, caplog)


async def test_a_worker_or_cdn_never_hears_the_key_and_its_failures_do_not_show_it(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    heard: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")

    async with serving(listen) as other:
        reservation = (
            f'{{"success":true,"data":{{"uploadId":"u","uploadUrl":"http://127.0.0.1:{other}/put",'
            f'"uploadHeaders":{{}},"expiresAt":"2099-01-01T00:00:00Z"}}}}'
        )
        split = (
            f'{{"success":true,"data":{{"id":"s","status":"succeeded","stemModel":"4s","creditsUsed":1,'
            f'"createdAt":"2026-01-01T00:00:00Z","updatedAt":"2026-01-01T00:00:00Z",'
            f'"stems":{{"vocals":"http://127.0.0.1:{other}/v.mp3"}}}}}}'
        )

        async def fetch(client: AsyncAIStemSplitter) -> object:
            return await client.download_stems(await client.get_split("s"), tmp_path)

        calls: list[tuple[str, Call]] = [(reservation, CALLS["upload"]), (split, fetch)]
        for answer, call in calls:
            async with serving(http("200 OK", answer.encode())) as port:
                slow = Timeouts(call=2, stall=2)
                case = await provoke(f"http://127.0.0.1:{port}", call, timeouts=slow)
            assert isinstance(case.error, AIStemSplitterError)
            assert_silent(case, caplog)
    assert len(heard) == 2
    assert leaks(heard) == []


async def test_the_search_finds_the_key_in_what_a_bare_aiohttp_call_raises() -> None:
    """The negative control."""
    headers = {"Authorization": f"Bearer {KEY}"}
    async with serving(SERVERS["500"]) as port, aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientResponseError) as status:
            await session.get(f"http://127.0.0.1:{port}/", headers=headers, raise_for_status=True)
    async with serving(stalls) as port, aiohttp.ClientSession() as session:
        with pytest.raises(TimeoutError) as late:
            async with asyncio.timeout(0.03):
                await session.get(f"http://127.0.0.1:{port}/", headers=headers)
    assert leaks(status.value)
    assert leaks(late.value)
    with pytest.raises(AIStemSplitterError) as careless:
        convert_carelessly(status.value)
    assert leaks(careless.value)


def convert_carelessly(error: aiohttp.ClientError) -> None:
    try:
        raise error
    except aiohttp.ClientError:
        raise AIStemSplitterError("converted inside the except block")  # noqa: B904  # the mistake in question
