"""Receives webhook requests: verifies them, handles and keeps each event once, and only then answers."""

from __future__ import annotations

import asyncio
import inspect
import math
import os
import re
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from aistemsplitter_async._listeners import as_listener
from aistemsplitter_async._logs.loggers import Log
from aistemsplitter_async._logs.setup import set_up_logging
from aistemsplitter_async._wire.signature import Body, Keys, Secrets, raw_body
from aistemsplitter_async._wire.urls import split_http_url
from aistemsplitter_async.clock import Clock, Deadline, SystemClock
from aistemsplitter_async.config import WEBHOOK_HANDLING, WEBHOOK_SECRET_VARIABLE, WEBHOOK_TOLERANCE
from aistemsplitter_async.errors import ConfigurationError, WebhookError
from aistemsplitter_async.models import redact_url
from aistemsplitter_async.webhooks import aws
from aistemsplitter_async.webhooks.aiohttp_handler import answer
from aistemsplitter_async.webhooks.asgi import ASGIApp
from aistemsplitter_async.webhooks.event import WebhookEvent
from aistemsplitter_async.webhooks.inbox import Inbox, MemoryInbox
from aistemsplitter_async.webhooks.verdict import (
    NOT_ALLOWED,
    OK,
    REFUSED,
    TRY_AGAIN,
    Headers,
    Sent,
    judge,
    judge_unread,
)

if TYPE_CHECKING:
    from aiohttp import web

OnWebhook = Callable[[WebhookEvent], Awaitable[object] | object]
OnRefused = Callable[[WebhookError], object]

_UNFIT = re.compile(r"[\s\x00-\x1f\x7f#]")  # in a URL for the API; `urlsplit` silently drops some of these
_log = Log("webhooks")


