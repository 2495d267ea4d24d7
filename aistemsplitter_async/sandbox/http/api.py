"""The API origin: who asks, whether the window lets them, which operation it is, and the envelope around it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import attrs

from aistemsplitter_async.sandbox.http.rate_headers import build_rate_headers
from aistemsplitter_async.sandbox.http.replies import Reply, build_data_reply, build_refusal_reply
from aistemsplitter_async.sandbox.service.ledger import RequestRecord
from aistemsplitter_async.sandbox.service.requests import RefusalError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web

    from aistemsplitter_async.sandbox.faults.rules import Injection
    from aistemsplitter_async.sandbox.http.injector import Injector
    from aistemsplitter_async.sandbox.service.account import Account
    from aistemsplitter_async.sandbox.service.ledger import Ledger
    from aistemsplitter_async.sandbox.service.splits import Splits
    from aistemsplitter_async.sandbox.service.timeline import SandboxClock, Timeline
    from aistemsplitter_async.sandbox.service.uploads import Uploads

OPERATIONS: dict[str, dict[str, str]] = {
    "/v1/credits": {"GET": "credits"},
    "/v1/audio/uploads": {"POST": "reserve"},
    "/v1/audio/splits": {"POST": "create"},
}
_SPLIT_PREFIX = "/v1/audio/splits/"
UNKNOWN = "unknown"


class API:
    """Answers requests to `/v1`. Every request with a valid key counts against that key's window."""

    def __init__(
        self,
        *,
        clock: SandboxClock,
        timeline: Timeline,
        keys: Mapping[str, Account],
        uploads: Uploads,
        splits: Splits,
        ledger: Ledger,
        injector: Injector,
        minute: float,
        rate_styles: frozenset[str],
        max_json_bytes: int,
    ) -> None:
        self._clock = clock
        self._timeline = timeline
        self._keys = keys
        self._uploads = uploads
        self._splits = splits
        self._ledger = ledger
        self._injector = injector
        self._minute = minute
        self._rate_styles = rate_styles
        self._max_json_bytes = max_json_bytes

    async def handle(self, request: web.BaseRequest) -> Reply:
        """Answer one request and enter it in the ledger."""
        self._timeline.run_due()
        operation, split_id = _identify(request)
        account: Account | None = None
        fault: str | None = None
        rate_headers: dict[str, str] = {}
        try:
            account = self._authenticate(request)
            rate_headers = self._admit(account)
            perform = partial(self._perform, request, account, operation, split_id)
            reply, fault = await self._injector.answer(operation, split_id, perform)
        except RefusalError as refusal:
            reply = build_refusal_reply(refusal)
        if rate_headers:
            reply = attrs.evolve(reply, headers=rate_headers | dict(reply.headers))
        label = None if account is None else account.label
        self._ledger.add_request(
            RequestRecord(self._clock.now(), operation, reply.status, label, split_id or reply.split_id, fault)
        )
        return reply

    def _authenticate(self, request: web.BaseRequest) -> Account:
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        account = self._keys.get(key.strip()) if scheme.lower() == "bearer" else None
        if account is None:
            raise RefusalError(
                401, "UNAUTHORIZED", "The API key is missing or invalid.", {"WWW-Authenticate": "Bearer"}
            )
        return account

    def _admit(self, account: Account) -> dict[str, str]:
        if account.window is None:
            return {}
        verdict = account.window.admit(self._clock.monotonic())
        headers = build_rate_headers(verdict, self._rate_styles, minute=self._minute, now=self._clock.now())
        if not verdict.admitted:
            message = f"This key may send {verdict.limit} requests in {self._minute:g} seconds."
            raise RefusalError(429, "RATE_LIMITED", message, headers)
        return headers

    async def _perform(
        self,
        request: web.BaseRequest,
        account: Account,
        operation: str,
        split_id: str | None,
        injection: Injection | None,
    ) -> Reply:
        try:
            return build_data_reply(await self._call(request, account, operation, split_id, injection))
        except RefusalError as refusal:
            return build_refusal_reply(refusal)

    async def _call(
        self,
        request: web.BaseRequest,
        account: Account,
        operation: str,
        split_id: str | None,
        injection: Injection | None,
    ) -> dict[str, Any]:
        match operation:
            case "credits":
                return {"balance": account.balance, "unit": "seconds"}
            case "reserve":
                return self._uploads.reserve(account, await self._read(request))
            case "create":
                key = request.headers.get("Idempotency-Key")
                return await self._splits.create(account, await self._read(request), key, injection)
            case "get":
                return self._splits.get(account, split_id or "")
            case _:
                raise _no_operation(request)

    async def _read(self, request: web.BaseRequest) -> bytes:
        body = b""
        async for chunk in request.content.iter_any():
            body += chunk
            if len(body) > self._max_json_bytes:
                raise RefusalError(413, "VALIDATION_ERROR", "The request body is too large.")
        return body


def _identify(request: web.BaseRequest) -> tuple[str, str | None]:
    """Return the operation and, for `get`, the split's id; `unknown` for no operation of the API."""
    path = request.rel_url.raw_path
    if path.startswith(_SPLIT_PREFIX):
        split_id = path[len(_SPLIT_PREFIX) :]
        if split_id and "/" not in split_id:
            return ("get" if request.method == "GET" else UNKNOWN), unquote(split_id)
    return OPERATIONS.get(path, {}).get(request.method, UNKNOWN), None


def _no_operation(request: web.BaseRequest) -> RefusalError:
    path = request.rel_url.raw_path
    of_a_split = path.startswith(_SPLIT_PREFIX) and path != _SPLIT_PREFIX
    allowed = {"GET"} if of_a_split else set(OPERATIONS.get(path, {}))
    if allowed and request.method not in allowed:
        return RefusalError(
            405,
            "METHOD_NOT_ALLOWED",
            f"{request.method} is not allowed here.",
            {"Allow": ", ".join(sorted(allowed))},
        )
    return RefusalError(404, "NOT_FOUND", "There is no such resource.")
