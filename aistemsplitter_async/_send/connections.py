"""The sessions of one transport, whose idle connections are dropped when they may be dead.

A connection dies without a sign when the machine has slept or changed its network, or when a router on the way forgot
it: a request on it is sent into nothing, and hangs for its whole time limit. aiohttp offers no way to close those that
are idle and keep those in use, so all sessions are replaced, and an old one is closed once its last exchange has ended.
"""

from __future__ import annotations

import asyncio
import math
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from weakref import WeakSet

import aiohttp
import attrs
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.connector import AddrInfoType, SocketFactoryType
from aiohttp.resolver import DefaultResolver

from aistemsplitter_async._send.failures import ConnectionLostError
from aistemsplitter_async._send.sleep import Readings, has_slept
from aistemsplitter_async._tasks import own, wait_out
from aistemsplitter_async._wire.messages import Origin
from aistemsplitter_async._wire.urls import URLPolicy
from aistemsplitter_async.errors import APIConnectionError

READ_BUFFER_BYTES = 256 * 1024  # what a slow disk may leave waiting in memory, per download
_SLEEP_CLOCK: int | None = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))  # the 2nd on macOS
_KEEPALIVE_IDLE = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))  # the second on macOS


def read_clocks() -> Readings:
    """Return what the machine's clocks say now."""
    timers = time.monotonic()
    return Readings(timers, timers if _SLEEP_CLOCK is None else time.clock_gettime(_SLEEP_CLOCK), time.time())


@attrs.define(eq=False)
class Lease:
    """A session, its sockets, and how many exchanges use it."""

    session: aiohttp.ClientSession
    sockets: WeakSet[socket.socket] = attrs.field(factory=WeakSet[socket.socket])
    users: int = 0
    retired: bool = False


class Connections:
    """One session for each origin.

    Args:
        urls: where worker and CDN may be.
        silence: see `Timeouts.silence`.
        read: returns the machine's clocks.
    """

    def __init__(self, urls: URLPolicy, *, silence: float, read: Callable[[], Readings] = read_clocks) -> None:
        self._urls = urls
        self._silence = silence
        self._read = read
        self._readings = read()
        self._leases: dict[Origin, Lease] = {}
        self._resolvers: dict[Origin, AbstractResolver] = {}
        self._retired: set[Lease] = set()
        self._closing: set[asyncio.Task[None]] = set()

    @contextmanager
    def session(self, origin: Origin) -> Iterator[aiohttp.ClientSession]:
        """Lend the session for one exchange. If that gets no answer, no idle connection is used any more."""
        before, self._readings = self._readings, self._read()
        if has_slept(before, self._readings):
            self.retire()
        lease = self._leases.get(origin) or self._open(origin)
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

    def _open(self, origin: Origin) -> Lease:
        if origin not in self._resolvers:
            trusted = origin is Origin.API  # the user named it; the other two are named by replies
            self._resolvers[origin] = DefaultResolver() if trusted else VettingResolver(self._urls)
        sockets = WeakSet[socket.socket]()
        open_socket = build_socket_factory(origin, self._silence)

        def open_noted(address: AddrInfoType) -> socket.socket:
            opened = open_socket(address)
            sockets.add(opened)
            return opened

        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(resolver=self._resolvers[origin], socket_factory=open_noted),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            read_bufsize=READ_BUFFER_BYTES,
            middlewares=(_no_hidden_resend,),
        )
        return self._leases.setdefault(origin, Lease(session, sockets))


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


class VettingResolver(AbstractResolver):
    """Resolves a name and keeps only allowed addresses, so that a public name cannot lead into a private network."""

    def __init__(self, urls: URLPolicy) -> None:
        self._urls = urls
        self._inner = DefaultResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        allowed = [result for result in found if self._urls.allows(result["host"], host=host, port=port)]
        if not allowed:
            raise self._urls.build_refusal(host, [result["host"] for result in found])
        return allowed

    async def close(self) -> None:
        await self._inner.close()
