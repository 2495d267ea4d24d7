"""Accounts: their credits and the idempotency keys they have used; and the API keys that give access to them."""

from __future__ import annotations

import math
import secrets

import attrs

from aistemsplitter_async.sandbox.service.errors import InsufficientCreditsError
from aistemsplitter_async.sandbox.service.idempotency import IdempotencyKeys
from aistemsplitter_async.sandbox.service.limits import MOST_CREDITS
from aistemsplitter_async.sandbox.service.window import Window


@attrs.frozen
class SandboxKey:
    """An API key that the sandbox accepts.

    Attributes:
        api_key: The bearer key; it must start with `ast_`.
        credits: Opening balance in seconds of audio.
        requests_per_minute: Its own limit; `None` for no limit.
        webhook_secret: Signs the webhooks of its splits; random if not given.
    """

    api_key: str = attrs.field(repr=False)
    credits: int = attrs.field(validator=[attrs.validators.ge(0), attrs.validators.le(MOST_CREDITS)])
    requests_per_minute: int | None = None
    webhook_secret: str = attrs.field(factory=lambda: f"whsec_{secrets.token_hex(16)}", repr=False, kw_only=True)

    @api_key.validator
    def _check_key(self, _attribute: object, value: str) -> None:
        if not value.startswith("ast_") or not value.isascii() or not value.isprintable() or " " in value:
            raise ValueError("an API key starts with ast_ and has printable ASCII characters only")


@attrs.define
class Account:
    """The state of one account. `label` names it in the ledger and on disk, so that no key appears in either."""

    label: str
    balance: int
    keys: IdempotencyKeys
    webhook_secret: str = attrs.field(repr=False)

    def charge(self, credits_needed: int) -> None:
        """Take credits for a split.

        Raises:
            InsufficientCreditsError: The balance is too small; nothing is taken.
        """
        missing = credits_needed - self.balance
        if missing > 0:
            raise InsufficientCreditsError(
                f"This split needs {credits_needed} credits and the balance is {self.balance}: {missing} are missing."
            )
        self.balance -= credits_needed

    def refund(self, credits_used: int) -> None:
        """Give back what a failed split had cost."""
        self.balance += credits_used


@attrs.frozen
class Access:
    """What an API key gives access to.

    Attributes:
        account: Perhaps with other keys too: those before and after a rotation.
        limit: The key's own limit, `None` for none.
        window: What has been used of that.
        scope: Which keys of the account know its idempotency keys: those of the same scope.
    """

    account: Account
    limit: int | None
    window: Window | None
    scope: str = ""


def compute_credits(seconds: float) -> int:
    """Return the price of audio of that length: one credit for each started second, at least one."""
    return max(1, math.ceil(seconds - 1e-6))  # 214.0000001 s is 214 s with a rounding error
