"""A spending limit against a service made by hand, on bare sockets: it decodes what arrives and charges by duration."""

from __future__ import annotations

import asyncio
import functools
import io
import json
import math
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import soundfile

from aistemsplitter_async import AsyncAIStemSplitter, BatchItem, Done, Failed, RateLimit
from aistemsplitter_async.batch.outcome import BatchReport, Outcome

RATE = 8000
SOURCE = re.compile(r"/stored/(\d+)")


@functools.cache
def song(seconds: float, kind: str, seed: int = 0) -> bytes:
    """A file of noise in a format of libsndfile."""
    noise = np.random.default_rng(seed).normal(0, 0.1, round(seconds * RATE))
    file = io.BytesIO()
    soundfile.write(file, noise, RATE, format=kind)
    return file.getvalue()


def duration(data: bytes) -> float:
    """The true duration: all that a decoder finds, of files one after the other too."""
    starts = [match.start() for match in re.finditer(rb"RIFF....WAVE", data, re.DOTALL)] or [0]
    found = 0.0
    for start, end in zip(starts, [*starts[1:], len(data)], strict=True):
        info = soundfile.info(io.BytesIO(data[start:end]))
        found += max(info.duration, (end - start - 44) / (2 * RATE) if len(starts) > 1 or info.format == "WAV" else 0.0)
    return found


@attrs.define
class Service:
    """Reserves, stores, charges and finishes; nothing else.

    Attributes:
        factor: what it charges, compared with the duration.
        charges: what it charged, in order.
        origin: its address, once it runs.
    """

    factor: float = 1.0
    charges: list[int] = attrs.field(factory=list[int])
    origin: str = ""
    _stored: list[bytes] = attrs.field(factory=list[bytes])

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Service]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.origin = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await self._read_head(reader):
                method, path = head.split(" ", 2)[:2]
                size = re.search(r"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
                body = await reader.readexactly(int(size[1])) if size else b""
                answer = json.dumps({"success": True, "data": self._answer(method, path, body)}).encode()
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                    % (len(answer), answer)
                )
                await writer.drain()
        finally:
            writer.close()

    @staticmethod
    async def _read_head(reader: asyncio.StreamReader) -> str:
        try:
            return (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except (asyncio.IncompleteReadError, ConnectionError):
            return ""

    def _answer(self, method: str, path: str, body: bytes) -> dict[str, Any]:
        now = "2027-01-01T00:00:00Z"
        if path == "/v1/audio/uploads":
            return {
                "uploadId": "upl_1",
                "uploadUrl": f"{self.origin}/put",
                "uploadHeaders": {},
                "expiresAt": "2100-01-01T00:00:00Z",
            }
        if path == "/put":
            self._stored.append(body)
            number = len(self._stored) - 1
            return {"url": f"{self.origin}/stored/{number}", "key": str(number)}
        if method == "POST":
            stored = SOURCE.search(json.loads(body)["input"]["fileUrl"])
            assert stored is not None
            self.charges.append(math.ceil(duration(self._stored[int(stored[1])]) * self.factor))
            number = len(self.charges)
        else:
            number = int(path.rpartition("_")[2])
        split = {
            "id": f"split_{number}",
            "status": "queued" if method == "POST" else "succeeded",
            "creditsUsed": self.charges[number - 1],
            "createdAt": now,
        }
        more = {"stemModel": "4s", "filename": "a", "durationSeconds": 1.0, "updatedAt": now, "error": None}
        return split if method == "POST" else split | more | {"stems": {"vocals": "https://x.example/v.mp3"}}


async def run(service: Service, songs: list[Any], most: float, **options: Any) -> tuple[list[Outcome], BatchReport]:
    async with (
        service.running(),
        AsyncAIStemSplitter("ast_key", base_url=f"{service.origin}/v1", rate_limit=RateLimit(10_000)) as client,
        client.split_many(songs, max_credits=most, **options) as batch,
    ):
        return [outcome async for outcome in batch], await batch.report()


LIES: dict[str, Callable[[], bytes]] = {
    "ogg.mp3": lambda: song(240.0, "OGG"),
    "flac.mp3": lambda: song(240.0, "FLAC"),
    "mp3.flac": lambda: song(240.0, "MP3"),
    "wav.mp3": lambda: song(240.0, "WAV"),
    "joined.wav": lambda: song(20.0, "WAV") + song(220.0, "WAV", 1),
    "half.wav": lambda: _with_size(song(240.0, "WAV"), 2 * RATE * 120),
    "tenth.wav": lambda: _with_size(song(240.0, "WAV"), 2 * RATE * 24),
}


def _with_size(data: bytes, size: int) -> bytes:
    at = data.index(b"data") + 4
    return data[:at] + size.to_bytes(4, "little") + data[at + 4 :]


@pytest.mark.parametrize(
    ("name", "claimed"), [*((name, None) for name in LIES), ("ogg.mp3", 5.0), ("joined.wav", 5.0), ("half.wav", 5.0)]
)
async def test_a_file_that_looks_short_is_not_bought(tmp_path: Path, name: str, claimed: float | None) -> None:
    path = tmp_path / name
    path.write_bytes(LIES[name]())
    service = Service()
    outcomes, report = await run(service, [song(5.0, "WAV"), BatchItem(source=path, seconds=claimed)], 30.0)
    (failed,) = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
    assert failed.error.code in ("SPEND_LIMIT", "LENGTH_UNKNOWN")
    assert service.charges in ([], [5]), "a certain length that does not fit stops the batch"
    assert report.credits_used == sum(service.charges)
    assert duration(path.read_bytes()) >= 240


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3", "AIFF"])
async def test_an_honest_library_costs_what_it_should_whatever_its_files_are_called(tmp_path: Path, kind: str) -> None:
    songs = [tmp_path / f"{number}.{name}" for number, name in enumerate(["mp3", "wav", "ogg", "flac"])]
    for number, path in enumerate(songs):
        path.write_bytes(song(5.5, kind, number))
    service = Service()
    outcomes, report = await run(service, list(songs), 28.0)
    assert [outcome for outcome in outcomes if not isinstance(outcome, Done)] == []
    assert report.credits_used == sum(service.charges) == 24


async def test_a_service_that_charges_by_another_measure_is_counted_and_reported() -> None:
    service = Service(factor=2.0)
    outcomes, report = await run(service, [song(5.0, "WAV", number) for number in range(10)], 40.0, in_flight=1)
    assert (service.charges, report.credits_used) == ([10], 10)
    assert sum(isinstance(outcome, Done) for outcome in outcomes) == 1
    assert "charged 10 credits for a split that was to cost 5" in str(report.stopped_by)
