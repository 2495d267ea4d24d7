"""A `direct_url` is fetched by the sandbox itself, capped and vetted."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web

from aistemsplitter_async.sandbox import Limits
from aistemsplitter_async.sandbox.http.fetch import HTTPFetcher
from aistemsplitter_async.sandbox.service.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.e2e.harness import Connect, MakeWav


def moved(location: str) -> web.Response:
    return web.Response(status=302, headers={"Location": location})


async def drip(request: web.BaseRequest, *, for_ever: bool) -> web.StreamResponse:
    """Send audio without end, or none at all."""
    response = web.StreamResponse(headers={"Content-Type": "audio/wav"})
    await response.prepare(request)
    while for_ever:
        await response.write(bytes(65_536))
    await asyncio.Event().wait()
    return response


@pytest.fixture
async def shop(make_wav: MakeWav) -> AsyncIterator[str]:
    """A web server on loopback with good and bad things to fetch; yields its address."""
    shelf: dict[str, Callable[[], web.Response]] = {
        "/song.wav": lambda: web.Response(body=make_wav(1.2), content_type="audio/wav"),
        "/text": lambda: web.Response(text="hello"),
        "/empty": lambda: web.Response(content_type="audio/wav"),
        "/fake": lambda: web.Response(body=b"no audio at all", content_type="audio/mpeg"),
        "/moved": lambda: moved("/song.wav"),
        "/round": lambda: moved("/round"),
        "/nowhere": lambda: moved("http://[::1"),
        "/long": lambda: moved(f"https://{'a' * 70}.example.com/"),
        "/inside": lambda: moved("http://10.0.0.1/song.wav"),
    }

    async def serve(request: web.BaseRequest) -> web.StreamResponse:
        if request.path in ("/endless", "/stuck"):
            return await drip(request, for_ever=request.path == "/endless")
        return shelf.get(request.path, lambda: web.Response(status=404))()

    server = web.Server(serve, access_log=None)
    listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    listener.close()
    await server.shutdown(0.01)
    await asyncio.sleep(0)


@pytest.mark.parametrize("path", ["/song.wav", "/moved"])
async def test_a_url_is_fetched_measured_and_charged(connect: Connect, shop: str, path: str) -> None:
    async with connect(separation="real") as api:
        answer = await api.create(shop + path)
        assert answer.status == 200
        assert answer.json["data"]["creditsUsed"] == 2


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/text", "not audio"),
        ("/empty", "empty"),
        ("/missing", "answered 404"),
        ("/round", "too many redirects"),
        ("/nowhere", "makes no sense|not a valid URL"),
        ("/long", "longer than 253"),
        ("/inside", "loopback only|private network"),
        ("/endless", "too large"),
        ("/stuck", "longer than"),
        ("/fake", "cannot be decoded"),
    ],
)
async def test_what_cannot_be_fetched_is_422_with_the_reason_and_keeps_nothing(
    connect: Connect, shop: str, tmp_path: Path, path: str, message: str
) -> None:
    limits = Limits(max_fetch_bytes=200_000, fetch_timeout=0.3)
    async with connect(separation="real", limits=limits, data=tmp_path) as api:
        answer = await api.create(shop + path, key="k")
        assert answer.status == 422
        assert any(part in answer.json["error"]["message"] for part in message.split("|"))
        assert api.sandbox.credits == 36_000
        assert not list((tmp_path / "sources").iterdir())


async def test_a_closed_port_is_422(connect: Connect, unused_tcp_port: int) -> None:
    async with connect(separation="real") as api:
        answer = await api.create(f"http://127.0.0.1:{unused_tcp_port}/a.mp3")
        assert answer.status == 422
        assert "connection failed" in answer.json["error"]["message"]


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:99999/a",
        f"https://{'a' * 70}.test/",
        "http://127.0.0.1:0/",
        "http://[::1%25x]/a",
        "https://\u2100.test/",
    ],
)
async def test_an_address_that_makes_no_sense_is_422(connect: Connect, url: str) -> None:
    async with connect(separation="real") as api:
        answer = await api.create(url)
        assert answer.status == 422, answer


async def test_a_name_that_resolves_into_a_private_network_is_refused_at_the_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def resolve(_self: object, host: str, port: int, family: int) -> list[dict[str, Any]]:
        return [{"hostname": host, "host": "10.0.0.1", "port": port, "family": family, "proto": 0, "flags": 0}]

    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", resolve)
    fetcher = HTTPFetcher(Limits())
    with pytest.raises(InvalidRequestError, match="private network"):
        await fetcher.fetch("https://innocent.example/a.mp3", tmp_path / "a")
    await fetcher.aclose()
