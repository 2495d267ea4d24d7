"""URLs: which may be requested, and which are refused."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import PurePosixPath
from urllib.parse import SplitResult, unquote, urlsplit

import attrs

from aistemsplitter_async._addresses import describe_special, is_loopback, is_public, parse_address
from aistemsplitter_async._urls import HTTPURL, parse_http_url, parse_netloc
from aistemsplitter_async.errors import ConfigurationError, UnsafeURLError
from aistemsplitter_async.models import redact_url

WAY_OUT = "if you trust it, name the host in allow_hosts (--allow-host)"


def is_url(source: str) -> bool:
    """Return whether a source is a URL, which the API fetches itself."""
    return source[:8].lower().startswith(("http://", "https://"))


def split_http_url(url: str) -> SplitResult | None:
    """Return the parts of an http(s) URL that is for others to request; `None` if it is not one."""
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


def is_loopback_url(url: str) -> bool:
    """Return whether a URL's host is `localhost` or a literal loopback address."""
    try:
        return parse_http_url(url).is_loopback
    except ValueError:
        return False


def parse_allowed_hosts(hosts: Iterable[str]) -> frozenset[str]:
    """Return host names or addresses, each alone or with the one port that is meant, in their one spelling.

    Raises:
        ConfigurationError: one of them is neither.
    """
    return frozenset(_parse_allowed_host(host) for host in hosts)


def _parse_allowed_host(text: str) -> str:
    if not isinstance(text, str):
        raise ConfigurationError(f"allow_hosts has host names, not {type(text).__name__}")
    stripped = text.strip()
    try:
        bare = parse_address(stripped)
        host, port = parse_netloc(f"[{stripped}]" if bare is not None and bare.version == 6 else stripped)  # noqa: PLR2004
    except ValueError as error:
        raise ConfigurationError(
            f"{text[:80]!r} in allow_hosts is no host ({error}); write nas.local, nas.local:9000, 10.0.0.7 or [fd00::7]"
        ) from None
    return host if port is None else _with_port(host, port)


def _with_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@attrs.frozen
class URLPolicy:
    """Decides which URLs that the API names, in a reply or a redirect, may be requested.

    Attributes:
        allow_loopback: allow this machine, over http too. Only for an API that is on this machine itself.
        allow_hosts: hosts, or hosts with a port, that may be or resolve to any address, over http too.
    """

    allow_loopback: bool = False
    allow_hosts: frozenset[str] = attrs.field(default=(), converter=parse_allowed_hosts)

    def vet(self, url: str) -> str:
        """Return a URL as it is to be requested. `allows` checks what its host resolves to, on connecting.

        Raises:
            UnsafeURLError: it is not https, has no host, contains credentials, or names an address that is not public.
        """
        try:
            parsed = parse_http_url(url)
            problem = self._find_problem(parsed)
        except ValueError as error:
            parsed, problem = None, str(error)
        if parsed is None or problem:
            raise UnsafeURLError(f"refused to visit {redact_url(url)[:200]!r}: {problem}")
        return str(parsed)

    def names(self, host: str, port: int) -> bool:
        """Return whether the user allowed a host by name."""
        return host in self.allow_hosts or _with_port(host, port) in self.allow_hosts

    def allows(self, address: str, *, host: str, port: int = 443) -> bool:
        """Return whether to connect to `address`, an IP address that `host` resolved to."""
        if self.names(host, port):
            return True
        parsed = parse_address(address)
        return parsed is not None and (is_public(parsed) or (self.allow_loopback and is_loopback(parsed)))

    def build_refusal(self, host: str, addresses: Collection[str]) -> UnsafeURLError:
        """Return the error for a host none of whose addresses is allowed."""
        known = (parse_address(address) for address in addresses)
        whats = {f"{address}, {describe_special(address)}" for address in known if address is not None}
        leads = f"it leads to {min(whats)}" if whats else "it is not on the public internet"
        return UnsafeURLError(f"refused to visit {host[:200]!r}: {leads}; {WAY_OUT}")

    def _find_problem(self, url: HTTPURL) -> str | None:
        if self.names(url.host, url.port) or (self.allow_loopback and url.is_loopback):
            return None
        if url.scheme != "https":
            return f"only https is allowed, not {url.scheme}; {WAY_OUT}"
        address = url.address
        if address is not None:
            what = describe_special(address)
            return what and f"{address} is {what}; {WAY_OUT}"
        if url.host.rpartition(".")[2] == "localhost":
            return f"it is this machine itself; {WAY_OUT}"
        return None
