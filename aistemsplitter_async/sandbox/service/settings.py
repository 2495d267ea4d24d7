"""What a sandbox was asked to be, as one value, and the accounts that follow from it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import attrs

from aistemsplitter_async.sandbox.service.account import Account, SandboxKey
from aistemsplitter_async.sandbox.service.idempotency import IdempotencyMemory
from aistemsplitter_async.sandbox.service.limits import Lifetimes, Limits
from aistemsplitter_async.sandbox.service.progression import Progression
from aistemsplitter_async.sandbox.service.window import build_window


@attrs.frozen(kw_only=True)
class Settings:
    """What a sandbox was asked to be; `Sandbox` documents each."""

    host: str
    port: int
    keys: tuple[SandboxKey, ...]
    minute: float
    window: str
    burst: int | None
    rate_styles: frozenset[str]
    control: bool
    silent: bool
    progression: Progression
    allow_private_urls: bool
    data: Path | None
    limits: Limits
    lifetimes: Lifetimes
    seed: int | None


def build_accounts(settings: Settings, origin: float) -> dict[str, Account]:
    """Return the accounts by API key; raise `ValueError` for a limit out of range or a key given twice."""
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
            keys=IdempotencyMemory(settings.lifetimes.idempotency_key),
            webhook_secret=key.webhook_secret,
        )
    return accounts
