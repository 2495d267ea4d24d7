"""A batch and the files of its journal: they are no songs, and without them nothing more is bought."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aistemsplitter_async import Done, Failed, JournalError, Outcome, RateLimit, SourceUnreadableError
from aistemsplitter_async.journal.file import MOVED, JournalFile, own_files
from aistemsplitter_async.testing import Exchange
from tests.io.fakes import Script, World, reset

pytestmark = pytest.mark.usefixtures("inline_threads")

GENEROUS = RateLimit(1000)


def urls(number: int) -> list[str]:
    return [f"https://example.com/{index}.mp3" for index in range(number)]


async def run(world: World, sources: Any, **options: Any) -> list[Outcome]:
    async with world.client(rate_limit=GENEROUS) as client, client.split_many(sources, **options) as batch:
        return [outcome async for outcome in batch]


class Opened:
    """The names of the files that Python opened since it was asked to watch; SQLite's own are not among them."""

    def __init__(self) -> None:
        self.watching = False
        self.paths: list[str] = []
        sys.addaudithook(self.note)

    def note(self, event: str, args: tuple[Any, ...]) -> None:
        if self.watching and event == "open" and isinstance(args[0], str | bytes):
            self.paths.append(os.fsdecode(args[0]))


opened = Opened()  # hooks cannot be removed


@pytest.fixture
def watched() -> Iterator[list[str]]:
    opened.paths.clear()
    opened.watching = True
    yield opened.paths
    opened.watching = False


async def test_of_a_folder_with_the_journal_in_it_only_the_songs_are_opened_and_split(
    world: World, tmp_path: Path, watched: list[str]
) -> None:
    music = tmp_path / "music"
    music.mkdir()
    for name in ("a.wav", "b.wav"):
        (music / name).write_bytes(name.encode())
    journal = music / "library.journal"

    def sources() -> Iterator[Path]:
        assert journal.exists()
        (music / "link.wav").symlink_to(journal)
        (music / "hard link.wav").hardlink_to(journal)
        for name in ("library.journal-wal", "library.journal-shm"):
            (music / name).write_bytes(b"a file of an earlier version")
        watched.clear()
        yield from sorted(music.iterdir())

    outcomes = await run(world, sources(), into=tmp_path / "stems", journal=journal)
    split = [outcome for outcome in outcomes if isinstance(outcome, Done)]
    refused = {Path(str(outcome.source)).name: outcome.error for outcome in outcomes if isinstance(outcome, Failed)}
    assert sorted(Path(str(outcome.source)).name for outcome in split) == ["a.wav", "b.wav"]
    assert {"library.journal", "link.wav", "hard link.wav", "library.journal.lock"} < set(refused)
    for name, error in refused.items():
        assert isinstance(error, SourceUnreadableError)
        assert name in str(error)
    assert "it is the journal of this batch" in str(refused["link.wav"])
    assert sorted(world.api.uploads.values()) == [b"a.wav", b"b.wav"]
    own = {str(path) for path in own_files(journal)} | {str(music / "link.wav"), str(music / "hard link.wav")}
    assert own.intersection(watched) == {f"{journal}.status.json.new"}  # as the batch writes it
    assert str(music / "a.wav") in watched


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be deleted")
@pytest.mark.parametrize("noticed", [True, False], ids=["noticed", "not noticed"])
async def test_a_journal_deleted_in_a_running_batch_stops_the_buying_and_loses_nothing(
    noticed: bool, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not noticed:
        monkeypatch.setattr(JournalFile, "check_in_place", lambda _: None)
    home: dict[str, Any] = {"into": tmp_path / "stems", "journal": tmp_path / "journal"}

    def delete_at_the_third(exchange: Exchange) -> Script:
        if world.api.count("create") == 3:
            home["journal"].unlink()
        return world.api.do_create(exchange)

    world.api.always("create", delete_at_the_third)
    async with (
        world.client(rate_limit=GENEROUS) as client,
        client.split_many(urls(20), **home, in_flight=1) as batch,
    ):
        outcomes = [outcome async for outcome in batch]
        report = await batch.report()
    assert (len(world.api.created) == 3) is noticed
    if not noticed:
        return
    assert isinstance(report.stopped_by, JournalError)
    assert report.stopped_by.code == MOVED
    assert report.done == 3
    assert [outcome.error for outcome in outcomes if isinstance(outcome, Failed)] == [report.stopped_by]
    world.api.always("create", None)
    assert len(await run(world, urls(20), **home)) == 20
    assert len(world.api.created) == 20


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be deleted")
async def test_a_create_that_never_arrived_is_not_sent_again_once_the_journal_is_gone(
    world: World, tmp_path: Path
) -> None:
    home: dict[str, Any] = {"into": tmp_path / "stems", "journal": tmp_path / "journal"}

    def delete_and_break(_: Exchange) -> Script:
        home["journal"].unlink(missing_ok=True)
        return reset(arrived=False)

    world.api.always("create", delete_and_break)
    (outcome,) = await run(world, urls(1), **home)
    assert isinstance(outcome, Failed)
    assert outcome.error.code == MOVED
    assert world.api.count("create") == 1
    world.api.always("create", None)
    (outcome,) = await run(world, urls(1), **home)
    assert isinstance(outcome, Done)
    assert len(world.api.created) == 1
