"""Mixes in a folder of stems: what they need is fetched once, and a kill at any moment leaves nothing half done."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import soundfile

from aistemsplitter_async import (
    AIStemSplitterError,
    ConfigurationError,
    DownloadError,
    MixError,
    MixMade,
    UnsafeNameError,
)
from aistemsplitter_async._transfer import mixing
from aistemsplitter_async._transfer.collector import Files, Work
from aistemsplitter_async._transfer.manifest import Manifest, MixRecord
from aistemsplitter_async._transfer.partfile import PartFile
from aistemsplitter_async._transfer.selection import Selection
from aistemsplitter_async.models import Split
from tests.io.fakes import CDN, World

pytestmark = pytest.mark.usefixtures("inline_threads", "no_open_files")
LEVELS = {"vocals": 100, "drums": 20, "bass": 3, "other": 5000}
INSTRUMENTAL = {"instrumental": "-vocals"}


def wav(level: int, frames: int = 50) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.full((frames, 1), level, np.int16), 8000, "PCM_16", format="WAV")
    return file.getvalue()


def level(path: Path) -> int:
    """Return the one level that all samples of a file have."""
    samples = soundfile.read(path, dtype="int16")[0]
    assert len(samples) == 50
    assert set(samples) == {samples[0]}
    return int(samples[0])


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no power cut here


@pytest.fixture
async def split(world: World) -> Split:
    for stem, loud in LEVELS.items():
        world.api.files[f"/split_1/{stem}.mp3"] = wav(loud)
    async with world.client() as client:
        return await client.get_split("split_1")


async def download(
    world: World, split: Split, into: Path, stems: Collection[str] | None, mixes: Any, **options: Any
) -> dict[str, Path]:
    world.api.asked.clear()
    async with world.client() as client:
        return await client.download_stems(split, into, name="song", stems=stems, mixes=mixes, **options)


def fetched(world: World) -> list[str]:
    return sorted(Path(asked.exchange.request.url.partition("?")[0]).stem for asked in world.api.of("download"))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "song").iterdir())


async def test_a_mix_is_made_of_what_is_here_and_what_must_be_fetched_for_it_is_not_kept(
    world: World, split: Split, tmp_path: Path
) -> None:
    files = await download(world, split, tmp_path, ["drums"], INSTRUMENTAL)
    assert list(files) == ["drums", "instrumental"]
    assert fetched(world) == ["bass", "drums", "other"]
    assert names(tmp_path) == [".stems.json", "drums.mp3", "instrumental.mp3"]
    assert level(files["instrumental"]) == 5023
    (event,) = world.of(MixMade)
    assert (event.split_id, event.mix, event.stems, event.gain_db) == (
        "split_1", "instrumental", ("drums", "bass", "other"), 0.0,
    )  # fmt: skip
    assert await download(world, split, tmp_path, ["drums"], INSTRUMENTAL) == files
    assert not world.api.asked
    more = await download(world, split, tmp_path, [], {"rhythm": ("bass", "drums")})
    assert (fetched(world), level(more["rhythm"])) == (["bass"], 23)
    assert list(await download(world, split, tmp_path, None, INSTRUMENTAL)) == [*LEVELS, "instrumental"]
    assert fetched(world) == ["bass", "other", "vocals"]
    kept = ["bass.mp3", "drums.mp3", "instrumental.mp3", "other.mp3", "rhythm.mp3", "vocals.mp3"]
    assert names(tmp_path) == [".stems.json", *kept]
    manifest = Manifest.load(tmp_path / "song")
    assert manifest is not None
    assert manifest.files() == set(kept)


async def test_a_pattern_names_a_mix_like_a_stem(world: World, split: Split, tmp_path: Path) -> None:
    async with world.client() as client:
        collector = client._engine.collector
        selection = Selection.parse((), INSTRUMENTAL)
        options: Any = {"overwrite": False, "on_progress": None, "pattern": "Song ({stem})", "selection": selection}
        files = await collector.collect(split, tmp_path / "song", **options)
    assert names(tmp_path) == [".Song ({stem}).json", "Song (instrumental).mp3"]
    assert level(files["instrumental"]) == 5023


async def test_a_mix_that_would_clip_says_its_gain_also_when_it_is_here_already(
    world: World, split: Split, tmp_path: Path
) -> None:
    world.api.files["/split_1/other.mp3"] = world.api.files["/split_1/bass.mp3"] = wav(32000)
    files = await download(world, split, tmp_path, (), INSTRUMENTAL)
    (event,) = world.of(MixMade)
    assert event.gain_db == -5.82
    assert level(files["instrumental"]) == round(64020 * 10 ** (-5.82 / 20))
    assert mixing.read_gains(files, INSTRUMENTAL) == {"instrumental": -5.82}


async def test_a_killed_download_is_completed_by_the_next_and_leaves_nothing_behind(
    world: World, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a kill leaves is what is on the disk before a step."""
    folder, moments = tmp_path / "now", list[Path]()

    def note() -> None:
        if folder.exists():
            moments.append(Path(shutil.copytree(folder, tmp_path / f"moment {len(moments)}")))

    def stepwise(place: Any, name: str) -> None:
        step = getattr(place, name)

        def watched(*args: Any, **options: Any) -> Any:
            note()
            return step(*args, **options)

        patch.setattr(place, name, watched)

    with monkeypatch.context() as patch:
        for place, name in (
            (Manifest, "save"),
            (PartFile, "sync"),
            (PartFile, "publish"),
            (mixing, "mix_stems"),
            (PartFile, "discard"),
        ):
            stepwise(place, name)
        await download(world, split, folder, ["drums"], INSTRUMENTAL)
    states = {tuple(names(moment)) for moment in moments}
    assert len(moments) > 10
    assert any(".instrumental.part" in state for state in states)
    for moment in moments:
        made = moment / "song" / "instrumental.mp3"
        assert not made.exists() or level(made) == 5023
        again = shutil.copytree(moment, tmp_path / "again")
        files = await download(world, split, again, ["drums"], INSTRUMENTAL)
        assert names(again) == [".stems.json", "drums.mp3", "instrumental.mp3"]
        assert level(files["instrumental"]) == 5023
        shutil.rmtree(again)
        await download(world, split, moment, ["drums"], None)  # the mix is not wanted any more
        assert [name for name in names(moment) if name.startswith(".")] == [".stems.json"]


