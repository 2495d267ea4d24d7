"""Receives webhooks: is it genuine, is it new, who has to hear of it; and only then the answer."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import os
import re
from collections.abc import Awaitable, Callable, Collection, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from aistemsplitter_async._wire.signature import Keys, Secrets
from aistemsplitter_async.clock import Clock, SystemClock
from aistemsplitter_async.config import WEBHOOK_HANDLING, WEBHOOK_SECRET_VARIABLE, WEBHOOK_TOLERANCE
from aistemsplitter_async.errors import ConfigurationError, WebhookError
from aistemsplitter_async.models import redact_url
from aistemsplitter_async.webhooks.aiohttp_handler import answer
from aistemsplitter_async.webhooks.asgi import ASGIApp
from aistemsplitter_async.webhooks.event import WebhookEvent
from aistemsplitter_async.webhooks.inbox import Inbox, MemoryInbox
from aistemsplitter_async.webhooks.verdict import OK, REFUSED, TRY_AGAIN, Headers, Sent, judge, judge_unread

if TYPE_CHECKING:
    from aiohttp import web

OnWebhook = Callable[[WebhookEvent], Awaitable[object] | object]
OnRefused = Callable[[WebhookError], object]

_UNFIT = re.compile(r"[\s\x00-\x1f\x7f#]")  # in a URL that is sent to others: `urlsplit` drops some of them itself
_log = logging.getLogger(__name__)


class WebhookReceiver:
    """Takes the API's webhooks, and lets clients know: `AsyncAIStemSplitter(webhooks=receiver)`.

    Serve one of `aiohttp_handler`, `asgi` and `handle` at `url`; all answer alike. It belongs to the event loop it
    serves in, and so do its clients; an inbox in a file joins processes.

    Answers: 200 once an event has been handled and kept, and to one that is known already or about something else; 400
    to what is not genuine, 413 to what is too large; 503 when the event could not be handled or kept: then the sender
    tries again.

    Args:
        secrets: the signing secret, or several while it is being rotated; otherwise `AISTEMSPLITTER_WEBHOOK_SECRET`,
            where several are separated by spaces. An empty collection is for a process that only follows the inbox.
        url: where the API reaches this receiver; clients send it along with every split.
        tolerance: seconds that a signature may be old, or ahead.
        on_event: called (and awaited) with every new `WebhookEvent` before it is acknowledged. If it raises, the sender
            will try again; so it will after 30 seconds, when it is cancelled. It may be called with the same event once
            more after a crash, or by another worker at the same time: let it do nothing twice.
        on_refused: called with the `WebhookError` that says why a request was refused, which the sender is not told.
            Not awaited: an `async` function is refused.
        inbox: where events are kept; in memory if not given.
        clock: where time comes from.

    Raises:
        ConfigurationError: no secret, an empty one, or a URL, tolerance or `on_refused` that cannot be right. One with
            no secrets raises it when it is asked to receive: where `aiohttp_handler` or `asgi` is put into an
            application, or when `handle` is called.
    """

    def __init__(
        self,
        secrets: Secrets | None = None,
        *,
        url: str,
        tolerance: float = WEBHOOK_TOLERANCE,
        on_event: OnWebhook | None = None,
        on_refused: OnRefused | None = None,
        inbox: Inbox | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._keys = _read_secrets(secrets)
        if isinstance(tolerance, bool) or not (isinstance(tolerance, int | float) and 0 < tolerance < math.inf):
            raise ConfigurationError(f"tolerance must be a positive number of seconds, not {tolerance!r}")
        if inspect.iscoroutinefunction(on_refused):  # `refuse_unread` cannot wait for it
            raise ConfigurationError("on_refused must be an ordinary function, not an async one")
        self.url = _check_url(url)
        self.inbox: Inbox = inbox or MemoryInbox(clock=clock)
        self._tolerance = tolerance
        self._on_event = on_event
        self._on_refused = on_refused
        self._clock = clock or SystemClock()
        self._under_way: dict[WebhookEvent, list[asyncio.Future[int]]] = {}  # and who waits for the same answer

    def __repr__(self) -> str:
        return f"WebhookReceiver(url={redact_url(self.url)!r})"

    @property
    def asgi(self) -> ASGIApp:
        """The receiver as an ASGI application: mount it in FastAPI, Starlette, Litestar or Quart."""
        self._check_keys()
        return ASGIApp(self)

    @property
    def aiohttp_handler(self) -> Callable[[web.Request], Coroutine[Any, Any, web.Response]]:
        """The receiver as a handler of an aiohttp app: `app.router.add_post("/webhooks", receiver.aiohttp_handler)`."""
        self._check_keys()
        return partial(answer, self)

    async def handle(self, body: bytes | bytearray, headers: Headers | Sent) -> int:
        """Return the status to answer to a request, for any other framework.

        Args:
            body: its raw bytes, neither decoded nor unpacked. More than 64 KiB need not be read (`refuse_unread`).
            headers: a mapping, or pairs of name and value, as your framework has them.
        """
        keys = self._check_keys()
        sent = headers if isinstance(headers, Sent) else Sent.parse(headers)
        try:
            event = judge(bytes(body), sent, secrets=keys, now=self._clock.now(), tolerance=self._tolerance)
        except WebhookError as error:
            return self._refuse(error)
        return OK if event is None else await self._take_once(event)

    def refuse_unread(self, headers: Headers | Sent, *, size: int | None = None) -> int | None:
        """Return the status to answer without reading (more of) the body, `None` if it has to be read.

        Args:
            headers: of the request.
            size: bytes read so far; what `Content-Length` says, if not given.
        """
        try:
            judge_unread(headers if isinstance(headers, Sent) else Sent.parse(headers), size=size)
        except WebhookError as error:
            return self._refuse(error)
        return None

    def _refuse(self, error: WebhookError) -> int:
        if self._on_refused is not None:
            try:
                self._on_refused(error)
            except Exception:  # noqa: BLE001  # it is told; what it makes of that changes no answer
                _log.exception("on_refused failed")
        return error.status_code or REFUSED

    async def _take_once(self, event: WebhookEvent) -> int:
        """Take an event; a duplicate that comes meanwhile gets the same answer."""
        under_way = self._under_way
        if event in under_way:
            duplicate: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            under_way[event].append(duplicate)
            return await duplicate
        under_way[event] = []
        status = TRY_AGAIN  # what duplicates are told if we are cancelled
        try:
            status = await self._take(event)
        finally:
            for duplicate in under_way.pop(event):
                if not duplicate.done():
                    duplicate.set_result(status)
        return status

    async def _take(self, event: WebhookEvent) -> int:
        try:
            if await self.inbox.has(event):
                return OK
            if self._on_event is not None:
                handled = self._on_event(event)
                if inspect.isawaitable(handled):
                    async with self._clock.timeout_at(self._clock.monotonic() + WEBHOOK_HANDLING):
                        await handled
            await self.inbox.put(event)
        except BaseException as error:  # whatever a handler or an inbox raises, the sender shall try again
            if _ends_us(error):
                raise
            _log.exception(
                "the webhook event of %s could not be taken; the sender is told to try again", event.split_id
            )
            return TRY_AGAIN
        return OK

    def _check_keys(self) -> Keys:
        if self._keys is None:
            raise ConfigurationError(
                "this receiver has no secrets: it only follows its inbox", code="NO_WEBHOOK_SECRET"
            )
        return self._keys


def _ends_us(error: BaseException) -> bool:
    """Return whether the request or the process is being ended, rather than what was called has failed."""
    if isinstance(error, asyncio.CancelledError):  # a handler passes it on where a task that it waits for is cancelled
        task = asyncio.current_task()
        return task is None or task.cancelling() > 0
    return isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit)


def _read_secrets(secrets: Secrets | None) -> Keys | None:
    """Return the secrets given, or those of the environment; `None` for an empty collection."""
    if secrets is None:
        secrets = os.environ.get(WEBHOOK_SECRET_VARIABLE, "").split()
        if not secrets:
            raise ConfigurationError(
                f"no webhook secret: set {WEBHOOK_SECRET_VARIABLE} or pass secrets", code="NO_WEBHOOK_SECRET"
            )
    if isinstance(secrets, Keys):
        return secrets
    if isinstance(secrets, Collection) and not isinstance(secrets, str | bytes) and not secrets:
        return None
    return Keys(secrets)


def _check_url(url: str) -> str:
    if not isinstance(url, str):
        raise ConfigurationError(f"a URL for webhooks is text, not {type(url).__name__}")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urlsplit("")
    if parts.scheme not in ("http", "https") or not host or _UNFIT.search(url):
        raise ConfigurationError(
            f"{redact_url(url)!r} is no URL for webhooks; it looks like https://example.com/webhooks"
        )
    return url
