"""The service's settings as one value, and the accounts that follow from them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import attrs

from aistemsplitter_async.sandbox.service.account import Account, SandboxKey
from aistemsplitter_async.sandbox.service.idempotency import IdempotencyKeys
from aistemsplitter_async.sandbox.service.limits import Lifetimes, Limits
from aistemsplitter_async.sandbox.service.progression import Progression
from aistemsplitter_async.sandbox.service.window import build_window


@attrs.frozen(kw_only=True)
class ServiceSettings:
    """The service's part of the settings; `Sandbox` documents each."""

    keys: tuple[SandboxKey, ...]
    minute: float
    window: str
    burst: int | None
    silent: bool
    progression: Progression
    data: Path | None
    limits: Limits
    lifetimes: Lifetimes
    seed: int | None


def build_accounts(settings: ServiceSettings, origin: float) -> dict[str, Account]:
    """Return the accounts by API key; fixed windows are counted from monotonic time `origin`.

    Raises:
        ValueError: A limit is out of its range, or a key is given twice.
    """
    accounts: dict[str, Account] = {}
    for key in settings.keys:
        if key.api_key in accounts:
            raise ValueError("an API key was given twice")
        limit = key.requests_per_minute
        window = None
        if limit is not None:
            window = build_window(
                settings.window, limit=limit, minute=settings.minute, burst=settings.burst, origin=origin
            )
        accounts[key.api_key] = Account(
            label=f"key-{hashlib.sha256(key.api_key.encode()).hexdigest()[:8]}",
            balance=key.credits,
            window=window,
            keys=IdempotencyKeys(settings.lifetimes.idempotency_key),
            webhook_secret=key.webhook_secret,
        )
    return accounts
