"""PostgreSQL: the URL of a database, psycopg, and connections that notice when the other end is gone."""

from __future__ import annotations

import re
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import attrs

from aistemsplitter_async._databases.address import Address, parse_address, redact as redact_secrets
from aistemsplitter_async._plain import printable_text
from aistemsplitter_async.config import Secret
from aistemsplitter_async.errors import ConfigurationError

if TYPE_CHECKING:
    from types import ModuleType

    from psycopg import AsyncConnection, Connection, Error

POSTGRES_SCHEMES: Final = ("postgresql", "postgres")
SCHEMA: Final = "aistemsplitter"
_EXAMPLE: Final = "postgresql://user@db.example.com/name"
_SCHEMA: Final = re.compile(r"(?!pg_)[a-z_][a-z0-9_]{0,62}")  # quoted in SQL, or it might be a word of it
_SECRETS: Final = ("password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key")
"""Options that are one."""
_NOT_SHOWN: Final = ("schema", *_SECRETS)
_SILENT: Final = 15  # s of silence after which a connection is probed; a route that is gone says nothing
_DEFAULTS: Final = {
    "application_name": "aistemsplitter-async",  # seen in pg_stat_activity
    "keepalives_idle": _SILENT,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,  # ms for sent bytes to be acknowledged
}
# What a server or libpq says when trying again changes nothing, as connecting gives no SQLSTATE. They also come in
# other languages; then they count as passing, and the message says what is wrong all the same.
_PERMANENT: Final = re.compile(
    r"authentication failed|no password supplied|no pg_hba\.conf entry|does not exist|is not permitted to log in"
    r"|certificate verify failed|server does not support SSL|permission denied for database"
    r"|invalid connection option|invalid URI|invalid \w+ value"
)
_PERMANENT_STATES: Final = ("28", "3D", "3F", "42", "0A")  # authorisation, no database, no schema, no right, no feature


@attrs.frozen
class PostgresURL:
    """A PostgreSQL database, and the schema in it where this package keeps its tables.

    Attributes:
        conninfo: the URL for libpq, with the password if it has one.
        schema: a plain name in lower case.
        place: what to call it in messages: hosts and database.
        hosts: how many are named; they are tried in turn.
        url: all of it, as `parse_dsn` reads it.
        shown: the same as people can see and repeat it: without the password.
        has_password: whether the URL itself holds one, and so must not be seen on a command line.
        secrets: what `redact` takes out of texts.
    """

    conninfo: Secret
    schema: str
    place: str
    hosts: int
    url: Secret
    shown: str
    has_password: bool
    secrets: tuple[Secret, ...] = ()

    def __str__(self) -> str:
        return self.place


def parse_dsn(url: object, *, name: str = "the database") -> PostgresURL:
    """Return what the URL of a PostgreSQL database says.

    Args:
        url: as libpq reads it, several hosts included; `?schema=` names the schema, `aistemsplitter` without it.
        name: who gave it, for the error.

    Raises:
        ConfigurationError: it is no such URL, or the schema's name is not a plain one.
    """
    address = parse_address(url, name=name, schemes=POSTGRES_SCHEMES, example=_EXAMPLE)
    schema = address.option("schema")
    schema = SCHEMA if schema is None else schema
    if not _SCHEMA.fullmatch(schema):
        raise ConfigurationError(
            f"{name}: a schema is up to 63 of a-z, 0-9 and _, and begins with neither a digit nor pg_; not {schema!r}"
        )
    for option, _ in address.options:
        if option != "schema" and get_close_matches(option, ["schema"]):  # libpq would only say that it knows it not
            raise ConfigurationError(f"{name}: there is no option {printable_text(option)}; do you mean schema?")
    secrets = [address.password, *(address.option(one) or "" for one in _SECRETS)]
    return PostgresURL(
        Secret(_for_libpq(address)),
        schema,
        _describe(address),
        (address.hosts or address.option("host") or "").count(",") + 1,
        Secret(_with_schema(_for_libpq(address), schema)),
        _with_schema(_for_people(address), schema),
        any(secrets),
        tuple(Secret(form) for one in secrets if one for form in {one, quote(one, safe="")}),
    )


