"""Downloads of bodies that are encoded, no stem, too long, or too many, and of stems that the disk has no room for."""

from __future__ import annotations

import asyncio
import errno
import gzip
import os
import random
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from aistemsplitter_async._tasks import run_in_thread
from aistemsplitter_async._transfer import manifest as manifest_module, saver
from aistemsplitter_async._transfer.manifest import Manifest
from aistemsplitter_async.batch.patience import is_storage_out, is_transient
from aistemsplitter_async.config import STEMS_CAP
from aistemsplitter_async.errors import APIConnectionError, DownloadError, IncompleteDownloadError
from aistemsplitter_async.models import Split
from aistemsplitter_async.testing import Exchange
from tests.io.fakes import Flow, World, hang, whole

VOCALS = b"RIFF" + random.Random(1).randbytes(10_000)  # noqa: S311  # the same every time
inline = pytest.mark.usefixtures("inline_threads", "no_open_files")


async def poll(world: World, *stems: str, **fields: Any) -> Split:
    world.api.stem_names = stems or ("vocals",)
    world.api.files["/split_1/vocals.mp3"] = VOCALS
    world.api.script("get", world.api.split("split_1", "succeeded", **fields))
    async with world.client() as client:
        return await client.get_split("split_1")


async def download(world: World, split: Split, into: Path, **options: Any) -> dict[str, Path]:
    async with world.client() as client:
        return await client.download_stems(split, into, name="song", **options)


def finals(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*.mp3"))


def part(folder: Path) -> Path:
    return folder / "song" / ".vocals.part"


def broken_after(count: int, **headers: str) -> Flow:
    return Flow([VOCALS[:count], APIConnectionError("reset")], whole(VOCALS, **headers).headers)


@inline
@pytest.mark.parametrize("label", ["", "identity, identity", "aws-chunked", "utf-8", "binary", "none"])
async def test_bytes_that_are_intact_are_a_stem_and_are_resumed(world: World, tmp_path: Path, label: str) -> None:
    split = await poll(world)

    def labelled(exchange: Exchange) -> Flow:
        usual = world.api.do_download(exchange)
        return Flow(usual.parts, usual.headers | {"content-encoding": label}, usual.status)

    world.api.script("download", broken_after(5000, **{"content-encoding": label}), labelled)
    found = await download(world, split, tmp_path)
    assert found["vocals"].read_bytes() == VOCALS
    assert world.api.of("download")[-1].headers["Range"] == "bytes=5000-"


@inline
async def test_the_rest_of_a_stem_may_begin_as_a_page_does(world: World, tmp_path: Path) -> None:
    split = await poll(world)
    stem = VOCALS[:5000] + b"<" + VOCALS[5001:]
    world.api.files["/split_1/vocals.mp3"] = stem
    world.api.script("download", Flow([stem[:5000], APIConnectionError("reset")], whole(stem).headers))
    found = await download(world, split, tmp_path)
    assert found["vocals"].read_bytes() == stem
    assert [asked.headers.get("Range") for asked in world.api.of("download")] == [None, "bytes=5000-"]


@inline
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_an_encoded_stem_is_decoded_and_starts_over_when_it_breaks(
    world: World, tmp_path: Path, framing: str
) -> None:
    split = await poll(world)
    body = gzip.compress(VOCALS)
    length = {"content-length": str(len(body))} if framing == "length" else {"transfer-encoding": "chunked"}
    headers = {"content-encoding": "gzip", "etag": '"gz"'} | length
    cut = Flow([body[:500], APIConnectionError("reset")], headers)
    quiet = Flow([body[:500]], headers)  # its end is missing, and nothing says so but the coding or the length
    world.api.script("download", cut, quiet, Flow([body[:500], body[500:]], headers))
    found = await download(world, split, tmp_path)
    assert found["vocals"].read_bytes() == VOCALS
    assert [asked.headers.get("Range") for asked in world.api.of("download")] == [None] * 3
    await download(world, split, tmp_path)
    assert world.api.count("download") == 3, "it is known to be complete"


@inline
async def test_what_cannot_be_decoded_is_refused_once_and_harms_nothing(world: World, tmp_path: Path) -> None:
    split = await poll(world)
    world.api.script("download", broken_after(5000), *[APIConnectionError("reset")] * 3)
    with pytest.raises(APIConnectionError):
        await download(world, split, tmp_path)
    world.api.asked.clear()
    world.api.script("download", Flow([b"\x1b\x0f brotli brotli"], {"content-encoding": "br", "content-length": "16"}))
    with pytest.raises(DownloadError, match="'br'") as caught:
        await download(world, split, tmp_path)
    assert (caught.value.code, is_transient(caught.value)) == ("ENCODED", False)
    assert world.api.count("download") == 1
    assert finals(tmp_path) == []
    await download(world, split, tmp_path)
    assert world.api.of("download")[-1].headers["Range"] == "bytes=5000-", "what was here still is"


PAGES = {
    "html": Flow([b"<html>Just a moment</html>"], {"content-length": "26", "etag": '"page"'}),
    "html in gzip": Flow([gzip.compress(b"<html>")], {"transfer-encoding": "chunked", "content-encoding": "gzip"}),
    "html to the end of the connection": Flow([b"<html>"], {}),
    "empty": Flow([], {"content-length": "0"}),
}


@inline
@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES.keys())
async def test_a_page_in_the_place_of_a_stem_is_asked_for_again_and_harms_nothing(
    world: World, tmp_path: Path, page: Flow
) -> None:
    split = await poll(world)
    world.api.script("download", broken_after(5000), page, page)
    found = await download(world, split, tmp_path)
    assert found["vocals"].read_bytes() == VOCALS
    assert [asked.headers.get("Range") for asked in world.api.of("download")] == [None, *["bytes=5000-"] * 3]
    world.api.always("download", page)
    with pytest.raises(IncompleteDownloadError, match=r"instead of the stem|how long") as caught:
        await download(world, split, tmp_path / "other")
    assert is_transient(caught.value)
    assert finals(tmp_path / "other") == []


