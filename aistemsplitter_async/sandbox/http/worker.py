"""The upload origin: takes exactly the announced bytes for a reservation, in constant memory, or nothing."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from functools import partial
from typing import BinaryIO, Final, Literal

from aiohttp import web

from aistemsplitter_async._tasks import run_in_thread
from aistemsplitter_async.sandbox.faults.requests import ExpiredReservation, StopReading
from aistemsplitter_async.sandbox.faults.rules import Injection
from aistemsplitter_async.sandbox.http.addresses import Addresses
from aistemsplitter_async.sandbox.http.injector import Injector
from aistemsplitter_async.sandbox.http.leaks import refuse_leaked_key
from aistemsplitter_async.sandbox.http.refusals import RefusalError, not_allowed, not_found
from aistemsplitter_async.sandbox.http.replies import Manner, Reply, build_data_reply
from aistemsplitter_async.sandbox.service.errors import ReservationExpiredError, StorageFullError
from aistemsplitter_async.sandbox.service.ledger import RequestRecord
from aistemsplitter_async.sandbox.service.service import Service
from aistemsplitter_async.sandbox.service.state import Upload

_PREFIX: Final = "/upload/"
_BATCH_BYTES: Final = 1024 * 1024


class _StoppedReadingError(Exception):
    """A fault made the worker stop reading; it does not answer."""

    def __init__(self, how: Literal["stall", "reset"]) -> None:
        super().__init__(how)
        self.how: Literal["stall", "reset"] = how


class UploadWorker:
    """Answers `POST {uploadUrl}`. Its error envelope is flat; nothing of a failed upload stays on disk."""

    def __init__(self, service: Service, injector: Injector, addresses: Addresses) -> None:
        self._service = service
        self._injector = injector
        self._addresses = addresses

    async def handle(self, request: web.BaseRequest) -> Reply:
        """Answer one request and record it in the ledger."""
        service = self._service
        service.timeline.run_due()
        upload = service.uploads.find(request.rel_url.raw_path.removeprefix(_PREFIX))
        perform = partial(self._perform, request, upload)
        reply, fault = await self._injector.answer("upload", None, perform, flat=True)
        label = None if upload is None else upload.account
        service.ledger.add_request(RequestRecord(service.clock.now(), "upload", reply.status, label, fault=fault))
        return reply

    async def _perform(self, request: web.BaseRequest, upload: Upload | None, injection: Injection) -> Reply:
        try:
            return build_data_reply(await self._take(request, upload, injection))
        except StorageFullError as error:
            raise RefusalError(507, "STORAGE_FULL", str(error)) from None
        except _StoppedReadingError as stopped:
            return Reply(0, manner=Manner(then=stopped.how))

    async def _take(self, request: web.BaseRequest, upload: Upload | None, injection: Injection) -> dict[str, str]:
        refuse_leaked_key(request, self._service, "worker", "upload worker")
        if upload is None or not request.rel_url.raw_path.startswith(_PREFIX):
            raise not_found("reservation")
        if request.method != "POST":
            raise not_allowed("Upload with POST.", "POST")
        _check_headers(request, upload)
        uploads = self._service.uploads
        if injection.use(ExpiredReservation):
            raise ReservationExpiredError("This reservation has expired; make a new one.")
        uploads.check_open(upload)
        uploads.book(upload)
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        sha256 = await self._store(request, upload, injection.use(StopReading))
        url = self._addresses.build_file_url(upload)
        uploads.accept(upload, sha256, url)
        return {"url": url, "key": upload.storage_key}

    async def _store(self, request: web.BaseRequest, upload: Upload, stop: StopReading | None) -> str:
        storage = self._service.storage
        target = storage.source_path(upload.id)
        # Each attempt has its own file name: two at once must not write into one file.
        part = target.with_name(f"{upload.id}.{secrets.token_hex(4)}.part")
        try:
            with part.open("xb") as file:
                if stop is not None:
                    await _read_until(request, stop)
                sha256 = await _receive(request, file, upload.content_length)
            self._service.uploads.book(upload)  # a second time: a create may have used the upload since then
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
            if not target.exists():
                storage.drop_source(upload.id)
        return sha256


def _check_headers(request: web.BaseRequest, upload: Upload) -> None:
    token = request.headers.get("X-Upload-Token", "")
    if not hmac.compare_digest(token.encode("utf-8", "replace"), upload.token.encode()):
        raise RefusalError(403, "FORBIDDEN", "The upload token is missing or wrong.")
    if request.headers.get("Content-Type", "").strip().lower() != upload.content_type.strip().lower():
        raise RefusalError(400, "CONTENT_TYPE_MISMATCH", f"Content-Type must be {upload.content_type}.")
    if request.content_length is None:
        raise RefusalError(411, "LENGTH_REQUIRED", "Content-Length is required.")
    if request.content_length > upload.content_length:
        raise RefusalError(413, "PAYLOAD_TOO_LARGE", f"The reservation is for {upload.content_length} bytes.")
    if request.content_length < upload.content_length:
        raise RefusalError(400, "LENGTH_MISMATCH", f"The reservation is for {upload.content_length} bytes.")


async def _read_until(request: web.BaseRequest, stop: StopReading) -> None:
    received = 0
    while received < stop.after_bytes and (chunk := await request.content.read(stop.after_bytes - received)):
        received += len(chunk)
    raise _StoppedReadingError(stop.how)


async def _receive(request: web.BaseRequest, file: BinaryIO, expected: int) -> str:
    """Write the body to `file` and return its SHA-256; a thread hashes and writes while more arrives."""
    digest = hashlib.sha256()

    def keep(batch: list[bytes]) -> None:
        for chunk in batch:
            digest.update(chunk)
            file.write(chunk)

    received = held = 0
    batch: list[bytes] = []
    keeping: asyncio.Future[None] | None = None
    try:
        async for chunk in request.content.iter_any():
            batch.append(chunk)
            received += len(chunk)
            held += len(chunk)
            if held >= _BATCH_BYTES:
                if keeping is not None:
                    await keeping
                keeping = asyncio.ensure_future(run_in_thread(keep, batch))
                batch, held = [], 0
    finally:
        if keeping is not None:
            await keeping  # the file must not be closed while the thread uses it
    keep(batch)
    if received != expected:
        raise RefusalError(400, "LENGTH_MISMATCH", f"{received} of {expected} bytes arrived.")
    return digest.hexdigest()
