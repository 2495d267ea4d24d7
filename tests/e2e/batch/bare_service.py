"""A service spelled out on sockets, which shares nothing with the package: it says what it is told to."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs

STEMS = ("vocals", "drums", "bass", "other")


@attrs.define
class BareService:
    """One account. A create charges once for each idempotency key.

    Attributes:
        base_url: of its API.
        name_split: returns the id of the split number n, from 1.
        charged: creates by idempotency key.
        bodies: of the creates, newest last.
        uploads: what came, by upload id.
        gets: polls by split.
        sent: bytes of stems that left it, by their paths.
        processing: seconds until a split is done.
        held: whether no split is done until this is unset.
        connections: how many there have been.
    """

    base_url: str
    name_split: Callable[[int], str]
    charged: Counter[str] = attrs.field(factory=Counter)
    bodies: list[bytes] = attrs.field(factory=list)
    uploads: dict[str, bytes] = attrs.field(factory=dict)
    gets: Counter[str] = attrs.field(factory=Counter)
    sent: Counter[str] = attrs.field(factory=Counter)
    processing: float = 0.0
    held: bool = False
    connections: int = 0
    _splits: dict[str, str] = attrs.field(factory=dict)
    _done_at: dict[str, float] = attrs.field(factory=dict)

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Any:
        """Return what belongs to a request: the `data` of an envelope, or bytes."""
        root = self.base_url.removesuffix("/v1")
        now = datetime.now(UTC)
        if path == "/v1/credits":
            return {"balance": 10**6, "unit": "seconds"}
        if path == "/v1/audio/uploads":
            name = f"upl_{len(self.uploads) + 1}"
            self.uploads[name] = b""
            expires = (now + timedelta(hours=1)).isoformat()
            return {"uploadId": name, "uploadUrl": f"{root}/put/{name}", "uploadHeaders": {}, "expiresAt": expires}
        if path.startswith("/put/"):
            name = path.removeprefix("/put/")
            self.uploads[name] = body
            return {"url": f"{root}/sources/{name}", "key": f"sources/{name}"}
        if method == "POST":
            self.bodies.append(body)
            key = headers["idempotency-key"]
            self.charged[key] += key not in self._splits
            split_id = self._splits.setdefault(key, self.name_split(len(self._splits) + 1))
            self._done_at.setdefault(split_id, asyncio.get_running_loop().time() + self.processing)
            return {"id": split_id, "status": "queued", "creditsUsed": 10, "createdAt": now.isoformat()}
        if path.startswith("/v1/audio/splits/"):
            split_id = path.rpartition("/")[2]
            self.gets[split_id] += 1
            done = not self.held and asyncio.get_running_loop().time() >= self._done_at[split_id]
            return {
                "id": split_id,
                "status": "succeeded" if done else "processing",
                "stemModel": "4s",
                "filename": "song.wav",
                "durationSeconds": 10.0,
                "creditsUsed": 10,
                "error": None,
                "createdAt": now.isoformat(),
                "updatedAt": now.isoformat(),
                "stems": {stem: f"{root}/stems/{split_id}/{stem}.mp3" for stem in STEMS} if done else None,
            }
        stem = f"the stem at {path}".encode() * 20
        self.sent[path] += len(stem)
        return stem

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode().strip().split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                method, path, _ = first.split(" ")
                data = self.answer(method, path, headers, body)
                content = data if isinstance(data, bytes) else json.dumps({"success": True, "data": data}).encode()
                kind = "audio/mpeg" if isinstance(data, bytes) else "application/json"
                start = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\n\r\n"
                writer.write(start.encode() + content)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(name_split: Callable[[int], str] = "split_{}".format, **options: Any) -> AsyncIterator[BareService]:
    """Run a service on this machine."""
    service = BareService("", name_split, **options)
    server = await asyncio.start_server(service.serve, "127.0.0.1", 0)
    service.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    async with server:
        yield service
