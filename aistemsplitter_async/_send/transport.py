"""Exactly one attempt: a request value goes in, a reply value or a typed error comes out.

Sessions keep the three origins apart, and what goes through a proxy from what does not (`connections`). The API key is
added here, per request, after asserting that the URL is the API's own origin. Errors are converted (`failures`) outside
their `except` block, because their `repr` and `__context__` hold the request's headers, and with them the key.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, nullcontext
from http import HTTPStatus
from typing import Protocol

import aiohttp
import attrs
from yarl import URL

from aistemsplitter_async._send.connections import Connections, Way
from aistemsplitter_async._send.failures import Body, convert_error, describe_refusal, is_foreign_cancellation
from aistemsplitter_async._send.network import Network
from aistemsplitter_async._urls import is_of_origin, parse_http_url
from aistemsplitter_async._version import __version__
from aistemsplitter_async._wire.codec import is_readable
from aistemsplitter_async._wire.messages import Origin, Reply, Request
from aistemsplitter_async._wire.proxies import Proxy
from aistemsplitter_async._wire.urls import WAY_OUT, URLPolicy
from aistemsplitter_async.config import (
    REPLY_CAP_BYTES,
    REPLY_END,
    REPLY_HEADER_BYTES,
    REPLY_HEADER_LINES,
    Secret,
    Timeouts,
)
from aistemsplitter_async.errors import APIConnectionError, ConfigurationError, UnsafeURLError

_MASK = "ast_***"
_USER_AGENT = f"aistemsplitter-async/{__version__}"


class StreamedReply(Protocol):
    """An answer whose body is read as it comes. Header names are lower case."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives; raises `APIConnectionError` if it breaks."""
        ...


class Transport(Protocol):
    """One attempt at a time. Implementations raise nothing but this package's errors and cancellation."""

    async def send(self, request: Request, /) -> Reply:
        """Send `request` and return the whole reply, its body cut off a byte above 1 MiB.

        Raises:
            APIConnectionError: no reply, or not all of it.
            UnsafeURLError: the URL's host is not on the public internet.
        """
        ...

    def stream(self, request: Request, /) -> AbstractAsyncContextManager[StreamedReply]:
        """Send `request` and hand over the reply once its headers are there. Raises like `send`."""
        ...

    async def aclose(self) -> None:
        """Close every connection that belongs to this transport."""
        ...


