"""Streams of stems: each byte once and in order, whatever the connection does, and never a short stem."""

from __future__ import annotations

import asyncio
import gc
import gzip
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aistemsplitter_async import StemStream
from aistemsplitter_async._transfer import answer as answer_module, audio, downloader, stem_stream
from aistemsplitter_async.errors import (
    AIStemSplitterError,
    APIConnectionError,
    APITimeoutError,
    ConfigurationError,
    DownloadError,
    IncompleteDownloadError,
    StemsExpiredError,
)
from aistemsplitter_async.events import RetryPlanned
from aistemsplitter_async.models import Split
from aistemsplitter_async.testing import Exchange, error_reply
from tests.io.fakes import Flow, World, hang, reset

SONG = b"".join(bytes((place & 255, place >> 8 & 255)) for place in range(200_000))
OTHER = SONG[::-1]


async def poll(world: World) -> Split:
    world.api.stem_names = ("vocals", "drums")
    async with world.client() as client:
        split = await client.get_split("split_1")
    world.api.asked.clear()
    return split


async def pour(stem: StemStream, got: bytearray) -> None:
    async for piece in stem:
        got += piece
        assert len(piece) < 2_000_000


async def read_all(world: World, split: Split) -> bytes:
    async with world.client() as client, client.open_stem(split, "vocals") as stem:
        return b"".join([piece async for piece in stem])


