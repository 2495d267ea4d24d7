"""A batch over fakes, in virtual time: what stops it, what it finishes, and what it never does twice."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from aistemsplitter_async import (
    APIConnectionError,
    AuthenticationError,
    BatchItem,
    ConfigurationError,
    Done,
    Failed,
    InsufficientCreditsError,
    JournalError,
    JournalLockedError,
    Outcome,
    RateLimit,
    RetryPolicy,
    Skipped,
    SourceChangedError,
    SourceUnreadableError,
    SpendLimitError,
    SplitFailedError,
    SubmissionUncertainError,
    ValidationError,
    WaitTimeoutError,
    stream_source,
)
from aistemsplitter_async.batch.item import OpenedItem
from aistemsplitter_async.journal.record import AudioId
from aistemsplitter_async.journal.store import JournalStore
from aistemsplitter_async.testing import error_reply, json_reply
from tests.io.fakes import Flow, Script, World

pytestmark = pytest.mark.usefixtures("inline_threads")

GENEROUS = RateLimit(1000)


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no power cut here


def urls(number: int, first: int = 0) -> list[str]:
    return [f"https://example.com/{index}.mp3" for index in range(first, first + number)]


def wav(path: Path, content: bytes = b"sound") -> str:
    path.write_bytes(content)
    return str(path)


async def run(world: World, sources: Any, **options: Any) -> list[Outcome]:
    """Run a batch to its end with a client of its own."""
    async with (
        world.client(rate_limit=GENEROUS) as client,
        client.split_many(sources, **options) as batch,
    ):
        return [outcome async for outcome in batch]


def kinds(outcomes: list[Outcome]) -> Counter[str]:
    return Counter(
        f"{type(outcome).__name__} {getattr(outcome, 'reason', getattr(outcome, 'stage', ''))}".strip()
        for outcome in outcomes
    )


@pytest.fixture
def home(tmp_path: Path) -> dict[str, Path]:
    return {"into": tmp_path / "out", "journal": tmp_path / "journal"}


async def test_every_source_has_one_outcome_with_its_identity_and_position(world: World, home: Any) -> None:
    sources = urls(30)
    outcomes = await run(world, sources, **home)
    assert {outcome.position: outcome.source for outcome in outcomes} == dict(enumerate(sources))
    assert kinds(outcomes) == {"Done": 30}
    for outcome in outcomes:
        assert isinstance(outcome, Done)
        assert sorted(outcome.files) == sorted(outcome.split.stems) == ["bass", "drums", "other", "vocals"]
        assert all(path.is_file() for path in outcome.files.values())


async def test_finished_tracks_cost_no_request(world: World, home: Any, tmp_path: Path) -> None:
    sources = [*urls(5), wav(tmp_path / "a.wav")]
    await run(world, sources, **home)
    asked = len(world.api.asked)
    again = await run(world, sources, **home)
    assert kinds(again) == {"Skipped finished": 6}
    assert all(isinstance(outcome, Skipped) and len(outcome.files) == 4 for outcome in again)
    assert len(world.api.asked) == asked


async def test_the_same_audio_is_split_once_whatever_it_is_called(world: World, home: Any, tmp_path: Path) -> None:
    sources = [wav(tmp_path / "a.wav"), wav(tmp_path / "b.wav"), *urls(1), *urls(1)]
    outcomes = await run(world, sources, **home)
    assert kinds(outcomes) == {"Done": 2, "Skipped duplicate": 2}
    assert len(world.api.created) == 2
    (same,) = [outcome for outcome in outcomes if isinstance(outcome, Skipped) and outcome.position < 2]
    assert same.same_as == sources[0]
    assert all(
        outcome.files == first.files and outcome.split is not None
        for outcome in outcomes
        for first in outcomes
        if isinstance(outcome, Skipped) and isinstance(first, Done) and first.source == outcome.same_as
    )


async def test_of_the_same_audio_twice_both_fail_where_one_does(world: World, home: Any) -> None:
    world.api.script("create", error_reply(422, "VALIDATION_ERROR"))
    outcomes = await run(world, [*urls(1), *urls(1)], **home)
    assert kinds(outcomes) == {"Failed create": 2}
    assert all(isinstance(outcome, Failed) and isinstance(outcome.error, ValidationError) for outcome in outcomes)
    assert len(world.api.created) == 0


async def test_a_duplicate_that_may_wait_only_so_long_fails_alone(world: World, home: Any) -> None:
    (url,) = urls(1)
    outcomes = await run(world, [url, BatchItem(source=url, timeout=1.0)], **home)
    assert [(type(outcome), outcome.position) for outcome in outcomes] == [(Failed, 1), (Done, 0)]
    assert kinds(await run(world, [url], **home)) == {"Skipped finished": 1}


async def test_of_a_drained_batch_a_duplicate_is_not_begun_or_shares_what_was_paid(world: World, home: Any) -> None:
    urls_twice = [*urls(3), *urls(3)]
    async with world.client(rate_limit=GENEROUS) as client, client.split_many(urls_twice, **home, in_flight=1) as batch:
        outcomes = list[Outcome]()
        async for outcome in batch:
            outcomes.append(outcome)
            batch.drain()
    assert kinds(outcomes) == {"Done": 2, "Skipped duplicate": 2, "Skipped not begun": 2}


async def test_of_the_same_audio_twice_the_first_is_split_although_it_took_longer_to_read(
    world: World, home: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identify = OpenedItem.identify

    async def read(opened: OpenedItem) -> AudioId:
        await world.clock.sleep(60.0 if opened.label.endswith("a.wav") else 0.0)
        return await identify(opened)

    monkeypatch.setattr(OpenedItem, "identify", read)
    outcomes = await run(
        world, [wav(tmp_path / "a.wav"), wav(tmp_path / "b.wav"), wav(tmp_path / "c.wav", b"other")], **home
    )
    first, second, other = sorted(outcomes, key=lambda outcome: outcome.position)
    assert isinstance(second, Skipped)
    assert second.same_as == str(tmp_path / "a.wav")
    assert isinstance(first, Done)
    assert isinstance(other, Done)
    assert second.files == first.files


async def test_a_slow_stream_delays_no_other_source(world: World, home: Any) -> None:
    async def trickle() -> AsyncIterator[bytes]:
        await world.clock.sleep(10.0)
        yield b"sound"

    outcomes = await run(world, [stream_source(trickle, content_length=5, filename="a.wav"), *urls(1)], **home)
    assert [outcome.position for outcome in outcomes] == [1, 0]
    assert kinds(outcomes) == {"Done": 2}


async def test_without_dedupe_each_is_split(world: World, home: Any) -> None:
    assert kinds(await run(world, urls(1) * 3, dedupe=False, **home)) == {"Done": 3}
    assert len(world.api.created) == 3
    assert kinds(await run(world, urls(1) * 3, dedupe=False, **home)) == {"Skipped finished": 3}


@pytest.mark.parametrize(
    ("reply", "error", "stage"),
    [
        (error_reply(402, "INSUFFICIENT_CREDITS", "3 are missing"), InsufficientCreditsError, "create"),
        (error_reply(401, "UNAUTHORIZED"), AuthenticationError, "create"),
    ],
)
async def test_no_credits_and_a_wrong_key_stop_creating_and_finish_what_is_paid(
    world: World, home: Any, reply: Any, error: type[Exception], stage: str
) -> None:
    world.api.always("create", lambda exchange: world.api.do_create(exchange) if len(world.api.created) < 5 else reply)
    async with (
        world.client(rate_limit=GENEROUS) as client,
        client.split_many(urls(40), in_flight=8, **home) as batch,
    ):
        outcomes = [outcome async for outcome in batch]
        report = await batch.report()
    found = kinds(outcomes)
    assert found["Done"] == 5
    assert 1 <= found[f"Failed {stage}"] <= 8
    assert len(outcomes) == found["Done"] + found[f"Failed {stage}"] + found["Skipped not begun"]
    assert isinstance(report.stopped_by, error)
    assert world.api.count("create") <= 5 + 8
    world.api.always("create", None)
    assert kinds(await run(world, urls(40), **home)) == {"Done": 35, "Skipped finished": 5}
    assert len(world.api.created) == 40


async def test_an_endless_source_does_not_keep_a_stopped_batch_open(world: World, home: Any) -> None:
    world.api.always("create", error_reply(402, "INSUFFICIENT_CREDITS"))

    async def lines() -> AsyncIterator[str]:
        yield urls(1)[0]
        await asyncio.Event().wait()

    assert kinds(await run(world, lines(), **home)) == {"Failed create": 1}


async def test_a_spending_limit_is_kept(world: World, home: Any) -> None:
    items = [BatchItem(source=url, seconds=214.0) for url in urls(20)]
    async with (
        world.client(rate_limit=GENEROUS) as client,
        client.split_many(items, max_credits=1000, **home) as batch,
    ):
        outcomes = [outcome async for outcome in batch]
        report = await batch.report()
    assert kinds(outcomes)["Done"] == 4
    assert isinstance(report.stopped_by, SpendLimitError)
    assert report.credits_used == 4 * 214 <= 1000


async def test_draining_finishes_what_is_paid_and_begins_nothing(world: World, home: Any) -> None:
    world.api.always("get", lambda exchange: running(world, exchange))

    async def lines() -> AsyncIterator[str]:
        for url in urls(10):
            yield url
        await asyncio.Event().wait()

    async with world.client(rate_limit=GENEROUS) as client, client.split_many(lines(), in_flight=4, **home) as batch:
        await until(batch, "wait", 4)
        batch.drain()
        batch.drain()
        world.api.always("get", None)
        outcomes = [outcome async for outcome in batch]
    assert kinds(outcomes) == {"Done": 4, "Skipped not begun": 6}
    assert len(world.api.created) == 4


async def test_a_create_that_waits_for_the_limit_is_not_counted_as_paid(world: World, home: Any) -> None:
    world.api.always("get", lambda exchange: running(world, exchange))
    async with (
        world.client(rate_limit=RateLimit(5)) as client,
        client.split_many(urls(8), in_flight=8, **home) as batch,
    ):
        await until(batch, "wait", 5)
        await until(batch, "create", 3)
        assert batch.progress().paid == len(world.api.created) == 5


async def until(batch: Any, stage: str, tracks: int) -> None:
    while batch.progress().stages.get(stage, 0) < tracks:  # noqa: ASYNC110  # the batch sets no event for a test
        await asyncio.sleep(0.001)  # real, so that the fake clock sees an idle loop and moves on


def running(world: World, exchange: Any) -> Any:
    return world.api.split(exchange.request.url.rpartition("/")[2], "processing")


async def test_draining_loses_no_outcome_that_was_not_taken_yet(world: World, home: Any) -> None:
    await run(world, urls(150), **home)
    async with world.client(rate_limit=GENEROUS) as client, client.split_many(urls(150), **home) as batch:
        for _ in range(300):
            await asyncio.sleep(0)
        batch.drain()
        outcomes = [outcome async for outcome in batch]
        progress = batch.progress()
    assert progress.taken == len(outcomes)


async def test_draining_goes_on_with_downloads_of_what_an_earlier_run_paid_for(world: World, home: Any) -> None:
    await run(world, urls(3), journal=home["journal"])  # nothing is downloaded
    held = asyncio.Event()

    async def hold(exchange: Any) -> Any:
        await held.wait()
        return world.api.do_download(exchange)

    world.api.always("download", hold)
    async with world.client(rate_limit=GENEROUS) as client, client.split_many(urls(3), **home) as batch:
        await until(batch, "download", 3)
        batch.drain()
        held.set()
        assert kinds([outcome async for outcome in batch]) == {"Done": 3}


async def test_leaving_early_stops_the_work_and_running_again_finishes_it(world: World, home: Any) -> None:
    async with world.client(rate_limit=GENEROUS) as client, client.split_many(urls(20), **home) as batch:
        async for _ in batch:
            break
    world.api.always("create", None)
    charged = len(world.api.created)
    outcomes = await run(world, urls(20), **home)
    assert sum(kinds(outcomes).values()) == 20
    assert set(kinds(outcomes)) <= {"Done", "Skipped finished"}
    assert charged <= len(world.api.created) == 20


async def test_after_leaving_early_the_report_comes_at_once_and_outcomes_end(world: World, home: Any) -> None:
    for take in (0, 1):
        async with world.client(rate_limit=GENEROUS) as client:
            async with client.split_many(urls(300, first=take * 300), **home) as batch:
                for _ in range(take):
                    await anext(batch)
            report = await asyncio.wait_for(batch.report(), 10)
        assert report.done >= take
        assert [outcome async for outcome in batch] == []


async def test_a_batch_that_was_not_entered_says_so_instead_of_waiting(world: World, home: Any) -> None:
    async with world.client(rate_limit=GENEROUS) as client:
        with pytest.raises(ConfigurationError, match="async with"):
            await anext(client.split_many(urls(1), **home))


@pytest.mark.parametrize("source", ["song.wav", b"RIFF"])
async def test_one_source_is_not_taken_for_a_list_of_its_characters(world: World, source: Any) -> None:
    async with world.client(rate_limit=GENEROUS) as client:
        with pytest.raises(ConfigurationError, match="give a list"):
            client.split_many(source)


@pytest.mark.parametrize("most", [-1.0, float("nan")])
async def test_a_spending_limit_below_nothing_is_refused(world: World, most: float) -> None:
    async with world.client(rate_limit=GENEROUS) as client:
        with pytest.raises(ConfigurationError, match="max_credits must be at least 0"):
            client.split_many(urls(1), max_credits=most)


async def test_a_source_that_raises_ends_the_batch_with_its_error_after_what_came_before(
    world: World, home: Any
) -> None:
    def sources() -> Iterator[str]:
        yield from urls(5)
        raise LookupError("the list is broken")

    outcomes: list[Outcome] = []
    async with world.client(rate_limit=GENEROUS) as client, client.split_many(sources(), **home) as batch:
        outcomes += [await anext(batch) for _ in range(5)]
        for _ in range(2):
            with pytest.raises(LookupError, match="broken"):
                await anext(batch)
    assert kinds(outcomes) == {"Done": 5}


async def test_a_source_that_was_cancelled_is_not_taken_for_the_end_of_the_sources(world: World, home: Any) -> None:
    async def sources() -> AsyncIterator[str]:
        yield from_url
        raise asyncio.CancelledError

    (from_url,) = urls(1)
    async with world.client() as client, client.split_many(sources(), **home) as batch:
        assert isinstance(await anext(batch), Done)
        with pytest.raises(ConfigurationError, match="CancelledError"):
            await anext(batch)


async def test_sources_are_taken_only_as_fast_as_outcomes(world: World) -> None:
    taken = 0

    def sources() -> Iterator[str]:
        nonlocal taken
        for url in urls(5000):
            taken += 1
            yield url

    async with world.client(rate_limit=GENEROUS) as client, client.split_many(sources(), in_flight=10) as batch:
        for _ in range(20):
            await world.clock.sleep(60)
        # Those whose outcomes fill the queue, those in progress, and the one that waits for room.
        assert taken <= 100 + 10 + 2 * (4 + 8) + 1
        await anext(batch)


async def test_a_bad_source_is_an_outcome(world: World, home: Any, tmp_path: Path) -> None:
    empty = tmp_path / "empty.wav"
    empty.touch()
    sources = [str(tmp_path / "none.wav"), str(tmp_path), str(empty), "http://10.0.0.1/a.mp3", *urls(1)]
    sources += ["https://example.com/\udcff.mp3"]
    outcomes = await run(world, sources, **home)
    assert kinds(outcomes) == {"Failed prepare": 5, "Done": 1}
    assert all(isinstance(one.error, SourceUnreadableError) for one in outcomes if isinstance(one, Failed))


async def test_a_file_whose_name_is_not_text_is_split_like_any_other(world: World, home: Any, tmp_path: Path) -> None:
    name = os.fsdecode(bytes(tmp_path) + b"/\xff.wav")
    Path(name).write_bytes(b"sound")
    assert kinds(await run(world, [name, *urls(2)], **home)) == {"Done": 3}
    assert kinds(await run(world, [name, *urls(2)], **home)) == {"Skipped finished": 3}


async def test_a_source_that_changes_during_its_upload_is_not_split(world: World, home: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    source = wav(path)

    def change(exchange: Any) -> Any:
        path.write_bytes(b"other sound")
        return world.api.do_upload(exchange)

    world.api.always("upload", change)
    (outcome,) = await run(world, [source], **home)
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, SourceChangedError)
    assert world.api.created == {}
    world.api.always("upload", None)
    assert kinds(await run(world, [source], **home)) == {"Done": 1}
    assert list(world.api.uploads.values())[-1] == b"other sound"


async def test_a_split_that_failed_is_tried_again_only_on_request_and_with_a_new_key(world: World, home: Any) -> None:
    world.api.statuses["split_1"] = ["failed"]
    (first,) = await run(world, urls(1), **home)
    assert isinstance(first, Failed)
    assert isinstance(first.error, SplitFailedError)
    assert (first.stage, first.error.split.id) == ("wait", "split_1")
    asked = len(world.api.asked)
    (again,) = await run(world, urls(1), **home)
    assert isinstance(again, Failed)
    assert isinstance(again.error, SplitFailedError)
    assert len(world.api.asked) == asked
    assert kinds(await run(world, urls(1), retry_failed=True, **home)) == {"Done": 1}
    assert len(world.api.created) == 2


async def test_a_refused_create_is_tried_again_only_on_request(world: World, home: Any) -> None:
    world.api.script("create", error_reply(422, "VALIDATION_ERROR", "no audio"))
    for _ in range(2):
        (outcome,) = await run(world, urls(1), **home)
        assert isinstance(outcome, Failed)
        assert isinstance(outcome.error, ValidationError)
        assert world.api.count("create") == 1
    assert kinds(await run(world, urls(1), retry_failed=True, **home)) == {"Done": 1}
    assert len(world.api.created) == 1


async def test_a_key_of_ones_own_is_used_for_the_first_create_and_not_again(world: World, home: Any) -> None:
    item = BatchItem(source=urls(1)[0], idempotency_key="mine")
    world.api.statuses["split_1"] = ["failed"]
    await run(world, [item], **home)
    assert list(world.api.created) == ["mine"]
    assert kinds(await run(world, [item], retry_failed=True, **home)) == {"Done": 1}
    assert len(world.api.created) == 2


async def test_one_key_for_two_sources_fails_only_the_second(world: World, home: Any) -> None:
    items = [BatchItem(source=url, idempotency_key="mine") for url in urls(2)]
    outcomes = await run(world, [*items, *urls(3, first=2)], **home)
    assert kinds(outcomes) == {"Done": 4, "Failed create": 1}
    (failed,) = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
    assert isinstance(failed.error, ConfigurationError)


async def test_a_failed_download_goes_on_with_the_split_it_has(world: World, home: Any) -> None:
    world.api.stem_names = ("vocals", "../../escaped")
    (outcome,) = await run(world, urls(1), **home)
    assert isinstance(outcome, Failed)
    assert outcome.stage == "download"
    world.api.stem_names = ("vocals", "drums")
    world.api.always("get", None)
    (same,) = await run(world, urls(1), **home)
    assert isinstance(same, Failed)
    await run(world, urls(1), retry_failed=True, **home)
    assert world.api.count("create") == 1


async def test_an_unclear_create_is_sent_again_with_the_same_key_and_bytes_until_it_is_clear(
    world: World, home: Any
) -> None:
    def lose(exchange: Any) -> Any:
        world.api.do_create(exchange)
        return APIConnectionError("the connection broke")

    world.api.script("create", *[lose] * 12)
    (outcome,) = await run(world, urls(1), **home)
    assert isinstance(outcome, Done)
    assert len({(asked.headers["Idempotency-Key"], asked.body) for asked in world.api.of("create")}) == 1
    assert len(world.api.created) == 1


async def unclear(world: World, home: Any) -> None:
    """Leave a create behind whose answer is not known."""
    arrived = asyncio.Event()

    async def lose(exchange: Any) -> Any:
        world.api.do_create(exchange)
        arrived.set()
        await asyncio.Event().wait()

    world.api.script("create", lose)
    async with world.client(rate_limit=GENEROUS) as client, client.split_many(urls(1), **home):
        await arrived.wait()
    assert len(world.api.created) == 1


async def test_a_create_without_an_answer_is_replayed_by_the_next_run(world: World, home: Any) -> None:
    await unclear(world, home)
    assert kinds(await run(world, urls(1), **home)) == {"Done": 1}
    first, second = world.api.of("create")
    assert (first.headers["Idempotency-Key"], first.body) == (second.headers["Idempotency-Key"], second.body)


@pytest.mark.parametrize("status", [401, 402, 422, 404])
async def test_a_refusal_of_a_replay_proves_nothing(world: World, home: Any, status: int) -> None:
    await unclear(world, home)
    world.api.script("create", error_reply(status, "NO"))
    for retry_failed in (False, True):
        (outcome,) = await run(world, urls(1), retry_failed=retry_failed, **home)
        if isinstance(outcome, Done):
            break
        assert isinstance(outcome, Failed)
        assert isinstance(outcome.error, SubmissionUncertainError)
    assert len(world.api.created) == 1
    assert len({asked.headers["Idempotency-Key"] for asked in world.api.of("create")}) == 1


async def test_a_create_that_is_too_old_is_left_for_a_person(world: World, home: Any) -> None:
    await unclear(world, home)
    await world.clock.sleep(82_801)
    for _ in range(2):
        (outcome,) = await run(world, urls(1), retry_failed=True, **home)
        assert isinstance(outcome, Failed)
        assert isinstance(outcome.error, SubmissionUncertainError)
        assert outcome.error.code == "NEEDS_REVIEW"
    assert world.api.count("create") == 1
    assert kinds(await run(world, urls(1), key_age=200_000.0, **home)) == {"Done": 1}
    assert len(world.api.created) == 1


async def test_a_confirmed_resend_is_of_this_runs_sources_alone_and_within_its_spending_limit(
    world: World, home: Any
) -> None:
    """Of a create that nobody named in this run, nobody has said that its split does not exist."""
    named, other = (BatchItem(source=url, seconds=100.0) for url in urls(2))
    world.api.script("create", *[APIConnectionError("the connection broke")] * 2)
    once = RetryPolicy(create_attempts=1)
    async with world.client(retry=once) as client, client.split_many([named, other], patience=0, **home) as batch:
        assert kinds([outcome async for outcome in batch]) == {"Failed create": 2}
    await world.clock.sleep(82_801)
    (outcome,) = await run(world, [named], resend=True, max_credits=50, **home)
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, SpendLimitError)
    assert world.api.count("create") == 2
    assert kinds(await run(world, [named], resend=True, max_credits=100, **home)) == {"Done": 1}
    assert world.api.count("create") == 3
    (outcome,) = await run(world, [other], **home)
    assert isinstance(outcome, Failed)
    assert outcome.error.code == "NEEDS_REVIEW"


async def test_a_create_that_grows_too_old_during_an_outage_is_not_sent_again(world: World, home: Any) -> None:
    for what in ("create", "credits"):
        world.api.always(what, lambda _: APIConnectionError("the connection broke"))
    (outcome,) = await run(world, urls(1), key_age=600.0, **home)
    assert isinstance(outcome, Failed)
    assert outcome.error.code == "NEEDS_REVIEW"
    assert 500 < max(world.api.times("create")) < 660


async def test_an_answer_that_cannot_be_written_down_is_kept_until_there_is_room(
    world: World, home: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = JournalStore.created

    def full(store: JournalStore, *args: Any) -> Any:
        if world.elapsed() < 300:
            raise JournalError("the disk is full", code="DISK")
        return created(store, *args)

    monkeypatch.setattr(JournalStore, "created", full)
    assert kinds(await run(world, urls(3), **home)) == {"Done": 3}
    assert world.api.count("create") == 3


async def test_files_that_are_gone_are_downloaded_again_with_one_poll_and_no_charge(world: World, home: Any) -> None:
    (first,) = await run(world, urls(1), **home)
    assert isinstance(first, Done)
    first.files["vocals"].unlink()
    polls = world.api.count("get")
    (again,) = await run(world, urls(1), **home)
    assert isinstance(again, Done)
    assert all(path.is_file() for path in again.files.values())
    assert world.api.count("get") == polls + 1
    assert world.api.count("create") == 1
    assert world.api.count("download") == 5


async def test_an_edited_file_is_left_alone(world: World, home: Any) -> None:
    (first,) = await run(world, urls(1), **home)
    assert isinstance(first, Done)
    first.files["vocals"].write_bytes(b"mine")
    asked = len(world.api.asked)
    assert kinds(await run(world, urls(1), **home)) == {"Skipped finished": 1}
    assert first.files["vocals"].read_bytes() == b"mine"
    assert len(world.api.asked) == asked


async def test_urls_that_expired_between_runs_are_asked_for_again(world: World, home: Any) -> None:
    await run(world, urls(1), journal=home["journal"])
    polls = world.api.count("get")
    world.api.script("download", *[Flow([b""], status=403)] * 4)
    (outcome,) = await run(world, urls(1), **home)
    assert isinstance(outcome, Done)
    assert world.api.count("get") <= polls + 2
    assert world.api.count("create") == 1


async def test_an_unclear_create_is_never_answered_with_another_upload(world: World, home: Any, tmp_path: Path) -> None:
    world.api.always("reserve", lambda _: world.api.reservation(lifetime=100))
    lost = APIConnectionError("the connection broke")
    world.api.always("create", lambda exchange: lost if world.elapsed() < 200 else world.api.do_create(exchange))
    (outcome,) = await run(world, [wav(tmp_path / "a.wav")], **home)
    assert isinstance(outcome, Done)
    assert world.api.count("reserve") == 1
    assert len({asked.body for asked in world.api.of("create")}) == 1


async def test_a_full_disk_at_the_intent_means_no_post_and_a_pause(
    world: World, home: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    intend, refusals = JournalStore.intend, 0

    def full(store: JournalStore, *args: Any) -> Any:
        nonlocal refusals
        if world.elapsed() < 300:
            refusals += 1
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorname = "SQLITE_FULL"
            raise error
        return intend(store, *args)

    monkeypatch.setattr(JournalStore, "intend", full)
    assert kinds(await run(world, urls(10), **home)) == {"Done": 10}
    assert refusals > 0
    assert min(world.api.times("create")) >= 300
    assert len(world.api.created) == 10


async def test_a_full_disk_at_the_download_pauses_and_buys_nothing_meanwhile(
    world: World, home: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write

    def full(descriptor: int, data: Any) -> int:
        if 100 < world.elapsed() < 500:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", full)
    world.api.always("get", lambda exchange: slowly(world, exchange, 150))
    notices: set[str] = set()

    async def watch(batch: Any) -> None:
        while True:
            notices.update(batch.progress().notices)
            await world.clock.sleep(30)

    async with world.client(rate_limit=GENEROUS) as client, client.split_many(urls(12), in_flight=3, **home) as batch:
        watching = asyncio.create_task(watch(batch))
        outcomes = [outcome async for outcome in batch]
        watching.cancel()
    assert kinds(outcomes) == {"Done": 12}
    assert any("No space left" in notice for notice in notices)
    assert [at for at in world.api.times("create") if 300 < at < 500] == []


def slowly(world: World, exchange: Any, seconds: float) -> Any:
    """A split that is done so many seconds after it was created."""
    split_id = exchange.request.url.rpartition("/")[2]
    number = int(split_id.removeprefix("split_"))
    created = world.api.of("create")[number - 1].at
    done = world.clock.monotonic() >= created + seconds
    return world.api.split(split_id, "succeeded" if done else "processing")


async def test_an_outage_of_ten_minutes_costs_few_requests_and_fails_no_source(world: World, home: Any) -> None:
    def down_for_ten_minutes() -> Script:
        return APIConnectionError("refused", may_have_arrived=False) if world.elapsed() < 600 else None

    world.api.always("create", lambda exchange: down_for_ten_minutes() or world.api.do_create(exchange))
    world.api.always("get", lambda exchange: down_for_ten_minutes() or world.api.do_get(exchange))
    outcomes = await run(world, urls(50), **home)
    assert kinds(outcomes) == {"Done": 50}
    assert len([asked for asked in world.api.asked if asked.at < 1600]) < 350
    assert world.elapsed() < 900


async def test_a_track_that_may_take_only_so_long_says_what_became_of_it(world: World, home: Any) -> None:
    world.api.always("get", lambda exchange: running(world, exchange))
    (outcome,) = await run(world, [BatchItem(source=urls(1)[0], timeout=100.0)], **home)
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, WaitTimeoutError)
    world.api.always("get", None)
    assert kinds(await run(world, urls(1), **home)) == {"Done": 1}
    assert world.api.count("create") == 1


async def test_a_track_that_runs_out_of_time_in_the_middle_of_its_create_is_not_called_uncreated(
    world: World, home: Any
) -> None:
    async def late(exchange: Any) -> Any:
        world.api.do_create(exchange)
        await world.clock.sleep(50)
        return APIConnectionError("the connection broke")

    world.api.script("create", late)
    (outcome,) = await run(world, [BatchItem(source=urls(1)[0], timeout=20.0)], **home)
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, SubmissionUncertainError)
    assert kinds(await run(world, urls(1), **home)) == {"Done": 1}
    assert len(world.api.created) == 1


async def test_requests_of_an_earlier_run_count_against_the_limit(world: World, home: Any) -> None:
    limit = RateLimit(10)
    async with world.client(rate_limit=limit) as client, client.split_many(urls(10), **home):
        while world.api.count("create") < 10:
            await world.clock.sleep(0.01)
        await world.clock.sleep(2)
    began = world.clock.monotonic()
    async with world.client(rate_limit=limit) as client, client.split_many(urls(10), **home) as batch:
        outcomes = [outcome async for outcome in batch]
    assert kinds(outcomes) == {"Done": 10}
    assert min(asked.at for asked in world.api.of("get") if asked.at > began) >= began + 50


async def test_a_journal_that_breaks_ends_the_batch_with_its_error(
    world: World, home: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise sqlite3.DatabaseError("malformed")

    monkeypatch.setattr(JournalStore, "succeeded", broken)
    async with world.client(rate_limit=GENEROUS) as client, client.split_many(urls(30), in_flight=5, **home) as batch:
        with pytest.raises(JournalError, match="damaged"):
            async for _ in batch:
                pass
    monkeypatch.undo()


async def test_a_second_batch_on_the_same_journal_is_refused(world: World, home: Any) -> None:
    async with world.client(rate_limit=GENEROUS) as client, client.split_many(urls(1), **home) as batch:
        with pytest.raises(JournalLockedError):
            async with client.split_many(urls(1), **home):
                pass
        assert kinds([outcome async for outcome in batch]) == {"Done": 1}


@pytest.mark.parametrize("folder", ["../out", "/etc", "a//b", "a/../b", "/", "con", "a/.hidden", "nul\0"])
def test_a_folder_outside_is_refused_at_once(folder: str) -> None:
    with pytest.raises(ConfigurationError, match="folder must be a path below"):
        BatchItem(source=b"x", folder=folder)


@pytest.mark.parametrize("pattern", ["vocals", "{stem}{stem}", "../{stem}", "a/{stem}", "{stem}."])
def test_a_pattern_that_cannot_name_stems_is_refused_at_once(pattern: str) -> None:
    with pytest.raises(ConfigurationError, match="pattern must be a file name"):
        BatchItem(source=b"x", pattern=pattern)


@pytest.mark.parametrize("option", ["in_flight", "uploads", "downloads"])
def test_a_bound_below_one_is_refused(world: World, option: str) -> None:
    with pytest.raises(ConfigurationError, match=option):
        world.client().split_many([], **cast("Any", {option: 0}))


# --- what a safety review found


async def test_no_track_waits_for_an_outage_whose_only_track_has_left(world: World, home: Any) -> None:
    def down(exchange: Any) -> Any:
        broken = "split_1/" in exchange.request.url
        return error_reply(503, "DOWN") if broken else world.api.do_download(exchange)

    async def sources() -> AsyncIterator[Any]:
        yield BatchItem(source=urls(1)[0], timeout=30.0)
        await world.clock.sleep(20)  # by then the first has trouble with its download
        for url in urls(5, first=1):
            yield url

    world.api.always("download", down)
    outcomes = await run(world, sources(), **home)
    assert kinds(outcomes) == {"Done": 5, "Failed download": 1}
    assert world.elapsed() < 60


async def test_an_outage_that_was_left_behind_does_not_count_toward_the_next(
    world: World, home: Any, tmp_path: Path
) -> None:
    def reserve(exchange: Any) -> Any:
        if world.elapsed() < 100 or 7200 <= world.elapsed() < 7210:
            return APIConnectionError("refused", may_have_arrived=False)
        return world.api.do_reserve(exchange)

    async def sources() -> AsyncIterator[Any]:
        yield BatchItem(source=wav(tmp_path / "a.wav", b"a"), timeout=30.0)
        await world.clock.sleep(7200)
        for number in range(3):
            yield wav(tmp_path / f"{number}.wav", b"%d" % number)

    world.api.always("reserve", reserve)
    assert kinds(await run(world, sources(), **home)) == {"Done": 3, "Failed upload": 1}


async def test_a_cap_of_nothing_spends_nothing(world: World, home: Any) -> None:
    await run(world, urls(3), max_credits=0, **home)
    assert world.api.created == {}


async def test_a_price_is_set_aside_as_it_will_be_charged(world: World, home: Any) -> None:
    async def create(exchange: Any) -> Any:
        await world.clock.sleep(1)
        split_id = world.api.created.setdefault(
            exchange.request.headers["Idempotency-Key"], f"split_{len(world.api.created)}"
        )
        return json_reply({"id": split_id, "status": "queued", "creditsUsed": 2, "createdAt": "2027-01-01T00:00:00Z"})

    world.api.always("create", create)
    await run(world, [BatchItem(source=url, seconds=1.2) for url in urls(10)], max_credits=12, **home)
    assert len(world.api.created) == 6


async def test_the_price_of_a_create_that_may_have_happened_stays_set_aside(world: World, home: Any) -> None:
    async def lose(exchange: Any) -> Any:
        reply = world.api.do_create(exchange)
        if b"/0.mp3" in exchange.body:
            await asyncio.Event().wait()
        return reply

    async def sources() -> AsyncIterator[Any]:
        yield BatchItem(source=urls(1)[0], seconds=214.0, timeout=20.0)
        await world.clock.sleep(60)
        yield BatchItem(source=urls(1, first=1)[0], seconds=214.0)

    world.api.always("create", lose)
    await run(world, sources(), max_credits=214, **home)
    assert len(world.api.created) == 1


async def test_a_create_that_waits_after_a_429_is_not_sent_once_the_batch_drains(world: World, home: Any) -> None:
    world.api.script("create", error_reply(429, "RATE_LIMITED", headers={"retry-after": "100"}))
    async with world.client(rate_limit=GENEROUS) as client, client.split_many(urls(1), **home) as batch:
        while not world.api.count("create"):
            await world.clock.sleep(0.1)
        await world.clock.sleep(1)
        batch.drain()
        assert kinds([outcome async for outcome in batch]) == {"Skipped not begun": 1}
    assert world.api.created == {}
    assert kinds(await run(world, urls(1), **home)) == {"Done": 1}


async def test_a_key_that_grows_old_while_its_create_waits_for_the_limit_is_not_sent(world: World, home: Any) -> None:
    await unclear(world, home)
    (sent,) = world.api.times("create")
    await world.clock.sleep(90)
    async with world.client(rate_limit=RateLimit(1, per=60)) as client:
        others = asyncio.gather(*(client.get_credits() for _ in range(4)))
        await world.clock.sleep(0.1)
        async with client.split_many(urls(1), key_age=100.0, **home) as batch:
            (outcome,) = [outcome async for outcome in batch]
        await others
    assert isinstance(outcome, Failed)
    assert outcome.error.code == "NEEDS_REVIEW"
    assert world.api.times("create") == [sent]


@pytest.mark.parametrize("lifetime", [100, 60])
async def test_an_upload_that_expires_while_its_create_waits_for_the_limit_is_repeated(
    world: World, home: Any, tmp_path: Path, lifetime: int
) -> None:
    """Or, if the limit is so low that it always would, sent as it is."""
    world.api.always("reserve", lambda _: world.api.reservation(lifetime=lifetime))

    def create(exchange: Any) -> Any:
        stale = lifetime == 100 and world.elapsed() > 100 and b"upl_1" in exchange.body
        return error_reply(422, "VALIDATION_ERROR") if stale else world.api.do_create(exchange)

    world.api.always("create", create)
    async with (
        world.client(rate_limit=RateLimit(1, per=50)) as client,
        client.split_many([wav(tmp_path / "a.wav")], **home) as batch,
    ):
        while not world.api.count("upload"):
            await world.clock.sleep(0.01)
        others = [asyncio.create_task(client.get_credits()) for _ in range(2)]
        assert kinds([outcome async for outcome in batch]) == {"Done": 1}
        await asyncio.gather(*others)


async def test_creates_left_open_are_settled_first_whether_or_not_their_source_is_met(world: World, home: Any) -> None:
    await unclear(world, home)
    key = world.api.of("create")[0].headers["Idempotency-Key"]
    assert kinds(await run(world, urls(3, first=1), **home)) == {"Done": 3}
    assert world.api.of("create")[1].headers["Idempotency-Key"] == key
    store = JournalStore(home["journal"])
    assert store.count() == {"created": 1, "downloaded": 3}
    store.close()
    assert kinds(await run(world, urls(1), **home)) == {"Done": 1}
    assert len(world.api.created) == 4


async def test_a_create_that_stays_open_is_asked_about_once_a_run(world: World, home: Any) -> None:
    await unclear(world, home)
    world.api.always("create", error_reply(422, "VALIDATION_ERROR"))
    (outcome,) = await run(world, urls(1), **home)
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, SubmissionUncertainError)
    assert world.api.count("create") == 2


async def test_a_source_whose_stream_cannot_be_opened_fails_alone(world: World, home: Any) -> None:
    def factory() -> AsyncIterator[bytes]:
        raise OSError("the tape is stuck")

    sources = [stream_source(factory, content_length=5, filename="a.wav"), *urls(20)]
    assert kinds(await run(world, sources, **home)) == {"Done": 20, "Failed prepare": 1}


async def test_a_stream_that_yields_other_bytes_than_were_identified_is_not_split(world: World, home: Any) -> None:
    contents = iter([b"AAAA", b"BBBB", b"BBBB", b"BBBB"])

    async def factory() -> AsyncIterator[bytes]:
        yield next(contents)

    (outcome,) = await run(world, [stream_source(factory, content_length=4, filename="s.wav")], **home)
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, SourceChangedError)
    assert world.api.created == {}


async def test_a_stamp_is_what_sqlite_holds_and_is_not_lost_when_the_volume_is_mounted_again(
    world: World, home: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAT numbers its files again then; and a recorder without a clock may write any year."""
    stat, number, path = Path.stat, 2**63 + 5, wav(tmp_path / "a.wav")

    def odd(path: Path, **options: Any) -> os.stat_result:
        status = stat(path, **options)
        times = {"st_mtime_ns": 2**63, "st_ctime_ns": 10**18}
        return os.stat_result((status.st_mode, number, *tuple(status)[2:10]), times) if path.name == "a.wav" else status

    monkeypatch.setattr(Path, "stat", odd)
    assert kinds(await run(world, [path], **home)) == {"Done": 1}
    number = 7
    monkeypatch.delattr("aistemsplitter_async.batch.item.examine")  # it is not read again
    assert kinds(await run(world, [path], **home)) == {"Skipped finished": 1}


