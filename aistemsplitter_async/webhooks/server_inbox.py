"""What the inboxes on a database server have in common: connections, groups, and followers that outlast an outage.

Each event loop that asks or keeps has one connection, and each follower one more. What comes together is one question
and one commit. Whatever goes wrong on a connection ends it: every request can be repeated without harm.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from contextvars import Context
from functools import partial
from typing import Any, Final, Protocol, Self, TypeVar

import attrs

from aistemsplitter_async._tasks import cancel_and_wait, run_to_end, wait_out
from aistemsplitter_async.clock import Clock, SystemClock
from aistemsplitter_async.config import INBOX_EVENTS, INBOX_IDLE, INBOX_KEEP, INBOX_OUTAGE, INBOX_PATIENCE, INBOX_POLL
from aistemsplitter_async.errors import ConfigurationError
from aistemsplitter_async.webhooks.event import WebhookEvent

T = TypeVar("T")

Place = Any
"""Where an event is in the order of all: a later one is greater."""

_BACKOFF: Final = 0.05  # s before a follower connects again; doubles up to INBOX_POLL


class Line(Protocol):
    """A connection to the server. After an error it is closed, and not used again."""

    async def find(self, events: Collection[WebhookEvent]) -> Collection[WebhookEvent]:
        """Return which of `events` are kept."""
        ...

    async def put(self, events: Collection[WebhookEvent]) -> None:
        """Keep all of `events`, which are different, or none. Returning means that they are safe."""
        ...

    async def read(self, after: Place | None) -> list[tuple[Place, WebhookEvent]]:
        """Return events that are kept behind a place, oldest first, from the oldest on without one; some at a time."""
        ...

    async def newest(self) -> Place | None:
        """Return the place of the newest event; `None` if that is not known."""
        ...

    async def wait(self, after: Place | None, seconds: float) -> None:
        """Return once there may be an event behind a place, or after `seconds`."""
        ...

    def abort(self) -> None:
        """End it while a request is under way, which is cancelled then."""
        ...

    async def aclose(self) -> None:
        """Close it, without waiting for the other end."""
        ...


class ServerInbox(ABC):
    """An inbox on a server. `_connect` and `_explain` know which kind.

    Args:
        capacity: the most events to keep.
        keep: seconds to keep them, by the server's clock.
        clock: where time comes from.
    """

    def __init__(self, *, capacity: int = INBOX_EVENTS, keep: float = INBOX_KEEP, clock: Clock | None = None) -> None:
        self._capacity = capacity
        self._keep = keep
        self._clock = clock or SystemClock()
        self._desks: dict[asyncio.AbstractEventLoop, _Desk] = {}

    @abstractmethod
    async def _connect(self) -> Line:
        """Return a new connection. What is missing on the server is created."""

    @abstractmethod
    def _explain(self, error: Exception) -> Exception:
        """Return the error to raise instead: without secrets, and it names the server."""

    async def __aenter__(self) -> Self:
        await self._use_desk().ask(None)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections once every event being put is kept, or could not be. Using the inbox reopens them.

        Followers have connections of their own, which are closed when they end.
        """
        here, desks = asyncio.get_running_loop(), dict(self._desks)
        self._desks.clear()
        for loop, desk in desks.items():
            if loop is here:
                desk.close()
            elif not loop.is_closed():
                loop.call_soon_threadsafe(desk.close)
        if here in desks:
            await wait_out(desks[here].work)

    async def has(self, event: WebhookEvent) -> bool:
        return await self._use_desk().ask(event)

    async def put(self, event: WebhookEvent) -> None:
        await self._use_desk().put(event)

    async def follow(self) -> AsyncGenerator[WebhookEvent, None]:
        """Iterate over the events that are kept, and then over new ones. A server that is away is waited for.

        Raises:
            OSError: the server could not be reached at first, or not for a minute.
        """
        link, heard = self._open_link(), OrderedDict[Place, WebhookEvent]()
        place: Place | None = None
        lost_at: float | None = None
        pause = _BACKOFF
        connected = False
        try:
            while True:
                if not link.is_open:
                    place = None  # another server may be at its place, and give places again: read all, pass the heard
                request = partial(_read_news if link.is_open else _read_all, after=place)
                try:
                    news = await link.ask(request, INBOX_POLL + INBOX_PATIENCE)
                except (ConfigurationError, OSError) as error:
                    now = self._clock.monotonic()
                    lost_at = now if lost_at is None else lost_at
                    if not connected or isinstance(error, ConfigurationError) or now - lost_at >= INBOX_OUTAGE:
                        raise
                    await self._clock.sleep(pause)
                    pause = min(2 * pause, INBOX_POLL)
                    continue
                connected, lost_at, pause = True, None, _BACKOFF
                for place, event in news:
                    if heard.get(place) != event:
                        heard[place] = event
                        if len(heard) > max(self._capacity, INBOX_EVENTS):
                            heard.popitem(last=False)
                        yield event
        finally:
            await run_to_end(link.aclose())

    def _use_desk(self) -> _Desk:
        loop = asyncio.get_running_loop()
        if loop not in self._desks:
            self._desks[loop] = _Desk(self._open_link(), self._forget_desk, clock=self._clock)
        return self._desks[loop]

    def _forget_desk(self, desk: _Desk) -> None:
        for loop, known in list(self._desks.items()):
            if known is desk:
                del self._desks[loop]

    def _open_link(self) -> _Link:
        return _Link(self._connect, self._explain, clock=self._clock)


