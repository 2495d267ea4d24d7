"""Parses what a caller passes as text: the API key, the base URL, an idempotency key."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from aistemsplitter_async._urls import parse_http_url
from aistemsplitter_async._wire.urls import URLPolicy
from aistemsplitter_async.config import API_KEY_VARIABLE, BASE_URL, Secret
from aistemsplitter_async.errors import ConfigurationError

_SLASHES = re.compile("/{2,}")
_KEY_CAP = 255  # characters; what servers commonly accept as an Idempotency-Key


def parse_base_url(text: str, allow_hosts: Iterable[str] = ()) -> str:
    """Return a base URL in its one spelling, without a slash at its end, with `/v1` appended if it has no path.

    Raises:
        ConfigurationError: not an http(s) URL, or plain http to another machine, which would reveal the key to the
            network (if the network is your own, name the host in `allow_hosts`).
    """
    try:
        url = parse_http_url(text.strip())
        problem = "it has a query or a fragment" if "?" in text or "#" in text else None
    except ValueError as error:
        url, problem = None, str(error)
    if url is None or problem:
        shown = text.rpartition("@")[2].partition("?")[0]
        raise ConfigurationError(f"{shown!r} is not a base URL: {problem}; it looks like {BASE_URL}")
    if (
        url.scheme == "http"
        and not url.is_loopback
        and not URLPolicy(allow_hosts=allow_hosts).names(url.host, url.port)
    ):
        raise ConfigurationError(
            f"refused to send the key to {url.host} over plain http; use https, or, if the network is your own, name "
            "the host in allow_hosts (--allow-host)"
        )
    path = _SLASHES.sub("/", url.path).rstrip("/")
    return f"{url.origin}{path or '/v1'}"


def identify_api(base_url: str) -> str:
    """Return what tells one API from another, however its base URL is spelt: what a journal is bound to.

    Of an API on this machine that is only that it is here: a sandbox's port is random, and it has many names.

    Args:
        base_url: of an API, or what an earlier version has written in its place, such as a host of this machine.
    """
    try:
        known = base_url if "://" in base_url else f"http://{f'[{base_url}]' if ':' in base_url else base_url}"
        url = parse_http_url(known)
    except ValueError:
        return base_url
    return "localhost" if url.is_loopback else url.origin + _SLASHES.sub("/", url.path).rstrip("/")


def parse_api_key(text: str | None) -> Secret:
    """Return the API key as a secret.

    Raises:
        ConfigurationError: it is missing, or cannot be an API key.
    """
    key = (text or "").strip()
    if not key:
        raise ConfigurationError(f"no API key: set {API_KEY_VARIABLE} or pass api_key", code="NO_API_KEY")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigurationError("the API key contains invalid characters", code="NO_API_KEY")
    return Secret(key)


def fingerprint(key: Secret) -> str:
    """Return what identifies an API key without showing it."""
    return hashlib.sha256(key.reveal().encode()).hexdigest()[:16]


def parse_idempotency_key(key: str) -> str:
    """Return `key` if it is a valid idempotency key.

    Raises:
        ConfigurationError: it is not 1 to 255 printable ASCII characters.
    """
    if not (0 < len(key) <= _KEY_CAP and key.isascii() and key.isprintable()):
        raise ConfigurationError(f"an idempotency key must have 1 to {_KEY_CAP} printable ASCII characters")
    return key
