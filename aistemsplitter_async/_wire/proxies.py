"""Which proxy a request goes through: read from a URL, or chosen from environment variables as other programs do it."""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Mapping
from typing import NoReturn
from urllib.parse import unquote_to_bytes

import attrs

from aistemsplitter_async._addresses import parse_address
from aistemsplitter_async._urls import parse_http_url, parse_netloc
from aistemsplitter_async.config import Secret
from aistemsplitter_async.errors import ConfigurationError

_EXAMPLE = "http://proxy.example.com:3128"
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]{0,15})://", re.IGNORECASE)
_BAD_ESCAPE = re.compile(r"%(?![0-9a-fA-F]{2})")
_ENTRY = re.compile(r"(?:\[(.+)\]|([^:]+))(?::(\d{1,5}))?")  # of no_proxy, but for an IPv6 address without brackets
_DEFAULT_PORTS = {"http": 80, "https": 443}
_SOCKS = ("socks", "socks4", "socks4a", "socks5", "socks5h")
_CGI = "REQUEST_METHOD"  # set where a web server passes headers of requests as HTTP_*: HTTP_PROXY may be a visitor's


@attrs.frozen
class Proxy:
    """An HTTP proxy. Its text, as in messages, is its host and port.

    Attributes:
        url: where it is, without credentials; `https` if TLS is spoken to the proxy itself.
        host: its name or address, in ASCII and lower case.
        port: likewise.
        authorization: the value of `Proxy-Authorization`, if it wants a user and a password.
    """

    url: str
    host: str
    port: int
    authorization: Secret | None = None

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_proxy(text: object, *, name: str = "proxy") -> Proxy:
    """Return the proxy that a URL names. Nothing of the URL is repeated in an error: it may hold a password.

    Args:
        text: like `http://proxy.example.com:3128` or `http://user:password@proxy.example.com:3128`.
        name: who named it: an argument, an option or a variable.

    Raises:
        ConfigurationError: it is not the URL of an http(s) proxy.
    """
    kind, rest = _read_scheme(text, name)
    userinfo, at, place = rest.rpartition("@")
    authorization = _encode_credentials(userinfo, name) if at else None
    host, port = _read_place(kind, place, name)
    return Proxy(f"{kind}://{f'[{host}]' if ':' in host else host}:{port}", host, port, authorization)


def _refuse(name: str, problem: str, way_out: str = f"write it like {_EXAMPLE}") -> NoReturn:
    raise ConfigurationError(f"{name}: {problem}; {way_out}")


def _read_scheme(text: object, name: str) -> tuple[str, str]:
    """Return the scheme, and what follows it."""
    if not isinstance(text, str):
        _refuse(name, f"a proxy is a URL as text, not {type(text).__name__}")
    if not text.strip():
        _refuse(name, "it is empty")
    if not text.isprintable() or " " in text:
        _refuse(name, "it contains white space or control characters")
    scheme = _SCHEME.match(text)
    if scheme is None:
        _refuse(name, "it has no scheme", f"write http:// before it, like {_EXAMPLE}")
    kind = scheme[1].lower()
    if kind in _SOCKS:
        _refuse(
            name,
            f"{kind} proxies are not supported here",
            "name an HTTP proxy, or make SOCKS connections with connector_factory (docs/connections.md)",
        )
    if kind not in _DEFAULT_PORTS:
        _refuse(name, f"its scheme must be http or https, not {kind}")
    return kind, text[scheme.end() :].removesuffix("/")


def _encode_credentials(userinfo: str, name: str) -> Secret:
    """Return the value of `Proxy-Authorization`."""
    if any(character in userinfo for character in "@/?#") or _BAD_ESCAPE.search(userinfo):
        _refuse(
            name,
            "its user or password has a character that means something in URLs",
            "write @ as %40, / as %2F, % as %25",
        )
    user, _, password = userinfo.partition(":")
    pair = unquote_to_bytes(user) + b":" + unquote_to_bytes(password)
    return Secret(f"Basic {base64.b64encode(pair).decode()}")


def _read_place(kind: str, place: str, name: str) -> tuple[str, int]:
    """Return the host and the port."""
    if any(character in place for character in "/?#\\"):
        _refuse(name, "it has a path, a query or a fragment")
    try:
        host, port = parse_netloc(place)
    except ValueError:
        host, port = "", None
    if not host:
        _refuse(name, "it has no host, or its host or its port (1 to 65535) is invalid")
    return host, port or _DEFAULT_PORTS[kind]


def choose_proxy(url: str, environment: Mapping[str, str]) -> Proxy | None:
    """Return the proxy for a request to `url`; `None` if it goes there directly.

    As curl reads them: `https_proxy` or `http_proxy`, by the scheme of the target, else `all_proxy`, unless `no_proxy`
    names the target. Each may be in upper case; lower case has priority, and an empty value means no proxy. Where a web
    server runs the program (CGI), `HTTP_PROXY` is not read. A value without a scheme is an http proxy. This machine
    itself is never reached through a proxy.

    Raises:
        ConfigurationError: a variable has an invalid value; the message names the variable.
    """
    try:
        target = parse_http_url(url)
    except ValueError:
        return None
    if target.is_loopback:
        return None
    name, text = _find_variable((f"{target.scheme}_proxy", "all_proxy"), environment)
    if not text:
        return None
    _, listed = _find_variable(("no_proxy",), environment)
    if any(_covers(entry, target.host, target.port) for entry in re.split(r"[\s,]+", listed) if entry):
        return None
    return parse_proxy(text if "://" in text else f"http://{text}", name=name)


def _find_variable(names: tuple[str, ...], environment: Mapping[str, str]) -> tuple[str, str]:
    """Return the first variable that is set, and its value; empty ones if none is."""
    for name in names:
        for spelling in (name, name.upper()):
            if spelling in environment and not (spelling == "HTTP_PROXY" and _CGI in environment):
                return spelling, environment[spelling].strip()
    return "", ""


def _covers(entry: str, host: str, port: int) -> bool:
    """Return whether an entry of `no_proxy` covers a target. What cannot be read covers none, as for other programs."""
    if entry == "*":
        return True
    address = parse_address(host)
    if "/" in entry:
        try:
            return address is not None and address in ipaddress.ip_network(entry, strict=False)
        except ValueError:  # the path of a socket, or a URL
            return False
    if (match := _ENTRY.fullmatch(entry)) is not None:
        if match[3] and int(match[3]) != port:
            return False
        entry = match[1] or match[2]
    exact = parse_address(entry)
    if address is not None or exact is not None:
        return address == exact
    suffix = entry.lower().removeprefix("*").strip(".")
    return f".{host.lower().rstrip('.')}".endswith(f".{suffix}")
