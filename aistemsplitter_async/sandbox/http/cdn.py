"""The CDN origin: stems behind signed, expiring addresses, whole or in parts."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from aistemsplitter_async.sandbox.faults.requests import ChangedETag, ExpiredURL
from aistemsplitter_async.sandbox.http.leaks import find_leak
from aistemsplitter_async.sandbox.http.ranges import plan_slice
from aistemsplitter_async.sandbox.http.replies import FilePart, Reply, build_refusal_reply
from aistemsplitter_async.sandbox.http.signing import parse_expiry
from aistemsplitter_async.sandbox.separation.silence import build_silence
from aistemsplitter_async.sandbox.service.ledger import LeakedKey, RequestRecord
from aistemsplitter_async.sandbox.service.requests import RefusalError

if TYPE_CHECKING:
    from collections.abc import Collection

    from aiohttp import web

    from aistemsplitter_async.sandbox.faults.rules import Injection
    from aistemsplitter_async.sandbox.http.injector import Injector
    from aistemsplitter_async.sandbox.service.ledger import Ledger
    from aistemsplitter_async.sandbox.service.splits import Splits
    from aistemsplitter_async.sandbox.service.state import Split
    from aistemsplitter_async.sandbox.service.storage import Storage
    from aistemsplitter_async.sandbox.service.timeline import SandboxClock, Timeline

_CONTENT_TYPES = {"wav": "audio/wav", "mp3": "audio/mpeg"}
_PATH_PARTS = 4


class CDN:
    """Answers `GET` and `HEAD` of stem addresses. Stems never change, so their ETags are strong."""

    def __init__(
        self,
        *,
        clock: SandboxClock,
        timeline: Timeline,
        splits: Splits,
        storage: Storage,
        ledger: Ledger,
        injector: Injector,
        api_keys: Collection[str],
        signing_secret: bytes,
    ) -> None:
        self._clock = clock
        self._timeline = timeline
        self._splits = splits
        self._storage = storage
        self._ledger = ledger
        self._injector = injector
        self._api_keys = api_keys
        self._secret = signing_secret

    async def handle(self, request: web.BaseRequest) -> Reply:
        """Answer one request and enter it in the ledger."""
        self._timeline.run_due()
        parts = request.rel_url.raw_path.split("/")
        split = self._splits.find(parts[2]) if len(parts) == _PATH_PARTS else None
        label, split_id = (None, None) if split is None else (split.account, split.id)
        perform = partial(self._perform, request, split)
        reply, fault = await self._injector.answer("download", split_id, perform, flat=True)
        self._ledger.add_request(RequestRecord(self._clock.now(), "download", reply.status, label, split_id, fault))
        return reply

    async def _perform(self, request: web.BaseRequest, split: Split | None, injection: Injection | None) -> Reply:
        try:
            self._check(request, injection)
            return self._serve(request, split, injection)
        except RefusalError as refusal:
            return build_refusal_reply(refusal, flat=True)

    def _check(self, request: web.BaseRequest, injection: Injection | None) -> None:
        leak = find_leak(request.headers.items(), str(request.rel_url), self._api_keys)
        if leak is not None:
            self._ledger.add_leak(LeakedKey(self._clock.now(), "cdn", leak))
            raise RefusalError(400, "UNEXPECTED_AUTHORIZATION", "API keys belong to the API, never to the CDN.")
        if request.method not in ("GET", "HEAD"):
            raise RefusalError(405, "METHOD_NOT_ALLOWED", "Stems are read with GET or HEAD.", {"Allow": "GET, HEAD"})
        expiry = parse_expiry(request.rel_url.raw_path, request.rel_url.query, self._secret)
        if expiry is None:
            raise RefusalError(403, "FORBIDDEN", "This address is not signed.")
        expired = injection is not None and injection.use(ExpiredURL) is not None
        if expired or expiry <= self._clock.now():
            raise RefusalError(403, "URL_EXPIRED", "This address has expired; get the split again.")

    def _serve(self, request: web.BaseRequest, split: Split | None, injection: Injection | None) -> Reply:
        filename = request.rel_url.raw_path.rpartition("/")[2]
        stem = next((stem for stem in split.stems if stem.filename == filename), None) if split is not None else None
        if split is None or stem is None:
            raise RefusalError(404, "NOT_FOUND", "There is no such stem.")
        changed = injection.use(ChangedETag) if injection is not None else None
        etag = f'"{stem.etag if changed is None else changed.etag}"'
        part = plan_slice(request.headers, stem.size_bytes, etag)
        headers = {
            "ETag": etag,
            "Accept-Ranges": "bytes",
            "Content-Type": _CONTENT_TYPES.get(split.output_format, "application/octet-stream"),
            "Cache-Control": "private, max-age=31536000, immutable",
            "Access-Control-Allow-Origin": "*",  # who has the address may have the stem, pages included
        }
        if part.status == 206:  # noqa: PLR2004  Partial Content
            last = part.start + part.length - 1
            headers["Content-Range"] = f"bytes {part.start}-{last}/{stem.size_bytes}"
        elif part.status == 416:  # noqa: PLR2004  Range Not Satisfiable
            headers["Content-Range"] = f"bytes */{stem.size_bytes}"
        path = self._storage.stem_folder(split.id) / stem.filename
        if path.exists():
            return Reply(part.status, FilePart(path, part.start, part.length), headers)
        silence = build_silence(split.output_format)
        return Reply(part.status, silence[part.start : part.start + part.length], headers)
