"""The whole API as one object without a network: it does the right thing unless a script says otherwise."""

from __future__ import annotations

import asyncio
import json
import os
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from inspect import isawaitable
from pathlib import Path
from typing import Any, TypeVar

import attrs

from aistemsplitter_async import AIStemSplitterError, APIConnectionError, AsyncAIStemSplitter, Reply, Request
from aistemsplitter_async._gate.gate import Gate
from aistemsplitter_async._send.pipeline import Pipeline
from aistemsplitter_async._send.transport import StreamedReply
from aistemsplitter_async.clock import Random
from aistemsplitter_async.config import RateLimit, RetryPolicy, Timeouts
from aistemsplitter_async.events import Event
from aistemsplitter_async.testing import Exchange, FakeClock, FakeTransport, json_reply

T = TypeVar("T")

API = "https://api.test/v1"
WORKER = "https://worker.test"
CDN = "https://cdn.test"
KEY = "ast_test_key"
STEMS = ("vocals", "drums", "bass", "other")


@attrs.frozen
class Flow:
    """A reply whose body comes in parts; an error among them breaks the connection, a function is awaited."""

    parts: Sequence[bytes | AIStemSplitterError | Callable[[], Awaitable[object]]]
    headers: dict[str, str] = attrs.field(factory=dict[str, str])
    status: int = 200


Answer = Reply | Flow | AIStemSplitterError
Script = Answer | Callable[[Exchange], Any] | None
"""What to answer: a value, a function of the exchange (its result is a script again), or `None` for the usual."""


@attrs.frozen
class Asked:
    """One attempt as the server saw it."""

    what: str
    at: float
    exchange: Exchange

    @property
    def body(self) -> bytes:
        return self.exchange.body

    @property
    def headers(self) -> dict[str, str]:
        return dict(self.exchange.request.headers)

    @property
    def json(self) -> Any:
        return json.loads(self.exchange.body)


class FakeAPI(FakeTransport):
    """API, upload worker and CDN. `script` queues what happens instead of the usual, one answer per attempt.

    Attributes:
        asked: every attempt, oldest first.
        created: split ids by idempotency key: what the account was charged for.
        statuses: those that polls of a split get, in order; the last one stays.
        files: the stems by CDN path.
        open_replies: replies that are not released yet.
    """

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(self._refuse)
        self.clock = clock
        self.asked: list[Asked] = []
        self.created: dict[str, str] = {}
        self.statuses: dict[str, list[str]] = {}
        self.files: dict[str, bytes] = {}
        self.stem_names: Sequence[str] = STEMS
        self.uploads: dict[str, bytes] = {}
        self.open_replies = 0
        self._scripts: dict[str, deque[Script]] = {}
        self._always: dict[str, Script] = {}

    def script(self, what: str, *answers: Script) -> None:
        """Queue answers to the next attempts of `what`."""
        self._scripts.setdefault(what, deque()).extend(answers)

    def always(self, what: str, answer: Script) -> None:
        """Answer every attempt of `what` like this once its queue is empty."""
        self._always[what] = answer

    def count(self, what: str) -> int:
        return len(self.of(what))

    def of(self, what: str) -> list[Asked]:
        return [asked for asked in self.asked if asked.what == what]

    def times(self, what: str) -> list[float]:
        """When attempts of `what` came, in seconds since the clock's start."""
        return [round(asked.at - 1000.0, 6) for asked in self.of(what)]

    @property
    def unused(self) -> dict[str, int]:
        return {what: len(queue) for what, queue in self._scripts.items() if queue}

    async def send(self, request: Request, /) -> Reply:
        body = request.body
        whole = b"".join([bytes(chunk) async for chunk in body()]) if callable(body) else body or b""
        self.open_replies += 1
        try:
            answer = await self._answer(Exchange(request, whole))
        finally:
            self.open_replies -= 1
        assert isinstance(answer, Reply)
        return answer

    @asynccontextmanager
    async def stream(self, request: Request, /) -> AsyncIterator[StreamedReply]:
        self.open_replies += 1
        try:
            yield _Flowing(await self._answer(Exchange(request, b"")))
        finally:
            self.open_replies -= 1

    def _refuse(self, exchange: Exchange) -> Reply:
        raise AssertionError(f"unexpected: {exchange}")

    async def _answer(self, exchange: Exchange) -> Reply | Flow:
        what = _name(exchange.request)
        self.exchanges.append(exchange)
        self.asked.append(Asked(what, self.clock.monotonic(), exchange))
        queue = self._scripts.get(what)
        answer = queue.popleft() if queue else self._always.get(what)
        while answer is None or callable(answer):
            answer = answer(exchange) if answer is not None else getattr(self, f"do_{what}")(exchange)
            if isawaitable(answer):
                answer = await answer
        if isinstance(answer, AIStemSplitterError):
            raise answer
        return answer

    def do_credits(self, _: Exchange) -> Reply:
        return json_reply({"balance": 6200, "unit": "seconds"})

    def do_reserve(self, _: Exchange) -> Reply:
        return self.reservation(lifetime=3600)

    def reservation(self, *, lifetime: float, url: str | None = None) -> Reply:
        name = f"upl_{self.count('reserve')}"
        expires = datetime.fromtimestamp(self.clock.now() + lifetime, UTC).isoformat()
        return json_reply(
            {
                "uploadId": name,
                "uploadUrl": url or f"{WORKER}/put/{name}?signature=abc",
                "uploadHeaders": {"X-Upload-Token": name},
                "expiresAt": expires,
            }
        )

    def do_upload(self, exchange: Exchange) -> Reply:
        name = exchange.request.headers["X-Upload-Token"]
        self.uploads[name] = exchange.body
        return json_reply({"url": f"{CDN}/sources/{name}", "key": f"sources/{name}"})

    def do_create(self, exchange: Exchange) -> Reply:
        key = exchange.request.headers["Idempotency-Key"]
        split_id = self.created.setdefault(key, f"split_{len(self.created) + 1}")
        now = datetime.fromtimestamp(self.clock.now(), UTC).isoformat()
        return json_reply({"id": split_id, "status": "queued", "creditsUsed": 214, "createdAt": now})

    def do_get(self, exchange: Exchange) -> Reply:
        split_id = exchange.request.url.rpartition("/")[2]
        statuses = self.statuses.setdefault(split_id, ["succeeded"])
        return self.split(split_id, statuses.pop(0) if len(statuses) > 1 else statuses[0])

    def split(self, split_id: str, status: str, **fields: Any) -> Reply:
        now = datetime.fromtimestamp(self.clock.now(), UTC).isoformat()
        stems = {name: f"{CDN}/{split_id}/{name}.mp3?token=1" for name in self.stem_names}
        split = {
            "id": split_id,
            "status": status,
            "stemModel": "4s",
            "filename": "song.wav",
            "durationSeconds": 214.0,
            "creditsUsed": 214,
            "createdAt": now,
            "updatedAt": now,
            "stems": stems if status == "succeeded" else None,
            "error": {"code": "BAD_AUDIO", "message": "no sound in it"} if status == "failed" else None,
        }
        return json_reply(split | fields)

    def do_download(self, exchange: Exchange) -> Flow:
        body = self.stem(exchange)
        first = exchange.request.headers.get("Range")
        if first is None or exchange.request.headers.get("If-Range") != f'"{len(body)}"':
            return whole(body)
        start = int(first.removeprefix("bytes=").removesuffix("-"))
        headers = {"content-range": f"bytes {start}-{len(body) - 1}/{len(body)}", "etag": f'"{len(body)}"'}
        return Flow([body[start:]], headers | {"content-length": str(len(body) - start)}, 206)

    def stem(self, exchange: Exchange) -> bytes:
        """The bytes of the stem that is asked for."""
        path = exchange.request.url.removeprefix(CDN).partition("?")[0]
        return self.files.get(path) or f"the stem at {path}".encode() * 50


