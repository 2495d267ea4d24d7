"""Creates through sessions that are not ours: their tracing and middleware raise anything, at any moment.

What is counted is what the server made. An error whose moment is unknown must never be taken for "nothing arrived".
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from inspect import isawaitable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from aistemsplitter_async import (
    AIStemSplitterError,
    APIConnectionError,
    AsyncAIStemSplitter,
    ConfigurationError,
    DirectURL,
    Reply,
    Request,
    SubmissionUncertainError,
)
from aistemsplitter_async.config import PollPolicy, RetryPolicy
from aistemsplitter_async.errors import UnsafeURLError
from tests.e2e.raw import KEY, RawAPI, raw_api

SONGS = [f"https://example.com/{n}.wav" for n in range(3)]
QUICK = RetryPolicy(create_attempts=2).scaled(0.001)
Sessions = Callable[[], aiohttp.ClientSession]


def connector_error() -> Exception:
    key: Any = type("Key", (), {"host": "127.0.0.1", "port": 1, "ssl": True})()
    return aiohttp.ClientConnectorError(key, OSError(111, "refused"))


ERRORS: dict[str, Callable[[], BaseException]] = {
    "ValueError": lambda: ValueError(KEY),
    "RuntimeError": lambda: RuntimeError(KEY),
    "KeyError": lambda: KeyError(KEY),
    "AssertionError": lambda: AssertionError(KEY),
    "TimeoutError": TimeoutError,
    "ConnectionRefusedError": lambda: ConnectionRefusedError(111, "refused"),
    "InvalidURL": lambda: aiohttp.InvalidURL("x"),
    "ClientConnectorError": connector_error,
    "ConnectionTimeoutError": aiohttp.ConnectionTimeoutError,
    "CancelledError": asyncio.CancelledError,
    "ConfigurationError": lambda: ConfigurationError("theirs"),
    "UnsafeURLError": lambda: UnsafeURLError("theirs"),
}


def traced(raised: Callable[[], BaseException], *, at: str = "on_request_end") -> Sessions:
    """A session whose tracing raises at a moment of every create."""

    async def fail(*arguments: Any) -> None:
        if getattr(arguments[2], "method", "POST") == "POST":
            raise raised()

    def build() -> aiohttp.ClientSession:
        trace = aiohttp.TraceConfig()
        getattr(trace, at).append(fail)
        return aiohttp.ClientSession(trace_configs=[trace])

    return build


def wrapped(raised: Callable[[], BaseException], *, sent: int) -> Sessions:
    """A session whose middleware sends every create `sent` times, and raises then."""

    async def fail(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        if request.method == "POST":
            for _ in range(sent):
                (await handler(request)).close()
            raise raised()
        return await handler(request)

    return lambda: aiohttp.ClientSession(middlewares=(fail,))


AFTER: dict[str, Callable[[Callable[[], BaseException]], Sessions]] = {
    "tracing": traced,
    "middleware": lambda raised: wrapped(raised, sent=1),
    "middleware that resends": lambda raised: wrapped(raised, sent=2),
}
BEFORE: dict[str, Callable[[Callable[[], BaseException]], Sessions]] = {
    "tracing": lambda raised: traced(raised, at="on_request_start"),
    "tracing a connection": lambda raised: traced(raised, at="on_connection_create_end"),
    "middleware": lambda raised: wrapped(raised, sent=0),
}


def client_of(api: RawAPI, session: aiohttp.ClientSession | None, **options: Any) -> AsyncAIStemSplitter:
    settings: dict[str, Any] = {"retry": QUICK, "poll": PollPolicy().scaled(0.001)} | options
    return AsyncAIStemSplitter(KEY, base_url=api.url, session=session, **settings)


async def create(api: RawAPI, session: aiohttp.ClientSession | None, **options: Any) -> AIStemSplitterError:
    async with client_of(api, session, **options) as client:
        with pytest.raises(AIStemSplitterError) as caught:
            await client.create_split(DirectURL(SONGS[0]), idempotency_key="key-1")
    return caught.value


def assert_silent(error: BaseException) -> None:
    assert KEY not in f"{error!r} {error} {error.__cause__!r} {error.__context__!r}"


@pytest.mark.parametrize("raised", ERRORS.values(), ids=ERRORS.keys())
@pytest.mark.parametrize("build", AFTER.values(), ids=AFTER.keys())
async def test_what_a_session_raises_after_the_create_leaves_it_ambiguous(
    build: Callable[[Callable[[], BaseException]], Sessions], raised: Callable[[], BaseException]
) -> None:
    async with raw_api() as api, build(raised)() as session:
        error = await create(api, session)
        assert isinstance(error, SubmissionUncertainError)
        assert (error.idempotency_key, list(api.splits)) == ("key-1", ["key-1"])
        assert_silent(error)
        async with client_of(api, None) as client:
            assert (await client.resubmit(error.submission)).id == "split_1"
    assert len(api.splits) == 1


@pytest.mark.parametrize("raised", ERRORS.values(), ids=ERRORS.keys())
@pytest.mark.parametrize("build", BEFORE.values(), ids=BEFORE.keys())
async def test_what_a_session_raises_before_the_create_is_certain_not_to_have_sent_it(
    build: Callable[[Callable[[], BaseException]], Sessions], raised: Callable[[], BaseException]
) -> None:
    async with raw_api() as api, build(raised)() as session:
        error = await create(api, session)
    assert isinstance(error, APIConnectionError)
    assert not error.may_have_arrived
    assert error.idempotency_key == "key-1"
    assert_silent(error)
    assert api.splits == {}


@pytest.mark.parametrize("raised", ["ValueError", "RuntimeError", "KeyError"])
async def test_a_batch_pays_once_whatever_its_session_raises(raised: str, tmp_path: Path) -> None:
    async with raw_api() as api:
        for session in (traced(ERRORS[raised])(), aiohttp.ClientSession()):
            async with (
                session,
                client_of(api, session) as client,
                client.split_many(SONGS, journal=tmp_path / "songs.journal", patience=0) as outcomes,
            ):
                _ = [outcome async for outcome in outcomes]
    assert len(api.splits) == len(SONGS), "charged for the same song twice"


async def test_a_session_closed_while_the_create_waits_for_a_connection_ends_it_with_its_key() -> None:
    """aiohttp cancels the future of such a request: nobody cancelled the call."""
    async with raw_api(lambda *_: b"") as api:  # a create is never answered, so the only connection stays in use
        session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1))
        async with client_of(api, session, retry=RetryPolicy(create_attempts=1)) as client:
            first, second = (
                asyncio.ensure_future(client.create_split(DirectURL(song), idempotency_key=song[-5:]))
                for song in SONGS[:2]
            )
            while not api.splits:  # noqa: ASYNC110  # a socket
                await asyncio.sleep(0)
            for _ in range(20):  # turns in which the second takes its place in the queue
                await asyncio.sleep(0)
            await session.close()
            results = await asyncio.gather(first, second, return_exceptions=True)
    assert isinstance(results[0], SubmissionUncertainError)
    assert isinstance(results[1], APIConnectionError)
    assert not results[1].may_have_arrived
    assert results[1].idempotency_key == "1.wav"
    assert list(api.splits) == ["0.wav"]


class OddTransport:
    """A transport of somebody's own: it sends, and raises what it may not."""

    def __init__(self, raised: Exception) -> None:
        self.sent: list[str] = []
        self._raised = raised

    async def send(self, request: Request, /) -> Reply:
        self.sent.append(request.headers["Idempotency-Key"])
        raise self._raised

    def stream(self, request: Request, /) -> Any:
        raise NotImplementedError

    async def aclose(self) -> None:
        pass


