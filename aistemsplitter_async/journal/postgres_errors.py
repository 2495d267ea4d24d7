"""What PostgreSQL refuses, in this package's words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aistemsplitter_async._databases.postgres import is_permanent, redact
from aistemsplitter_async.errors import JournalError
from aistemsplitter_async.journal.place import JournalURL
from aistemsplitter_async.journal.seal import SEALED, SEALED_STATE
from aistemsplitter_async.journal.tables import DOWN, UNFIT

if TYPE_CHECKING:
    from psycopg import Error

# Serialization, deadlock, lock not available, unique (another worker was quicker), no room for locks, timeout.
COLLISIONS: Final = frozenset({"40001", "40P01", "55P03", "23505", "53200", "57014"})
_DISK_FULL: Final = "53100"
_NO_RIGHT: Final = "42501"
_GONE: Final = ("42P01", "3F000")  # no such table, no such schema


def explain(error: Error, place: JournalURL) -> JournalError:
    """Return this package's error for one of psycopg's."""
    state = error.sqlstate
    text = redact(error, place.database)
    if state == SEALED_STATE:
        return JournalError(str(error.diag.message_primary), code=SEALED)
    if state == _DISK_FULL:
        return JournalError(f"cannot write {place}: the server's disk is full", code="DISK")
    if state == _NO_RIGHT:
        return JournalError(
            f"{place} cannot be used by this user: {text}. Let a user who may create schemas open it once, "
            f"then grant this one USAGE on the schema {place.database.schema}, and SELECT, INSERT, UPDATE and DELETE "
            "on its tables",
            code=UNFIT,
        )
    if state in _GONE:
        return JournalError(
            f"{place} has lost its tables ({text}); restore them: without them, every split is paid for again",
            code=UNFIT,
        )
    if state in COLLISIONS:
        return JournalError(f"{place} is too busy: {text}", code=DOWN)
    if state is not None and not state.startswith(("08", "53", "57")):
        return JournalError(f"{place} refused: {text}", code=UNFIT if is_permanent(error) else None)
    permanent = state is None and is_permanent(error)
    return JournalError(f"cannot reach {place}: {text}", code=UNFIT if permanent else DOWN)
