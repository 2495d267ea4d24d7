"""The stems one wants: nothing else is fetched or looked at, whoever else fetches into the same folder."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from aistemsplitter_async._transfer.manifest import Manifest
from aistemsplitter_async._transfer.selection import Selection
from aistemsplitter_async.errors import AIStemSplitterError, ConfigurationError, DownloadError
from aistemsplitter_async.models import Split
from aistemsplitter_async.testing import Exchange, error_reply
from tests.io.fakes import CDN, World

if sys.platform != "win32":
    import fcntl

pytestmark = pytest.mark.usefixtures("inline_threads", "no_open_files")


async def finished(world: World) -> Split:
    async with world.client() as client:
        split = await client.get_split("split_1")
    world.api.asked.clear()
    return split


async def download(world: World, split: Split, into: Path, **options: Any) -> dict[str, Path]:
    async with world.client() as client:
        return await client.download_stems(split, into, **options)


def asked_for(world: World) -> list[str]:
    """The stems the CDN was asked for, each time it was."""
    paths = [asked.exchange.request.url.removeprefix(CDN).partition("?")[0] for asked in world.api.of("download")]
    return sorted(Path(path).stem for path in paths)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def check_only_vocals_are_fetched(world: World, folder: Path) -> None:
    assert asked_for(world) == ["vocals"]
    assert names(folder) == [".stems.json", "vocals.mp3"]
    manifest = json.loads((folder / ".stems.json").read_bytes())
    assert list(manifest["stems"]) == ["vocals"]


async def test_what_is_not_wanted_is_not_fetched_and_leaves_nothing(world: World, tmp_path: Path) -> None:
    split = await finished(world)
    found = await download(world, split, tmp_path, stems=["vocals"])
    assert found == {"vocals": tmp_path / "song" / "vocals.mp3"}
    check_only_vocals_are_fetched(world, tmp_path / "song")


async def test_the_check_above_would_notice_a_download_of_everything(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control."""

    monkeypatch.setattr(Selection, "kept", lambda _, stems: tuple(stems))
    await download(world, await finished(world), tmp_path, stems=["vocals"])
    with pytest.raises(AssertionError):
        check_only_vocals_are_fetched(world, tmp_path / "song")


async def test_several_calls_fetch_only_what_is_missing(world: World, tmp_path: Path) -> None:
    split = await finished(world)
    await download(world, split, tmp_path, stems=["vocals"])
    assert list(await download(world, split, tmp_path, stems={"drums", "vocals"})) == ["vocals", "drums"]
    assert asked_for(world) == ["drums", "vocals"]
    assert list(await download(world, split, tmp_path, stems=["bass"])) == ["bass"]
    assert len(await download(world, split, tmp_path)) == 4
    assert asked_for(world) == ["bass", "drums", "other", "vocals"]
    assert list(await download(world, split, tmp_path, stems=["drums"])) == ["drums"]
    assert names(tmp_path / "song") == [".stems.json", "bass.mp3", "drums.mp3", "other.mp3", "vocals.mp3"]
    assert world.api.count("download") == 4


async def test_concurrent_calls_fetch_each_stem_once(world: World, tmp_path: Path) -> None:
    split = await finished(world)
    async with world.client() as client:
        job = client.job("split_1")
        wanted: list[list[str] | None] = [["vocals"], ["drums", "vocals"], None, ["bass"]]
        found = await asyncio.gather(
            *(client.download_stems(split, tmp_path, stems=stems) for stems in wanted),
            job.download(tmp_path, stems=("other",)),
        )
    assert [sorted(files) for files in found] == [
        ["vocals"], ["drums", "vocals"], ["bass", "drums", "other", "vocals"], ["bass"], ["other"],
    ]  # fmt: skip
    assert asked_for(world) == ["bass", "drums", "other", "vocals"]


@pytest.mark.parametrize("alone", [False, True], ids=["several", "the control: each as if alone"])
async def test_other_processes_that_fetch_other_stems_meanwhile_do_not_lose_their_records(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, alone: bool
) -> None:
    """Each client has a downloader of its own, as each process has."""
    split = await finished(world)
    begun = asyncio.Barrier(3)

    async def all_at_once(_: Exchange) -> None:
        await begun.wait()  # each has read the manifest

    world.api.always("download", all_at_once)
    save = Manifest.save
    if alone:
        monkeypatch.setattr(Manifest, "save", lambda manifest, *_: save(manifest))
    await asyncio.gather(*(download(world, split, tmp_path, stems=[stem]) for stem in ("vocals", "drums", "bass")))
    manifest = Manifest.load(tmp_path / "song")
    assert manifest is not None
    assert (sorted(manifest.stems) == ["bass", "drums", "vocals"]) is not alone
    if not alone:
        world.api.always("download", lambda _: None)
        assert len(await download(world, split, tmp_path)) == 4
        assert asked_for(world) == ["bass", "drums", "other", "vocals"]