async def test_a_given_key_is_kept_until_a_create_was_sent_under_it(world: World, home: Any, tmp_path: Path) -> None:
    world.api.script("reserve", *[APIConnectionError("refused", may_have_arrived=False)] * 4)
    for _ in range(2):
        item = BatchItem(source=wav(tmp_path / "a.wav"), idempotency_key="order-4711")
        await run(world, [item], patience=0, **home)
    assert list(world.api.created) == ["order-4711"]


@pytest.mark.parametrize("key", ["", "a\nb", "ä", "x" * 300])
def test_a_key_that_cannot_be_one_is_refused_at_once(key: str) -> None:
    with pytest.raises(ConfigurationError, match="idempotency key"):
        BatchItem(source=b"x", idempotency_key=key)


async def test_a_copy_goes_on_where_only_the_first_file_failed(world: World, home: Any, tmp_path: Path) -> None:
    first, copy = wav(tmp_path / "a.wav"), wav(tmp_path / "b.wav")

    def upload(exchange: Any) -> Any:
        Path(first).unlink(missing_ok=True)
        return world.api.do_upload(exchange)

    world.api.always("upload", upload)
    assert kinds(await run(world, [first, copy], **home)) == {"Failed upload": 1, "Done": 1}
    assert len(world.api.created) == 1


