"""How a client gets out of its network: through which proxies, trusting whom, with whose connectors."""

from __future__ import annotations

import ssl as tls
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from aistemsplitter_async._wire.proxies import Proxy, choose_proxy, parse_proxy
from aistemsplitter_async._wire.urls import is_loopback_url
from aistemsplitter_async.errors import ConfigurationError

if TYPE_CHECKING:  # a client is made before aiohttp is loaded
    import aiohttp

ConnectorFactory = Callable[[], "aiohttp.BaseConnector"]
_ELSEWHERE = "https://storage.example.com/"  # stands for upload workers and CDNs, whose hosts are not known yet


def _go_directly(_url: str) -> None:
    return None


@attrs.frozen
class Network:
    """How to get out.

    Attributes:
        proxy_for: returns the proxy for a URL, or `None`.
        ssl: whom to trust, instead of the system's certificates.
        connector_factory: makes a connector for each of the client's own sessions.
    """

    proxy_for: Callable[[str], Proxy | None] = _go_directly
    ssl: tls.SSLContext | None = None
    connector_factory: ConnectorFactory | None = None


def build_network(
    base_url: str,
    *,
    proxy: str | None,
    trust_env: bool,
    environment: Mapping[str, str],
    ssl: tls.SSLContext | None,
    connector_factory: ConnectorFactory | None,
) -> Network:
    """Return the network that a client's arguments describe.

    Raises:
        ConfigurationError: one of them is invalid, or a variable of the environment that would be used.
    """
    if proxy is not None and trust_env:
        raise ConfigurationError("give either proxy or trust_env: with proxy, no variable is read")
    _check_context(ssl)
    if connector_factory is not None and not callable(connector_factory):
        raise ConfigurationError(
            f"connector_factory is a function that makes an aiohttp connector, not {type(connector_factory).__name__}"
        )
    proxy_for: Callable[[str], Proxy | None] = _go_directly
    if proxy is not None:
        fixed = parse_proxy(proxy)
        if base_url.startswith("http:") and is_loopback_url(base_url) and not is_loopback_url(fixed.url):
            raise ConfigurationError(
                f"{base_url} is on this machine, and the proxy {fixed} is not: it would get the API key in clear, and "
                "ask itself; give no proxy"
            )
        proxy_for = lambda _url: fixed  # noqa: E731  # the shortest way to write it
    elif trust_env:
        # As it is now: what changes it later, in this process, does not move the uploads of a running batch elsewhere.
        # In a closure, whose text has none of the passwords in it.
        snapshot = dict(environment)
        proxy_for = lambda url: choose_proxy(url, snapshot)  # noqa: E731  # likewise
        for url in (base_url, _ELSEWHERE):
            proxy_for(url)
    return Network(proxy_for, ssl, connector_factory)


def _check_context(ssl: Any) -> None:
    if ssl is None:
        return
    if ssl is False:
        raise ConfigurationError(
            "ssl=False would give the API key to whoever answers; to trust a certificate of your own, pass "
            "ssl=ssl.create_default_context(cafile=..)"
        )
    if not isinstance(ssl, tls.SSLContext):
        raise ConfigurationError(f"ssl is an ssl.SSLContext, not {type(ssl).__name__}")
    if ssl.protocol == tls.PROTOCOL_TLS_SERVER:
        raise ConfigurationError("ssl is a context for servers; make it with ssl.create_default_context()")
