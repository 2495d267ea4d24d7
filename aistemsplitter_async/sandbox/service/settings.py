"""The service's settings as one value, and the accounts that follow from them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import attrs

from aistemsplitter_async.sandbox.service.account import Access, Account, SandboxKey
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
    idempotency_scope: Literal["account", "key"]
    seed: int | None


def build_accesses(settings: ServiceSettings, origin: float) -> dict[str, Access]:
    """Return what each API key gives access to; fixed windows are counted from monotonic time `origin`.

    Raises:
        ValueError: A limit is out of its range, or a key is given twice.
    """
    accesses: dict[str, Access] = {}
    for key in settings.keys:
        if key.api_key in accesses:
            raise ValueError("an API key was given twice")
        account = Account(
            label=f"key-{hashlib.sha256(key.api_key.encode()).hexdigest()[:8]}",
            balance=key.credits,
            keys=IdempotencyKeys(settings.lifetimes.idempotency_key),
            webhook_secret=key.webhook_secret,
        )
        accesses[key.api_key] = build_access(settings, account, key.requests_per_minute, origin)
    return accesses


def build_access(
    settings: ServiceSettings, account: Account, limit: int | None, origin: float, scope: str = ""
) -> Access:
    """Return the access of a key with that limit to an account. Raises like `build_accesses`."""
    if limit is None:
        return Access(account, None, None, scope)
    window = build_window(settings.window, limit=limit, minute=settings.minute, burst=settings.burst, origin=origin)
    return Access(account, limit, window, scope)
