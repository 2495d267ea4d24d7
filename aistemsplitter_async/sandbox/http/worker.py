"""The upload origin: takes exactly the promised bytes for a reservation, in constant memory, or nothing."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, Literal

from aistemsplitter_async.sandbox.faults.requests import ExpiredReservation, StopReading
from aistemsplitter_async.sandbox.http.leaks import find_leak
from aistemsplitter_async.sandbox.http.replies import Manner, Reply, build_data_reply, build_refusal_reply
from aistemsplitter_async.sandbox.service.ledger import LeakedKey, RequestRecord
from aistemsplitter_async.sandbox.service.requests import RefusalError

if TYPE_CHECKING:
    from collections.abc import Collection

    from aiohttp import web

    from aistemsplitter_async.sandbox.faults.rules import Injection
    from aistemsplitter_async.sandbox.http.injector import Injector
    from aistemsplitter_async.sandbox.service.ledger import Ledger
    from aistemsplitter_async.sandbox.service.state import Upload
    from aistemsplitter_async.sandbox.service.storage import Storage
    from aistemsplitter_async.sandbox.service.timeline import SandboxClock, Timeline
    from aistemsplitter_async.sandbox.service.uploads import Uploads

_PREFIX = "/upload/"
_BATCH_BYTES = 1024 * 1024


class _GoneSilentError(Exception):
    """A fault made the worker stop reading; it will not answer."""

    def __init__(self, how: Literal["stall", "reset"]) -> None:
        super().__init__(how)
        self.how: Literal["stall", "reset"] = how


class UploadWorker:
    """Answers `POST {uploadUrl}`. Failures are flat; nothing of a failed upload stays on disk."""

    def __init__(
        self,
        *,
        clock: SandboxClock,
        timeline: Timeline,
        uploads: Uploads,
        storage: Storage,
        ledger: Ledger,
        injector: Injector,
        api_keys: Collection[str],
    ) -> None:
        self._clock = clock
        self._timeline = timeline
        self._uploads = uploads
        self._storage = storage
        self._ledger = ledger
        self._injector = injector
        self._api_keys = api_keys

    async def handle(self, request: web.BaseRequest) -> Reply:
        """Answer one request and enter it in the ledger."""
        self._timeline.run_due()
        upload = self._uploads.find(request.rel_url.raw_path.removeprefix(_PREFIX))
        perform = partial(self._perform, request, upload)
        reply, fault = await self._injector.answer("upload", None, perform, flat=True)
        label = None if upload is None else upload.account
        self._ledger.add_request(RequestRecord(self._clock.now(), "upload", reply.status, label, fault=fault))
        return reply

    async def _perform(self, request: web.BaseRequest, upload: Upload | None, injection: Injection | None) -> Reply:
        try:
            return build_data_reply(await self._take(request, upload, injection))
        except RefusalError as refusal:
            return build_refusal_reply(refusal, flat=True)
        except _GoneSilentError as silent:
            return Reply(0, manner=Manner(then=silent.how))

    async def _take(
        self, request: web.BaseRequest, upload: Upload | None, injection: Injection | None
    ) -> dict[str, str]:
        leak = find_leak(request.headers.items(), str(request.rel_url), self._api_keys)
        if leak is not None:
            self._ledger.add_leak(LeakedKey(self._clock.now(), "worker", leak))
            raise RefusalError(
                400, "UNEXPECTED_AUTHORIZATION", "API keys belong to the API, never to the upload worker."
            )
        if upload is None or not request.rel_url.raw_path.startswith(_PREFIX):
            raise RefusalError(404, "NOT_FOUND", "There is no such reservation.")
        if request.method != "POST":
            raise RefusalError(405, "METHOD_NOT_ALLOWED", "Upload with POST.", {"Allow": "POST"})
        _check_headers(request, upload)
        if injection is not None and injection.use(ExpiredReservation) is not None:
            raise RefusalError(410, "RESERVATION_EXPIRED", "This reservation has expired; make a new one.")
        self._uploads.check_open(upload)
        self._uploads.book(upload)
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        stop = injection.use(StopReading) if injection is not None else None
        return self._uploads.accept(upload, await self._store(request, upload, stop))

    async def _store(self, request: web.BaseRequest, upload: Upload, stop: StopReading | None) -> str:
        target = self._storage.source_path(upload.id)
        # A name of its own for each attempt: two at once must not write into one file.
        part = target.with_name(f"{upload.id}.{secrets.token_hex(4)}.part")
        try:
            with part.open("xb") as file:
                if stop is not None:
                    await _read_until(request, stop)
                sha256 = await _receive(request, file, upload.content_length)
            self._uploads.book(upload)  # again: another request may have used it up meanwhile
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
            if not target.exists():
                self._storage.drop_source(upload.id)
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
    raise _GoneSilentError(stop.how)


async def _receive(request: web.BaseRequest, file: BinaryIO, expected: int) -> str:
    """Write the body to `file` and return its SHA-256; hashing and writing overlap with receiving."""
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
                keeping = asyncio.ensure_future(asyncio.to_thread(keep, batch))
                batch, held = [], 0
    finally:
        if keeping is not None:
            await keeping  # the thread must be done with the file before it is closed
    keep(batch)
    if received != expected:
        raise RefusalError(400, "LENGTH_MISMATCH", f"{received} of {expected} bytes arrived.")
    return digest.hexdigest()
