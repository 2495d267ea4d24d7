"""A station over fakes, in virtual time: many callers, one batch, and nobody who waits for ever."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import threading
from collections.abc import AsyncIterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import anyio
import pytest

from aistemsplitter_async import (
    AsyncAIStemSplitter,
    AuthenticationError,
    BatchItem,
    ConfigurationError,
    Done,
    Failed,
    InsufficientCreditsError,
    JournalError,
    Outcome,
    RateLimit,
    Skipped,
    SpendLimitError,
    SplitFinished,
    SplitStarted,
    Station,
    stream_source,
)
from aistemsplitter_async.batch.item import OpenedItem
from aistemsplitter_async.batch.options import BatchKeywords
from aistemsplitter_async.journal.record import AudioId
from aistemsplitter_async.journal.store import JournalStore
from aistemsplitter_async.testing import error_reply
from tests.io.fakes import World

pytestmark = pytest.mark.usefixtures("inline_threads")

GENEROUS = RateLimit(1000)


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no power cut here


@pytest.fixture
def home(tmp_path: Path) -> dict[str, Path]:
    return {"into": tmp_path / "out", "journal": tmp_path / "journal"}


def url(number: int) -> str:
    return f"https://example.com/{number}.mp3"


def kind(outcome: Outcome | BaseException) -> str:
    return f"{type(outcome).__name__} {getattr(outcome, 'reason', getattr(outcome, 'stage', ''))}".strip()


async def together(station: Station, *sources: Any) -> list[Outcome | BaseException]:
    return await asyncio.gather(*(station.split(source) for source in sources), return_exceptions=True)


def slowly(world: World, seconds: float) -> Any:
    async def create(exchange: Any) -> Any:
        reply = world.api.do_create(exchange)
        await world.clock.sleep(seconds)
        return reply

    return create


async def test_each_caller_gets_the_outcome_of_its_own_song(world: World, home: Any, tmp_path: Path) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"a stream of sound"

    (tmp_path / "a.wav").write_bytes(b"sound")
    sources = [
        *map(url, range(20)),
        tmp_path / "a.wav",
        b"other sound",
        stream_source(body, filename="b.wav", content_length=17),
        BatchItem(source=url(50), folder="named/deeply"),
        "no such file.wav",
    ]
    async with world.client(rate_limit=GENEROUS) as client, Station(client, **home) as station:
        outcomes = await together(station, *sources)
    *good, named, bad = outcomes
    assert [outcome.source for outcome in good if isinstance(outcome, Done)] == sources[:-2]
    assert isinstance(named, Done)
    assert {path.parent for path in named.files.values()} == {home["into"] / "named/deeply"}
    assert isinstance(bad, Failed)
    assert len(world.api.created) == 24


async def test_a_song_asked_for_twice_is_split_once(world: World, home: Any, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.wav").write_bytes(b"the same sound")
    async with world.client(rate_limit=GENEROUS) as client, Station(client, **home) as station:
        outcomes = await together(station, *[tmp_path / "a.wav", tmp_path / "b.wav", tmp_path / "a.wav"])
        assert [kind(outcome) for outcome in outcomes] == ["Done", "Skipped duplicate", "Skipped duplicate"]
        assert len({str(outcome.files) for outcome in outcomes if not isinstance(outcome, BaseException | Failed)}) == 1
        asked = len(world.api.asked)
        later = await station.split(tmp_path / "b.wav")
        assert (kind(later), len(world.api.asked)) == ("Skipped finished", asked)
        assert isinstance(later, Skipped)
        assert later.split is not None
        next(iter(later.files.values())).unlink()
        again = await station.split(tmp_path / "a.wav")  # as in another run, what is missing is fetched
        assert isinstance(again, Done)
        assert all(path.is_file() for path in again.files.values())
    assert len(world.api.created) == 1


async def test_what_failed_and_may_pass_is_tried_again_when_it_is_asked_for_again(world: World, home: Any) -> None:
    refused = error_reply(422, "AUDIO_UNREACHABLE", "could not fetch it")
    world.api.script("create", refused)
    async with world.client(rate_limit=GENEROUS) as client, Station(client, **home, retry_failed=True) as station:
        assert isinstance(await station.split(url(1)), Failed)
        assert isinstance(await station.split(url(1)), Done)


async def test_a_caller_that_leaves_withdraws_a_song_that_has_cost_nothing(still: World, home: Any) -> None:
    """One that is paid for is finished. Who waits for the same song gets it, and who leaves early takes no turn."""
    still.api.always("create", slowly(still, 5))
    async with still.client(rate_limit=GENEROUS) as client, Station(client, **home, in_flight=1) as station:
        first, second, third = (asyncio.create_task(station.split(url(number))) for number in range(3))
        also = asyncio.create_task(station.split(url(1)))
        await still.clock.advance(1)
        assert len(still.api.created) == 1
        for task in (first, second, third):
            task.cancel()
        await still.clock.advance(30)
        assert all(task.cancelled() for task in (first, second, third))
        assert isinstance(await also, Done)
        assert len(still.api.created) == 2
        assert kind(await driven(still, station.split(url(0)))) == "Skipped finished"
        assert not station._callers._queued
        assert not station._callers._running


async def test_a_caller_in_the_queue_that_leaves_takes_no_turn(still: World, home: Any) -> None:
    """Only as many songs are in hand as the options say; nothing of the others is looked at."""
    still.api.always("create", slowly(still, 5))
    few: dict[str, Any] = {"in_flight": 1, "uploads": 1, "downloads": 1}
    async with still.client(rate_limit=GENEROUS) as client, Station(client, **home, **few) as station:
        callers = [asyncio.create_task(station.split(url(number))) for number in range(20)]
        await still.clock.advance(1)
        assert len(still.of(SplitStarted)) == 5
        for caller in callers[5:19]:
            caller.cancel()
        assert isinstance(await driven(still, callers[19]), Done)
        assert [event.source for event in still.of(SplitStarted)][5:] in ([url(19)], [url(5), url(19)])  # 5 was next
        assert len(still.api.created) == 6


async def driven(world: World, work: Any) -> Any:
    task = asyncio.ensure_future(work)
    await world.clock.advance(60)
    assert task.done(), "it waits"
    return task.result()


async def test_nobody_buys_a_song_that_all_who_waited_for_it_have_left(still: World, home: Any) -> None:
    """The second follows the first, which is withdrawn; by then nobody waits for the second either."""
    async with still.client(rate_limit=GENEROUS) as client, Station(client, **home) as station:
        still.api.always("reserve", lambda _: still.clock.sleep(5))
        both = [asyncio.create_task(station.split(b"sound")) for _ in range(2)]
        await still.clock.advance(1)
        both[1].cancel()
        await still.clock.settle()
        both[0].cancel()
        await still.clock.advance(60)
        assert still.api.count("reserve") == 1
        assert still.api.created == {}
        still.api.always("reserve", None)
        assert isinstance(await driven(still, station.split(b"sound")), Done)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (error_reply(401, "UNAUTHORIZED", "no such key"), AuthenticationError),
        (error_reply(402, "INSUFFICIENT_CREDITS", "empty"), InsufficientCreditsError),
    ],
)
async def test_when_the_batch_ends_every_caller_hears_why(world: World, home: Any, answer: Any, error: Any) -> None:
    world.api.always("create", answer)
    async with world.client(rate_limit=GENEROUS) as client, Station(client, **home, in_flight=2) as station:
        outcomes = await together(station, *map(url, range(200)))
        met = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
        told = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert 1 <= len(met) <= 2
        assert len(met) + len(told) == 200
        assert {type(outcome) for outcome in told} == {error}
        assert len(set(map(id, told))) == len(told), "each has its own"
        assert isinstance(station.stopped_by, error)
        with pytest.raises(error):
            await station.split(url(500))


async def test_the_queue_hears_at_once_that_nothing_is_split_any_more(still: World, home: Any) -> None:
    """What is paid for may take for hours yet, and is finished."""
    still.api.statuses["split_1"] = ["processing"] * 2 + ["succeeded"]
    few: dict[str, Any] = {"in_flight": 2, "uploads": 1, "downloads": 1}
    async with still.client(rate_limit=GENEROUS) as client, Station(client, **home, **few) as station:
        paid = asyncio.create_task(station.split(url(0)))
        await still.clock.advance(1)
        still.api.always("create", error_reply(402, "INSUFFICIENT_CREDITS", "empty"))
        callers = [asyncio.create_task(station.split(url(number))) for number in range(1, 50)]
        await still.clock.advance(2)
        assert all(caller.done() for caller in callers)
        assert {type(caller.exception()) for caller in callers[1:]} == {InsufficientCreditsError}
        assert not paid.done()
        await still.clock.advance(300)
        assert isinstance(await paid, Done)


async def test_the_limit_on_credits_is_for_all_callers_together(world: World, home: Any) -> None:
    async with world.client(rate_limit=GENEROUS) as client, Station(client, **home, max_credits=500) as station:
        outcomes = await together(station, *(BatchItem(source=url(number), seconds=214) for number in range(10)))
        assert [isinstance(outcome, Done) for outcome in outcomes].count(True) == 2
        assert {type(outcome) for outcome in outcomes if isinstance(outcome, BaseException)} <= {SpendLimitError}
        with pytest.raises(SpendLimitError):
            await station.split(BatchItem(source=url(50), seconds=1))


async def test_a_broken_journal_ends_it_for_every_caller(
    world: World, home: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise JournalError("it is damaged")

    async with world.client(rate_limit=GENEROUS) as client, Station(client, **home) as station:
        assert isinstance(await station.split(url(0)), Done)
        monkeypatch.setattr(JournalStore, "intend", broken)
        outcomes = await together(station, *map(url, range(1, 50)))
        assert {type(outcome) for outcome in outcomes} == {JournalError}
        with pytest.raises(JournalError):
            await station.split(url(99))
    assert len(world.api.created) == 1


async def test_leaving_finishes_what_is_paid_for_within_its_grace(still: World, home: Any) -> None:
    """And nothing else: what has cost nothing is not begun, and its caller is told."""
    still.api.always("create", slowly(still, 5))
    done = asyncio.Event()

    async def serve() -> None:
        async with (
            still.client(rate_limit=GENEROUS) as client,
            Station(client, **home, in_flight=1, grace=600) as station,
        ):
            calls.extend(asyncio.create_task(station.split(url(number))) for number in range(300))
            await done.wait()

    calls: list[asyncio.Task[Outcome]] = []
    service = asyncio.create_task(serve())
    await still.clock.advance(1)
    done.set()
    await still.clock.advance(60)
    assert service.done()
    paid, *others = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(paid, Done)
    assert {(type(error), getattr(error, "code", None)) for error in others} == {(ConfigurationError, "CLOSED")}
    assert len(still.api.created) == 1


@pytest.mark.parametrize("how", ["grace", "error", "cancelled"])
async def test_leaving_is_prompt(still: World, home: Any, how: str) -> None:
    """A split that takes long is left to the journal: at once after an error, else when the grace is over."""
    still.api.statuses["split_1"] = ["processing"]
    done = asyncio.Event()
    calls: list[asyncio.Task[Outcome]] = []

    async def serve() -> None:
        async with still.client(rate_limit=GENEROUS) as client, Station(client, **home, grace=8) as station:
            calls.append(asyncio.create_task(station.split(url(0))))
            await done.wait()
            if how == "error":
                raise LookupError

    service = asyncio.create_task(serve())
    await still.clock.advance(20)
    done.set()
    await still.clock.settle()
    if how == "cancelled":
        service.cancel()
    await still.clock.advance(7)
    assert service.done() is (how != "grace")
    await still.clock.advance(2)
    (result,) = await asyncio.gather(service, return_exceptions=True)
    assert type(result) is {"grace": type(None), "error": LookupError, "cancelled": asyncio.CancelledError}[how]
    with pytest.raises(ConfigurationError, match="closed") as caught:
        await calls[0]
    assert caught.value.code == "CLOSED"


async def test_callers_may_live_in_scopes_of_anyio(still: World, home: Any) -> None:
    """A scope that gives up ends its caller alone, however often anyio cancels; and the station may be in one."""
    async with (
        anyio.create_task_group() as group,
        still.client(rate_limit=GENEROUS) as client,
        Station(client, **home) as station,
    ):
        still.api.always("create", slowly(still, 5))
        results: list[Outcome] = []

        async def ask(number: int) -> None:
            results.append(await station.split(url(number)))

        async def give_up() -> None:
            with anyio.CancelScope() as scope:
                scopes.append(scope)
                await station.split(url(9))
            assert scope.cancelled_caught

        scopes: list[anyio.CancelScope] = []
        async with asyncio.TaskGroup() as tasks:
            group.start_soon(ask, 0)
            tasks.create_task(give_up())
            await still.clock.advance(1)
            scopes[0].cancel()
            await still.clock.advance(60)
        assert [kind(outcome) for outcome in results] == ["Done"]
        assert kind(await driven(still, station.split(url(9)))) == "Skipped finished"


CALLER = ContextVar("CALLER", default="nobody")


async def test_a_song_is_split_in_the_context_of_its_caller(world: World) -> None:
    heard: list[tuple[str, str]] = []

    def note(event: object) -> None:
        if isinstance(event, SplitFinished):
            heard.append((event.source, CALLER.get()))

    async def ask(number: int) -> None:
        CALLER.set(f"caller {number}")
        await station.split(url(number))

    async with (
        world.client(rate_limit=GENEROUS, on_event=note) as client,
        Station(client) as station,
        asyncio.TaskGroup() as group,
    ):
        for number in range(3):
            group.create_task(ask(number))
    assert sorted(heard) == [(url(number), f"caller {number}") for number in range(3)]


async def test_a_slow_file_holds_up_no_other_caller(
    world: World, home: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a batch, of two files with the same audio the first is split; callers have nothing to do with each other."""
    may_read = asyncio.Event()
    identify = OpenedItem.identify

    async def read(opened: OpenedItem) -> AudioId:
        if opened.label.endswith("slow.wav"):
            await may_read.wait()
        return await identify(opened)

    monkeypatch.setattr(OpenedItem, "identify", read)
    for name in ("slow", "other"):
        (tmp_path / f"{name}.wav").write_bytes(name.encode())
    async with world.client(rate_limit=GENEROUS) as client, Station(client, **home) as station:
        slow = asyncio.create_task(station.split(tmp_path / "slow.wav"))
        assert isinstance(await station.split(tmp_path / "other.wav"), Done)
        may_read.set()
        assert isinstance(await slow, Done)


