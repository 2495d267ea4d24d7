"""http(s) URLs as browsers and curl read them (the URL standard, url.spec.whatwg.org): one spelling for each.

What a URL may not contain is escaped as they do, and nothing that is escaped already, or that need not be, is touched:
a signature is over the very bytes. What programs read differently, and so could lead past a check, is refused.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import unquote_to_bytes

import attrs

from aistemsplitter_async._addresses import Address, is_loopback, parse_address

_PORTS = {"http": 80, "https": 443}
_LAST_PORT = 65_535
_LONGEST_NAME, _LONGEST_LABEL = 253, 63  # RFC 1035 section 2.3.4; longer ones fail while connecting
_URL = re.compile(r"(https?)://([^/?#\\]*)([^?#]*)(?:\?([^#]*))?(?:#.*)?", re.IGNORECASE | re.DOTALL)
_BRACKETED = re.compile(r"\[([^\[\]]*)\](?::([0-9]*))?")
_NAMED = re.compile(r"([^:\[\]]+)(?::([0-9]*))?")
_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")  # the last label of an IPv4 address, in any form that resolvers take
_CONTROLS = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
_UNFIT_IN_PATH = re.compile(r"[^\x21\x24-\x3b\x3d\x40-\x5d\x5f\x61-\x7a\x7c\x7e]")  # space "#<>?^`{} and non-ASCII
_UNFIT_IN_QUERY = re.compile(r"[^\x21\x24-\x3b\x3d\x3f-\x7e]")  # space "#<> and non-ASCII
_DOT = re.compile(r"\.|%2e", re.IGNORECASE)


@attrs.frozen
class HTTPURL:
    """A URL in its one spelling; `str` returns it.

    Attributes:
        scheme: `http` or `https`.
        host: lower case and ASCII; an IPv6 address in its shortest form, without brackets.
        port: the given one, or that of the scheme.
        path: begins with a slash.
        query: `None` if there is none.
    """

    scheme: str
    host: str
    port: int
    path: str
    query: str | None = None

    @property
    def origin(self) -> str:
        """Return `scheme://host`, with the port if it is not that of the scheme."""
        return f"{self.scheme}://{self.netloc}"

    @property
    def netloc(self) -> str:
        """Return the host, in brackets if it is IPv6, and the port if it is not that of the scheme."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def address(self) -> Address | None:
        """Return the host as an IP address, `None` if it is a name."""
        return parse_address(self.host)

    @property
    def is_loopback(self) -> bool:
        """Return whether the host is `localhost`, or a loopback address."""
        address = self.address
        return self.host == "localhost" if address is None else is_loopback(address)

    def __str__(self) -> str:
        return self.origin + self.path + ("" if self.query is None else f"?{self.query}")


def parse_http_url(text: str) -> HTTPURL:
    """Return an http(s) URL in its one spelling; what follows a `#` is dropped.

    Raises:
        ValueError: it is none, contains credentials, or is read differently by different programs. The message is the
            reason, and contains nothing of the URL.
    """
    if _CONTROLS.search(text):
        raise ValueError("it contains control characters or half a character")
    match = _URL.fullmatch(text)
    if match is None:
        scheme, colon, _ = text.partition("://")
        known = colon and scheme.lower() in _PORTS
        raise ValueError("not a URL" if known else "it does not begin with https:// (or http://)")
    scheme, netloc, path, query = match.groups()
    if "@" in netloc:
        raise ValueError("it contains credentials")
    if "\\" in path:
        raise ValueError("it contains a backslash, which some programs take for a slash")
    host, port = parse_netloc(netloc)
    return HTTPURL(
        scheme.lower(),
        host,
        _PORTS[scheme.lower()] if port is None else port,
        _escape(_resolve_dots(path), _UNFIT_IN_PATH) or "/",
        None if query is None else _escape(query, _UNFIT_IN_QUERY),
    )


def is_of_origin(url: str, origin: str) -> bool:
    """Return whether a URL, in any spelling, belongs to an origin as `HTTPURL.origin` writes it."""
    try:
        return parse_http_url(url).origin == origin
    except ValueError:
        return False


