"""A batch of the stems one wants: the journal remembers what was downloaded, and more is fetched, not bought."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from aistemsplitter_async import DownloadError, Outcome, RateLimit, Skipped
from aistemsplitter_async.batch.outcome import Done, Failed
from aistemsplitter_async.journal.record import Record, State
from aistemsplitter_async.journal.store import JournalStore
from aistemsplitter_async.testing import Exchange, error_reply
from tests.io.fakes import CDN, Flow, World, hang, whole

pytestmark = pytest.mark.usefixtures("inline_threads", "no_open_files")
SONG = "https://example.com/song.mp3"
HOUR = 3600.0


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no power cut here


@pytest.fixture
def home(tmp_path: Path) -> dict[str, Path]:
    return {"into": tmp_path / "out", "journal": tmp_path / "journal"}


async def run(world: World, home: Any, *stems: str, **options: Any) -> Outcome:
    """Run a batch of one song; without names, all stems are wanted. The requests are those of this run."""
    world.api.asked.clear()
    async with (
        world.client(rate_limit=RateLimit(1000)) as client,
        client.split_many([SONG], stems=stems or None, **home, **options) as batch,
    ):
        (outcome,) = [outcome async for outcome in batch]
    return outcome


def requests(world: World) -> dict[str, int]:
    return {what: count for what in ("reserve", "create", "get") if (count := world.api.count(what))}


def fetched(world: World) -> list[str]:
    paths = [asked.exchange.request.url.removeprefix(CDN).partition("?")[0] for asked in world.api.of("download")]
    return sorted(Path(path).stem for path in paths)


def row(home: dict[str, Path]) -> Record:
    store = JournalStore(home["journal"])
    (record,) = store.page(0, 9)
    store.close()
    return record


async def test_more_is_fetched_later_without_being_bought_and_less_is_finished_at_once(world: World, home: Any) -> None:
    first = await run(world, home, "vocals")
    assert isinstance(first, Done)
    assert (fetched(world), list(first.files)) == (["vocals"], ["vocals"])
    assert sorted(first.split.stems) == ["bass", "drums", "other", "vocals"]
    more = await run(world, home, "drums", "vocals")
    assert isinstance(more, Done)
    assert (requests(world), fetched(world)) == ({"get": 1}, ["drums"])
    assert list(more.files) == ["vocals", "drums"]
    for stems in (["vocals"], ["drums"], ["drums", "vocals"]):
        less = await run(world, home, *stems)
        assert isinstance(less, Skipped)
        assert (less.reason, sorted(less.files), world.api.asked) == ("finished", stems, [])
        assert less.split is not None
        assert not less.split.stems, "their URLs are not kept, and their names are no URLs"
    assert sorted(row(home).files) == ["drums", "vocals"]
    everything = await run(world, home)
    assert isinstance(everything, Done)
    assert (requests(world), fetched(world)) == ({"get": 1}, ["bass", "other"])
    assert len(everything.files) == len(row(home).files) == 4
    assert isinstance(await run(world, home), Skipped)
    folder = home["into"] / "song"
    assert sorted(path.name for path in folder.iterdir()) == [
        ".stems.json", "bass.mp3", "drums.mp3", "other.mp3", "vocals.mp3",
    ]  # fmt: skip


async def test_a_stem_that_a_split_does_not_have_fails_and_other_stems_are_fetched_without_being_bought(
    world: World, home: Any
) -> None:
    failed = await run(world, home, "vocals", "piano")
    assert isinstance(failed, Failed)
    assert (failed.stage, failed.error.code, failed.error.split_id) == ("download", "NO_SUCH_STEM", "split_1")
    assert isinstance(failed.error, DownloadError)
    assert "stem 'piano'; it has 'vocals', 'drums', 'bass', 'other'" in str(failed.error)
    assert not fetched(world)
    assert isinstance(await run(world, home, "piano"), Failed)
    assert not world.api.asked
    assert isinstance(await run(world, home, "vocals"), Done)
    assert (requests(world), fetched(world)) == ({}, ["vocals"])
    assert isinstance(await run(world, home, "piano"), Failed)
    assert not world.api.asked
    assert isinstance(await run(world, home, "vocals"), Skipped)
    assert row(home).failure is None


async def test_a_run_that_was_stopped_while_it_fetched_more_loses_nothing_of_the_record(
    world: World, home: Any
) -> None:
    await run(world, home, "vocals")
    world.api.always("download", lambda exchange: hang if "bass" in exchange.request.url else None)
    async with (
        world.client(rate_limit=RateLimit(1000)) as client,
        client.split_many([SONG], stems=("vocals", "drums", "bass"), **home) as batch,
    ):
        while not (home["into"] / "song" / "drums.mp3").exists():
            await world.clock.sleep(1.0)
        assert batch.progress().active[0].stage == "download"
    held = row(home)
    assert (held.state, list(held.files)) == (State.SUCCEEDED, ["vocals"])
    world.api.always("download", lambda _: None)
    less = await run(world, home, "vocals")
    assert isinstance(less, Skipped), "what is here needs nothing more"
    assert not world.api.asked
    more = await run(world, home, "vocals", "drums", "bass")
    assert isinstance(more, Done)
    assert (requests(world), fetched(world)) == ({"get": 1}, ["bass"])
    assert sorted(row(home).files) == ["bass", "drums", "vocals"]


@pytest.mark.parametrize("what", ["get", "download"])
async def test_what_is_here_stays_when_the_service_no_longer_has_the_rest(world: World, home: Any, what: str) -> None:
    await run(world, home, "vocals")
    world.api.always(what, error_reply(404, "NOT_FOUND"))
    failed = await run(world, home)
    assert isinstance(failed, Failed)
    assert failed.stage == "download"
    assert list(row(home).files) == ["vocals"]
    less = await run(world, home, "vocals")
    assert isinstance(less, Skipped)
    assert less.files["vocals"].is_file()
    assert not world.api.asked
    world.api.always(what, lambda _: None)
    await world.clock.sleep(HOUR)
    assert isinstance(await run(world, home), Done), "and it is tried again without being asked"
    assert world.api.count("create") == 0


async def test_a_stem_whose_name_is_no_file_name_does_not_keep_the_others_away(world: World, home: Any) -> None:
    world.api.stem_names = ("vocals", "../x")
    failed = await run(world, home)
    assert isinstance(failed, Failed)
    assert "../x" in str(failed.error)
    assert isinstance(await run(world, home, "vocals"), Done)
    assert requests(world) == {}
    assert isinstance(await run(world, home, "vocals"), Skipped)


async def test_stems_that_were_edited_are_left_alone_while_others_are_fetched(world: World, home: Any) -> None:
    """Without the manifest too, since the journal knows them."""
    await run(world, home, "vocals")
    (home["into"] / "song" / "vocals.mp3").write_bytes(b"louder")
    (home["into"] / "song" / ".stems.json").unlink()
    assert isinstance(await run(world, home), Done)
    assert fetched(world) == ["bass", "drums", "other"]
    assert (home["into"] / "song" / "vocals.mp3").read_bytes() == b"louder"


async def test_what_may_be_overwritten_is_fetched_again_only_if_it_changed_and_is_wanted(
    world: World, home: Any
) -> None:
    await run(world, home, "vocals", "drums")
    for stem in ("vocals", "drums"):
        (home["into"] / "song" / f"{stem}.mp3").write_bytes(b"louder")
    assert isinstance(await run(world, home, "vocals", overwrite=True), Done)
    assert fetched(world) == ["vocals"]
    assert (home["into"] / "song" / "drums.mp3").read_bytes() == b"louder"


async def test_the_journal_of_an_earlier_version_has_downloaded_all_stems(world: World, home: Any) -> None:
    await run(world, home)
    with sqlite3.connect(home["journal"]) as file:
        file.execute("UPDATE tracks SET split = json_set(split, '$.stems', json('{}'))")
    file.close()
    assert isinstance(await run(world, home), Skipped)
    assert isinstance(await run(world, home, "vocals"), Skipped)
    assert isinstance(await run(world, home, "piano"), Failed)
    assert not world.api.asked


async def test_the_progress_of_a_download_counts_only_what_is_fetched_now(world: World, home: Any) -> None:
    def half(exchange: Exchange) -> Flow:
        flow = whole(world.api.stem(exchange))
        return Flow([b"x" * 100, hang], flow.headers)

    await run(world, home, "vocals")
    world.api.always("download", half)
    async with (
        world.client(rate_limit=RateLimit(1000)) as client,
        client.split_many([SONG], stems=("vocals", "drums", "bass"), **home) as batch,
    ):
        while not (batch.progress().active and batch.progress().active[0].done_bytes == 200):
            await world.clock.sleep(1.0)
        (shown,) = batch.progress().active
    expected = sum(len(f"the stem at /split_1/{stem}.mp3") * 50 for stem in ("drums", "bass"))
    assert (shown.stage, shown.total_bytes) == ("download", expected)