async def test_nothing_is_kept_of_songs_that_are_done(world: World) -> None:
    async with world.client(rate_limit=RateLimit(100_000)) as client, Station(client) as station:
        kept = []
        for first in range(0, 90, 30):
            for _ in range(2):
                await together(station, *map(url, range(first, first + 30)))
            await world.clock.sleep(100)  # the slots of a window are kept
            for noted in (world.api.asked, world.api.exchanges, world.events):
                noted.clear()
            gc.collect()
            homes = (str(type(thing).__module__).rpartition(".") for thing in gc.get_objects())
            kept.append(sum(room.startswith("aistemsplitter_async") and name != "testing" for room, _, name in homes))
        assert kept[2] <= kept[1] + 3, kept


async def test_misuse_is_refused(world: World, home: Any) -> None:
    async with world.client() as client:
        with pytest.raises(ConfigurationError, match="grace"):
            Station(client, grace=-1)
        with pytest.raises(ConfigurationError, match="uploads must be at least 1"):
            Station(client, uploads=0)
        station = Station(client, **home)
        with pytest.raises(ConfigurationError, match="inside `async with`"):
            await station.split(url(0))
        assert station.stopped_by is None
        async with station:
            with pytest.raises(ConfigurationError, match="anew"):
                await station.split(BatchItem(source=url(0), anew=True))
            caught: list[BaseException] = []

            def elsewhere() -> None:
                try:
                    asyncio.run(station.split(url(0)))
                except ConfigurationError as error:
                    caught.append(error)

            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()
            assert "belongs to the event loop" in str(caught[0])
            with pytest.raises(ConfigurationError, match="entered once"):
                await station.__aenter__()
        with pytest.raises(ConfigurationError, match="is closed"):
            await station.split(url(0))


def test_its_options_are_those_of_a_batch() -> None:
    taken = inspect.signature(AsyncAIStemSplitter.split_many).parameters
    assert [*BatchKeywords.__annotations__] == [
        name for name in taken if name not in ("self", "sources", "into", "journal")
    ]
