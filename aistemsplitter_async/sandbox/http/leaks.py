"""API keys sent to the upload worker or the CDN, which must never see one."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from aiohttp import web

from aistemsplitter_async.sandbox.http.refusals import RefusalError
from aistemsplitter_async.sandbox.service.ledger import LeakedKey
from aistemsplitter_async.sandbox.service.service import Service


def refuse_leaked_key(request: web.BaseRequest, service: Service, origin: str, name: str) -> None:
    """Refuse with 400 a request that carries credentials, and record it in the ledger.

    Args:
        request: The request.
        service: Knows the keys and has the ledger.
        origin: The origin as the ledger calls it.
        name: The origin as people call it.
    """
    leak = find_leak(request.headers.items(), str(request.rel_url), service.accesses)
    if leak is not None:
        service.ledger.add_leak(LeakedKey(service.clock.now(), origin, leak))
        raise RefusalError(400, "UNEXPECTED_AUTHORIZATION", f"API keys belong to the API, never to the {name}.")


def find_leak(headers: Iterable[tuple[str, str]], url: str, api_keys: Collection[str]) -> str | None:
    """Return where a request carries credentials: a header's name or `url`; `None` if it carries none.

    Any `Authorization` header counts, with any value; elsewhere only a key that this sandbox knows.
    """
    for name, value in headers:
        if name.lower() == "authorization" or any(key in value for key in api_keys):
            return name
    return "url" if any(key in url for key in api_keys) else None
