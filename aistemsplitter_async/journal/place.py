"""Where a journal is: a file of this machine, or tables that several machines share."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

import attrs

from aistemsplitter_async._databases.postgres import POSTGRES_SCHEMES, SCHEMA, PostgresURL, parse_dsn
from aistemsplitter_async.config import JOURNAL_LEASE
from aistemsplitter_async.errors import ConfigurationError

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/{1,2}")
_ALMOST_URL: Final = re.compile(r"postgres(ql)?(:|//)", re.IGNORECASE)  # no name that anybody gives a file


@attrs.frozen
class JournalURL:
    """A journal in PostgreSQL, which several workers share.

    Attributes:
        database: the server, and the schema that has its tables.
        lease: seconds of silence after which a worker is taken for dead; the same for all workers.
    """

    database: PostgresURL
    lease: float = JOURNAL_LEASE

    def __str__(self) -> str:
        """Return what to call it in messages; it has no password."""
        database = self.database
        schema = "" if database.schema == SCHEMA else f" (schema {database.schema})"
        return f"the journal in {database.place}{schema}"


def parse_journal(place: str | os.PathLike[str], *, name: str = "journal") -> Path | JournalURL:
    """Return where a journal is: a file, or the URL of a PostgreSQL database.

    Args:
        place: a path, or `postgresql://..`, where `?schema=` names the schema.
        name: who gave it, for the error.

    Raises:
        ConfigurationError: it is the URL of something else, or an invalid one.
    """
    scheme = _SCHEME.match(os.fspath(place))
    if isinstance(place, str) and scheme is not None and scheme[0].endswith("//"):
        kind = scheme[1].lower()
        if kind in POSTGRES_SCHEMES:
            return JournalURL(parse_dsn(place, name=name))
        way_out = "name the file itself" if kind in ("sqlite", "file") else "name a file, or postgresql://host/database"
        raise ConfigurationError(f"{name}: no journal can be kept in {kind}://; {way_out}")
    if _ALMOST_URL.match(os.fspath(place)):  # it may have a password in it, so it is not shown
        raise ConfigurationError(
            f"{name}: write the URL of a database like postgresql://user@host/database, as text and not as a path"
        )
    return Path(place)
