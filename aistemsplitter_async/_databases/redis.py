"""Redis and Valkey: the URL of a server, and redis-py."""

from __future__ import annotations

import re
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote

import attrs

from aistemsplitter_async._databases.address import Address, parse_address, redact as redact_secrets
from aistemsplitter_async.config import Secret
from aistemsplitter_async.errors import ConfigurationError

if TYPE_CHECKING:
    from types import ModuleType

    from redis.asyncio import Redis

REDIS_SCHEMES: Final = ("redis", "rediss", "unix")
PREFIX: Final = "aistemsplitter:"
_EXAMPLE: Final = "redis://user@cache.example.com/0"
_SECRETS: Final = ("password", "ssl_password")  # options that are one
_UNAUTHENTICATED: Final = re.compile("HELLO must be called with the client already|Authentication required")
_OPTIONS: Final = frozenset(
    {
        *("client_name", "db", "password", "protocol", "username"),
        *("ssl_ca_certs", "ssl_ca_path", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_keyfile"),
        "ssl_password",
    }
)
"""Of redis-py, what says where and as whom; how long to wait, and how often, is ours to say."""


@attrs.frozen
class RedisURL:
    """A database of a Redis or Valkey server, and the prefix of this package's keys in it.

    Attributes:
        url: for redis-py, with the password if it has one.
        prefix: ends in a colon by default.
        place: what to call it in messages: host and database, or the socket.
        has_password: whether the URL itself holds one, and so must not be seen on a command line.
        secrets: what `redact` takes out of texts.
    """

    url: Secret
    prefix: str
    place: str
    has_password: bool
    secrets: tuple[Secret, ...] = ()

    def __str__(self) -> str:
        return self.place


def parse_redis_url(url: object, *, name: str = "the database") -> RedisURL:
    """Return what the URL of a Redis or Valkey server says.

    Args:
        url: `redis://`, `rediss://` (with TLS) or `unix://`; `?prefix=` names the prefix of our keys, `aistemsplitter:`
            without it.
        name: who gave it, for the error.

    Raises:
        ConfigurationError: it is no such URL, or has an option that is unknown here.
    """
    address = parse_address(url, name=name, schemes=REDIS_SCHEMES, example=_EXAMPLE)
    if unknown := {option for option, _ in address.options} - _OPTIONS - {"prefix"}:
        raise ConfigurationError(f"{name}: a Redis URL has no option {', '.join(sorted(unknown))} here")
    if address.scheme != "rediss" and any(option.startswith("ssl_") for option, _ in address.options):
        raise ConfigurationError(f"{name}: options of TLS need a URL that begins with rediss://")
    if address.option("protocol") not in (None, "2", "3"):
        raise ConfigurationError(f"{name}: the protocol of Redis is 2 or 3")
    database = address.option("db") or (address.path.strip("/") if address.scheme != "unix" else "")
    if database and not database.isdecimal():
        raise ConfigurationError(f"{name}: a database of Redis is a number, as in {_EXAMPLE}")
    if address.scheme == "unix" and (address.hosts or not address.path.strip("/")):
        raise ConfigurationError(f"{name}: a socket is an absolute path, as in unix:///run/redis/redis.sock")
    if "," in address.hosts:
        raise ConfigurationError(f"{name}: a Redis URL names one host")
    prefix = address.option("prefix")
    secrets = [address.password, *(address.option(one) or "" for one in _SECRETS)]
    return RedisURL(
        Secret(_for_redis(address)),
        PREFIX if prefix is None else prefix,
        _describe(address, database),
        any(secrets),
        tuple(Secret(form) for one in secrets if one for form in {one, quote(one, safe="")}),
    )


def _for_redis(address: Address) -> str:
    options = "&".join(f"{name}={quote(value, safe='')}" for name, value in address.options if name != "prefix")
    path = quote(unquote(address.path), safe="/")
    return f"{address.scheme}://{address.credentials}{address.hosts}{path}{'?' if options else ''}{options}"


def _describe(address: Address, database: str) -> str:
    where = unquote(address.path) if address.scheme == "unix" else address.hosts or "localhost"
    return f"Redis at {where}{f' (database {database})' if database else ''}"


def redact(text: object, url: RedisURL) -> str:
    """Return text, such as the message of an error of redis-py's, in one line and without the URL's password."""
    return redact_secrets(text, url.secrets)


def describe_error(error: Exception, url: RedisURL) -> str:
    """Return what an error of redis-py's says, in one line and without the URL's password."""
    text = redact(error, url)
    if _UNAUTHENTICATED.search(text):  # else a long advice on the commands that a connection begins with
        return "it asks for a password, and its URL has none"
    return text


def load_redis() -> ModuleType:
    """Return the module `redis.asyncio`. The first time takes a tenth of a second or two: call it in a thread.

    Raises:
        ConfigurationError: redis-py is not installed; the message names the extra.
    """
    try:
        return import_module("redis.asyncio")
    except ImportError as error:
        raise ConfigurationError(
            f"Redis and Valkey need redis-py: pip install 'aistemsplitter-async[redis]' ({error})"
        ) from None


def connect_redis(url: RedisURL, *, timeout: float | None, **options: Any) -> Redis:
    """Return a client, which connects when it is used, and tries nothing twice: what happened is the caller's to judge.

    Args:
        url: of which server.
        timeout: seconds to connect, and for each answer; `None` waits, as a blocking command needs.
        options: others, of redis-py.

    Raises:
        ConfigurationError: redis-py is missing.
    """
    redis = load_redis()
    once = import_module("redis.asyncio.retry").Retry(import_module("redis.backoff").NoBackoff(), 0)
    # What it would tell the server of itself, it reads from disk for every connection.
    nameless = {"driver_info": None} if _knows_drivers(redis) else {"lib_name": None, "lib_version": None}
    client: Redis = redis.Redis.from_url(
        url.url.reveal(), socket_timeout=timeout, socket_connect_timeout=timeout, retry=once, **nameless, **options
    )
    return client


def _knows_drivers(redis: ModuleType) -> bool:
    return "driver_info" in redis.Redis.__init__.__annotations__
