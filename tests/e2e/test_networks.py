"""Ways out of a network: proxies by name and from the environment, certificates, connectors of the caller's."""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import attrs
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from aistemsplitter_async import APIConnectionError, AsyncAIStemSplitter, ConfigurationError, DirectURL
from aistemsplitter_async._send.network import Network
from aistemsplitter_async._send.transport import AiohttpTransport
from aistemsplitter_async._wire.messages import Origin, Request
from aistemsplitter_async._wire.proxies import choose_proxy, parse_proxy
from aistemsplitter_async._wire.urls import URLPolicy
from aistemsplitter_async.config import RetryPolicy, Secret, Timeouts
from aistemsplitter_async.errors import UnsafeURLError
from aistemsplitter_async.sandbox import Instant, Sandbox
from tests.e2e.harness import CLI, build_wav
from tests.e2e.raw import KEY, answer, head, listening, raw_api
from tests.e2e.test_proxies import certificate, pump, tls

__all__ = ["certificate", "tls"]  # fixtures

QUICK = RetryPolicy(attempts=1, create_attempts=1)
BASIC = f"Basic {base64.b64encode('jürgen:hunter2@'.encode()).decode()}"


@attrs.define
class Forwarder:
    """A proxy that sends every request, tunnelled or not, to this machine, whatever host it names."""

    port: int = 0
    heads: list[str] = attrs.field(factory=list)
    reply: bytes | None = None  # instead of passing anything on

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            raw = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            self.heads.append(raw)
            if self.reply is not None:
                writer.write(self.reply)
                await writer.drain()
                return
            line, _, rest = raw.partition("\r\n")
            method, target, version = line.split(" ")
            url = urlsplit(target if "://" in target else f"//{target}")
            upstream, downstream = await asyncio.open_connection("127.0.0.1", url.port)
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            else:  # one request a connection is enough
                lines = [one for one in rest.split("\r\n") if not one.lower().startswith("proxy-")]
                path = url.path + (f"?{url.query}" if url.query else "")
                downstream.write(
                    "\r\n".join([f"{method} {path} {version}", "Connection: close", *lines]).encode("latin-1")
                )
            try:
                with suppress(ConnectionError):
                    await asyncio.gather(pump(reader, downstream), pump(upstream, writer))
            finally:
                downstream.close()
            return


@asynccontextmanager
async def forwarding(reply: bytes | None = None) -> AsyncIterator[Forwarder]:
    made = Forwarder(reply=reply)
    async with listening(made.serve) as made.port:
        yield made


def transport(network: Network, **options: Any) -> AiohttpTransport:
    settings: dict[str, Any] = {
        "api_key": Secret(KEY),
        "base_url": "https://api.example/v1",
        "timeouts": Timeouts(),
    } | options
    return AiohttpTransport(network=network, **settings)


def cdn(url: str) -> Request:
    return Request(origin=Origin.CDN, method="GET", url=url)


async def test_the_whole_way_goes_through_a_proxy_with_a_private_name(tmp_path: Path) -> None:
    """Upload and download too: the proxy's name is not vetted, though no target of a private network is allowed."""
    async with Sandbox(separation="silent", progression=Instant()) as sandbox, forwarding() as proxy:
        url = sandbox.base_url.replace("127.0.0.1", "api.test")
        hosts = ("api.test", "127.0.0.1")  # of http URLs: the sandbox has no certificate
        through = f"http://j%C3%BCrgen:hunter2%40@localhost:{proxy.port}"
        async with AsyncAIStemSplitter(sandbox.api_key, base_url=url, proxy=through, allow_hosts=hosts) as client:
            done = await client.split(build_wav(), into=tmp_path, filename="song.wav")
            assert "hunter2" not in repr(vars(client)) + repr(vars(client._engine.pipeline.transport))
    assert len(done.files) == 4
    methods = {(one.split(" ")[0], urlsplit(one.split(" ")[1]).hostname) for one in proxy.heads}
    assert {("POST", "api.test"), ("GET", "api.test"), ("POST", "127.0.0.1"), ("GET", "127.0.0.1")} <= methods
    assert all(f"Proxy-Authorization: {BASIC}\r\n" in one for one in proxy.heads)