async def test_a_mix_that_is_cancelled_is_made_of_the_same_bytes_by_the_next_call(
    world: World, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = mixing.mix_stems

    def cancel(name: str, stems: Any, part: PartFile, is_stopped: Callable[[], bool]) -> float:
        task.cancel()
        return make(name, stems, part, is_stopped)

    with monkeypatch.context() as patch:
        patch.setattr(mixing, "mix_stems", cancel)
        task = asyncio.ensure_future(download(world, split, tmp_path, (), INSTRUMENTAL))
        with pytest.raises(asyncio.CancelledError):
            await task
    await download(world, split, tmp_path, (), INSTRUMENTAL)
    assert not world.api.asked
    assert names(tmp_path) == [".stems.json", "instrumental.mp3"]


async def test_a_stem_that_cannot_be_mixed_is_named_and_the_others_stay(
    world: World, split: Split, tmp_path: Path
) -> None:
    world.api.files["/split_1/bass.mp3"] = b"\xff\xfb no audio at all" * 50
    with pytest.raises(MixError, match="the mix 'instrumental' was not made: the stem 'bass' cannot be") as raised:
        await download(world, split, tmp_path, ["drums"], INSTRUMENTAL)
    assert (raised.value.mix, raised.value.stem, raised.value.split_id) == ("instrumental", "bass", "split_1")
    assert "drums.mp3" in names(tmp_path)
    with pytest.raises(MixError):
        await download(world, split, tmp_path, ["drums"], INSTRUMENTAL)
    assert not world.api.asked, "the same bytes are no better"
    assert list(await download(world, split, tmp_path, ["drums"], None)) == ["drums"]
    assert names(tmp_path) == [".stems.json", "drums.mp3"]


async def test_a_file_in_the_way_is_not_replaced_unasked(world: World, split: Split, tmp_path: Path) -> None:
    files = await download(world, split, tmp_path, (), {"mine": ("drums", "bass")})
    with pytest.raises(DownloadError, match=r"mine.mp3 is the mix of drums, bass; nothing was overwritten") as raised:
        await download(world, split, tmp_path, (), {"mine": ("drums", "other")})
    assert raised.value.code == "EXISTS"
    (tmp_path / "song" / "instrumental.mp3").write_bytes(b"my own")
    with pytest.raises(DownloadError, match=r"instrumental.mp3 exists already; nothing was overwritten"):
        await download(world, split, tmp_path, (), INSTRUMENTAL)
    assert not world.api.asked, "nothing is fetched in vain"
    await download(world, split, tmp_path, (), INSTRUMENTAL | {"mine": ("drums", "other")}, overwrite=True)
    assert level(files["mine"]) == 5020
    assert level(tmp_path / "song" / "instrumental.mp3") == 5023
    assert names(tmp_path) == [".stems.json", "instrumental.mp3", "mine.mp3"]


async def test_another_splits_mix_is_replaced_with_its_stems(world: World, split: Split, tmp_path: Path) -> None:
    await download(world, split, tmp_path, ["drums"], INSTRUMENTAL)
    world.api.script("get", world.api.split("split_2", "succeeded"))
    async with world.client() as client:
        other = await client.get_split("split_2")
    for stem in LEVELS:
        world.api.files[f"/split_2/{stem}.mp3"] = wav(7)
    with pytest.raises(DownloadError, match="holds the stems of split split_1 already"):
        await download(world, other, tmp_path, (), INSTRUMENTAL)
    files = await download(world, other, tmp_path, ["bass"], {"all": "-vocals"}, overwrite=True)
    assert (level(files["all"]), names(tmp_path)) == (21, [".stems.json", "all.mp3", "bass.mp3"])


async def test_mixes_that_no_split_or_this_one_cannot_have_are_refused(
    world: World, split: Split, tmp_path: Path
) -> None:
    wrong: dict[str, tuple[Any, type[AIStemSplitterError], str]] = {
        "is a stem": ({"Vocals": "-vocals"}, ConfigurationError, "must not be called like a stem"),
        "one file": ({"a": "drums", "A": "bass"}, ConfigurationError, "would be the same file"),
        "a path": ({"../a": "drums"}, ConfigurationError, "the name of a mix is that of its file"),
        "both": ({"a": ("drums", "-bass")}, ConfigurationError, "must be stems like"),
        "nothing": ({"a": [f"-{stem}" for stem in LEVELS]}, DownloadError, "'a' would be the sum of no stem"),
        "unknown": ({"a": "piano"}, DownloadError, "does not have a stem 'piano'"),
    }
    for mixes, error, message in wrong.values():
        with pytest.raises(error, match=message):
            await download(world, split, tmp_path, ["drums"], mixes)
    odd = Split("split_1", "succeeded", stems={"Choir": f"{CDN}/split_1/drums.mp3"})
    with pytest.raises(DownloadError, match="the mix 'choir' and the stem 'Choir' would be the same file"):
        await download(world, odd, tmp_path, (), {"choir": "Choir"})
    assert not world.api.asked


async def test_without_the_extra_nothing_is_spent(
    world: World, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    world.api.asked.clear()
    async with world.client() as client:
        for call in (
            client.split(b"RIFF", filename="song.wav", into=tmp_path, mixes=INSTRUMENTAL),
            client.job("split_1").download(tmp_path, mixes=INSTRUMENTAL),
            client.download_stems(split, tmp_path, mixes=INSTRUMENTAL),
            client.split_many(["song.wav"], into=tmp_path, mixes=INSTRUMENTAL).__aenter__(),
        ):
            with pytest.raises(ConfigurationError, match=r"pip install 'aistemsplitter-async\[audio\]'"):
                await call
    assert not world.api.asked
    assert not [*tmp_path.iterdir()]


def test_a_manifest_that_others_wrote_names_no_file_elsewhere(tmp_path: Path) -> None:
    for mix in (
        MixRecord(file="../a.wav", stems=("drums",), total=1),
        MixRecord(file="a.wav", stems=("drums",), total=-1),
        MixRecord(file="a.exe", stems=("drums",), total=1),
        MixRecord(file="a.wav", stems=("drums",), total=1, gain_db=float("nan")),
    ):
        Manifest(tmp_path, "split_1", mixes={"a": mix}).save()
        assert Manifest.load(tmp_path) is None
    good = Manifest(tmp_path, "split_1", mixes={"a": MixRecord(file="a.wav", stems=("drums",), total=1, gain_db=-0.5)})
    good.save()
    assert Manifest.load(tmp_path) == good


async def test_other_processes_leave_what_a_mix_is_yet_to_be_made_of(
    world: World, split: Split, tmp_path: Path
) -> None:
    """Another client waits for no turn of this one, like another process."""
    stale = Manifest(tmp_path / "song", split.id)

    async def after_others(work: Work) -> Files:
        nonlocal stale
        stale = Manifest.load(tmp_path / "song") or stale
        await download(world, split, tmp_path, ["vocals"], None)
        for stems, mixes in ((["drums"], None), ((), {"rhythm": ("drums", "bass")})):
            with pytest.raises(DownloadError, match=r"another process is downloading .*\.drums\.part"):
                await download(world, split, tmp_path, stems, mixes)
        return await work()

    async with world.client() as client:
        files = await client._engine.collector.collect(
            split,
            tmp_path / "song",
            overwrite=False,
            on_progress=None,
            selection=Selection.parse((), INSTRUMENTAL),
            mixing=after_others,
        )
    assert level(files["instrumental"]) == 5023
    assert names(tmp_path) == [".stems.json", "instrumental.mp3", "vocals.mp3"]
    stale.save((), dropped=dict(stale.mixes))  # decided before the mix was made
    assert mixing.read_gains(files, INSTRUMENTAL) == {"instrumental": 0.0}


async def test_mixing_goes_on_after_a_failure_though_the_manifest_is_lost(
    world: World, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, failing = mixing.mix_stems, ["b"]

    def fail_once(name: str, *args: Any) -> float:
        if name in failing:
            failing.remove(name)
            raise DownloadError("the disk is full", code="DISK")
        return make(name, *args)

    async def twice(work: Work) -> Files:
        with pytest.raises(DownloadError, match="full"):
            await work()
        (tmp_path / "song" / ".stems.json").unlink()
        return await work()

    monkeypatch.setattr(mixing, "mix_stems", fail_once)
    selection = Selection.parse((), {"a": "-vocals", "b": "-drums"})
    async with world.client() as client:
        await client._engine.collector.collect(
            split, tmp_path / "song", overwrite=False, on_progress=None, selection=selection, mixing=twice
        )
    assert names(tmp_path) == [".stems.json", "a.mp3", "b.mp3"]
    assert len(world.of(MixMade)) == 2


async def test_a_stem_whose_name_is_unsafe_does_not_block_the_folder(
    world: World, split: Split, tmp_path: Path
) -> None:
    odd = attrs.evolve(split, stems=dict(split.stems) | {"a/b": split.stems["drums"]})
    with pytest.raises(UnsafeNameError, match="the name 'a/b' is not safe"):
        await download(world, odd, tmp_path, ["vocals"], INSTRUMENTAL)
    await download(world, odd, tmp_path, ["vocals"], None)
    assert names(tmp_path) == [".stems.json", "vocals.mp3"]