async def test_a_copy_of_what_is_uncertain_is_uncertain_too(world: World, home: Any) -> None:
    async def lose(exchange: Any) -> Any:
        world.api.do_create(exchange)
        await asyncio.Event().wait()

    world.api.script("create", lose)
    (url,) = urls(1)
    outcomes = await run(world, [BatchItem(source=url, timeout=20.0), url], **home)
    errors = [outcome.error for outcome in outcomes if isinstance(outcome, Failed)]
    assert all(isinstance(error, SubmissionUncertainError) and error.submission for error in errors)
    assert len(world.api.created) == 1


async def test_a_re_split_that_was_killed_goes_on_and_pays_for_nothing_twice(world: World, home: Any) -> None:
    def items() -> list[BatchItem]:
        return [BatchItem(source=url, anew=True) for url in urls(2)]

    await run(world, urls(2), **home)
    world.api.always("get", lambda exchange: running(world, exchange) if "split_4" in exchange.request.url else None)
    async with (
        world.client(rate_limit=GENEROUS) as client,
        client.split_many(items(), overwrite=True, **home) as batch,
    ):
        await anext(batch)  # the first is done, and the run is left there
    world.api.always("get", None)
    await run(world, items(), overwrite=True, **home)
    assert len(world.api.created) == 4
    await run(world, items(), overwrite=True, **home)
    assert len(world.api.created) == 6


async def test_a_batch_that_is_cancelled_while_it_begins_gives_up_its_journal(
    world: World, home: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aistemsplitter_async.batch.context import BatchContext

    monkeypatch.setattr(BatchContext, "restore_gate", lambda _: world.clock.sleep(100))
    async with world.client() as client:
        with pytest.raises(TimeoutError):
            async with world.clock.timeout_at(world.clock.monotonic() + 10), client.split_many([], **home):
                pass
    JournalStore(home["journal"]).close()


async def test_a_journal_that_lost_everything_is_not_started_again(world: World, home: Any) -> None:
    await run(world, urls(2), **home)
    home["journal"].write_bytes(b"")
    with pytest.raises(JournalError, match="was a journal"):
        await run(world, urls(2), **home)
    assert len(world.api.created) == 2
