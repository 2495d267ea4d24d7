"""A store that is down, slow, wrong or hostile: nothing is sent, nothing is lost, and calls end with a clear error."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest

from aistemsplitter_async._gate.lanes import Rank
from aistemsplitter_async._gate.shared_gate import SharedGate
from aistemsplitter_async._gate.slot import Slot
from aistemsplitter_async._gate.store import Stored, StoreUnavailableError
from aistemsplitter_async.clock import Clock
from aistemsplitter_async.config import RateLimit
from aistemsplitter_async.errors import APIConnectionError, ConfigurationError
from aistemsplitter_async.testing import FakeClock
from tests.gate_stores import MemoryGateStore
from tests.io.gate.shared import OWNER, Fleet, Judge

LIMIT = RateLimit(20)


async def failure_of(work: Awaitable[Any]) -> APIConnectionError:
    with pytest.raises(APIConnectionError) as caught:
        await work
    return caught.value


async def test_while_the_store_is_down_nothing_is_sent_and_then_all_goes_on_within_a_second() -> None:
    fleet = Fleet.start(2, LIMIT)
    gate, clock = fleet.gates[0], fleet.clock
    slot = await gate.admit()
    fleet.store.fail = StoreUnavailableError("no server at cache:6379")
    slot.settle()
    waiting = asyncio.ensure_future(gate.admit())
    await clock.sleep(12)
    assert not waiting.done()
    assert gate.snapshot().trouble == "nothing is sent: the shared gate cannot be asked (no server at cache:6379)"
    fleet.store.fail = None
    began = clock.monotonic()
    second = await waiting
    assert clock.monotonic() - began <= 1.1
    assert gate.snapshot().trouble is None
    second.settle()
    (await fleet.gates[1].admit()).restore()
    assert fleet.gates[1].snapshot().used == 3, "what was over meanwhile was told"
    await fleet.stop()


async def test_each_call_waits_for_its_own_patience() -> None:
    fleet = Fleet.start(1, LIMIT, patience=60.0)
    gate, clock = fleet.gates[0], fleet.clock
    fleet.store.fail = StoreUnavailableError("no server at cache:6379")
    began = clock.monotonic()
    first = asyncio.ensure_future(failure_of(gate.admit()))
    await clock.sleep(40)
    second = asyncio.ensure_future(failure_of(gate.admit()))
    error = await first
    assert 60 <= clock.monotonic() - began < 63
    assert (error.code, error.permanent, error.may_have_arrived) == ("GATE_UNREACHABLE", False, False)
    assert str(error) == "the request was not sent: the shared gate cannot be asked (no server at cache:6379)"
    await second
    assert 100 <= clock.monotonic() - began < 103
    assert sum(gate.snapshot().waiting.values()) == 0
    await fleet.stop()


class OddStore(MemoryGateStore):
    """Does what no store should do, while `oddity` is set."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.oddity: Callable[[], Any] | None = None
        self.swapping: Callable[[], Any] | None = None

    async def load(self, key: str) -> Stored:
        return await super().load(key) if self.oddity is None else await _result(self.oddity)

    async def swap(self, key: str, version: int, text: str, keep: float) -> bool:
        done = await super().swap(key, version, text, keep)
        return done if self.swapping is None else await _result(self.swapping)


async def _result(oddity: Callable[[], Any]) -> Any:
    result = oddity()
    return await result if asyncio.iscoroutine(result) else result


def raising(error: BaseException) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail


async def hang() -> None:
    await asyncio.Event().wait()


ODDITIES: dict[str, Callable[[], Any]] = {
    "raised ValueError": raising(ValueError("password=hunter2")),
    "raised CancelledError": raising(asyncio.CancelledError()),
    "raised BaseException": raising(BaseException("hunter2")),
    "does not answer within": hang,
    "returned what it must not (NoneType)": lambda: None,
    "returned what it must not (['str', 'str', 'float'])": lambda: Stored("", "1", 1.0),  # type: ignore[arg-type]
    "returned what it must not (['int', 'int', 'float'])": lambda: Stored(7, 1, 1.0),  # type: ignore[arg-type]
    "returned what it must not (['NoneType', 'int', 'bool'])": lambda: Stored(None, 0, True),
    "returned what it must not (['NoneType', 'int', 'float'])": lambda: Stored(None, 0, math.nan),
}


def odd_gate(**options: Any) -> tuple[OddStore, SharedGate, FakeClock]:
    clock = FakeClock(autojump=True)
    store = OddStore(clock)
    gate = SharedGate(store, LIMIT, clock=clock, **options)
    gate.serve(OWNER)
    return store, gate, clock