def _for_libpq(address: Address) -> str:
    options = "&".join(f"{name}={quote(value, safe='')}" for name, value in address.options if name != "schema")
    return f"postgresql://{address.credentials}{address.hosts}{address.path}{'?' if options else ''}{options}"


def _for_people(address: Address) -> str:
    options = [f"{name}={quote(value, safe='/:,')}" for name, value in address.options if name not in _NOT_SHOWN]
    user = address.userinfo.partition(":")[0]
    place = f"{user}{'@' if user else ''}{address.hosts}{address.path}"
    return f"postgresql://{place}{'?' if options else ''}{'&'.join(options)}"


def _with_schema(url: str, schema: str) -> str:
    return url if schema == SCHEMA else f"{url}{'&' if '?' in url else '?'}schema={schema}"


def _describe(address: Address) -> str:
    hosts = address.hosts or address.option("host") or "this machine"
    database = address.path.strip("/") or address.option("dbname") or ""
    return f"PostgreSQL at {hosts}{'/' if database else ''}{database}"


def redact(text: object, url: PostgresURL) -> str:
    """Return text, such as the message of an error of psycopg's, in one line and without the URL's password."""
    return redact_secrets(text, url.secrets)


def load_psycopg() -> ModuleType:
    """Return the module `psycopg`. The first time takes a tenth of a second: call it in a thread.

    Raises:
        ConfigurationError: it is not installed, or has no libpq; the message names the extra.
    """
    try:
        return import_module("psycopg")
    except ImportError as error:
        raise ConfigurationError(
            f"PostgreSQL needs psycopg: pip install 'aistemsplitter-async[postgres]' ({error})"
        ) from None


def connect_options(url: PostgresURL, *, timeout: float) -> dict[str, Any]:
    """Return the arguments of `psycopg.connect`, with what the URL does not say itself.

    Args:
        url: where to connect.
        timeout: seconds for each address of each host; libpq counts in whole ones, at least two.
    """
    given = url.conninfo.reveal()
    defaults = {"connect_timeout": max(2, round(timeout)), **_DEFAULTS}
    if url.hosts > 1:
        defaults["target_session_attrs"] = "read-write"  # which of them is the primary, a failover changes
    options = {name: value for name, value in defaults.items() if not re.search(rf"[?&]{name}=", given)}
    # Statements are not prepared: a pooler gives every transaction another session.
    return {"conninfo": given, "autocommit": True, "prepare_threshold": None, **options}


def connect(url: PostgresURL, *, timeout: float) -> Connection[tuple[Any, ...]]:
    """Return a new connection, in autocommit. It blocks.

    Raises:
        ConfigurationError: psycopg is missing.
        psycopg.Error: it cannot be had; pass it through `redact` before it is shown.
    """
    connection: Connection[tuple[Any, ...]] = load_psycopg().Connection.connect(**connect_options(url, timeout=timeout))
    return connection


async def connect_async(url: PostgresURL, *, timeout: float) -> AsyncConnection[tuple[Any, ...]]:
    """Return a new connection for asyncio, in autocommit. psycopg must be loaded, or the event loop waits for that.

    Raises:
        ConfigurationError: psycopg is missing.
        psycopg.Error: it cannot be had; pass it through `redact` before it is shown.
    """
    connection: AsyncConnection[tuple[Any, ...]] = await load_psycopg().AsyncConnection.connect(
        **connect_options(url, timeout=timeout)
    )
    return connection


def is_permanent(error: Error) -> bool:
    """Return whether trying again changes nothing: a wrong password, a database or right that is missing."""
    if error.sqlstate is not None:
        return error.sqlstate.startswith(_PERMANENT_STATES)
    return _PERMANENT.search(str(error)) is not None
