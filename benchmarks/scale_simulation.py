"""Runs the shared gate's decision (`_gate.shared_state.step`) for many processes in virtual time.

Each process is a model of what a gate does: it waits until it is worth asking, says all it has to say in one
conversation (a load, a step, a swap; again after a lost race) and sends what it was granted. The store and the server
are independent of the product; the server counts in a sliding window and is the judge.

    python benchmarks/scale_simulation.py [--processes 4 100] [--limits 60 1200] [--latencies 0.01] [--interactive 5]
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
from collections import Counter, deque
from collections.abc import Callable
from itertools import count, product

import attrs

from aistemsplitter_async._gate.lanes import Lane, Order, Rank
from aistemsplitter_async._gate.shared_state import Ask, Over, Reply, step
from aistemsplitter_async._gate.store import Stored
from aistemsplitter_async.config import INTERACTIVE_SHARE, RateLimit, RetryPolicy

BULK = Order(Lane.BULK, Rank.CREATE)
INTERACTIVE = Order(Lane.INTERACTIVE, Rank.CREATE)
RETRY = RetryPolicy()


class Timeline:
    """Virtual time: what was called for later runs in order."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (self.now + seconds, next(self._numbers), what))

    def run(self, until: float) -> None:
        while self._heap and self._heap[0][0] <= until:
            self.now, _, what = heapq.heappop(self._heap)
            what()
        self.now = until


@attrs.define
class Server:
    """Accepts at most `limit` requests in any `per` seconds, and says 429 to others."""

    limit: int
    per: float = 60.0
    accepted: list[tuple[float, str]] = attrs.field(factory=list[tuple[float, str]])
    refused: int = 0
    _window: deque[float] = attrs.field(factory=deque[float])

    def accepts(self, now: float, who: str) -> bool:
        while self._window and self._window[0] <= now - self.per:
            self._window.popleft()
        if len(self._window) >= self.limit:
            self.refused += 1
            return False
        self._window.append(now)
        self.accepted.append((now, who))
        return True


@attrs.define
class Store:
    """Compare-and-set on one text; every trip takes `latency` seconds, half of them before its effect."""

    timeline: Timeline
    latency: float
    random: random.Random
    jitter: float = 0.0
    text: str | None = None
    version: int = 0
    steps: int = 0
    kinds: Counter[str] = attrs.field(factory=Counter[str])

    def trip(self, effect: Callable[[], None]) -> None:
        """Let `effect` happen after half of a trip; it is late if whoever waits for it is not scheduled at once."""
        self.timeline.later(self.latency / 2 * (0.5 + self.random.random()) + self.late() / 4, effect)

    def late(self) -> float:
        """Return by how many seconds a process is late: often little, at times up to `jitter`."""
        return self.jitter * self.random.random() ** 3


