"""The paths of the API origin, and which handler answers each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from aiohttp import web

from aistemsplitter_async.sandbox.http.refusals import not_found
from aistemsplitter_async.sandbox.http.replies import Reply, build_refusal_reply

Handler = Callable[[web.BaseRequest], Awaitable[Reply]]

API_PREFIX: Final = "/v1"


class Router:
    """Passes a request to the API below `/v1`, or to the handler whose path (or prefix ending in `/`) matches."""

    def __init__(self, api: Handler, others: Mapping[str, Handler]) -> None:
        self._api = api
        self._others = others

    async def handle(self, request: web.BaseRequest) -> Reply:
        """Answer one request."""
        path = request.rel_url.raw_path
        if path.startswith(API_PREFIX):
            return await self._api(request)
        for route, handler in self._others.items():
            if path == route or (route.endswith("/") and route != "/" and path.startswith(route)):
                return await handler(request)
        return build_refusal_reply(not_found("resource"))
