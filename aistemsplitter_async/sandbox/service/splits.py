"""Splits: created once per idempotency key and charged, polled, finished, and finally forgotten.

Credits are taken at creation, when the length of the audio is known, and refunded when a split fails. A create that
is refused costs nothing and leaves nothing behind, not even its idempotency key.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Iterator

from aistemsplitter_async.sandbox.faults.requests import FailedSplit, NeverFinishing
from aistemsplitter_async.sandbox.faults.rules import Injection
from aistemsplitter_async.sandbox.service.account import Access, Account, compute_credits
from aistemsplitter_async.sandbox.service.core import ServiceCore
from aistemsplitter_async.sandbox.service.errors import InvalidRequestError, NotFoundError
from aistemsplitter_async.sandbox.service.idempotency import Answer
from aistemsplitter_async.sandbox.service.jobs import Jobs
from aistemsplitter_async.sandbox.service.requests import CreateRequest
from aistemsplitter_async.sandbox.service.sources import Sources
from aistemsplitter_async.sandbox.service.state import Attempt, Delivery, DeliveryState, Split, SplitError, Status


class Splits:
    """All splits."""

    def __init__(self, core: ServiceCore, sources: Sources, jobs: Jobs) -> None:
        self._core = core
        self._sources = sources
        self._jobs = jobs
        self._splits: dict[str, Split] = {}
        self._finished: deque[Split] = deque()
        self._pending: dict[tuple[str, str], asyncio.Event] = {}

    async def create(self, access: Access, request: CreateRequest, injection: Injection) -> Split:
        """Return the new split, or the one that an earlier create with the same idempotency key made.

        Raises:
            InvalidRequestError: The source cannot be used, or the key was used with another body.
            InsufficientCreditsError: The balance does not cover the split.
            StorageFullError: There is no space for the source.
        """
        account, key = access.account, request.idempotency_key
        if key is None:
            return await self._create(access, request, injection)
        key = _scoped(access.scope, key)
        while True:
            answer, split_id = account.keys.begin(key, request.fingerprint, self._core.clock.now())
            match answer:
                case Answer.CONFLICT:
                    raise InvalidRequestError("This Idempotency-Key was used with a different body.")
                case Answer.PENDING:
                    await self._pending[account.label, key].wait()
                case Answer.REPLAY:
                    split = self._splits[str(split_id)]
                    self._core.ledger.add_replay(split.id, request.digest)
                    return split
                case Answer.FRESH:
                    return await self._create_under_key(access, request, injection, key)

    def poll(self, account: Account, split_id: str) -> Split:
        """Return the split, and count this as a poll.

        Raises:
            NotFoundError: This account has no such split.
        """
        split = self._splits.get(split_id)
        if split is None or split.account != account.label:
            raise NotFoundError("There is no such split.")
        split.polls += 1
        if split.finished and split.first_seen_at is None:
            split.first_seen_at = self._core.clock.now()
        return split

    def find(self, split_id: str) -> Split | None:
        """Return the split with that id."""
        return self._splits.get(split_id)

    def __len__(self) -> int:
        return len(self._splits)

    def __iter__(self) -> Iterator[Split]:
        """Every split, oldest first."""
        return iter(self._splits.values())

    def finish(self, split: Split) -> None:
        """Settle a split that just ended: refund a failed one, release its source, queue its webhook."""
        account = self._core.accounts_by_label[split.account]
        if split.status is Status.FAILED:
            account.refund(split.credits)
            self._core.ledger.add_refund(split)
        upload = self._sources.find_upload(split.upload_id)
        if upload is not None:
            upload.running -= 1
        elif split.source:
            self._core.storage.drop_source(split.source)
        if split.webhook_url is not None:
            split.delivery = Delivery()
        self._finished.append(split)
        self._core.records.save(split, account)

    def add_attempt(self, split: Split, attempt: Attempt, state: DeliveryState) -> int:
        """Record an attempt to deliver a split's webhook; return how many there were, 0 for a forgotten split."""
        if split.delivery is None or self._splits.get(split.id) is not split:
            return 0
        split.delivery.attempts += (attempt,)
        split.delivery.state = state
        self._core.records.save(split)
        return len(split.delivery.attempts)

    def sweep(self) -> None:
        """Delete stems whose lifetime is over, and forget the oldest finished splits beyond the cap."""
        settings, storage = self._core.settings, self._core.storage
        over = self._core.clock.now() - settings.lifetimes.stems
        most = settings.limits.max_splits
        while self._finished and (self._finished[0].updated_at <= over or len(self._splits) >= most):
            split = self._finished.popleft()
            if storage.holds(split.id):  # silent stems have no files, and searching the disk is the expensive part
                storage.drop_stems(split.id)
            del self._splits[split.id]
            self._core.records.forget(split)
            if split.idempotency_key is not None:
                self._core.accounts_by_label[split.account].keys.abandon(
                    _scoped(split.key_scope, split.idempotency_key)
                )

    def restore(self, split: Split) -> None:
        """Restore a split of an earlier run; an unfinished one starts over."""
        storage = self._core.storage
        self._splits[split.id] = split
        self._core.ledger.add_charge(split)
        if split.idempotency_key is not None and split.fingerprint is not None:
            keys = self._core.accounts_by_label[split.account].keys
            keys.restore(_scoped(split.key_scope, split.idempotency_key), split.fingerprint, split.id, split.created_at)
        if split.finished:
            self._finished.append(split)
            if storage.stem_folder(split.id).exists():
                storage.book(split.id, sum(stem.size_bytes for stem in split.stems))
            if split.status is Status.FAILED:
                self._core.ledger.add_refund(split)
            return
        storage.drop_stems(split.id)
        upload = self._sources.find_upload(split.upload_id)
        if upload is not None:
            upload.running += 1
        elif split.source:
            source = storage.source_path(split.source)
            storage.book(split.source, source.stat().st_size if source.exists() else 0)
        self._jobs.submit(split)

    async def _create_under_key(self, access: Access, request: CreateRequest, injection: Injection, key: str) -> Split:
        account = access.account
        handled = self._pending[account.label, key] = asyncio.Event()
        try:
            split = await self._create(access, request, injection)
            account.keys.complete(key, split.id)
        except BaseException:
            account.keys.abandon(key)
            raise
        finally:
            del self._pending[account.label, key]
            handled.set()
        return split

    async def _create(self, access: Access, request: CreateRequest, injection: Injection) -> Split:
        account = access.account
        self.sweep()
        wanted = request.split
        split_id = f"split_{secrets.token_hex(12)}"
        source = await self._sources.obtain(account, wanted.source, split_id)
        now = self._core.clock.now()
        split = Split(
            id=split_id,
            account=account.label,
            filename=source.filename,
            stem_model=wanted.stem_model,
            output_format=wanted.output_format,
            seconds=source.seconds,
            credits=compute_credits(source.seconds),
            source=source.name,
            created_at=now,
            updated_at=now,
            upload_id=None if source.upload is None else source.upload.id,
            webhook_url=wanted.webhook_url,
            idempotency_key=request.idempotency_key,
            key_scope=access.scope,
            fingerprint=request.fingerprint,
        )
        # No await from here on: a split is charged, saved and submitted in one step.
        try:
            self._charge(account, split)
        except BaseException:
            self._sources.discard(source)
            raise
        self._splits[split_id] = split
        self._core.ledger.add_charge(split, request.digest)
        if source.upload is not None:
            source.upload.running += 1
        self._submit(split, injection)
        return split

    def _charge(self, account: Account, split: Split) -> None:
        account.charge(split.credits)
        try:
            self._core.records.save(split, account)
        except BaseException:
            account.refund(split.credits)
            raise

    def _submit(self, split: Split, injection: Injection) -> None:
        failed = injection.use(FailedSplit)
        held = injection.use(NeverFinishing) is not None
        failure = None if failed is None else SplitError(failed.code, failed.message)
        self._jobs.submit(split, held=held, failure=failure)


def _scoped(scope: str, key: str) -> str:
    """Return an idempotency key as its account keeps it: the same one of another scope is another."""
    return f"{scope} {key}" if scope else key