@pytest.mark.parametrize("raised", [KeyError(KEY), RuntimeError(KEY), TimeoutError(), AIStemSplitterError("odd")])
async def test_what_a_transport_may_not_raise_leaves_a_create_ambiguous(raised: Exception) -> None:
    transport = OddTransport(raised)
    async with AsyncAIStemSplitter(KEY, transport=transport, retry=QUICK) as client:
        with pytest.raises(SubmissionUncertainError) as caught:
            await client.create_split(DirectURL(SONGS[0]), idempotency_key="key-1")
    assert caught.value.idempotency_key == "key-1"
    assert set(transport.sent) == {"key-1"}
    assert_silent(caught.value)


TAKES: dict[str, Callable[[Any], Any]] = {
    "as_bytes": lambda request: request.body.as_bytes(),
    "decode": lambda request: request.body.decode(),
}


@pytest.mark.parametrize("take", TAKES.values(), ids=TAKES.keys())
async def test_a_middleware_that_takes_the_body_may_have_sent_it(take: Callable[[Any], Any]) -> None:
    async def fail(request: aiohttp.ClientRequest, _: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        taken = take(request)
        if isawaitable(taken):
            await taken
        raise RuntimeError

    async with raw_api() as api, aiohttp.ClientSession(middlewares=(fail,)) as session:
        assert isinstance(await create(api, session), SubmissionUncertainError)
    assert api.got == []


async def test_the_body_that_is_watched_is_the_body_that_is_sent() -> None:
    async with raw_api() as api, client_of(api, None) as client:
        await client.create_split(DirectURL(SONGS[0]), stem_model="6s")
    (got,) = api.got
    assert got.headers["content-type"] == "application/json"
    assert json.loads(got.body) == {"input": {"type": "direct_url", "url": SONGS[0]}, "stemModel": "6s"}
