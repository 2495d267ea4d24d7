"""An inbox in Redis or Valkey: a stream of events, and beside it what recognises duplicates.

A script keeps events: the server runs it whole or not at all, and with its own clock.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Final

from aistemsplitter_async._databases.redis import RedisURL, connect_redis, describe_error, load_redis, parse_redis_url
from aistemsplitter_async._tasks import run_in_thread
from aistemsplitter_async.clock import Clock
from aistemsplitter_async.config import INBOX_EVENTS, INBOX_KEEP, INBOX_PATIENCE
from aistemsplitter_async.errors import ConfigurationError
from aistemsplitter_async.webhooks.event import WebhookEvent
from aistemsplitter_async.webhooks.server_inbox import ServerInbox, dump_event, load_event

if TYPE_CHECKING:
    from redis.asyncio import Redis

_Place = tuple[int, int]  # milliseconds of the server's clock, and a number: the id of an entry of the stream

_AT_A_TIME: Final = 1000  # events read
# The score of an event is its place in the stream: milliseconds, and a fraction that a double can still hold.
_PUT: Final = """
local stream, known, capacity, keep = KEYS[1], KEYS[2], tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local oldest = time[1] * 1000 + math.floor(time[2] / 1000) - keep
redis.call('ZREMRANGEBYSCORE', known, '-inf', string.format('%.0f', oldest))
for at = 3, #ARGV, 2 do
    if not redis.call('ZSCORE', known, ARGV[at]) then
        local id = redis.call('XADD', stream, 'MAXLEN', capacity, '*', 'event', ARGV[at], 'signed_at', ARGV[at + 1])
        local ms, n = string.match(id, '^(%d+)-(%d+)$')
        redis.call('ZADD', known, string.format('%.4f', ms + math.min(n, 4095) / 4096), ARGV[at])
    end
end
redis.call('ZREMRANGEBYRANK', known, 0, -1 - capacity)
redis.call('XTRIM', stream, 'MINID', string.format('%.0f', oldest))
"""


class RedisInbox(ServerInbox):
    """An inbox in a Redis (6.2 or later) or Valkey server. Receivers and clients with the same URL share it.

    What an acknowledged event survives is for the server's settings to say. With `appendonly yes` and `appendfsync
    always` it survives a power cut; with `everysec` that takes what was acknowledged in the last second or two; without
    `appendonly`, what came since the last snapshot is lost when the server ends. A failover may lose what the replica
    did not have yet. The server must not evict (`maxmemory-policy noeviction`). A lost event costs no split: it is
    polled, later. A receiver needs a connection for each event loop, and each follower one more.

    Args:
        url: `redis://`, `rediss://` (TLS) or `unix://`; `?prefix=` names the prefix of the keys, `aistemsplitter:`
            without it.
        capacity: the most events to keep.
        keep: seconds to keep them, by the server's clock.
        clock: where time comes from.

    Raises:
        ConfigurationError: the URL is malformed; on first use: the extra `redis` is missing, or the server refuses.
        OSError: (on use) the server cannot be reached, or did not answer in time. A receiver then answers 503.
    """

    def __init__(
        self, url: str, *, capacity: int = INBOX_EVENTS, keep: float = INBOX_KEEP, clock: Clock | None = None
    ) -> None:
        super().__init__(capacity=capacity, keep=keep, clock=clock)
        self._url = parse_redis_url(url, name="the inbox")

    def __repr__(self) -> str:
        return f"RedisInbox({self._url.place!r})"

    async def _connect(self) -> _RedisLine:
        await run_in_thread(load_redis)
        client = connect_redis(self._url, timeout=INBOX_PATIENCE)
        line = _RedisLine(client, self._url, capacity=self._capacity, keep=self._keep)
        try:
            await line.prepare()
        except BaseException:
            await line.aclose()
            raise
        return line

    def _explain(self, error: Exception) -> Exception:
        redis = load_redis()
        if isinstance(error, TimeoutError | redis.TimeoutError):
            return TimeoutError(f"{self._url.place} does not answer")
        problem = f"{self._url.place}: {describe_error(error, self._url)}"
        causes = (error, error.__cause__, error.__context__)  # redis-py may say that it could not connect
        if any(isinstance(one, redis.AuthenticationError) for one in causes):
            return ConfigurationError(problem)
        return ConnectionError(problem) if isinstance(error, redis.RedisError | OSError) else error


class _RedisLine:
    """One connection: requests follow each other, so that its client needs no other."""

    def __init__(self, client: Redis, url: RedisURL, *, capacity: int, keep: float) -> None:
        self._client = client
        self._stream = f"{url.prefix}{{webhooks}}:events"  # the braces: both keys are on one node of a cluster
        self._known = f"{url.prefix}{{webhooks}}:known"
        self._capacity = capacity
        self._keep = max(1, round(keep * 1000))  # ms

    async def prepare(self) -> None:
        """Connect, for the client does that only when it is used."""
        await self._read_oldest()

    async def find(self, events: Collection[WebhookEvent]) -> Collection[WebhookEvent]:
        found = list(events)
        oldest = await self._read_oldest()
        scores: list[float | None] = await self._client.zmscore(self._known, [dump_event(event) for event in found])
        return {event for event, score in zip(found, scores, strict=True) if score is not None and score > oldest}

    async def put(self, events: Collection[WebhookEvent]) -> None:
        values = [value for event in events for value in (dump_event(event), event.signed_at)]
        run: Any = self._client.eval  # typed for both of redis-py's clients at once
        await run(_PUT, 2, self._stream, self._known, self._capacity, self._keep, *values)

    async def read(self, after: _Place | None) -> list[tuple[_Place, WebhookEvent]]:
        begin = f"({await self._read_oldest()}" if after is None else f"({after[0]}-{after[1]}"
        entries: Any = await self._client.xrange(self._stream, begin, "+", count=_AT_A_TIME)
        return [(_parse_place(id_), load_event(values[b"event"], int(values[b"signed_at"]))) for id_, values in entries]

    async def newest(self) -> _Place | None:
        entries: Any = await self._client.xrevrange(self._stream, "+", "-", count=1)
        return _parse_place(entries[0][0]) if entries else None

    async def wait(self, after: _Place | None, seconds: float) -> None:
        last = "0-0" if after is None else f"{after[0]}-{after[1]}"
        await self._client.xread({self._stream: last}, count=1, block=round(seconds * 1000))

    def abort(self) -> None:
        """Do nothing: redis-py closes the connection of a request that is cancelled."""

    async def aclose(self) -> None:
        await self._client.aclose()

    async def _read_oldest(self) -> int:
        """Return since when events are kept, in milliseconds of the server's clock."""
        seconds, microseconds = await self._client.time()
        return seconds * 1000 + microseconds // 1000 - self._keep


def _parse_place(text: bytes) -> _Place:
    milliseconds, _, number = text.partition(b"-")
    return int(milliseconds), int(number)
