"""Fetching a `direct_url`: from public addresses and loopback only, with caps on size, type and time."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from urllib.parse import urljoin

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from aistemsplitter_async._addresses import Address, describe_special, is_loopback, parse_address
from aistemsplitter_async._urls import parse_http_url
from aistemsplitter_async.sandbox.service.errors import InvalidRequestError
from aistemsplitter_async.sandbox.service.limits import Limits

_MAX_REDIRECTS = 3
_TYPES = ("audio/", "video/", "application/ogg", "application/octet-stream", "binary/octet-stream")


class HTTPFetcher:
    """The service's `Fetcher`. Plain http is allowed to loopback only, private networks only with `allow_private`."""

    def __init__(self, limits: Limits, *, allow_private: bool = False) -> None:
        self._limits = limits
        self._allow_private = allow_private
        self._session: aiohttp.ClientSession | None = None

    async def fetch(self, url: str, target: Path) -> None:
        """See `Fetcher`."""
        if self._session is None:
            self._session = open_session(allow_private=self._allow_private)
        failure: str
        try:
            async with asyncio.timeout(self._limits.fetch_timeout):
                await self._follow(self._session, url, target)
                return
        except TimeoutError:
            failure = f"it took longer than {self._limits.fetch_timeout:g} s"
        except aiohttp.ClientError:
            failure = "the connection failed"
        except ValueError:  # of a host name that is too long, or a redirect that is no URL
            failure = "its address makes no sense"
        raise InvalidRequestError(f"input.url could not be fetched: {failure}.")

    async def aclose(self) -> None:
        """Close the session."""
        if self._session is not None:
            await self._session.close()

    async def _follow(self, session: aiohttp.ClientSession, url: str, target: Path) -> None:
        for _ in range(_MAX_REDIRECTS + 1):
            vetted = vet_url(url, allow_private=self._allow_private)
            async with session.get(vetted, allow_redirects=False) as response:
                if response.status in (301, 302, 303, 307, 308):
                    url = urljoin(str(vetted), response.headers.get("Location", ""))
                    continue
                await self._save(response, target)
                return
        raise InvalidRequestError("input.url could not be fetched: too many redirects.")

    async def _save(self, response: aiohttp.ClientResponse, target: Path) -> None:
        if response.status != 200:  # noqa: PLR2004  OK
            raise InvalidRequestError(f"input.url could not be fetched: its server answered {response.status}.")
        content_type = response.headers.get("Content-Type", "application/octet-stream").lower()
        if not content_type.startswith(_TYPES):
            raise InvalidRequestError(f"input.url is not audio: its Content-Type is {content_type[:80]!r}.")
        cap = self._limits.max_fetch_bytes
        too_large = InvalidRequestError(f"input.url is too large: at most {cap} bytes are taken.")
        if (response.content_length or 0) > cap:
            raise too_large
        size = 0
        with target.open("wb") as file:
            async for chunk in response.content.iter_any():
                size += len(chunk)
                if size > cap:
                    raise too_large
                file.write(chunk)
        if not size:
            raise InvalidRequestError("input.url is an empty file.")


def open_session(*, allow_private: bool) -> aiohttp.ClientSession:
    """Return a session that connects to public and loopback addresses only, checked after name resolution."""
    resolver = _VettingResolver(allow_private=allow_private)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(resolver=resolver, use_dns_cache=False),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        headers={"Accept-Encoding": "identity", "User-Agent": "aistemsplitter-sandbox"},
    )


def vet_url(url: str, *, allow_private: bool, field: str = "input.url") -> URL:
    """Return a URL as it is to be requested, checked as far as that is possible without resolving its name.

    Raises:
        InvalidRequestError: It must not be requested.
    """
    try:
        parsed = parse_http_url(url)
    except ValueError as error:
        raise InvalidRequestError(f"{field} is not a valid URL: {error}.") from None
    if parsed.address is not None:
        vet_address(parsed.address, allow_private=allow_private, field=field)
    if parsed.scheme != "https" and not (parsed.is_loopback or allow_private):
        raise InvalidRequestError(f"{field} must be https (plain http is taken from loopback only).")
    return URL(str(parsed), encoded=True)  # otherwise yarl would escape it again, and signatures in it would be wrong


def vet_address(address: Address, *, allow_private: bool, field: str = "input.url") -> None:
    """Check an IP address.

    Raises:
        InvalidRequestError: It is neither public nor loopback.
    """
    what = describe_special(address)
    if what and not is_loopback(address) and not allow_private:
        raise InvalidRequestError(f"{field} leads to {address}, {what}, which the sandbox does not visit.")


class _VettingResolver(AbstractResolver):
    """Checks what a name resolves to when connecting, so that a name cannot pass one check and then change."""

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private
        self._inner = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        for result in found:
            address = parse_address(result["host"])
            if address is not None:
                vet_address(address, allow_private=self._allow_private)
        return found

    async def close(self) -> None:
        await self._inner.close()
