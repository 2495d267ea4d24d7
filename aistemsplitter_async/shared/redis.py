"""A gate's state in Redis or Valkey: one hash per key, changed under compare-and-set, which expires by itself."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Self

from aistemsplitter_async._databases.redis import connect_redis, describe_error, load_redis, parse_redis_url
from aistemsplitter_async._gate.store import Stored, StoreUnavailableError
from aistemsplitter_async._tasks import run_in_thread
from aistemsplitter_async.config import STORE_TIMEOUT
from aistemsplitter_async.errors import ConfigurationError
from aistemsplitter_async.shared.calls import Calls, PerLoop

if TYPE_CHECKING:
    from redis.asyncio import Redis

# A script is one round trip, in which nothing comes between its commands. What a text means, it does not know.
_LOAD: Final = """
local kept = redis.call('HMGET', KEYS[1], 'text', 'version')
local time = redis.call('TIME')
return {kept[1], kept[2], time[1], time[2]}
"""
_SWAP: Final = """
if (redis.call('HGET', KEYS[1], 'version') or '0') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'version', ARGV[2], 'text', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
"""


class RedisGateStore:
    """Keeps a gate's state in Redis or Valkey, on whose clock all processes agree.

    It needs the extra `redis`, and a server that evicts no keys (`maxmemory-policy noeviction`, or enough memory): what
    it forgets, nobody counts any more. Event loops of several threads may share one.

    Args:
        url: `redis://`, `rediss://` (TLS) or `unix://`, with redis-py's options for who connects and how. `?prefix=` is
            what our keys begin with, `aistemsplitter:` without it.
        timeout: seconds to connect, and for an answer.

    Raises:
        ConfigurationError: it is no such URL.
    """

    def __init__(self, url: str, *, timeout: float = STORE_TIMEOUT) -> None:
        self._url = parse_redis_url(url, name="the store's URL")
        self._timeout = timeout
        self._is_loaded = False
        self._calls = Calls()
        self._lines = PerLoop(lambda: _Line(connect_redis(self._url, timeout=timeout)))

    def __repr__(self) -> str:
        return f"RedisGateStore({self._url.place!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def load(self, key: str) -> Stored:
        text, version, seconds, micros = await self._ask(lambda line: line.load([self._url.prefix + key]))
        now = int(seconds) + int(micros) / 1_000_000
        return Stored(None if text is None else text.decode(), int(version or 0), now)

    async def swap(self, key: str, version: int, text: str, keep: float) -> bool:
        following = version + 1 if version else 1 + secrets.randbits(48)  # so that a lost one is not met again
        arguments: list[str | int | float] = [version, following, text, max(1, round(keep * 1000))]
        return bool(await self._ask(lambda line: line.swap([self._url.prefix + key], arguments)))

    async def aclose(self) -> None:
        """Close the connection of this event loop. Using the store again reopens it."""
        await self._calls.drain()
        if (line := self._lines.pop()) is not None:
            await line.close()

    async def _ask(self, call: Callable[[_Line], Awaitable[Any]]) -> Any:
        return await self._calls.run(self._answer(call))

    async def _answer(self, call: Callable[[_Line], Awaitable[Any]]) -> Any:
        try:
            redis = load_redis() if self._is_loaded else await run_in_thread(load_redis)
        except ConfigurationError as error:
            raise StoreUnavailableError(str(error), permanent=True) from None
        self._is_loaded = True
        try:
            async with asyncio.timeout(2 * self._timeout):  # to connect, which is several answers, and for the call's
                line = self._lines.get()
                async with line.turn:
                    return await line.run(call, redis.ConnectionError)
        except (redis.RedisError, OSError) as error:  # a TimeoutError is one
            problem = self._explain(error, redis)
        raise problem  # outside, so that it does not carry the other one, which knows the password

    def _explain(self, error: Exception, redis: Any) -> StoreUnavailableError:
        errors = import_module("redis.exceptions")
        reason = describe_error(error, self._url)
        if isinstance(error, TimeoutError | redis.TimeoutError):
            return StoreUnavailableError(f"{self._url} does not answer within {self._timeout:g} s")
        is_moved = isinstance(error, errors.MovedError) or reason.startswith("MOVED ")
        if is_moved:
            reason = "it is a Redis Cluster, which is not supported; name a server that has all keys"
        kinds = (errors.AuthenticationError, errors.AuthorizationError, errors.NoPermissionError)
        is_permanent = is_moved or any(isinstance(one, kinds) for one in (error, error.__cause__, error.__context__))
        return StoreUnavailableError(f"{self._url}: {reason or type(error).__name__}", permanent=is_permanent)


class _Line:
    """A connection, of one event loop, whose calls take turns, and the scripts that its server may know already."""

    def __init__(self, client: Redis) -> None:
        self.turn = asyncio.Lock()
        self._was_open = False
        self._client = client
        self.load = client.register_script(_LOAD)
        self.swap = client.register_script(_SWAP)

    async def run(self, call: Callable[[_Line], Awaitable[Any]], lost: type[Exception]) -> Any:
        """Return what `call` returns, made again if the server had closed the connection meanwhile (`lost`)."""
        was_open, self._was_open = self._was_open, False
        try:
            answer = await call(self)
        except lost:
            if not was_open:
                raise
            answer = await call(self)
        self._was_open = True
        return answer

    async def close(self) -> None:
        await self._client.aclose()
