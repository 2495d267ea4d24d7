"""Addresses in odd spellings on bare sockets: what is sent is, byte for byte, what browsers and curl send."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest

from aistemsplitter_async import AsyncAIStemSplitter, Failed
from aistemsplitter_async.config import PollPolicy, RetryPolicy
from aistemsplitter_async.sandbox import Limits
from aistemsplitter_async.sandbox.http.fetch import HTTPFetcher
from tests.e2e.harness import build_wav
from tests.e2e.raw import CREATED, KEY, Got, answer, envelope, head, listening, read_request

WAV = build_wav(0.2)
UPLOAD = ("/up load/%2F+|[1]/ü?sig=a%2Fb+c&x={1} y", "/up%20load/%2F+|[1]/%C3%BC?sig=a%2Fb+c&x={1}%20y")
STEM = ("/stems/my song|mix [1].wav?sig=AbC%2f%2B+=&half=100%&e=%41%7e", None)
STEM_SENT = "/stems/my%20song|mix%20[1].wav?sig=AbC%2f%2B+=&half=100%&e=%41%7e"
MOVED = ("/moved to/a|b.wav?s=%2F'x y#part", "/moved%20to/a|b.wav?s=%2F'x%20y")


@attrs.define
class Whole:
    """API, upload worker and CDN in one, which names its own addresses as it likes."""

    port: int = 0
    got: list[Got] = attrs.field(factory=list[Got])

    @property
    def odd(self) -> str:
        return f"HTTP://LOCALHOST:0{self.port}"

    def reply(self, got: Got) -> bytes:
        match got.method, got.path:
            case "POST", "/v1/audio/uploads":
                expires = "2099-01-01T00:00:00Z"
                return answer(
                    envelope(
                        {"uploadId": "u", "uploadUrl": self.odd + UPLOAD[0], "uploadHeaders": {}, "expiresAt": expires}
                    )
                )
            case "POST", "/v1/audio/splits":
                return answer(envelope(CREATED))
            case "GET", "/v1/audio/splits/split_1":
                done = {
                    "status": "succeeded",
                    "updatedAt": "2026-05-04T10:00:01Z",
                    "stems": {"vocals": self.odd + STEM[0]},
                }
                return answer(envelope(CREATED | done))
            case "POST", _:
                return answer(envelope({"url": "https://files.test/u", "key": "u"}))
            case "GET", path if path.startswith("/stems/"):
                return head("302 Found", f"Location: {MOVED[0]}", "Content-Length: 0")
        return answer(WAV, "Content-Type: audio/wav")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            got = await read_request(reader)
            self.got.append(got)
            writer.write(self.reply(got))
            await writer.drain()


@asynccontextmanager
async def whole() -> AsyncIterator[Whole]:
    service = Whole()
    async with listening(service.serve) as service.port:
        yield service


def client_of(base_url: str) -> AsyncAIStemSplitter:
    return AsyncAIStemSplitter(KEY, base_url=base_url, retry=RetryPolicy(attempts=1), poll=PollPolicy().scaled(0.001))


@pytest.mark.parametrize("host", ["http://0x7f000001:0{}//v1/", "HTTP://LocalHost.:{}", "http://127.1:{}/v1"])
async def test_a_whole_split_sends_every_address_as_other_clients_do(host: str, tmp_path: Path) -> None:
    async with whole() as service, client_of(host.format(service.port)) as client:
        done = await client.split(WAV, into=tmp_path / "stems")
        assert done.files["vocals"].read_bytes() == WAV
    paths = [got.path for got in service.got]
    assert paths[1] == UPLOAD[1]
    assert paths[-2:] == [STEM_SENT, MOVED[1]]
    hosts = {got.headers["host"] for got in service.got}
    assert hosts <= {f"localhost:{service.port}", f"127.0.0.1:{service.port}"}
    keyed = [got.path for got in service.got if "authorization" in got.headers]
    assert keyed == [path for path in paths if path.startswith("/v1/")]


async def test_a_library_goes_on_under_another_spelling_of_its_api(tmp_path: Path) -> None:
    song, journal = tmp_path / "song.wav", tmp_path / "journal"
    song.write_bytes(WAV)
    async with whole() as service:
        for base_url in ("http://127.0.0.1:{}/v1", "http://LOCALHOST:0{}/v1/", "http://0x7f000001:{}"):
            async with (
                client_of(base_url.format(service.port)) as client,
                client.split_many([song], journal=journal, into=tmp_path) as outcomes,
            ):
                assert not [one async for one in outcomes if isinstance(one, Failed)]
    assert sum(got.path == "/v1/audio/splits" for got in service.got) == 1


async def test_the_sandbox_fetches_a_signed_source_as_it_is_signed(tmp_path: Path) -> None:
    async with whole() as service:
        fetcher = HTTPFetcher(Limits())
        await fetcher.fetch(service.odd + STEM[0], tmp_path / "a")
        await fetcher.aclose()
    assert [got.path for got in service.got] == [STEM_SENT, MOVED[1]]
