"""Processes that share a key, with all that may go wrong between them and the store; a server counts along."""

from __future__ import annotations

import itertools
import json
import random
from contextlib import nullcontext, suppress

import attrs
import pytest
from hypothesis import given, settings, strategies as st

from aistemsplitter_async._gate import shared_state
from aistemsplitter_async._gate.lanes import Lane, Order, Rank
from aistemsplitter_async._gate.shared_limiter import SharedLimiter
from aistemsplitter_async._gate.shared_state import Ask, Over, Reply, step
from aistemsplitter_async._gate.shared_text import Kept
from aistemsplitter_async._gate.store import Stored, StoreUnavailableError
from aistemsplitter_async.config import RateLimit, RetryPolicy

PER, LEASE, MARGIN = 60.0, 15.0, 0.5
RETRY = RetryPolicy()
LOST, ANSWER_LOST, RACED, FINE = "lost", "answer lost", "raced", "fine"
_names = itertools.count()


@attrs.define
class Process:
    """What one process knows. It may send with a slot until its lease is nearly over, by its own clock."""

    limit: RateLimit
    name: str = attrs.field(factory=lambda: f"p{next(_names)}")
    unsent: dict[int, float] = attrs.field(factory=dict[int, float])
    sent: list[int] = attrs.field(factory=list[int])
    over: list[tuple[int, str, float]] = attrs.field(factory=list[tuple[int, str, float]])
    told: int = 0
    ids: int = 0


class World:
    """A store, a server that counts in a sliding window, and processes, in virtual time."""

    def __init__(self, limit: int, processes: int = 3, declared: RateLimit | None = None, per: float = PER) -> None:
        self.limit, self.per = limit, per
        self.declared = declared or RateLimit(limit, per)
        self.now = 1.7e9
        self.behind = 0.0
        self.text: str | None = None
        self.version = 0
        self.arrived: list[float] = []
        self.random = random.Random(1).random  # noqa: S311
        self.processes = [Process(self.declared) for _ in range(processes)]

    def stored(self, *, restarted: bool = False) -> Stored:
        return Stored(self.text, self.version, self.now - self.behind, restarted)

    def ask(self, one: Process, want: int, fate: str = FINE, pause: float = 0.0, **more: object) -> Reply | None:
        begun, told = self.now, len(one.over)
        ask = Ask(
            me=one.name,
            declared=one.limit,
            held=frozenset([*one.unsent, *one.sent]),
            over=tuple(Over(slot, how, self.now - at) for slot, how, at in one.over),  # type: ignore[arg-type]
            told=one.told,
            want=want,
            first_id=one.ids,
            waiting=want,
            **more,  # type: ignore[arg-type]
        )
        one.ids += want
        if fate == LOST:
            return None
        text, reply = step(self.stored(), ask, retry=RETRY, lease=LEASE, random=self.random)
        if fate == RACED:  # another one was quicker: nothing of the first step holds
            self.ask(self.processes[0] if self.processes[0] is not one else self.processes[1], 1)
            text, reply = step(self.stored(), ask, retry=RETRY, lease=LEASE, random=self.random)
        if text is not None:
            self.text, self.version = text, self.version + 1
        self.now += pause
        if fate == ANSWER_LOST:
            return None
        one.told += told
        del one.over[:told]
        for slot in reply.granted:
            one.unsent[slot] = begun + (reply.until - reply.at) - MARGIN
        return reply

    def send(self, one: Process) -> None:
        for slot, good_until in list(one.unsent.items()):
            del one.unsent[slot]
            if self.now >= good_until:
                one.over.append((slot, "restore", self.now))
            else:
                one.sent.append(slot)
                self.arrived.append(self.now + self.random() * MARGIN)
                self.check()

    def check(self) -> None:
        last = sorted(self.arrived)[-4 * self.limit :]
        for first, beyond in zip(last, last[self.limit :], strict=False):
            assert beyond - first >= self.per - 1e-6, "more than the limit in a window"

    def hear(self, one: Process) -> None:
        self.now += MARGIN
        one.over += [(slot, "settle", self.now) for slot in one.sent]
        one.sent.clear()

    def given(self, one: Process, want: int, **more: object) -> int:
        """Return how many slots the process is given."""
        reply = self.ask(one, want, **more)  # type: ignore[arg-type]
        assert reply is not None
        return len(reply.granted)

    def next_free(self) -> float:
        """Return when the next slot comes free."""
        assert self.text is not None
        return Kept.load(self.text, RETRY).limiter.free_at(self.now)

    def do(self, what: str, one: Process, amount: int) -> None:
        match what:
            case "send":
                for sender in self.processes if amount % 4 else [one]:
                    self.send(sender)
            case "hear":
                self.hear(one)
            case "restore" if one.unsent:
                slot, _ = one.unsent.popitem()
                one.over.append((slot, "restore", self.now))
            case "kill":
                self.processes[self.processes.index(one)] = Process(one.limit)
            case "leave":
                one.over += [(slot, "restore", self.now) for slot in one.unsent]
                one.unsent.clear()
                self.ask(one, 0, leaving=True)
                self.processes[self.processes.index(one)] = Process(one.limit)
            case "sleep":
                self.now += amount**2 / 4
            case "back":
                self.behind += amount
            case _:
                pass

    def is_stuck(self) -> bool:
        """Return whether a process that comes when all the others are long dead gets nothing for several windows."""
        self.now += self.behind + LEASE + 2 * self.per
        one = Process(self.limit_of_all())
        for _ in range(20):
            reply = self.ask(one, 1)
            if reply is not None and reply.granted:
                return False
            assert reply is not None
            self.now += min(reply.wait, self.per)
        return True

    def limit_of_all(self) -> RateLimit:
        return self.declared


