"""Uploads: identical bytes at each attempt, fresh reservations while that is harmless, no create of a wrong file."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

from aistemsplitter_async._transfer import audio, uploader
from aistemsplitter_async._transfer.audio import stream_source
from aistemsplitter_async._transfer.meter import Progress
from aistemsplitter_async._wire.messages import BodyStream, Reply, Request
from aistemsplitter_async.config import Timeouts
from aistemsplitter_async.errors import (
    AIStemSplitterError,
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    ConfigurationError,
    ProtocolError,
    RateLimitedError,
    ServerError,
    SourceChangedError,
    SourceUnreadableError,
    UnsafeURLError,
)
from aistemsplitter_async.models import Upload
from aistemsplitter_async.testing import error_reply, json_reply
from tests.io.fakes import World

SONG = bytes(range(256)) * 1000


def status(code: int, **headers: str) -> Any:
    return error_reply(code, "CODE", headers={name.replace("_", "-"): text for name, text in headers.items()})


def broken() -> APIConnectionError:
    return APIConnectionError("reset")


async def hang(_: object) -> None:
    await asyncio.Event().wait()


async def upload(world: World, source: Any = SONG, **options: Any) -> Upload:
    async with world.client(**options) as client:
        return await client.upload_audio(source, filename="song.wav")


async def test_the_bytes_reach_the_worker_with_the_reservations_headers_and_no_key(world: World) -> None:
    done = await upload(world)
    (reserved,), (sent,) = world.api.of("reserve"), world.api.of("upload")
    assert reserved.json == {"filename": "song.wav", "contentType": "audio/wav", "contentLength": len(SONG)}
    assert sent.body == SONG
    assert sent.exchange.request.method == "POST"
    assert sent.headers == {"X-Upload-Token": "upl_1", "Content-Type": "audio/wav", "Content-Length": str(len(SONG))}
    assert (done.input.upload_id, done.input.storage_key) == ("upl_1", "sources/upl_1")
    assert done.input.file_url == "https://cdn.test/sources/upl_1"
    assert (done.filename, done.content_length) == ("song.wav", len(SONG))


FAULTS: list[tuple[Any, int, int, type[AIStemSplitterError]]] = [
    # what happens, reservations, attempts, what comes out
    (broken, 1, 4, APIConnectionError),
    (lambda: APIConnectionError("certificate", permanent=True), 1, 1, APIConnectionError),
    (lambda: hang, 1, 4, APITimeoutError),
    (lambda: status(408), 1, 4, APIStatusError),
    (lambda: status(500), 1, 4, ServerError),
    (lambda: status(503), 1, 4, ServerError),
    (lambda: status(401), 3, 3, APIStatusError),  # the worker does not see the key
    (lambda: status(402), 3, 3, APIStatusError),
    (lambda: status(403), 3, 3, APIStatusError),
    (lambda: status(404), 3, 3, APIStatusError),
    (lambda: status(409), 3, 3, APIStatusError),
    (lambda: status(410), 3, 3, APIStatusError),
    (lambda: status(413), 3, 3, APIStatusError),
    (lambda: json_reply({"url": 5}), 3, 3, ProtocolError),
    (lambda: Reply(status=200, body=b"<html>"), 3, 3, ProtocolError),
    (lambda: Reply(status=200, body=b'{"success": false, "error": "TOKEN_USED"}'), 3, 3, APIStatusError),
    (lambda: Reply(status=200, body=b'{"success": true, "da', cut=True), 1, 4, APIConnectionError),
    (lambda: status(302, Location="https://elsewhere.test"), 1, 1, APIStatusError),
    (lambda: status(429, Retry_After="300"), 1, 1, RateLimitedError),
]


@pytest.mark.parametrize(("fault", "reservations", "attempts", "error"), FAULTS)
async def test_a_fault_that_stays_costs_at_most_two_fresh_reservations_and_never_a_create(
    world: World, fault: Any, reservations: int, attempts: int, error: type[AIStemSplitterError]
) -> None:
    world.api.always("upload", lambda _: fault())
    async with world.client() as client:
        with pytest.raises(AIStemSplitterError) as caught:
            await client.submit(SONG)
    assert type(caught.value) is error
    assert (world.api.count("reserve"), world.api.count("upload")) == (reservations, attempts)
    assert {asked.body for asked in world.api.of("upload")} == {SONG}
    assert world.api.count("create") == 0


@pytest.mark.parametrize("fault", [broken, lambda: status(500), lambda: status(403), lambda: status(429), lambda: hang])
async def test_a_fault_that_passes_is_not_seen_and_the_next_attempt_sends_the_same_bytes(
    world: World, fault: Any
) -> None:
    world.api.script("upload", fault(), fault())
    done = await upload(world)
    assert [asked.body for asked in world.api.of("upload")] == [SONG] * 3
    assert done.input.upload_id == f"upl_{world.api.count('reserve')}"


async def test_a_fresh_reservation_has_its_own_url_and_headers(world: World) -> None:
    world.api.script("upload", status(403))
    await upload(world)
    first, second = world.api.of("upload")
    assert (first.headers["X-Upload-Token"], second.headers["X-Upload-Token"]) == ("upl_1", "upl_2")
    assert "upl_2" in second.exchange.request.url


async def test_a_reservation_that_has_expired_meanwhile_is_renewed_whatever_the_fault(world: World) -> None:
    world.api.script("reserve", lambda _: world.api.reservation(lifetime=0.001))
    world.api.always("upload", lambda asked: broken() if "upl_1" in asked.request.url else None)
    done = await upload(world)
    assert done.input.upload_id == "upl_2"


async def test_no_fresh_reservation_is_taken_once_a_create_was_sent(world: World) -> None:
    world.api.always("create", lambda _: status(422))
    async with world.client() as client:
        with pytest.raises(AIStemSplitterError):
            await client.submit(SONG)
    assert (world.api.count("reserve"), world.api.count("upload"), world.api.count("create")) == (1, 1, 1)


@pytest.mark.parametrize(
    "url",
    [
        "http://worker.test/put",
        "https://127.0.0.1/put",
        "https://169.254.169.254/latest",
        "https://[::ffff:10.0.0.1]/put",
        "https://user:password@worker.test/put",
        "file:///etc/passwd",
        "https://localhost/put",
        "",
    ],
)
async def test_a_worker_that_must_not_be_visited_gets_nothing(world: World, url: str) -> None:
    world.api.always("reserve", lambda _: world.api.reservation(lifetime=60, url=url or "nonsense"))
    with pytest.raises(UnsafeURLError):
        await upload(world)
    assert world.api.count("upload") == 0


async def test_hostile_upload_headers_do_not_reach_the_worker(world: World) -> None:
    def reserve(_: object) -> Reply:
        headers = {"Host": "evil", "authorization": "x", "COOKIE": "a", "Content-Length": "1", "Transfer-Encoding": "x"}
        fields = {"uploadId": "u", "uploadUrl": "https://worker.test/put", "expiresAt": "2099-01-01T00:00:00Z"}
        return json_reply(fields | {"uploadHeaders": headers | {"X-Upload-Token": "t"}})

    world.api.script("reserve", reserve)
    await upload(world)
    assert set(world.api.of("upload")[0].headers) == {"X-Upload-Token", "Content-Type", "Content-Length"}


# --- progress


async def test_progress_rises_from_nothing_to_all_and_falls_back_when_an_attempt_starts_over(world: World) -> None:
    world.api.script("upload", broken())
    reported: list[Progress] = []
    async with world.client() as client:
        await client.upload_audio(SONG, filename="song.wav", on_progress=reported.append)
    assert {(progress.name, progress.total_bytes) for progress in reported} == {("song.wav", len(SONG))}
    done = [progress.done_bytes for progress in reported]
    assert done.count(0) == done.count(len(SONG)) == 2
    again = done.index(0, 1)
    assert done[:again] == sorted(done[:again])
    assert done[again:] == sorted(done[again:])
    assert done[-1] == len(SONG)


async def test_a_progress_listener_that_raises_does_not_disturb_the_upload(world: World) -> None:
    calls: list[Progress] = []

    def careless(progress: Progress) -> None:
        calls.append(progress)
        raise ZeroDivisionError

    async with world.client() as client:
        await client.upload_audio(SONG, on_progress=careless)
    assert world.api.uploads == {"upl_1": SONG}
    assert world.api.count("upload") == 1
    assert calls[-1].done_bytes == len(SONG)


async def test_an_async_progress_listener_is_refused_before_anything_is_sent(world: World) -> None:
    async def listen(_: Progress) -> None: ...

    async with world.client() as client:
        with pytest.raises(ConfigurationError, match="on_progress must be an ordinary function"):
            await client.submit(SONG, on_progress=listen)  # type: ignore[arg-type]
    assert world.api.asked == []


# --- stalls


class Uplink:
    """A transport whose upload takes `pauses` seconds before each slice, and records how large they are."""

    def __init__(self, world: World, pauses: Callable[[int], float]) -> None:
        self.sizes: list[int] = []
        self._world = world
        self._pauses = pauses

    async def send(self, request: Request, /) -> Reply:
        if not callable(request.body):
            return await self._world.api.send(request)
        body = b""
        async for part in request.body():
            await self._world.clock.sleep(self._pauses(len(self.sizes)))
            self.sizes.append(len(part))
            body += part
        return await self._world.api.send(attrs.evolve(request, body=body))

    def stream(self, request: Request, /) -> AbstractAsyncContextManager[Any]:
        return self._world.api.stream(request)

    async def aclose(self) -> None: ...


async def test_a_slow_upload_may_take_longer_than_any_timeout_as_long_as_it_moves(world: World) -> None:
    uplink = Uplink(world, lambda _: 5.0)
    await upload(world, SONG * 4, transport=uplink)
    assert world.elapsed() > 240
    assert world.api.uploads["upl_1"] == SONG * 4


async def test_an_upload_that_stands_still_is_begun_again_after_the_stall_time(world: World) -> None:
    began: list[float] = []

    def pause(slices: int) -> float:
        if slices == 2 and len(began) < 1:
            began.append(world.elapsed())
            return 10_000.0
        return 0.0

    await upload(world, transport=Uplink(world, pause))
    assert 60 <= world.elapsed() < 62
    assert world.api.uploads["upl_1"] == SONG


async def test_a_drip_is_as_dead_as_silence(world: World) -> None:
    uplink = Uplink(world, lambda _: 20.0)
    slow = stream_source(lambda: drip(SONG, 100), content_length=len(SONG), filename="song.wav")
    with pytest.raises(APITimeoutError):
        await upload(world, slow, transport=uplink)


async def drip(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def test_a_worker_that_never_answers_after_the_last_byte_is_a_stall_too(world: World) -> None:
    world.api.script("upload", hang)
    await upload(world, timeouts=Timeouts(stall=7))
    assert 7 <= world.elapsed() < 9
    world.api.script("upload", *[hang] * 4)
    with pytest.raises(APITimeoutError, match=r"no answer came within 7 s; a proxy .* raise Timeouts\.stall"):
        await upload(world, timeouts=Timeouts(stall=7))


async def test_slices_grow_while_the_network_is_fast_and_shrink_while_it_is_slow(world: World) -> None:
    fast, slow = Uplink(world, lambda _: 0.0), Uplink(world, lambda _: 2.0)
    await upload(world, SONG * 8, transport=fast)
    await upload(world, SONG * 2, transport=slow)
    assert max(fast.sizes) > fast.sizes[0]
    assert min(slow.sizes[:-1]) == 16 * 1024
    assert slow.sizes[0] == uploader._FIRST_SLICE_BYTES


# --- sources that are not what they seem


def stream(*chunks: bytes, length: int = 6, error: Exception | None = None) -> Any:
    async def factory() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk
        if error is not None:
            raise error

    return stream_source(factory, content_length=length, filename="song.wav")


@pytest.mark.parametrize("chunks", [[b"ab"], [b"abc", b"def", b"g"], [b"abcdefg"], []])
async def test_a_stream_of_another_length_is_never_uploaded_whole_and_no_create_follows(
    world: World, chunks: list[bytes]
) -> None:
    async with world.client() as client:
        with pytest.raises(SourceChangedError):
            await client.submit(stream(*chunks))
    assert (world.api.count("reserve"), world.api.uploads, world.api.count("create")) == (1, {}, 0)


async def test_a_stream_that_raises_ends_the_upload_at_once_with_its_reason(world: World) -> None:
    async with world.client() as client:
        with pytest.raises(SourceUnreadableError) as caught:
            await client.submit(stream(b"abc", error=TimeoutError("upstream")))
    assert isinstance(caught.value.__cause__, TimeoutError)
    assert world.api.count("reserve") == 1


@attrs.frozen
class HomeMade:
    """A source written without reading the docs."""

    chunks: list[bytes]
    content_length: int = 6
    filename: str = "song.wav"
    content_type: str = "audio/wav"

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[BodyStream]:
        async def read() -> AsyncIterator[bytes]:
            for chunk in self.chunks:
                yield chunk

        yield read


@pytest.mark.parametrize("chunks", [[b"ab"], [b"abc", b"def", b"g"], [b"abcdefg"], []])
async def test_a_home_made_source_of_another_length_is_noticed_too(world: World, chunks: list[bytes]) -> None:
    with pytest.raises(SourceChangedError):
        await upload(world, HomeMade(chunks))


class Hasty:
    """A worker that answers 200 before it has read everything."""

    def __init__(self, world: World, answer: Reply) -> None:
        self._world = world
        self._answer = answer
        self.attempts = 0

    async def send(self, request: Request, /) -> Reply:
        if not callable(request.body):
            return await self._world.api.send(request)
        self.attempts += 1
        body = request.body()
        await anext(body)
        await body.aclose()  # type: ignore[attr-defined]
        return self._answer

    def stream(self, request: Request, /) -> AbstractAsyncContextManager[Any]:
        return self._world.api.stream(request)

    async def aclose(self) -> None: ...


async def test_a_success_that_comes_before_the_last_byte_is_not_believed(world: World) -> None:
    hasty = Hasty(world, json_reply({"url": "https://cdn.test/x", "key": "x"}))
    with pytest.raises(APIConnectionError):
        await upload(world, SONG, transport=hasty)
    assert hasty.attempts == 4


async def test_a_refusal_that_comes_before_the_last_byte_is_believed(world: World) -> None:
    with pytest.raises(APIStatusError):
        await upload(world, SONG, transport=Hasty(world, status(413)))


# --- files


@pytest.fixture
def song(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(audio, "BLOCK_BYTES", 4096)
    path = tmp_path / "song.wav"
    path.write_bytes(SONG)
    os.utime(path, ns=(10**9, 10**9))
    return path


@pytest.mark.usefixtures("inline_threads", "no_open_files")
async def test_a_file_is_rewound_for_each_attempt(world: World, song: Path) -> None:
    world.api.script("upload", broken(), status(500), status(403))
    await upload(world, song)
    assert [asked.body for asked in world.api.of("upload")] == [SONG] * 4


@pytest.mark.usefixtures("inline_threads", "no_open_files")
async def test_a_file_edited_between_two_attempts_is_not_sent_again_and_no_create_follows(
    world: World, song: Path
) -> None:
    def edit(_: object) -> APIConnectionError:
        song.write_bytes(SONG[::-1])
        return broken()

    world.api.script("upload", edit)
    async with world.client() as client:
        with pytest.raises(SourceChangedError):
            await client.submit(song)
    assert [asked.body for asked in world.api.of("upload")] == [SONG]
    assert world.api.count("create") == 0


@pytest.mark.usefixtures("inline_threads")
async def test_what_cannot_be_read_makes_no_request(world: World, tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    async with world.client() as client:
        for source in (tmp_path / "missing.wav", tmp_path, tmp_path / "empty.wav", b"", "ftp://example.com/a.wav"):
            with pytest.raises(SourceUnreadableError):
                await client.submit(source)
    assert world.api.asked == []


@pytest.mark.usefixtures("no_open_files")
@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8, 13, 50, 200])
async def test_a_cancelled_upload_closes_the_file(still: World, song: Path, turns: int) -> None:
    still.api.script("upload", hang) if turns == 200 else None
    client = still.client()
    task = asyncio.create_task(client.upload_audio(song))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    still.api._scripts.clear()
    await client.aclose()


@pytest.mark.parametrize(
    ("answer", "least", "most"), [(lambda: status(403), 0, 0), (lambda: Reply(status=403), 12, 18)]
)
async def test_a_page_of_a_gateway_is_given_time_and_a_refused_reservation_is_replaced_at_once(
    world: World, answer: Any, least: float, most: float
) -> None:
    world.api.script("upload", answer(), answer())
    async with world.client() as client:
        await client.submit(SONG)
    assert least <= world.elapsed() <= most
    assert world.api.count("upload") == 3
