"""The receiver as a handler of an aiohttp server."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from aiohttp import ClientError, web
from aiohttp.http_exceptions import HttpProcessingError
from multidict import istr

from aistemsplitter_async.config import WEBHOOK_CAP_BYTES
from aistemsplitter_async.webhooks.verdict import FIELDS, REFUSED, Handler, Sent

_BROKEN = (web.RequestPayloadError, HttpProcessingError, ClientError, OSError)  # a body that never becomes whole
_SIGNATURE, _ENCODING, _LENGTH = map(istr, FIELDS)  # ready to be looked up in any case
_LINGER = 5.0  # s for a sender to finish what is not read any more: one that is cut off may not see the answer


async def answer(receiver: Handler, request: web.Request) -> web.Response:
    """Read a request, no more of it than an event may have, and answer it."""
    if request.method != "POST":
        return web.Response(status=405, headers={"Allow": "POST"})
    values = request.headers.getall
    sent = Sent.build(values(_SIGNATURE, ()), values(_ENCODING, ()), values(_LENGTH, ()))
    refused = receiver.refuse_unread(sent)  # before anything is read that would have to be unpacked
    body = b""
    if refused is None:
        try:
            body, refused = await _read(receiver, request, sent)
        except _BROKEN:
            refused = REFUSED
    if refused is not None:
        return await _turn_away(request, refused)
    return web.Response(status=await receiver.handle(body, sent))


async def _read(receiver: Handler, request: web.Request, sent: Sent) -> tuple[bytes, int | None]:
    """Return the body, and what to answer if there is more of it than is read."""
    content = request.content
    if content.at_eof():  # it is empty, or a middleware has read it, which the request remembers
        return await request.read(), None
    body = await content.readany()
    while len(body) <= WEBHOOK_CAP_BYTES and not content.at_eof():
        body += await content.readany()
    return body, receiver.refuse_unread(sent, size=len(body)) if len(body) > WEBHOOK_CAP_BYTES else None


async def _turn_away(request: web.Request, status: int) -> web.Response:
    """Answer without having read, and end the connection.

    The rest of the body is left to run out here: aiohttp would do so too, but logs a traceback for one that turns out
    to be broken, as anybody can make one.
    """
    response = web.Response(status=status)
    response.force_close()  # rather than find the next request behind what was refused
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