async def test_a_store_that_refuses_fails_calls_at_once_and_is_asked_again_after_ten_seconds() -> None:
    store, gate, clock = odd_gate()
    slot = await gate.admit()
    asked: list[float] = []

    def refuse() -> None:
        asked.append(clock.monotonic())
        raise StoreUnavailableError("PostgreSQL at db refuses the password", permanent=True)

    store.oddity = refuse
    slot.settle()  # there is something to say, whether anybody calls or not
    began = clock.monotonic()
    errors = [await failure_of(gate.admit()) for _ in range(50)]
    assert clock.monotonic() - began < 1
    assert {error.permanent for error in errors} == {True}
    assert gate.trouble is not None
    await clock.sleep(25)
    assert [round(later - earlier) for earlier, later in pairwise(asked)] == [10, 10]
    store.oddity = None  # a person has seen to it
    await clock.sleep(11)
    (await gate.admit()).settle()
    await gate.aclose()


@pytest.mark.parametrize("what", ODDITIES)
async def test_whatever_a_store_does_is_contained(what: str, caplog: pytest.LogCaptureFixture) -> None:
    store, gate, clock = odd_gate(patience=5.0)
    (await gate.admit()).settle()
    await clock.sleep(1)
    store.oddity = ODDITIES[what]
    with caplog.at_level(logging.WARNING, "aistemsplitter_async"):
        error = await failure_of(gate.admit())
    assert what in str(error)
    assert "OddStore" in str(error)
    assert "hunter2" not in repr(error) + caplog.text + repr(error.__cause__) + repr(error.__context__)
    assert len(caplog.records) <= 1
    store.oddity = None
    (await gate.admit()).settle()
    await gate.aclose()


async def test_a_swap_that_says_nonsense_is_a_swap_whose_answer_was_lost() -> None:
    store, gate, clock = odd_gate()
    store.swapping = lambda: "yes"
    waiting = asyncio.ensure_future(gate.admit())
    await clock.sleep(3)
    assert "(str)" in (gate.trouble or "")
    store.swapping = None
    await waiting
    assert gate.snapshot().used == 1, "what was granted and lost was given back"
    await gate.aclose()


async def test_a_store_that_never_lets_a_swap_succeed_is_one_that_does_not_answer() -> None:
    store, gate, _ = odd_gate(patience=10.0)
    store.swapping = lambda: False
    assert "does not answer" in str(await failure_of(gate.admit()))
    await gate.aclose()


async def test_a_store_that_does_not_let_itself_be_cancelled_is_left_and_not_asked_again_before_it_is_done() -> None:
    store, gate, clock = odd_gate(patience=20.0)
    done = asyncio.Event()
    calls = []

    async def stubborn() -> None:
        calls.append(clock.monotonic())
        while not done.is_set():
            try:
                await done.wait()
            except asyncio.CancelledError:
                continue

    store.oddity = stubborn
    await failure_of(gate.admit())
    assert len(calls) == 1
    began = clock.monotonic()
    closing = asyncio.ensure_future(gate.aclose())
    await closing
    assert clock.monotonic() - began <= 4.1
    done.set()
    await clock.sleep(0)


@pytest.mark.parametrize("oddity", [hang, raising(OSError("gone"))])
async def test_closing_takes_a_few_seconds_at_most_whatever_the_store_does(oddity: Callable[[], Any]) -> None:
    store, gate, clock = odd_gate()
    slot = await gate.admit()
    store.oddity = oddity
    slot.settle()
    waiting = asyncio.ensure_future(gate.admit())
    await clock.sleep(0.1)
    began = clock.monotonic()
    await gate.aclose()
    await gate.aclose()
    assert clock.monotonic() - began <= 2.1
    with pytest.raises(ConfigurationError, match="this gate is closed"):
        await waiting
    assert store.closed


async def test_a_store_that_takes_its_time_to_be_cancelled_is_closed_all_the_same() -> None:
    store, gate, clock = odd_gate()
    slot = await gate.admit()

    async def clean_up() -> None:
        try:
            await hang()
        finally:
            await clock.sleep(0.5)  # as a driver that tells its server

    store.oddity = clean_up
    slot.settle()
    await clock.sleep(1)
    began = clock.monotonic()
    await gate.aclose()
    assert clock.monotonic() - began <= 2.6
    assert store.closed


