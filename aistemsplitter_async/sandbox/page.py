"""The sandbox's own page at `/`: one HTML document without a single outside reference.

Its style and its scripts lie in `web/` and are put into the document here, so there is no build step. The content
security policy names each by its hash and allows nothing else: no other script or style runs, none can be made out of
text, and data goes nowhere but to the sandbox. The document holds no data; it asks `/control/` for everything.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from .replies import Reply, build_refusal_reply
from .wire import RefusalError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web

_WEB: Final = Path(__file__).with_name("web")
_SCRIPTS: Final = ("dom.js", "waveform.js", "player.js", "overview.js", "splits.js", "page.js")


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
        """Answer one request; it is not entered in the ledger."""
        if request.method not in ("GET", "HEAD"):
            return build_refusal_reply(RefusalError(405, "METHOD_NOT_ALLOWED", "Only GET.", {"Allow": "GET, HEAD"}))
        document = await asyncio.to_thread(build_document, control=self._control)
        return Reply(200, document.html, document.headers)


@cache
def build_document(*, control: bool) -> Document:
    """Return the page, put together from `web/`."""
    style = f"\n{_read('page.css')}"
    script = "\n" + "\n".join(_read(name) for name in _SCRIPTS)
    html = (
        _read("page.html")
        .replace("{{control}}", "on" if control else "off")
        .replace("{{style}}", style)
        .replace("{{script}}", script)
    )
    policy = {
        "default-src": "'none'",
        "script-src": _hash(script),
        "style-src": _hash(style),
        "img-src": "data:",
        "connect-src": "'self'",
        "media-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    headers = {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "Cache-Control": "no-cache",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
    }
    return Document(html.encode(), headers)


def _read(name: str) -> str:
    return (_WEB / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
