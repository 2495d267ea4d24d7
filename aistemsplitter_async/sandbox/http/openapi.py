"""Serves `openapi.json`, an OpenAPI 3.1 description of the API as far as it is documented, written by hand."""

from __future__ import annotations

import asyncio
import json
from functools import cache
from typing import Any

from aiohttp import web

from aistemsplitter_async._web import read_asset
from aistemsplitter_async.sandbox.http.encode import dump
from aistemsplitter_async.sandbox.http.refusals import not_allowed
from aistemsplitter_async.sandbox.http.replies import JSON_HEADERS, Reply, build_refusal_reply


@cache
def load_description() -> dict[str, Any]:
    """Return the description as JSON values."""
    description: dict[str, Any] = json.loads(read_asset("sandbox/http/openapi.json"))
    return description


async def serve_description(request: web.BaseRequest) -> Reply:
    """Answer `GET /openapi.json`, with this sandbox as the first server."""
    if request.method not in ("GET", "HEAD"):
        return build_refusal_reply(not_allowed("Only GET.", "GET, HEAD"))
    here = {"url": f"http://{request.headers.get('Host', 'localhost')}/v1"}
    description = await asyncio.to_thread(load_description)
    return Reply(200, dump(description | {"servers": [here, *description["servers"]]}), JSON_HEADERS)
