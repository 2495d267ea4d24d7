"""Sources: what is read is what was announced, every time from the start, or an error says so."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from aistemsplitter_async._transfer import file_source
from aistemsplitter_async._transfer.audio import (
    AudioSource,
    BytesSource,
    build_source,
    guess_content_type,
    stream_source,
)
from aistemsplitter_async.errors import SourceChangedError, SourceUnreadableError
from aistemsplitter_async.models import DirectURL
from aistemsplitter_async.testing import FakeClock

pytestmark = pytest.mark.usefixtures("no_open_files")
BLOCK = 4096  # instead of the real one, for small files
OLD = 1_000_000_000  # ns; so that any edit shows, however coarse the file system's clock is


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_source, "BLOCK_BYTES", BLOCK)


def pattern(size: int) -> bytes:
    """Bytes in which no two blocks are alike."""
    return b"".join(n.to_bytes(4, "little") for n in range(size // 4 + 1))[:size]


@pytest.fixture
def song(tmp_path: Path) -> Path:
    path = tmp_path / "song.wav"
    path.write_bytes(pattern(3 * BLOCK + 100))
    os.utime(path, ns=(OLD, OLD))
    return path


async def source_of(path: Path) -> AudioSource:
    source = await build_source(path)
    assert not isinstance(source, DirectURL)
    return source


async def built(source: AudioSource) -> AudioSource:
    """The source as an upload has it: other people's code is guarded."""
    audio = await build_source(source)
    assert not isinstance(audio, DirectURL)
    return audio


async def read(source: AudioSource, *, during: Callable[[list[bytes]], object] = lambda _: None) -> bytes:
    """Read all of a source once; `during` is called after each block with those read so far."""
    blocks: list[bytes] = []
    source = await built(source)
    async with source.opened() as body:
        async for block in body():
            blocks.append(block)
            during(blocks)
    return b"".join(blocks)


async def test_a_file_is_read_whole_and_again_from_its_start(song: Path) -> None:
    source = await source_of(song)
    assert (source.filename, source.content_type, source.content_length) == ("song.wav", "audio/wav", 3 * BLOCK + 100)
    async with source.opened() as body:
        for _ in range(3):
            assert b"".join([block async for block in body()]) == pattern(3 * BLOCK + 100)


@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK])
async def test_every_size_around_a_block_is_read_whole(tmp_path: Path, size: int) -> None:
    path = tmp_path / "song.mp3"
    path.write_bytes(pattern(size))
    assert await read(await source_of(path)) == pattern(size)


