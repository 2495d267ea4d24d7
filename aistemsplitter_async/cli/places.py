"""Where a journal is, as a command line and the environment say it. No password may be on a command line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from aistemsplitter_async.cli.paths import expand_path
from aistemsplitter_async.cli.values import parse_text
from aistemsplitter_async.config import JOURNAL_VARIABLE
from aistemsplitter_async.errors import ConfigurationError
from aistemsplitter_async.journal.place import JournalURL, parse_journal

Place = Path | JournalURL
_JOURNAL_NAME = ".aistemsplitter.journal"
PASSWORD_ELSEWHERE = f"set PGPASSWORD, write it to ~/.pgpass, or put the whole URL into {JOURNAL_VARIABLE}"
PASSWORD_IN_SIGHT = f"every user can see a password on a command line; leave it out there, and {PASSWORD_ELSEWHERE}"


def parse_place(text: str) -> Place:
    """Return where a journal is, as an option or an argument says it.

    Raises:
        ValueError: it is no such place, or there is a password in it.
    """
    try:
        place = parse_journal(parse_text(text), name="it")
    except ConfigurationError as error:
        raise ValueError(str(error).removeprefix("it: ")) from None
    if isinstance(place, Path):
        return expand_path(text)
    if place.database.has_password:
        raise ValueError(PASSWORD_IN_SIGHT)
    return place


def default_journal(into: Path) -> Path:
    """Return the path of the journal of a folder of stems."""
    return into / _JOURNAL_NAME


def find_journal(given: Place | None, into: Path, environment: Mapping[str, str]) -> Place:
    """Return the journal of a command: the given one, else the environment's, else that of the folder of stems.

    Raises:
        ConfigurationError: the environment's is none.
    """
    if given is not None:
        return find_password(given, environment)
    text = environment.get(JOURNAL_VARIABLE, "")
    return parse_journal(text, name=JOURNAL_VARIABLE) if text else default_journal(into)


def find_password(place: Place, environment: Mapping[str, str]) -> Place:
    """Return a place with the password that the environment has for it: in the URL of the same place, if in any.

    Raises:
        ConfigurationError: the environment's is none.
    """
    text = environment.get(JOURNAL_VARIABLE, "")
    if isinstance(place, Path) or not text:
        return place
    known = parse_journal(text, name=JOURNAL_VARIABLE)
    return known if isinstance(known, JournalURL) and name_of(known) == name_of(place) else place


def name_of(place: Place) -> str:
    """Return what to write on a command line for a place: the file's path, or the URL without a password."""
    return os.path.realpath(place) if isinstance(place, Path) else place.database.shown


def spell(place: Place) -> str | Path:
    """Return a place as `split_many` takes it, with its password: it is not to be shown."""
    return place if isinstance(place, Path) else place.database.url.reveal()