async def test_through_a_tunnel_the_proxy_alone_gets_its_credentials(certificate: Path, tls: ssl.SSLContext) -> None:
    """And `ssl=` is for what is at the other end."""
    context = ssl.create_default_context(cafile=str(certificate))
    async with raw_api(tls=tls) as api, forwarding() as proxy:
        through = f"http://j%C3%BCrgen:hunter2%40@localhost:{proxy.port}"
        async with AsyncAIStemSplitter(KEY, base_url=api.url, proxy=through, ssl=context) as client:
            for _ in range(2):
                await client.create_split(DirectURL("https://example.com/a.wav"))
    (tunnel,) = proxy.heads  # which is used again
    assert f"Proxy-Authorization: {BASIC}\r\n" in tunnel
    assert KEY not in tunnel
    assert [("proxy-authorization" in got.headers, got.headers["authorization"]) for got in api.got] == [
        (False, f"Bearer {KEY}")
    ] * 2


async def test_a_target_that_names_the_proxy_is_vetted() -> None:
    async with forwarding() as proxy:
        named = parse_proxy(f"http://localhost:{proxy.port}")
        made = transport(Network(lambda _url: named))
        with pytest.raises(UnsafeURLError, match="that is the proxy itself"):
            await made.send(cdn(f"https://localhost:{proxy.port}/stem.wav"))
        with pytest.raises(APIConnectionError):  # the control: the proxy itself is reached by that name
            await made.send(cdn("https://cdn.example:1/stem.wav"))
        await made.aclose()
    assert [one.split(" ")[1] for one in proxy.heads] == ["cdn.example:1"]


async def test_what_the_proxys_name_resolved_to_is_not_taken_for_a_target() -> None:
    """A session that knows the proxy's address by heart must not be the one that visits a target of that name."""
    async with forwarding(head("502 No", "Content-Length: 0")) as proxy:
        environment = {"HTTPS_PROXY": f"http://localhost:{proxy.port}"}
        made = transport(Network(lambda url: choose_proxy(url, environment)))
        with pytest.raises(
            APIConnectionError, match=f"the proxy localhost:{proxy.port} refused to connect to cdn.test"
        ):
            await made.send(cdn("https://cdn.test/stem.wav"))
        with pytest.raises(UnsafeURLError, match="an address of this machine itself"):
            await made.send(cdn(f"https://localhost:{proxy.port}/stem.wav"))
        await made.aclose()
    assert len(proxy.heads) == 1


async def test_a_407_for_an_http_target_is_the_proxys_word_and_certain() -> None:
    async with forwarding(head("407 Who", "Content-Length: 0")) as proxy:
        through = f"http://localhost:{proxy.port}"
        async with AsyncAIStemSplitter(KEY, base_url="http://127.0.0.1:9", proxy=through) as client:
            with pytest.raises(APIConnectionError) as caught:
                await client.create_split(DirectURL("https://example.com/a.wav"))
    error = caught.value
    assert (error.code, error.permanent, error.may_have_arrived) == ("PROXY", True, False)
    assert str(error).endswith(": HTTP 407; it asks for a user and a password")
    assert len(proxy.heads) == 1


async def test_an_international_name_is_not_taken_for_a_proxys() -> None:
    async with AsyncAIStemSplitter(KEY, base_url="https://bücher.invalid", retry=QUICK) as client:
        with pytest.raises(APIConnectionError) as caught:
            await client.get_credits()
    assert (str(caught.value), caught.value.code) == ("the host name xn--bcher-kva.invalid cannot be resolved", None)


async def test_a_body_that_breaks_names_its_host_and_the_proxy() -> None:
    async with forwarding(head("200 OK", "Content-Length: 9")) as proxy:
        through = parse_proxy(f"http://localhost:{proxy.port}")
        made = transport(Network(lambda _url: through))
        async with made.stream(cdn("http://cdn.test/stem.wav")) as reply:
            with pytest.raises(APIConnectionError, match=f"to cdn.test through the proxy localhost:{proxy.port} broke"):
                [chunk async for chunk in reply.chunks()]
        await made.aclose()


