"""What an exception of aiohttp, or of a session that is not ours, says about the attempt it ended.

An exception does not tell when it was raised: tracing and middleware of a session run before, during and after an
exchange, and raise anything. What tells is the body: a create whose body was never asked for cannot have been acted on.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from http import HTTPStatus
from pathlib import Path

import aiohttp
from aiohttp.abc import AbstractStreamWriter

from aistemsplitter_async._send.certificates import CERTIFICATE, STORES, advise, explain_verification
from aistemsplitter_async._wire.proxies import Proxy
from aistemsplitter_async.errors import APIConnectionError, APITimeoutError

_NO_CONNECTION = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError)
_HIDING = (aiohttp.ClientConnectionError, aiohttp.ClientOSError)  # these alone: those derived from them say more
_DEEPEST = 5  # links of a chain of causes; one of other people's code may be a circle
PROXY = "PROXY"  # the code where a proxy is in the way
_TWO_AUTHORIZATIONS = "Cannot combine AUTHORIZATION header"  # aiohttp's words; only the message depends on them
_LOGIN = frozenset({HTTPStatus.PROXY_AUTHENTICATION_REQUIRED, HTTPStatus.UNAUTHORIZED})  # tinyproxy sends the second
_PASSING = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})


class Body(aiohttp.Payload):
    """The body of one attempt. Nobody gets its bytes without being noticed.

    Attributes:
        taken: whether anybody asked for them. aiohttp does so once it has a connection, before it writes the head.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__(None)
        self.taken = False
        self._content = content

    @property
    def size(self) -> int:
        return len(self._content)

    @property
    def autoclose(self) -> bool:
        return True  # there is nothing to close

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self._take().decode(encoding, errors)

    async def as_bytes(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:  # noqa: ARG002  # of other bodies
        return self._take()

    async def write(self, writer: AbstractStreamWriter) -> None:
        await writer.write(self._take())

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        await writer.write(self._take()[:content_length])

    def _take(self) -> bytes:
        self.taken = True
        return self._content


class ConnectionLostError(aiohttp.ClientConnectionError):
    """A connection broke after it was established."""


def convert_error(
    error: BaseException,
    *,
    host: str | None,
    body: object = None,
    proxy: Proxy | None = None,
    injected: bool = True,
) -> APIConnectionError:
    """Return our error for one that ended an attempt, with nothing of the original kept but its type's name.

    Args:
        error: of aiohttp, the system, or other people's code in the session.
        host: whom the request is for.
        body: of the request.
        proxy: what it went through.
        injected: whether the session is not ours; if it is, other people's code can only be in its connector.
    """
    arrived = body.taken if isinstance(body, Body) else not isinstance(error, _NO_CONNECTION)
    failure = _describe(_find_certificate_error(error) or error, host or "a URL without a host", proxy, arrived=arrived)
    if failure is None and injected:
        failure = _describe_foreign(error, host or "", arrived=arrived)
    elif failure is None:  # such as that a SOCKS proxy cannot be reached
        failure = APIConnectionError(f"the connector for {host} raised {type(error).__name__}")
    failure.may_have_arrived = arrived
    return failure


def _find_certificate_error(error: BaseException) -> ssl.SSLCertVerificationError | None:
    """Return the failed verification that an error hides: those of TLS inside TLS, and of SOCKS connectors."""
    hidden: BaseException | None = error if type(error) in _HIDING else None
    for _ in range(_DEEPEST):
        if hidden is None or isinstance(hidden, ssl.SSLCertVerificationError):
            return hidden
        hidden = hidden.__cause__ or hidden.__context__
    return None


def _describe(error: BaseException, host: str, proxy: Proxy | None, *, arrived: bool) -> APIConnectionError | None:
    """Return our error for one of aiohttp or the system, `None` for others."""
    target = host if proxy is None else f"{host} through the proxy {proxy}"
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return describe_refusal(error.status, host, proxy)
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ClientConnectorCertificateError):
        return _describe_unconnected(error, host, proxy)
    if isinstance(error, ssl.SSLCertVerificationError):
        return _describe_certificate(host, error, proxy)
    if isinstance(error, aiohttp.ServerFingerprintMismatch):
        return APIConnectionError(
            f"the certificate of {host} is not the expected one", code=CERTIFICATE, permanent=True
        )
    if isinstance(error, TimeoutError):
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            return APITimeoutError(f"no connection to {target} in time", code=None if proxy is None else PROXY)
        return APITimeoutError(f"{target} did not answer in time")
    if isinstance(error, aiohttp.InvalidURL | UnicodeError) and not arrived:
        return APIConnectionError(f"{host} cannot be connected to", permanent=True)
    if isinstance(error, aiohttp.ClientResponseError):
        peer = target if arrived else f"{_name_proxy(proxy)} on the way to {host}"
        return APIConnectionError(f"what {peer} answered cannot be read as HTTP")
    if isinstance(error, aiohttp.ClientError | OSError):
        kind = "" if isinstance(error, ConnectionLostError) else f" ({type(error).__name__})"
        return APIConnectionError(
            f"the connection to {target} broke{'' if arrived else ' before a request was sent'}{kind}"
        )
    return None