@pytest.mark.skipif(sys.platform == "win32", reason="folders cannot be locked")
def test_a_process_that_was_stopped_while_it_wrote_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses = list[float]()
    monkeypatch.setattr(time, "sleep", pauses.append)
    other = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(other, fcntl.LOCK_EX)
        Manifest(tmp_path, "split_1").save()
        assert Manifest.load(tmp_path) == Manifest(tmp_path, "split_1")
        assert sum(pauses) == pytest.approx(10.0), "though for a while"
    finally:
        os.close(other)
    pauses.clear()
    Manifest(tmp_path, "split_2").save()
    assert not pauses


async def test_a_stem_that_fails_is_no_matter_to_a_call_that_does_not_want_it(world: World, tmp_path: Path) -> None:
    split = await finished(world)
    world.api.always("download", lambda exchange: error_reply(500, "X") if "drums" in exchange.request.url else None)
    with pytest.raises(AIStemSplitterError, match="drums"):
        await download(world, split, tmp_path)
    world.api.asked.clear()
    assert list(await download(world, split, tmp_path, stems=["vocals"])) == ["vocals"]
    assert not world.api.asked


async def test_a_stem_that_the_split_does_not_have_is_an_error_that_names_those_that_exist(
    world: World, tmp_path: Path
) -> None:
    split = await finished(world)
    with pytest.raises(DownloadError, match="stem 'piano'; it has 'vocals', 'drums', 'bass', 'other'") as caught:
        await download(world, split, tmp_path, stems=["vocals", "piano"])
    assert (caught.value.code, caught.value.split_id) == ("NO_SUCH_STEM", "split_1")
    assert not world.api.asked
    assert not list(tmp_path.iterdir())


async def test_nothing_is_spent_for_stems_that_cannot_be(world: World, tmp_path: Path) -> None:
    async with world.client() as client:
        for wrong in ({"stems": "vocals"}, {"stems": ("piano",), "stem_model": "4s"}, {"stems": ("vocls",)}):
            with pytest.raises(ConfigurationError):
                await client.split(b"sound", into=tmp_path, **wrong)
            with pytest.raises(ConfigurationError):
                client.split_many([b"sound"], into=tmp_path, **wrong)
        with pytest.raises(ConfigurationError):
            await client.job("split_1").download(tmp_path, stems=())
    assert not world.api.asked


async def test_files_in_the_way_matter_only_if_they_are_wanted(world: World, tmp_path: Path) -> None:
    """Before anything is bought, and when a finished split is downloaded."""
    (tmp_path / "song").mkdir()
    (tmp_path / "song" / "drums.mp3").write_bytes(b"mine")
    async with world.client() as client:
        with pytest.raises(DownloadError, match=r"drums\.mp3 exists already"):
            await client.split(b"sound", into=tmp_path, name="song", stems=("drums",))
        assert not world.api.asked
        done = await client.split(b"sound", into=tmp_path, name="song", stems=("vocals",))
        assert done.files == {"vocals": tmp_path / "song" / "vocals.mp3"}
        with pytest.raises(DownloadError, match=r"drums\.mp3 exists already"):
            await client.download_stems(done.split, tmp_path, name="song")
    assert (tmp_path / "song" / "drums.mp3").read_bytes() == b"mine"
    assert asked_for(world) == ["bass", "other", "vocals"]


async def test_where_another_split_is_overwritten_none_of_its_stems_stays(world: World, tmp_path: Path) -> None:
    """Or one folder would hold stems of two splits, and only of some it would be known which."""
    async with world.client() as client:
        await client.split(b"sound", into=tmp_path, name="song")
        second = await client.split(b"other", into=tmp_path, name="song", stems=("vocals",), overwrite=True)
        assert names(tmp_path / "song") == [".stems.json", "vocals.mp3"]
        assert f"{second.split.id}/vocals" in second.files["vocals"].read_text()
        assert len(await client.download_stems(second.split, tmp_path, name="song")) == 4
