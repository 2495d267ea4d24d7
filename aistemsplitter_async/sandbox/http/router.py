"""The door of the API origin: which part of the sandbox a path belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aistemsplitter_async.sandbox.http.replies import Reply, build_refusal_reply
from aistemsplitter_async.sandbox.service.requests import RefusalError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from aiohttp import web

    Handler = Callable[[web.BaseRequest], Awaitable[Reply]]

API_PREFIX = "/v1"


class Front:
    """Sends a request to the API below `/v1`, or to the handler whose path (or prefix ending in `/`) it has."""

    def __init__(self, api: Handler, others: Mapping[str, Handler]) -> None:
        self._api = api
        self._others = others

    async def handle(self, request: web.BaseRequest) -> Reply:
        """Answer one request."""
        path = request.rel_url.raw_path
        if path.startswith(API_PREFIX):
            return await self._api(request)
        for place, handler in self._others.items():
            if path == place or (place.endswith("/") and place != "/" and path.startswith(place)):
                return await handler(request)
        return build_refusal_reply(RefusalError(404, "NOT_FOUND", "There is no such resource."))
