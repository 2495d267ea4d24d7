"""The CDN origin: stems behind signed, expiring addresses, whole or in parts."""

from __future__ import annotations

from functools import partial
from typing import Final

from aiohttp import web

from aistemsplitter_async.sandbox.faults.requests import ChangedETag, ExpiredURL
from aistemsplitter_async.sandbox.faults.rules import Injection
from aistemsplitter_async.sandbox.http.injector import Injector
from aistemsplitter_async.sandbox.http.leaks import refuse_leaked_key
from aistemsplitter_async.sandbox.http.refusals import RefusalError, not_allowed, not_found
from aistemsplitter_async.sandbox.http.replies import Reply
from aistemsplitter_async.sandbox.http.signing import parse_expiry
from aistemsplitter_async.sandbox.http.stems import build_stem_reply
from aistemsplitter_async.sandbox.service.ledger import RequestRecord
from aistemsplitter_async.sandbox.service.service import Service
from aistemsplitter_async.sandbox.service.state import Split

_PATH_PARTS: Final = 4
_WITH_STEM: Final = (200, 206)  # in any other answer the body is no part of a stem
_HEADERS: Final = {
    "Cache-Control": "private, max-age=31536000, immutable",
    "Access-Control-Allow-Origin": "*",  # the address alone gives access, to pages too
}


class CDN:
    """Answers `GET` and `HEAD` of stem addresses. Stems never change, so their ETags are strong."""

    def __init__(self, service: Service, injector: Injector, secret: bytes) -> None:
        self._service = service
        self._injector = injector
        self._secret = secret

    async def handle(self, request: web.BaseRequest) -> Reply:
        """Answer one request and record it in the ledger."""
        service = self._service
        service.timeline.run_due()
        parts = request.rel_url.raw_path.split("/")
        split = service.splits.find(parts[2]) if len(parts) == _PATH_PARTS else None
        label, split_id = (None, None) if split is None else (split.account, split.id)
        perform = partial(self._serve, request, split)
        reply, fault = await self._injector.answer("download", split_id, perform, flat=True)
        stem = None if split is None else split.find_stem(parts[-1])
        record = RequestRecord(
            service.clock.now(),
            "download",
            reply.status,
            label,
            split_id,
            fault,
            stem=None if stem is None else stem.name,
            sent_bytes=reply.sent_bytes if request.method == "GET" and reply.status in _WITH_STEM else 0,
        )
        service.ledger.add_request(record)
        return reply

    async def _serve(self, request: web.BaseRequest, split: Split | None, injection: Injection) -> Reply:
        refuse_leaked_key(request, self._service, "cdn", "CDN")
        if request.method not in ("GET", "HEAD"):
            raise not_allowed("Stems are read with GET or HEAD.", "GET, HEAD")
        path = request.rel_url.raw_path
        expiry = parse_expiry(path, request.rel_url.query, self._secret)
        if expiry is None:
            raise RefusalError(403, "FORBIDDEN", "This address is not signed.")
        if injection.use(ExpiredURL) or expiry <= self._service.clock.now():
            raise RefusalError(403, "URL_EXPIRED", "This address has expired; get the split again.")
        stem = None if split is None else split.find_stem(path.rpartition("/")[2])
        if split is None or stem is None:
            raise not_found("stem")
        changed = injection.use(ChangedETag)
        etag = stem.etag if changed is None else changed.etag
        return build_stem_reply(request.headers, self._service.storage, split, stem, _HEADERS, etag=etag)