@attrs.define(eq=False)
class Process:
    """One process: `backlog` calls wait in each order; endless if `saturating`."""

    name: str
    timeline: Timeline
    store: Store
    server: Server
    random: random.Random
    limit: RateLimit
    reply_after: float = 0.05
    lease: float = 15.0
    most: int = 8
    saturating: Order | None = None
    backlog: dict[Order, deque[float]] = attrs.field(factory=dict[Order, deque[float]])
    alive: bool = True
    granted: int = 0
    waits: dict[Order, list[tuple[float, float]]] = attrs.field(factory=dict[Order, list[tuple[float, float]]])
    _held: set[int] = attrs.field(factory=set[int])
    _over: list[tuple[int, float]] = attrs.field(factory=list[tuple[int, float]])
    _refused: set[int] = attrs.field(factory=set[int])
    _told: int = 0
    _ids: int = 0
    _ask_at: dict[Lane, float] = attrs.field(factory=lambda: dict.fromkeys(Lane, -math.inf))
    _talking: bool = False
    _interactive_at: float = -math.inf
    _believed: int | None = None
    _last: str | None = None
    _timer_at: float = math.inf
    _latency: float = 0.0
    _news_wait: float = 0.0

    @property
    def latency(self) -> float:
        """Seconds that a conversation takes when nobody is quicker."""
        return self._latency

    def come(self, order: Order) -> None:
        """One call comes and waits."""
        self.backlog.setdefault(order, deque()).append(self.timeline.now)
        self.pump()

    def _best(self) -> Order | None:
        orders = [order for order, calls in self.backlog.items() if calls]
        if self.saturating is not None:
            orders.append(self.saturating)
        return min(orders, default=None)

    def _waiting(self) -> int:
        return sum(map(len, self.backlog.values())) + (self.most if self.saturating is not None else 0)

    def pump(self) -> None:
        if self._talking or not self.alive:
            return
        now = self.timeline.now
        best = self._best()
        at = math.inf if best is None else self._ask_at[best.lane]
        if self._over:
            at = min(at, self._over[0][1] + (0.0 if self._refused else self._news_wait))
        if at <= now:
            self._talking = True
            self._talk(now)
        elif at < self._timer_at and math.isfinite(at):
            self._timer_at = at
            self.timeline.later(at - now + self.store.late(), self._wake)

    def _wake(self) -> None:
        self._timer_at = math.inf
        self.pump()

    def _talk(self, began: float) -> None:
        best = self._best()
        want = min(self.most, self._waiting()) if best is not None else 0
        ask = Ask(
            me=self.name,
            declared=self.limit,
            held=frozenset(self._held),
            told=self._told,
            want=want,
            first_id=self._ids,
            order=best,
            spare=self._spare(best),
            interactive=best is not None and best < Order(Lane.INTERACTIVE, Rank.POLL),
            waiting=self._waiting(),
            latency=self._latency,
            last=self._last,
        )
        self._ids += want
        Conversation(self, ask, list(self._over), set(self._refused), began).load()

    def _spare(self, best: Order | None) -> int:
        """Return how many slots bulk leaves for interactive calls, as the gate does."""
        if best is None or best < Order(Lane.INTERACTIVE, Rank.POLL) or self._believed is None:
            return 0
        recently = self.timeline.now <= self._interactive_at + 2 * self.limit.per
        return round(INTERACTIVE_SHARE * self._believed) if recently else 0

    def heard(self, talk: Conversation, text: str | None, reply: Reply) -> None:
        """Use what a conversation brought."""
        now, ask = self.timeline.now, talk.ask
        took = now - talk.began
        self._latency = min(took, self._latency or took)
        self._last = text or self._last
        self._told += len(talk.over)
        del self._over[: len(talk.over)]
        for slot, _ in talk.over:
            self._refused.discard(slot)
        self._news_wait = reply.news_wait
        self._believed = reply.limiter.believed
        self._interactive_at = reply.interactive_at + now - reply.at
        self._held.update(reply.granted)
        for slot in reply.granted:
            self._use(slot)
        if len(reply.granted) < ask.want and ask.order is not None:
            lanes = list(Lane) if ask.order.lane is Lane.INTERACTIVE and not ask.spare else [ask.order.lane]
            for lane in lanes:
                self._ask_at[lane] = now + reply.wait
        self._talking = False
        self.pump()

    def _use(self, slot: int) -> None:
        order = self._best()
        now = self.timeline.now
        if order is None:  # what it was wanted for has gone meanwhile: it is given back as a used one
            self._end(slot)
            return
        self.granted += 1
        calls = self.backlog.get(order)
        self.waits.setdefault(order, []).append((now, now - calls.popleft() if calls else 0.0))
        self.timeline.later(self.reply_after / 2 + self.store.late() / 4, lambda: self._arrive(slot))

    def _arrive(self, slot: int) -> None:
        ok = self.server.accepts(self.timeline.now, self.name)
        self.timeline.later(self.reply_after / 2, lambda: self._end(slot, ok=ok))

    def _end(self, slot: int, *, ok: bool = True) -> None:
        if not self.alive:
            return
        self._held.discard(slot)
        self._over.append((slot, self.timeline.now))
        if not ok:
            self._refused.add(slot)
        self.pump()


@attrs.define
class Conversation:
    """A load, a step and a swap; again, after a random while, if another one was quicker."""

    process: Process
    ask: Ask
    over: list[tuple[int, float]]
    refused: set[int]
    began: float
    tries: int = 0

    def load(self) -> None:
        self.process.store.trip(self._loaded)

    def _loaded(self) -> None:
        store, now = self.process.store, self.process.timeline.now
        stored = Stored(store.text, store.version, now)
        store.trip(lambda: self._step(stored))

    def _step(self, stored: Stored) -> None:
        process, store = self.process, self.process.store
        if not process.alive:
            return
        over = tuple(
            Over(slot, "refuse" if slot in self.refused else "settle", self.began - at) for slot, at in self.over
        )
        store.steps += 1
        ask = attrs.evolve(self.ask, over=over)
        text, reply = step(stored, ask, retry=RETRY, lease=process.lease, random=process.random.random)
        if text is None:
            self._end("looked in", None, reply)
        else:
            store.trip(lambda: self._swap(stored.version, text, reply))

    def _swap(self, version: int, text: str, reply: Reply) -> None:
        store = self.process.store
        if store.version == version:
            store.text, store.version = text, version + 1
            kind = "granted" if reply.granted else "denied" if self.ask.want else "news"
            store.trip(lambda: self._end(kind, text, reply))
        else:
            store.trip(self._lose)

    def _lose(self) -> None:
        process = self.process
        process.store.kinds["lost race"] += 1
        self.tries += 1
        most = max(0.001, process.latency) * 2.0 ** min(self.tries, 5) / 4
        process.timeline.later(process.random.random() * most, self.load)

    def _end(self, kind: str, text: str | None, reply: Reply) -> None:
        if self.process.alive:
            self.process.store.kinds[kind] += 1
            self.process.heard(self, text, reply)


