"""Several workers split one library together, on one journal in a real PostgreSQL: each song is charged once."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest

from aistemsplitter_async import AsyncAIStemSplitter, Done, Failed, Outcome, PollPolicy, RateLimit, RetryPolicy
from aistemsplitter_async.batch import fleet
from aistemsplitter_async.batch.item import OpenedItem
from aistemsplitter_async.batch.outcome import BatchReport
from aistemsplitter_async.journal import place
from aistemsplitter_async.journal.place import JournalURL, parse_journal
from aistemsplitter_async.sandbox import Sandbox
from tests.e2e.harness import build_wav

LEASE = 0.6


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker is dead after a moment, and the others look often."""
    monkeypatch.setattr(place, "parse_journal", partial(parse_hurried, LEASE))
    monkeypatch.setattr(fleet, "FLEET_LOOK", 0.05)
    monkeypatch.setattr(fleet, "FLEET_MEND", 0.1)


def parse_hurried(lease: float, given: Any) -> Any:
    parsed = parse_journal(given)
    return attrs.evolve(parsed, lease=lease) if isinstance(parsed, JournalURL) else parsed


@pytest.fixture
def music(tmp_path: Path) -> list[Path]:
    """Songs of one second each."""
    folder = tmp_path / "music"
    folder.mkdir()
    songs = [folder / f"{number:02}.wav" for number in range(16)]
    for number, song in enumerate(songs):
        song.write_bytes(build_wav(1.0, rate=8000 + number, channels=1))
    return songs


def make_client(sandbox: Sandbox) -> AsyncAIStemSplitter:
    return AsyncAIStemSplitter(
        sandbox.api_key,
        base_url=sandbox.base_url,
        rate_limit=RateLimit(100_000),
        poll=PollPolicy().scaled(0.01),
        retry=RetryPolicy().scaled(0.01),
    )


async def work(sandbox: Sandbox, sources: Any, **options: Any) -> tuple[list[Outcome], BatchReport]:
    """Be one worker, with a client of its own."""
    async with make_client(sandbox) as client, client.split_many(sources, **options) as batch:
        outcomes = [outcome async for outcome in batch]
        return outcomes, await batch.report()


def kinds(outcomes: list[Outcome]) -> Counter[str]:
    return Counter(f"{type(outcome).__name__} {getattr(outcome, 'reason', '')}".strip() for outcome in outcomes)


async def test_workers_share_a_library_and_each_song_is_read_and_charged_once(
    sandbox: Sandbox, postgres_dsn: str, music: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Counter[str]()
    identify = OpenedItem.identify

    async def count(opened: OpenedItem) -> Any:
        read[opened.label] += 1
        await asyncio.sleep(0.01)  # as a disk does, so that the workers meet
        return await identify(opened)

    monkeypatch.setattr(OpenedItem, "identify", count)
    options = {"into": tmp_path / "out", "journal": postgres_dsn, "in_flight": 3}
    async with asyncio.timeout(30):
        workers = await asyncio.gather(*(work(sandbox, music, **options) for _ in range(3)))
    done = Counter[str]()
    for outcomes, report in workers:
        assert sorted(outcome.position for outcome in outcomes) == list(range(len(music)))
        assert not [outcome for outcome in outcomes if isinstance(outcome, Failed)]
        done.update(str(outcome.source) for outcome in outcomes if isinstance(outcome, Done))
        for outcome in outcomes:
            assert not isinstance(outcome, Failed)
            assert len(outcome.files) == 4
            assert all(file.is_file() for file in outcome.files.values())
        assert report.failed == 0
    assert done == dict.fromkeys(map(str, music), 1)
    assert read == dict.fromkeys(map(str, music), 1)
    assert len(sandbox.ledger.charges) == len(music)