@inline
@pytest.mark.parametrize("announced", [True, False])
async def test_a_stem_without_end_stops_where_audio_of_its_duration_must(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, announced: bool
) -> None:
    split = await poll(world, durationSeconds=2.0)
    monkeypatch.setattr("aistemsplitter_async._transfer.contents.STEM_SLACK_BYTES", 1024)
    sent = 0

    async def count() -> None:
        nonlocal sent
        sent += 1 << 20
        assert sent < 20 << 20

    pieces = [part for _ in range(100) for part in (bytes(1 << 20), count)]
    headers = {"content-length": str(100 << 20)} if announced else {"transfer-encoding": "chunked"}
    world.api.always("download", Flow(pieces, headers))
    with pytest.raises(DownloadError, match="URL") as caught:
        await download(world, split, tmp_path)
    assert (caught.value.code, is_transient(caught.value)) == ("TOO_LONG", False)
    assert world.api.count("download") == 1
    assert sent == 0 if announced else sent < 8 << 20
    assert part(tmp_path).exists() is announced, "it is empty, or gone"
    assert not announced or part(tmp_path).stat().st_size == 0


class Usage(NamedTuple):
    """What `shutil.disk_usage` returns, in bytes."""

    total: int
    used: int
    free: int


@inline
@pytest.mark.parametrize("announced", [True, False])
async def test_the_last_room_of_a_disk_is_not_taken_and_the_part_makes_room(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, announced: bool
) -> None:
    split = await poll(world)
    room, big = 30 << 20, [bytes(1 << 20)] * 20

    def free(folder: Path) -> Usage:
        held = sum(path.stat().st_size for path in Path(folder).glob(".*.part"))
        return Usage(1 << 40, 0, room - held)

    monkeypatch.setattr(shutil, "disk_usage", free)
    world.api.script("download", broken_after(5000))
    headers = {"content-length": str(20 << 20)} if announced else {"transfer-encoding": "chunked"}
    world.api.script("download", Flow(big, headers))
    with pytest.raises(DownloadError) as caught:
        await download(world, split, tmp_path)
    cause = caught.value.__cause__
    assert isinstance(cause, OSError)
    assert (caught.value.code, cause.errno) == ("DISK", errno.ENOSPC)
    assert is_storage_out(caught.value)
    assert str(caught.value).endswith("(16 MiB are kept free)"), "the disk is not full, as its owner can see"
    assert world.api.count("download") == 2
    assert not part(tmp_path).exists()
    await download(world, split, tmp_path)
    assert finals(tmp_path) == ["vocals.mp3"]


