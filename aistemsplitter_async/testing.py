"""Fakes for tests of code that uses this package: a clock moved by the test, and a transport that is a function.

The pytest fixtures `stem_sandbox` and `stem_client` need no import; they live in `pytest_plugin`.
"""

from __future__ import annotations

import asyncio
import heapq
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from importlib import import_module
from itertools import count
from typing import TYPE_CHECKING, Any

import attrs

from aistemsplitter_async._wire.messages import Reply, Request
from aistemsplitter_async._wire.urls import URLPolicy
from aistemsplitter_async.config import PollPolicy, RetryPolicy, Secret, Timeouts
from aistemsplitter_async.errors import AIStemSplitterError

if TYPE_CHECKING:  # they import aiohttp, which tests that use only the fakes do not need
    from aistemsplitter_async._send.transport import AiohttpTransport, StreamedReply
    from aistemsplitter_async.client import AsyncAIStemSplitter

# After this many turns of the event loop every task waits: more than any chain of callbacks between two waits takes.
_TURNS = 100
# After this many turns in which nothing else was ready every task waits; a single one could be a coincidence.
_IDLE_TURNS = 3


class FakeClock:
    """A `Clock` whose time stands still until `advance` moves it.

    With `autojump=True` it moves by itself: whenever every task waits, time jumps to the next timer. It cannot see work
    in threads and on sockets, so use that only for code without any, and only one such clock per event loop. What the
    first calls of a client load in a thread, making such a clock loads.

    Args:
        start: what `monotonic()` says first, in seconds.
        now: what `now()` says first, in POSIX seconds.
        autojump: see above.
    """

    def __init__(self, *, start: float = 1000.0, now: float = 1_800_000_000.0, autojump: bool = False) -> None:
        self._start = start
        self._time = start
        self._now = now
        self._timers: list[_Timer] = []
        self._order = count()
        self._autojump = autojump
        if autojump:  # what the first calls load in a thread otherwise
            import_module("aistemsplitter_async.batch.runner")
        self._idle_turns: int | None = None  # while waiting to jump

    def monotonic(self) -> float:
        """Return the fake time in seconds."""
        return self._time

    def now(self) -> float:
        """Return the fake wall clock in POSIX seconds."""
        return self._now + self._time - self._start

    async def sleep(self, seconds: float) -> None:
        """Wait until fake time has moved on by `seconds`."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken = asyncio.Event()
        timer = self._at(self._time + seconds, woken.set)
        try:
            await woken.wait()
        finally:
            timer.over = True

    def timeout_at(self, deadline: float | None) -> AbstractAsyncContextManager[object]:
        """Return a context that raises `TimeoutError` when fake time reaches `deadline`."""
        return self._timeout(deadline)

    @asynccontextmanager
    async def _timeout(self, deadline: float | None) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(None) as timeout:
            if deadline is None:
                yield
                return
            if deadline <= self._time:  # like the real one: expires at the first wait
                timeout.reschedule(loop.time())
                yield
                return
            timer = self._at(deadline, lambda: timeout.reschedule(loop.time()))
            try:
                yield
            finally:
                timer.over = True

    async def advance(self, seconds: float) -> None:
        """Move time on by `seconds`, stopping at every timer on the way, and let all tasks run."""
        end = self._time + seconds
        await self.settle()
        while (timer := self._next()) is not None and timer.when <= end:
            self._jump(timer)
            await self.settle()
        self._time = end
        await self.settle()

    async def settle(self) -> None:
        """Let every task run until it waits for something."""
        for _ in range(_TURNS):
            await asyncio.sleep(0)

    def _at(self, when: float, callback: Callable[[], None]) -> _Timer:
        timer = _Timer(when, next(self._order), callback)
        heapq.heappush(self._timers, timer)
        if self._autojump:
            if self._idle_turns is None:
                asyncio.get_running_loop().call_soon(self._consider_jump)
            self._idle_turns = 0
        return timer

    def _next(self) -> _Timer | None:
        while self._timers and self._timers[0].over:
            heapq.heappop(self._timers)
        return self._timers[0] if self._timers else None

    def _consider_jump(self) -> None:
        timer = self._next()
        if timer is None or self._idle_turns is None:
            self._idle_turns = None
            return
        loop = asyncio.get_running_loop()
        ready = getattr(loop, "_ready", None)  # what asyncio runs next; other loops may lack it and get more turns
        self._idle_turns = 0 if ready else self._idle_turns + 1
        if self._idle_turns > (_TURNS if ready is None else _IDLE_TURNS):
            self._jump(timer)
            self._idle_turns = 0
        loop.call_soon(self._consider_jump)

    def _jump(self, timer: _Timer) -> None:
        self._time = max(self._time, timer.when)
        timer.over = True
        timer.callback()


@attrs.define(order=True)
class _Timer:
    when: float
    order: int
    callback: Callable[[], None] = attrs.field(order=False)
    over: bool = attrs.field(default=False, order=False)


@attrs.frozen
class Exchange:
    """One attempt that a `FakeTransport` was asked to make: the request and its whole body."""

    request: Request
    body: bytes = attrs.field(repr=False)


Answer = Reply | AIStemSplitterError
Handler = Callable[[Exchange], Answer | Awaitable[Answer]]


def json_reply(data: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Reply:
    """Return a success reply in the API's envelope."""
    return _envelope(status, {"success": True, "data": data}, headers)


