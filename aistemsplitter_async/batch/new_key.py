"""Lets a journal accept another API key of the same account, which is shown by a split that only that account sees."""

from __future__ import annotations

from http import HTTPStatus
from pathlib import Path

from aistemsplitter_async._engine import Engine
from aistemsplitter_async._send.reactions import is_outage
from aistemsplitter_async.errors import APIStatusError, JournalError
from aistemsplitter_async.journal.binding import NOT_PROVEN
from aistemsplitter_async.journal.journal import Journal
from aistemsplitter_async.journal.place import JournalURL
from aistemsplitter_async.journal.store import JournalStore

_ASKED = 5  # newest splits that are asked for: one may be gone, and older ones sooner
_UNSEEN = frozenset({HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.GONE})


async def open_journal(place: Path | JournalURL | None, engine: Engine, *, new_key: bool) -> Journal:
    """Open a batch's journal, bound to the engine's key; with `new_key`, to a new one of the same account.

    Raises:
        JournalError: like `Journal.open` and `accept_key`.
        AIStemSplitterError: like `accept_key`.
    """
    if not new_key:
        return await Journal.open(place, owner=engine.owner)
    journal = await Journal.open(place, owner=None)
    try:
        await accept_key(journal, engine)
        await journal.write(JournalStore.bind, engine.owner)
    except BaseException:
        await journal.aclose()
        raise
    return journal


async def accept_key(journal: Journal, engine: Engine) -> None:
    """Let the journal, which is open and not bound, accept the engine's key, if it is of the same account.

    Raises:
        JournalError: that could not be shown (`code` is `NOT_PROVEN`).
        AIStemSplitterError: the API refused the key itself, or could not be asked; nothing was changed.
    """
    proofs = await journal.write(JournalStore.find_proofs, engine.owner, _ASKED)
    if proofs is None:
        return
    if proofs and not await _sees_one(engine, proofs):
        raise JournalError(
            f"this API key does not see what {journal.place} has paid for last, such as {proofs[0]}, so it is another "
            "account's, or that is gone at the service. Use the key the journal was started with, or another of its "
            "account; with another journal, what it has is paid for again",
            code=NOT_PROVEN,
        )
    await journal.write(JournalStore.accept_key, engine.owner["key"], proven=bool(proofs))


async def _sees_one(engine: Engine, splits: list[str]) -> bool:
    for split_id in splits:
        try:
            await engine.get_split(split_id)
        except APIStatusError as error:
            if error.status_code not in _UNSEEN or is_outage(error):
                raise
        else:
            return True
    return False
