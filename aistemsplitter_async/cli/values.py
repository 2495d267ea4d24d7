"""Words of a command line as values, such as durations and limits."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from urllib.parse import unquote

from aistemsplitter_async._wire.urls import split_http_url
from aistemsplitter_async.config import SHARED_VARIABLE, RateLimit
from aistemsplitter_async.errors import ConfigurationError

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?:in)?)?(?:(\d+(?:\.\d+)?)s?)?", re.ASCII)
_UNIT_SECONDS = (3600.0, 60.0, 1.0)
_LAST_PORT = 65535
NO_STEMS = "none"
_MAX_SECONDS = 30 * 24 * 3600.0  # longer is a typing mistake


def parse_duration(text: str) -> float:
    """Return the seconds in a duration such as `30m`, `1h30m`, `90s`, `1.5h` or `90`.

    Raises:
        ValueError: `text` is not of that form, or not between 0 and 30 days.
    """
    match = _DURATION.fullmatch(text.strip().lower().replace(" ", ""))
    parts = match.groups() if match else ()
    seconds = sum(float(part) * unit for part, unit in zip(parts, _UNIT_SECONDS, strict=False) if part)
    if not any(parts) or not math.isfinite(seconds) or not 0 < seconds <= _MAX_SECONDS:
        raise ValueError(f"{text!r} is not a duration; write it like 30m, 1h30m or 90s")
    return seconds


def parse_rate_limit(text: str) -> RateLimit:
    """Return the limit written as `60/min`, `20/s` or `100/30s`, or several with commas.

    Raises:
        ValueError: `text` is not of that form.
    """
    try:
        return RateLimit.parse(text)
    except ConfigurationError as error:
        raise ValueError(str(error)) from None


def parse_shared(text: str) -> str:
    """Return `text` if it may be seen on a command line; what it names is found out later.

    Raises:
        ValueError: it holds a password, which other users of the machine could see.
    """
    if has_password(text):
        raise ValueError(
            f"every user can see a password on a command line; put the whole URL into {SHARED_VARIABLE} or, for "
            "PostgreSQL, leave it out there, and set PGPASSWORD or write it to ~/.pgpass"
        )
    return text


_SECRET = ("password", "secret", "scram_")  # in the names of options that hold one


def has_password(url: str) -> bool:
    """Return whether the URL of a database holds a password, as its user's or as an option."""
    scheme, _, rest = url.partition("://")
    if scheme.lower() == "sqlite":  # a path may have any characters
        return False
    place, _, query = rest.partition("?")
    names = [unquote(option.partition("=")[0]).lower() for option in query.split("&")]
    return ":" in place.rpartition("@")[0] or any(word in name for name in names for word in _SECRET)


def parse_webhook_url(text: str) -> str:
    """Return `text` if it can be the URL of a webhook.

    Raises:
        ValueError: it is not an http(s) URL.
    """
    if split_http_url(text) is None or not text.isprintable() or " " in text:
        raise ValueError(f"{text[:80]!r} is not a URL for webhooks; write it like https://example.com/webhooks")
    return text


def parse_text(text: str) -> str:
    """Return `text` if it is text: a word of a command line may be any bytes.

    Raises:
        ValueError: it is not UTF-8, or empty, as from a variable that is not set: it must not mean the default.
    """
    if not text:
        raise ValueError("it is empty; leave the option out")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{text!r} is not UTF-8") from None
    return text


def parse_stems(words: Sequence[str]) -> tuple[str, ...]:
    """Return the names of stems in words like `vocals,drums`; none for the word `none`.

    Raises:
        ValueError: a name is missing.
    """
    names = [name.strip() for word in words for name in word.split(",")]
    if names == [NO_STEMS]:
        return ()
    if "" in names or NO_STEMS in names:
        raise ValueError(f"{','.join(words)!r} are no names of stems; write them like vocals,drums")
    return tuple(names)


def parse_mixes(words: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the stems of each mix that is written like `rhythm=drums,bass`, or `karaoke=-vocals`.

    Raises:
        ConfigurationError: a mix has no name, no stems, or the name of another one.
    """
    mixes: dict[str, tuple[str, ...]] = {}
    for word in words:
        name, _, stems = word.partition("=")
        names = tuple(stem.strip() for stem in stems.split(","))
        if not name.strip() or "" in names:
            raise ConfigurationError(f"{word!r} is no mix; write it like rhythm=drums,bass or instrumental=-vocals")
        if mixes.setdefault(name.strip(), names) != names:
            raise ConfigurationError(f"two mixes are called {name.strip()!r}")
    return mixes


def parse_port(text: str) -> int:
    """Return the number of a port, or 0.

    Raises:
        ValueError: there is no such port.
    """
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(_LAST_PORT)) and int(text) <= _LAST_PORT):
        raise ValueError(f"{text!r} is not a port, 0 to {_LAST_PORT}")
    return int(text)


class Duration(float):
    """Seconds; the help shows the type's name."""