def _describe_unconnected(
    error: aiohttp.ClientConnectorError | aiohttp.ClientConnectorCertificateError, host: str, proxy: Proxy | None
) -> APIConnectionError:
    is_proxy = isinstance(error, aiohttp.ClientProxyConnectionError) or (
        error.host != host if proxy is None else (error.host, error.port) == (proxy.host, proxy.port)
    )
    peer = host
    if is_proxy:
        peer = f"the proxy {error.host}" if proxy is None else _name_proxy(proxy)
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return _describe_certificate(peer, error.certificate_error, None if is_proxy else proxy)
    code = PROXY if is_proxy else None
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return APIConnectionError(f"the host name {'of ' * is_proxy}{peer} cannot be resolved", code=code)
    if isinstance(error, ssl.SSLError):
        way_out = "; if it speaks plain HTTP, its URL begins with http://" if is_proxy else ""
        why = (getattr(error.os_error, "reason", None) or "no reason given").replace("_", " ").lower()
        behind = f" through the proxy {proxy}" if proxy is not None and not is_proxy else ""
        return APIConnectionError(f"no TLS connection to {peer}{behind}: {why}{way_out}", code=code)
    reason = error.os_error.strerror or type(error.os_error).__name__
    return APIConnectionError(f"cannot connect to {peer}: {reason}", code=code)


def _describe_certificate(peer: str, error: Exception, proxy: Proxy | None) -> APIConnectionError:
    """Describe a certificate that does not verify; `proxy` is one that may have put it in the place of another."""
    known = error if isinstance(error, ssl.SSLCertVerificationError) else None
    code, text = (known.verify_code, known.verify_message) if known is not None else (0, "")
    between = "" if proxy is None else f"; perhaps the proxy {proxy} reads along, with a certificate of its own"
    stores = {name: path for name in STORES if (path := os.environ.get(name))}
    missing = {name for name, path in stores.items() if not Path(path).exists()}
    return APIConnectionError(
        f"the certificate of {peer} does not verify: {explain_verification(code, text)}{between}"
        f"; {advise(code, stores, missing)}",
        code=CERTIFICATE,
        permanent=True,
    )


def _describe_foreign(error: BaseException, host: str, *, arrived: bool) -> APIConnectionError:
    """Describe an exception of code that runs in the session: a repetition would raise it again."""
    kind = type(error).__name__
    if arrived:
        return APIConnectionError(f"the session raised {kind} after the request to {host} was sent")
    if isinstance(error, ValueError) and str(error).startswith(_TWO_AUTHORIZATIONS):
        return APIConnectionError(
            f"the session has a user and a password for {host}, its own or from .netrc (trust_env=True); "
            "nothing was sent: the API key must be the only authorization",
            permanent=True,
        )
    return APIConnectionError(f"the session raised {kind}, and nothing was sent to {host}", permanent=True)


def describe_refusal(status: int, host: str, proxy: Proxy | None) -> APIConnectionError:
    """Describe a proxy's refusal to connect. Its 429 is about itself, so it is no answer of the API."""
    passing = status in _PASSING or status >= HTTPStatus.INTERNAL_SERVER_ERROR
    refused = f"{_name_proxy(proxy)} refused to connect to {host}: HTTP {status}"
    if status in _LOGIN:
        knows = proxy is not None and proxy.authorization is not None
        refused += "; it does not accept this user and password" if knows else "; it asks for a user and a password"
    return APIConnectionError(refused, code=PROXY, permanent=not passing, may_have_arrived=False)


def _name_proxy(proxy: Proxy | None) -> str:
    return "the proxy" if proxy is None else f"the proxy {proxy}"


def is_foreign_cancellation() -> bool:
    """Return whether the present `CancelledError` is not a cancellation of this task.

    aiohttp, for one, cancels the future of a request that waits for a connection when its session is closed.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() == 0
