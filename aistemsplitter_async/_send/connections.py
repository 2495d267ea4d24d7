"""The sessions of one transport, whose idle connections are dropped when they may be dead.

A connection dies without a sign when the machine has slept or changed its network, or when a router on the way forgot
it: a request on it is sent into nothing, and hangs for its whole time limit. aiohttp offers no way to close those that
are idle and keep those in use, so all sessions are replaced, and an old one is closed once its last exchange has ended.
"""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from weakref import WeakSet

import aiohttp
import attrs
from aiohttp.abc import AbstractResolver
from aiohttp.connector import AddrInfoType, SocketFactoryType
from aiohttp.resolver import DefaultResolver

from aistemsplitter_async._send.connectors import VettingResolver, adopt_connector, noted, watch_sockets
from aistemsplitter_async._send.failures import ConnectionLostError
from aistemsplitter_async._send.network import ConnectorFactory
from aistemsplitter_async._sleep import Readings, has_slept, read_clocks
from aistemsplitter_async._tasks import own, wait_out
from aistemsplitter_async._wire.messages import Origin
from aistemsplitter_async._wire.urls import URLPolicy
from aistemsplitter_async.errors import APIConnectionError

READ_BUFFER_BYTES = 256 * 1024  # what a slow disk may leave waiting in memory, per download
_API_CONNECTIONS = 100  # aiohttp's own limit; calls are small, and the key's limit holds them back before
_KEEPALIVE_IDLE = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))  # the second on macOS


@attrs.define(eq=False)
class Lease:
    """A session, its sockets, and how many exchanges use it."""

    session: aiohttp.ClientSession
    sockets: WeakSet[socket.socket] = attrs.field(factory=WeakSet[socket.socket])
    users: int = 0
    retired: bool = False


@attrs.frozen
class Way:
    """Whom a session's connections lead to. No two ways share a resolver, nor what it has resolved.

    Attributes:
        origin: whom its requests are for.
        proxied: whether they go through a proxy. Then the proxy's is the only name that is resolved here.
    """

    origin: Origin
    proxied: bool = False

    @property
    def is_trusted(self) -> bool:
        """Return whether the user named the hosts it connects to. Others are named by replies, and are vetted."""
        return self.proxied or self.origin is Origin.API


