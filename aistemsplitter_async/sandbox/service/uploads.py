"""Reservations and uploaded files: who may upload which file, until when, and how long it is kept.

An upload may be repeated while no split uses it (the later file wins); from the first create on its bytes are final.
Expired reservations and files are swept when new ones come, so nothing needs a timer.
"""

from __future__ import annotations

import secrets
from itertools import takewhile
from pathlib import PurePosixPath
from urllib.parse import quote

from aistemsplitter_async.sandbox.service.account import Account
from aistemsplitter_async.sandbox.service.core import ServiceCore
from aistemsplitter_async.sandbox.service.errors import (
    InvalidRequestError,
    ReservationExpiredError,
    StorageFullError,
    UploadInUseError,
)
from aistemsplitter_async.sandbox.service.ledger import UploadRecord
from aistemsplitter_async.sandbox.service.requests import ReservationRequest, UploadedFile
from aistemsplitter_async.sandbox.service.separator import SeparationError
from aistemsplitter_async.sandbox.service.state import Upload


class Uploads:
    """All reservations and uploaded files."""

    def __init__(self, core: ServiceCore) -> None:
        self._core = core
        self._reserved: dict[str, Upload] = {}
        self._stored: dict[str, Upload] = {}

    def reserve(self, account: Account, request: ReservationRequest) -> Upload:
        """Return a new reservation.

        Raises:
            StorageFullError: There are too many open ones.
        """
        self.sweep()
        if len(self._reserved) >= self._core.settings.limits.max_reservations:
            raise StorageFullError("The sandbox holds too many open reservations.")
        now = self._core.clock.now()
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
            expires_at=now + self._core.settings.lifetimes.reservation,
        )
        self._core.records.save(upload)
        self._reserved[upload_id] = upload
        return upload

    def find(self, upload_id: str) -> Upload | None:
        """Return the reservation or upload with that id."""
        return self._reserved.get(upload_id) or self._stored.get(upload_id)

    def check_open(self, upload: Upload) -> None:
        """Check that an upload may begin now; one that began in time may take as long as it needs.

        Raises:
            ReservationExpiredError: The reservation has expired.
        """
        if self._core.clock.now() >= upload.expires_at:
            raise ReservationExpiredError("This reservation has expired; make a new one.")

    def book(self, upload: Upload) -> None:
        """Book space for the file.

        Raises:
            UploadInUseError: A split uses the upload.
            StorageFullError: There is no space.
        """
        if upload.splits:
            raise UploadInUseError("A split already uses this upload; make a new reservation.")
        self._core.storage.book(upload.id, upload.content_length)

    def accept(self, upload: Upload, sha256: str, file_url: str) -> None:
        """Record that the whole file is stored; a create must name it by `file_url`."""
        now = self._core.clock.now()
        upload.file_url = file_url
        upload.sha256 = sha256
        upload.seconds = None
        upload.kept_until = now + self._core.settings.lifetimes.upload
        self._core.records.save(upload)
        self._reserved.pop(upload.id, None)
        self._stored.pop(upload.id, None)  # a repeated upload becomes the newest
        self._stored[upload.id] = upload
        size = upload.content_length
        self._core.ledger.add_upload(UploadRecord(now, upload.account, upload.id, upload.filename, size, sha256))

    async def resolve(self, account: Account, source: UploadedFile) -> tuple[Upload, float]:
        """Return the uploaded file that a create names and its length in seconds.

        Raises:
            InvalidRequestError: The upload is missing, incomplete or not of this account, the three values do not
                belong together, or the file cannot be decoded.
        """
        upload = self.find(source.upload_id)
        if upload is None or upload.account != account.label:
            raise InvalidRequestError("input.uploadId names no upload of yours.")
        if upload.file_url is None or (upload.kept_until or 0.0) <= self._core.clock.now():
            raise InvalidRequestError("input.uploadId names an upload that holds no file.")
        if source.file_url != upload.file_url:
            raise InvalidRequestError("input.fileUrl does not belong to input.uploadId.")
        if source.storage_key != upload.storage_key:
            raise InvalidRequestError("input.storageKey does not belong to input.uploadId.")
        upload.splits += 1  # from here on the bytes must not change
        try:
            if upload.seconds is None:
                upload.seconds = await self._core.separator.probe(self._core.storage.source_path(upload.id))
        except BaseException as error:
            upload.splits -= 1
            if isinstance(error, SeparationError):
                raise InvalidRequestError(f"{upload.filename} cannot be decoded: {error}") from None
            raise
        return upload, upload.seconds

    def sweep(self) -> None:
        """Forget reservations that expired unused, and delete files whose lifetime is over."""
        now = self._core.clock.now()
        for book in (self._reserved, self._stored):
            expired = _find_expired(book, now)
            for upload in expired:
                del book[upload.id]
                self._core.storage.drop_source(upload.id)
            if expired:
                self._core.records.forget(*expired)

    def restore(self, upload: Upload) -> None:
        """Restore a reservation or an upload of an earlier run."""
        upload.running = 0
        if upload.file_url is None:
            self._reserved[upload.id] = upload
        else:
            self._stored[upload.id] = upload
            self._core.storage.book(upload.id, upload.content_length)


def _find_expired(uploads: dict[str, Upload], now: float) -> list[Upload]:
    # Reservations and stored uploads are in the order of expiry, so the first valid one ends the search.
    return list(takewhile(lambda one: (one.kept_until or one.expires_at) <= now and not one.running, uploads.values()))
