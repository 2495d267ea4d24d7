"""The commands `journal move` and `journal export`."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from aistemsplitter_async.cli.options import AsJournal, AsPath, JournalPlace, Verbosity
from aistemsplitter_async.cli.places import find_password
from aistemsplitter_async.cli.refusals import refuse, start
from aistemsplitter_async.config import JOURNAL_VARIABLE
from aistemsplitter_async.errors import ConfigurationError

journal: App = App(
    name="journal",
    help="Move what a journal knows to another place, or write it as text.",
    help_epilogue=(
        "A place is a file, or postgresql://user@host/database?schema=name. Its password is not for the command line: "
        f"set PGPASSWORD, write it to ~/.pgpass, or put the whole URL into {JOURNAL_VARIABLE}."
    ),
)
QUIET = Verbosity()


@journal.command(name="move")
def move_journal(
    source: Annotated[
        JournalPlace, AsJournal, Parameter(name="SOURCE", help="The journal: a file, or the URL of a database.")
    ],
    target: Annotated[
        JournalPlace,
        AsJournal,
        Parameter(name="TARGET", help="Where it goes: a file or schema that has no journal yet."),
    ],
    /,
    *,
    verbosity: Verbosity = QUIET,
) -> int:
    """Move a journal from a file to PostgreSQL, or back.

    No batch may run on it. Runs on SOURCE are refused from then on, and name TARGET.

    If it is interrupted, even by a power cut, the same command finishes it.
    """
    try:
        known = find_password(source, os.environ), find_password(target, os.environ)
    except ConfigurationError as error:
        return refuse(str(error), "journal", "move")
    from aistemsplitter_async.cli.commands import journal as module  # noqa: PLC0415

    return start(partial(module.move_journal, *known, os.environ), verbosity)


@journal.command(name="export")
def export_journal(
    place: Annotated[
        JournalPlace, AsJournal, Parameter(name="JOURNAL", help="The journal: a file, or the URL of a database.")
    ],
    /,
    *,
    form: Annotated[
        Literal["jsonl", "csv"], Parameter(name="--format", help="One JSON object a line, or a table.")
    ] = "jsonl",
    output: Annotated[
        Path | None, AsPath, Parameter(help="File to write, replaced once it is complete; stdout if not given.")
    ] = None,
    verbosity: Verbosity = QUIET,
) -> int:
    """Write what a journal knows of every song, also while a batch runs on it. Nothing is changed."""
    try:
        known = find_password(place, os.environ)
    except ConfigurationError as error:
        return refuse(str(error), "journal", "export")
    from aistemsplitter_async.cli.commands import journal as module  # noqa: PLC0415

    return start(partial(module.export_journal, known, form, output), verbosity)
