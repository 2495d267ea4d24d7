"""Reservations and uploaded files: who may upload what, until when, and how long it is kept.

An upload may be repeated while no split uses it (the later file wins); from the first create on its bytes are final.
Expired reservations and files are swept when new ones come, so nothing needs a timer.
"""

from __future__ import annotations

import secrets
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from aistemsplitter_async.sandbox.http import wire
from aistemsplitter_async.sandbox.service.ledger import UploadRecord
from aistemsplitter_async.sandbox.service.requests import RefusalError, UploadedFile, invalid
from aistemsplitter_async.sandbox.service.separator import SeparationError
from aistemsplitter_async.sandbox.service.state import Upload
from aistemsplitter_async.sandbox.service.storage import StorageFullError

if TYPE_CHECKING:
    from aistemsplitter_async.sandbox.service.account import Account
    from aistemsplitter_async.sandbox.service.ledger import Ledger
    from aistemsplitter_async.sandbox.service.limits import Lifetimes, Limits
    from aistemsplitter_async.sandbox.service.persistence import Store
    from aistemsplitter_async.sandbox.service.separator import Separator
    from aistemsplitter_async.sandbox.service.storage import Storage
    from aistemsplitter_async.sandbox.service.timeline import SandboxClock


class Uploads:
    """All reservations and uploaded files. `origin` is the upload worker's address, known once it listens."""

    origin = ""

    def __init__(
        self,
        *,
        clock: SandboxClock,
        storage: Storage,
        ledger: Ledger,
        separator: Separator,
        store: Store,
        limits: Limits,
        lifetimes: Lifetimes,
    ) -> None:
        self._clock = clock
        self._storage = storage
        self._ledger = ledger
        self._separator = separator
        self._store = store
        self._limits = limits
        self._lifetimes = lifetimes
        self._reserved: dict[str, Upload] = {}
        self._stored: dict[str, Upload] = {}

    def reserve(self, account: Account, raw: bytes) -> dict[str, Any]:
        """Return `data` of `POST /audio/uploads`; raise `RefusalError` for a body that is wrong."""
        request = wire.parse_reservation(wire.parse_json(raw), max_upload_bytes=self._limits.max_upload_bytes)
        self.sweep()
        if len(self._reserved) >= self._limits.max_reservations:
            raise RefusalError(500, "SERVER_ERROR", "The sandbox holds too many open reservations.")
        now = self._clock.now()
        upload_id = f"upl_{secrets.token_hex(12)}"
        upload = Upload(
            id=upload_id,
            account=account.label,
            filename=request.filename,
            content_type=request.content_type,
            content_length=request.content_length,
            token=secrets.token_urlsafe(24),
            storage_key=f"uploads/{upload_id}/{quote(PurePosixPath(request.filename).name, safe='')}",
            created_at=now,
            expires_at=now + self._lifetimes.reservation,
        )
        self._store.save(upload)
        self._reserved[upload_id] = upload
        return wire.build_reservation(upload, f"{self.origin}/upload/{upload_id}")

    def find(self, upload_id: str) -> Upload | None:
        """Return the reservation or upload with that id."""
        return self._reserved.get(upload_id) or self._stored.get(upload_id)

    def check_open(self, upload: Upload) -> None:
        """Refuse with 410 a file for an expired reservation. An upload that began in time may take its time."""
        if self._clock.now() >= upload.expires_at:
            raise RefusalError(410, "RESERVATION_EXPIRED", "This reservation has expired; make a new one.")

    def book(self, upload: Upload) -> None:
        """Set room aside for the file; refuse with 409 a used upload and with 507 where there is no room."""
        if upload.splits:
            raise RefusalError(409, "UPLOAD_IN_USE", "A split already uses this upload; make a new reservation.")
        try:
            self._storage.book(upload.id, upload.content_length)
        except StorageFullError as error:
            raise RefusalError(507, "STORAGE_FULL", str(error)) from None

    def accept(self, upload: Upload, sha256: str) -> dict[str, Any]:
        """Return `data` of the worker's answer; the whole file is stored by now."""
        now = self._clock.now()
        upload.file_url = f"{self.origin}/files/{upload.storage_key}"
        upload.sha256 = sha256
        upload.seconds = None
        upload.kept_until = now + self._lifetimes.upload
        self._store.save(upload)
        self._reserved.pop(upload.id, None)
        self._stored.pop(upload.id, None)  # a repeated upload is the youngest again
        self._stored[upload.id] = upload
        size = upload.content_length
        self._ledger.add_upload(UploadRecord(now, upload.account, upload.id, upload.filename, size, sha256))
        return {"url": upload.file_url, "key": upload.storage_key}

    async def resolve(self, account: Account, source: UploadedFile) -> tuple[Upload, float]:
        """Return the uploaded file that a create names and its length in seconds.

        Refuses with 422 an upload that is not there or not complete, three values that do not belong together, and
        a file that cannot be decoded.
        """
        upload = self.find(source.upload_id)
        if upload is None or upload.account != account.label:
            raise invalid("input.uploadId names no upload of yours.")
        if upload.file_url is None or (upload.kept_until or 0.0) <= self._clock.now():
            raise invalid("input.uploadId names an upload that holds no file.")
        if source.file_url != upload.file_url:
            raise invalid("input.fileUrl does not belong to input.uploadId.")
        if source.storage_key != upload.storage_key:
            raise invalid("input.storageKey does not belong to input.uploadId.")
        upload.splits += 1  # from here on the bytes must not change
        try:
            if upload.seconds is None:
                upload.seconds = await self._separator.probe(self._storage.source_path(upload.id))
        except SeparationError as error:
            upload.splits -= 1
            raise invalid(f"{upload.filename} cannot be decoded: {error}") from None
        return upload, upload.seconds

    def sweep(self) -> None:
        """Forget reservations that expired unused and delete files whose time is over."""
        now = self._clock.now()
        for book in (self._reserved, self._stored):
            over = self._over(book, now)
            for upload in over:
                del book[upload.id]
                self._storage.drop_source(upload.id)
            if over:
                self._store.forget(*over)

    def restore(self, upload: Upload) -> None:
        """Put back a reservation or an upload of an earlier run."""
        upload.running = 0
        if upload.file_url is None:
            self._reserved[upload.id] = upload
        else:
            self._stored[upload.id] = upload
            self._storage.book(upload.id, upload.content_length)

    @staticmethod
    def _over(uploads: dict[str, Upload], now: float) -> list[Upload]:
        # Both books stand in the order of expiry, so the first one still valid ends the search.
        over: list[Upload] = []
        for upload in uploads.values():
            if (upload.kept_until or upload.expires_at) > now or upload.running:
                break
            over.append(upload)
        return over
