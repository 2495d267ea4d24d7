"""Clients of one key in several processes, as callers see them: each has a gate, all have one store."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from aistemsplitter_async import APIConnectionError, AsyncAIStemSplitter, Done, Gate, RateLimit
from aistemsplitter_async._gate.slot import Slot
from aistemsplitter_async._gate.store import StoreUnavailableError
from aistemsplitter_async.errors import ConfigurationError
from aistemsplitter_async.events import GateUnreachable
from aistemsplitter_async.models import DirectURL, Submission
from aistemsplitter_async.shared import SharedGate
from tests.gate_stores import MemoryGateStore
from tests.io.fakes import KEY, World

URL = "https://example.com/song.wav"


class Cluster:
    """Two clients as of two processes, and what a server with a sliding window sees of both."""

    def __init__(self, world: World, limit: RateLimit) -> None:
        self.store = MemoryGateStore(world.clock)
        self.gates = [SharedGate(self.store, limit, clock=world.clock, on_event=world.events.append) for _ in range(2)]
        self.clients = [world.client(gate=gate) for gate in self.gates]
        self._world = world

    def most_in_a_window(self) -> int:
        times = [asked.at for asked in self._world.api.asked if asked.what not in ("upload", "download")]
        return max(sum(first <= at < first + 60 for at in times) for first in times)

    async def aclose(self) -> None:
        for client in self.clients:
            await client.aclose()
        for gate in self.gates:
            await gate.aclose()


@pytest.fixture
async def cluster(world: World) -> Any:
    cluster = Cluster(world, RateLimit(6))
    yield cluster
    await cluster.aclose()


async def test_two_clients_keep_the_limit_together(world: World, cluster: Cluster) -> None:
    await asyncio.gather(*(client.get_credits() for client in cluster.clients for _ in range(12)))
    assert cluster.most_in_a_window() == 6
    assert world.elapsed() < 185


async def test_closing_a_client_tells_what_is_over(cluster: Cluster) -> None:
    client, gate = cluster.clients[0], cluster.gates[0]
    cluster.store.delay = 0.2
    await client.get_credits()
    news = [gate._holding.has_news]
    await client.aclose()
    assert [*news, gate._holding.has_news] == [True, False]
    (await gate.admit()).restore()  # it is not closed: others may use it


async def test_a_gate_that_is_closed_too_early_ends_the_waits_of_its_clients(world: World, cluster: Cluster) -> None:
    client, gate = cluster.clients[0], cluster.gates[0]
    await client.get_credits()
    cluster.store.delay = 0.5
    waiting = asyncio.ensure_future(client.wait_for_split("split_1"))
    await world.clock.sleep(0.1)
    await gate.aclose()
    for wait in (waiting, client.wait_for_split("split_1"), client.get_credits()):
        with pytest.raises(ConfigurationError, match="this gate is closed"):
            await wait
    assert world.elapsed() < 5


class Pause:
    """Stops the process, timers and all, at one moment."""

    def __init__(self, world: World, seconds: float = 20.0) -> None:
        self._world = world
        self._seconds: float | None = seconds

    async def __call__(self, _: object = None) -> None:
        if self._seconds is not None:
            self._world.clock._time += self._seconds
            self._seconds = None


async def create_across_a_pause(world: World, cluster: Cluster) -> list[str]:
    """The slot of a create goes stale during its commit; meanwhile others use the whole limit."""
    committed = []
    pause = Pause(world)

    async def before_send(submission: Submission) -> None:
        committed.append(submission.idempotency_key)
        await pause()

    await cluster.clients[0].create_split(DirectURL(URL), before_send=before_send)
    return committed


async def test_a_create_whose_slot_went_stale_while_it_was_committed_asks_for_another_one_and_commits_again(
    world: World, cluster: Cluster
) -> None:
    committed = await create_across_a_pause(world, cluster)
    assert len(committed) == 2
    assert len(set(committed)) == 1
    assert world.api.count("create") == 1


async def test_it_would_be_sent_with_a_slot_that_others_have_if_nobody_looked(
    world: World, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Slot, "is_stale", property(lambda _: False))
    assert len(await create_across_a_pause(world, cluster)) == 1


@pytest.mark.parametrize("call", ["poll", "credits"])
async def test_a_slot_that_went_stale_before_its_request_was_sent_is_exchanged(
    world: World, cluster: Cluster, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, gate = cluster.clients[0], cluster.gates[0]
    await client.get_credits()
    stale = []
    settle, grant = Slot.settle, gate._grant

    def note(slot: Slot) -> None:
        stale.append(slot.is_stale)
        settle(slot)

    def grant_and_stand_still(*args: Any) -> None:
        grant(*args)
        world.clock._time += 20.0
        monkeypatch.setattr(gate, "_grant", grant)

    monkeypatch.setattr(Slot, "settle", note)
    monkeypatch.setattr(gate, "_grant", grant_and_stand_still)
    await (client.get_credits() if call == "credits" else client.wait_for_split("split_1"))
    assert stale == [False]
    assert len(world.api.asked) == 2


async def test_calls_wait_for_their_patience_once_and_a_batch_waits_out_the_outage(
    world: World, cluster: Cluster
) -> None:
    cluster.store.fail = StoreUnavailableError("no server at cache:6379")
    with pytest.raises(APIConnectionError, match=r"no server at cache:6379") as caught:
        await cluster.clients[0].get_credits()
    assert world.elapsed() < 65, "it is not repeated"
    assert not caught.value.may_have_arrived
    with pytest.raises(APIConnectionError, match=r"timeout; nothing is sent: the shared gate cannot be asked"):
        await cluster.clients[0].get_credits(timeout=5)
    notices: list[list[str]] = []

    async def end_the_outage(batch: Any) -> None:
        await world.clock.sleep(200)
        notices.append(batch.progress().notices)
        cluster.store.fail = None

    async with cluster.clients[0].split_many([URL]) as batch:
        ending = asyncio.create_task(end_the_outage(batch))
        outcomes = [outcome async for outcome in batch]
        await ending
    assert [type(outcome) for outcome in outcomes] == [Done]
    assert any("no server at cache:6379" in notice for notice in notices[0])
    assert len(world.of(GateUnreachable)) == 1
    assert world.api.count("create") == 1


async def test_a_store_that_refuses_ends_calls_and_waits_at_once(world: World, cluster: Cluster) -> None:
    cluster.store.fail = StoreUnavailableError("PostgreSQL at db refuses the password", permanent=True)
    for call in (cluster.clients[0].get_credits, lambda: cluster.clients[0].wait_for_split("split_1")):
        with pytest.raises(APIConnectionError, match="refuses the password") as caught:
            await call()
        assert caught.value.permanent
    assert world.elapsed() < 15


async def test_a_store_that_refuses_stops_a_batch(cluster: Cluster) -> None:
    cluster.store.fail = StoreUnavailableError("PostgreSQL at db refuses the password", permanent=True)
    sources = [f"{URL}?{number}" for number in range(40)]
    async with cluster.clients[0].split_many(sources, in_flight=4) as batch:
        report = await batch.report()
    assert isinstance(report.stopped_by, APIConnectionError)
    assert report.stopped_by.permanent
    assert 1 <= report.failed <= 4


async def test_a_batch_neither_saves_nor_restores_a_shared_gate(cluster: Cluster, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    async with cluster.clients[0].split_many([URL], journal=journal) as batch:
        await batch.report()
    with closing(sqlite3.connect(journal)) as db:
        assert db.execute("SELECT * FROM meta WHERE name = 'gate'").fetchall() == []


async def test_processes_share_what_they_have_in_flight(world: World, cluster: Cluster) -> None:
    for client in cluster.clients:
        await client.get_credits()
    await cluster.clients[0].get_credits()
    alone = world.client(gate=Gate(RateLimit(6), clock=world.clock))
    planned = []
    for client in (cluster.clients[0], alone):
        async with client.split_many([]) as batch:
            planned.append(batch._runner._context._plan_in_flight())
    await alone.aclose()
    assert planned[0] * 2 == planned[1]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    monkeypatch.delenv("AISTEMSPLITTER_SHARED", raising=False)
    return monkeypatch.setenv


async def test_a_client_opens_a_store_by_its_url_and_closes_it(
    still: World, tmp_path: Path, environment: Callable[[str, str], None]
) -> None:
    url = f"sqlite://{tmp_path}/gate.db"
    async with (
        still.client(shared=url, rate_limit=RateLimit(7), clock=None) as one,
        still.client(shared=url, rate_limit=RateLimit(7), clock=None) as other,
    ):
        await one.get_credits()
        await other.get_credits()
        snapshot = other.gate.snapshot()
        assert (snapshot.limit, snapshot.used, snapshot.holders) == (7, 2, 2)
    environment("AISTEMSPLITTER_SHARED", url)
    assert isinstance(AsyncAIStemSplitter(KEY).gate, SharedGate)
    for double in ({"gate": Gate()}, {"transport": still.api}):
        assert type(AsyncAIStemSplitter(KEY, **double).gate) is Gate, "tests do not depend on where they run"
    assert KEY.encode() not in b"".join(file.read_bytes() for file in tmp_path.iterdir())


async def test_what_goes_together_and_what_does_not(world: World) -> None:
    gate = Gate()
    for options in ({"rate_limit": RateLimit(1)}, {"shared": "host"}):
        with pytest.raises(ConfigurationError, match="give either gate, or"):
            AsyncAIStemSplitter(KEY, gate=gate, **options)
    client = world.client(shared="mysql://user:hunter2@db")
    with pytest.raises(ConfigurationError, match="shared: ") as caught:
        await client.get_credits()
    assert "hunter2" not in str(caught.value)
    await client.aclose()
    shared = SharedGate(MemoryGateStore(world.clock), clock=world.clock)
    async with world.client(gate=shared) as first, world.client(gate=shared) as second:
        await first.get_credits()
        await second.get_credits()
        with pytest.raises(ConfigurationError, match="one key"):
            await AsyncAIStemSplitter(
                "ast_another", gate=shared, transport=world.api, base_url="https://api.test/v1"
            ).get_credits()
    await shared.aclose()
