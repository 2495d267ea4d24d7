"""Creates through a proxy that refuses, dies or answers: what it says about itself is no answer of the API."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import attrs
import pytest

from aistemsplitter_async import (
    AIStemSplitterError,
    APIConnectionError,
    AsyncAIStemSplitter,
    DirectURL,
    SubmissionUncertainError,
)
from aistemsplitter_async.config import RetryPolicy
from aistemsplitter_async.events import Event, GateClosed, RequestSent
from tests.e2e.raw import KEY, head, listening, raw_api

OPENSSL = shutil.which("openssl")
QUICK = RetryPolicy(create_attempts=3).scaled(0.001)


@attrs.define
class Proxy:
    """A proxy: `refusal` is what it answers to CONNECT, else it tunnels to wherever it is asked to."""

    refusal: bytes | None
    url: str = ""
    place: str = ""
    asked: list[str] = attrs.field(factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, *_ = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        self.asked.append(line)
        if self.refusal is not None:
            writer.write(self.refusal)
            await writer.drain()
            return
        host, _, port = line.split(" ")[1].rpartition(":")
        upstream, downstream = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            await asyncio.gather(pump(reader, downstream), pump(upstream, writer))
        finally:
            downstream.close()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


@asynccontextmanager
async def proxy(refusal: bytes | None = None) -> AsyncIterator[Proxy]:
    made = Proxy(refusal)
    async with listening(made.serve) as port:
        made.place = f"127.0.0.1:{port}"
        made.url = f"http://user:hunter2@{made.place}"
        yield made


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate of 127.0.0.1, with its key in the same file."""
    if OPENSSL is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    request = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run([OPENSSL, *request, *names, *files], check=True, capture_output=True, timeout=60)
    both = folder / "both.pem"
    both.write_bytes((folder / "key.pem").read_bytes() + (folder / "cert.pem").read_bytes())
    return both


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    """The server's side."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture
async def trusting(certificate: Path) -> AsyncIterator[aiohttp.ClientSession]:
    """A session that trusts that certificate."""
    context = ssl.create_default_context(cafile=str(certificate))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
        yield session


@attrs.frozen
class Ended:
    """How a create ended, and what happened on the way."""

    error: AIStemSplitterError
    events: list[Event]

    def count(self, kind: type[Event]) -> int:
        return sum(isinstance(event, kind) for event in self.events)


async def create(url: str, through: Proxy, **options: Any) -> Ended:
    events: list[Event] = []
    settings: dict[str, Any] = {"retry": QUICK, "on_event": events.append, "proxy": through.url} | options
    async with AsyncAIStemSplitter(KEY, base_url=url, **settings) as client:
        with pytest.raises(AIStemSplitterError) as caught:
            await client.create_split(DirectURL("https://example.com/a.wav"), idempotency_key="key-1")
    assert "hunter2" not in f"{caught.value!r} {events!r}"
    return Ended(caught.value, events)


@pytest.mark.parametrize(
    ("status", "tries"), [(407, 1), (403, 1), (405, 1), (302, 1), (204, 1), (408, 3), (429, 3), (502, 3), (503, 3)]
)
@pytest.mark.parametrize("injected", [False, True], ids=["own session", "injected session"])
async def test_a_proxy_that_refuses_to_connect_is_certain_and_named(status: int, tries: int, injected: bool) -> None:
    refusal = head(f"{status} No", "Content-Length: 0", "Retry-After: 3600")
    async with raw_api() as api, proxy(refusal) as through, aiohttp.ClientSession() as session:
        options = {"session": session} if injected else {}
        ended = await create(api.url.replace("http:", "https:"), through, **options)
    error = ended.error
    assert isinstance(error, APIConnectionError)
    assert (error.may_have_arrived, error.permanent, error.code) == (False, tries == 1, "PROXY")
    assert f"the proxy {through.place} refused to connect to 127.0.0.1: HTTP {status}" in str(error)
    assert [line.split(" ")[0] for line in through.asked] == ["CONNECT"] * tries
    assert ended.count(GateClosed) == 0, "a proxy's 429 is not the key's"
    assert (api.got, api.splits) == ([], {})


@pytest.mark.parametrize("status", [407, 401])  # the second is what tinyproxy says to a wrong password
async def test_the_proxys_wish_for_a_password_is_told(status: int) -> None:
    async with raw_api() as api, proxy(head(f"{status} Who", "Proxy-Authenticate: Basic")) as through:
        ended = await create(api.url.replace("http:", "https:"), through)
    assert str(ended.error).endswith(f"HTTP {status}; it does not accept this user and password")


@pytest.mark.parametrize(
    "refusal", [b"", b"SSH-2.0-OpenSSH_9.9\r\n\r\n", head("200 OK", "X: " + "x" * 9000)], ids=["closes", "SSH", "large"]
)
async def test_a_proxy_that_dies_before_the_tunnel_is_certain(refusal: bytes) -> None:
    async with raw_api() as api, proxy(refusal) as through:
        ended = await create(api.url.replace("http:", "https:"), through)
    assert isinstance(ended.error, APIConnectionError)
    assert not ended.error.may_have_arrived
    assert len(through.asked) == 3


async def test_a_proxy_that_cannot_be_reached_is_named_as_the_proxy() -> None:
    async with raw_api() as api, proxy() as through:
        pass  # gone
    for url in (api.url, api.url.replace("http:", "https:")):
        ended = await create(url, through)
        assert isinstance(ended.error, APIConnectionError)
        assert not ended.error.may_have_arrived
        assert str(ended.error).startswith(f"cannot connect to the proxy {through.place}: ")


async def test_a_proxy_whose_name_does_not_resolve_is_named_as_the_proxy() -> None:
    ended = await create("https://127.0.0.1:9/v1", Proxy(None, url="http://proxy.invalid:3128"))
    assert isinstance(ended.error, APIConnectionError)
    assert not ended.error.may_have_arrived
    assert str(ended.error) == "the host name of the proxy proxy.invalid:3128 cannot be resolved"


async def test_through_the_tunnel_a_wrong_certificate_is_certain_too(tls: ssl.SSLContext) -> None:
    async with raw_api(tls=tls) as api, proxy() as through:
        ended = await create(api.url, through)
    assert isinstance(ended.error, APIConnectionError)
    assert (ended.error.may_have_arrived, ended.error.permanent) == (False, True)
    assert str(ended.error).startswith(
        "the certificate of 127.0.0.1 does not verify: it is self-signed; perhaps the proxy "
    )
    assert api.got == []


async def test_a_proxy_that_dies_inside_the_tunnel_leaves_the_create_ambiguous(
    tls: ssl.SSLContext, trusting: aiohttp.ClientSession
) -> None:
    """The control: a proxy on the way does not make every error certain."""
    async with raw_api(lambda *_: b"", tls=tls) as api, proxy() as through:
        api.closes = True
        ended = await create(api.url, through, session=trusting)
    assert isinstance(ended.error, SubmissionUncertainError)
    assert list(api.splits) == ["key-1"]


async def test_a_create_passes_a_tunnel(tls: ssl.SSLContext, trusting: aiohttp.ClientSession) -> None:
    async with (
        raw_api(tls=tls) as api,
        proxy() as through,
        AsyncAIStemSplitter(KEY, base_url=api.url, session=trusting, proxy=through.url) as client,
    ):
        assert (await client.create_split(DirectURL("https://example.com/a.wav"))).id == "split_1"


@pytest.mark.parametrize("status", [502, 503])
async def test_without_a_tunnel_nobody_knows_who_answered(status: int) -> None:
    """For an http target a proxy passes the request on: its 502 may mean that the answer got lost."""
    async with proxy(head(f"{status} Bad", "Content-Length: 0")) as through:
        ended = await create("http://127.0.0.1:9/v1", through)
    assert isinstance(ended.error, SubmissionUncertainError)
    assert ended.error.status_code == status
    assert ended.count(RequestSent) == 3