def serve(
    body: bytes,
    *,
    start: int = 0,
    until: int | None = None,
    etag: str | None = '"one"',
    more: dict[str, str] | None = None,
) -> Flow:
    """Some bytes of a file, in pieces; `until` where the connection breaks."""
    end = len(body) if until is None else until
    parts: list[Any] = [body[at : min(at + 10_000, end)] for at in range(start, end, 10_000)]
    usual = {"content-length": str(len(body) - start)} | ({"etag": etag} if etag else {})
    if start:
        usual["content-range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
    return Flow(parts if until is None else [*parts, reset()], usual | (more or {}), 206 if start else 200)


def ranges(world: World) -> list[tuple[str | None, str | None]]:
    return [(asked.headers.get("Range"), asked.headers.get("If-Range")) for asked in world.api.of("download")]


async def test_a_stem_says_what_it_is_and_is_read_like_a_file(world: World) -> None:
    split = await poll(world)
    world.api.script("download", serve(SONG, more={"content-type": "Audio/MPEG; charset=binary"}))
    async with world.client() as client, client.open_stem(split, "vocals") as stem:
        assert (stem.name, stem.length, stem.content_type, stem.filename) == (
            "vocals",
            len(SONG),
            "audio/mpeg",
            "vocals.mp3",
        )
        assert await stem.read(0) == b""
        read = [await stem.read(10), await anext(stem), await stem.read(100_000), await stem.read(), await stem.read(7)]
        assert [len(read[0]), len(read[2]), len(read[4])] == [10, 100_000, 0]
        assert b"".join(read) == SONG
        assert [piece async for piece in stem] == []
    assert world.api.open_replies == 0


@pytest.mark.parametrize(
    ("headers", "expected"),
    [({"content-type": "application/octet-stream"}, "audio/mpeg"), ({"content-type": 'text/html"<'}, "audio/mpeg")],
)
async def test_the_type_is_that_of_audio_whatever_a_store_says(
    world: World, headers: dict[str, str], expected: str
) -> None:
    split = await poll(world)
    world.api.script("download", serve(SONG, more=headers))
    async with world.client() as client, client.open_stem(split, "vocals") as stem:
        assert stem.content_type == expected


async def test_a_broken_connection_is_resumed_where_it_broke(world: World) -> None:
    split = await poll(world)
    world.api.script(
        "download", serve(SONG, until=150_000), serve(SONG, start=150_000, until=290_000), serve(SONG, start=290_000)
    )
    assert await read_all(world, split) == SONG
    assert [event.stage for event in world.of(RetryPlanned)] == ["download", "download"], "with a pause before each"
    assert ranges(world) == [(None, None), ("bytes=150000-", '"one"'), ("bytes=290000-", '"one"')]


@pytest.mark.parametrize("etag", [None, 'W/"one"', '"two"'])
async def test_an_answer_that_begins_again_repeats_nothing_to_the_reader(world: World, etag: str | None) -> None:
    """Whatever its validator says: its bytes show that it is the same file."""
    split = await poll(world)
    world.api.script("download", serve(SONG, until=150_000, etag=etag and etag.replace("two", "one")))
    world.api.script("download", serve(SONG, until=290_000, etag=etag), serve(SONG, etag=etag))
    assert await read_all(world, split) == SONG


CHANGED = [
    pytest.param(serve(OTHER, etag='"two"'), id="other bytes"),
    pytest.param(serve(SONG[:140_000], etag='"two"', more={"transfer-encoding": "chunked"}), id="shorter"),
    pytest.param(serve(SONG + b"more", etag='"two"'), id="longer"),
    pytest.param(serve(OTHER), id="other bytes, same ETag"),
]


@pytest.mark.parametrize("answer", CHANGED)
async def test_a_stem_that_changed_after_its_beginning_was_handed_over_is_an_error(world: World, answer: Flow) -> None:
    split = await poll(world)
    world.api.script("download", serve(SONG, until=150_000), answer)
    got = bytearray()
    async with world.client() as client, client.open_stem(split, "vocals") as stem:
        with pytest.raises(DownloadError, match="changed at the server") as caught:
            await pour(stem, got)
    assert (caught.value.code, caught.value.split_id) == ("CHANGED", "split_1")
    assert SONG.startswith(got)
    assert world.api.count("download") == 2, "asking again cannot help"


async def test_the_check_above_would_notice_a_stream_that_goes_on_with_whatever_comes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: without the comparison, half of one file and half of another are handed over."""
    split = await poll(world)

    class Believing(answer_module.StemAnswer):
        def take(self, handed_over: bytes) -> bytearray:  # noqa: ARG002
            return super().take(self._repeated.digest() if self._repeats > len(self._gathered) else self._after())

        def _after(self) -> bytes:
            repeated = self._repeated.copy()
            repeated.update(self._gathered[: self._repeats])
            return repeated.digest()

    monkeypatch.setattr(stem_stream, "StemAnswer", Believing)
    world.api.script("download", serve(SONG, until=150_000), serve(OTHER))
    assert await read_all(world, split) == SONG[:150_000] + OTHER[150_000:]


def honest(exchange: Exchange, *, brings: int | None = None) -> Flow:
    first = exchange.request.headers.get("Range")
    start = int(first.removeprefix("bytes=").removesuffix("-")) if first else 0
    return serve(SONG, start=start, until=None if brings is None else start + brings)


LIES = [
    pytest.param(serve(SONG, start=100_000), id="another start"),
    pytest.param(serve(SONG, start=150_000, etag='"two"'), id="another file"),
    pytest.param(Flow([SONG[150_000:]], {"content-length": "250000", "etag": '"one"'}, 206), id="no Content-Range"),
    pytest.param(Flow([], {"content-range": "bytes */400000"}, 416), id="refused range"),
    pytest.param(serve(b"<html>soon</html>"), id="page"),
    pytest.param(serve(SONG, start=150_000, until=150_000), id="breaks at once"),
    pytest.param(Flow([SONG[150_000:200_000]], serve(SONG, start=150_000).headers, 206), id="ends early"),
    pytest.param(Flow([SONG[150_000:], b"x"], serve(SONG, start=150_000).headers, 206), id="longer than it said"),
]


@pytest.mark.parametrize("answer", LIES)
async def test_an_answer_that_does_not_fit_costs_another_request_and_no_byte(world: World, answer: Flow) -> None:
    split = await poll(world)
    world.api.script("download", serve(SONG, until=150_000), answer)
    world.api.always("download", honest)
    assert await read_all(world, split) == SONG


ENDS = [
    pytest.param(lambda: Flow([SONG[:1000]], {"content-length": "400000"}), IncompleteDownloadError, id="early"),
    pytest.param(lambda: Flow([SONG], {}), IncompleteDownloadError, id="of unknown length"),
    pytest.param(lambda: serve(b""), IncompleteDownloadError, id="empty"),
    pytest.param(lambda: serve(b"<html>no"), IncompleteDownloadError, id="page"),
    pytest.param(lambda: serve(SONG, until=300_000), APIConnectionError, id="breaks, always at one place"),
    pytest.param(lambda: Flow([SONG[:200_000], hang], serve(SONG).headers), APITimeoutError, id="stalls"),
    pytest.param(lambda: error_reply(404, "GONE"), StemsExpiredError, id="gone"),
]


@pytest.mark.parametrize(("answer", "error"), ENDS)
async def test_a_stem_that_cannot_be_had_whole_is_an_error_and_never_short(
    world: World, answer: Any, error: type[AIStemSplitterError]
) -> None:
    split = await poll(world)
    world.api.always("download", lambda _: answer())
    with pytest.raises(error) as caught:
        await read_all(world, split)
    assert caught.value.split_id == "split_1"
    assert world.api.open_replies == 0
    assert world.api.count("download") < 60


async def test_a_slow_reader_is_no_stall_of_the_server(world: World) -> None:
    split = await poll(world)
    world.api.script("download", serve(SONG))
    got = b""
    async with world.client() as client, client.open_stem(split, "vocals") as stem:
        async for piece in stem:
            got += piece
            await world.clock.sleep(62)  # a little more than a stall
    assert got == SONG
    assert world.api.count("download") == 1


async def test_a_server_that_stalls_after_a_slow_reader_is_noticed_in_a_minute(world: World) -> None:
    """The negative control: the time that the reader took is not added to the server's."""
    split = await poll(world)
    world.api.script("download", Flow([SONG[:200_000], hang], serve(SONG).headers), serve(SONG, start=200_000))
    async with world.client() as client, client.open_stem(split, "vocals") as stem:
        got = await stem.read(200_000)
        await world.clock.sleep(1000)
        began = world.elapsed()
        got += await stem.read()
    assert got == SONG
    assert 60 <= world.elapsed() - began < 63


async def test_expired_urls_are_renewed_at_the_start_and_on_the_way(world: World) -> None:
    split = await poll(world)
    world.api.script("download", error_reply(403, "EXPIRED"), serve(SONG, until=150_000))
    world.api.script("download", error_reply(403, "EXPIRED"), serve(SONG, start=150_000))
    got = b""
    async with world.client() as client, client.open_stem(split, "vocals") as stem:
        got += await stem.read(140_000)
        await world.clock.sleep(3600)
        got += await stem.read()
    assert got == SONG
    assert world.api.count("get") == 2
    assert ranges(world)[-1] == ("bytes=150000-", '"one"')


async def test_redirects_are_vetted(world: World) -> None:
    split = await poll(world)
    world.api.always("download", Flow([], {"location": "http://169.254.169.254/"}, 302))
    with pytest.raises(DownloadError, match="refused to visit"):
        await read_all(world, split)


@pytest.mark.usefixtures("inline_threads")
async def test_an_encoded_stem_is_decoded_and_a_bomb_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    split = await poll(world)
    packed = gzip.compress(SONG, 0)
    world.api.script("download", serve(packed, until=200_000, more={"content-encoding": "gzip"}))
    world.api.script("download", serve(packed, more={"content-encoding": "gzip"}))
    world.api.script("download", serve(gzip.compress(bytes(10_000_000)), more={"content-encoding": "gzip"}))
    async with world.client() as client:
        async with client.open_stem(split, "vocals") as stem:
            assert stem.length is None
            assert await stem.read() == SONG
        monkeypatch.setattr(downloader, "longest_stem", lambda _: 5_000_000)
        async with client.open_stem(split, "vocals") as stem:
            with pytest.raises(DownloadError) as caught:
                await pour(stem, bytearray())
    assert caught.value.code == "TOO_LONG"


async def test_a_name_that_the_split_does_not_have_is_refused_without_a_request(world: World) -> None:
    split = await poll(world)
    async with world.client() as client:
        with pytest.raises(DownloadError, match="a stem 'vocal'; it has 'vocals', 'drums'") as caught:
            async with client.open_stem(split, "vocal"):
                pass
        unfinished = Split("split_1", "processing")
        with pytest.raises(DownloadError, match="it is processing\\); wait until it has succeeded") as early:
            async with client.open_stem(unfinished, "vocals"):
                pass
    assert (caught.value.code, caught.value.split_id) == ("NO_SUCH_STEM", "split_1")
    assert (early.value.code, early.value.split_id) == ("NO_STEMS", "split_1")
    assert not world.api.asked


async def test_a_read_that_is_cancelled_loses_nothing_and_costs_no_request(world: World) -> None:
    split = await poll(world)

    async def late() -> None:
        await world.clock.sleep(5)

    world.api.script("download", Flow([SONG[:150_000], late, SONG[150_000:]], serve(SONG).headers))
    async with world.client() as client, client.open_stem(split, "vocals") as stem:
        got = await stem.read(100_000)
        with pytest.raises(TimeoutError):
            async with world.clock.timeout_at(world.clock.monotonic() + 1):
                await stem.read()
        assert got + await stem.read() == SONG


async def test_what_has_come_is_handed_over_before_more_of_it_comes(world: World) -> None:
    """A slow server's first bytes are played, while a page of text that comes as slowly is still told from a stem."""
    split = await poll(world)
    never: Any = hang
    world.api.script("download", Flow([SONG[:1000], SONG[1000:1100], never], serve(SONG).headers))
    async with world.client() as client:
        async with client.open_stem(split, "vocals") as stem:
            assert await anext(stem) == SONG[:1100]
        world.api.always("download", lambda _: Flow([b"\n" * 900, b"<html>" * 100], serve(bytes(1500)).headers))
        with pytest.raises(IncompleteDownloadError, match="a page of text"):
            async with client.open_stem(split, "vocals"):
                pass


async def test_connections_that_break_before_64_kib_are_retried_a_few_times_and_what_they_brought_is_kept(
    world: World,
) -> None:
    split = await poll(world)
    world.api.always("download", lambda exchange: honest(exchange, brings=20_000))
    got = bytearray()
    async with world.client() as client, client.open_stem(split, "vocals") as stem:
        with pytest.raises(APIConnectionError):
            await pour(stem, got)
        assert got == SONG[:80_000], "of four attempts, all handed over before the error"
        world.api.always("download", honest)
        await pour(stem, got)
    assert got == SONG


async def test_a_large_read_is_copied_in_a_thread_and_lost_by_no_cancellation(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = await poll(world)
    world.api.script("download", serve(SONG))
    reading: list[asyncio.Task[bytes]] = []

    def copy(view: memoryview) -> bytes:
        assert threading.current_thread() is not threading.main_thread()
        if len(reading) == 1:
            loop.call_soon_threadsafe(reading[0].cancel)
        return bytes(view)

    monkeypatch.setattr(audio, "BLOCK_BYTES", 100_000)
    monkeypatch.setattr(audio, "_copy_blocks", copy)
    loop = asyncio.get_running_loop()
    async with world.client() as client, client.open_stem(split, "vocals") as stem:
        for _ in range(2):
            reading.append(asyncio.create_task(stem.read()))
            await asyncio.wait(reading)
        assert reading[0].cancelled()
        assert reading[1].result() == SONG


async def test_leaving_the_block_closes_the_connection_and_ends_reads_that_wait(world: World) -> None:
    split = await poll(world)
    world.api.script("download", Flow([SONG[:150_000], hang], serve(SONG).headers))
    async with world.client() as client:
        async with client.open_stem(split, "vocals") as stem:
            reading = asyncio.create_task(stem.read())
            await asyncio.sleep(0)
            assert world.api.open_replies == 1
        assert world.api.open_replies == 0
        with pytest.raises(ConfigurationError, match="closed"):
            await reading
        with pytest.raises(ConfigurationError, match="closed"):
            await stem.read(1)


async def test_an_abandoned_generator_leaves_nothing_open(world: World) -> None:
    split = await poll(world)
    world.api.script("download", serve(SONG))
    async with world.client() as client:

        async def body() -> AsyncIterator[bytes]:
            async with client.open_stem(split, "vocals") as stem:
                async for piece in stem:
                    yield piece

        pieces = body()
        assert SONG.startswith(await anext(pieces))
        assert world.api.open_replies == 1
        del pieces
        gc.collect()
        for _ in range(10):
            await asyncio.sleep(0)
        assert world.api.open_replies == 0


async def test_two_readers_share_the_bytes(world: World) -> None:
    split = await poll(world)
    world.api.script("download", serve(SONG))
    async with world.client() as client, client.open_stem(split, "vocals") as stem:
        first, second = await asyncio.gather(stem.read(200_000), stem.read())
    assert first + second == SONG


async def test_a_job_opens_a_stem_once_its_split_has_succeeded(world: World) -> None:
    await poll(world)
    world.api.statuses["split_1"] = ["processing", "succeeded"]
    world.api.script("download", serve(SONG))
    async with world.client() as client, client.job("split_1").open_stem("vocals") as stem:
        assert await stem.read() == SONG


async def test_opening_has_a_deadline_and_reading_has_none(world: World) -> None:
    split = await poll(world)
    world.api.script("download", Flow([hang], serve(SONG).headers), serve(SONG))
    async with world.client() as client:
        with pytest.raises(APITimeoutError):
            async with client.open_stem(split, "vocals", timeout=5):
                pass
        async with client.open_stem(split, "vocals", timeout=5) as stem:
            await world.clock.sleep(10)
            assert await stem.read() == SONG
