"""The shared state of the service's parts: settings, time, accounts, ledger, database and disk."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Any

from aistemsplitter_async.sandbox.service.ledger import Ledger
from aistemsplitter_async.sandbox.service.persistence import Records, SQLiteRecords
from aistemsplitter_async.sandbox.service.separator import ProcessSeparator, Separator, SilentSeparator
from aistemsplitter_async.sandbox.service.settings import ServiceSettings, build_accesses
from aistemsplitter_async.sandbox.service.storage import Storage
from aistemsplitter_async.sandbox.service.timeline import SandboxClock, Timeline


class ServiceCore:
    """The base of `Service`, and the type under which its parts know the service.

    Raises:
        RuntimeError: Another sandbox uses the data folder, or the database in it is not a sandbox's.
    """

    def __init__(self, settings: ServiceSettings, clock: SandboxClock, ledger: Ledger) -> None:
        self.settings = settings
        self.clock = clock
        self.ledger = ledger
        self.timeline = Timeline(clock)
        self.records = Records() if settings.data is None else SQLiteRecords(settings.data)
        self._root = settings.data or Path(tempfile.mkdtemp(prefix="aistemsplitter-sandbox-"))
        self.storage = Storage(self._root, settings.limits)
        self.separator: Separator = SilentSeparator() if settings.silent else ProcessSeparator(settings.limits)
        self.accesses = build_accesses(settings, clock.monotonic())
        """By API key."""
        self.accounts_by_label = {access.account.label: access.account for access in self.accesses.values()}

    def recall(self, name: str, default: Any) -> Any:
        """Return the JSON value that an earlier run noted under `name`; note and return `default` if there is none."""
        noted = self.records.load_note(name)
        if noted is None:
            self.records.save_note(name, default)
            return default
        return noted

    async def close_storage(self) -> None:
        """Close the database, and remove the folder unless it is the `data` folder."""
        self.records.close()
        if self.settings.data is None:
            await asyncio.to_thread(shutil.rmtree, self._root, ignore_errors=True)
