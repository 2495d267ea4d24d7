"""Parses what a caller passes as text: the API key, the base URL, an idempotency key."""

from __future__ import annotations

from collections.abc import Collection

from aistemsplitter_async._wire.urls import is_loopback_url, split_http_url
from aistemsplitter_async.config import API_KEY_VARIABLE, BASE_URL, Secret
from aistemsplitter_async.errors import ConfigurationError

_KEY_CAP = 255  # characters; what servers commonly accept as an Idempotency-Key


def parse_base_url(text: str, allow_hosts: Collection[str] = ()) -> str:
    """Return a base URL without a trailing slash, with `/v1` appended if it has no path.

    Raises:
        ConfigurationError: not an http(s) URL, or plain http to another machine, which would reveal the key to the
            network (if the network is your own, name the host in `allow_hosts`).
    """
    url = text.strip().rstrip("/")
    parts = split_http_url(url)
    if parts is None or "@" in parts.netloc or "?" in url or "#" in url:
        raise ConfigurationError(
            f"{text.rpartition('@')[2].partition('?')[0]!r} is not a base URL; it looks like {BASE_URL}"
        )
    if parts.scheme == "http" and not is_loopback_url(url) and parts.hostname not in allow_hosts:
        raise ConfigurationError(f"refused to send the key to {parts.hostname} over plain http; use https")
    return url if parts.path else f"{url}/v1"


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


def parse_idempotency_key(key: str) -> str:
    """Return `key` if it is a valid idempotency key.

    Raises:
        ConfigurationError: it is not 1 to 255 printable ASCII characters.
    """
    if not (0 < len(key) <= _KEY_CAP and key.isascii() and key.isprintable()):
        raise ConfigurationError(f"an idempotency key must have 1 to {_KEY_CAP} printable ASCII characters")
    return key
