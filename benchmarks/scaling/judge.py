"""An API that judges: it counts each key's requests exactly, and answers 429 to what is above the limit.

Written from the API's description alone, on bare asyncio sockets and in a process of its own, so that it agrees with no
mistake of the client's. A request is in a window from the moment when its head was read; a refused one is in none. The
window slides: at no moment may the last `per` seconds hold more than `limit`.

It prints its port, and when its standard input ends, what it saw: for every request its time, what it was, the answer,
and the worker and lane that the source's URL named (`https://songs.example.com/WORKER/LANE/NUMBER.mp3`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

SECONDS = 180  # of every song


class Judge:
    """One API with any number of keys.

    Args:
        limit: requests in any `per` seconds; 0 for none.
        per: seconds.
        latency: seconds until an answer leaves.
        processing: seconds from a create to the end of the split.
        says: whether a 429 has a `Retry-After`.
    """

    def __init__(self, *, limit: int, per: float, latency: float, processing: float, says: bool) -> None:
        self.limit, self.per, self.latency, self.processing, self.says = limit, per, latency, processing, says
        self.log = defaultdict[str, deque[float]](deque)  # when each key's requests of the last window came
        self.seen: list[tuple[float, str, int, str, str]] = []
        self.splits: dict[str, dict[str, Any]] = {}
        self.ids: dict[str, str] = {}  # by idempotency key
        self.connections = set[asyncio.StreamWriter]()

    async def attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of a connection, one after another."""
        self.connections.add(writer)
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                now = time.monotonic()
                request, *lines = head.decode("latin-1").split("\r\n")
                fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                body = await reader.readexactly(int(fields.get("content-length", "0")))
                method, path, _ = request.split(" ")
                status, more, answer = self.answer(now, method, path, fields, body)
                await asyncio.sleep(self.latency)
                content = json.dumps(answer).encode()
                writer.write(
                    f"HTTP/1.1 {status} {'OK' if status < 400 else 'No'}\r\nContent-Type: application/json\r\n"
                    f"Content-Length: {len(content)}\r\n{more}\r\n".encode()
                    + content
                )
                await writer.drain()
        self.connections.discard(writer)
        writer.close()

    def answer(
        self, now: float, method: str, path: str, fields: dict[str, str], body: bytes
    ) -> tuple[int, str, dict[str, Any]]:
        """Return status, further header lines, and the JSON of the answer."""
        key = fields.get("authorization", "").removeprefix("Bearer ")
        what, worker, lane = self.describe(method, path, body)
        log = self.log[key]
        while log and log[0] <= now - self.per:
            log.popleft()
        if self.limit and len(log) >= self.limit:
            self.seen.append((now, what, 429, worker, lane))
            free = max(1, math.ceil(log[0] + self.per - now))
            return 429, f"Retry-After: {free}\r\n" if self.says else "", failure("RATE_LIMITED", "slow down")
        log.append(now)
        status, answer = self.serve(now, method, path, fields, body)
        self.seen.append((now, what, status, worker, lane))
        return status, "", answer

    def describe(self, method: str, path: str, body: bytes) -> tuple[str, str, str]:
        """Return what a request is, and whose."""
        if method == "POST":
            worker, lane = json.loads(body)["input"]["url"].split("/")[3:5]
            return "create", worker, lane
        split = self.splits.get(path.rpartition("/")[2], {})
        return "poll", split.get("worker", ""), split.get("lane", "")

    def serve(
        self, now: float, method: str, path: str, fields: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, Any]]:
        if method == "POST" and path.endswith("/audio/splits"):
            split_id = self.ids.setdefault(fields["idempotency-key"], f"split_{len(self.splits)}")
            worker, lane = json.loads(body)["input"]["url"].split("/")[3:5]
            split = self.splits.setdefault(split_id, {"at": now, "worker": worker, "lane": lane, "seen": None})
            created = {
                "id": split_id,
                "status": "queued",
                "creditsUsed": SECONDS,
                "createdAt": moment(split["at"], now),
            }
            return 201, {"success": True, "data": created}
        found = self.splits.get(path.rpartition("/")[2])
        if method != "GET" or found is None:
            return 422, failure("VALIDATION_ERROR", "no such thing")
        done = now >= found["at"] + self.processing
        if done and found["seen"] is None:
            found["seen"] = now
        data = {
            "id": path.rpartition("/")[2],
            "status": "succeeded" if done else "processing",
            "stemModel": "4s",
            "filename": "song.mp3",
            "durationSeconds": SECONDS,
            "creditsUsed": SECONDS,
            "createdAt": moment(found["at"], now),
            "updatedAt": moment(found["at"] + self.processing if done else now, now),
            "stems": {stem: f"https://cdn.example.com/{stem}.mp3" for stem in ("vocals", "drums", "bass", "other")},
            "error": None,
        }
        return 200, {"success": True, "data": data if done else {**data, "stems": None}}

    def books(self) -> dict[str, Any]:
        """Return what was seen."""
        seen = [split["seen"] for split in self.splits.values()]
        return {"requests": self.seen, "splits": len(seen), "done": sorted(at for at in seen if at is not None)}


def failure(code: str, message: str) -> dict[str, Any]:
    return {"success": False, "error": {"code": code, "message": message}}


def moment(at: float, now: float) -> str:
    """Return a moment of the monotonic clock as the API writes times."""
    return datetime.fromtimestamp(time.time() + at - now, UTC).isoformat(timespec="milliseconds")


def most_in_any(times: list[float], per: float) -> int:
    """Return how many of `times`, which ascend, are in any window that is open at its end."""
    return max(counts(times, per), default=0)


def counts(times: list[float], per: float) -> Iterator[int]:
    begin = 0
    for index, at in enumerate(times):
        while times[begin] <= at - per:
            begin += 1
        yield index - begin + 1


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--limit", type=int, required=True)
    parser.add_argument("--per", type=float, required=True)
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--processing", type=float, default=1.0)
    parser.add_argument("--says", action="store_true")
    judge = Judge(**vars(parser.parse_args()))
    server = await asyncio.start_server(judge.attend, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    server.close()
    for writer in judge.connections:
        writer.close()
    print(json.dumps(judge.books()), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