async def test_a_read_given_up_half_way_does_not_disturb_the_next_one(
    song: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread of the old attempt moves the same descriptor's position."""
    at_work, go_on, old_read = threading.Event(), threading.Event(), threading.Event()
    seek, read_ = os.lseek, os.read

    def slow_seek(descriptor: int, offset: int, how: int) -> int:
        position = seek(descriptor, offset, how)
        if offset == BLOCK and not at_work.is_set():  # the old attempt, between its seek and its read
            at_work.set()
            go_on.wait(0.05)
        elif offset == 0 and at_work.is_set():  # the new one, if it gets that far
            go_on.set()
            old_read.wait(0.05)
        return position

    def told_read(descriptor: int, count: int) -> bytes:
        block = read_(descriptor, count)
        if go_on.is_set():
            old_read.set()
        return block

    monkeypatch.setattr(os, "lseek", slow_seek)
    monkeypatch.setattr(os, "read", told_read)
    source = await source_of(song)
    async with source.opened() as body:
        first = body()
        assert isinstance(first, AsyncIterator)
        await anext(first)  # the read of the second block is under way
        while not at_work.is_set():  # noqa: ASYNC110  # threads send no events
            await asyncio.sleep(0)
        whole = b"".join([block async for block in body()])
        await first.aclose()  # type: ignore[attr-defined]
    assert whole == pattern(3 * BLOCK + 100)


def truncate(path: Path) -> None:
    os.truncate(path, BLOCK)


def cut_a_byte(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def edit(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(10)
        file.write(b"edited")


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(pattern(path.stat().st_size))
    while other.stat().st_ctime_ns == path.stat().st_ctime_ns:  # the file system's clock ticks every few milliseconds
        other.touch()
    other.replace(path)


CHANGES = [truncate, cut_a_byte, grow, edit, replace]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("after_block", [1, 2])
async def test_a_file_that_changes_while_it_is_read_is_noticed_and_never_handed_over_whole(
    song: Path, change: Callable[[Path], None], after_block: int
) -> None:
    source = await source_of(song)
    handed: list[int] = []

    def during(blocks: list[bytes]) -> None:
        handed[:] = [len(block) for block in blocks]
        if len(blocks) == after_block:
            change(song)

    with pytest.raises(SourceChangedError):
        await read(source, during=during)
    assert len(handed) >= after_block
    assert sum(handed) < source.content_length


@pytest.mark.parametrize("change", [truncate, cut_a_byte, grow, edit])
async def test_a_file_that_changes_between_two_attempts_is_noticed(song: Path, change: Callable[[Path], None]) -> None:
    source = await source_of(song)
    async with source.opened() as body:
        async for _ in body():
            pass
        change(song)
        with pytest.raises(SourceChangedError):
            async for _ in body():
                pass


@pytest.mark.parametrize("change", [truncate, grow])
async def test_a_file_of_another_size_than_announced_is_not_even_begun(
    song: Path, change: Callable[[Path], None]
) -> None:
    source = await source_of(song)
    change(song)
    with pytest.raises(SourceChangedError):
        await read(source)


async def test_the_checks_above_would_notice_a_reader_that_does_not_compare(
    song: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: an edit passes a reader that only counts bytes."""
    monkeypatch.setattr(
        file_source._BlockReader, "fingerprint", lambda _: file_source._Fingerprint(3 * BLOCK + 100, 0, 0, 0)
    )
    await read(await source_of(song), during=lambda blocks: edit(song) if len(blocks) == 1 else None)


async def test_a_missing_file_a_folder_an_empty_file_and_a_pipe_are_unreadable(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "dangling.wav").symlink_to(tmp_path / "nowhere")
    for name in ("missing.wav", ".", "empty.wav", "pipe.wav", "dangling.wav", "a\0b"):
        with pytest.raises(SourceUnreadableError):
            await build_source(tmp_path / name)
    with pytest.raises(SourceUnreadableError):
        await build_source("")
    with pytest.raises(SourceUnreadableError):
        await build_source(b"")


async def test_a_file_that_may_not_be_read_is_unreadable(song: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may read everything
    with pytest.raises(SourceUnreadableError, match="permission denied"):
        await build_source(song)


@pytest.mark.parametrize("becomes", ["pipe", "folder", "nothing"])
async def test_a_file_that_becomes_something_else_before_it_is_opened_is_unreadable_and_nothing_hangs(
    song: Path, becomes: str
) -> None:
    source = await source_of(song)
    os.unlink(song)  # noqa: PTH108  # what the linter takes for blocking is the test
    if becomes == "pipe":
        os.mkfifo(song)
    elif becomes == "folder":
        os.mkdir(song)  # noqa: PTH102  # same
    with pytest.raises(SourceUnreadableError):
        await asyncio.wait_for(read(source), 5)


async def test_a_disk_that_fails_while_reading_is_an_unreadable_source(
    song: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = await source_of(song)

    def fail(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "read", fail)
    with pytest.raises(SourceUnreadableError, match="Input/output"):
        await read(source)


async def test_a_cancelled_read_closes_its_descriptor_only_when_no_thread_uses_it_any_more(
    song: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_work, go_on = threading.Event(), threading.Event()
    problems: list[OSError] = []
    seek = os.lseek

    def slow(descriptor: int, offset: int, how: int) -> int:
        at_work.set()
        go_on.wait(5)
        try:
            return seek(descriptor, offset, how)
        except OSError as error:
            problems.append(error)
            raise

    monkeypatch.setattr(os, "lseek", slow)
    task = asyncio.create_task(read(await source_of(song)))
    while not at_work.is_set():  # noqa: ASYNC110  # threads send no events
        await asyncio.sleep(0)
    for _ in range(3):  # however often it is cancelled
        task.cancel()
        for _ in range(50):
            await asyncio.sleep(0)
        assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert problems == []


async def test_cancelling_while_the_file_is_being_opened_leaves_no_descriptor(
    song: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_work, go_on = threading.Event(), threading.Event()
    open_ = os.open

    def slow(path: Path, flags: int) -> int:
        at_work.set()
        go_on.wait(5)
        return open_(path, flags)

    source = await source_of(song)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", slow)
        task = asyncio.create_task(read(source))
        while not at_work.is_set():  # noqa: ASYNC110  # threads send no events
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_bytes_are_a_source_of_their_own() -> None:
    data = pattern(2 * BLOCK + 5)
    for given in (data, bytearray(data), memoryview(data)):
        source = await build_source(given, filename="song.flac")
        assert not isinstance(source, DirectURL)
        assert await read(source) == data
        assert (source.filename, source.content_type, source.content_length) == ("song.flac", "audio/flac", len(data))
    nameless = await build_source(data)
    assert not isinstance(nameless, DirectURL)
    assert nameless.content_type == "application/octet-stream"


def stream(*chunks: bytes, length: int, error: Exception | None = None) -> AudioSource:
    async def factory() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk
        if error is not None:
            raise error

    return stream_source(factory, content_length=length, filename="song.ogg")


async def test_a_stream_of_the_announced_length_passes_whatever_its_chunks() -> None:
    assert await read(stream(b"ab", b"", b"c", b"def", b"", length=6)) == b"abcdef"


@pytest.mark.parametrize("chunks", [[], [b"ab"], [b"ab", b"cd"], [b"abc", b"defg"], [b"abcdef", b"g"], [b"abcdefg"]])
async def test_a_stream_that_is_shorter_or_longer_is_noticed_and_never_handed_over_whole(chunks: list[bytes]) -> None:
    handed: list[bytes] = []
    with pytest.raises(SourceChangedError):
        await read(stream(*chunks, length=6), during=lambda blocks: handed.__setitem__(slice(None), blocks))
    assert len(b"".join(handed)) < 6


async def test_a_stream_that_breaks_is_an_unreadable_source_that_says_why() -> None:
    with pytest.raises(SourceUnreadableError) as caught:
        await read(stream(b"abc", length=6, error=TimeoutError("upstream")))
    assert isinstance(caught.value.__cause__, TimeoutError)


async def test_a_stream_that_is_given_up_is_closed() -> None:
    closed: list[bool] = []

    async def factory() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x"
        finally:
            closed.append(True)

    source = await built(stream_source(factory, content_length=10_000, filename="song.ogg"))
    async with source.opened() as body, aclosing(body()) as chunks:  # type: ignore[type-var]
        await anext(chunks)
    assert closed == [True]


async def test_small_chunks_are_handed_over_together_but_none_waits_for_later_ones() -> None:
    """Each costs the receiver a turn; and a slow stream must show life."""
    more = asyncio.Event()

    async def factory() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield b"x" * 4096
        await more.wait()
        yield b"the end"

    source = await built(stream_source(factory, content_length=1000 * 4096 + 7, filename="song.ogg"))
    blocks, got = 0, 0
    async with source.opened() as body:
        async for block in body():
            blocks, got = blocks + 1, got + len(block)
            if got > 900 * 4096:  # one block is held back
                more.set()
    assert got == 1000 * 4096 + 7
    assert blocks < 25


def test_a_stream_without_length_is_refused() -> None:
    with pytest.raises(SourceUnreadableError):
        stream(length=0)


async def test_http_urls_are_not_read_here() -> None:
    for url in ("https://example.com/a.wav?x=1", "HTTP://example.com/a.wav"):
        assert await build_source(url) == DirectURL(url)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.WAV", "audio/wav"), ("a.m4a", "audio/mp4"), ("a.opus", "audio/ogg"), ("a", "application/octet-stream")],
)
def test_the_type_follows_the_name(name: str, kind: str) -> None:
    assert guess_content_type(name) == kind


async def test_a_stream_is_not_given_up_because_the_process_stood_still() -> None:
    clock, ready = FakeClock(), asyncio.Event()

    async def read() -> AsyncIterator[bytes]:
        await ready.wait()
        yield b"song"

    source = await build_source(stream_source(read, content_length=4, filename="a.wav"), clock=clock, stall=60.0)
    assert not isinstance(source, DirectURL)
    async with source.opened() as body:
        reading = asyncio.ensure_future(anext(aiter(body())))
        await clock.settle()
        clock._time += 600.0  # all at once, as it looks after Ctrl-Z and `fg`
        await clock.advance(0.0)
        ready.set()
        assert await reading == b"song"


async def test_much_that_may_be_changed_is_copied_in_a_thread_and_block_by_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In one step, a copy would hold up all threads."""
    data, copied = pattern(3 * 1024 * 1024 + 7), list[object]()
    real = asyncio.BaseEventLoop.run_in_executor

    def run(loop: Any, pool: Any, function: Any, *arguments: Any) -> Any:
        copied.append(function)
        return real(loop, pool, function, *arguments)

    monkeypatch.setattr(asyncio.BaseEventLoop, "run_in_executor", run)
    for given in (bytearray(data), memoryview(data), memoryview(bytearray(data)[:-3]).cast("I")):
        source = await build_source(given)
        assert isinstance(source, BytesSource)
        assert data.startswith(source.data)
        assert len(source.data) == memoryview(given).nbytes
    assert len(copied) == 3
    for other in (data, bytearray(data[:100]), memoryview(data)[::2]):  # nothing to copy, little, or not in one piece
        source = await build_source(other)
        assert isinstance(source, BytesSource)
        assert source.data == bytes(other)
    assert len(copied) == 3
