"""Measures how long each public call blocks the event loop, the first of its process and a second one.

    python benchmarks/first_calls.py [--runs 3] [CALL ...]
    python benchmarks/first_calls.py --audit [--bare]

Each call runs in a process of its own, against a server in another one. What is measured is the processor time of the
loop's thread in one callback: other processes cannot disturb that. Besides, a ticker on the loop shows how late it was
woken, less the time its thread waited for a processor; that has in it what a thread does that keeps the interpreter to
itself. The median of the runs must be below 20 ms for each call, or the exit code is 1.

With `--audit`, all calls run in one process, and nothing is timed: what the loop's thread imported, opened or asked
the file system is printed as JSON; it should be nothing. With `--bare` the first call is that of a client that was
not entered.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import hmac
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import wave
from asyncio import events
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # of this checkout, whatever is installed

from aistemsplitter_async import (
    AsyncAIStemSplitter,
    BatchItem,
    DirectURL,
    RateLimit,
    SQLiteInbox,
    Submission,
    WebhookReceiver,
    stream_source,
)
from benchmarks.loop_lag import LIMIT, watch

MIB = 1024 * 1024
KEY, SECRET = "ast_first_calls", "whsec_first_calls"

Call = Callable[["Place", AsyncAIStemSplitter], Awaitable[object]]


class Place:
    """Where the calls find what they need: a folder with files of their own.

    Args:
        folder: it.
        large: whether to measure what only takes long when there is much of it.
    """

    def __init__(self, folder: Path, *, large: bool) -> None:
        self.folder = folder
        self.large = large
        self.song = folder / "song.wav"
        with wave.open(str(self.song), "wb") as file:
            file.setparams((2, 2, 44100, 0, "NONE", ""))
            file.writeframes(bytes(44100 * 4 * (120 if large else 1)))
        self.audio = self.song.read_bytes()
        self.changeable = bytearray(self.audio)
        self.shorter = [self.audio[: -4000 * number] for number in (1, 2, 3)]
        self.journal = folder / "large.journal"
        self.inbox = folder / "events.inbox"

    def new(self, name: str) -> Path:
        """Return a path below the folder that does not exist."""
        return self.folder / f"{name}-{os.urandom(4).hex()}"


CALLS: dict[str, Call] = {}


def call(function: Call) -> Call:
    CALLS[function.__name__] = function
    return function


@call
async def get_credits(_: Place, client: AsyncAIStemSplitter) -> None:
    await client.get_credits(timeout=60)


@call
async def gate(_: Place, client: AsyncAIStemSplitter) -> None:
    await client.get_credits()
    client.gate.snapshot()
    async with AsyncAIStemSplitter(KEY, base_url=client.base_url, gate=client.gate) as other:
        await other.get_credits()


@call
async def create_upload(_: Place, client: AsyncAIStemSplitter) -> None:
    await client.create_upload(filename="a.mp3", content_type="audio/mpeg", content_length=10)


@call
async def upload_path(place: Place, client: AsyncAIStemSplitter) -> None:
    await client.upload_audio(place.song)


@call
async def upload_bytes(place: Place, client: AsyncAIStemSplitter) -> None:
    await client.upload_audio(place.audio, filename="song.unusual")


@call
async def upload_bytearray(place: Place, client: AsyncAIStemSplitter) -> None:
    await client.upload_audio(place.changeable)


@call
async def upload_file_object(place: Place, client: AsyncAIStemSplitter) -> None:
    await client.upload_audio(io.BytesIO(place.audio))


@call
async def upload_stream(place: Place, client: AsyncAIStemSplitter) -> None:
    await client.upload_audio(stream_of(place.audio))


@call
async def create_split(_: Place, client: AsyncAIStemSplitter) -> None:
    await client.create_split(DirectURL("https://music.example/a.mp3"))
    await client.create_split({"type": "direct_url", "url": "https://music.example/a.mp3"})


@call
async def resubmit(_: Place, client: AsyncAIStemSplitter) -> None:
    body = b'{"input":{"type":"direct_url","url":"https://music.example/a.mp3"}}'
    await client.resubmit(Submission("key", body))


@call
async def get_split(_: Place, client: AsyncAIStemSplitter) -> None:
    await client.get_split("split_1")


@call
async def get_large_reply(_: Place, client: AsyncAIStemSplitter) -> None:
    await client.get_split("split_large")


@call
async def get_stems_by_the_thousand(_: Place, client: AsyncAIStemSplitter) -> None:
    await client.get_split("split_many_stems")


@call
async def refused(_: Place, client: AsyncAIStemSplitter) -> None:
    with suppress(Exception):
        await client.get_split("split_unknown")


@call
async def wait_for_split(_: Place, client: AsyncAIStemSplitter) -> None:
    await client.wait_for_split("split_1")


@call
async def updates(_: Place, client: AsyncAIStemSplitter) -> None:
    async for _split in client.updates("split_1"):
        pass


@call
async def download_stems(place: Place, client: AsyncAIStemSplitter) -> None:
    split = await client.get_split("split_1")
    into = place.new("stems")
    for _ in range(2):
        await client.download_stems(split, into)


@call
async def submit(place: Place, client: AsyncAIStemSplitter) -> None:
    job = await client.submit(place.song)
    await job.wait()


@call
async def job(place: Place, client: AsyncAIStemSplitter) -> None:
    old = client.job("split_1")
    async for _ in old.updates():
        pass
    await old.wait()
    await old.download(place.new("stems"))


@call
async def split(place: Place, client: AsyncAIStemSplitter) -> None:
    await client.split(place.song, into=place.new("stems"))


@call
async def split_many(place: Place, client: AsyncAIStemSplitter) -> None:
    """Ten sources of every kind, with everything that a batch can be asked."""
    sources = [
        *(f"https://music.example/{number}.mp3" for number in range(4)),
        place.song,
        place.shorter[0],
        stream_of(place.shorter[1]),
        io.BytesIO(place.shorter[2]),
        BatchItem(source="https://music.example/item.mp3", folder="item"),
        place.folder / "missing.wav",
    ]
    batch = client.split_many(sources, into=place.new("stems"), journal=place.new("journal"), max_credits=1e6)
    async with batch as outcomes:
        batch.expect(total=len(sources))
        async for _ in outcomes:
            batch.progress()
        await batch.report()
        async for _ in batch.records():
            pass
        await batch.unrecognised()
        await batch.exposed_folder()


@call
async def split_many_in_memory(place: Place, client: AsyncAIStemSplitter) -> None:
    count = 2000 if place.large else 10
    sources = (f"https://music.example/{number}.mp3" for number in range(count))
    async with client.split_many(sources, in_flight=100) as outcomes:
        async for _ in outcomes:
            outcomes.progress()


@call
async def split_many_again(place: Place, client: AsyncAIStemSplitter) -> None:
    """A journal that has much already."""
    count = 20_000 if place.large else 10
    sources = [f"https://music.example/{number}.mp3" for number in range(count)]
    async with client.split_many(sources, journal=place.journal, in_flight=100) as outcomes:
        async for _ in outcomes:
            pass
        async for _ in outcomes.records():
            pass
        await outcomes.unrecognised()


@call
async def webhook(place: Place, client: AsyncAIStemSplitter) -> None:
    receiver = WebhookReceiver(SECRET, url="https://me.example/hooks", inbox=SQLiteInbox(place.new("inbox")))
    async with AsyncAIStemSplitter(KEY, base_url=client.base_url, webhooks=receiver) as notified:
        created = await notified.create_split(DirectURL("https://music.example/a.mp3"))
        await receiver.handle(*signed(created.id))
        await notified.wait_for_split(created.id)
    await receiver.inbox.aclose()  # type: ignore[attr-defined]


def signed(split_id: str) -> tuple[bytes, dict[str, str]]:
    """Return a webhook request of nearly 64 KiB."""
    value = {"event": "audio.split.completed", "data": {"id": split_id, "status": "succeeded", "more": "x" * 65_000}}
    body, now = json.dumps(value).encode(), int(time.time())
    digest = hmac.new(SECRET.encode(), f"{now}.".encode() + body, hashlib.sha256).hexdigest()
    return body, {"AIStemSplitter-Signature": f"t={now},v1={digest}"}


def stream_of(audio: bytes) -> Any:
    """Return a source that yields all of it at once, which no one should."""

    async def chunks() -> AsyncIterator[bytes]:
        yield audio

    return stream_source(chunks, content_length=len(audio), filename="song.webm")


# What is looked at.

# The interpreter's own events, which take microseconds, and the loop's own.
_HARMLESS = ("object.", "sys.", "cpython.", "builtins.", "gc.", "code.", "marshal.", "array.", "compile", "exec")
_OF_THE_LOOP = ("socket.__new__", "socket.connect")
_UNAUDITED = ("stat", "lstat", "access", "fsync", "fdatasync", "statvfs", "read", "pread", "readlink")


class Watch:
    """Notes what the thread of the event loop does. One for a process: an audit hook cannot be removed.

    Attributes:
        blocks: seconds of processor time of each callback.
        seen: what it imported, compiled, opened, or asked the file system, and where in our code.
    """

    def __init__(self) -> None:
        self.blocks: list[float] = []
        self.seen: list[str] = []
        self._thread: int | None = None
        self._is_noting = False

    @contextmanager
    def on(self, *, audit: bool) -> Iterator[None]:
        """Watch this thread."""
        self._thread = threading.get_ident()
        real = events.Handle._run

        def run(handle: Any) -> None:
            began = time.thread_time()
            try:
                real(handle)
            finally:
                self.blocks.append(time.thread_time() - began)

        setattr(events.Handle, "_run", run)  # noqa: B010
        if audit:
            for name in _UNAUDITED:
                setattr(os, name, partial(self._noted, name, getattr(os, name)))
            sys.addaudithook(self._audit)
        try:
            yield
        finally:
            self._thread = None
            setattr(events.Handle, "_run", real)  # noqa: B010

    def _noted(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._audit(f"os.{name}", args)
        return function(*args, **kwargs)

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if threading.get_ident() != self._thread or self._is_noting or event.startswith(_HARMLESS + _OF_THE_LOOP):
            return
        self._is_noting = True
        try:
            frame: FrameType | None = sys._getframe(1)
            places = list[str]()
            while frame is not None and len(places) < 3:
                name = frame.f_code.co_filename
                if "importlib" not in name and name != __file__:
                    places.append(f"{Path(name).parent.name}/{Path(name).name}:{frame.f_lineno}")
                frame = frame.f_back
            self.seen.append(f"{event} {str(args[:1])[:80]} at {' < '.join(places)}")
        finally:
            self._is_noting = False


async def run_call(name: str, base: str, place: Place, *, times: int = 2) -> None:
    """Make one call with a client of its own, as a program would."""
    async with AsyncAIStemSplitter(KEY, base_url=f"{base}/v1", rate_limit=RateLimit(1_000_000)) as client:
        for _ in range(times):
            await CALLS[name](place, client)


def child(name: str, base: str) -> None:
    """Print how long the loop was blocked, as JSON: processor time, and how late it was."""
    watched = Watch()
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder), large=True)
        if name == "split_many_again":
            asyncio.run(run_call(name, base, place, times=1))  # fills the journal
        with watched.on(audit=False):
            ticker = asyncio.run(_watched(name, base, place))
    print(json.dumps({"cpu": max(watched.blocks), "late": ticker.longest}))


async def _watched(name: str, base: str, place: Place) -> Any:
    return await watch(run_call(name, base, place))


def audit(base: str, *, bare: bool) -> None:
    """Print as JSON what the loop's thread did in all calls."""
    watched = Watch()

    async def run(place: Place) -> None:
        await asyncio.get_running_loop().run_in_executor(None, int)  # asyncio itself imports its threads here
        if bare:
            client = AsyncAIStemSplitter(KEY, base_url=f"{base}/v1")
            await client.get_credits()
            await client.aclose()
            return
        for name in CALLS:
            await run_call(name, base, place, times=1)

    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder), large=False)
        with watched.on(audit=True):
            asyncio.run(run(place))
    print(json.dumps(sorted(set(watched.seen))))