@inline
async def test_a_system_that_does_not_tell_its_room_is_written_to(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = await poll(world, "vocals", "drums")
    asked = 0

    def usage(_: Path) -> Usage:
        nonlocal asked
        asked += 1
        if asked % 2:
            raise OSError(errno.ENOSYS, "no")
        return Usage(0, 0, 0)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    await download(world, split, tmp_path)
    assert finals(tmp_path) == ["drums.mp3", "vocals.mp3"]


@inline
async def test_the_first_stems_of_very_many_are_downloaded_and_the_others_named(world: World, tmp_path: Path) -> None:
    split = await poll(world, *(f"stem-{number}" for number in range(STEMS_CAP + 40)))
    with pytest.raises(DownloadError, match=f"{STEMS_CAP + 40} stems") as caught:
        await download(world, split, tmp_path)
    assert caught.value.code == "TOO_MANY"
    assert len(finals(tmp_path)) == STEMS_CAP == world.api.count("download")
    saved = Manifest.load(tmp_path / "song")
    assert saved is not None
    assert len(saved.stems) == STEMS_CAP


# --- on the event loop


BLOCKING = (
    *("open", "close", "fsync", "write", "ftruncate", "lseek", "stat", "lstat", "fstat"),
    *("replace", "rename", "link", "unlink", "mkdir", "scandir"),
)


def noting(name: str, call: Callable[..., Any], found: list[str]) -> Callable[..., Any]:
    """Add `name` to `found` when `call` is called in this thread."""
    loop = threading.current_thread()

    def noted(*args: Any, **kwargs: Any) -> Any:
        if threading.current_thread() is loop:
            found.append(name)
        return call(*args, **kwargs)

    return noted


async def calls_on_the_loop(world: World, into: Path, monkeypatch: pytest.MonkeyPatch, tracks: int = 8) -> list[str]:
    """Download the stems of some tracks, one of which breaks and one of which is cancelled; return what blocked."""
    split = await poll(world, "vocals", "drums", "bass", "other")
    world.api.script("download", broken_after(5000), broken_after(5000))
    found = list[str]()
    here = asyncio.Event()

    async def stay() -> None:
        here.set()
        await hang()

    with monkeypatch.context() as patch:
        for name in BLOCKING:
            patch.setattr(os, name, noting(name, getattr(os, name), found))
        async with world.client() as client:
            collector = client._engine.collector
            works = [
                collector.collect(split, into / str(track), overwrite=track == 1, on_progress=None)
                for track in range(tracks)
            ]
            await asyncio.gather(*works)
            await collector.collect(split, into / "0", overwrite=False, on_progress=None)
            world.api.always("download", Flow([VOCALS[:5000], stay], whole(VOCALS).headers))
            task = asyncio.create_task(collector.collect(split, into / "c", overwrite=False, on_progress=None))
            await here.wait()
            task.cancel()
            await asyncio.wait([task])
    assert task.cancelled()
    return found


async def test_nothing_that_touches_the_disk_runs_on_the_loop(
    still: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(still.clock, "sleep", lambda _: asyncio.sleep(0))  # between attempts; threads are real here
    assert await calls_on_the_loop(still, tmp_path, monkeypatch) == []
    assert len(finals(tmp_path)) == 8 * 4


async def test_the_check_above_would_notice_a_save_on_the_loop(
    still: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control."""
    monkeypatch.setattr(still.clock, "sleep", lambda _: asyncio.sleep(0))

    async def here(function: Any, *, pool: Executor) -> Any:
        del pool
        return function()

    monkeypatch.setattr(saver, "run_in_thread", here)
    found = await calls_on_the_loop(still, tmp_path, monkeypatch, tracks=2)
    assert {"fsync", "replace"} <= set(found)


async def test_many_stems_share_the_saves_of_their_manifest(
    still: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stems = [f"stem-{number}" for number in range(200)]
    split = await poll(still, *stems)
    saves, slow = list[int](), threading.Event()
    save = Manifest.save

    def count(manifest: Manifest, *ours: frozenset[str]) -> None:
        slow.wait(0.01)  # as a disk
        saves.append(len(manifest.stems))
        save(manifest, *ours)

    monkeypatch.setattr(manifest_module.Manifest, "save", count)
    await download(still, split, tmp_path)
    assert len(finals(tmp_path)) == 200
    assert saves == sorted(saves), "in order"
    assert saves[-1] == 200
    assert len(saves) < 150


async def test_a_slow_sync_holds_up_nothing_that_needs_a_thread_of_the_loop(
    still: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as the resolving of a name for the next create."""
    split = await poll(still)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    began, go = threading.Event(), threading.Event()
    real = os.fsync

    def fsync(descriptor: int) -> None:
        began.set()
        assert go.wait(60)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    task = asyncio.create_task(download(still, split, tmp_path))
    while not began.is_set():  # noqa: ASYNC110  # a thread's
        await asyncio.sleep(0.001)
    try:
        async with asyncio.timeout(10):
            assert await run_in_thread(str, "free") == "free"
    finally:
        go.set()
        assert (await task)["vocals"].read_bytes() == VOCALS


@inline
@pytest.mark.parametrize("encoded", [bytes(1 << 16), gzip.compress(b"") * 4000], ids=["zeros", "empty members"])
async def test_a_stem_without_end_of_which_nothing_comes_stops_too(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoded: bytes
) -> None:
    split = await poll(world, durationSeconds=0.1)
    monkeypatch.setattr("aistemsplitter_async._transfer.contents.STEM_SLACK_BYTES", 1024)
    headers = {"transfer-encoding": "chunked", "content-encoding": "gzip"}
    world.api.always("download", Flow([gzip.compress(VOCALS), *[encoded] * 100], headers))
    with pytest.raises(DownloadError, match="longer than") as caught:
        await download(world, split, tmp_path)
    assert caught.value.code == "TOO_LONG"
    assert not part(tmp_path).exists()
