"""What an Idempotency-Key means here: one key, one body, one charge.

- The same key with the same JSON body (compared as values, so key order and spacing do not count) gets the first
  request's answer, even while that one is still being handled.
- The same key with another body is refused with 422.
- A request that was refused leaves no trace, since nothing happened: its key can be used again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from enum import Enum, auto
from typing import Any

import attrs


class Answer(Enum):
    """What to do with a request that carries a key."""

    FRESH = auto()
    """The key is new: handle the request, then `settle` or `abandon`."""
    PENDING = auto()
    """The first request with it is being handled: wait, then ask again."""
    REPLAY = auto()
    """It led to a split: give the first answer again."""
    CONFLICT = auto()
    """It was used with another body."""


@attrs.define
class _Entry:
    fingerprint: str
    expires_at: float
    split_id: str | None = None


class IdempotencyMemory:
    """The keys one account has used, each for `lifetime` seconds."""

    def __init__(self, lifetime: float) -> None:
        self._lifetime = lifetime
        self._entries: dict[str, _Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def begin(self, key: str, fingerprint: str, now: float) -> tuple[Answer, str | None]:
        """Return what to do and, for a replay, the split's id. `FRESH` marks the key as being handled."""
        self._forget(now)
        entry = self._entries.get(key)
        if entry is None:
            self._entries[key] = _Entry(fingerprint, now + self._lifetime)
            return Answer.FRESH, None
        if entry.fingerprint != fingerprint:
            return Answer.CONFLICT, None
        if entry.split_id is None:
            return Answer.PENDING, None
        return Answer.REPLAY, entry.split_id

    def settle(self, key: str, split_id: str) -> None:
        """Remember the split that the request with `key` led to."""
        self._entries[key].split_id = split_id

    def abandon(self, key: str) -> None:
        """Forget a key whose request was refused."""
        self._entries.pop(key, None)

    def restore(self, key: str, fingerprint: str, split_id: str, created_at: float) -> None:
        """Put back a key that was settled at `created_at` by an earlier run."""
        self._entries[key] = _Entry(fingerprint, created_at + self._lifetime, split_id)

    def _forget(self, now: float) -> None:
        # All entries live equally long, so they are in the order of their expiry.
        while self._entries:
            key, entry = next(iter(self._entries.items()))
            if entry.expires_at > now or entry.split_id is None:
                return
            del self._entries[key]


def compute_fingerprint(body: Mapping[str, Any]) -> str:
    """Return a digest that is equal for two bodies exactly when their JSON values are."""
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
