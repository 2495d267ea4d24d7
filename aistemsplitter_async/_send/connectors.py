"""The connectors of a transport's own sessions, and the vetting of names on each, also on connectors of the caller."""

from __future__ import annotations

import inspect
import socket
from collections.abc import Callable

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.connector import AddrInfoType, SocketFactoryType

from aistemsplitter_async._addresses import parse_address
from aistemsplitter_async._send.network import ConnectorFactory
from aistemsplitter_async._wire.urls import URLPolicy
from aistemsplitter_async.errors import ConfigurationError


class VettingResolver(AbstractResolver):
    """Resolves a name and keeps only allowed addresses, so that a public name cannot lead into a private network."""

    def __init__(self, urls: URLPolicy, inner: AbstractResolver) -> None:
        self._urls = urls
        self._inner = inner

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        allowed = [result for result in found if self._allows(result["host"], host, port)]
        if not allowed:
            raise self._urls.build_refusal(host, [result["host"] for result in found])
        return allowed

    def _allows(self, address: str, host: str, port: int) -> bool:
        # A connector that hands names to a proxy (SOCKS) "resolves" a name to itself; then the name is all there is.
        is_left_to_proxy = address == host and parse_address(host) is None
        return is_left_to_proxy or self._urls.allows(address, host=host, port=port)

    async def close(self) -> None:
        await self._inner.close()


def adopt_connector(
    factory: ConnectorFactory, urls: URLPolicy | None, *, is_taken: Callable[[aiohttp.BaseConnector], bool]
) -> aiohttp.TCPConnector:
    """Return a connector that the user's function makes, with our resolver around its own.

    Args:
        factory: the function.
        urls: where names may lead; `None` if the user named the host, not a reply.
        is_taken: returns whether a connector belongs to another session.

    Raises:
        ConfigurationError: it makes none, or one whose names cannot be vetted, or one that others use.
    """
    failure = None
    try:
        made: object = factory()
    except Exception as error:  # noqa: BLE001  # the user's code
        made, failure = None, error
    if failure is not None:
        raise ConfigurationError(f"connector_factory raised {type(failure).__name__}") from failure
    if inspect.iscoroutine(made):
        made.close()
        raise ConfigurationError("connector_factory must be an ordinary function, not an async one")
    if not isinstance(made, aiohttp.TCPConnector):
        raise ConfigurationError(
            f"connector_factory must make an aiohttp.TCPConnector or a kind of it, not {type(made).__name__}: "
            "of no other it can be checked where names lead"
        )
    if made.closed or is_taken(made):
        raise ConfigurationError(
            "connector_factory must make a new connector whenever it is called: each of the client's sessions has its "
            "own, which it closes"
        )
    if urls is not None:
        made._resolver = VettingResolver(urls, made._resolver)  # noqa: SLF001  # there is no other way in; a test watches it
    return made


def watch_sockets(
    connector: aiohttp.TCPConnector, default: SocketFactoryType, note: Callable[[socket.socket], None]
) -> None:
    """Let `note` see every socket of a connector. Those of one without a socket factory are opened by `default`."""
    given = connector._socket_factory  # noqa: SLF001  # as above
    connector._socket_factory = noted(given or default, note)  # noqa: SLF001


def noted(open_socket: SocketFactoryType, note: Callable[[socket.socket], None]) -> SocketFactoryType:
    """Return `open_socket` with every socket shown to `note`."""

    def open_noted(address: AddrInfoType) -> socket.socket:
        opened = open_socket(address)
        note(opened)
        return opened

    return open_noted