def _name(request: Request) -> str:
    if request.url.startswith(WORKER) or request.origin == "worker":
        return "upload"
    if request.origin == "cdn":
        return "download"
    path = request.url.removeprefix(API)
    named = {"/credits": "credits", "/audio/uploads": "reserve", "/audio/splits": "create"}
    return named.get(path, "get")


class _Flowing:
    def __init__(self, answer: Reply | Flow) -> None:
        self.status = answer.status
        self.headers = answer.headers
        self._parts = answer.parts if isinstance(answer, Flow) else [answer.body]

    async def chunks(self) -> AsyncIterator[bytes]:
        for part in self._parts:
            if isinstance(part, AIStemSplitterError):
                raise part
            if isinstance(part, bytes):
                yield part
            else:
                await part()


def whole(body: bytes, **headers: str) -> Flow:
    """All of a file, with its length and a strong ETag."""
    return Flow([body], {"content-length": str(len(body)), "etag": f'"{len(body)}"'} | headers)


def reset(*, arrived: bool = True) -> APIConnectionError:
    return APIConnectionError("the connection broke", may_have_arrived=arrived)


async def hang(_: object = None) -> None:
    await asyncio.Event().wait()


@attrs.frozen
class World:
    """A clock, the API, and clients of it. `drive` runs something while time moves by itself."""

    clock: FakeClock
    api: FakeAPI
    events: list[Event]

    def client(self, **options: Any) -> AsyncAIStemSplitter:
        usual: dict[str, Any] = {
            "base_url": API,
            "transport": self.api,
            "clock": self.clock,
            "on_event": self.events.append,
        }
        return AsyncAIStemSplitter(KEY, **(usual | options))

    def pipeline(
        self,
        *,
        limit: RateLimit | None = None,
        gate: Gate | None = None,
        retry: RetryPolicy | None = None,
        timeouts: Timeouts | None = None,
        random: Random = lambda: 0.5,
    ) -> Pipeline:
        return Pipeline(
            transport=self.api,
            gate=gate or Gate(limit or RateLimit(), clock=self.clock),
            retry=retry or RetryPolicy(),
            timeouts=timeouts or Timeouts(),
            clock=self.clock,
            random=random,
            on_event=self.events.append,
        )

    def elapsed(self) -> float:
        return self.clock.monotonic() - 1000.0

    def of(self, kind: type[T]) -> list[T]:
        """The events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]


def open_files() -> set[str]:
    """What this process's descriptors point at, as far as they are files."""
    found = set()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208  # of strings, not of paths
        try:
            found.add(str(Path(f"/proc/self/fd/{name}").readlink()))
        except OSError:  # the listing's own descriptor
            continue
    return {target for target in found if target.startswith("/") and not target.startswith("/dev/")}
