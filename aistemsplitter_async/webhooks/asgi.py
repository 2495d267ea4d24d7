"""The receiver as an ASGI application (asgi.readthedocs.io, specification 3.0)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import attrs

from aistemsplitter_async.config import WEBHOOK_CAP_BYTES
from aistemsplitter_async.webhooks.verdict import Handler, Sent

# Every framework declares these types for itself.
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


@attrs.frozen
class ASGIApp:
    """Answers every POST to the path it is mounted at."""

    _receiver: Handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        match scope["type"]:
            case "http" if scope["method"] != "POST":
                await _answer(send, 405, (b"allow", b"POST"))
            case "http":
                await self._answer_post(scope, receive, send)
            case "websocket":
                await send({"type": "websocket.close", "code": 1000})
            case "lifespan":
                await _serve_lifespan(receive, send)

    async def _answer_post(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request. No more of its body is read than an event may have."""
        receiver, sent = self._receiver, Sent.parse(scope["headers"])
        refused, body, more = receiver.refuse_unread(sent), bytearray(), True
        while refused is None and more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return  # the sender has disconnected
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > WEBHOOK_CAP_BYTES:
                refused = receiver.refuse_unread(sent, size=len(body))
        await _answer(send, await receiver.handle(body, sent) if refused is None else refused)


async def _answer(send: Send, status: int, *headers: tuple[bytes, bytes]) -> None:
    head = [(b"content-length", b"0"), *headers]
    await send({"type": "http.response.start", "status": int(status), "headers": head})
    await send({"type": "http.response.body", "body": b""})


async def _serve_lifespan(receive: Receive, send: Send) -> None:
    """Acknowledge the server's startup and shutdown; the receiver needs neither."""
    while True:
        phase = (await receive())["type"]
        await send({"type": f"{phase}.complete"})
        if phase == "lifespan.shutdown":
            return
