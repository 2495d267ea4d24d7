"""The rules of an Idempotency-Key: one key, one body, one charge.

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
    """The key is new: handle the request, then `complete` or `abandon`."""
    PENDING = auto()
    """The first request with it is being handled: wait, then ask again."""
    REPLAY = auto()
    """It led to a split: give the first answer again."""
    CONFLICT = auto()
    """It was used with another body."""


@attrs.define
class _UsedKey:
    fingerprint: str
    expires_at: float
    split_id: str | None = None


class IdempotencyKeys:
    """The keys one account has used, each for `lifetime` seconds."""

    def __init__(self, lifetime: float) -> None:
        self._lifetime = lifetime
        self._used: dict[str, _UsedKey] = {}

    def __len__(self) -> int:
        return len(self._used)

    def begin(self, key: str, fingerprint: str, now: float) -> tuple[Answer, str | None]:
        """Return what to do and, for a replay, the split's id. `FRESH` marks the key as being handled."""
        self._forget(now)
        used = self._used.get(key)
        if used is None:
            self._used[key] = _UsedKey(fingerprint, now + self._lifetime)
            return Answer.FRESH, None
        if used.fingerprint != fingerprint:
            return Answer.CONFLICT, None
        if used.split_id is None:
            return Answer.PENDING, None
        return Answer.REPLAY, used.split_id

    def complete(self, key: str, split_id: str) -> None:
        """Remember the split that the request with `key` led to."""
        self._used[key].split_id = split_id

    def abandon(self, key: str) -> None:
        """Forget a key whose request was refused."""
        self._used.pop(key, None)

    def restore(self, key: str, fingerprint: str, split_id: str, created_at: float) -> None:
        """Restore a key that an earlier run completed at `created_at`."""
        self._used[key] = _UsedKey(fingerprint, created_at + self._lifetime, split_id)

    def _forget(self, now: float) -> None:
        # All keys live equally long, so they are in the order of their expiry.
        while self._used:
            key, used = next(iter(self._used.items()))
            if used.expires_at > now or used.split_id is None:
                return
            del self._used[key]


def compute_fingerprint(body: Mapping[str, Any]) -> str:
    """Return a digest that is equal for two bodies exactly when their JSON values are."""
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
