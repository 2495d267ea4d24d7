"""URLs and IP addresses: which may be requested, and which are refused."""

from __future__ import annotations

import ipaddress
import re
from pathlib import PurePosixPath
from urllib.parse import SplitResult, unquote, urlsplit

import attrs

from aistemsplitter_async.errors import UnsafeURLError
from aistemsplitter_async.models import redact_url


def is_url(source: str) -> bool:
    """Return whether a source is a URL, which the API fetches itself."""
    return source[:8].lower().startswith(("http://", "https://"))


def split_http_url(url: str) -> SplitResult | None:
    """Return the parts of an http(s) URL; `None` if it is not one, or has no host or an invalid port."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts if parts.scheme in ("http", "https") and parts.hostname else None


def filename_of_url(url: str) -> str:
    """Return the last part of a URL's path, decoded, or an empty string."""
    try:
        path = urlsplit(url).path
    except ValueError:
        return ""
    return PurePosixPath(unquote(path)).name


# IPv6 outside the one block that IANA has assigned to the public internet (RFC 4291) is local, obsolete, or an embedded
# IPv4 address; `is_global` calls much of it public.
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_SIX_TO_FOUR = ipaddress.IPv6Network("2002::/16")
_HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?")
_NUMERIC = re.compile(r"\d+|0x[0-9a-f]*")  # the last label of an IPv4 address, in any spelling that resolvers accept
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_public(address: Address) -> bool:
    """Return whether an address belongs to the public internet. An IPv4 address inside IPv6 is checked as IPv4."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = _embedded_ipv4(address)
        if inner is not None:
            return is_public(inner)
        if address.scope_id is not None or address not in _GLOBAL_UNICAST:
            return False
    return address.is_global and not address.is_multicast


def is_loopback(address: Address) -> bool:
    """Return whether an address is this machine itself."""
    # Only the mapped form: behind NAT64 or 6to4, 127.0.0.1 would be the gateway.
    inner = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (inner or address).is_loopback


def _embedded_ipv4(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.sixtofour if address in _SIX_TO_FOUR else None


def parse_address(host: str) -> Address | None:
    """Return `host` as an IP address if it is a literal one."""
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def is_loopback_url(url: str) -> bool:
    """Return whether a URL's host is `localhost` or a literal loopback address."""
    host = urlsplit(url).hostname or ""
    address = parse_address(host)
    return host == "localhost" or (address is not None and is_loopback(address))


@attrs.frozen
class URLPolicy:
    """Decides which URLs that the API names, in a reply or a redirect, may be requested.

    Attributes:
        allow_loopback: allow this machine, over http too. Only for an API that is on this machine itself.
        allow_hosts: host names (lower case) that may resolve to any address, over http too.
    """

    allow_loopback: bool = False
    allow_hosts: frozenset[str] = frozenset()

    def vet(self, url: str) -> None:
        """Check a URL before it is requested. `allows` checks what its host resolves to, on connecting.

        Raises:
            UnsafeURLError: it is not https, has no host, contains credentials, or names an address that is not public.
        """
        problem = self._find_problem(url)
        if problem:
            raise UnsafeURLError(f"refused to visit {redact_url(url)[:200]!r}: {problem}")

    def allows(self, address: str, *, host: str) -> bool:
        """Return whether to connect to `address`, an IP address that `host` resolved to."""
        if host in self.allow_hosts:
            return True
        parsed = parse_address(address)
        return parsed is not None and (is_public(parsed) or (self.allow_loopback and is_loopback(parsed)))

    def _find_problem(self, url: str) -> str | None:
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError:
            return "not a URL"
        if not host or any(ord(character) <= 0x20 or character in '\\"<>^`{|}' for character in url):  # noqa: PLR2004
            return "not a URL"
        if parts.username is not None or parts.password is not None:
            return "it contains credentials"
        if parts.scheme in ("http", "https") and (
            host in self.allow_hosts or (self.allow_loopback and is_loopback_url(url))
        ):
            return None
        if parts.scheme != "https":
            return f"only https is allowed, not {parts.scheme or 'no scheme'}"
        address = parse_address(host)
        if address is not None:
            return None if is_public(address) else "not a public address"
        if not _HOST.fullmatch(host) or "[" in parts.netloc:
            return "its host is not a name in ASCII (xn-- for others)"
        labels = host.removesuffix(".").split(".")
        if labels[-1] == "localhost" or _NUMERIC.fullmatch(labels[-1]):
            return "not a public address"
        return None