class Connections:
    """One session for each way that requests take.

    Args:
        urls: where worker and CDN may be.
        silence: see `Timeouts.silence`.
        factory: makes the connectors, if it is not done here.
        injected: the caller's own session, if there is one: its connector is not for others.
        read: returns the machine's clocks.
    """

    def __init__(
        self,
        urls: URLPolicy,
        *,
        silence: float,
        factory: ConnectorFactory | None = None,
        injected: aiohttp.ClientSession | None = None,
        read: Callable[[], Readings] = read_clocks,
    ) -> None:
        self._urls = urls
        self._silence = silence
        self._factory = factory
        self._injected = injected
        self._adopted = WeakSet[aiohttp.BaseConnector]()
        self._read = read
        self._readings = read()
        self._leases: dict[Way, Lease] = {}
        self._resolvers: dict[Way, AbstractResolver] = {}
        self._retired: set[Lease] = set()
        self._closing: set[asyncio.Task[None]] = set()

    @contextmanager
    def session(self, way: Way) -> Iterator[aiohttp.ClientSession]:
        """Lend the session for one exchange. If that gets no answer, no idle connection is used any more."""
        before, self._readings = self._readings, self._read()
        if has_slept(before, self._readings):
            self.retire()
        lease = self._leases.get(way) or self._open(way)
        lease.users += 1
        try:
            yield lease.session
        except (APIConnectionError, asyncio.CancelledError):  # by its time limit, among others
            if not lease.retired:  # or else it says nothing about the new ones
                self.retire()
            raise
        finally:
            lease.users -= 1
            self._close_unused(lease)

    def retire(self) -> None:
        """Use none of the connections again that are idle now, or will be."""
        leases, self._leases = self._leases, {}
        for lease in leases.values():
            lease.retired = True
            self._retired.add(lease)
            self._close_unused(lease)

    async def aclose(self) -> None:
        """Close every connection, those in use too."""
        self.retire()
        for lease in self._retired:
            self._close(lease)
        self._retired.clear()
        await wait_out(*self._closing)
        for resolver in self._resolvers.values():
            await resolver.close()
        self._resolvers.clear()

    def _close_unused(self, lease: Lease) -> None:
        if lease in self._retired and not lease.users:
            self._retired.discard(lease)
            self._close(lease)

    def _close(self, lease: Lease) -> None:
        closing = own(lease.session.close())
        for opened in lease.sockets:  # or aiohttp would wait until a peer that reads no more has read all that is sent
            with suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def _open(self, way: Way) -> Lease:
        sockets = WeakSet[socket.socket]()
        open_socket = build_socket_factory(way.origin, self._silence)
        if self._factory is None:
            connector = self._build_connector(way, noted(open_socket, sockets.add))
        else:
            connector = self._adopt(self._factory, way)
            watch_sockets(connector, open_socket, sockets.add)
        session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,  # it would also send what a .netrc has; which proxy to use is decided elsewhere
            read_bufsize=READ_BUFFER_BYTES,
            middlewares=(_no_hidden_resend,),
        )
        return self._leases.setdefault(way, Lease(session, sockets))

    def _build_connector(self, way: Way, open_socket: SocketFactoryType) -> aiohttp.TCPConnector:
        if way not in self._resolvers:
            inner = DefaultResolver()
            self._resolvers[way] = inner if way.is_trusted else VettingResolver(self._urls, inner)
        # How many transfers there are is the caller's choice; waiting for a connection would count as a stall.
        limit = _API_CONNECTIONS if way.origin is Origin.API else 0
        return aiohttp.TCPConnector(resolver=self._resolvers[way], socket_factory=open_socket, limit=limit)

    def _adopt(self, factory: ConnectorFactory, way: Way) -> aiohttp.TCPConnector:
        def is_taken(connector: aiohttp.BaseConnector) -> bool:
            return connector in self._adopted or (self._injected is not None and connector is self._injected.connector)

        connector = adopt_connector(factory, None if way.is_trusted else self._urls, is_taken=is_taken)
        self._adopted.add(connector)
        return connector


def build_socket_factory(origin: Origin, silence: float) -> SocketFactoryType:
    """Return what opens the sockets of `origin`, so that the system notices a peer that is gone.

    Of the API, and of a CDN as far as a request goes to it, bytes must be acknowledged within `silence` seconds. Not of
    the upload worker: Linux would also end the connection of one that is alive and takes its time to read. A transfer
    is judged by its progress, and outlives an outage as long as `Timeouts.stall`. Of the API probes ask, too, whether a
    peer is still there that has everything and says nothing; the peer's system answers them, whatever its program does.

    Args:
        origin: whom they connect to.
        silence: seconds, at least one.
    """
    chosen = () if origin is Origin.WORKER else _options(max(1.0, silence), probes=origin is Origin.API)

    def open_socket(address: AddrInfoType) -> socket.socket:
        family, kind, protocol, _, _ = address
        opened = socket.socket(family, kind, protocol)
        for level, option, value in chosen:
            with suppress(OSError):  # a system that has the name without the option; it only notices later
                opened.setsockopt(level, option, value)
        return opened

    return open_socket


def _options(silence: float, *, probes: bool) -> tuple[tuple[int, int, int], ...]:
    unacknowledged = [(getattr(socket, "TCP_USER_TIMEOUT", None), math.ceil(silence * 1000))]  # ms; Linux alone
    idle = max(1, round(silence / 2))
    pause = max(1, round(silence / 7))
    probing = [
        (_KEEPALIVE_IDLE, idle),
        (getattr(socket, "TCP_KEEPINTVL", None), pause),
        (getattr(socket, "TCP_KEEPCNT", None), math.ceil((silence - idle) / pause)),
    ]
    chosen = unacknowledged + probing * probes
    tuned = tuple((socket.IPPROTO_TCP, option, max(1, value)) for option, value in chosen if option is not None)
    return (*tuned, *([(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)] * probes))


async def _no_hidden_resend(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keep aiohttp from sending a GET twice by itself: every request of a key must pass the gate."""
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:  # never resent
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        lost = ConnectionLostError(str(error) or "the server closed the connection")
    raise lost
