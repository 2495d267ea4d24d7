"""One listening address: every request gets a reply, and closing leaves nothing behind."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from aistemsplitter_async._tasks import cancel_and_wait
from aistemsplitter_async.sandbox.http.refusals import RefusalError
from aistemsplitter_async.sandbox.http.replies import Reply, build_refusal_reply
from aistemsplitter_async.sandbox.http.sending import send
from aistemsplitter_async.sandbox.service.timeline import SandboxClock

Handler = Callable[[web.BaseRequest], Awaitable[Reply]]

_log = logging.getLogger(__name__)
logging.getLogger("aistemsplitter_async").addHandler(logging.NullHandler())  # nothing configured means silence
_READ_BYTES = 256 * 1024
_KEEPALIVE = 75.0
_BACKLOG = 1024

if TYPE_CHECKING:
    _Adapter = logging.LoggerAdapter[logging.Logger]
else:
    _Adapter = logging.LoggerAdapter


class _ServerLogger(_Adapter):
    """Bytes that are no HTTP, such as those of a TLS client, are the fault of who sent them: no traceback for them."""

    def exception(self, msg: object, *args: object, exc_info: Any = True, **kwargs: Any) -> None:
        if isinstance(exc_info, HttpProcessingError):
            self.debug("refused: %s", exc_info.message)
        else:
            super().exception(msg, *args, exc_info=exc_info, **kwargs)


class _Server(web.Server):
    """aiohttp's server, which can also wait for the loss of a connection."""

    def __init__(self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> None:
        super().__init__(
            handler,
            logger=_ServerLogger(_log, {}),
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=_KEEPALIVE,
            read_bufsize=_READ_BYTES,
        )
        self._waiting: dict[RequestHandler, asyncio.Event] = {}

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        if handler in self._waiting:
            self._waiting.pop(handler).set()

    async def disconnection(self, request: web.BaseRequest) -> None:
        """Return once the connection of `request` is lost."""
        if request.transport is not None and not request.transport.is_closing():
            await self._waiting.setdefault(request.protocol, asyncio.Event()).wait()


class Origin:
    """An HTTP server: `handler` decides on the reply, the origin sends it.

    A handler runs to its end even if the client disconnects: what a request asked for happens.
    """

    def __init__(self, name: str, handler: Handler, clock: SandboxClock) -> None:
        self._name = name
        self._handler = handler
        self._clock = clock
        self._server: _Server | None = None
        self._listener: asyncio.Server | None = None
        self._busy: set[asyncio.Task[object]] = set()

    async def start(self, host: str, port: int, *, fixed: bool) -> str:
        """Listen, and return the origin's address, `http://host:port`. If the port is taken, choose another one.

        Raises:
            OSError: The port is taken and `fixed`, or there is no such host.
        """
        loop = asyncio.get_running_loop()
        self._server = _Server(self._respond)
        try:
            self._listener = await loop.create_server(self._server, host, port, backlog=_BACKLOG)
        except OSError:
            if fixed or not port:
                raise
            self._listener = await loop.create_server(self._server, host, 0, backlog=_BACKLOG)
        bound: int = self._listener.sockets[0].getsockname()[1]
        return f"http://{f'[{host}]' if ':' in host else host}:{bound}"

    async def aclose(self) -> None:
        """Stop listening, cancel requests under way, close every connection."""
        if self._listener is None or self._server is None:
            return
        self._listener.close()
        self._server.pre_shutdown()
        await cancel_and_wait(*self._busy)
        await self._server.shutdown(0.1)
        self._listener = self._server = None
        await asyncio.sleep(0)  # connections are closed by callbacks

    async def _respond(self, request: web.BaseRequest) -> web.StreamResponse:
        task = asyncio.current_task()
        if task is not None:
            self._busy.add(task)
        try:
            reply = await self._decide(request)
            return await send(request, reply, clock=self._clock, disconnection=self._disconnection)
        except (OSError, web.RequestPayloadError):
            # The client has disconnected, or the file is gone; the response returned here goes nowhere.
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        finally:
            if task is not None:
                self._busy.discard(task)

    async def _disconnection(self, request: web.BaseRequest) -> None:
        if self._server is not None:
            await self._server.disconnection(request)

    async def _decide(self, request: web.BaseRequest) -> Reply:
        try:
            reply = await self._handler(request)
        except (ConnectionError, web.RequestPayloadError):
            raise
        except Exception:  # noqa: BLE001  a bug is answered in the envelope too
            _log.exception("%s failed on %s %s", self._name, request.method, request.rel_url.path)
            reply = build_refusal_reply(RefusalError(500, "SERVER_ERROR", "The sandbox failed internally."))
        _log.debug("%s: %s %s -> %d", self._name, request.method, request.rel_url.path, reply.status)
        return reply