class AiohttpTransport:
    """The transport over aiohttp.

    Args:
        api_key: sent to the origin of `base_url` only.
        base_url: where the API is.
        session: carries the API calls if given, and is not closed here.
        timeouts: `connect` and `silence` are used here; everything else is the pipeline's.
        network: how to get out. A proxy resolves names by itself, so through one only names and literal addresses are
            vetted.
        urls: where worker and CDN may be.
    """

    def __init__(
        self,
        *,
        api_key: Secret,
        base_url: str,
        session: aiohttp.ClientSession | None = None,
        timeouts: Timeouts,
        network: Network = Network(),  # noqa: B008  # frozen
        urls: URLPolicy = URLPolicy(),  # noqa: B008  # frozen
    ) -> None:
        self._api_key = api_key
        self._api_origin = parse_http_url(base_url).origin
        self._injected = session
        self._timeouts = timeouts
        self._network = network
        self._urls = urls
        self._connections = Connections(
            urls, silence=timeouts.silence, factory=network.connector_factory, injected=session
        )
        self._closed = False

    async def send(self, request: Request, /) -> Reply:
        async with self._exchange(request) as streamed:
            reply = await streamed.read()
        return _without(self._api_key, reply) if request.origin is Origin.API else reply

    def stream(self, request: Request, /) -> AbstractAsyncContextManager[StreamedReply]:
        return self._exchange(request)

    async def aclose(self) -> None:
        self._closed = True
        await self._connections.aclose()

    @asynccontextmanager
    async def _exchange(self, request: Request) -> AsyncIterator[_Streamed]:
        self._check(request)
        proxy = self._network.proxy_for(request.url)
        if proxy is not None:
            self._check_target(request, proxy)
        with self._session(Way(request.origin, proxied=proxy is not None)) as session:
            response = await self._open(session, request, proxy)
            try:
                if proxy is not None and response.url.scheme == "http":  # there is no tunnel
                    _raise_refusal(response, proxy)
                yield _Streamed(response, proxy)
            finally:
                # Not `release`: the rest of a body is not worth reading, and a complete one has released it already.
                response.close()

    async def _open(
        self, session: aiohttp.ClientSession, request: Request, proxy: Proxy | None
    ) -> aiohttp.ClientResponse:
        host, body = None, _open_body(request)
        injected = session is self._injected
        failure: BaseException
        try:
            url = URL(request.url, encoded=True)
            host = url.raw_host  # as errors of aiohttp have it
            return await session.request(
                request.method,
                url,
                headers=self._headers(request, url, proxy),  # not a variable, which a traceback would show
                data=body,
                allow_redirects=False,
                raise_for_status=False,  # an injected session may have it set: the status is ours to judge
                proxy=None if proxy is None else proxy.url,
                proxy_headers=None if proxy is None else _introduce(proxy),
                ssl=self._network.ssl or True,  # said here for an injected session and the connectors of a factory
                timeout=self._limit_connecting(session, proxy),
                # Said here and not of our sessions, so that an injected one does the same.
                auto_decompress=False,
                max_line_size=REPLY_HEADER_BYTES,
                max_field_size=REPLY_HEADER_BYTES,
                max_headers=REPLY_HEADER_LINES,
            )
        except asyncio.CancelledError as error:
            # A copy without the traceback, whose frames hold the headers: a caller's own timeout would show it.
            failure = asyncio.CancelledError(*error.args)
            if is_foreign_cancellation():
                failure = convert_error(error, host=host, body=body, proxy=proxy, injected=injected)
        except Exception as error:  # noqa: BLE001  # an injected session runs other people's code
            failure = convert_error(error, host=host, body=body, proxy=proxy, injected=injected)
            if isinstance(error, UnsafeURLError) and request.origin is not Origin.API:  # of our own resolver
                failure = error
        raise failure

    def _limit_connecting(self, session: aiohttp.ClientSession, proxy: Proxy | None) -> aiohttp.ClientTimeout:
        """Return the limit of a connection, and of a tunnel: the proxy connects as well, and may never say how it went.

        Where the caller decides how many connections there are, waiting for one would count, so there is none.
        """
        connect = self._timeouts.connect
        is_ours = session is not self._injected and self._network.connector_factory is None
        whole = 2 * connect if proxy is not None and is_ours else None
        return aiohttp.ClientTimeout(total=None, sock_connect=connect, connect=whole)

    def _check(self, request: Request) -> None:
        """Raise what can be known before an attempt."""
        if self._closed:  # a retry must not open a session that is never closed
            raise APIConnectionError("the client is closed", may_have_arrived=False, permanent=True)
        if request.origin is Origin.API:
            if not is_of_origin(request.url, self._api_origin):
                raise ConfigurationError(f"the API key is for {self._api_origin} only")
            if self._injected is not None and self._injected.closed:
                raise APIConnectionError("the session is closed", may_have_arrived=False, permanent=True)

    def _check_target(self, request: Request, proxy: Proxy) -> None:
        """Refuse a reply's URL that names the proxy, which would then visit itself, in the network it stands in."""
        url = parse_http_url(request.url)
        is_named = url.address is None and url.host == proxy.host
        if request.origin is Origin.API or not is_named or self._urls.names(url.host, url.port):
            return
        if not (self._urls.allow_loopback and url.is_loopback):
            raise UnsafeURLError(f"refused to visit {url.host!r}: that is the proxy itself; {WAY_OUT}")

    def _headers(self, request: Request, url: URL, proxy: Proxy | None) -> dict[str, str]:
        headers = {"User-Agent": _USER_AGENT, "Accept-Encoding": "identity", **request.headers}
        if proxy is not None and url.scheme == "http":  # there is no tunnel: this very request is read by the proxy
            headers |= _introduce(proxy)
        if request.origin is Origin.API:
            headers["Authorization"] = f"Bearer {self._api_key.reveal()}"
        return headers

    def _session(self, way: Way) -> AbstractContextManager[aiohttp.ClientSession]:
        if way.origin is Origin.API and self._injected is not None:
            return nullcontext(self._injected)  # which of its connections are used is its owner's affair
        return self._connections.session(way)


