"""Connections that died without a sign, in real time: black holes, and servers that are slow to read or to answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest

from aistemsplitter_async import APIConnectionError, AsyncAIStemSplitter, DirectURL, ValidationError
from aistemsplitter_async._send import connections
from aistemsplitter_async._send.connections import Way, build_socket_factory
from aistemsplitter_async._sleep import Readings
from aistemsplitter_async._wire.messages import Origin
from aistemsplitter_async.config import RateLimit, RetryPolicy, Timeouts
from aistemsplitter_async.events import RequestSent
from tests.e2e.black_hole import CAN_SWALLOW, swallow
from tests.e2e.raw import CREATED, KEY, Got, answer, envelope, listening

pytestmark = pytest.mark.skipif(not CAN_SWALLOW, reason="needs packet filters and TCP_USER_TIMEOUT: Linux")

SONG = DirectURL("https://example.com/song.wav")
PATIENT = Timeouts(call=20.0, create=20.0, silence=20.0, stall=20.0)  # s; no test waits for any of these
WATCHFUL = attrs.evolve(PATIENT, silence=1.0)
MANY = 16 * 1024 * 1024  # bytes, more than sockets buffer


@attrs.define
class Server:
    """API and upload worker on one bare port, with connections that stay open.

    Attributes:
        got: every request.
        ended: how many connections the client has closed.
        think: awaited before each answer.
        refuses: whether every answer is a 422.
        read_body: reads the body of an upload.
    """

    port: int = 0
    got: list[Got] = attrs.field(factory=list)
    ended: int = 0
    think: Callable[[Got], Any] = lambda _: asyncio.sleep(0)
    refuses: bool = False
    read_body: Callable[[asyncio.StreamReader, int], Any] = lambda reader, size: reader.readexactly(size)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def keys(self) -> list[str]:
        return [got.key for got in self.got if got.path.endswith("/splits")]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                got = await self._read(reader)
                self.got.append(got)
                await self.think(got)
                writer.write(self._answer(got))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            self.ended += 1

    async def _read(self, reader: asyncio.StreamReader) -> Got:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = lines[0].split(" ")
        fields = (line.partition(":") for line in lines[1:] if line)
        headers = {name.lower(): value.strip() for name, _, value in fields}
        size = int(headers.get("content-length", 0))
        body = await (self.read_body(reader, size) if path == "/put" else reader.readexactly(size))
        return Got(method, path, headers, body)

    def _answer(self, got: Got) -> bytes:
        if self.refuses:
            return answer(b"{}", status="422 Unprocessable")
        if got.path == "/put":
            return answer(envelope({"url": "https://cdn.example.com/1", "key": "1"}))
        if got.path.endswith("/uploads"):
            expiry = "2100-01-01T00:00:00Z"
            place = f"http://127.0.0.1:{self.port}/put"
            return answer(envelope({"uploadId": "1", "uploadUrl": place, "uploadHeaders": {}, "expiresAt": expiry}))
        return answer(envelope(CREATED if got.method == "POST" else {"balance": 1, "unit": "seconds"}))


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    server = Server()
    async with listening(server.serve) as server.port:
        yield server


@asynccontextmanager
async def client_of(server: Server, timeouts: Timeouts, **options: Any) -> AsyncIterator[AsyncAIStemSplitter]:
    retry = attrs.evolve(RetryPolicy(), backoff=0.01)
    async with AsyncAIStemSplitter(
        KEY, base_url=server.url, timeouts=timeouts, retry=retry, rate_limit=RateLimit(1000), **options
    ) as client:
        yield client


async def pool(client: AsyncAIStemSplitter, server: Server, count: int = 1) -> None:
    """Leave `count` idle connections."""
    together = asyncio.Barrier(count)
    usual, server.think = server.think, lambda _: together.wait()
    await asyncio.gather(*(client.get_credits() for _ in range(count)))
    server.think = usual
    server.got.clear()


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(60.0):
        while not happened():  # noqa: ASYNC110  # sockets
            await asyncio.sleep(0.01)


async def seconds(work: Any) -> float:
    began = time.monotonic()
    await work
    return time.monotonic() - began


def sleeping_machine(client: AsyncAIStemSplitter) -> Callable[[float], None]:
    """Return what makes the machine sleep: only some of its clocks notice."""
    slept = 0.0
    held = client._engine.pipeline.transport._connections  # type: ignore[attr-defined]
    held._read = lambda: Readings(time.monotonic(), time.monotonic() + slept, time.time())

    def sleep(seconds: float) -> None:
        nonlocal slept
        slept += seconds

    return sleep


async def test_after_the_machine_slept_no_idle_connection_is_used() -> None:
    async with serving() as server, client_of(server, PATIENT) as client:
        sleep = sleeping_machine(client)
        await pool(client, server, 3)
        assert swallow(server.port) == 3
        sleep(3600.0)
        assert await seconds(client.create_split(SONG)) < 15.0
    assert len(server.keys()) == 1


async def test_without_a_sign_of_sleep_the_first_request_waits_for_its_time_limit() -> None:
    """The control of the one above: the connections were dead."""
    async with serving() as server, client_of(server, PATIENT) as client:
        await pool(client, server, 3)
        swallow(server.port)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.get_credits(), 3.0)
    assert server.got == []


async def test_what_is_sent_into_nothing_fails_within_the_silence_and_is_sent_again_under_its_key() -> None:
    sent: list[object] = []
    async with serving() as server, client_of(server, WATCHFUL, on_event=sent.append) as client:
        await pool(client, server, 4)
        sent.clear()
        assert swallow(server.port) == 4
        took = await seconds(client.create_split(SONG, idempotency_key="key-1"))
    assert 0.9 < took < 15.0
    assert [event.status for event in sent if isinstance(event, RequestSent)] == [None, 200]  # not five attempts
    assert server.keys() == ["key-1"]


async def test_a_peer_that_has_the_request_and_is_gone_is_noticed() -> None:
    async with serving() as server, client_of(server, WATCHFUL) as client:

        async def vanish(got: Got) -> None:
            if server.keys().count(got.key) == 1:
                await asyncio.sleep(0.1)  # its acknowledgement is on the way
                swallow(server.port)
                await asyncio.Event().wait()

        server.think = vanish
        assert await seconds(client.create_split(SONG, idempotency_key="key-1")) < 15.0
    assert server.keys() == ["key-1", "key-1"]
    assert len({got.body for got in server.got}) == 1


async def test_a_peer_that_takes_its_time_to_answer_is_not_taken_for_gone() -> None:
    async with serving() as server, client_of(server, WATCHFUL) as client:
        server.think = lambda _: asyncio.sleep(4.0)
        await client.create_split(SONG)
    assert len(server.keys()) == 1


async def read_late(reader: asyncio.StreamReader, size: int) -> bytes:
    reader._transport.pause_reading()  # type: ignore[attr-defined]
    await asyncio.sleep(4.0)  # in which its window is closed
    reader._transport.resume_reading()  # type: ignore[attr-defined]
    return await reader.readexactly(size)


async def upload_to_one_that_reads_late(server: Server) -> list[str]:
    server.read_body = read_late
    async with client_of(server, WATCHFUL) as client:
        await client.upload_audio(bytes(MANY), filename="song.wav")
    return [got.path for got in server.got]


async def test_a_worker_that_is_slow_to_read_keeps_its_connection() -> None:
    async with serving() as server:
        assert await upload_to_one_that_reads_late(server) == ["/v1/audio/uploads", "/put"]


async def test_with_the_options_of_the_api_it_would_lose_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the one above: Linux counts a closed window as silence."""
    attempts: list[object] = []
    monkeypatch.setattr(
        connections, "build_socket_factory", lambda _, silence: build_socket_factory(Origin.API, silence)
    )
    async with serving() as server:

        async def read_once_late(reader: asyncio.StreamReader, size: int) -> bytes:
            attempts.append(size)
            return await (read_late(reader, size) if len(attempts) == 1 else reader.readexactly(size))

        server.read_body = read_once_late
        async with client_of(server, WATCHFUL) as client:
            await client.upload_audio(bytes(MANY), filename="song.wav")
    assert len(attempts) > 1


