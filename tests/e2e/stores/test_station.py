"""Stations of two processes on one shared journal, as two of this process."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from aistemsplitter_async import AsyncAIStemSplitter, Done, PollPolicy, Skipped, Station
from aistemsplitter_async.batch import fleet
from aistemsplitter_async.sandbox import Sandbox
from tests.e2e.harness import MakeWav


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "FLEET_LOOK", 0.05)


async def test_a_song_asked_of_two_stations_is_split_once(
    postgres_dsn: str, sandbox: Sandbox, tmp_path: Path, make_wav: MakeWav
) -> None:
    """Both get it; and whichever is asked later has it, and fetches what is missing."""
    songs = [tmp_path / f"{number}.wav" for number in range(4)]
    for number, song in enumerate(songs):
        song.write_bytes(make_wav(0.1 + number / 100))
    home: dict[str, Any] = {"journal": postgres_dsn, "into": tmp_path / "stems"}
    eager = PollPolicy(first=0.05, shortest=0.05)
    async with (
        AsyncAIStemSplitter(sandbox.api_key, base_url=sandbox.base_url, poll=eager) as client,
        AsyncAIStemSplitter(sandbox.api_key, base_url=sandbox.base_url, poll=eager) as other_client,
        Station(client, **home) as station,
        Station(other_client, **home) as other,
    ):
        outcomes = await asyncio.gather(*(one.split(song) for song in songs for one in (station, other, station)))
        assert all(len(outcome.files) == 4 for outcome in outcomes if not hasattr(outcome, "error"))
        kinds = Counter(getattr(outcome, "reason", type(outcome).__name__) for outcome in outcomes)
        assert kinds["Done"] == 4
        for one in (station, other):
            later = await one.split(songs[0])
            assert isinstance(later, Skipped), later
            assert later.reason in ("finished", "elsewhere")
            next(iter(later.files.values())).unlink()
            again = await one.split(songs[0])
            assert isinstance(again, Done)
    assert len(sandbox.ledger.charges) == 4