@attrs.define
class Run:
    """Processes that share a key."""

    timeline: Timeline
    store: Store
    server: Server
    processes: list[Process]

    def windows(self) -> list[float]:
        """Return which part of the limit was accepted in each whole window."""
        per = self.server.per
        counts = Counter(int(at // per) for at, _ in self.server.accepted)
        return [counts[number] / self.server.limit for number in range(int(self.timeline.now // per))]

    def shares(self) -> list[int]:
        """Return how many requests of each process were accepted in the last window."""
        since = self.timeline.now - self.server.per
        counts = Counter(who for at, who in self.server.accepted if at > since)
        return [counts[process.name] for process in self.processes]

    def steps_per_slot(self) -> float:
        """Return how many steps it took to grant a slot, lost races included."""
        return self.store.steps / max(1, sum(process.granted for process in self.processes))

    def waits(self, order: Order, since: float = 0.0) -> list[float]:
        """Return how long the calls of an order waited that were granted after `since`, sorted."""
        waits = (wait for process in self.processes for wait in process.waits.get(order, []))
        return sorted(wait for at, wait in waits if at > since)


def build(
    processes: int,
    limit: int,
    *,
    latency: float,
    jitter: float = 0.0,
    reply_after: float = 0.05,
    per: float = 60.0,
    declared: bool = True,
    seed: int = 1,
    saturating: Order | None = BULK,
) -> Run:
    """Return processes that all start within a tenth of a second.

    Args:
        processes: how many.
        limit: requests in a window.
        latency: seconds of a trip to the store.
        jitter: seconds by which a process may be late whenever it is to be woken.
        reply_after: seconds until the server's answer.
        per: seconds of a window.
        declared: whether the processes know the limit.
        seed: of all that is random.
        saturating: the order of the calls of which each always has more.
    """
    timeline, rng = Timeline(), random.Random(seed)
    store, server = Store(timeline, latency, rng, jitter), Server(limit, per)
    known = RateLimit(limit if declared else None, per=per)
    made = [
        Process(
            *(f"p{number:03}", timeline, store, server, rng, known),
            saturating=saturating,
            reply_after=reply_after,
            lease=min(15.0, per / 2),
        )
        for number in range(processes)
    ]
    for process in made:
        timeline.later(rng.uniform(0, 0.1), process.pump)
    return Run(timeline, store, server, made)


def add_interactive(run: Run, every: float, until: float) -> None:
    """Let an interactive call come every so many seconds, to one process after the other."""
    number = 0
    at = every
    while at < until:
        process = run.processes[number % len(run.processes)]
        run.timeline.later(at, lambda process=process: process.come(INTERACTIVE))  # type: ignore[misc]
        number, at = number + 1, at + every


def report(label: str, run: Run) -> None:
    """Print one line."""
    waits = run.waits(INTERACTIVE, since=2 * run.server.per)  # the first ones find the window full of bulk
    interactive = f", interactive p99 {waits[int(len(waits) * 0.99)] * 1e3:.0f} ms" if waits else ""
    shares = run.shares()
    print(
        f"{label:34} steps/slot {run.steps_per_slot():5.2f}, refused {run.server.refused}, "
        f"windows {' '.join(f'{part:.3f}' for part in run.windows())}, shares {min(shares)}..{max(shares)}, "
        f"text {len(run.store.text or '')} B, {dict(run.store.kinds)}{interactive}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--processes", type=int, nargs="*", default=(1, 4, 100))
    parser.add_argument("--limits", type=int, nargs="*", default=(60, 1200))
    parser.add_argument("--latencies", type=float, nargs="*", default=(0.001, 0.01), help="s of a trip to the store")
    parser.add_argument("--jitters", type=float, nargs="*", default=(0.0, 0.05), help="s by which wake-ups may be late")
    parser.add_argument("--per", type=float, default=60.0, help="s of a window")
    parser.add_argument("--reply-after", type=float, default=0.05, help="s until the server's answer")
    parser.add_argument("--unknown", action="store_true", help="the limit is not declared")
    parser.add_argument("--until", type=float, default=180.0)
    parser.add_argument("--interactive", type=float, help="s between interactive calls")
    options = parser.parse_args()
    cases = product(options.latencies, options.jitters, options.processes, options.limits, range(options.seeds))
    for latency, jitter, processes, limit, seed in cases:
        run = build(
            *(processes, limit),
            latency=latency,
            jitter=jitter,
            seed=seed,
            per=options.per,
            reply_after=options.reply_after,
            declared=not options.unknown,
        )
        if options.interactive:
            add_interactive(run, options.interactive, options.until)
        run.timeline.run(options.until)
        report(f"{processes} at {limit}, {latency * 1e3:.0f} ms, jitter {jitter * 1e3:.0f} ms", run)


if __name__ == "__main__":
    main()
