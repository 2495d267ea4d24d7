"""Downloads and power cuts: what was not synced may be zeros afterwards, and names may be as they were.

`Disk` is the strictest disk that POSIX allows. It knows what was synced: bytes by a sync of the file, names by a sync
of the folder. After a cut nothing else is left, except that a file may keep its new length, filled with zeros.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import attrs
import pytest

from aistemsplitter_async import _files
from aistemsplitter_async._files import make_folder, sync_folder
from aistemsplitter_async._transfer import downloader, partfile, target, writer
from aistemsplitter_async._transfer.manifest import MANIFEST_NAME, Manifest, StemRecord
from aistemsplitter_async._transfer.partfile import PartFile
from aistemsplitter_async._transfer.ranges import Incoming
from aistemsplitter_async._transfer.writer import StemWriter
from aistemsplitter_async.errors import APIConnectionError, DownloadError
from aistemsplitter_async.models import Split
from aistemsplitter_async.testing import Exchange
from tests.io.fakes import Flow, World, hang, whole

pytestmark = pytest.mark.usefixtures("inline_threads", "no_open_files")
VOCALS = bytes(range(1, 256)) * 400
OTHER = VOCALS[::-1]
OLD = bytes(len(VOCALS))


Names = Literal["new", "old", "both", "common", "manifest"]
"""Which names a folder has after a cut: those of now, those of its last sync, those of either, those of both, or those
of its last sync with the manifest of now."""
Bytes = Literal["zeros", "short", "mixed"]
"""What a file has instead of bytes that were not synced: zeros; nothing, so that it ends before them; or those bytes,
without having been cut off first."""


@attrs.define
class Disk:
    """What of a folder is durable.

    Attributes:
        root: the folder; what is in it at the beginning is durable.
        refuses: what a sync of a file answers instead, if anything.
        before_sync: called before each.
    """

    root: Path
    refuses: OSError | None = None
    before_sync: Callable[[], None] = lambda: None
    _bytes: dict[int, bytes] = attrs.field(factory=dict[int, bytes])
    _names: dict[int, dict[str, int]] = attrs.field(factory=dict[int, dict[str, int]])

    def begin(self) -> None:
        """Take what is here for durable."""
        for path in (self.root, *self.root.rglob("*")):
            self._note(path)

    def fsync(self, descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}")
        if self.refuses is not None and path.is_file():
            raise self.refuses
        self.before_sync()
        self._note(path)

    def _note(self, path: Path) -> None:
        inode = path.stat().st_ino
        if path.is_dir():
            self._names[inode] = {found.name: found.lstat().st_ino for found in path.iterdir()}
        else:
            self._bytes[inode] = path.read_bytes()

    def restart(self, into: Path, names: Names, content: Bytes) -> Path:
        """Write what is left after a cut, to a folder that does not exist; return that."""
        self._write(self.root, self.root.stat().st_ino, into, names, content)
        return into

    def _write(self, live: Path, folder: int, into: Path, names: Names, content: Bytes) -> None:
        into.mkdir()
        written: dict[int, Path] = {}
        new = {path.name: path.lstat().st_ino for path in live.iterdir()}
        old = self._names.get(folder, {})
        kinds: dict[Names, dict[str, int]] = {
            "new": new,
            "old": old,
            "both": old | new,
            "common": {name: inode for name, inode in new.items() if name in old},
            "manifest": old | {name: inode for name, inode in new.items() if name == MANIFEST_NAME},
        }
        for name, inode in kinds[names].items():
            if (live / name).is_dir():
                self._write(live / name, inode, into / name, names, content)
                continue
            if inode in written:
                os.link(written[inode], into / name)
                continue
            written[inode] = into / name
            synced = self._bytes.get(inode, b"")
            now = (live / name).read_bytes() if new.get(name) == inode else synced
            left = {"zeros": synced.ljust(len(now), b"\0"), "short": synced, "mixed": now + synced[len(now) :]}
            (into / name).write_bytes(left[content])


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk(tmp_path / "disk")
    disk.root.mkdir()
    disk.begin()
    monkeypatch.setattr(os, "fsync", disk.fsync)
    monkeypatch.setattr(writer, "_WRITE_BYTES", 4000)
    monkeypatch.setattr(writer, "CHECKPOINT_BYTES", 16_000)
    return disk


async def poll(world: World, *stems: str) -> Split:
    world.api.stem_names = stems or ("vocals",)
    world.api.files["/split_1/vocals.mp3"] = VOCALS
    async with world.client() as client:
        return await client.get_split("split_1")


async def download(world: World, split: Split, into: Path, **options: Any) -> dict[str, Path]:
    async with world.client() as client:
        return await client.download_stems(split, into, name="song", **options)


def pieces(data: bytes, *end: Any, step: int = 1000) -> Flow:
    return Flow([*(data[at : at + step] for at in range(0, len(data), step)), *end], whole(data).headers)


BYTES: tuple[Bytes, ...] = get_args(Bytes)
NAMES: tuple[Names, ...] = get_args(Names)
ATOMIC: tuple[Names, ...] = ("new", "old")
RESTARTS = list(itertools.product(ATOMIC, BYTES))


def broken_after(count: int, data: bytes = VOCALS, **headers: str) -> Flow:
    flow = pieces(data)
    return Flow([*flow.parts[: count // 1000], APIConnectionError("reset")], flow.headers | headers)


@pytest.mark.parametrize(("names", "content"), RESTARTS)
async def test_what_was_not_synced_is_not_gone_on_with(
    world: World, tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, *, names: Names, content: Bytes
) -> None:
    """Killed without a chance to sync, then the power is cut."""
    split = await poll(world)
    world.api.script("download", broken_after(50_000), *(APIConnectionError("reset") for _ in range(3)))
    monkeypatch.setattr(writer.StemWriter, "_keep", lambda _: asyncio.sleep(0))
    with pytest.raises(APIConnectionError):
        await download(world, split, disk.root)
    assert (disk.root / "song" / ".vocals.part").stat().st_size > 40_000
    left = disk.restart(tmp_path / "left", names, content)
    found = await download(world, split, left)
    assert found["vocals"].read_bytes() == VOCALS
    assert world.api.of("download")[-1].headers["Range"] == "bytes=40000-", "what was synced is"


@pytest.mark.parametrize(("names", "content"), RESTARTS)
async def test_an_interrupted_download_is_durable_and_goes_on_where_it_broke(
    world: World, tmp_path: Path, disk: Disk, *, names: Names, content: Bytes
) -> None:
    split = await poll(world)
    world.api.script("download", broken_after(5000), *(APIConnectionError("reset") for _ in range(3)))
    with pytest.raises(APIConnectionError):
        await download(world, split, disk.root)
    left = disk.restart(tmp_path / "left", names, content)
    found = await download(world, split, left)
    assert world.api.of("download")[-1].headers["Range"] == "bytes=5000-"
    assert found["vocals"].read_bytes() == VOCALS


@pytest.mark.parametrize(
    ("checkpoint", "overwrite", "links"), [(16_000, False, True), (16_000, True, False), (1_000_000, False, False)]
)
async def test_whenever_the_power_is_cut_a_final_name_has_all_its_bytes_and_a_complete_part_is_not_lost(
    world: World, disk: Disk, monkeypatch: pytest.MonkeyPatch, *, links: bool, overwrite: bool, checkpoint: int
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", refuse_links)
    monkeypatch.setattr(writer, "CHECKPOINT_BYTES", checkpoint)
    await check_cuts(world, disk, renames=overwrite or not links, overwrite=overwrite)


async def check_cuts(world: World, disk: Disk, *, renames: bool = False, overwrite: bool = False) -> None:
    """Download a file that changes at the server between two attempts; cut the power before every sync, and at the end.

    Args:
        world: the server.
        disk: empty.
        renames: whether the part becomes the target in one step.
        overwrite: whether it replaces an earlier split's, of the same length, as two splits of a song have.
    """
    split = await poll(world)
    if overwrite:
        (disk.root / "song").mkdir()
        (disk.root / "song" / "vocals.mp3").write_bytes(OLD)
        (disk.root / "song" / ".vocals.part").write_bytes(OLD)
        entry = {"file": "vocals.mp3", "etag": None, "total": len(OLD), "durable": len(OLD)}
        manifest = {"version": 1, "split_id": "split_0", "stems": {"vocals": entry}, "replaced": {}}
        (disk.root / "song" / ".stems.json").write_text(json.dumps(manifest))
        disk.begin()
    kinds = (*ATOMIC, "manifest") if renames else NAMES
    left: list[Path] = []

    def cut() -> None:
        for names, content in itertools.product(kinds, BYTES):
            left.append(disk.restart(disk.root.with_name(f"left{len(left)}"), names, content))

    disk.before_sync = cut
    world.api.script("download", broken_after(50_000, OTHER, etag='"other"'), pieces(VOCALS))
    await download(world, split, disk.root, overwrite=overwrite)
    disk.before_sync = lambda: None
    during = len(left)
    cut()
    assert during > 5 * len(kinds)
    world.api.always("download", other_or_usual)
    for folder in left:
        final = folder / "song" / "vocals.mp3"
        assert not final.exists() or final.read_bytes() in (VOCALS, *[OLD] * overwrite)
        if folder in left[during:]:
            assert final.exists(), "what was returned is durable"
            continue
        saved = Manifest.load(folder / "song")
        is_paid_down = saved is not None and saved.finished("vocals") is None and is_complete(saved)
        world.api.asked.clear()
        found = await download(world, split, folder, overwrite=overwrite)
        assert found["vocals"].read_bytes() in (VOCALS, OTHER)
        assert not is_paid_down or world.api.count("download") == 0


def other_or_usual(exchange: Exchange) -> Flow | None:
    """The rest of the file that was there for a while, for those who have the beginning."""
    headers = exchange.request.headers
    if headers.get("If-Range") != '"other"':
        return None
    start = int(headers["Range"].removeprefix("bytes=").removesuffix("-"))
    usual = {"content-length": str(len(OTHER) - start), "etag": '"other"'}
    return Flow([OTHER[start:]], {"content-range": f"bytes {start}-{len(OTHER) - 1}/{len(OTHER)}"} | usual, 206)


def sync_without_file(part: PartFile) -> int:
    sync_folder(part.path.parent)
    return part.size


def sync_without_name(part: PartFile) -> int:
    os.fsync(part._descriptor)
    return part.size


def open_at_any_size(item: Any) -> PartFile:
    path = partfile.part_path(item.manifest.folder, item.name)
    return PartFile(path, durable=path.stat().st_size if path.exists() else 0)


async def keep_claim(stem: StemWriter, record: StemRecord, incoming: Incoming) -> None:
    await stem._wait_for_checkpoint()
    stem.record, stem._coming = attrs.evolve(record, durable=0), None
    await asyncio.get_running_loop().run_in_executor(None, stem._part.start_at, incoming.start)


async def claim_before_sync(stem: StemWriter) -> None:
    stem.record = attrs.evolve(stem.record, durable=stem._part.size)
    await stem._saver.record(stem._stem, stem.record)
    await asyncio.get_running_loop().run_in_executor(None, stem._part.sync)


def link_and_unlink(part: Path, target: Path, _: object) -> bool:
    os.link(part, target)
    part.unlink()
    sync_folder(target.parent)
    return True


def leave_names(part: PartFile, target: Path, *, overwrite: bool) -> None:
    del overwrite
    part.path.rename(target)


MISTAKES: dict[str, tuple[Any, str, object]] = {
    "resume from any size": (downloader.StemDownload, "open_part", open_at_any_size),
    "the part is not synced": (PartFile, "sync", sync_without_file),
    "its name is not synced": (PartFile, "sync", sync_without_name),
    "the claim outlives the bytes": (StemWriter, "_prepare", keep_claim),
    "the claim comes before the sync": (StemWriter, "_make_durable", claim_before_sync),
    "the old name may go first": (partfile, "_rename_to_new", link_and_unlink),
    "the new name is not synced": (PartFile, "publish", leave_names),
    "the folder is not synced": (
        target,
        "make_folder",
        lambda folder: folder.mkdir(parents=True, exist_ok=True),
    ),
}


@pytest.mark.parametrize(("place", "name", "wrong"), MISTAKES.values(), ids=MISTAKES.keys())
async def test_the_check_above_would_notice(
    world: World, disk: Disk, monkeypatch: pytest.MonkeyPatch, *, place: object, name: str, wrong: object
) -> None:
    """The negative controls."""
    monkeypatch.setattr(place, name, wrong)
    if wrong is sync_without_name:  # each save of the manifest syncs it too
        monkeypatch.setattr(writer, "CHECKPOINT_BYTES", 1_000_000)
    with pytest.raises((AssertionError, DownloadError)):
        await check_cuts(world, disk)


def is_complete(manifest: Manifest) -> bool:
    """Whether all of our stem's bytes were said to be durable."""
    entry = manifest.stems.get("vocals") if manifest.split_id == "split_1" else None
    return entry is not None and entry.total is not None and entry.durable == entry.total