@pytest.mark.parametrize("end", ["cancel", "close"])
async def test_an_upload_to_a_worker_that_reads_no_more_is_given_up_at_once_with_its_socket(end: str) -> None:
    """What it has been given cannot be sent; nobody must wait for that."""

    begun = asyncio.Event()

    async def read_nothing(reader: asyncio.StreamReader, _: int) -> bytes:
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        begun.set()
        await asyncio.Event().wait()
        return b""

    async with serving() as server, client_of(server, PATIENT) as client:
        server.read_body = read_nothing
        upload = asyncio.ensure_future(client.upload_audio(bytes(MANY), filename="song.wav"))
        await begun.wait()
        await asyncio.sleep(0.1)  # in which its window closes
        held = client._engine.pipeline.transport._connections  # type: ignore[attr-defined]
        sockets = list(held._leases[Way(Origin.WORKER)].sockets)
        if end == "cancel":
            upload.cancel()
        else:
            closing = asyncio.ensure_future(client.aclose())
            assert (await asyncio.wait({closing}, timeout=5.0))[1] == set()
        await until(lambda: [opened.fileno() for opened in sockets] == [-1])
        await asyncio.wait({upload})
        assert upload.cancelled() or isinstance(upload.exception(), APIConnectionError)


async def test_a_failure_leaves_exchanges_under_way_alone_and_their_connections_are_closed_after_them() -> None:
    release = asyncio.Event()

    async def think(got: Got) -> None:
        if got.path.endswith("/splits"):
            await release.wait()

    async with serving() as server, client_of(server, PATIENT) as client:
        await pool(client, server, 3)
        server.think = think
        create = asyncio.ensure_future(client.create_split(SONG))
        await until(lambda: bool(server.keys()))
        held = client._engine.pipeline.transport._connections  # type: ignore[attr-defined]
        held.retire()
        await client.get_credits()
        assert not create.done()
        release.set()
        assert (await create).id == "split_1"
        await until(lambda: server.ended == 3)
        assert held._retired == set()
    assert len(server.keys()) == 1


async def test_a_refusal_costs_no_connection() -> None:
    """Only an exchange without an answer casts doubt on the others."""
    async with serving() as server, client_of(server, PATIENT) as client:
        await pool(client, server, 2)
        held = client._engine.pipeline.transport._connections  # type: ignore[attr-defined]
        before = dict(held._leases)
        server.refuses = True
        with pytest.raises(ValidationError):
            await client.create_split(SONG)
        assert held._leases == before
