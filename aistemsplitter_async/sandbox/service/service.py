"""The service behind the three origins, with all its parts. It knows nothing of HTTP: it takes and returns values."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable

from aistemsplitter_async._tasks import cancel_and_wait
from aistemsplitter_async.sandbox.service.account import Account
from aistemsplitter_async.sandbox.service.core import ServiceCore
from aistemsplitter_async.sandbox.service.jobs import Jobs
from aistemsplitter_async.sandbox.service.ledger import Ledger
from aistemsplitter_async.sandbox.service.limits import MOST_CREDITS
from aistemsplitter_async.sandbox.service.settings import ServiceSettings, build_access
from aistemsplitter_async.sandbox.service.sources import Fetcher, Sources
from aistemsplitter_async.sandbox.service.splits import Splits
from aistemsplitter_async.sandbox.service.state import Split, Upload
from aistemsplitter_async.sandbox.service.timeline import SandboxClock
from aistemsplitter_async.sandbox.service.uploads import Uploads


class Service(ServiceCore):
    """Accounts, uploads, splits and jobs on one timeline.

    `on_finished` is called with every split that ends, once that is saved.

    Raises:
        RuntimeError: Another sandbox uses the data folder, or the database in it is not a sandbox's.
    """

    def __init__(self, settings: ServiceSettings, clock: SandboxClock, ledger: Ledger, fetcher: Fetcher) -> None:
        super().__init__(settings, clock, ledger)
        self.uploads = Uploads(self)
        self.jobs = Jobs(self, on_change=self._on_change)
        self.splits = Splits(self, Sources(self, self.uploads, fetcher), self.jobs)
        self.on_finished: Callable[[Split], object] = lambda _: None
        self._driver: asyncio.Task[None] | None = None

    def restore(self) -> None:
        """Continue where an earlier run with the same data folder ended."""
        for label, balance in self.records.load_balances().items():
            if label in self.accounts_by_label:
                self.accounts_by_label[label].balance = balance
        uploads = self.records.load(Upload)
        splits = [split for split in self.records.load(Split) if split.account in self.accounts_by_label]
        self.storage.remove_orphans(
            {upload.id for upload in uploads} | {split.source for split in splits if not split.finished}
        )
        for upload in uploads:
            self.uploads.restore(upload)
        for split in splits:
            self.splits.restore(split)

    def start(self) -> None:
        """Start the separation workers and the timeline."""
        self.jobs.start()
        self._driver = asyncio.create_task(self.timeline.drive())

    async def aclose(self) -> None:
        """Stop the workers. Unfinished splits stay as they are, for a later run with the same data folder."""
        if self._driver is not None:
            await cancel_and_wait(self._driver)
        await self.jobs.aclose()
        await self.close_storage()

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass at once.

        Raises:
            ValueError: `seconds` is negative, or the time would be more than a century ahead.
        """
        self.clock.advance(seconds)
        self.timeline.run_due()

    def set_balance(self, balance: int, label: str | None = None) -> Account:
        """Set the balance of an account, the first one if no label is given, and return it.

        Raises:
            KeyError: There is no such account.
            ValueError: The balance is negative, or more than JSON numbers hold exactly.
        """
        if not 0 <= balance <= MOST_CREDITS:
            raise ValueError(f"a balance is a number from 0 to {MOST_CREDITS}")
        account = self.accounts_by_label[next(iter(self.accounts_by_label)) if label is None else label]
        account.balance = balance
        self.records.save(account)
        return account

    def rotate_key(self, label: str | None = None, *, revoke: bool = False) -> tuple[Account, str]:
        """Give an account, the first one if no label is given, a further API key; return both.

        Args:
            label: The account's.
            revoke: Whether its keys before stop working.

        Raises:
            KeyError: There is no such account.
        """
        account = self.accounts_by_label[next(iter(self.accounts_by_label)) if label is None else label]
        held = {key: access for key, access in self.accesses.items() if access.account is account}
        *_, newest = held.values()
        scope = f"rotation-{secrets.token_hex(4)}" if self.settings.idempotency_scope == "key" else ""
        new = f"ast_sandbox_{secrets.token_hex(16)}"
        self.accesses[new] = build_access(self.settings, account, newest.limit, self.clock.monotonic(), scope)
        if revoke:
            for key in held:
                del self.accesses[key]
        return account, new

    def _on_change(self, split: Split) -> None:
        if split.finished:
            self.splits.finish(split)
            self.on_finished(split)