def _without(key: Secret, reply: Reply) -> Reply:
    """Return a reply that does not repeat the key: some pages, of proxies for example, show what was sent to them."""
    text = key.reveal()
    if text.encode() not in reply.body and not any(text in value for value in reply.headers.values()):
        return reply
    headers = {name: value.replace(text, _MASK) for name, value in reply.headers.items()}
    return attrs.evolve(reply, headers=headers, body=reply.body.replace(text.encode(), _MASK.encode()))


def _raise_refusal(response: aiohttp.ClientResponse, proxy: Proxy) -> None:
    """Raise what a proxy says before it passes anything on. Of other answers it is not known whose they are."""
    if response.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        raise describe_refusal(response.status, response.url.raw_host or "", proxy)


def _introduce(proxy: Proxy) -> dict[str, str]:
    """Return the headers that are for a proxy."""
    return {} if proxy.authorization is None else {"Proxy-Authorization": proxy.authorization.reveal()}


def _open_body(request: Request) -> Body | AsyncIterator[bytes] | None:
    if callable(request.body):
        return request.body()
    return None if request.body is None else Body(request.body)


class _Streamed:
    """A `StreamedReply` over aiohttp's response."""

    def __init__(self, response: aiohttp.ClientResponse, proxy: Proxy | None) -> None:
        self._response = response
        self._proxy = proxy
        self.status = response.status
        self.headers = _join_lines(response.headers)

    async def read(self) -> Reply:
        """Return the whole reply, or what came of it before the connection broke.

        A body whose end never comes, because its length is announced wrongly, ends with its JSON.
        """
        body = bytearray()
        try:
            while len(body) <= REPLY_CAP_BYTES:
                chunk = await self._read_some(body)
                if not chunk:
                    return self._as_reply(body, cut=chunk is None)
                body += chunk
        except Exception:  # noqa: BLE001  # as in `_open`; what came before may still say everything
            return self._as_reply(body, cut=True)
        return self._as_reply(body[: REPLY_CAP_BYTES + 1], cut=False)

    async def _read_some(self, body: bytearray) -> bytes | None:
        """Return what comes next of the body, nothing at its end, `None` if it is complete without having ended."""
        while True:
            silence = asyncio.timeout(REPLY_END)
            try:
                async with silence:
                    return await self._response.content.readany()
            except TimeoutError:
                if not silence.expired():
                    raise
                if is_readable(self._as_reply(body, cut=True)):
                    return None

    def _as_reply(self, body: bytearray, *, cut: bool) -> Reply:
        return Reply(status=self.status, headers=self.headers, body=bytes(body), cut=cut)

    async def chunks(self) -> AsyncIterator[bytes]:
        failure = None
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except Exception as error:  # noqa: BLE001  # as in `_open`
            failure = convert_error(error, host=self._response.url.raw_host, proxy=self._proxy)
        if failure is not None:
            raise failure


def _join_lines(headers: Mapping[str, str]) -> dict[str, str]:
    """Return headers by lower-case name. The lines of one name are a list (RFC 9110 section 5.3), without doubles."""
    lines: dict[str, dict[str, None]] = {}
    for name, value in headers.items():
        lines.setdefault(name.lower(), {})[value] = None
    return {name: ", ".join(values) for name, values in lines.items()}
