"""Splits: created once per idempotency key and paid for, looked at, finished, and at last forgotten.

Credits are taken at creation, when the length of the audio is known, and given back when a split fails. A create that
is refused costs nothing and leaves nothing, its idempotency key included.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections import deque
from typing import TYPE_CHECKING, Any

import attrs

from aistemsplitter_async.sandbox.faults.requests import FailedSplit, NeverFinishing
from aistemsplitter_async.sandbox.http import wire
from aistemsplitter_async.sandbox.http.signing import build_signed_path
from aistemsplitter_async.sandbox.service.account import compute_credits
from aistemsplitter_async.sandbox.service.idempotency import Answer, compute_fingerprint
from aistemsplitter_async.sandbox.service.requests import RefusalError, invalid
from aistemsplitter_async.sandbox.service.state import Delivery, Split, SplitError, Status

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from aistemsplitter_async.sandbox.faults.rules import Injection
    from aistemsplitter_async.sandbox.service.account import Account
    from aistemsplitter_async.sandbox.service.jobs import Jobs
    from aistemsplitter_async.sandbox.service.ledger import Ledger
    from aistemsplitter_async.sandbox.service.limits import Lifetimes, Limits
    from aistemsplitter_async.sandbox.service.persistence import Store
    from aistemsplitter_async.sandbox.service.requests import SplitRequest
    from aistemsplitter_async.sandbox.service.sources import Sources
    from aistemsplitter_async.sandbox.service.storage import Storage
    from aistemsplitter_async.sandbox.service.timeline import SandboxClock


@attrs.frozen
class _Asked:
    """One create request: who asks for what, under which key, as which bytes."""

    account: Account
    request: SplitRequest
    key: str | None
    fingerprint: str
    digest: str
    injection: Injection | None


class Splits:
    """All splits. `origin` is the CDN's address, known once it listens."""

    origin = ""

    def __init__(
        self,
        *,
        clock: SandboxClock,
        accounts: Mapping[str, Account],
        sources: Sources,
        jobs: Jobs,
        storage: Storage,
        ledger: Ledger,
        store: Store,
        limits: Limits,
        lifetimes: Lifetimes,
        signing_secret: bytes,
    ) -> None:
        self._clock = clock
        self._accounts = accounts
        self._sources = sources
        self._jobs = jobs
        self._storage = storage
        self._ledger = ledger
        self._store = store
        self._limits = limits
        self._lifetimes = lifetimes
        self._secret = signing_secret
        self._splits: dict[str, Split] = {}
        self._finished: deque[Split] = deque()
        self._pending: dict[tuple[str, str], asyncio.Event] = {}

    async def create(
        self, account: Account, raw: bytes, key_header: str | None, injection: Injection | None = None
    ) -> dict[str, Any]:
        """Return `data` of `POST /audio/splits`; a used key gets its first answer, however often it comes."""
        key = wire.parse_idempotency_key(key_header)
        body = wire.parse_json(raw)
        request = wire.parse_split(body)
        digest = hashlib.sha256(raw).hexdigest()
        fingerprint = compute_fingerprint(body)
        asked = _Asked(account, request, key, fingerprint, digest, injection)
        if key is None:
            return wire.build_created(await self._create(asked))
        while True:
            answer, split_id = account.keys.begin(key, fingerprint, self._clock.now())
            match answer:
                case Answer.CONFLICT:
                    raise invalid("This Idempotency-Key was used with a different body.")
                case Answer.PENDING:
                    await self._pending[account.label, key].wait()
                case Answer.REPLAY:
                    split = self._splits[str(split_id)]
                    self._ledger.add_replay(split.id, digest)
                    return wire.build_created(split)
                case Answer.FRESH:
                    return wire.build_created(await self._create_first(asked, key))

    def get(self, account: Account, split_id: str) -> dict[str, Any]:
        """Return `data` of `GET /audio/splits/{id}` with fresh stem addresses; it counts as a poll."""
        split = self._splits.get(split_id)
        if split is None or split.account != account.label:
            raise RefusalError(404, "NOT_FOUND", "There is no such split.")
        split.polls += 1
        now = self._clock.now()
        if split.finished and split.first_seen_at is None:
            split.first_seen_at = now
        return wire.build_split(split, self.build_stem_urls(split))

    def find(self, split_id: str) -> Split | None:
        """Return the split with that id."""
        return self._splits.get(split_id)

    def __len__(self) -> int:
        return len(self._splits)

    def __iter__(self) -> Iterator[Split]:
        """Every split, oldest first."""
        return iter(self._splits.values())

    def build_stem_urls(self, split: Split) -> dict[str, str]:
        """Return freshly signed addresses of a split's stems by name."""
        expires_at = self._clock.now() + self._lifetimes.stem_url
        return {
            stem.name: self.origin + build_signed_path(f"/stems/{split.id}/{stem.filename}", expires_at, self._secret)
            for stem in split.stems
        }

    def finish(self, split: Split) -> None:
        """Settle a split that just ended: refund a failed one, let go of its source, owe its webhook."""
        if split.status is Status.FAILED:
            self._accounts[split.account].refund(split.credits)
            self._ledger.add_refund(split)
        upload = self._sources.find_upload(split.upload_id)
        if upload is not None:
            upload.running -= 1
        elif split.source:
            self._storage.drop_source(split.source)
        if split.webhook_url is not None:
            split.delivery = Delivery()
        self._finished.append(split)
        self._store.save(split, self._accounts[split.account])

    def sweep(self) -> None:
        """Delete stems whose time is over, and forget the oldest finished splits beyond the cap."""
        over = self._clock.now() - self._lifetimes.stems
        while self._finished and (self._finished[0].updated_at <= over or len(self._splits) >= self._limits.max_splits):
            split = self._finished.popleft()
            if self._storage.holds(split.id):  # silent stems are nowhere; looking for them costs more than the rest
                self._storage.drop_stems(split.id)
            del self._splits[split.id]
            self._store.forget(split)
            if split.idempotency_key is not None:
                self._accounts[split.account].keys.abandon(split.idempotency_key)

    def restore(self, split: Split) -> None:
        """Put back a split of an earlier run; an unfinished one starts anew."""
        self._splits[split.id] = split
        self._ledger.add_charge(split)
        if split.idempotency_key is not None and split.fingerprint is not None:
            keys = self._accounts[split.account].keys
            keys.restore(split.idempotency_key, split.fingerprint, split.id, split.created_at)
        if split.finished:
            self._finished.append(split)
            if self._storage.stem_folder(split.id).exists():
                self._storage.book(split.id, sum(stem.size_bytes for stem in split.stems))
            if split.status is Status.FAILED:
                self._ledger.add_refund(split)
            return
        self._storage.drop_stems(split.id)
        upload = self._sources.find_upload(split.upload_id)
        if upload is not None:
            upload.running += 1
        elif split.source:
            source = self._storage.source_path(split.source)
            self._storage.book(split.source, source.stat().st_size if source.exists() else 0)
        self._jobs.submit(split)

    async def _create_first(self, asked: _Asked, key: str) -> Split:
        keys = asked.account.keys
        handled = self._pending[asked.account.label, key] = asyncio.Event()
        try:
            split = await self._create(asked)
            keys.settle(key, split.id)
        except BaseException:
            keys.abandon(key)
            raise
        finally:
            del self._pending[asked.account.label, key]
            handled.set()
        return split

    async def _create(self, asked: _Asked) -> Split:
        self.sweep()
        account, request = asked.account, asked.request
        split_id = f"split_{secrets.token_hex(12)}"
        source = await self._sources.obtain(account, request.source, split_id)
        credits_used = compute_credits(source.seconds)
        now = self._clock.now()
        split = Split(
            id=split_id,
            account=account.label,
            filename=source.filename,
            stem_model=request.stem_model,
            output_format=request.output_format,
            seconds=source.seconds,
            credits=credits_used,
            source=source.name,
            created_at=now,
            updated_at=now,
            upload_id=None if source.upload is None else source.upload.id,
            webhook_url=request.webhook_url,
            idempotency_key=asked.key,
            fingerprint=asked.fingerprint,
        )
        # No await from here on: a split is paid for, written down and begun as one step.
        try:
            self._pay(account, split)
        except BaseException:
            self._sources.discard(source)
            raise
        self._splits[split_id] = split
        self._ledger.add_charge(split, asked.digest)
        if source.upload is not None:
            source.upload.running += 1
        self._submit(split, asked.injection)
        return split

    def _pay(self, account: Account, split: Split) -> None:
        account.charge(split.credits)
        try:
            self._store.save(split, account)
        except BaseException:
            account.refund(split.credits)
            raise

    def _submit(self, split: Split, injection: Injection | None) -> None:
        failed = injection.use(FailedSplit) if injection is not None else None
        held = injection is not None and injection.use(NeverFinishing) is not None
        doom = None if failed is None else SplitError(failed.code, failed.message)
        self._jobs.submit(split, held=held, doom=doom)
