"""A service that gives two songs one split: neither gets the stems of the other, and nothing is counted twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aistemsplitter_async import (
    AsyncAIStemSplitter,
    BatchItem,
    BatchReport,
    CreatedSplit,
    Done,
    Failed,
    Outcome,
    RateLimit,
    SubmissionUncertainError,
)
from aistemsplitter_async.journal.record import Record, State
from aistemsplitter_async.journal.store import JournalStore
from tests.e2e.batch.bare_service import BareService, serving


async def run(service: BareService, sources: Any, **options: Any) -> tuple[list[Outcome], BatchReport, list[Record]]:
    async with (
        AsyncAIStemSplitter("ast_test", base_url=service.base_url, rate_limit=RateLimit(10_000)) as client,
        client.split_many(sources, **options) as batch,
    ):
        outcomes = [outcome async for outcome in batch]
        return outcomes, await batch.report(), [record async for record in batch.records()]


def believe(store: JournalStore, track: int, created: CreatedSplit, at: float) -> Record:
    """Take every answer for the truth: the negative control."""
    return store._move(track, State.CREATED, split_id=created.id, credits_used=created.credits_used, created_at=at)


@pytest.fixture
def songs(tmp_path: Path) -> list[Path]:
    found = [tmp_path / f"song {number}.wav" for number in range(4)]
    for song in found:
        song.write_bytes(song.name.encode() * 100)
    return found


@pytest.mark.parametrize("journal", ["journal", None], ids=["journal", "no journal"])
@pytest.mark.parametrize("checked", [True, False], ids=["checked", "believed"])
async def test_four_songs_with_one_id_are_one_split_and_three_unknown(
    journal: str | None, checked: bool, songs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not checked:
        monkeypatch.setattr(JournalStore, "created", believe)
    home: dict[str, Any] = {"into": tmp_path / "stems", "journal": None if journal is None else tmp_path / journal}
    async with serving(lambda _: "split_1") as service:
        outcomes, report, records = await run(service, songs, **home)
        if not checked:
            assert report.done == 4  # four songs with the stems of one
            return
        (done,) = [outcome for outcome in outcomes if isinstance(outcome, Done)]
        assert [path.parent.name for path in sorted((tmp_path / "stems").rglob("*.mp3"))] == [
            Path(str(done.source)).stem
        ] * 4
        for outcome in outcomes:
            if isinstance(outcome, Failed):
                assert isinstance(outcome.error, SubmissionUncertainError)
                assert outcome.error.code == "SAME_SPLIT"
                for name in (str(outcome.source), str(done.source), "split_1"):
                    assert name in str(outcome.error)
        assert report.credits_used == 10
        assert sorted(record.state for record in records) == ["downloaded", *["uncertain"] * 3]
        assert len(service.bodies) == 4  # none was sent again by itself
        if journal is None:
            return
        again, report, _ = await run(service, songs, **home)
        assert sum(isinstance(outcome, Failed) for outcome in again) == 3
        assert len(service.bodies) == 7  # each once, with its own key and bytes
        assert set(service.charged.values()) == {1}
        assert report.credits_used == 0
        service._splits = {key: f"split_{number}" for number, key in enumerate(service._splits, 1)}
        service._done_at = dict.fromkeys(service._splits.values(), 0.0)
        healed, *_ = await run(service, songs, **home)  # once it answers with ids of their own
        assert sum(isinstance(outcome, Done) for outcome in healed) == 3


async def test_the_same_song_under_one_id_shares_the_split_and_its_price(songs: list[Path], tmp_path: Path) -> None:
    home: dict[str, Any] = {"into": tmp_path / "stems", "journal": tmp_path / "journal"}
    async with serving(lambda _: "split_1") as service:
        items = [BatchItem(source=songs[0], seconds=10.0)] * 3
        outcomes, report, records = await run(service, items, **home, dedupe=False, in_flight=1, max_credits=25)
        assert [type(outcome) for outcome in outcomes] == [Done] * 3
        assert report.credits_used == 10
        assert sorted(record.credits_used or 0.0 for record in records) == [0.0, 0.0, 10.0]
        assert {record.split_id for record in records} == {"split_1"}
        other, report, _ = await run(service, songs[:1], **home, stem_model="6s")
        assert [type(outcome) for outcome in other] == [Done]
        assert report.credits_used == 0


async def test_an_id_that_comes_again_in_another_run_is_still_that_of_the_first_song(
    songs: list[Path], tmp_path: Path
) -> None:
    home: dict[str, Any] = {"into": tmp_path / "stems", "journal": tmp_path / "journal"}
    async with serving(lambda _: "split_1") as service:
        await run(service, songs[:1], **home)
        (outcome,), *_ = await run(service, songs[1:2], **home)
        assert isinstance(outcome, Failed)
        assert isinstance(outcome.error, SubmissionUncertainError)
        assert str(songs[0]) in str(outcome.error)
