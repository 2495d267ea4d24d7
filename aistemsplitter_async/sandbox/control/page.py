"""The sandbox's page at `/`: one HTML document without any external reference.

Its style and its scripts are inserted here, so there is no build step. The content security policy names each by its
hash and allows nothing else: no other script or style runs, text cannot become one, and data is sent only to the
sandbox. The document contains no data; it asks `/control/` for everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import cache
from typing import Final

import attrs
from aiohttp import web

from aistemsplitter_async._web import build_policy, read_asset
from aistemsplitter_async.sandbox.http.refusals import not_allowed
from aistemsplitter_async.sandbox.http.replies import Reply, build_refusal_reply

_SHARED: Final = ("_web/dom.js", "_web/waveform.js", "_web/player.js")
_OWN: Final = "sandbox/control/web"
_SCRIPTS: Final = (*_SHARED, f"{_OWN}/overview.js", f"{_OWN}/splits.js", f"{_OWN}/page.js")


@attrs.frozen
class Document:
    """The page as it is sent."""

    html: bytes
    headers: Mapping[str, str]


class Page:
    """Answers `/`. `control` says whether there is a control endpoint to ask."""

    def __init__(self, *, control: bool) -> None:
        self._control = control

    async def handle(self, request: web.BaseRequest) -> Reply:
        """Answer one request; it is not recorded in the ledger."""
        if request.method not in ("GET", "HEAD"):
            return build_refusal_reply(not_allowed("Only GET.", "GET, HEAD"))
        document = await asyncio.to_thread(build_document, control=self._control)
        return Reply(200, document.html, document.headers)


@cache
def build_document(*, control: bool) -> Document:
    """Return the page."""
    style = f"\n{read_asset('_web/page.css')}"
    script = "\n" + "\n".join(read_asset(name) for name in _SCRIPTS)
    html = (
        read_asset(f"{_OWN}/page.html")
        .replace("{{control}}", "on" if control else "off")
        .replace("{{style}}", style)
        .replace("{{script}}", script)
    )
    allowed = {"connect-src": "'self'", "media-src": "'self'", "frame-ancestors": "'none'"}
    headers = {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": build_policy(script, style, allowed),
        "Cache-Control": "no-cache",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
    }
    return Document(html.encode(), headers)
