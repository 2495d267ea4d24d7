"""Songs on a cluster: a scheduler and workers on this event loop, against the sandbox."""

from __future__ import annotations

import asyncio
import gc
import pickle
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from aistemsplitter_async import (
    APIConnectionError,
    BatchItem,
    ConfigurationError,
    Done,
    Failed,
    InsufficientCreditsError,
    Outcome,
    SourceUnreadableError,
    stream_source,
)
from aistemsplitter_async._version import __version__
from aistemsplitter_async._wire.credentials import fingerprint
from aistemsplitter_async.config import Secret
from aistemsplitter_async.distributed import link
from aistemsplitter_async.distributed.tasks import Identity
from aistemsplitter_async.errors import SCHEDULER_LOST
from aistemsplitter_async.sandbox import Sandbox, faults
from tests.e2e.distributed.conftest import Cluster, Run, starting
from tests.e2e.harness import MakeWav

GONE = "no such folder/{}.wav"


def urls(number: int) -> list[str]:
    return [f"https://example.com/{index}.mp3" for index in range(number)]


def kinds(outcomes: list[Outcome]) -> Counter[str]:
    return Counter(getattr(outcome, "reason", type(outcome).__name__) for outcome in outcomes)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  # what Dask does tells nobody
            await asyncio.sleep(0.01)


@pytest.fixture
def songs(tmp_path: Path, make_wav: MakeWav) -> list[Path]:
    songs = [tmp_path / f"{number}.wav" for number in range(10)]
    for number, song in enumerate(songs):
        song.write_bytes(make_wav(0.1 + number / 100))
    return songs