KINDS = [*["send", "hear"] * 5, "sleep", "restore", "kill", "leave", "back"]
asks = st.tuples(
    st.just("ask"),
    st.integers(0, 2),
    st.integers(0, 4),
    st.sampled_from([FINE, FINE, LOST, ANSWER_LOST, RACED]),
    st.sampled_from([0.0, 0.0, 0.0, 0.01, 20.0]),
)
others = st.tuples(
    st.sampled_from(KINDS),
    st.integers(0, 2),
    st.integers(0, 16),
    st.just(FINE),
    st.just(0.0),
)
Act = tuple[str, int, int, str, float]


def live(world: World, acts: list[Act]) -> None:
    for what, index, amount, fate, pause in acts:
        one = world.processes[index]
        if what == "ask":
            world.ask(one, amount, fate, pause)
        else:
            world.do(what, one, amount)


@settings(max_examples=80, deadline=None)
@given(limit=st.integers(1, 4), acts=st.lists(asks | others, max_size=60))
def test_never_more_than_the_limit_in_any_window_and_never_stuck(limit: int, acts: list[Act]) -> None:
    world = World(limit, per=8.0)
    live(world, acts)
    assert not world.is_stuck()


def torment(seed: int, acts: int) -> World:
    """Return a world after as many random acts, the same for the same seed."""
    rng = random.Random(seed)  # noqa: S311
    world = World(rng.randint(1, 4), per=8.0)
    kinds = [*["ask"] * 12, *KINDS]
    fates = [FINE, FINE, FINE, FINE, LOST, ANSWER_LOST, RACED]
    live(
        world,
        [
            (
                rng.choice(kinds),
                rng.randrange(3),
                rng.randint(0, 12),
                rng.choice(fates),
                rng.choice([0.0] * 5 + [0.01, 20.0]),
            )
            for _ in range(acts)
        ],
    )
    return world