def error_reply(status: int, code: str, message: str = "", *, headers: dict[str, str] | None = None) -> Reply:
    """Return a failure reply in the API's envelope."""
    return _envelope(status, {"success": False, "error": {"code": code, "message": message}}, headers)


def _envelope(status: int, value: dict[str, Any], headers: dict[str, str] | None) -> Reply:
    headers = {"content-type": "application/json", **(headers or {})}
    return Reply(status=status, headers=headers, body=json.dumps(value).encode())


class FakeTransport:
    """A `Transport` that answers with a function of yours instead of a network.

    Args:
        handler: called with each `Exchange`; returns a `Reply` or an error to raise, or an awaitable of one.

    Attributes:
        exchanges: the requests made so far, oldest first.
    """

    def __init__(self, handler: Handler) -> None:
        self.exchanges: list[Exchange] = []
        self.closed: bool = False
        self._handler = handler

    async def send(self, request: Request, /) -> Reply:
        """Answer with the handler's reply, or raise its error."""
        exchange = Exchange(request, await _read(request))
        self.exchanges.append(exchange)
        answer = self._handler(exchange)
        if isinstance(answer, Awaitable):
            answer = await answer
        if isinstance(answer, Reply):
            return answer
        raise answer

    @asynccontextmanager
    async def stream(self, request: Request, /) -> AsyncIterator[StreamedReply]:
        """Yield the handler's reply as a stream of one chunk."""
        yield _Streamed(await self.send(request))

    async def aclose(self) -> None:
        """Note that the client was closed."""
        self.closed = True


class PerCallTransport:
    """A real `Transport` that closes its connection after each call, so that it need not be closed itself.

    Each call takes about a millisecond longer, and a client does not depend on when the event loop is closed.

    Args:
        api_key: sent to the API only.
        base_url: a server on this machine.
    """

    def __init__(self, api_key: str, base_url: str) -> None:
        self._api_key = Secret(api_key)
        self._base_url = base_url

    async def send(self, request: Request, /) -> Reply:
        """Make one attempt and return the whole reply."""
        async with self._open() as transport:
            return await transport.send(request)

    @asynccontextmanager
    async def stream(self, request: Request, /) -> AsyncIterator[StreamedReply]:
        """Make one attempt and yield the reply as it arrives."""
        async with self._open() as transport, transport.stream(request) as reply:
            yield reply

    async def aclose(self) -> None:
        """Do nothing: nothing is open."""

    def _open(self) -> AbstractAsyncContextManager[AiohttpTransport]:
        from aistemsplitter_async._send.transport import AiohttpTransport  # noqa: PLC0415  # as above

        return aclosing(
            AiohttpTransport(
                api_key=self._api_key, base_url=self._base_url, timeouts=Timeouts(), urls=URLPolicy(allow_loopback=True)
            )
        )


_QUICK = 0.001  # a second becomes a millisecond


def build_quick_client(api_key: str, base_url: str) -> AsyncAIStemSplitter:
    """Return a client of a server on this machine that polls and retries within milliseconds and needs no closing.

    Only the client's own waits are shortened: deadlines are the usual ones, and a `Retry-After` is obeyed.
    """
    from aistemsplitter_async.client import AsyncAIStemSplitter  # noqa: PLC0415  # as above

    poll, retry = PollPolicy(), RetryPolicy()
    return AsyncAIStemSplitter(
        api_key,
        base_url=base_url,
        transport=PerCallTransport(api_key, base_url),
        poll=attrs.evolve(poll.scaled(_QUICK), wait=poll.wait),
        retry=attrs.evolve(
            retry.scaled(_QUICK), retry_after_cap=retry.retry_after_cap, throttle_budget=retry.throttle_budget
        ),
    )


class _Streamed:
    def __init__(self, reply: Reply) -> None:
        self.status = reply.status
        self.headers = reply.headers
        self._body = reply.body

    async def chunks(self) -> AsyncIterator[bytes]:
        if self._body:
            yield self._body


async def _read(request: Request) -> bytes:
    if callable(request.body):
        return b"".join([bytes(chunk) async for chunk in request.body()])
    return request.body or b""