async def test_a_proxy_that_says_nothing_is_named_and_nothing_was_sent() -> None:
    async def say_nothing(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with (
        listening(say_nothing) as port,
        AsyncAIStemSplitter(
            KEY,
            base_url="https://api.test",
            proxy=f"http://localhost:{port}",
            retry=QUICK,
            timeouts=Timeouts(connect=0.05),
        ) as client,
    ):
        with pytest.raises(APIConnectionError) as caught:
            await client.create_split(DirectURL("https://example.com/a.wav"))
    error = caught.value
    assert str(error) == f"no connection to api.test through the proxy localhost:{port} in time"
    assert (error.code, error.may_have_arrived) == ("PROXY", False)


async def test_a_proxy_that_is_spoken_to_in_tls_and_speaks_none() -> None:
    async def complain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(head("400 What"))

    async with listening(complain) as port:
        through = f"https://localhost:{port}"
        async with AsyncAIStemSplitter(KEY, base_url="https://api.test", proxy=through, retry=QUICK) as client:
            with pytest.raises(APIConnectionError) as caught:
                await client.get_credits()
    assert str(caught.value).startswith(f"no TLS connection to the proxy localhost:{port}: ")
    assert str(caught.value).endswith("its URL begins with http://")


async def test_a_proxy_that_is_spoken_to_in_tls(certificate: Path, tls: ssl.SSLContext) -> None:
    """There, too, a certificate at the other end says why it does not verify, though asyncio raises another error."""
    through = Forwarder()
    async with raw_api(tls=tls) as api, listening(through.serve, tls) as port:
        arguments: dict[str, Any] = {
            "proxy": f"https://me:hunter2@127.0.0.1:{port}",
            "ssl": ssl.create_default_context(cafile=str(certificate)),
        }
        async with AsyncAIStemSplitter(KEY, base_url=api.url, **arguments) as client:
            await client.create_split(DirectURL("https://example.com/a.wav"))
        wrong = api.url.replace("127.0.0.1", "localhost")
        async with AsyncAIStemSplitter(KEY, base_url=wrong, **arguments) as client:
            with pytest.raises(APIConnectionError, match="it is for another host name; perhaps the proxy") as caught:
                await client.create_split(DirectURL("https://example.com/a.wav"))
    error = caught.value
    assert (error.code, error.permanent, error.may_have_arrived) == ("CERTIFICATE", True, False)
    assert (len(api.got), len(through.heads)) == (1, 2)


async def test_a_certificate_for_another_host_says_so(certificate: Path, tls: ssl.SSLContext) -> None:
    context = ssl.create_default_context(cafile=str(certificate))
    async with raw_api(tls=tls) as api:
        url = api.url.replace("127.0.0.1", "localhost")
        async with AsyncAIStemSplitter(KEY, base_url=url, ssl=context) as client:
            with pytest.raises(APIConnectionError) as caught:
                await client.get_credits()
    assert str(caught.value).startswith("the certificate of localhost does not verify: it is for another host name; ")
    assert (caught.value.code, caught.value.permanent) == ("CERTIFICATE", True)


async def test_ssl_is_for_uploads_and_stems_too(certificate: Path, tls: ssl.SSLContext) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(b"stem"))
        await writer.drain()

    trusting = Network(ssl=ssl.create_default_context(cafile=str(certificate)))
    async with listening(serve, tls) as port:
        for origin in (Origin.WORKER, Origin.CDN):
            request = Request(origin=origin, method="GET", url=f"https://127.0.0.1:{port}/")
            for network, body in ((trusting, b"stem"), (Network(), None)):
                made = transport(network)
                if body is None:
                    with pytest.raises(APIConnectionError, match=r"it is self-signed; .* \(--ca-file\)"):
                        await made.send(request)
                else:
                    assert (await made.send(request)).body == body
                await made.aclose()


async def test_there_are_as_many_connections_as_transfers() -> None:
    """Those that had to wait for one would be taken for stalled."""
    waiting, all_there = set[object](), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        waiting.add(writer)
        if len(waiting) > 100:  # where aiohttp would stop
            all_there.set()
        await all_there.wait()
        writer.write(head("204 No Content"))
        await writer.drain()

    async with listening(serve) as port, asyncio.timeout(10):
        made = transport(Network(), urls=URLPolicy(allow_loopback=True))
        request = cdn(f"http://127.0.0.1:{port}/stem.wav")
        assert {one.status for one in await asyncio.gather(*(made.send(request) for _ in range(101)))} == {204}
        await made.aclose()


