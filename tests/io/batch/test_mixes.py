"""A batch with mixes: the journal remembers them, and making one holds no place among the downloads."""

from __future__ import annotations

import asyncio
import io
import os
import time
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import soundfile

from aistemsplitter_async import ConfigurationError, Outcome, RateLimit, Reply, Skipped
from aistemsplitter_async._transfer import mixing
from aistemsplitter_async._transfer.manifest import Manifest
from aistemsplitter_async.batch.outcome import Done, Failed
from aistemsplitter_async.journal.store import JournalStore
from aistemsplitter_async.testing import Exchange
from tests.io.fakes import World

SONG = "https://example.com/song.mp3"
INSTRUMENTAL = {"instrumental": "-vocals"}


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no power cut here


@pytest.fixture
def home(tmp_path: Path) -> dict[str, Path]:
    return {"into": tmp_path / "out", "journal": tmp_path / "journal"}


def fill(world: World, *splits: str) -> None:
    """Let each stem be a short sound of one level; those without vocals clip."""
    file = io.BytesIO()
    soundfile.write(file, np.full((50, 1), 16000, np.int16), 8000, "PCM_16", format="WAV")
    for split in splits:
        world.api.files |= {f"/{split}/{stem}.mp3": file.getvalue() for stem in ("vocals", "drums", "bass", "other")}


async def run(world: World, home: Any, stems: Any, mixes: Any, **options: Any) -> Outcome:
    world.api.asked.clear()
    async with (
        world.client(rate_limit=RateLimit(1000)) as client,
        client.split_many([SONG], stems=stems, mixes=mixes, **home, **options) as batch,
    ):
        (outcome,) = [outcome async for outcome in batch]
    return outcome


def fetched(world: World) -> list[str]:
    return sorted(Path(asked.exchange.request.url.partition("?")[0]).stem for asked in world.api.of("download"))


@pytest.mark.usefixtures("inline_threads", "no_open_files")
async def test_the_journal_remembers_a_mix_its_stems_and_its_gain(world: World, home: Any) -> None:
    fill(world, "split_1")
    first = await run(world, home, ("vocals",), INSTRUMENTAL)
    assert isinstance(first, Done)
    assert (list(first.files), first.gain_db) == (["vocals", "instrumental"], {"instrumental": -3.32})
    assert first.to_dict()["gain_db"] == {"instrumental": -3.32}
    again = await run(world, home, ("vocals",), INSTRUMENTAL)
    assert isinstance(again, Skipped)
    assert (again.files, again.gain_db, world.api.asked) == (first.files, first.gain_db, [])
    other = await run(world, home, (), {"rhythm": ("drums", "bass")})
    assert isinstance(other, Done)
    assert (list(other.files), fetched(world), world.api.count("create")) == (["rhythm"], ["bass", "drums"], 0)
    await run(world, home, None, None)
    assert fetched(world) == ["bass", "drums", "other"]
    await run(world, home, None, {"all": ("vocals", "drums", "bass", "other")} | INSTRUMENTAL)
    folder = home["into"] / "song"
    assert not fetched(world), "it is made of what is here"
    assert {path.name for path in folder.iterdir()} == {
        f"{name}.mp3" for name in ("vocals", "drums", "bass", "other", "instrumental", "rhythm", "all")
    } | {".stems.json"}
    first.files["instrumental"].unlink()
    assert isinstance(await run(world, home, ("vocals",), INSTRUMENTAL), Done)
    assert not fetched(world)
    changed = await run(world, home, (), {"instrumental": "drums"})
    assert isinstance(changed, Failed)
    assert "is the mix of drums, bass, other" in str(changed.error)


@pytest.mark.usefixtures("inline_threads", "no_open_files")
async def test_a_journal_of_an_earlier_version_has_no_mixes(world: World, home: Any) -> None:
    fill(world, "split_1")
    await run(world, home, None, None)
    store = JournalStore(home["journal"])
    (record,) = store.page(0, 9)
    store.close()
    assert {attrs.astuple(file)[3:] for file in record.files.values()} == {((), 0.0)}
    assert isinstance(await run(world, home, None, INSTRUMENTAL), Done)
    assert not fetched(world)
    manifest = Manifest.load(home["into"] / "song")
    assert manifest is not None
    assert set(manifest.mixes) == {"instrumental"}


@pytest.mark.usefixtures("inline_threads", "no_open_files")
async def test_a_song_whose_stems_cannot_be_mixed_fails_and_its_stems_can_be_had(world: World, home: Any) -> None:
    failed = await run(world, home, ("vocals",), INSTRUMENTAL)  # they are no audio
    assert isinstance(failed, Failed)
    assert (failed.stage, type(failed.error).__name__, failed.error.split_id) == ("mix", "MixError", "split_1")
    assert isinstance(await run(world, home, ("vocals",), None), Done)
    assert not fetched(world)


async def test_songs_are_downloaded_while_another_is_mixed(
    still: World, home: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(still, "split_1", "split_2")
    make, begun = mixing.mix_stems, list[str]()

    def run_the_second_until_the_first_is_mixed(exchange: Exchange) -> Reply | None:
        running = exchange.request.url.endswith("split_2") and not begun
        return still.api.split("split_2", "processing") if running else None

    still.api.always("get", run_the_second_until_the_first_is_mixed)

    def mix(*args: Any) -> float:
        """Mix, but only once the stems of both songs are here."""
        begun.append("one")
        end = time.monotonic() + 20
        while still.api.count("download") < 6 and time.monotonic() < end:
            time.sleep(0.001)
        assert still.api.count("download") == 6
        return make(*args)

    monkeypatch.setattr(mixing, "mix_stems", mix)
    sources = [SONG, "https://example.com/other.mp3"]
    async with (
        still.client(rate_limit=RateLimit(1000)) as client,
        client.split_many(sources, stems=(), mixes=INSTRUMENTAL, downloads=1, **home) as batch,
    ):
        outcomes = asyncio.ensure_future(batch.report())
        while not outcomes.done():
            await still.clock.advance(1.0)
            await asyncio.sleep(0.005)
    assert outcomes.result().done == 2


async def test_a_batch_that_cannot_mix_does_not_begin(world: World, home: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    with pytest.raises(ConfigurationError, match="pip install"):
        await run(world, home, None, INSTRUMENTAL)
    assert not world.api.asked
    assert not home["journal"].exists()