async def test_closing_goes_on_when_it_is_cancelled() -> None:
    store, gate, clock = odd_gate()
    slot = await gate.admit()
    store.delay = 0.3
    slot.settle()
    closing = asyncio.ensure_future(gate.aclose())
    await clock.sleep(0.1)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert store.closed
    store.delay = 0.0
    other = SharedGate(store, LIMIT, clock=clock)
    other.serve(OWNER)
    await other.admit()
    assert (other.snapshot().used, other.snapshot().holders) == (2, 1), "it was told, and that nobody is there any more"
    await other.aclose()


async def test_news_are_told_when_a_client_leaves_a_gate_to_others() -> None:
    fleet = Fleet.start(2, LIMIT)
    gate = fleet.gates[0]
    slot = await gate.admit()
    fleet.store.delay = 0.5
    slot.settle()
    await gate.flush()
    fleet.store.delay = 0.0
    assert not gate._holding.has_news
    (await gate.admit()).settle()
    await fleet.stop()


async def test_a_store_that_forgets_all_costs_a_few_refusals_at_one_moment() -> None:
    fleet = Fleet.start(3, LIMIT)
    judge = Judge(fleet.clock, 20)
    await asyncio.gather(*(judge.request(gate) for gate in fleet.gates for _ in range(6)))
    fleet.store.empty()
    await asyncio.gather(*(judge.request(gate) for gate in fleet.gates for _ in range(6)))
    assert sum(at < judge.refused[0] + 1 for at in judge.refused) <= 4
    assert len(judge.refused) < 10, "single probes follow"
    await fleet.stop()


async def test_a_wait_for_polls_ends_only_if_the_store_refuses() -> None:
    fleet = Fleet.start(1, LIMIT)
    gate = fleet.gates[0]
    refused = []

    class Source:
        def best(self, now: float, after: Any = None) -> Any:  # noqa: ARG002
            return None

        def alike(self, order: Any, now: float) -> int:  # noqa: ARG002
            return 0

        def next_change(self, now: float) -> float:  # noqa: ARG002
            return math.inf

        def grant(self, order: Any, slot: Any) -> None: ...

        def refuse(self, build: Callable[[], Exception]) -> None:
            refused.append(build())

    gate.attach(Source())
    fleet.store.fail = StoreUnavailableError("down")
    await failure_of(gate.admit("interactive", Rank.POLL))
    assert refused == []
    fleet.store.fail = StoreUnavailableError("no", permanent=True)
    await failure_of(gate.admit())
    assert [str(one) for one in refused] == ["the request was not sent: the shared gate cannot be asked (no)"]
    await fleet.stop()


def test_a_gate_of_a_module_may_be_used_by_one_run_after_the_other_and_says_what_it_left_unsaid() -> None:
    clock = FakeClock()
    store = MemoryGateStore(clock)
    gate = SharedGate(store, LIMIT, clock=clock)
    gate.serve(OWNER)

    async def leave_open() -> None:
        await gate.admit()
        slot = await gate.admit()
        store.fail = OSError("down")
        slot.settle()
        await clock.settle()

    async def use() -> None:
        store.fail = None
        (await gate.admit()).settle()
        await clock.settle()
        await gate.flush()

    asyncio.run(leave_open())
    asyncio.run(use())
    asyncio.run(use())
    assert gate.snapshot().used == 4
    assert gate._holding.is_empty


@pytest.mark.parametrize("how", ["run", "close"])
def test_a_loop_that_ends_amid_a_conversation_leaves_no_word(how: str, caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    store = MemoryGateStore(clock)
    gate = SharedGate(store, LIMIT, clock=clock)
    gate.serve(OWNER)

    async def leave() -> None:
        slot = await gate.admit()
        store.delay = 1.0
        slot.settle()
        await clock.settle()
        assert len(asyncio.all_tasks()) > 1

    if how == "run":
        asyncio.run(leave())
    else:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(leave())
        loop.close()
    store.delay = 0.0

    async def use() -> None:
        (await gate.admit()).settle()
        await gate.flush()

    asyncio.run(use())
    assert gate.snapshot().used == 2
    gc.collect()  # a coroutine that is thrown away must not raise: that would fail this test
    assert caplog.records == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_is_another_one() -> None:
    clock = FakeClock()
    gate = SharedGate(MemoryGateStore(clock), LIMIT, clock=clock)
    gate.serve(OWNER)

    async def hold() -> Any:
        return await gate.admit()

    async def end(slot: Slot) -> None:
        slot.settle()

    slot = asyncio.run(hold())
    me = gate._holding.ask(want=0).me
    child = os.fork()
    if child == 0:
        code = 1
        try:
            asyncio.run(hold())
            asyncio.run(end(slot))  # the parent's
            ask = gate._holding.ask(want=0)
            code = 0 if ask.me != me and not ask.held and len(ask.over) == 1 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
