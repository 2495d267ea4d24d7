"""The receiver as a handler of an aiohttp server."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from aiohttp import ClientError, web
from aiohttp.http_exceptions import HttpProcessingError
from multidict import istr

from aistemsplitter_async.config import WEBHOOK_CAP_BYTES
from aistemsplitter_async.webhooks.verdict import FIELDS, REFUSED, Handler, Sent

_BROKEN = (web.RequestPayloadError, HttpProcessingError, ClientError, OSError)  # what reading a broken body raises
_SIGNATURE, _ENCODING, _LENGTH = map(istr, FIELDS)  # case-insensitive keys, built once
_LINGER = 5.0  # s for a refused sender to finish its body: one that is cut off may not see the answer


async def answer(receiver: Handler, request: web.Request) -> web.Response:
    """Answer a request. No more of its body is read than an event may have."""
    if request.method != "POST":
        return web.Response(status=405, headers={"Allow": "POST"})
    values = request.headers.getall
    sent = Sent.build(values(_SIGNATURE, ()), values(_ENCODING, ()), values(_LENGTH, ()))
    refused = receiver.refuse_unread(sent)  # first: aiohttp would decompress the body on reading it
    body = b""
    if refused is None:
        try:
            body, refused = await _read(receiver, request, sent)
        except _BROKEN:
            refused = REFUSED
    if refused is not None:
        return await _refuse(request, refused)
    return web.Response(status=await receiver.handle(body, sent))


async def _read(receiver: Handler, request: web.Request, sent: Sent) -> tuple[bytes, int | None]:
    """Return the body, and the status to answer if it is too large to be read whole."""
    content = request.content
    if content.at_eof():  # it is empty, or a middleware has read it, and aiohttp keeps what was read
        return await request.read(), None
    body = await content.readany()
    while len(body) <= WEBHOOK_CAP_BYTES and not content.at_eof():
        body += await content.readany()
    return body, receiver.refuse_unread(sent, size=len(body)) if len(body) > WEBHOOK_CAP_BYTES else None


async def _refuse(request: web.Request, status: int) -> web.Response:
    """Answer without reading the body, and end the connection.

    The rest of the body is discarded here. aiohttp would do that too, but it logs a traceback for a broken body, which
    any stranger can send.
    """
    response = web.Response(status=status)
    response.force_close()  # the refused body must not be parsed as the next request
    whole = False
    with suppress(*_BROKEN, TimeoutError):
        await response.prepare(request)
        await response.write_eof()
        async with asyncio.timeout(_LINGER):
            while await request.content.readany():
                pass
        whole = True
    if not whole:
        request.protocol.force_close()
    return response
