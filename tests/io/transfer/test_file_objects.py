"""Binary file objects as sources: read from where they stand, in a thread, left open, and never by two at once."""

from __future__ import annotations

import asyncio
import gc
import gzip
import io
import mmap
import os
import socket
import tempfile
import threading
import zipfile
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from aistemsplitter_async import BatchItem, Done, Failed, Outcome, RetryPolicy
from aistemsplitter_async._transfer import file_object
from aistemsplitter_async._transfer.audio import build_source
from aistemsplitter_async.clock import SystemClock
from aistemsplitter_async.errors import (
    APIConnectionError,
    ConfigurationError,
    SourceChangedError,
    SourceUnreadableError,
)
from tests.io.fakes import World

pytestmark = pytest.mark.usefixtures("no_open_files")
BLOCK = 4096
SONG = b"".join(n.to_bytes(4, "little") for n in range(BLOCK))  # four blocks, no two alike


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_object, "BLOCK_BYTES", BLOCK)


async def upload(world: World, source: Any, **options: Any) -> tuple[bytes, dict[str, Any]]:
    """Upload a source; return the bytes that arrived, and what was announced."""
    async with world.client(clock=SystemClock(), retry=RetryPolicy().scaled(0.001)) as client:
        await client.upload_audio(source, **options)
    return world.api.of("upload")[-1].body, world.api.of("reserve")[-1].json


def on_disk(folder: Path) -> io.BufferedReader:
    (folder / "a song.flac").write_bytes(SONG)
    return (folder / "a song.flac").open("rb")


def unbuffered(folder: Path) -> io.FileIO:
    on_disk(folder).close()
    return (folder / "a song.flac").open("rb", buffering=0)


def in_zip(folder: Path) -> Any:
    with zipfile.ZipFile(folder / "songs.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("disc 1/a song.flac", SONG)
    archive = zipfile.ZipFile(folder / "songs.zip")
    member = archive.open("disc 1/a song.flac")
    archive.close()  # the member keeps its file
    return member


def spooled(_: Path) -> Any:
    file = tempfile.SpooledTemporaryFile(max_size=2 * BLOCK)  # noqa: SIM115  # the test closes it
    file.write(SONG)
    file.seek(0)
    return file


def mapped(folder: Path) -> Any:
    with on_disk(folder) as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def piped(_: Path) -> Any:
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "wb") as end:
            end.write(SONG)

    threading.Thread(target=write, daemon=True).start()
    return os.fdopen(reading, "rb")


class WithoutEnd(io.BytesIO):
    """It goes to a place, but not to its end, as some readers of compressed files."""

    name = "https://store.example/songs/a%20song.flac?signature=SECRET"

    def seek(self, place: int, whence: int = 0, /) -> int:
        if whence:
            raise ValueError("Seek from end not supported")
        return super().seek(place)


def connected(_: Path) -> Any:
    ours, theirs = socket.socketpair()

    def send() -> None:
        with theirs:
            theirs.sendall(SONG)

    threading.Thread(target=send, daemon=True).start()
    file = ours.makefile("rb")
    ours.close()  # the file keeps it
    return file


class Minimal:
    """Only what `read` needs, and short reads."""

    def __init__(self) -> None:
        self.left = memoryview(SONG)

    def read(self, size: int) -> bytes:
        part, self.left = self.left[: min(size, 1000)], self.left[min(size, 1000) :]
        return bytes(part)

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda _: io.BytesIO(SONG), "audio"),
        (on_disk, "a song.flac"),
        (unbuffered, "a song.flac"),
        (in_zip, "a song.flac"),
        (spooled, "audio"),
        (mapped, "audio"),
        (piped, "audio"),
        (connected, "audio"),
        (lambda _: Minimal(), "audio"),
        (lambda _: WithoutEnd(SONG), "a song.flac"),
    ],
    ids=["BytesIO", "open", "unbuffered", "zip", "spooled", "mmap", "pipe", "socket", "minimal", "without end"],
)
async def test_every_kind_of_binary_file_arrives_whole_again_after_a_break_and_stays_open(
    world: World, tmp_path: Path, make: Callable[[Path], Any], name: str
) -> None:
    world.api.script("upload", APIConnectionError("reset"))
    file = make(tmp_path)
    body, announced = await upload(world, file)
    assert [asked.body for asked in world.api.of("upload")] == [SONG, SONG]
    assert body == SONG
    assert announced["contentLength"] == len(SONG)
    assert announced["filename"] == name
    assert announced["contentType"] == ("audio/flac" if name != "audio" else "application/octet-stream")
    assert not getattr(file, "closed", False)
    file.close()