async def test_a_netrc_is_never_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though aiohttp reads it in a session that trusts the environment; of such a session it is told."""
    netrc = tmp_path / "netrc"
    netrc.write_text("default login me password hunter2\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    async with raw_api() as api, forwarding() as proxy:
        monkeypatch.setenv("http_proxy", f"http://localhost:{proxy.port}")
        url = api.url.replace("127.0.0.1", "api.test")
        async with AsyncAIStemSplitter(KEY, base_url=url, trust_env=True, allow_hosts=["api.test"]) as client:
            await client.create_split(DirectURL("https://example.com/a.wav"))
        assert api.got.pop().headers["authorization"] == f"Bearer {KEY}"
        assert "Basic" not in "".join(proxy.heads)
        async with (
            aiohttp.ClientSession(trust_env=True) as session,
            AsyncAIStemSplitter(KEY, base_url=api.url, session=session) as client,
        ):
            with pytest.raises(APIConnectionError, match=r"or from \.netrc \(trust_env=True\); nothing was sent"):
                await client.create_split(DirectURL("https://example.com/a.wav"))
    assert api.got == []


class Misleading(AbstractResolver):
    """A public name that leads to this machine, or a connector that leaves names to a proxy."""

    def __init__(self, address: str | None) -> None:
        self.address = address
        self.closed = False

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[ResolveResult]:
        where = self.address or host
        return [ResolveResult(hostname=host, host=where, port=port, family=family, proto=0, flags=0)]

    async def close(self) -> None:
        self.closed = True


async def test_the_names_of_a_connector_of_the_callers_are_vetted() -> None:
    resolver = Misleading("127.0.0.1")

    def build() -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(resolver=resolver, limit=3, local_addr=("127.0.0.1", 0))

    async with listening(lambda _reader, _writer: asyncio.sleep(0)) as port:
        made = transport(Network(connector_factory=build))
        with pytest.raises(UnsafeURLError, match=r"'cdn\.test': it leads to 127\.0\.0\.1, an address of this machine"):
            await made.send(cdn(f"https://cdn.test:{port}/"))
        await made.aclose()
        assert not resolver.closed, "it is the caller's"

        allowed = transport(Network(connector_factory=build), urls=URLPolicy(allow_hosts=frozenset({"cdn.test"})))
        with pytest.raises(APIConnectionError):  # the control: it is what would be visited
            await allowed.send(cdn(f"https://cdn.test:{port}/"))
        await allowed.aclose()


async def test_what_leaves_names_to_a_proxy_is_vetted_by_name() -> None:
    """As aiohttp-socks does: its resolver gives the name itself, which is no address to be vetted."""
    visited: list[str] = []

    class Socks(aiohttp.TCPConnector):
        async def _wrap_create_connection(self, *_: Any, addr_infos: Any, **__: Any) -> Any:
            visited.append(addr_infos[0][4][0])
            raise RuntimeError("the proxy is gone")

    made = transport(Network(connector_factory=lambda: Socks(resolver=Misleading(None))))
    with pytest.raises(APIConnectionError) as caught:
        await made.send(attrs.evolve(cdn("https://cdn.test/"), body=b"-"))
    assert (visited, caught.value.permanent, caught.value.may_have_arrived) == (["cdn.test"], False, False)
    assert str(caught.value) == "the connector for cdn.test raised RuntimeError"
    await made.aclose()


async def test_connectors_of_the_caller_are_kept_as_they_are_and_closed_with_the_client() -> None:
    made: list[aiohttp.TCPConnector] = []
    opened: list[Any] = []

    def build() -> aiohttp.TCPConnector:
        def open_socket(address: Any) -> Any:
            opened.append(address)
            return socket.socket(*address[:3])

        made.append(aiohttp.TCPConnector(limit=1, force_close=True, socket_factory=open_socket))
        return made[-1]

    async with Sandbox(separation="silent", progression=Instant()) as sandbox:
        async with AsyncAIStemSplitter(sandbox.api_key, base_url=sandbox.base_url, connector_factory=build) as client:
            await client.upload_audio(build_wav(), filename="song.wav")
            await asyncio.gather(*(client.get_credits() for _ in range(3)))
        assert [(one.limit, one.force_close) for one in made] == [(1, True)] * 2
    assert len(opened) == 5, "force_close: a connection for every request"
    assert all(one.closed for one in made)


async def test_a_connector_that_cannot_be_vetted_or_is_anothers_is_refused(tmp_path: Path) -> None:
    async with aiohttp.ClientSession() as session:
        shared = aiohttp.TCPConnector()

        async def late() -> aiohttp.TCPConnector:
            raise AssertionError

        def fail() -> aiohttp.TCPConnector:
            raise LookupError

        for factory, problem in (
            (lambda: aiohttp.UnixConnector(str(tmp_path / "socket")), "of no other it can be checked where names lead"),
            (lambda: session.connector, "must make a new connector"),
            (late, "not an async one"),
            (fail, "connector_factory raised LookupError"),
        ):
            made = transport(Network(connector_factory=factory), session=session)  # type: ignore[arg-type]
            with pytest.raises(ConfigurationError, match=problem):
                await made.send(cdn("https://cdn.test/"))
            await made.aclose()
        assert session.connector is not None
        assert not session.connector.closed

        twice = transport(Network(connector_factory=lambda: shared))
        with pytest.raises(APIConnectionError):
            await twice.send(Request(origin=Origin.API, method="GET", url="https://api.example/v1"))
        with pytest.raises(ConfigurationError, match="must make a new connector"):
            await twice.send(cdn("https://cdn.test/"))
        await twice.aclose()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"proxy": "http://proxy.example.com:3128", "trust_env": True}, "give either proxy or trust_env"),
        ({"proxy": "proxy:3128"}, "proxy: it has no scheme"),
        ({"connector_factory": aiohttp.TCPConnector.__name__}, "not str"),
        ({"trust_env": True}, "HTTPS_PROXY: its scheme must be http or https, not htp"),
    ],
)
def test_arguments_that_cannot_work_are_refused_at_once(
    arguments: dict[str, Any], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "htp://user:hunter2@x")
    with pytest.raises(ConfigurationError) as caught:
        AsyncAIStemSplitter(KEY, base_url="http://127.0.0.1:1", **arguments)
    assert problem in str(caught.value)
    assert "hunter2" not in str(caught.value)


async def test_commands_take_a_proxy_and_certificates(cli: CLI, certificate: Path, tls: ssl.SSLContext) -> None:
    def credit(_got: Any, _id: str) -> bytes:
        return answer({"success": True, "data": {"balance": 7, "unit": "seconds"}})

    async with raw_api(tls=tls) as api, forwarding() as proxy:
        api.polled = credit
        through = f"http://user:hunter2@localhost:{proxy.port}"
        only = certificate.with_name("commented.pem")
        only.write_bytes("Főtanúsítvány\n".encode() + certificate.with_name("cert.pem").read_bytes())
        asking = cli.with_(
            AISTEMSPLITTER_API_KEY=KEY,
            AISTEMSPLITTER_BASE_URL=api.url.replace("127.0.0.1", "api.test"),
            https_proxy=through,
        )
        runs: list[tuple[CLI, list[object]]] = [
            (
                cli.with_(AISTEMSPLITTER_API_KEY=KEY, AISTEMSPLITTER_BASE_URL=api.url),
                ["--proxy", through, "--ca-file", only],
            ),
            (asking, ["--proxy", "env"]),
            (asking, ["--proxy", "htp://user:hunter2@x"]),
            (asking, ["--ca-file", certificate]),
            (asking, ["--ca-file", "missing.pem"]),
        ]
        good, untrusted, bad, secret, missing = await asyncio.gather(
            *(shell.run("credits", "--json", *options) for shell, options in runs)
        )
    assert (good.code, good.err) == (0, "")
    assert good.json[0]["balance"] == 7
    assert untrusted.code == 1
    assert (
        "of api.test does not verify: it is self-signed; perhaps the proxy localhost:" in untrusted.out + untrusted.err
    )
    assert "SSL_CERT_FILE" in untrusted.out + untrusted.err
    for ended, problem in ((bad, "its scheme"), (secret, "private key"), (missing, "no such file")):
        assert ended.code == 2
        assert problem in ended.out + ended.err
    for ended in (good, untrusted, bad, secret, missing):
        assert "hunter2" not in ended.out + ended.err
