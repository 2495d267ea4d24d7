"""Several batches on one shared journal, in virtual time: each song is one worker's, and another's if that dies."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from aistemsplitter_async import (
    BatchItem,
    ConfigurationError,
    Done,
    Failed,
    JournalError,
    Outcome,
    RateLimit,
    Skipped,
    SourceUnreadableError,
    SpendLimitError,
    SplitFailedError,
)
from aistemsplitter_async._transfer.downloader import Downloader, StemDownload
from aistemsplitter_async._transfer.manifest import Manifest
from aistemsplitter_async._transfer.partfile import PartFile, part_path
from aistemsplitter_async.batch.batch import Batch
from aistemsplitter_async.batch.item import OpenedItem
from aistemsplitter_async.batch.shared_folder import OTHER_FOLDER, Proof
from aistemsplitter_async.batch.track import BatchTrack
from aistemsplitter_async.config import LATE_WRITER, PROOF_WAIT
from aistemsplitter_async.journal import store
from aistemsplitter_async.journal.binding import GATE
from aistemsplitter_async.journal.record import AudioId
from aistemsplitter_async.journal.rows import Stamp
from aistemsplitter_async.journal.store import JournalStore
from aistemsplitter_async.testing import error_reply, json_reply
from tests.io.batch.shared import LEASE, Library
from tests.io.fakes import World

pytestmark = pytest.mark.usefixtures("inline_threads")

JOURNAL = "postgresql://db.example.com/library"


@pytest.fixture(autouse=True)
def library(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Library]:
    shared = Library(world.clock)
    monkeypatch.setattr(store, "PostgresDatabase", shared.open)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no power cut here
    yield shared
    shared.file.connection.close()


def urls(number: int, first: int = 0) -> list[str]:
    return [f"https://example.com/{index}.mp3" for index in range(first, first + number)]


def priced(number: int, seconds: float = 10.0) -> list[BatchItem]:
    return [BatchItem(source=url, seconds=seconds) for url in urls(number)]


class Worker:
    """One batch, run in a task; it is killed without being able to tidy up."""

    def __init__(self, world: World, library: Library, sources: Any, *, client: Any = None, **options: Any) -> None:
        self.outcomes: list[Outcome] = []
        self.batch: Batch | None = None
        self._world, self._library = world, library
        self._task = asyncio.create_task(self._run(sources, options, client or {}))

    async def _run(self, sources: Any, options: dict[str, Any], client: dict[str, Any]) -> list[Outcome]:
        async with (
            self._world.client(rate_limit=RateLimit(10_000), **client) as splitter,
            splitter.split_many(sources, journal=JOURNAL, **options) as self.batch,
        ):
            self.desk = self._library.desks[-1]
            async for outcome in self.batch:
                self.outcomes.append(outcome)
        return self.outcomes

    async def end(self) -> Counter[str]:
        """Return what became of its sources."""
        await self._task
        return Counter(
            f"{type(outcome).__name__} {getattr(outcome, 'reason', '')}".strip() for outcome in self.outcomes
        )

    async def kill(self) -> None:
        self.desk.kill()
        self._task.cancel()
        await asyncio.wait([self._task])


async def until(world: World, condition: Any) -> None:
    """Let others go on until something is so."""
    for _ in range(2000):
        if condition():
            return
        await world.clock.sleep(0.05)
    raise AssertionError("it never came to that")


def process(world: World, seconds: float, **fields: Any) -> None:
    """Let every split take that long, and say this of itself."""
    ends = dict[str, float]()

    def answer(exchange: Any) -> Any:
        split_id = exchange.request.url.rpartition("/")[2]
        end = ends.setdefault(split_id, world.clock.monotonic() + seconds)
        return world.api.split(split_id, "succeeded" if world.clock.monotonic() >= end else "processing", **fields)

    world.api.always("get", answer)


async def test_a_song_elsewhere_takes_no_place_and_is_reported_once_the_other_worker_has_it(
    world: World, library: Library, tmp_path: Path
) -> None:
    process(world, 40.0)
    first = Worker(world, library, urls(8), into=tmp_path)
    await until(world, lambda: len(world.api.created) == 8)
    asked = Counter[str]()
    second = Worker(world, library, urls(9), into=tmp_path, in_flight=1)
    await until(world, lambda: second.batch is not None and second.batch.progress().elsewhere == 8)
    busy = second.desk.busy
    second.desk.busy = lambda tracks: asked.update(["busy"]) or busy(tracks)  # type: ignore[method-assign]
    assert await first.end() == {"Done": 8}
    assert await second.end() == {"Done": 1, "Skipped elsewhere": 8}
    assert len(world.api.created) == 9
    assert asked["busy"] <= world.elapsed()  # one question for all, every two seconds or so
    for outcome in second.outcomes:
        assert isinstance(outcome, Done | Skipped)
        assert outcome.split is not None
        assert len(outcome.files) == 4
        assert all(file.is_file() for file in outcome.files.values())
    assert library.owners() == [None] * 9


@pytest.mark.parametrize("moment", ["before the answer", "while it is processed"])
async def test_what_a_killed_worker_had_in_hand_is_finished_by_another_and_paid_once(
    world: World, library: Library, tmp_path: Path, moment: str
) -> None:
    process(world, 30.0)
    never, never_answers = asyncio.Event(), moment == "before the answer"
    if never_answers:

        async def answer_nobody(exchange: Any) -> Any:
            world.api.do_create(exchange)
            await never.wait()

        world.api.script("create", *[answer_nobody] * 3)
    first = Worker(world, library, urls(3), into=tmp_path)
    await until(
        world, lambda: len(world.api.created) == 3 and (moment == "before the answer" or world.api.count("get") >= 3)
    )
    second = Worker(world, library, urls(3), into=tmp_path)
    await until(world, lambda: second.batch is not None and second.batch.progress().elsewhere == 3)
    await first.kill()
    killed = world.clock.monotonic()
    assert await second.end() == {"Done": 3}
    assert len(world.api.created) == 3
    assert killed + LEASE <= world.clock.monotonic() < killed + LEASE + 60.0


async def test_a_create_that_a_dead_worker_left_is_resolved_by_one_that_has_other_sources(
    world: World, library: Library
) -> None:
    process(world, 60.0)
    never = asyncio.Event()

    async def answer_nobody(exchange: Any) -> Any:
        world.api.do_create(exchange)
        await never.wait()

    world.api.script("create", answer_nobody)
    first = Worker(world, library, urls(1))
    await until(world, lambda: len(world.api.created) == 1)
    second = Worker(world, library, urls(3, first=1))
    await until(world, lambda: second.batch is not None)
    await first.kill()
    assert await second.end() == {"Done": 3}
    (state,) = library.file.connection.execute("SELECT state FROM tracks WHERE id = 1").fetchone()
    assert state == "created"
    assert len(world.api.created) == 4


async def test_a_worker_that_was_taken_for_dead_ends_quietly(world: World, library: Library, tmp_path: Path) -> None:
    """It is stopped while it waits for its split. Another one finishes that, which it finds when it goes on."""
    asleep = asyncio.Event()

    async def sleep(exchange: Any) -> Any:
        await asleep.wait()
        return world.api.do_get(exchange)

    world.api.script("get", sleep)
    first = Worker(world, library, urls(1), into=tmp_path)
    await until(world, lambda: world.api.count("get") == 1)
    first.desk.fall_silent()
    second = Worker(world, library, urls(1), into=tmp_path)
    assert await second.end() == {"Done": 1}
    asleep.set()
    first.desk.until = float("inf")  # it is heard of again
    assert await first.end() == {"Skipped elsewhere": 1}
    assert len(world.api.created) == 1
    assert library.file.connection.execute("SELECT state, failure FROM tracks").fetchall() == [("downloaded", None)]


async def test_a_worker_that_was_taken_for_dead_and_has_the_song_twice_ends_quietly_too(
    world: World, library: Library, tmp_path: Path
) -> None:
    """It comes to the song once more, which nobody has by now, while it still waits for the answer to its create."""
    answered, again = asyncio.Event(), asyncio.Event()

    async def answer_late(exchange: Any) -> Any:
        answer = world.api.do_create(exchange)
        await answered.wait()
        return answer

    async def twice() -> AsyncIterator[str]:
        yield urls(1)[0]
        await again.wait()
        yield urls(1)[0]

    world.api.script("create", answer_late)
    first = Worker(world, library, twice(), into=tmp_path)
    await until(world, lambda: len(world.api.created) == 1)
    first.desk.fall_silent()
    second = Worker(world, library, urls(1), into=tmp_path)
    assert await second.end() == {"Done": 1}
    first.desk.until = float("inf")
    again.set()
    await world.clock.sleep(0.1)
    answered.set()
    assert await first.end() == {"Skipped elsewhere": 1, "Skipped duplicate": 1}
    assert len(world.api.created) == 1


async def left_open(world: World, library: Library, **client: Any) -> Worker:
    """Return a worker that was killed before the answer to its create, which happened."""

    async def answer_nobody(exchange: Any) -> Any:
        world.api.do_create(exchange)
        await asyncio.Event().wait()

    world.api.script("create", answer_nobody)
    worker = Worker(world, library, urls(1), client=client)
    await until(world, lambda: len(world.api.created) == 1)
    return worker


class WrongClock:
    """The clock of a machine that has another idea of the time of day."""

    def __init__(self, clock: Any, ahead: float) -> None:
        self._clock, self._ahead = clock, ahead

    def now(self) -> float:
        return float(self._clock.now()) + self._ahead

    def __getattr__(self, name: str) -> Any:
        return getattr(self._clock, name)


@pytest.mark.parametrize(
    ("ahead", "later", "outcome"), [(6.0, 0.0, "Done"), (-30.0, 0.0, "Done"), (6.0, 24.0, "Failed")]
)
async def test_a_key_is_as_old_as_the_journal_says_however_wrong_a_workers_clock_is(
    world: World, library: Library, ahead: float, later: float, outcome: str
) -> None:
    """Hours. By the first worker's clock its create would never be too old, or would be at once."""
    first = await left_open(world, library, clock=WrongClock(world.clock, ahead * 3600.0))
    await first.kill()
    await world.clock.sleep(LEASE + later * 3600.0)
    assert await Worker(world, library, urls(1)).end() == {outcome: 1}
    assert len(world.api.created) == 1
    assert world.api.count("create") == (2 if outcome == "Done" else 1)