async def test_it_is_read_from_where_it_stands_with_the_name_it_is_given(world: World) -> None:
    file = io.BytesIO(b"a header" + SONG)
    file.seek(8)
    body, announced = await upload(world, file, filename="song.mp3", content_type="audio/x-mine")
    assert body == SONG
    assert (announced["filename"], announced["contentType"]) == ("song.mp3", "audio/x-mine")


class Coroutine:
    async def read(self, _: int) -> bytes:
        return SONG


def piped_from(content: bytes) -> Any:
    reading, writing = os.pipe()
    os.write(writing, content)
    os.close(writing)
    return os.fdopen(reading, "rb")


class Broken(io.BytesIO):
    def read(self, size: int | None = -1, /) -> bytes:
        if size:
            raise OSError(5, "Input/output error")
        return b""


class Ends(io.BytesIO):
    """Like code that says that it was cancelled, or that it is over: what asyncio takes for its own."""

    def __init__(self, how: type[BaseException]) -> None:
        super().__init__(SONG)
        self.how = how

    def read(self, _: int | None = -1, /) -> bytes:
        raise self.how


class Words(io.BytesIO):
    def seekable(self) -> bool:
        return False

    def read(self, size: int | None = -1, /) -> Any:
        return 5 if size else b""


def at_end() -> io.BytesIO:
    file = io.BytesIO(SONG)
    file.read()
    return file


def closed() -> io.BytesIO:
    file = io.BytesIO(SONG)
    file.close()
    return file


@pytest.mark.parametrize(
    ("file", "says"),
    [
        (io.StringIO("text"), 'it is open as text; open it with mode "rb"'),
        (tempfile.SpooledTemporaryFile(mode="w+"), 'it is open as text; open it with mode "rb"'),  # noqa: SIM115
        (Coroutine(), "is async; give the file inside"),
        (at_end(), "stands at its end; seek(0)"),
        (io.BytesIO(), "is empty"),
        (closed(), "it is closed; open it again"),
        (Broken(SONG), "Input/output error"),
        (Words(SONG), "it yields int, not bytes"),
        (Ends(asyncio.CancelledError), "it raised CancelledError"),
        (Ends(StopIteration), "it raised StopIteration"),
        (gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(SONG)[:-1000])), "Compressed file ended before"),
        (io.BytesIO(b"#EXTM3U\na.wav\nb.wav\n"), "it is not audio but a playlist"),
        (piped_from(b"<!doctype html><html>not found</html>"), "it is not audio but a web page"),
    ],
    ids=lambda value: None if isinstance(value, str) else type(value).__name__,
)
async def test_what_cannot_be_read_is_refused_by_name_before_anything_is_bought(
    world: World, file: Any, says: str
) -> None:
    async with world.client(clock=SystemClock()) as client:
        with pytest.raises(SourceUnreadableError) as caught:
            await client.submit(file, filename="song.mp3")
    assert "song.mp3" in str(caught.value)
    assert says in str(caught.value)
    assert world.api.count("create") == world.api.count("upload") == 0


async def test_one_object_in_two_calls_at_once_is_refused_and_the_first_is_whole(world: World) -> None:
    file = io.BytesIO(SONG)
    async with world.client(clock=SystemClock()) as client, world.client(clock=SystemClock()) as other:
        results = await asyncio.gather(client.upload_audio(file), other.upload_audio(file), return_exceptions=True)
        refused = [result for result in results if isinstance(result, BaseException)]
        assert len(refused) == 1
        assert "being read by another call" in str(refused[0])
        file.seek(0)
        await other.upload_audio(file)
    assert [asked.body for asked in world.api.of("upload")] == [SONG, SONG]


