"""Whose splits a journal has: those of one account of one API, whatever keys it has had. It blocks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from aistemsplitter_async._wire.credentials import identify_api
from aistemsplitter_async.errors import JournalError
from aistemsplitter_async.journal.claims import Claims
from aistemsplitter_async.journal.database import Database
from aistemsplitter_async.journal.place import JournalURL
from aistemsplitter_async.journal.record import State
from aistemsplitter_async.journal.workers import describe_workers

GATE: Final = "gate"  # the note that keeps what is known of the key's limit, and the slots in use
OTHER_KEY: Final = "OTHER_KEY"  # the code of a journal that was started with another key
NOT_PROVEN: Final = "NOT_PROVEN"  # the code of a key that is not shown to be of the journal's account
KEY_IN_USE: Final = "KEY_IN_USE"  # the code of a key that others on a shared journal do not have
_KEY: Final = "key"  # the note of the key in use; as a fingerprint, like the next
_KEYS: Final = "keys"  # that of all keys that were shown to be of one account, as a JSON list


class Binding(Claims):
    """Whose splits these are: the middle of `JournalStore`."""

    place: Path | JournalURL | None

    def __init__(self, db: Database) -> None:
        super().__init__(db)
        self._key: str | None = None  # that of this run

    def bind(self, owner: Mapping[str, str]) -> None:
        """Note whose splits these are, or check that they are this owner's.

        As long as nothing was uploaded or created, the journal is not bound: a key that was mistyped at first can be
        corrected. All workers of a shared one use the same key.

        Raises:
            JournalError: the journal belongs to another API or another key (`code` is `OTHER_KEY`), or other workers of
                a shared one use another one now (`code` is `KEY_IN_USE`).
        """
        self._key = owner.get(_KEY)
        for name, value in owner.items():
            known = self.swap_note(name, None, value)
            if known == value or (name == "api" and identify_api(known) == value):
                continue
            is_begun, is_known = self._is_begun(), name == _KEY and value in self._known_keys()
            if is_begun and not is_known:
                raise self._build_refusal(name, known)
            self._check_alone()
            if is_begun:
                self._use_key(value)
                continue
            self._drop_gate()
            if name == _KEY and not is_known:
                self._db.execute("DELETE FROM meta WHERE name = ?", _KEYS)
            self.set_note(name, value)

    def find_proofs(self, owner: Mapping[str, str], most: int) -> list[str] | None:
        """Return up to `most` splits, the newest first, of which a key of the same account sees one.

        None are returned if nothing was paid for, so that nothing is to be shown, and `None` if the owner needs no
        proof, or is one of another API.

        Raises:
            JournalError: creates may have been paid for, and there is no split to ask for (`code` is `NOT_PROVEN`).
        """
        is_of_api = identify_api(self.note("api") or "") == owner["api"]
        if not self._is_begun() or not is_of_api or owner[_KEY] in self._known_keys():
            return None
        rows = self._db.rows(
            "SELECT split_id FROM tracks WHERE split_id IS NOT NULL GROUP BY split_id "
            "ORDER BY max(created_at) DESC, max(id) DESC LIMIT ?",
            most,
        )
        splits = [str(split_id) for (split_id,) in rows]
        if not splits and (count := self._count_open_creates()):
            raise JournalError(
                f"{self.place} was started with another API key, and has no split yet by which a new key of the same "
                f"account could be recognised, only {count} create{'s' * (count != 1)} without an answer. Run it once "
                "with the key it was started with; with another journal, these may be paid for twice",
                code=NOT_PROVEN,
            )
        return splits

    def accept_key(self, key: str, *, proven: bool) -> None:
        """Use a key, and note that it is of the same account as those before, if that is proven; else forget those.

        Raises:
            JournalError: other workers of a shared journal use another one now (`code` is `KEY_IN_USE`).
        """
        self._check_alone()
        self.set_note(_KEYS, json.dumps(sorted({key, *(self._known_keys() if proven else ())})))
        self._use_key(key)

    def sender(self) -> str | None:
        """Return the key that creates are sent with now."""
        return self._key or self.note(_KEY)

    def _use_key(self, key: str) -> None:
        """Forget what belongs to the key before: its limit and slots, and uploads, which cost nothing."""
        self._key = key
        self.set_note(_KEY, key)
        self._drop_gate()
        self._db.execute(
            "UPDATE tracks SET state = ?, input = NULL, expires_at = NULL WHERE state = ? AND expires_at IS NOT NULL",
            *(State.FOUND, State.UPLOADED),
        )

    def _drop_gate(self) -> None:
        self._db.execute("DELETE FROM meta WHERE name = ?", GATE)

    def _known_keys(self) -> set[str]:
        return {*json.loads(self.note(_KEYS) or "[]"), *filter(None, [self.note(_KEY)])}

    def _is_begun(self) -> bool:
        return self._db.row("SELECT 1 FROM tracks WHERE state != ? LIMIT 1", State.FOUND) is not None

    def _count_open_creates(self) -> int:
        states = State.INTENT, State.UNCERTAIN, State.NEEDS_REVIEW
        row = self._db.row("SELECT count(*) FROM tracks WHERE state IN (?, ?, ?)", *states)
        return 0 if row is None else int(row[0])

    def _check_alone(self) -> None:
        """Check that no other worker uses the key: its uploads, and the creates it sends, would be taken for ours."""
        others = [worker for worker in self._db.workers() if not worker.is_me]
        if others:
            raise JournalError(
                f"{self.place} is in use with another API key by {describe_workers(others)}; give all workers the same "
                "key, or stop those first",
                code=KEY_IN_USE,
            )

    def _build_refusal(self, name: str, known: str) -> JournalError:
        if name != _KEY:
            return JournalError(
                f"{self.place} belongs to another API ({known}); use the one it was started with: with another "
                "journal, what it has is paid for again"
            )
        return JournalError(
            f"{self.place} belongs to another API key; use the one it was started with or, if that was replaced by a "
            "new key of the same account, new_key=True (--new-key). With another journal, what it has is paid for "
            "again",
            code=OTHER_KEY,
        )