async def test_a_create_that_is_mended_just_as_its_source_is_claimed_is_resolved_by_one_of_both(
    world: World, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = BatchTrack._claim

    async def claim_beside_mending(track: BatchTrack, *arguments: Any) -> Any:
        mending.append(asyncio.create_task(fleet.resolve_open_creates()))
        await asyncio.sleep(0)  # it has asked the journal
        return await claim(track, *arguments)

    async def late() -> AsyncIterator[str]:
        await ready.wait()
        yield urls(1)[0]

    ready, mending = asyncio.Event(), list[asyncio.Task[None]]()
    monkeypatch.setattr("aistemsplitter_async.batch.fleet.FLEET_MEND", 1e9)
    first = await left_open(world, library)
    second = Worker(world, library, late())
    await until(world, lambda: second.batch is not None)
    assert second.batch is not None
    fleet = second.batch._runner._fleet
    await first.kill()
    await world.clock.sleep(LEASE + 1.0)
    monkeypatch.setattr(BatchTrack, "_claim", claim_beside_mending)
    ready.set()
    assert await second.end() == {"Done": 1}
    assert [task.exception() for task in mending] == [None]
    assert len(world.api.created) == 1


async def test_what_a_worker_could_not_resolve_and_another_has_finished_is_no_failure(
    world: World, library: Library
) -> None:
    async def late() -> AsyncIterator[str]:
        await ready.wait()
        yield urls(1)[0]

    ready = asyncio.Event()
    first = await left_open(world, library)
    second = Worker(world, library, late())
    await until(world, lambda: second.batch is not None)
    world.api.script("create", error_reply(422, "VALIDATION_ERROR"))
    await first.kill()
    await until(world, lambda: library.file.connection.execute("SELECT state FROM tracks").fetchone() == ("uncertain",))
    assert await Worker(world, library, urls(1)).end() == {"Done": 1}
    ready.set()
    assert await second.end() == {"Skipped finished": 1}


async def test_a_song_that_is_claimed_just_as_its_worker_is_drained_is_free_for_others(
    world: World, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = JournalStore.claim

    def claim_and_drain(journal: JournalStore, *arguments: Any, **options: Any) -> Any:
        claimed = claim(journal, *arguments, **options)
        assert worker.batch is not None
        worker.batch.drain()
        return claimed

    monkeypatch.setattr(JournalStore, "claim", claim_and_drain)
    worker = Worker(world, library, urls(1))
    assert await worker.end() == {"Skipped not begun": 1}
    assert library.owners() == [None]


@pytest.mark.parametrize("fresh", [True, False])
async def test_what_failed_for_good_elsewhere_is_not_bought_again(
    world: World, library: Library, monkeypatch: pytest.MonkeyPatch, fresh: bool
) -> None:
    if not fresh:  # the negative control: it is taken for a failure of an earlier run
        monkeypatch.setattr(BatchTrack, "_retries", lambda *_: True)
    world.api.statuses["split_1"] = ["processing", "failed"]
    first = Worker(world, library, urls(1), retry_failed=True)
    await until(world, lambda: len(world.api.created) == 1)
    second = Worker(world, library, urls(1), retry_failed=True)
    assert await first.end() == {"Failed": 1}
    ended = await second.end()
    if not fresh:
        assert len(world.api.created) == 2
        return
    assert ended == {"Failed": 1}
    (failed,) = second.outcomes
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, SplitFailedError)
    assert len(world.api.created) == 1


async def test_what_a_drained_worker_had_not_begun_is_taken_by_another_at_once(world: World, library: Library) -> None:
    process(world, 20.0)
    first = Worker(world, library, urls(6), in_flight=2)
    await until(world, lambda: len(world.api.created) == 2)
    second = Worker(world, library, urls(6))
    await until(world, lambda: second.batch is not None and second.batch.progress().elsewhere == 6)
    assert first.batch is not None
    first.batch.drain()
    drained = world.clock.monotonic()
    await until(world, lambda: len(world.api.created) == 6)
    assert world.clock.monotonic() - drained < 4.0
    assert await first.end() == {"Done": 2, "Skipped not begun": 4}
    assert await second.end() == {"Done": 4, "Skipped elsewhere": 2}


async def test_a_drained_worker_does_not_wait_for_songs_elsewhere(world: World, library: Library) -> None:
    process(world, 1000.0)
    first = Worker(world, library, urls(2))
    await until(world, lambda: len(world.api.created) == 2)
    second = Worker(world, library, urls(2))
    await until(world, lambda: second.batch is not None and second.batch.progress().elsewhere == 2)
    assert second.batch is not None
    second.batch.drain()
    assert await second.end() == {"Skipped elsewhere": 2}
    assert all(isinstance(outcome, Skipped) and outcome.split is None for outcome in second.outcomes)
    await first.kill()


async def test_workers_spend_no_more_than_the_limit_together(world: World, library: Library) -> None:
    process(world, 5.0, creditsUsed=10)
    world.api.always("create", lambda exchange: _charge(world, exchange, 10))
    workers = [Worker(world, library, priced(12), max_credits=45.0, in_flight=3) for _ in range(3)]
    found = sum([await worker.end() for worker in workers], Counter[str]())
    assert len(world.api.created) == 4
    assert found["Done"] == 4
    budgets = library.file.connection.execute("SELECT most, used, reserved FROM credit_budget").fetchall()
    assert budgets == [(45.0, 40.0, 0.0)]


async def test_a_create_waits_for_those_of_other_workers_that_may_turn_out_cheaper(
    world: World, library: Library
) -> None:
    """Each may cost 60 of 100, and costs 30: together they fit, one after the other."""
    answered = asyncio.Event()

    async def answer_late(exchange: Any) -> Any:
        await answered.wait()
        return _charge(world, exchange, 30)

    process(world, 5.0, creditsUsed=30)
    world.api.script("create", answer_late)
    world.api.always("create", lambda exchange: _charge(world, exchange, 30))
    first = Worker(world, library, [BatchItem(source=urls(1)[0], seconds=60.0)], max_credits=100.0)
    await until(world, lambda: world.api.count("create") == 1)
    second = Worker(world, library, [BatchItem(source=urls(1, 1)[0], seconds=60.0)], max_credits=100.0)
    await world.clock.sleep(30.0)
    assert world.api.count("create") == 1
    answered.set()
    assert await first.end() == await second.end() == {"Done": 1}


async def test_songs_that_wait_for_credits_keep_nobody_from_hearing_of_them(world: World, library: Library) -> None:
    """All places are taken by songs that wait for what another worker has set aside, when one comes free elsewhere."""
    answered = asyncio.Event()

    async def answer_late(exchange: Any) -> Any:
        await answered.wait()
        return _charge(world, exchange, 10)

    process(world, 8.0, creditsUsed=10)
    world.api.script("create", lambda exchange: _charge(world, exchange, 10), answer_late)
    world.api.always("create", lambda exchange: _charge(world, exchange, 10))
    late = BatchItem(source=urls(1, 9)[0], seconds=180.0)
    first = Worker(world, library, [BatchItem(source=urls(1)[0], seconds=10.0), late], max_credits=200.0)
    await until(world, lambda: world.api.count("create") == 2)
    sources = [BatchItem(source=url, seconds=60.0) for url in urls(8)]
    second = Worker(world, library, sources, max_credits=200.0, in_flight=1, uploads=1, downloads=1)
    await world.clock.sleep(20.0)
    assert world.api.count("create") == 2
    answered.set()
    assert await first.end() == {"Done": 2}
    assert await second.end() == {"Done": 7, "Skipped elsewhere": 1}


async def test_a_killed_workers_create_stays_reserved_until_it_is_resolved(world: World, library: Library) -> None:
    never = asyncio.Event()

    async def answer_nobody(exchange: Any) -> Any:
        _charge(world, exchange, 60)
        await never.wait()

    world.api.script("create", answer_nobody)
    world.api.always("create", lambda exchange: _charge(world, exchange, 60))
    first = Worker(world, library, [BatchItem(source=urls(1)[0], seconds=60.0)], max_credits=100.0)
    await until(world, lambda: len(world.api.created) == 1)
    second = Worker(world, library, [BatchItem(source=urls(1, 1)[0], seconds=60.0)], max_credits=100.0)
    await until(world, lambda: second.batch is not None)
    await first.kill()
    assert await second.end() == {"Failed": 1}  # it would have made 120 of 100
    assert len(world.api.created) == 1


async def test_where_the_service_charges_more_than_it_should_all_workers_stop(world: World, library: Library) -> None:
    process(world, 5.0)

    async def later() -> AsyncIterator[BatchItem]:
        await world.clock.sleep(60.0)
        yield BatchItem(source=urls(1, 1)[0], seconds=10.0)

    second = Worker(world, library, later(), max_credits=1000.0)
    await until(world, lambda: second.batch is not None)
    world.api.script("create", lambda exchange: _charge(world, exchange, 20))
    assert await Worker(world, library, priced(1), max_credits=1000.0).end() == {"Done": 1}
    assert await second.end() == {}
    assert second.batch is not None
    assert isinstance((await second.batch.report()).stopped_by, SpendLimitError)
    assert len(world.api.created) == 1


async def test_workers_with_different_limits_are_refused(world: World, library: Library) -> None:
    process(world, 50.0)
    first = Worker(world, library, priced(1), max_credits=45.0)
    await until(world, lambda: len(world.api.created) == 1)
    for most in (46.0, None):
        with pytest.raises(ConfigurationError, match="45 credits"):
            await Worker(world, library, priced(1), max_credits=most).end()
    assert await first.end() == {"Done": 1}


async def test_while_the_journal_is_down_no_create_leaves_and_then_all_goes_on(world: World, library: Library) -> None:
    process(world, 10.0)
    worker = Worker(world, library, urls(8), in_flight=2, patience=60.0)
    await until(world, lambda: len(world.api.created) >= 3)
    library.is_down = True
    await world.clock.sleep(15.0)
    before = world.api.count("create")
    await world.clock.sleep(300.0)
    assert world.api.count("create") == before
    assert worker.batch is not None
    assert "the server is gone" in worker.batch.progress().notices[0]
    library.is_down = False
    assert await worker.end() == {"Done": 8}
    assert len(world.api.created) == 8


async def test_what_a_worker_could_not_give_back_while_the_journal_was_down_is_given_back_later(
    world: World, library: Library
) -> None:
    process(world, 5.0)
    world.api.always("download", None)
    worker = Worker(world, library, [*urls(1), *urls(1, 1)])
    await until(world, lambda: world.api.count("get") >= 2)
    release = worker.desk.release
    failed = list[Any]()

    def fail_once(tracks: Any) -> None:
        if not failed:
            failed.append(tracks)
            raise JournalError("gone", code="JOURNAL_DOWN")
        release(tracks)

    worker.desk.release = fail_once  # type: ignore[method-assign]
    process(world, 0.0)
    await until(world, lambda: failed)
    await world.clock.sleep(2.0)
    assert None in library.owners()
    await worker.end()


async def test_the_gates_state_is_not_kept_in_a_shared_journal(world: World, library: Library) -> None:
    assert await Worker(world, library, urls(3)).end() == {"Done": 3}
    kept = library.file.connection.execute("SELECT 1 FROM meta WHERE name = ?", (GATE,)).fetchall()
    assert kept == []


async def test_a_worker_whose_stems_go_elsewhere_is_refused_until_told_that_it_is_the_same_folder(
    world: World, library: Library, tmp_path: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    beginning = [Worker(world, library, urls(1), into=here) for _ in range(3)]  # at the same moment
    assert sum([(await worker.end())["Done"] for worker in beginning]) == 1
    with pytest.raises(ConfigurationError) as refused:
        await Worker(world, library, urls(1), into=there).end()
    assert refused.value.code == OTHER_FOLDER
    (proof,) = here.glob(".aistemsplitter-*")
    for part in (str(here), str(there), proof.name, f"touch {there}/{proof.name}"):
        assert part in str(refused.value)
    there.mkdir(exist_ok=True)
    (there / proof.name).touch()  # as the message says
    assert await Worker(world, library, urls(1), into=there).end() == {"Done": 1}  # what is missing there is downloaded
    assert await Worker(world, library, urls(1)).end() == {"Skipped finished": 1}  # without a folder, none is shown
    assert len(world.api.created) == 1


async def test_a_proof_that_its_worker_never_wrote_is_written_by_the_next(
    world: World, library: Library, tmp_path: Path
) -> None:
    killed = Proof("name", "/gone", "other")
    library.file.connection.execute("INSERT INTO meta VALUES ('into', ?)", (killed.dump(),))
    assert await Worker(world, library, urls(1), into=tmp_path).end() == {"Done": 1}
    assert world.elapsed() >= PROOF_WAIT
    assert len([*tmp_path.glob(".aistemsplitter-*")]) == 1


def _charge(world: World, exchange: Any, credits: int) -> Any:  # noqa: A002
    key = exchange.request.headers["Idempotency-Key"]
    split_id = world.api.created.setdefault(key, f"split_{len(world.api.created) + 1}")
    return json_reply({"id": split_id, "status": "queued", "creditsUsed": credits, "createdAt": "2026-01-01T00:00:00Z"})


async def test_stems_that_a_worker_taken_for_dead_still_writes_are_waited_for(
    world: World, library: Library, tmp_path: Path
) -> None:
    folder = tmp_path / "0"
    folder.mkdir()
    writing = PartFile(part_path(folder, "vocals"))
    worker = Worker(world, library, urls(1), into=tmp_path)
    await until(world, lambda: world.api.count("download") >= 3)
    await world.clock.sleep(LATE_WRITER / 2)
    writing.write(b"half of it")
    writing.close()  # it was killed
    assert await worker.end() == {"Done": 1}
    assert len(list(folder.glob("*.mp3"))) == 4
    assert world.api.count("download") == 4  # the others were not downloaded again


async def test_a_stem_that_another_worker_finished_meanwhile_is_found(
    world: World, library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both had looked for it before: the late one ends its download to find the name taken, by the same stem."""
    download, others = Downloader.download, list[Path]()

    async def finish_elsewhere(downloader: Downloader, item: StemDownload) -> Path:
        path = await download(downloader, item)
        manifest = Manifest.load(item.manifest.folder)
        if not others and manifest is not None:
            others.append(path)
            item.manifest.stems.clear()  # as it was when this one looked
            return await download(downloader, item)
        return path

    monkeypatch.setattr(Downloader, "download", finish_elsewhere)
    assert await Worker(world, library, urls(1), into=tmp_path).end() == {"Done": 1}
    assert len(others) == 1
    assert list(tmp_path.rglob("*.part")) == []


@pytest.mark.parametrize(("limit", "warned"), [(RateLimit(), True), (RateLimit(30), False)])
async def test_a_worker_told_nothing_of_the_limit_warns_that_several_exceed_it(
    world: World, library: Library, caplog: pytest.LogCaptureFixture, limit: RateLimit, warned: bool
) -> None:
    process(world, 30.0)
    first = Worker(world, library, urls(1))
    await until(world, lambda: world.api.count("get") >= 1)
    async with world.client(rate_limit=limit) as client, client.split_many(urls(1), journal=JOURNAL) as batch:
        await batch.report()
    assert ("shared=" in caplog.text) is warned
    await first.end()


async def test_a_file_that_another_worker_reads_is_not_read(world: World, library: Library, tmp_path: Path) -> None:
    """Nor is it waited for: what comes after it is split meanwhile."""
    files = [tmp_path / f"{name}.wav" for name in "ab"]
    for file in files:
        file.write_bytes(file.name.encode())
    read = list[str]()
    identify = OpenedItem.identify

    async def read_slowly(opened: OpenedItem) -> AudioId:
        read.append(Path(opened.label).name)
        await world.clock.sleep(60.0 if opened.label.endswith("a.wav") else 0.0)
        return await identify(opened)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OpenedItem, "identify", read_slowly)
        patch.setattr(Stamp, "is_settled", lambda *_: True)  # as if the files had not just been written
        first = Worker(world, library, files[:1])
        await until(world, lambda: read)
        second = Worker(world, library, files)
        await until(world, lambda: len(world.api.created) == 1)
        assert world.elapsed() < 30.0
        assert await first.end() == {"Done": 1}
        assert await second.end() == {"Done": 1, "Skipped elsewhere": 1}
    assert read == ["a.wav", "b.wav"]
    assert library.file.connection.execute("SELECT * FROM readings").fetchall() == []


async def test_what_a_failed_reader_leaves_is_read_by_another(world: World, library: Library, tmp_path: Path) -> None:
    """One machine cannot read a file that another one can."""
    file = tmp_path / "a.wav"
    file.write_bytes(b"sound")
    identify = OpenedItem.identify
    failed = list[str]()

    async def fail_first(opened: OpenedItem) -> AudioId:
        if not failed:
            failed.append(opened.label)
            await world.clock.sleep(10.0)
            raise SourceUnreadableError("this disk is failing")
        return await identify(opened)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OpenedItem, "identify", fail_first)
        first = Worker(world, library, [file])
        await until(world, lambda: failed)
        second = Worker(world, library, [file])
        assert await first.end() == {"Failed": 1}
        assert await second.end() == {"Done": 1}


@pytest.mark.parametrize("is_killed", [False, True])
async def test_a_file_object_whose_song_is_elsewhere_is_read_from_where_it_stood_when_it_is_taken_again(
    world: World, library: Library, tmp_path: Path, is_killed: bool
) -> None:
    process(world, 40.0)
    never = asyncio.Event()

    async def answer_nobody(_: Any) -> None:
        await never.wait()

    if is_killed:
        world.api.script("upload", answer_nobody)
    audio = b"RIFF, or not: what a browser sent"
    first, second = [[BatchItem(source=BytesIO(audio), filename=f"{name}.mp3")] for name in ("one", "other")]
    working = Worker(world, library, first, into=tmp_path)
    await until(world, lambda: world.api.count("upload") == 1)
    waiting = Worker(world, library, second, into=tmp_path)
    await until(world, lambda: waiting.batch is not None and waiting.batch.progress().elsewhere == 1)
    if is_killed:
        await working.kill()
    assert await waiting.end() == ({"Done": 1} if is_killed else {"Skipped elsewhere": 1})
    assert {asked.body for asked in world.api.of("upload")} == {audio}
    assert len(world.api.created) == 1