async def test_a_file_that_is_read_by_others_meanwhile_or_grows_is_not_split(world: World, tmp_path: Path) -> None:
    class Shared(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            block = super().read(size)
            if self.tell() == 3 * BLOCK:
                super().read(10)
            return block

    with pytest.raises(SourceChangedError, match="something else read audio"):
        await upload(world, Shared(SONG))
    with on_disk(tmp_path) as file:
        source = await build_source(file)
        with (tmp_path / "a song.flac").open("ab") as end:
            end.write(b"more")
        with pytest.raises(SourceChangedError, match="changed while it was read"):
            await upload(world, source)


CALLER = ContextVar("CALLER", default="nobody")


async def test_it_is_read_in_another_thread_in_the_context_of_the_call(world: World) -> None:
    seen = set[tuple[str, bool]]()

    class Noting(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            seen.add((CALLER.get(), threading.current_thread() is threading.main_thread()))
            return super().read(size)

    CALLER.set("me")
    await upload(world, Noting(SONG))
    assert seen == {("me", False)}


async def test_a_cancelled_call_returns_only_when_nothing_reads_any_more(world: World) -> None:
    begun, go_on, log = threading.Event(), threading.Event(), list[str]()

    class Slow(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if size:
                begun.set()
                go_on.wait(10)
                log.append("read")
            return super().read(size)

    async with world.client(clock=SystemClock()) as client:
        call = asyncio.ensure_future(client.upload_audio(Slow(SONG)))
        await asyncio.to_thread(begun.wait, 10)
        call.cancel()
        threading.Timer(0.02, go_on.set).start()
        with pytest.raises(asyncio.CancelledError):
            await call
        log.append("returned")
    assert set(log[:-1]) == {"read"}
    assert log[-1] == "returned"


async def test_a_file_from_which_nothing_comes_is_given_up(still: World) -> None:
    """Its thread cannot be stopped, and is left behind after five seconds; until it ends, no other call may read."""
    begun, go_on, over = threading.Event(), threading.Event(), threading.Event()

    class Silent:
        def read(self, size: int) -> bytes:
            if size:
                begun.set()
                go_on.wait(10)
                over.set()
            return b""

    async with still.client() as client:
        file = Silent()
        call = asyncio.ensure_future(client.submit(file))
        await asyncio.to_thread(begun.wait, 10)
        await still.clock.advance(59.0)
        assert not call.done()
        await still.clock.advance(1.0)
        await still.clock.advance(4.0)
        assert not call.done()
        await still.clock.advance(1.0)
        with pytest.raises(SourceUnreadableError, match="nothing more came of it for 60 s"):
            await call
        with pytest.raises(SourceUnreadableError, match="being read by another call"):
            await client.submit(file)
    assert not over.is_set()
    go_on.set()
    await asyncio.to_thread(over.wait, 10)
    await asyncio.sleep(0.01)  # the answer of its thread, to a loop that is still there


async def test_a_copy_is_gone_with_its_source() -> None:
    before = _deleted_files()
    source = await build_source(Minimal())
    assert len(_deleted_files() - before) == 1
    del source
    gc.collect()
    assert _deleted_files() - before == set()


def _deleted_files() -> set[str]:
    paths = (f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd"))  # noqa: PTH208  # of strings
    targets = {os.readlink(path) for path in paths if os.path.islink(path)}  # noqa: PTH114, PTH115
    return {target for target in targets if target.endswith("(deleted)")}


@pytest.mark.usefixtures("inline_threads")
async def test_a_batch_takes_them_among_others(world: World) -> None:
    async def run(*sources: Any) -> list[Outcome]:
        async with world.client() as client, client.split_many(sources) as batch:
            return sorted([outcome async for outcome in batch], key=lambda outcome: outcome.position)

    done, failed, other = await run(
        BatchItem(source=io.BytesIO(SONG), filename="one.wav"), io.StringIO("no"), io.BytesIO(SONG[:BLOCK])
    )
    assert isinstance(done, Done)
    assert isinstance(failed, Failed)
    assert isinstance(other, Done)
    assert sorted(world.api.uploads.values(), key=len) == [SONG[:BLOCK], SONG]
    async with world.client() as client:
        with pytest.raises(ConfigurationError, match="sources is a single BytesIO; give a list"):
            client.split_many(io.BytesIO(SONG))
        with pytest.raises(ConfigurationError, match="sources is a single dict; give a list"):
            client.split_many({"type": "direct_url"})