async def test_outcomes_come_back_as_those_of_a_batch(
    cluster: Cluster, run: Run, sandbox: Sandbox, songs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with its source as it was given, and its position; what a cluster cannot take is told and stops nothing."""
    tmp_path = songs[0].parent
    monkeypatch.chdir(tmp_path)
    sources: list[Any] = [
        "0.wav",
        BatchItem(source=urls(1)[0], folder="named/deeply", timeout=60.0),
        b"sound",
        stream_source(lambda: None, content_length=5, filename="a.wav"),  # type: ignore[arg-type, return-value]
        BatchItem(source="0.wav", on_progress=print),
        GONE,
    ]
    await cluster.add_worker()
    await cluster.add_worker()
    async with run(sources, into=str(tmp_path / "stems"), stems=("vocals",)) as outcomes:
        got = sorted([outcome async for outcome in outcomes], key=lambda outcome: outcome.position)
        report = await outcomes.report()
    song, named, *refused = got
    assert isinstance(song, Done)
    assert isinstance(named, Done)
    assert (song.source, song.files) == ("0.wav", {"vocals": tmp_path / "stems/0/vocals.mp3"})
    assert [*named.files.values()] == [tmp_path / "stems/named/deeply/vocals.mp3"]
    assert [type(outcome.error) for outcome in refused if isinstance(outcome, Failed)] == [
        SourceUnreadableError,
        SourceUnreadableError,
        ConfigurationError,
        SourceUnreadableError,
    ]
    assert [outcome.position for outcome in got] == [0, 1, 2, 3, 4, 5]
    assert (report.done, report.failed, report.stopped_by) == (2, 4, None)
    assert report.credits_used == sum(charge.credits for charge in sandbox.ledger.charges)
    assert not cluster.scheduler.tasks
    stations = [worker.plugins["aistemsplitter-async"] for worker in cluster.workers]
    await until(lambda: not any(one._open for one in stations))  # the driver has said goodbye


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"version": "0.0.1"}, f"has version {__version__} of aistemsplitter-async, and the driver 0.0.1"),
        ({"base_url": "https://api.other.example/v1"}, "and the driver https://api.other.example/v1"),
        ({"key": "another"}, "has another API key than the driver: set AISTEMSPLITTER_API_KEY there"),
    ],
)
async def test_a_worker_that_is_not_like_the_driver_does_nothing(
    cluster: Cluster, run: Run, sandbox: Sandbox, wrong: dict[str, str], message: str
) -> None:
    driver = attrs.evolve(Identity(__version__, sandbox.base_url, fingerprint(Secret(sandbox.api_key))), **wrong)
    await cluster.add_worker()
    async with run(urls(100), driver=driver) as outcomes:
        assert kinds([outcome async for outcome in outcomes]) == {"not begun": outcomes.taken}
        assert isinstance(outcomes.stopped_by, ConfigurationError)
        assert message in str(outcomes.stopped_by)
        assert cluster.workers[0].address in str(outcomes.stopped_by)
    assert not sandbox.ledger.requests


async def test_a_worker_without_a_key_is_named(cluster: Cluster, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    await cluster.add_worker()
    monkeypatch.delenv("AISTEMSPLITTER_API_KEY")
    async with run(urls(1)) as outcomes:
        assert kinds([outcome async for outcome in outcomes]) == {"not begun": 1}
    problem = str(outcomes.stopped_by)
    assert problem.startswith(f"worker {cluster.workers[0].address} on ")
    assert ": it has no API key: set AISTEMSPLITTER_API_KEY or AISTEMSPLITTER_API_KEY_FILE there" in problem
    assert getattr(outcomes.stopped_by, "code", "") is None, "the driver's own key is fine"


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", ConfigurationError, "cannot use what is at tcp://"),
        (b"", APIConnectionError, "no Dask scheduler at tcp://"),
    ],
    ids=["http", "silent"],
)
async def test_what_is_no_scheduler_is_not_waited_for(
    run: Run, monkeypatch: pytest.MonkeyPatch, answer: bytes, error: type[Exception], message: str
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        writer.write(answer)
        await reader.read()
        writer.close()

    monkeypatch.setattr(link, "_REGISTER", 0.2)
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        address = "tcp://{}:{}".format(*server.sockets[0].getsockname())
        with pytest.raises(error, match=message):
            async with asyncio.timeout(10):
                await run(urls(1), address=address, patience=0.0).__aenter__()


async def test_tasks_carry_no_key(cluster: Cluster, run: Run, sandbox: Sandbox) -> None:
    async with run(urls(15)) as outcomes:  # there is no worker yet
        await until(lambda: len(cluster.scheduler.tasks) == 15)
        kept = b"".join(pickle.dumps(task.run_spec) for task in cluster.scheduler.tasks.values())
        assert urls(15)[-1].encode() in kept
        assert sandbox.api_key.encode() not in kept
        await cluster.add_worker()
        assert kinds([outcome async for outcome in outcomes]) == {"Done": 15}


async def test_songs_of_a_worker_that_is_gone_are_split_elsewhere(
    cluster: Cluster, run: Run, sandbox: Sandbox, songs: list[Path]
) -> None:
    """Also when Dask has given up on them, as it does after so many of their workers."""
    cluster.scheduler.allowed_failures = 0
    sandbox.faults.add("reserve", faults.Latency(3600.0), times="always")
    first = await cluster.add_worker()
    async with run(songs) as outcomes:
        await until(lambda: len(first.state.long_running) == len(songs))
        sandbox.faults.clear()
        await cluster.scheduler.remove_worker(first.address, stimulus_id="lost", close=False)
        await cluster.add_worker()
        assert kinds([outcome async for outcome in outcomes]) == {"Done": len(songs)}
    assert len(sandbox.ledger.charges) == len(songs)


async def test_when_nothing_can_be_bought_any_more_the_run_ends(cluster: Cluster, run: Run, sandbox: Sandbox) -> None:
    sandbox.set_credits(0)
    await cluster.add_worker()
    await cluster.add_worker()
    async with run(urls(300), in_flight=2) as outcomes:
        got = [outcome async for outcome in outcomes]
    assert kinds(got).keys() == {"Failed", "not begun"}
    assert isinstance(outcomes.stopped_by, InsufficientCreditsError)


async def test_draining_finishes_what_is_paid_for(cluster: Cluster, run: Run, sandbox: Sandbox) -> None:
    await cluster.add_worker()
    got: list[Outcome] = []
    async with run(urls(300), in_flight=5) as outcomes:
        async for outcome in outcomes:
            got.append(outcome)
            outcomes.drain()
    assert kinds(got).keys() == {"Done", "not begun"}
    assert kinds(got)["Done"] == len(sandbox.ledger.charges) < 100
    assert len(got) == outcomes.taken


async def test_leaving_leaves_nothing_behind(cluster: Cluster, run: Run, sandbox: Sandbox) -> None:
    before = asyncio.all_tasks()
    await cluster.add_worker()
    async with run(urls(300), in_flight=5) as outcomes:
        async for _ in outcomes:
            break
    charged = len(sandbox.ledger.charges)
    assert not [task for task in asyncio.all_tasks() - before if task.get_name().startswith("song ")]
    await asyncio.sleep(0.2)
    assert len(sandbox.ledger.charges) == charged < 100


async def test_sources_are_taken_as_they_are_needed_and_nothing_is_kept(cluster: Cluster, run: Run) -> None:
    taken = 0

    def read() -> Iterator[str]:
        nonlocal taken
        for taken in range(1, 201):
            yield GONE.format(taken)

    await cluster.add_worker()
    async with run(read()) as outcomes:
        await asyncio.sleep(0.2)
        assert taken <= 20 + 100 + 1  # out, and queued
        ahead = 0
        async for _ in outcomes:
            ahead = max(ahead, taken - outcomes.taken)
        assert ahead <= 1
    assert taken == 200
    assert not cluster.scheduler.tasks
    gc.collect()


async def test_an_iterable_that_raises_ends_the_run_with_its_error(cluster: Cluster, run: Run) -> None:
    async def read() -> AsyncIterator[str]:
        yield GONE
        raise LookupError("the list is broken")

    await cluster.add_worker()
    async with run(read()) as outcomes:
        got = [await anext(outcomes)]
        with pytest.raises(LookupError):
            await anext(outcomes)
    assert kinds(got) == {"Failed": 1}


async def test_a_scheduler_that_is_gone_is_waited_for(
    run: Run, sandbox: Sandbox, songs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one at the same address forgets nothing that matters; if none comes, the run says so and ends."""
    monkeypatch.setattr(link, "_PAUSE", 0.05)
    monkeypatch.setattr(link, "_CONNECT", 0.3)
    sandbox.faults.add("reserve", faults.Latency(3600.0), times="always")
    async with starting(0) as cluster:
        address = cluster.scheduler.address
        first = await cluster.add_worker()
        outcomes = await run(songs, address=address).__aenter__()
        await until(lambda: len(first.state.long_running) == len(songs))
    sandbox.faults.clear()
    async with starting(int(address.rpartition(":")[2])) as cluster:
        await cluster.add_worker()
        assert kinds([await anext(outcomes) for _ in songs]) == {"Done": len(songs)}
        await outcomes.__aexit__(None, None, None)
        outcomes = await run(songs, address=address).__aenter__()
    with pytest.raises(APIConnectionError, match="no Dask scheduler at") as caught:
        [outcome async for outcome in outcomes]
    assert caught.value.code == SCHEDULER_LOST
    await outcomes.__aexit__(None, None, None)
    with pytest.raises(APIConnectionError, match="no Dask scheduler at"):
        await run(songs, address=address).__aenter__()