def test_without_reaping_the_slots_of_the_dead_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control, and that the worlds above get somewhere."""
    assert not any(torment(seed, 150).is_stuck() for seed in range(6))
    assert sum(len(torment(seed, 150).arrived) for seed in range(6)) > 30
    monkeypatch.setattr(shared_state, "_reap", lambda *_: None)
    assert any(torment(seed, 150).is_stuck() for seed in range(6))


def forgotten(world: World) -> None:
    """A store forgets all while requests are under way, and the one that has them in flight comes first."""
    one, other = world.processes[:2]
    world.ask(one, 2)
    world.send(one)
    world.hear(one)
    world.text, world.version = None, 0
    world.now += 1.0
    world.ask(one, 0)
    world.ask(other, 2)
    world.send(other)


def test_what_nobody_knows_occupies_a_slot_and_without_that_the_limit_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(2)
    forgotten(world)
    assert len(world.arrived) == 2
    monkeypatch.setattr(SharedLimiter, "occupy", lambda *_: None)
    with pytest.raises(AssertionError, match="more than the limit"):
        forgotten(World(2))


def test_what_is_in_flight_when_the_store_forgets_all_counts_on() -> None:
    world = World(2)
    one, other = world.processes[:2]
    world.ask(one, 2)
    world.text, world.version = None, 0
    world.ask(one, 0)
    reply = world.ask(other, 1)
    assert reply is not None
    assert not reply.granted


def test_an_emptied_store_is_filled_by_whoever_comes_first() -> None:
    world = World(2)
    one, other = world.processes[:2]
    world.ask(one, 2)
    last, world.text, world.version = world.text, None, 0
    reply = world.ask(other, 1, last=last)
    assert reply is not None
    assert not reply.granted
    assert reply.holders == 2


@pytest.mark.parametrize("behind", [0.0, 3600.0])
def test_a_newcomer_to_an_emptied_store_hears_what_the_others_remember(behind: float) -> None:
    world = World(4)
    one, other, newcomer = world.processes
    assert world.given(one, 4) == 4
    world.send(one)
    world.hear(one)
    assert world.given(one, 0) == 0
    last, world.text, world.version = world.text, None, 0
    world.behind = behind  # the server that took over has another clock
    assert world.given(newcomer, 1) == 1  # the others have said nothing yet
    for process in (one, other):  # both remember the same
        reply = world.ask(process, 1, last=last)
        assert reply is not None
        assert not reply.granted
        assert reply.limiter.used(reply.at) == 5
        assert PER - 1.0 < reply.limiter.free_at(reply.at) - reply.at <= PER + 0.1
    world.now += PER + 1.0
    assert world.given(one, 1, last=world.text) == 1


@pytest.mark.parametrize("first", ["newcomer", "idle", "an older text"])
def test_what_was_seen_last_counts_whoever_tells_of_something_older_before(first: str) -> None:
    """The server that counts along fails the test if more than the limit is let through."""
    world = World(60)
    idle, busy, newcomer = world.processes
    early = use(world, idle, 1)
    late = use(world, busy, 59)
    world.text = None
    if first == "newcomer":
        assert world.given(newcomer, 0) == 0
    if first == "an older text":  # a replica that was behind
        world.text = early
    else:
        world.ask(idle, 0, last=early)
    assert use(world, busy, 60, last=late) != late
    assert len(world.arrived) == 60
    world.now += PER
    assert world.given(busy, 1, last=world.text) == 1


def test_what_is_remembered_twice_of_a_day_counts_once() -> None:
    per_day = RateLimit(100, PER, further=(RateLimit(1000, 86_400.0),))
    world = World(100, 4, declared=per_day)
    busy, sleeper, *newcomers = world.processes
    last: str | None = None
    for _ in range(6):
        last = use(world, busy, 100, last=last)
        world.now += PER + 5.0
    world.ask(sleeper, 0)
    dream = world.text
    for newcomer in newcomers:  # the store is emptied twice
        world.text = None
        world.ask(newcomer, 0)
        world.ask(busy, 0, last=last)
        last = world.text
        world.now += 600.0
    world.ask(sleeper, 0, last=dream)
    assert world.given(busy, 1, last=last) == 1  # 600 of 1000 are used


def test_a_newcomer_that_did_not_declare_a_limit_is_held_to_it() -> None:
    world = World(60, 2, declared=RateLimit(60, PER, further=(RateLimit(100, 3600.0),)))
    old, newcomer = world.processes
    newcomer.limit = RateLimit(60, PER)
    world.ask(old, 0)
    world.now += 7200.0
    last = world.text
    for _ in range(2):
        last = use(world, old, 50, last=last)
        world.now += PER + 5.0
    world.text = None
    world.ask(newcomer, 0)
    world.ask(old, 0, last=last)
    assert world.given(newcomer, 1) == 0


def use(world: World, one: Process, requests: int, last: str | None = None) -> str | None:
    """Send so many requests, or as many as there are slots for, and return the text that the process saw last."""
    while requests and (given := world.given(one, requests, last=last)):
        world.send(one)
        world.hear(one)
        requests -= given
        last = world.text
    world.ask(one, 0, last=last)
    return world.text


def test_an_answer_that_was_lost_is_heard_once() -> None:
    world = World(4)
    one = world.processes[0]
    world.ask(one, 2)
    world.send(one)
    world.hear(one)
    world.ask(one, 1, ANSWER_LOST)
    reply = world.ask(one, 4)
    assert reply is not None
    assert len(reply.granted) == 2  # two were settled, once; the one that never arrived is back
    assert reply.limiter.used(reply.at) == 4


def test_after_a_restart_of_the_clock_the_window_is_full_once_and_what_was_learned_holds() -> None:
    world = World(5, declared=RateLimit())
    one = world.processes[0]
    while not (reply := world.ask(one, 1)) or reply.limiter.believed is None:
        world.send(one)
        if len(world.arrived) > 3:
            one.over.append((one.sent.pop(), "refuse", world.now))
        world.hear(one)
    assert reply.limiter.believed == 3
    world.now = 12.0
    ask = Ask(me="new", declared=RateLimit(), want=3)
    text, reply = step(world.stored(restarted=True), ask, retry=RETRY, lease=LEASE, random=world.random)
    assert (reply.granted, reply.holders, reply.limiter.believed) == ((), 1, 3)
    assert text is not None
    assert 59.0 < reply.limiter.free_at(12.0) - 12.0 < 61.0


def learned(processes: int, limit: int) -> int:
    """Return how many 429s it takes so many processes, each with a request at a time, to know the limit."""
    world = World(10**6, processes, declared=RateLimit())
    refused = 0
    for _ in range(150):
        for one in world.processes:
            world.ask(one, 2)
            world.send(one)
        world.now += MARGIN
        for one in world.processes:
            for slot in one.sent:
                is_over = sum(at > world.now - PER for at in world.arrived) > limit
                if is_over:
                    world.arrived.pop()
                    refused += 1
                one.over.append((slot, "refuse" if is_over else "settle", world.now))
            one.sent.clear()
        world.now += 0.2
    return refused


def test_four_processes_learn_an_unknown_limit_as_one_does() -> None:
    assert 1 <= learned(4, 30) <= learned(1, 30) + 1


def test_one_refusal_closes_for_all_and_one_probe_opens_for_all_also_if_the_prober_dies() -> None:
    world = World(9)
    one, other, third = world.processes
    world.ask(one, 1)
    world.send(one)
    one.over.append((one.sent.pop(), "refuse", world.now))
    world.ask(one, 0)
    closed = world.ask(other, 1)
    assert closed is not None
    assert not closed.granted
    assert closed.wait > 0.0
    world.now = 1.7e9 + closed.limiter.closed_until - closed.at + 0.1
    probe = world.ask(other, 3)
    assert probe is not None
    assert len(probe.granted) == 1
    alone = world.ask(third, 3)
    assert alone is not None
    assert not alone.granted
    world.now += LEASE + 1  # the prober is dead
    again = world.ask(third, 3)
    assert again is not None
    assert len(again.granted) == 1
    world.send(third)
    world.hear(third)
    opened = world.ask(one, 2)
    told = world.ask(third, 0)
    assert opened is not None
    assert told is not None
    assert not opened.granted
    assert world.given(one, 2)


CREATE, POLL = Order(Lane.BULK, Rank.CREATE), Order(Lane.BULK, Rank.POLL)
INTERACTIVE = Order(Lane.INTERACTIVE, Rank.CREATE)


def full_world(limit: int) -> World:
    """Return one whose window is full, its slots a second apart."""
    world = World(limit, 4)
    for _ in range(limit):
        world.ask(world.processes[3], 1)
        world.send(world.processes[3])
        world.hear(world.processes[3])
        world.now += 0.5
    world.ask(world.processes[3], 0)
    return world


def test_a_better_order_goes_first_wherever_it_waits() -> None:
    world = full_world(10)
    polls, creates, interactive = world.processes[:3]
    for one, order in ((polls, POLL), (creates, CREATE), (interactive, INTERACTIVE)):
        assert not world.given(one, 1, order=order)
    world.now = world.next_free() + 0.01
    assert not world.given(polls, 1, order=POLL)
    assert not world.given(creates, 1, order=CREATE)
    assert world.given(interactive, 1, order=INTERACTIVE)
    world.now += 1.0
    assert not world.given(polls, 1, order=POLL)
    assert world.given(creates, 1, order=CREATE)


def test_a_waiter_that_died_holds_up_nobody_for_long() -> None:
    world = full_world(10)
    dead, alive = world.processes[:2]
    world.ask(dead, 1)
    due = world.next_free()
    world.ask(alive, 1)
    world.now = due + 0.01
    assert not world.given(alive, 1)  # it may still come
    world.now = due + 0.6
    assert world.given(alive, 1)


def test_a_steady_stream_of_better_calls_does_not_starve_the_others() -> None:
    world = World(30, 4)
    bulk, busy = world.processes[:2]
    begun = world.now
    while True:
        if world.given(bulk, 1, order=CREATE):
            if world.now > begun + PER:
                break
            world.send(bulk)
            world.hear(bulk)
        world.ask(busy, 1, order=INTERACTIVE)
        world.send(busy)
        world.hear(busy)
        assert world.now < begun + 6 * PER
        world.now += 0.2


def test_the_strictest_declared_limit_holds_while_its_process_lives() -> None:
    world = World(6)
    lax, strict = world.processes[:2]
    strict.limit = RateLimit(2)
    world.ask(strict, 1)
    assert world.given(lax, 9) == 1
    world.now += LEASE + PER + 1
    assert world.given(lax, 4) == 3  # one is in flight


def test_who_only_looks_in_has_nothing_to_swap() -> None:
    world = full_world(10)
    one = world.processes[0]
    world.ask(one, 1)
    version = world.version
    world.now += 0.5
    reply = world.ask(one, 1)
    assert reply is not None
    assert (world.version, reply.granted) == (version, ())
    assert reply.wait > 0


def texts() -> list[str]:
    world = full_world(5)
    world.ask(world.processes[0], 2, order=INTERACTIVE, interactive=True)
    further = World(3, declared=RateLimit(3, further=(RateLimit(50, 3600.0),), policy="bucket"))
    further.ask(further.processes[0], 2)
    return [text for text in (world.text, further.text) if text is not None]


odd = st.sampled_from([None, -1, 0, 1, 2.5, 10**30, -1e300, "", "x", [], [1], {}, {"a": 1}, True, 1e11, [None, None]])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_text_is_survived_and_slots_are_granted_again(data: st.DataObject) -> None:
    tree = json.loads(data.draw(st.sampled_from(texts())))
    at = tree
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        key = data.draw(st.sampled_from(keys))
        if isinstance(at[key], list | dict) and at[key] and data.draw(st.booleans()):
            at = at[key]
            continue
        at[key] = data.draw(odd)
        break
    world = World(3)
    world.text, world.version = json.dumps(tree), 1
    one = world.processes[0]
    with suppress(StoreUnavailableError) if isinstance(tree[0], int) and tree[0] > 1 else nullcontext():
        for _ in range(3):
            world.ask(one, 1)
            world.hear(one)
            world.now += 0.1


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "[NaN]", "[" * 100_000, "1" * 5000, '"x"', "\x00"])
def test_a_text_that_cannot_be_read_counts_as_none_with_a_full_window(text: str) -> None:
    world = World(3)
    world.text, world.version = text, 7
    reply = world.ask(world.processes[0], 2)
    assert reply is not None
    assert not reply.granted
    assert reply.limiter.used(reply.at) == 3
    world.now += PER + 1
    assert world.given(world.processes[0], 2) == 1


def test_a_text_of_a_newer_version_is_refused_for_good() -> None:
    world = World(3)
    world.text, world.version = json.dumps([2, "anything"]), 7
    with pytest.raises(StoreUnavailableError, match="upgrade") as caught:
        world.ask(world.processes[0], 2)
    assert caught.value.permanent


def test_a_text_is_read_as_it_was_written() -> None:
    for text in texts():
        assert Kept.load(text, RETRY).dump() == text
        assert text.isascii()
