"""URLs and addresses: what may be visited, and what is refused."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from aistemsplitter_async.errors import UnsafeURLError
from aistemsplitter_async.models import redact_url


def filename_of_url(url: str) -> str:
    """Return the last part of a URL's path, decoded, or an empty string."""
    try:
        path = urlsplit(url).path
    except ValueError:
        return ""
    return PurePosixPath(unquote(path)).name


# IPv6 outside of the one block IANA gives to the public internet (RFC 4291) is local, obsolete, or an IPv4 address in
# disguise; `is_global` calls much of it public.
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_SIX_TO_FOUR = ipaddress.IPv6Network("2002::/16")
_HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?")
_NUMERIC = re.compile(r"\d+|0x[0-9a-f]*")  # the end of an IPv4 address in a spelling that resolvers understand
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_public(address: Address) -> bool:
    """Return whether an address belongs to the public internet, whatever it is wrapped in."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = _embedded_ipv4(address)
        if inner is not None:
            return is_public(inner)
        if address.scope_id is not None or address not in _GLOBAL_UNICAST:
            return False
    return address.is_global and not address.is_multicast


def is_loopback(address: Address) -> bool:
    """Return whether an address is this machine itself."""
    # Only the mapped form: behind NAT64 or 6to4, 127.0.0.1 is some gateway's idea of itself.
    inner = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (inner or address).is_loopback


def _embedded_ipv4(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.sixtofour if address in _SIX_TO_FOUR else None


def parse_address(host: str) -> Address | None:
    """Return `host` as an address if it is one literally."""
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def is_loopback_url(url: str) -> bool:
    """Return whether a URL's host is literally this machine (`localhost` or a loopback address)."""
    host = urlsplit(url).hostname or ""
    address = parse_address(host)
    return host == "localhost" or (address is not None and is_loopback(address))


def vet_url(url: str, *, allow_loopback: bool = False, allow_hosts: Iterable[str] = ()) -> None:
    """Check that a URL from elsewhere may be visited.

    What a host name resolves to is checked again when connecting.

    Args:
        url: where a reply or a redirect wants us to go.
        allow_loopback: whether this machine may be meant, over http too: only when the API itself is on it.
        allow_hosts: host names that are trusted whatever they are, over http too.

    Raises:
        UnsafeURLError: not https, no host, credentials inside, or an address that is not public.
    """
    problem = _url_problem(url, allow_loopback=allow_loopback, allow_hosts=frozenset(allow_hosts))
    if problem:
        raise UnsafeURLError(f"refused to visit {redact_url(url)[:200]!r}: {problem}")


def _url_problem(url: str, *, allow_loopback: bool, allow_hosts: frozenset[str]) -> str | None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "not a URL"
    if not host or any(ord(character) <= 0x20 or character in '\\"<>^`{|}' for character in url):  # noqa: PLR2004
        return "not a URL"
    if parts.username is not None or parts.password is not None:
        return "it carries credentials"
    if host in allow_hosts and parts.scheme in ("http", "https"):
        return None
    if allow_loopback and parts.scheme in ("http", "https") and is_loopback_url(url):
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