def dump_event(event: WebhookEvent) -> str:
    """Return what identifies an event as JSON in ASCII, which every database can keep, whatever the event contains."""
    return json.dumps([event.event, event.split_id, event.status], separators=(",", ":"))


def load_event(text: str | bytes, signed_at: int) -> WebhookEvent:
    """Return the event that `dump_event` made a text of."""
    event, split_id, status = json.loads(text)
    return WebhookEvent(event, split_id, status, signed_at)


def key_of(event: WebhookEvent) -> str:
    """Return a short text that only equal events have: what an index may hold is bounded."""
    return hashlib.sha256(dump_event(event).encode()).hexdigest()


async def _read_all(line: Line, after: Place | None) -> list[tuple[Place, WebhookEvent]]:
    """Return what is there."""
    return await line.read(after)


async def _read_news(line: Line, after: Place | None) -> list[tuple[Place, WebhookEvent]]:
    """Return events behind a place, after a while without any none."""
    if news := await line.read(after):
        return news
    await line.wait(after, INBOX_POLL)
    if news := await line.read(after):
        return news
    newest = await line.newest() if after is not None else None
    was_emptied = newest is not None and newest < after  # and places are given from the first on again
    return await line.read(None) if was_emptied else []


class _Link:
    """A connection that is opened when it is used, and closed after an error."""

    def __init__(
        self, connect: Callable[[], Awaitable[Line]], explain: Callable[[Exception], Exception], *, clock: Clock
    ) -> None:
        self._connect = connect
        self._explain = explain
        self._clock = clock
        self._line: Line | None = None

    @property
    def is_open(self) -> bool:
        return self._line is not None

    async def ask(self, request: Callable[[Line], Awaitable[T]], seconds: float) -> T:
        """Return the answer to a request.

        Raises:
            OSError: there was none within `seconds` (`TimeoutError`), or it was an error.
            ConfigurationError: the server cannot be used as the caller wants.
        """
        asking = asyncio.ensure_future(self._ask(request))
        try:
            async with self._clock.timeout_at(self._clock.monotonic() + seconds):
                await asyncio.wait([asking])
            return asking.result()
        except Exception as error:  # noqa: BLE001  # which of them are the server's, `explain` knows
            problem = self._explain(error)
        finally:
            if not (asking.done() and not asking.cancelled() and asking.exception() is None):
                await run_to_end(self._give_up(asking))
        raise problem  # outside, so that it does not carry the other one, which may know the password

    async def aclose(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            await line.aclose()

    async def _ask(self, request: Callable[[Line], Awaitable[T]]) -> T:
        if self._line is None:
            self._line = await self._connect()
        return await request(self._line)

    async def _give_up(self, asking: asyncio.Future[Any]) -> None:
        if self._line is not None:
            self._line.abort()
        await cancel_and_wait(asking)
        await self.aclose()


@attrs.frozen(eq=False)
class _Wish:
    """What somebody waits for: that an event is kept, or to know whether it is."""

    event: WebhookEvent | None
    puts: bool
    answer: asyncio.Future[bool]

    def fail(self, error: BaseException) -> None:
        if isinstance(error, asyncio.CancelledError):
            self.answer.cancel()
        elif not self.answer.done():
            self.answer.set_exception(error)


class _Desk:
    """Asks and keeps for the callers of one event loop. It ends after a minute without any, or with the loop."""

    def __init__(self, link: _Link, forget: Callable[[_Desk], object], *, clock: Clock) -> None:
        self._link = link
        self._forget = forget
        self._clock = clock
        self._wishes: list[_Wish] = []
        self._called = asyncio.Event()
        self._closing = False
        # In an empty context: it serves all callers, and outlives the first.
        self.work = asyncio.get_running_loop().create_task(self._serve(), name="keep webhook events", context=Context())

    async def ask(self, event: WebhookEvent | None) -> bool:
        """Return whether an event is kept; without one, only check that the server can be used."""
        return await self._wait_for(event, puts=False)

    async def put(self, event: WebhookEvent) -> None:
        """Keep an event."""
        await self._wait_for(event, puts=True)

    def close(self) -> None:
        """End once all wishes are answered."""
        self._closing = True
        self._called.set()

    async def _wait_for(self, event: WebhookEvent | None, *, puts: bool) -> bool:
        wish = _Wish(event, puts, asyncio.get_running_loop().create_future())
        self._wishes.append(wish)
        self._called.set()
        return await wish.answer

    async def _serve(self) -> None:
        try:
            while self._wishes or not self._closing:
                try:
                    async with self._clock.timeout_at(self._clock.monotonic() + INBOX_IDLE):
                        await self._called.wait()
                except TimeoutError:
                    self._closing = True
                self._called.clear()
                while self._wishes:
                    await self._answer(self._wishes)
        finally:
            self._forget(self)  # nothing is awaited since the last look for wishes
            for wish in self._wishes:
                wish.answer.cancel()
            await run_to_end(self._link.aclose())

    async def _answer(self, wishes: list[_Wish]) -> None:
        self._wishes = []
        puts = dict.fromkeys(wish.event for wish in wishes if wish.puts and wish.event is not None)
        asks = dict.fromkeys(wish.event for wish in wishes if not wish.puts and wish.event is not None)

        async def exchange(line: Line) -> Collection[WebhookEvent]:
            known = await line.find(asks) if asks else ()
            if puts:
                await line.put(puts)
            return known

        try:
            known = await self._request(exchange)
        except BaseException as error:
            for wish in wishes:
                wish.fail(error)
            if not isinstance(error, Exception):
                raise
        else:
            for wish in wishes:
                if not wish.answer.done():
                    wish.answer.set_result(wish.event in known)

    async def _request(self, exchange: Callable[[Line], Awaitable[T]]) -> T:
        """Ask, and once more on a new connection if the one at hand has died, as with a server started again."""
        until = self._clock.monotonic() + INBOX_PATIENCE
        if self._link.is_open:
            try:
                return await self._link.ask(exchange, INBOX_PATIENCE)
            except TimeoutError:
                raise
            except OSError:
                pass
        return await self._link.ask(exchange, until - self._clock.monotonic())
