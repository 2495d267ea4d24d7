"""The URL of a database in its parts. Nothing of it is repeated in an error or a `repr`: it may hold a password."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final, NoReturn
from urllib.parse import quote, unquote

import attrs

from aistemsplitter_async._plain import printable_text, redact_text
from aistemsplitter_async.config import Secret
from aistemsplitter_async.errors import ConfigurationError

_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]{0,15})://", re.IGNORECASE)
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9a-fA-F]{2})")
_HOST: Final = re.compile(r"(\[[0-9a-fA-F:.]+(?:%[\w.-]+)?\]|[^:\[\]]*)(?::(\d{0,5}))?")
_PORTS: Final = range(1, 65_536)


@attrs.frozen
class Address:
    """A URL that `parse_address` took apart. The parts are as they were written, escapes included.

    Attributes:
        scheme: in lower case.
        userinfo: before the `@`, empty if there is none.
        hosts: with their ports, separated by commas; empty for this machine.
        path: with its slash.
        options: the query's, in order, decoded.
    """

    scheme: str
    userinfo: str = attrs.field(repr=False)
    hosts: str
    path: str
    options: tuple[tuple[str, str], ...] = attrs.field(repr=False)

    @property
    def password(self) -> str:
        """The password before the host, decoded; empty if there is none."""
        return unquote(self.userinfo.partition(":")[2])

    @property
    def credentials(self) -> str:
        """User, password and `@`, written so that every reader of URLs reads the same; empty if there are none."""
        user, _, password = map(_spell, self.userinfo.partition(":"))
        return f"{user}{':' if password else ''}{password}@" if self.userinfo else ""

    def option(self, name: str) -> str | None:
        """Return the value of an option of the query, the last if there are several; `None` if it is not there."""
        return dict(self.options).get(name)


def parse_address(text: object, *, name: str, schemes: Collection[str], example: str) -> Address:
    """Return the parts of a database's URL.

    Args:
        text: the URL.
        name: who gave it, for the error: an argument, an option or a variable.
        schemes: those it may have.
        example: a good one, for the error.

    Raises:
        ConfigurationError: it is no such URL.
    """

    def refuse(problem: str, way_out: str = f"write it like {example}") -> NoReturn:
        raise ConfigurationError(f"{name}: {problem}; {way_out}")

    if not isinstance(text, str):
        refuse(f"a database is a URL as text, not {type(text).__name__}")
    if not text.isprintable() or " " in text:
        refuse("it contains white space or control characters", "write a space as %20")
    scheme = _SCHEME.match(text)
    if scheme is None or scheme[1].lower() not in schemes:
        refuse(f"it must begin with {' or '.join(f'{one}://' for one in schemes)}")
    place, _, query = text[scheme.end() :].partition("?")
    authority, slash, path = place.partition("/")
    userinfo, _, hosts = authority.rpartition("@")
    if "@" in userinfo or "@" in path or _BAD_ESCAPE.search(userinfo):
        refuse(
            "its user or password has a character that means something in URLs",
            "write @ as %40, : as %3A, / as %2F, ? as %3F, % as %25",
        )
    for host in hosts.split(","):
        match = _HOST.fullmatch(host)
        if match is None or (match[2] and int(match[2]) not in _PORTS):
            refuse("its host or its port (1 to 65535) is invalid")
    pairs = [pair.partition("=") for pair in query.split("&") if pair]
    if not all(separator for _, separator, _ in pairs):
        refuse("an option after the ? has no value", "write options as name=value, separated by &")
    options = tuple((unquote(option), unquote(value)) for option, _, value in pairs)
    return Address(scheme[1].lower(), userinfo, hosts, slash + path, options)


def _spell(part: str) -> str:
    """Return a part of a URL with an escape for all that may mean something there."""
    raw = unquote(part, errors="surrogateescape")  # it need not be UTF-8
    return quote(raw, safe="", errors="surrogateescape")


def redact(text: object, secrets: Collection[Secret]) -> str:
    """Return text for people, such as the message of a foreign error, in one line and without what must stay secret."""
    shown = redact_text(printable_text(str(text)))
    for secret in sorted((one.reveal() for one in secrets), key=len, reverse=True):
        shown = shown.replace(secret, "***") if secret else shown
    return "; ".join(line.strip() for line in shown.splitlines() if line.strip())
