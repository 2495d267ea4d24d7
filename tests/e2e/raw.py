"""An API on a bare socket: what it sends is written by hand, byte for byte, and it keeps a ledger of its own."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs

KEY = "ast_raw_7c1e55"
CREATED = {"id": "split_1", "status": "queued", "creditsUsed": 214, "createdAt": "2026-05-04T10:00:00Z"}


@attrs.frozen
class Got:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def key(self) -> str:
        return self.headers["idempotency-key"]


def head(status: str, *lines: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode("latin-1")


def answer(body: bytes | dict[str, object], *lines: str, status: str = "200 OK") -> bytes:
    """Return a whole answer."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return head(status, f"Content-Length: {len(raw)}", *lines) + raw


def envelope(data: object) -> dict[str, object]:
    return {"success": True, "data": data}


Speak = Callable[[Got, str], bytes]


@attrs.define
class RawAPI:
    """The ledger and the script.

    Attributes:
        splits: the id that was made for each idempotency key: what the account is charged for.
        created: writes the answer to a create, from the request and the id; then the connection closes.
        closes: whether the connection ends after each answer, or is left open.
    """

    url: str = ""
    got: list[Got] = attrs.field(factory=list)
    splits: dict[str, str] = attrs.field(factory=dict)
    created: Speak = lambda _, split_id: answer(envelope(CREATED | {"id": split_id}))
    polled: Speak = lambda _, split_id: answer(envelope(CREATED | {"id": split_id, "status": "failed"}))
    closes: bool = False

    @property
    def creates(self) -> list[Got]:
        return [one for one in self.got if one.method == "POST" and one.path.endswith("/splits")]

    def reply(self, got: Got) -> bytes:
        self.got.append(got)
        if got.method == "POST":
            return self.created(got, self.splits.setdefault(got.key, f"split_{len(self.splits) + 1}"))
        return self.polled(got, got.path.rpartition("/")[2])

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            got = await read_request(reader)
            writer.write(self.reply(got))
            await writer.drain()
            if self.closes:
                return


async def read_request(reader: asyncio.StreamReader) -> Got:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, path, _ = lines[0].split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
    return Got(method, path, headers, await reader.readexactly(int(headers.get("content-length", 0))))


@asynccontextmanager
async def listening(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], object], tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """Serve every connection with a coroutine function; the port."""
    tasks: set[asyncio.Task[None]] = set()

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await serve(reader, writer)  # type: ignore[misc]
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(run, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def raw_api(created: Speak | None = None, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[RawAPI]:
    """Serve an API that answers creates with `created`."""
    api = RawAPI()
    if created is not None:
        api.created = created
    async with listening(api.serve, tls) as port:
        api.url = f"http{'s' if tls else ''}://127.0.0.1:{port}/v1"
        yield api
