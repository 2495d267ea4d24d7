"""Several workers split one library together, on one journal in a real PostgreSQL: each song is charged once."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import textwrap
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest

from aistemsplitter_async import (
    AsyncAIStemSplitter,
    Done,
    Failed,
    Outcome,
    PollPolicy,
    RateLimit,
    RetryPolicy,
    SpendLimitError,
)
from aistemsplitter_async.batch import fleet
from aistemsplitter_async.batch.item import OpenedItem
from aistemsplitter_async.batch.outcome import BatchReport
from aistemsplitter_async.journal import place
from aistemsplitter_async.journal.place import JournalURL, parse_journal
from aistemsplitter_async.sandbox import Sandbox, Timed
from tests.e2e.harness import build_wav
from tests.e2e.stores.conftest import StartServer

LEASE = 0.6
ROOT = Path(__file__).parents[3]


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


def make_client(base_url: str, key: str) -> AsyncAIStemSplitter:
    return AsyncAIStemSplitter(
        key,
        base_url=base_url,
        rate_limit=RateLimit(100_000),
        poll=PollPolicy().scaled(0.01),
        retry=RetryPolicy().scaled(0.01),
    )


async def work(sandbox: Sandbox, sources: Any, **options: Any) -> tuple[list[Outcome], BatchReport]:
    """Be one worker, with a client of its own."""
    return await work_at(sandbox.base_url, sandbox.api_key, sources, **options)


async def work_at(base_url: str, key: str, sources: Any, **options: Any) -> tuple[list[Outcome], BatchReport]:
    async with make_client(base_url, key) as client, client.split_many(sources, **options) as batch:
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


WORK = """
    import asyncio, sys
    from functools import partial
    from pathlib import Path
    from aistemsplitter_async.journal import place
    from tests.e2e.stores import test_fleet as fleet

    place.parse_journal = partial(fleet.parse_hurried, fleet.LEASE)

    async def main(base_url, key, music, into, journal):
        songs = sorted(Path(music).iterdir())
        outcomes, report = await fleet.work_at(base_url, key, songs, into=into, journal=journal, in_flight=4)
        print(sorted(fleet.kinds(outcomes).items()), report.failed)

    asyncio.run(main(*sys.argv[1:]))
"""


async def start_worker(sandbox: Sandbox, *arguments: object) -> asyncio.subprocess.Process:
    given = (sandbox.base_url, sandbox.api_key, *arguments)
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", textwrap.dedent(WORK), *map(str, given)), stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )


async def test_processes_that_are_killed_or_stopped_lose_nothing_and_pay_nothing_twice(
    postgres_dsn: str, music: list[Path], tmp_path: Path
) -> None:
    async with (
        asyncio.timeout(60),
        Sandbox(separation="silent", requests_per_minute=None, progression=Timed(base=0.4)) as sandbox,
    ):
        arguments = music[0].parent, tmp_path / "out", postgres_dsn
        killed, stopped = [await start_worker(sandbox, *arguments) for _ in range(2)]
        while len(sandbox.ledger.charges) < 6:  # noqa: ASYNC110  # other processes make it so
            await asyncio.sleep(0.01)
        killed.send_signal(signal.SIGKILL)
        stopped.send_signal(signal.SIGSTOP)
        working = asyncio.create_task(work(sandbox, music, into=tmp_path / "out", journal=postgres_dsn))
        await asyncio.wait([working], timeout=5.0)  # a stem that the stopped one was writing is locked until it goes on
        stopped.send_signal(signal.SIGCONT)
        outcomes, report = await working
        out, _ = await stopped.communicate()
        assert (stopped.returncode, await killed.wait()) == (0, -signal.SIGKILL)
        assert out.endswith(b" 0\n")
        assert report.failed == 0
        assert len(outcomes) == len(music)
        assert len(sandbox.ledger.charges) == len(music)
        assert all(len(charge.bodies) == 1 for charge in sandbox.ledger.charges)
    assert len(list((tmp_path / "out").rglob("*.mp3"))) == 4 * len(music)


async def test_a_server_that_is_killed_and_comes_back_costs_time_only(
    start_server: StartServer, music: list[Path], tmp_path: Path
) -> None:
    server = start_server("postgres", own="library")
    async with (
        asyncio.timeout(60),
        Sandbox(separation="silent", requests_per_minute=None, progression=Timed(base=0.2)) as sandbox,
    ):
        options = {"into": tmp_path / "out", "journal": server["url"], "in_flight": 2}
        workers = [asyncio.create_task(work(sandbox, music, **options)) for _ in range(2)]
        while len(sandbox.ledger.charges) < 4:  # noqa: ASYNC110  # other tasks make it so
            await asyncio.sleep(0.01)
        os.kill(server["pid"], signal.SIGKILL)
        await asyncio.sleep(0.5)
        charged = len(sandbox.ledger.charges)
        await asyncio.sleep(0.5)
        assert len(sandbox.ledger.charges) == charged < len(music)
        await asyncio.to_thread(start_server, "postgres", own="library")
        ended = [kinds(outcomes) for outcomes, _ in await asyncio.gather(*workers)]
        assert sum(found["Done"] for found in ended) == len(music)
        assert len(sandbox.ledger.charges) == len(music)


async def test_workers_spend_what_they_may_together_and_no_more(
    sandbox: Sandbox, postgres_dsn: str, music: list[Path]
) -> None:
    options = {"journal": postgres_dsn, "max_credits": 7, "in_flight": 4}
    async with asyncio.timeout(30):
        workers = await asyncio.gather(*(work(sandbox, music, **options) for _ in range(3)))
    assert sum(charge.credits for charge in sandbox.ledger.charges) == len(sandbox.ledger.charges) == 7
    for _, report in workers:
        assert isinstance(report.stopped_by, SpendLimitError)
    assert max(report.credits_used_by_all or 0 for _, report in workers) == 7
    assert sum(report.credits_used for _, report in workers) == 7