# The server: what the API would answer at once.


class Server:
    """Answers every request at once."""

    def __init__(self) -> None:
        self.base = ""
        self._stem = bytes(range(256)) * 1200
        self._created = 0

    def split(self, name: str) -> dict[str, object]:
        count = 3000 if name == "split_many_stems" else 4
        more = {"more": [[{"a": 1, "b": 2.5}] * 4000, ["text"] * 100_000]} if name == "split_large" else {}
        return {
            "id": name, "status": "succeeded", "stemModel": "4s", "filename": "x.mp3", "durationSeconds": 9,
            "creditsUsed": 1, "createdAt": "2026-05-04T10:00:00Z", "updatedAt": "2026-05-04T10:00:09Z", "error": None,
            "stems": {f"stem{number}": f"{self.base}/cdn/{name}/{number}.mp3" for number in range(count)},
        } | more  # fmt: skip

    def data(self, method: str, path: str) -> dict[str, object]:
        """Return what a reply of the API or the worker has in it."""
        if path.endswith("/credits"):
            return {"balance": 6200, "unit": "seconds"}
        if path.endswith("/uploads"):
            expires = "2036-01-01T00:00:00Z"
            return {"uploadId": "u", "uploadUrl": f"{self.base}/worker", "uploadHeaders": {}, "expiresAt": expires}
        if path == "/worker":
            return {"url": f"{self.base}/kept", "key": "k"}
        if method == "POST":
            self._created += 1
            split = {"status": "queued", "creditsUsed": 1, "createdAt": "2026-05-04T10:00:00Z"}
            return {"id": f"split_{self._created}", **split}
        return self.split(path.rpartition("/")[2])

    def reply(self, method: str, path: str) -> tuple[str, str, bytes]:
        """Return a reply's status, type and body."""
        if path.startswith("/cdn/"):
            return "200 OK", "audio/mpeg", self._stem
        if path.endswith("unknown"):
            return "404 Not Found", "application/json", b'{"success": false, "error": {"code": "NO", "message": "no"}}'
        body = {"success": True, "data": self.data(method, path)}
        return "200 OK", "application/json", json.dumps(body).encode()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, OSError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                lines = head.lower().split("\r\n")
                left = next((int(line[15:]) for line in lines if line.startswith("content-length:")), 0)
                while left:
                    left -= len(await reader.read(min(left, MIB)))
                status, kind, body = self.reply(*head.split(" ", 2)[:2])
                fields = f"Content-Type: {kind}\r\nContent-Length: {len(body)}"
                writer.write(f"HTTP/1.1 {status}\r\n{fields}\r\n\r\n".encode() + body)
                await writer.drain()
        writer.close()

    async def run(self) -> None:
        server = await asyncio.start_server(self.answer, "127.0.0.1", 0)
        self.base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        print(self.base, flush=True)
        await asyncio.Event().wait()


@contextmanager
def served() -> Iterator[str]:
    command = [sys.executable, __file__, "--serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.kill()


def measure(name: str, base: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", name, base]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("calls", nargs="*", metavar="CALL", help=f"of {', '.join(CALLS)}; all if none is given")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--audit", action="store_true")
    parser.add_argument("--bare", action="store_true")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--child", nargs=2, metavar=("CALL", "URL"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(Server().run())
    if options.child:
        child(*options.child)
        return 0
    with served() as base:
        if options.audit:
            audit(base, bare=options.bare)
            return 0
        print(f"{'longest block, ms':28} {'processor':>9} {'late':>6}   (medians of {options.runs} processes)")
        worst = 0.0
        for name in options.calls or CALLS:
            found = [measure(name, base) for _ in range(options.runs)]
            cpu, late = (statistics.median(one[what] for one in found) for what in ("cpu", "late"))
            worst = max(worst, cpu)
            print(f"{name:28} {cpu * 1000:9.1f} {late * 1000:6.1f}", flush=True)
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
