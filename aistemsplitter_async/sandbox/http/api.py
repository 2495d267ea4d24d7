"""The API origin: authentication, the window, the operation and its request body, and the envelope of the answer."""

from __future__ import annotations

from functools import partial
from typing import Any, Final
from urllib.parse import unquote

import attrs
from aiohttp import web

from aistemsplitter_async.sandbox.faults.rules import Injection
from aistemsplitter_async.sandbox.http import encode
from aistemsplitter_async.sandbox.http.addresses import Addresses
from aistemsplitter_async.sandbox.http.decode import parse_create, parse_json, parse_reservation
from aistemsplitter_async.sandbox.http.injector import Injector
from aistemsplitter_async.sandbox.http.rate_headers import build_rate_headers
from aistemsplitter_async.sandbox.http.refusals import RefusalError, not_allowed, not_found
from aistemsplitter_async.sandbox.http.replies import Reply, build_data_reply, build_refusal_reply
from aistemsplitter_async.sandbox.service.account import Access, Account
from aistemsplitter_async.sandbox.service.ledger import RequestRecord
from aistemsplitter_async.sandbox.service.service import Service

_OPERATIONS: Final[dict[str, dict[str, str]]] = {
    "/v1/credits": {"GET": "credits"},
    "/v1/audio/uploads": {"POST": "reserve"},
    "/v1/audio/splits": {"POST": "create"},
}
_SPLIT_PREFIX: Final = "/v1/audio/splits/"
_UNKNOWN: Final = "unknown"
_LONGEST_ID: Final = 64  # characters; ours have 30, and the ledger keeps what was asked for


class API:
    """Answers requests to `/v1`. Every request with a valid key counts against that key's window."""

    def __init__(
        self, service: Service, injector: Injector, addresses: Addresses, *, rate_styles: frozenset[str]
    ) -> None:
        self._service = service
        self._injector = injector
        self._addresses = addresses
        self._rate_styles = rate_styles

    async def handle(self, request: web.BaseRequest) -> Reply:
        """Answer one request and record it in the ledger."""
        service = self._service
        service.timeline.run_due()
        operation, split_id = _identify(request)
        access: Access | None = None
        fault: str | None = None
        rate_headers: dict[str, str] = {}
        try:
            access = self._authenticate(request)
            rate_headers = self._admit(access)
            perform = partial(self._call, request, access, operation, split_id)
            reply, fault = await self._injector.answer(operation, split_id, perform)
        except RefusalError as refusal:
            reply = build_refusal_reply(refusal)
        if rate_headers:
            reply = attrs.evolve(reply, headers=rate_headers | dict(reply.headers))
        label = None if access is None else access.account.label
        service.ledger.add_request(
            RequestRecord(service.clock.now(), operation, reply.status, label, split_id or reply.split_id, fault)
        )
        return reply

    def _authenticate(self, request: web.BaseRequest) -> Access:
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        access = self._service.accesses.get(key.strip()) if scheme.lower() == "bearer" else None
        if access is None:
            raise RefusalError(
                401, "UNAUTHORIZED", "The API key is missing or invalid.", {"WWW-Authenticate": "Bearer"}
            )
        return access

    def _admit(self, access: Access) -> dict[str, str]:
        if access.window is None:
            return {}
        clock, minute = self._service.clock, self._service.settings.minute
        verdict = access.window.admit(clock.monotonic())
        headers = build_rate_headers(verdict, self._rate_styles, minute=minute, now=clock.now())
        if not verdict.admitted:
            message = f"This key may send {verdict.limit} requests in {minute:g} seconds."
            raise RefusalError(429, "RATE_LIMITED", message, headers)
        return headers

    async def _call(
        self, request: web.BaseRequest, access: Access, operation: str, split_id: str | None, injection: Injection
    ) -> Reply:
        account = access.account
        data: dict[str, Any]
        match operation:
            case "credits":
                data = {"balance": account.balance, "unit": "seconds"}
            case "reserve":
                data = self._reserve(account, await self._read(request))
            case "create":
                created = parse_create(await self._read(request), request.headers.get("Idempotency-Key"))
                data = encode.build_created(await self._service.splits.create(access, created, injection))
            case "get":
                data = self._get(account, split_id or "")
            case _:
                raise _no_operation(request)
        return build_data_reply(data)

    def _reserve(self, account: Account, raw: bytes) -> dict[str, Any]:
        limits = self._service.settings.limits
        request = parse_reservation(parse_json(raw), max_upload_bytes=limits.max_upload_bytes)
        upload = self._service.uploads.reserve(account, request)
        return encode.build_reservation(upload, self._addresses.build_upload_url(upload))

    def _get(self, account: Account, split_id: str) -> dict[str, Any]:
        split = self._service.splits.poll(account, split_id)
        expires_at = self._service.clock.now() + self._service.settings.lifetimes.stem_url
        return encode.build_split(split, self._addresses.build_stem_urls(split, expires_at))

    async def _read(self, request: web.BaseRequest) -> bytes:
        body = b""
        async for chunk in request.content.iter_any():
            body += chunk
            if len(body) > self._service.settings.limits.max_json_bytes:
                raise RefusalError(413, "VALIDATION_ERROR", "The request body is too large.")
        return body


def _identify(request: web.BaseRequest) -> tuple[str, str | None]:
    """Return the operation and, for `get`, the split's id; `unknown` for no operation of the API."""
    path = request.rel_url.raw_path
    if path.startswith(_SPLIT_PREFIX):
        split_id = path[len(_SPLIT_PREFIX) :]
        if split_id and "/" not in split_id:
            return ("get" if request.method == "GET" else _UNKNOWN), unquote(split_id)[:_LONGEST_ID]
    return _OPERATIONS.get(path, {}).get(request.method, _UNKNOWN), None


def _no_operation(request: web.BaseRequest) -> RefusalError:
    path = request.rel_url.raw_path
    is_of_split = path.startswith(_SPLIT_PREFIX) and path != _SPLIT_PREFIX
    allowed = {"GET"} if is_of_split else set(_OPERATIONS.get(path, {}))
    if allowed and request.method not in allowed:
        return not_allowed(f"{request.method} is not allowed here.", ", ".join(sorted(allowed)))
    return not_found("resource")
