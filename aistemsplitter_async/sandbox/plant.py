"""All parts of a running sandbox, put together in one place and taken down in the reverse order."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import tempfile
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from aistemsplitter_async.sandbox.control.control import PREFIX, Control
from aistemsplitter_async.sandbox.control.page import Page
from aistemsplitter_async.sandbox.http.api import API
from aistemsplitter_async.sandbox.http.cdn import CDN
from aistemsplitter_async.sandbox.http.deliveries import Deliveries
from aistemsplitter_async.sandbox.http.fetch import HTTPFetcher
from aistemsplitter_async.sandbox.http.injector import Injector
from aistemsplitter_async.sandbox.http.openapi import serve_description
from aistemsplitter_async.sandbox.http.origin import Origin
from aistemsplitter_async.sandbox.http.router import Front
from aistemsplitter_async.sandbox.http.worker import UploadWorker
from aistemsplitter_async.sandbox.service.jobs import Jobs
from aistemsplitter_async.sandbox.service.persistence import FileStore, NoStore, Store, remove_orphans
from aistemsplitter_async.sandbox.service.separator import ProcessSeparator, Separator, SilentSeparator
from aistemsplitter_async.sandbox.service.settings import Settings, build_accounts
from aistemsplitter_async.sandbox.service.sources import Fetcher, Sources
from aistemsplitter_async.sandbox.service.splits import Splits
from aistemsplitter_async.sandbox.service.state import Split, Upload
from aistemsplitter_async.sandbox.service.storage import Storage
from aistemsplitter_async.sandbox.service.timeline import SandboxClock, Timeline
from aistemsplitter_async.sandbox.service.uploads import Uploads

if TYPE_CHECKING:
    from aistemsplitter_async.sandbox.faults.rules import Faults
    from aistemsplitter_async.sandbox.service.account import Account
    from aistemsplitter_async.sandbox.service.ledger import Ledger


class Plant:
    """A running sandbox's parts."""

    def __init__(self, settings: Settings, clock: SandboxClock, ledger: Ledger, faults: Faults) -> None:
        self.settings = settings
        self.clock = clock
        self._files = None if settings.data is None else FileStore(settings.data)
        self._root = settings.data or Path(tempfile.mkdtemp(prefix="aistemsplitter-sandbox-"))
        self._store: Store = self._files or NoStore()
        signing_secret = self._recall("signing_secret", secrets.token_hex(32)).encode()
        self.accounts = build_accounts(settings, clock.monotonic())
        self.timeline = Timeline(clock)
        self.storage = Storage(self._root, settings.limits)
        separator: Separator = SilentSeparator() if settings.silent else ProcessSeparator(settings.limits)
        self._fetcher: Fetcher | None = None
        if not settings.silent:
            self._fetcher = HTTPFetcher(settings.limits, allow_private=settings.allow_private_urls)
        self.uploads = Uploads(
            clock=clock,
            storage=self.storage,
            ledger=ledger,
            separator=separator,
            store=self._store,
            limits=settings.limits,
            lifetimes=settings.lifetimes,
        )
        self.jobs = Jobs(
            clock=clock,
            timeline=self.timeline,
            separator=separator,
            storage=self.storage,
            progression=settings.progression,
            workers=settings.limits.separation_workers,
            random=Random(settings.seed),  # noqa: S311  chance of the model, not of secrets
            on_change=self._on_change,
        )
        self.splits = Splits(
            clock=clock,
            accounts={account.label: account for account in self.accounts.values()},
            sources=Sources(uploads=self.uploads, storage=self.storage, separator=separator, fetcher=self._fetcher),
            jobs=self.jobs,
            storage=self.storage,
            ledger=ledger,
            store=self._store,
            limits=settings.limits,
            lifetimes=settings.lifetimes,
            signing_secret=signing_secret,
        )
        self.deliveries = Deliveries(
            clock=clock,
            timeline=self.timeline,
            accounts={account.label: account for account in self.accounts.values()},
            splits=self.splits,
            faults=faults,
            ledger=ledger,
            store=self._store,
            limits=settings.limits,
            allow_private=settings.allow_private_urls,
        )
        self._driver: asyncio.Task[None] | None = None
        self.api_url = ""
        self._build_origins(ledger, faults, signing_secret)

    def _build_origins(self, ledger: Ledger, faults: Faults, signing_secret: bytes) -> None:
        injector = Injector(faults, self.clock)
        api = API(
            clock=self.clock,
            timeline=self.timeline,
            keys=self.accounts,
            uploads=self.uploads,
            splits=self.splits,
            ledger=ledger,
            injector=injector,
            minute=self.settings.minute,
            rate_styles=self.settings.rate_styles,
            max_json_bytes=self.settings.limits.max_json_bytes,
        )
        worker = UploadWorker(
            clock=self.clock,
            timeline=self.timeline,
            uploads=self.uploads,
            storage=self.storage,
            ledger=ledger,
            injector=injector,
            api_keys=self.accounts,
        )
        cdn = CDN(
            clock=self.clock,
            timeline=self.timeline,
            splits=self.splits,
            storage=self.storage,
            ledger=ledger,
            injector=injector,
            api_keys=self.accounts,
            signing_secret=signing_secret,
        )
        page = Page(control=self.settings.control)
        others = {"/": page.handle, "/openapi.json": serve_description}
        if self.settings.control:
            others[PREFIX] = Control(self, ledger, faults).handle
        self._api = Origin("api", Front(api.handle, others).handle, self.clock)
        self._worker = Origin("worker", worker.handle, self.clock)
        self._cdn = Origin("cdn", cdn.handle, self.clock)

    async def start(self) -> None:
        """Listen on all three origins and start the workers; raise `OSError` where the port is taken."""
        self._restore()
        ports: dict[str, int] = self._recall("ports", {})
        host, port = self.settings.host, self.settings.port
        # The ports of the last run, if they are free: addresses that were handed out then stay valid.
        self.uploads.origin = await self._worker.start(host, ports.get("worker", 0), fixed=False)
        self.splits.origin = await self._cdn.start(host, ports.get("cdn", 0), fixed=False)
        self.api_url = await self._api.start(host, port or ports.get("api", 0), fixed=bool(port))
        if self._files is not None:
            origins = {"api": self.api_url, "worker": self.uploads.origin, "cdn": self.splits.origin}
            self._files.save_note("ports", {name: urlsplit(url).port for name, url in origins.items()})
        self.jobs.start()
        self._driver = asyncio.create_task(self.timeline.drive())
        for split in self.splits:
            self.deliveries.announce(split)

    async def aclose(self) -> None:
        """Stop listening, then working; remove the folder unless it was given."""
        await asyncio.gather(self._api.aclose(), self._worker.aclose(), self._cdn.aclose())
        if self._driver is not None:
            self._driver.cancel()
            await asyncio.wait({self._driver})
        await self.jobs.aclose()
        await self.deliveries.aclose()
        if self._fetcher is not None:
            await self._fetcher.aclose()
        if self._files is not None:
            self._files.close()
        else:
            await asyncio.to_thread(shutil.rmtree, self._root, ignore_errors=True)

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass at once; raise `ValueError` where they are negative."""
        self.clock.advance(seconds)
        self.timeline.run_due()

    def set_balance(self, balance: int, label: str | None = None) -> Account:
        """Set the balance of an account, the first one where no label is given, and return it.

        Raises:
            KeyError: There is no such account.
            ValueError: The balance is negative.
        """
        if balance < 0:
            raise ValueError("a balance cannot be negative")
        accounts = {account.label: account for account in self.accounts.values()}
        account = accounts[next(iter(accounts)) if label is None else label]
        account.balance = balance
        self._store.save(account)
        return account

    def _recall(self, name: str, default: Any) -> Any:
        """Return what an earlier run noted, noting `default` where there was none."""
        if self._files is None:
            return default
        noted = self._files.load_note(name)
        if noted is None:
            self._files.save_note(name, default)
        return default if noted is None else noted

    def _restore(self) -> None:
        if self._files is None:
            return
        accounts = {account.label: account for account in self.accounts.values()}
        for label, balance in self._files.load_balances().items():
            if label in accounts:
                accounts[label].balance = balance
        uploads = self._files.load(Upload)
        splits = [split for split in self._files.load(Split) if split.account in accounts]
        known = {upload.id for upload in uploads} | {split.source for split in splits if not split.finished}
        remove_orphans(self._root / "sources", known)
        for upload in uploads:
            self.uploads.restore(upload)
        for split in splits:
            self.splits.restore(split)

    def _on_change(self, split: Split) -> None:
        if split.finished:
            self.splits.finish(split)
            self.deliveries.announce(split)