def refuse_links(*_: Any, **__: Any) -> None:
    raise PermissionError(errno.EPERM, "no links")


async def test_a_part_of_a_version_that_did_not_sync_starts_over(world: World, tmp_path: Path) -> None:
    split = await poll(world)
    song = tmp_path / "song"
    song.mkdir()
    (song / ".vocals.part").write_bytes(bytes(50_000))
    entry = {"file": "vocals.mp3", "etag": f'"{len(VOCALS)}"', "total": len(VOCALS)}
    manifest = {"version": 1, "split_id": "split_1", "stems": {"vocals": entry}, "replaced": {}}
    (song / ".stems.json").write_text(json.dumps(manifest))
    found = await download(world, split, tmp_path)
    assert found["vocals"].read_bytes() == VOCALS
    (song / ".stems.json").write_text(json.dumps(manifest))
    world.api.asked.clear()
    assert await download(world, split, tmp_path) == found
    assert world.api.asked == [], "and what it has finished is not fetched again"


@pytest.mark.parametrize("call", ["write", "fsync"])
async def test_what_the_disk_has_refused_is_not_gone_on_with(
    world: World, disk: Disk, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sync that succeeds after one that failed does not say that the bytes are there."""
    split = await poll(world)
    part, write = disk.root / "song" / ".vocals.part", os.write

    async def fail() -> None:
        disk.refuses = OSError(errno.EIO, "Input/output error")
        if call == "write":
            monkeypatch.setattr(os, "write", refuse_writes)

    flow = pieces(VOCALS)
    world.api.script("download", Flow([*flow.parts[:30], fail, *flow.parts[30:]], flow.headers))
    with pytest.raises(DownloadError) as caught:
        await download(world, split, disk.root)
    assert caught.value.code == "DISK"
    assert not part.exists()
    disk.refuses = None
    monkeypatch.setattr(os, "write", write)
    found = await download(world, split, disk.root)
    assert world.api.of("download")[-1].headers.get("Range") is None
    assert found["vocals"].read_bytes() == VOCALS


def refuse_writes(*_: Any) -> int:
    raise OSError(errno.EIO, "Input/output error")


async def test_a_cancelled_download_is_durable(world: World, tmp_path: Path, disk: Disk) -> None:
    split = await poll(world)
    here = asyncio.Event()

    async def stop() -> None:
        here.set()
        await hang()

    flow = pieces(VOCALS)
    world.api.script("download", Flow([*flow.parts[:7], stop], flow.headers))
    task = asyncio.create_task(download(world, split, disk.root))
    await here.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    left = disk.restart(tmp_path / "left", "old", "zeros")
    found = await download(world, split, left)
    assert world.api.of("download")[-1].headers["Range"] == "bytes=7000-"
    assert found["vocals"].read_bytes() == VOCALS


async def test_two_downloads_into_one_folder_write_its_manifest_in_turn(world: World, tmp_path: Path) -> None:
    split = await poll(world, "vocals", "drums", "bass", "other")
    async with world.client() as client:
        found = await asyncio.gather(*(client.download_stems(split, tmp_path, name="song") for _ in range(3)))
        assert found[0] == found[1] == found[2]
        assert world.api.count("download") == 4
        again = (client.download_stems(split, tmp_path, name="song", overwrite=True) for _ in range(3))
        assert await asyncio.gather(*again) == found
    saved = Manifest.load(tmp_path / "song")
    assert saved is not None
    assert set(saved.stems) == set(found[0])


# --- folders


def test_a_folder_is_synced_in_its_parent_before_anything_is_made_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acts: list[str] = []
    mkdir = Path.mkdir

    def note(path: Path, *args: Any, **kwargs: Any) -> None:
        acts.append(f"make {path.name}")
        mkdir(path, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", note)
    monkeypatch.setattr(_files, "sync_folder", lambda path: acts.append(f"sync {path.name}"))
    make_folder(tmp_path / "a" / "b")
    assert acts == ["make a", "sync a", f"sync {tmp_path.name}", "make b", "sync b", "sync a"]
    acts.clear()
    make_folder(tmp_path / "a" / "b")
    assert acts[-1] == "sync a", "whoever made it may have been killed before"


def fail_sync(code: int) -> Callable[[int], None]:
    def fsync(_: int) -> None:
        raise OSError(code, os.strerror(code))

    return fsync


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.EBADF])
def test_a_file_system_that_cannot_sync_folders_is_used_nonetheless(
    tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", fail_sync(code))
    sync_folder(tmp_path)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_folder_whose_names_may_be_lost_is_an_error(
    tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", fail_sync(code))
    with pytest.raises(OSError, match=os.strerror(code)):
        sync_folder(tmp_path)


async def test_names_that_may_be_lost_are_no_download(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = await poll(world)

    def fail(_: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(partfile, "sync_folder", fail)
    with pytest.raises(DownloadError) as caught:
        await download(world, split, tmp_path)
    assert caught.value.code == "DISK"