class WebhookReceiver:
    """Receives the API's webhooks and notifies clients: `AsyncAIStemSplitter(webhooks=receiver)`.

    Serve one of `aiohttp_handler`, `asgi` and `handle` at `url`; all give the same answers. A receiver and its clients
    share one event loop, unless they use an inbox that connects processes, such as `SQLiteInbox`.

    Answers: 200 once an event has been handled and kept, and for one that is already known or not about a split; 400
    for a request that is not genuine; 413 for one that is too large; 503 if the event could not be handled or kept, so
    that the sender tries again.

    Args:
        secrets: the signing secret, or several during a rotation; by default `AISTEMSPLITTER_WEBHOOK_SECRET`, where
            several are separated by spaces. An empty collection is for a process that only follows the inbox.
        url: where the API reaches this receiver; clients send it with every split they create.
        tolerance: the most seconds between signing and arrival, in the past or the future.
        on_event: called (and awaited) with every new `WebhookEvent` before it is acknowledged. If it raises, or is
            cancelled after 30 seconds, the sender tries again. It may be called again with the same event after a
            crash, or at the same time by another worker, so it should be idempotent.
        on_refused: a listener, called with the `WebhookError` that says why a request was refused; the answer does not
            say it. It must be an ordinary function. What it raises changes nothing; each kind is logged once.
        inbox: where events are kept; in memory by default.
        clock: where time comes from.

    Raises:
        ConfigurationError: no secret, an empty one, or an invalid URL, tolerance or `on_refused`. A receiver without
            secrets raises it when it is used to receive: on reading `aiohttp_handler` or `asgi`, or from `handle`.
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
        set_up_logging(os.environ)
        self._keys = _read_secrets(secrets)
        if isinstance(tolerance, bool) or not (isinstance(tolerance, int | float) and 0 < tolerance < math.inf):
            raise ConfigurationError(f"tolerance must be a positive number of seconds, not {tolerance!r}")
        self.url = _check_url(url)
        self.inbox: Inbox = inbox or MemoryInbox(clock=clock)
        self._tolerance = tolerance
        self._on_event = on_event
        self._on_refused = as_listener(on_refused, "on_refused")
        self._clock = clock or SystemClock()
        # With the duplicates that wait for each. Another event loop is like another process: it waits for its own.
        self._in_progress: dict[tuple[asyncio.AbstractEventLoop, WebhookEvent], list[asyncio.Future[int]]] = {}

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

    async def handle(self, body: Body, headers: Headers | Sent) -> int:
        """Handle a request of any other framework and return the status to answer with.

        Args:
            body: its raw bytes (`bytes`, `bytearray`, `memoryview`), or their text where a platform decodes UTF-8; not
                decompressed. More than 64 KiB need not be read (`refuse_unread`).
            headers: a mapping, or pairs of name and value, as your framework provides them; a WSGI environ, too.

        Raises:
            TypeError: the body is something else, such as parsed JSON, or the headers are. Nothing that a sender does
                causes it.
        """
        keys = self._check_keys()
        raw, sent = raw_body(body), headers if isinstance(headers, Sent) else Sent.parse(headers)
        try:
            event = judge(raw, sent, secrets=keys, now=self._clock.now(), tolerance=self._tolerance)
        except WebhookError as error:
            return self._refuse(error)
        return OK if event is None else await self._process_once(event)

    async def handle_lambda(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Handle a request that AWS passes to a Lambda function, and return the function's result.

        Args:
            event: of an API Gateway (REST or HTTP API, payload 1.0 or 2.0), a function URL or a load balancer.

        Raises:
            TypeError: the event is not an HTTP request.
        """
        request = aws.parse_request(event)
        if request.method != "POST":
            return aws.build_result(NOT_ALLOWED, request)
        sent = Sent.parse(request.headers)
        status = self.refuse_unread(sent, size=request.size)
        if status is None:
            status = await self.handle(request.read(), sent)
        return aws.build_result(status, request)

    def refuse_unread(self, headers: Headers | Sent, *, size: int | None = None) -> int | None:
        """Return the status to answer with before the body is read (any further), `None` if it must be read.

        Args:
            headers: of the request.
            size: bytes read so far; by default what `Content-Length` says.
        """
        try:
            judge_unread(headers if isinstance(headers, Sent) else Sent.parse(headers), size=size)
        except WebhookError as error:
            return self._refuse(error)
        return None

    def _refuse(self, error: WebhookError) -> int:
        if self._on_refused is not None:
            self._on_refused(error)
        return error.status_code or REFUSED

    async def _process_once(self, event: WebhookEvent) -> int:
        """Process an event; a duplicate that arrives during that time gets the same answer."""
        loop = asyncio.get_running_loop()
        key = loop, event
        if key in self._in_progress:
            duplicate: asyncio.Future[int] = loop.create_future()
            self._in_progress[key].append(duplicate)
            return await duplicate
        self._in_progress[key] = []
        status = TRY_AGAIN  # the duplicates' answer if this is cancelled
        try:
            status = await self._process(event)
        finally:
            for duplicate in self._in_progress.pop(key):
                if not duplicate.done():
                    duplicate.set_result(status)
        return status

    async def _process(self, event: WebhookEvent) -> int:
        try:
            if await self.inbox.has(event):
                return OK
            if self._on_event is not None:
                handled = self._on_event(event)
                if inspect.isawaitable(handled):
                    async with Deadline.after(self._clock, WEBHOOK_HANDLING).scope():
                        await handled
            await self.inbox.put(event)
        except BaseException as error:  # whichever error a handler or an inbox raises, the sender should try again
            if is_cancellation(error):
                raise
            message = "cannot process the webhook event of %s; the sender is asked to try again"
            _log.failure(error, message, event.split_id, split_id=event.split_id)
            return TRY_AGAIN
        return OK

    def _check_keys(self) -> Keys:
        if self._keys is None:
            raise ConfigurationError(
                "this receiver has no secrets: it only follows its inbox", code="NO_WEBHOOK_SECRET"
            )
        return self._keys


def is_cancellation(error: BaseException) -> bool:
    """Return whether the request or the process is being stopped; otherwise what was called has failed."""
    if isinstance(error, asyncio.CancelledError):  # a handler raises it too if a task that it awaits was cancelled
        task = asyncio.current_task()
        return task is None or task.cancelling() > 0
    return isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit)


def _read_secrets(secrets: Secrets | None) -> Keys | None:
    """Return the secrets given, or those in the environment; `None` for an empty collection."""
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
        raise ConfigurationError(f"a webhook URL must be a string, not {type(url).__name__}")
    if split_http_url(url) is None or _UNFIT.search(url):
        raise ConfigurationError(
            f"{redact_url(url)!r} is not a webhook URL; it should look like https://example.com/webhooks"
        )
    return url
