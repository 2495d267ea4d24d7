"""The public calls, each as a program would make it, and what they need."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import io
import json
import os
import time
import wave
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from aistemsplitter_async import (
    AIStemSplitterError,
    AsyncAIStemSplitter,
    BatchItem,
    CreatedSplit,
    DirectURL,
    PollPolicy,
    RateLimit,
    Split,
    SQLiteInbox,
    Submission,
    WebhookReceiver,
    stream_source,
)

SONGS = 20_000  # of a large library
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
async def selected(place: Place, client: AsyncAIStemSplitter) -> None:
    """Some stems, a mix of others, and what cannot be had."""
    split = await client.get_split("split_long" if place.large else "split_1")
    mixes = {"instrumental": "-vocals"}
    await client.download_stems(split, place.new("stems"), stems=("vocals",), mixes=mixes)
    await client.job("split_1").download(place.new("stems"), mixes=mixes)
    for wrong in ({"stems": ("singing",)}, {"stems": "vocals"}, {"mixes": {"rhythm": "-"}}):
        arguments: Any = wrong
        with suppress(AIStemSplitterError):
            await client.download_stems(split, place.new("stems"), **arguments)
        with suppress(AIStemSplitterError):
            await client.split(place.song, into=place.new("stems"), **arguments)


@call
async def open_stem(place: Place, client: AsyncAIStemSplitter) -> None:
    split = await client.get_split("split_long" if place.large else "split_1")
    async with client.open_stem(split, "vocals") as stream:
        async for _ in stream:
            pass
    async with client.job(split.id).open_stem("drums") as stream:
        await stream.read()
    with suppress(AIStemSplitterError):
        async with client.open_stem(split, "singing"):
            pass


@call
async def logged(place: Place, client: AsyncAIStemSplitter) -> None:
    """With every line of the log on stderr."""
    os.environ.setdefault("AISTEMSPLITTER_LOG", "debug")
    async with AsyncAIStemSplitter(KEY, base_url=client.base_url, gate=client.gate) as other:
        await split(place, other)
        await split_many_in_memory(place, other)


@call
async def traced(place: Place, client: AsyncAIStemSplitter) -> None:
    """With a listener that makes spans and metrics. Programs import it, and set up OpenTelemetry, when they start."""
    otel, providers = await asyncio.to_thread(_set_up_tracing)
    settings: Any = {"rate_limit": RateLimit(1_000_000), "on_event": otel.OTelListener(*providers)}
    async with AsyncAIStemSplitter(KEY, base_url=client.base_url, **settings) as other:
        await split(place, other)
        await split_many_in_memory(place, other)


def _set_up_tracing() -> tuple[Any, tuple[Any, Any]]:
    from opentelemetry.sdk.metrics import MeterProvider  # in this thread
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(InMemorySpanExporter()))
    return import_module("aistemsplitter_async.otel"), (tracers, MeterProvider([InMemoryMetricReader()]))


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
    into, journal = place.new("stems"), place.new("journal")
    batch = client.split_many(sources, into=into, journal=journal, max_credits=1e6, stems=("vocals",))
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
async def split_many_mixed(place: Place, client: AsyncAIStemSplitter) -> None:
    """With stems and a mix; then again, with another key."""
    into, journal = place.new("stems"), place.new("journal")
    more: Any = {"into": into, "journal": journal, "stems": (), "mixes": {"instrumental": "-vocals"}}
    async with client.split_many(["https://music.example/a.mp3"], **more) as outcomes:
        await outcomes.report()
    async with (
        AsyncAIStemSplitter(f"{KEY}_new", base_url=client.base_url, gate=client.gate) as other,
        other.split_many(["https://music.example/a.mp3"], **more, new_key=True) as outcomes,
    ):
        await outcomes.report()


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
    count = SONGS if place.large else 10
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


async def run_call(name: str, base: str, place: Place, *, times: int = 2) -> None:
    """Make one call with a client of its own, as a program would."""
    settings: Any = {"rate_limit": RateLimit(1_000_000), "poll": PollPolicy().scaled(0.001)}
    async with AsyncAIStemSplitter(KEY, base_url=f"{base}/v1", **settings) as client:
        for _ in range(times):
            await CALLS[name](place, client)


def fill(path: Path, base: str) -> None:
    """Write a journal with as many splits as a large library has songs."""
    from aistemsplitter_async._wire.credentials import identify_api
    from aistemsplitter_async.journal.record import AudioId, Variant
    from aistemsplitter_async.journal.rows import Sighting
    from aistemsplitter_async.journal.store import JournalStore

    store, at = JournalStore(path), datetime(2026, 5, 4, tzinfo=UTC)
    store.begin()
    store.bind({"api": identify_api(f"{base}/v1"), "key": hashlib.sha256(KEY.encode()).hexdigest()[:16]})
    for number in range(SONGS):
        url, split_id = f"https://music.example/{number}.mp3", f"split_{number}"
        seen = Sighting(audio=AudioId(None, f"url:{url}"), source=url, folder=str(number), pattern="{stem}")
        track = store.claim(seen, Variant(), dedupe=True, resplit=False, changed="refuse").record.id
        store.intend(track, Submission(str(number), b"{}"), at.timestamp())
        store.created(track, CreatedSplit(id=split_id, status="queued", credits_used=1, created_at=at), at.timestamp())
        split = Split(
            id=split_id, status="succeeded", stem_model="4s", filename="x.mp3", duration_seconds=9.0, credits_used=1,
            created_at=at, updated_at=at, stems={"vocals": url}, error=None,
        )  # fmt: skip
        store.succeeded(track, split)
    store.commit()
    store.close()
