"""The sandbox as one object: `Sandbox` starts the three origins, and stops everything it started."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

import attrs
from anyio import CancelScope

from aistemsplitter_async.clock import Clock, SystemClock
from aistemsplitter_async.sandbox.faults.rules import Faults
from aistemsplitter_async.sandbox.http.rate_headers import parse_styles
from aistemsplitter_async.sandbox.origins import Origins, Settings
from aistemsplitter_async.sandbox.service.account import SandboxKey
from aistemsplitter_async.sandbox.service.ledger import Ledger
from aistemsplitter_async.sandbox.service.limits import CREDITS, MINUTE, REQUESTS_PER_MINUTE, Lifetimes, Limits
from aistemsplitter_async.sandbox.service.persistence import remember_secret
from aistemsplitter_async.sandbox.service.progression import Instant, Manual, Progression, Timed
from aistemsplitter_async.sandbox.service.settings import build_accesses
from aistemsplitter_async.sandbox.service.state import Status
from aistemsplitter_async.sandbox.service.timeline import SandboxClock


class Sandbox:
    """The AIStemSplitter API on this machine, for the duration of an `async with`.

    Args:
        host: Address to listen on.
        port: Port of the API; 0 takes any free one, as upload worker and CDN always do.
        api_key: The key to accept, which starts with `ast_`; random if not given.
        credits: Its opening balance in seconds of audio.
        requests_per_minute: Its limit; `None` for no limit.
        minute: Length of the limit's window in seconds.
        window: Policy of the limit: `fixed`, `sliding`, `counter` or `bucket`.
        burst: Size of a `bucket`; as large as the limit if not given.
        rate_headers: What answers say about the limit: `retry-after` (on a 429), `ratelimit`, `x-ratelimit` (on every
            answer), several of them joined with commas, or `none`.
        webhook_secret: Signs the webhooks of its splits; random if not given.
        keys: Further keys, each with its own limit and credits.
        separation: `real` separates the audio in a child process (extra `sandbox`); `silent` answers at once with tiny
            valid files of silence and fetches no `direct_url`: its length is 180 s, or what `?seconds=` in it says.
        progression: When a split moves on: `Instant()`, `Timed(...)` or `Manual()`.
        allow_private_urls: Fetch `direct_url` sources from private networks too.
        control: Answer at `/control/` beside the API.
        data: Folder to keep everything in, so that the next start continues where this one ended, with the same
            balances (`credits` is ignored then) and the same random key; by default a temporary folder.
        idempotency_scope: Whether the keys of one `account` share their idempotency keys, or each `key` has its own.
        limits: Caps on sizes and counts.
        lifetimes: How long reservations, files, addresses and idempotency keys stay valid.
        seed: Makes jitter and the probabilities of faults repeatable.
        clock: The time; `advance` moves the sandbox's own forward.

    Raises:
        ValueError: An argument is out of its range.
        TypeError: `progression` is none of the three.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        api_key: str | None = None,
        credits: int = CREDITS,  # noqa: A002  the API's own noun
        requests_per_minute: int | None = REQUESTS_PER_MINUTE,
        minute: float = MINUTE,
        window: str = "sliding",
        burst: int | None = None,
        rate_headers: str = "retry-after",
        webhook_secret: str | None = None,
        keys: Sequence[SandboxKey] = (),
        separation: Literal["real", "silent"] = "real",
        progression: Progression | None = None,
        allow_private_urls: bool = False,
        control: bool = True,
        data: str | Path | None = None,
        limits: Limits | None = None,
        lifetimes: Lifetimes | None = None,
        idempotency_scope: Literal["account", "key"] = "account",
        seed: int | None = None,
        clock: Clock | None = None,
    ) -> None:
        if separation not in ("real", "silent"):
            raise ValueError("separation must be real or silent")
        if idempotency_scope not in ("account", "key"):
            raise ValueError("idempotency_scope must be account or key")
        if not isinstance(progression, Instant | Manual | Timed | None):
            raise TypeError(f"progression must be Instant(), Timed(...) or Manual(), not {progression!r}")
        self._made_up = frozenset(
            name for name, given in (("api-key", api_key), ("webhook-secret", webhook_secret)) if given is None
        )
        own = SandboxKey(
            api_key or f"ast_sandbox_{secrets.token_hex(16)}",
            credits,
            requests_per_minute,
            webhook_secret=webhook_secret or f"whsec_{secrets.token_hex(16)}",
        )
        self._settings = Settings(
            host=host,
            port=port,
            keys=(own, *keys),
            minute=minute,
            window=window,
            burst=burst,
            rate_styles=parse_styles(rate_headers),
            silent=separation == "silent",
            progression=Instant() if progression is None else progression,
            allow_private_urls=allow_private_urls,
            control=control,
            data=None if data is None else Path(data),
            limits=limits or Limits(),
            lifetimes=lifetimes or Lifetimes(),
            idempotency_scope=idempotency_scope,
            seed=seed,
        )
        build_accesses(self._settings, 0.0)  # to refuse bad limits here rather than at the start
        self.clock = SandboxClock(clock or SystemClock())
        self.ledger = Ledger(self._settings.limits.ledger_requests)
        self.faults = Faults(seed)
        self._origins: Origins | None = None

    @property
    def api_key(self) -> str:
        """The first key it accepts. With `data` and without `api_key` it is known once the sandbox has started."""
        return self._own_key.api_key

    @property
    def webhook_secret(self) -> str:
        """The secret that signs the webhooks of the first key's splits; known when `api_key` is."""
        return self._own_key.webhook_secret

    @property
    def keys(self) -> tuple[SandboxKey, ...]:
        """All keys it accepts, as they were given."""
        return self._settings.keys

    @property
    def base_url(self) -> str:
        """The base URL for a client: `http://127.0.0.1:PORT/v1`."""
        return f"{self._running.addresses.api}/v1"

    @property
    def worker_url(self) -> str:
        """Address of the upload worker."""
        return self._running.addresses.worker

    @property
    def cdn_url(self) -> str:
        """Address of the CDN."""
        return self._running.addresses.cdn

    @property
    def credits(self) -> int:
        """Balance of the first key's account in seconds of audio."""
        return next(iter(self._running.service.accounts_by_label.values())).balance

    def set_credits(self, balance: int, api_key: str | None = None) -> None:
        """Set the balance of a key, the first one if none is given.

        Raises:
            KeyError: There is no such key.
            ValueError: The balance is negative, or more than JSON numbers hold exactly.
        """
        service = self._running.service
        service.set_balance(balance, None if api_key is None else service.accesses[api_key].account.label)

    def rotate_key(self, api_key: str | None = None, *, revoke: bool = False) -> str:
        """Give the account of a key, the first one if none is given, a further key, and return that.

        It has the same credits and splits, and a limit of its own. It lasts as long as the sandbox runs.

        Args:
            api_key: One of the account's keys.
            revoke: Whether its keys before stop working.

        Raises:
            KeyError: There is no such key.
        """
        service = self._running.service
        label = None if api_key is None else service.accesses[api_key].account.label
        return service.rotate_key(label, revoke=revoke)[1]

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass at once: windows move on, splits finish, reservations and addresses expire.

        Raises:
            ValueError: `seconds` is negative, or the time would be more than a century ahead.
        """
        self._running.service.advance(seconds)

    async def step(self, split_id: str) -> Status:
        """Advance a split of a `Manual` progression by one status and return the status.

        Raises:
            KeyError: There is no unfinished split with that id.
        """
        return await self._running.service.jobs.step(split_id)

    async def start(self) -> None:
        """Start listening.

        Raises:
            OSError: The port is taken.
            RuntimeError: It is running already, or another sandbox uses the `data` folder.
        """
        if self._origins is not None:
            raise RuntimeError("this sandbox is running already")
        self._remember_secrets()
        if self._settings.data is not None:
            self._settings.data.mkdir(parents=True, exist_ok=True)
        self._origins = Origins(self._settings, self.clock, self.ledger, self.faults)
        try:
            await self._origins.start()
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Stop everything and remove the temporary folder; closing twice is fine."""
        origins, self._origins = self._origins, None
        if origins is not None:
            with CancelScope(shield=True):  # a cancelled scope of anyio would cancel each await in here too
                await origins.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _remember_secrets(self) -> None:
        """Use the random secrets of the data folder; the first run writes its own there."""
        data, (own, *further) = self._settings.data, self._settings.keys
        if data is None or not self._made_up:
            return
        if "api-key" in self._made_up:
            own = attrs.evolve(own, api_key=remember_secret(data, "api-key", own.api_key))
        if "webhook-secret" in self._made_up:
            secret = remember_secret(data, "webhook-secret", own.webhook_secret)
            own = attrs.evolve(own, webhook_secret=secret)
        self._settings = attrs.evolve(self._settings, keys=(own, *further))
        self._made_up = frozenset()

    @property
    def _own_key(self) -> SandboxKey:
        if self._made_up and self._settings.data is not None:
            _ = self._running  # only the start reads the secrets in the data folder
        return self._settings.keys[0]

    @property
    def _running(self) -> Origins:
        if self._origins is None:
            raise RuntimeError("this sandbox is not running: use `async with Sandbox() as sandbox`")
        return self._origins