def parse_netloc(text: str) -> tuple[str, int | None]:
    """Return the host in its one spelling, and the port if there is one, of `host`, `host:port` or `[IPv6]:port`.

    Raises:
        ValueError: it is neither, with the reason.
    """
    match = _BRACKETED.fullmatch(text) or _NAMED.fullmatch(text)
    if match is None:
        raise ValueError("it has no host, or none that can be read")
    host, digits = match.groups()
    port = int(digits[-9:]) if digits and len(digits.lstrip("0")) <= len(str(_LAST_PORT)) else None
    if digits and (port is None or not 0 < port <= _LAST_PORT):
        raise ValueError(f"its port is not between 1 and {_LAST_PORT}")
    return _parse_ipv6(host) if text.startswith("[") else parse_host(host), port


def parse_host(text: str) -> str:
    """Return a host that is no IPv6 address in its one spelling.

    A name becomes lower case and ASCII, without the dot at its end; an IPv4 address in any form, such as `0x7f000001`
    or `127.1`, becomes `127.0.0.1`.

    Raises:
        ValueError: it is none, with the reason.
    """
    if "%" in text:
        try:
            text = unquote_to_bytes(text).decode()
        except UnicodeDecodeError:
            raise ValueError("its host is not text") from None
    name = (_to_ascii(text) if not text.isascii() else text.lower()).removesuffix(".")
    if not _NAME.fullmatch(name):
        raise ValueError("its host is not a name")
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        return _parse_ipv4(labels)
    if len(name) > _LONGEST_NAME or any(len(label) > _LONGEST_LABEL for label in labels):
        raise ValueError(f"its host is longer than {_LONGEST_NAME} characters, or a part of it than {_LONGEST_LABEL}")
    return name


def _to_ascii(name: str) -> str:
    """Return an international name as DNS has it: mapped as browsers do (UTS #46), then in Punycode."""
    import idna  # noqa: PLC0415  # comes with aiohttp; its tables are large and seldom needed

    try:
        mapped = idna.uts46_remap(name, std3_rules=False, transitional=False)
        labels = (
            label if label.isascii() else f"xn--{label.encode('punycode').decode('ascii')}"
            for label in mapped.split(".")
        )
        return ".".join(labels)
    except UnicodeError:
        raise ValueError("its host contains a character that no name can have") from None


def _parse_ipv4(labels: list[str]) -> str:
    """Return the address in up to four decimal, octal or hexadecimal numbers, of which the last fills what is left."""
    numbers = [_parse_number(label) for label in labels]
    *first, last = [256**4 if number is None else number for number in numbers]
    left = 4 - len(first)
    if left < 1 or max(first, default=0) > 0xFF or last >= 256**left:  # noqa: PLR2004
        raise ValueError("its host ends like an IPv4 address and is none")
    number = last + sum(part << 8 * (3 - place) for place, part in enumerate(first))
    return str(ipaddress.IPv4Address(number))


def _parse_number(label: str) -> int | None:
    if not _NUMBER.fullmatch(label) or len(label) > _LONGEST_LABEL:
        return None
    try:
        if label.startswith("0x"):
            return int(label[2:] or "0", 16)
        return int(label, 8 if label.startswith("0") else 10)
    except ValueError:  # 08
        return None


def _parse_ipv6(text: str) -> str:
    if "%" in text:
        raise ValueError("its IPv6 address has a zone, which a URL cannot have")
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        raise ValueError("what is in its brackets is not an IPv6 address") from None
    inner = address.ipv4_mapped
    # `str` prints these in two ways, depending on the version of Python.
    return str(address) if inner is None else f"::ffff:{int(inner) >> 16:x}:{int(inner) & 0xFFFF:x}"


def _resolve_dots(path: str) -> str:
    """Resolve `.` and `..`, escaped or not, as every client does before it sends."""
    if not _DOT.search(path):
        return path
    kept: list[str] = []
    *folders, name = path[1:].split("/")
    for part in folders:
        match _DOT.sub(".", part):
            case ".":
                pass
            case "..":
                del kept[-1:]
            case _:
                kept.append(part)
    match _DOT.sub(".", name):
        case ".":
            name = ""
        case "..":
            name = ""
            del kept[-1:]
    return "/" + "/".join([*kept, name])


def _escape(text: str, unfit: re.Pattern[str]) -> str:
    return unfit.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), text)
