"""The receiver as a handler of an aiohttp server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import ClientError, web
from aiohttp.http_exceptions import HttpProcessingError

from aistemsplitter_async.config import WEBHOOK_CAP_BYTES

from .verdict import FIELDS, REFUSED, Sent

if TYPE_CHECKING:
    from .receiver import WebhookReceiver

_BROKEN = (web.RequestPayloadError, HttpProcessingError, ClientError, OSError)  # a body that never becomes whole


async def answer(receiver: WebhookReceiver, request: web.Request) -> web.Response:
    """Read a request, no more of it than an event may have, and answer it."""
    if request.method != "POST":
        return web.Response(status=405, headers={"Allow": "POST"})
    values = request.headers.getall
    sent = Sent.build(*(values(name, ()) for name in FIELDS))
    refused = receiver.refuse_unread(sent)  # before anything is read that would have to be unpacked
    body = bytearray()
    try:
        while refused is None and (chunk := await request.content.readany()):
            body += chunk
            if len(body) > WEBHOOK_CAP_BYTES:
                refused = receiver.refuse_unread(sent, size=len(body))
    except _BROKEN:
        refused = REFUSED
    if refused is None:
        return web.Response(status=await receiver.handle(body, sent))
    response = web.Response(status=refused)
    response.force_close()  # rather than read what was refused, to find the next request behind it
    return response
