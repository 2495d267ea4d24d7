"""Runs the gate's limiter and the poll plan in virtual time, against servers that count in different ways.

The decisions are the product's own (`_gate.limiter`, `_poll.plan`); the servers are independent of them. Each
case is a batch of splits, and its makespan (from the first request to the last detection) is compared with the bound
that no client can beat without knowing processing times in advance. With T(m) the time until the m-th request may be
sent,

    makespan >= max(T(q*n), max over k of T((q-1)*k) + p_k)

for n splits of q requests each (2 for a URL, 3 for an upload) in submission order. T(m) = W*floor((m-1)/R) for fixed
and sliding windows, max(0, (m-B)*W/R) for a bucket of capacity B. Beside it, with --usual, runs the usual
client: a create, then a poll every 5 s, every refused request retried after the usual backoff.

With `interactive`, an interactive split comes every so many seconds while the batch keeps the key busy. Measured are
its wait for the first slot, and how much of the limit is left unused on its account.

    python benchmarks/simulate.py [--seeds 5] [--case NAME] [--usual] [--plot out.svg]

The plot shows the requests in the trailing window over time against the limit, for the first case whose name matches.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
import statistics
from collections import deque
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import attrs

from aistemsplitter_async._gate.budget import Budget
from aistemsplitter_async._gate.lanes import Lane
from aistemsplitter_async._gate.limiter import Limiter
from aistemsplitter_async._gate.rate_headers import RateAdvice
from aistemsplitter_async._poll.plan import PollPlan
from aistemsplitter_async.config import INTERACTIVE_SHARE, PollPolicy, RateLimit, RetryPolicy

WINDOW = 60.0
ROUND_TRIP = 0.05
INTERACTIVE_MEMORY = 2 * WINDOW  # how long slots are kept after the last interactive call, as the gate does


class Server(Protocol):
    limit: int

    def accept(self, now: float) -> bool: ...


class Fixed:
    """Starts a new count at every full window; `phase` says where the first one ends."""

    def __init__(self, limit: int, phase: float) -> None:
        self.limit, self._phase, self._window, self._count = limit, phase, -1, 0

    def accept(self, now: float) -> bool:
        window = math.floor((now + self._phase) / WINDOW)
        if window != self._window:
            self._window, self._count = window, 0
        self._count += 1
        if self._count > self.limit:
            self._count -= 1
            return False
        return True


class Sliding:
    """Remembers every request of the trailing window."""

    def __init__(self, limit: int) -> None:
        self.limit, self._log = limit, deque[float]()

    def accept(self, now: float) -> bool:
        while self._log and self._log[0] <= now - WINDOW:
            self._log.popleft()
        if len(self._log) >= self.limit:
            return False
        self._log.append(now)
        return True


class Counter:
    """Two counters: the last window counts by the part of it that the trailing window still covers."""

    def __init__(self, limit: int, phase: float) -> None:
        self.limit, self._phase, self._window, self._last, self._count = limit, phase, 0, 0, 0

    def accept(self, now: float) -> bool:
        at = (now + self._phase) / WINDOW
        window = math.floor(at)
        if window != self._window:
            self._last = self._count if window == self._window + 1 else 0
            self._window, self._count = window, 0
        if self._last * (1 - (at - window)) + self._count + 1 > self.limit + 1e-9:
            return False
        self._count += 1
        return True


class Bucket:
    """Refills evenly, up to `burst`."""

    def __init__(self, limit: int, burst: int) -> None:
        self.limit, self._burst, self._level, self._at = limit, burst, float(burst), 0.0

    def accept(self, now: float) -> bool:
        self._level = min(self._burst, self._level + (now - self._at) * self.limit / WINDOW)
        self._at = now
        if self._level < 1:
            return False
        self._level -= 1
        return True


@attrs.frozen(kw_only=True)
class Case:
    """One row of the table."""

    name: str
    splits: int = 100
    kind: str = "sliding"
    limit: int = 60
    burst: int | None = None
    declared: RateLimit | None = RateLimit(60)  # `None`: unknown
    requests: int = 2  # a split
    uploading: float = 0.0  # s between a reservation and the end of its upload
    median: float = 60.0
    sigma: float = 0.25
    earlier: int = 0  # splits the model has seen before
    changes: tuple[tuple[float, int], ...] = ()
    failing: float = 0.0  # of the replies are 500
    every: float = 0.0  # s between submissions; 0: all at once
    interactive: float = 0.0  # s between interactive splits; 0: none
    headers: bool = False  # every reply names the limit
    target: str = ""

    def server(self, rng: random.Random) -> Server:
        phase = rng.random() * WINDOW
        kinds: dict[str, Callable[[], Server]] = {
            "fixed": lambda: Fixed(self.limit, phase),
            "sliding": lambda: Sliding(self.limit),
            "counter": lambda: Counter(self.limit, phase),
            "bucket": lambda: Bucket(self.limit, self.burst or self.limit),
        }
        return kinds[self.kind]()

    def bound(self, times: list[float]) -> float:
        """Return the in-order bound for these processing times."""

        def earliest(requests: int) -> float:
            if requests <= 0:
                return 0.0
            if self.kind == "bucket":
                return max(0.0, (requests - (self.burst or self.limit)) * WINDOW / self.limit)
            return WINDOW * math.floor((requests - 1) / self.limit)

        per_create = self.requests - 1
        ends = [earliest(per_create * (k + 1)) + time for k, time in enumerate(times)]
        return max(earliest(self.requests * self.splits), *ends)


@attrs.define
class Outcome:
    """The figures of one run."""

    makespan: float = 0.0
    bound: float = 0.0
    requests: int = 0
    refused: int = 0
    lags: list[float] = attrs.field(factory=list[float])  # of the processing time
    sent: list[float] = attrs.field(factory=list[float])  # when each request was sent
    done: list[float] = attrs.field(factory=list[float])
    waits: list[float] = attrs.field(factory=list[float])  # of interactive splits for their first slot, s
    believed: int | None = None


class World:
    """Virtual time, a server and the network between: everything a client under test uses."""

    def __init__(self, case: Case, seed: int) -> None:
        self.case = case
        self.rng = random.Random(seed)
        self.times = [case.median * math.exp(self.rng.gauss(0, case.sigma)) for _ in range(case.splits)]
        self.server = case.server(self.rng)
        self.outcome = Outcome(bound=case.bound(self.times))
        self.created: dict[int, float] = {}
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = count()
        for at, limit in case.changes:
            self.at(at, lambda _, limit=limit: setattr(self.server, "limit", limit))  # type: ignore[misc]

    def at(self, when: float, what: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), what))

    def run(self) -> Outcome:
        while self._events and len(self.outcome.done) < self.case.splits:
            when, _, what = heapq.heappop(self._events)
            what(when)
        self.outcome.makespan = max(self.outcome.done, default=math.inf)
        return self.outcome

    def request(self, now: float, effect: Callable[[float], Any], reply: Callable[[float, bool, Any], None]) -> None:
        """Send a request: `effect` happens at the server if it admits the request, and `reply` gets the result."""
        self.outcome.requests += 1
        self.outcome.sent.append(now)
        one_way = ROUND_TRIP / 2 * math.exp(self.rng.gauss(0, 0.3))

        def arrive(then: float) -> None:
            let_in = self.server.accept(then)
            self.outcome.refused += not let_in
            result = effect(then) if let_in else None
            self.at(then + one_way, lambda later: reply(later, let_in, result))

        self.at(now + one_way, arrive)

    def create(self, split: int) -> Callable[[float], bool]:
        def effect(now: float) -> bool:
            self.created.setdefault(split, now)
            return self.rng.random() >= self.case.failing  # the reply may be a 500 although the request had its effect

        return effect

    def poll(self, split: int) -> Callable[[float], bool]:
        return lambda now: now >= self.created[split] + self.times[split] and self.rng.random() >= self.case.failing

    def note_done(self, split: int, now: float) -> None:
        if split >= self.case.splits:
            return  # an interactive one
        self.outcome.done.append(now)
        self.outcome.lags.append((now - self.created[split] - self.times[split]) / self.times[split])


class Ours:
    """The product's decisions, driven by virtual time as the gate and the poller drive them by the loop's."""

    def __init__(self, world: World) -> None:
        case = world.case
        self.world = world
        self.limiter = Limiter(case.declared or RateLimit(), RetryPolicy(), now=0.0)
        self.plan = PollPlan(PollPolicy(), random=world.rng.random)
        for _ in range(case.earlier):
            self.plan.model.learn(180, case.median * math.exp(world.rng.gauss(0, case.sigma)))
        self.waiting: deque[tuple[int, int]] = deque()  # split, requests already made for it
        self.uploaded: deque[tuple[int, int]] = deque()
        self.interactive: deque[tuple[int, float]] = deque()  # split, since when it waits
        self.interactive_at = -math.inf
        self.running = 0
        self.wake_at = math.inf
        rate = case.limit / WINDOW
        self.in_flight = 2 * case.limit * max(1.0, case.median / WINDOW) if rate else 0
        for split in range(case.splits):
            world.at(split * case.every, lambda now, split=split: self.submit(split, now))  # type: ignore[misc]

        if case.interactive:
            world.at(case.interactive, self.submit_interactive)

    def submit(self, split: int, now: float) -> None:
        self.waiting.append((split, 0))
        self.pump(now)

    def submit_interactive(self, now: float) -> None:
        self.world.times.append(self.world.case.median)
        self.interactive.append((len(self.world.times) - 1, now))
        self.interactive_at = now
        self.world.at(now + self.world.case.interactive, self.submit_interactive)
        self.pump(now)

    def spare(self, now: float) -> int:
        """Return how many slots all but interactive creates leave free."""
        limit = self.limiter.believed
        if self.interactive or limit is None or now > self.interactive_at + INTERACTIVE_MEMORY:
            return 0
        return round(INTERACTIVE_SHARE * limit)

    def pump(self, now: float) -> None:
        while True:
            free_at = self.limiter.free_at(now, spare=self.spare(now))
            if free_at > now:
                self.wake(free_at)
                return
            if self.interactive:
                split, since = self.interactive.popleft()
                self.world.outcome.waits.append(now - since)
                self.send_step(now, split, self.world.case.requests - 2)
            elif self.uploaded:
                self.send_step(now, *self.uploaded.popleft())
            elif self.waiting and self.running < self.in_flight:
                self.running += 1
                self.send_step(now, *self.waiting.popleft())
            else:
                budget = Budget(
                    limit=self.limiter.believed,
                    per=WINDOW,
                    wanted=(len(self.waiting) + len(self.uploaded)) * (self.world.case.requests - 1),
                    free=lambda within: self.limiter.free_within(now, within),
                )
                entry = self.plan.best(now, budget)
                if entry is None:
                    self.wake(self.plan.next_due())
                    return
                self.plan.note_polling(entry)
                self.send_poll(now, int(entry.split_id))

    def send_step(self, now: float, split: int, made: int) -> None:
        """Send the reservation or the create of a split."""
        last = made == self.world.case.requests - 2
        self.limiter.take(now)

        def reply(later: float, let_in: bool, happened: Any) -> None:
            self.adopt(later)
            if not let_in:
                self.limiter.refuse(later, sent=now, retry_after=None)
                (self.uploaded if made else self.waiting).appendleft((split, made))
                self.running -= not made
            else:
                self.limiter.settle(later, sent=now)
                if not happened:
                    self.uploaded.append((split, made))  # the same create is retried
                elif last:
                    lane = Lane.BULK if split < self.world.case.splits else Lane.INTERACTIVE
                    self.plan.add(str(split), credits_used=180, since=later, lane=lane)
                else:
                    self.world.at(later + self.world.case.uploading, lambda then: self.note_uploaded(then, split))
            self.pump(later)

        self.world.request(now, self.world.create(split) if last else lambda _: True, reply)

    def note_uploaded(self, now: float, split: int) -> None:
        self.uploaded.append((split, 1))
        self.pump(now)

    def send_poll(self, now: float, split: int) -> None:
        name = str(split)
        self.limiter.take(now)

        def reply(later: float, let_in: bool, done: Any) -> None:
            self.adopt(later)
            if not let_in:
                self.limiter.refuse(later, sent=now, retry_after=None)
                self.plan.note_no_answer(name, poll_at=later + 1)
            else:
                self.limiter.settle(later, sent=now)
                if done:
                    self.running -= split < self.world.case.splits
                    self.world.note_done(split, later)
                    self.plan.note_done(name, self.world.times[split], polled_at=now)
                else:
                    self.plan.note_running(name, polled_at=now)
            self.pump(later)

        self.world.request(now, self.world.poll(split), reply)

    def adopt(self, now: float) -> None:
        if self.world.case.headers:
            self.limiter.adopt(RateAdvice(requests=self.world.server.limit), now)

    def wake(self, when: float) -> None:
        if math.isfinite(when) and when < self.wake_at:
            self.wake_at = when
            self.world.at(when, self.woken)

    def woken(self, now: float) -> None:
        self.wake_at = math.inf
        self.pump(now)


class Usual:
    """One task per split: create, poll every 5 s, retry refused requests after 1, 2, 4 .. 60 s with full jitter."""

    def __init__(self, world: World) -> None:
        self.world = world
        for split in range(world.case.splits):
            world.at(split * world.case.every, lambda now, split=split: self.create(now, split, 0))  # type: ignore[misc]

    def create(self, now: float, split: int, tries: int) -> None:
        def reply(later: float, let_in: bool, happened: Any) -> None:
            if let_in and happened:
                self.world.at(later + 5, lambda then: self.poll(then, split, 0))
            else:
                self.world.at(later + self.backoff(tries), lambda then: self.create(then, split, tries + 1))

        self.world.request(now, self.world.create(split), reply)

    def poll(self, now: float, split: int, tries: int) -> None:
        def reply(later: float, let_in: bool, done: Any) -> None:
            if done:
                self.world.note_done(split, later)
            elif let_in:
                self.world.at(later + 5, lambda then: self.poll(then, split, 0))
            else:
                self.world.at(later + self.backoff(tries), lambda then: self.poll(then, split, tries + 1))

        self.world.request(now, self.world.poll(split), reply)

    def backoff(self, tries: int) -> float:
        return self.world.rng.uniform(0, min(60.0, 2.0**tries))


UNKNOWN = [
    Case(name=f"unknown, {limit} a minute, {kind}", kind=kind, limit=limit, declared=None, target="1.25, 6")
    for limit in (20, 60, 300, 1200)
    for kind in ("fixed", "sliding")
]
HEADERS = [
    Case(name=f"headers, {limit} a minute", limit=limit, declared=None, headers=True, target="1.08, 2")
    for limit in (20, 300)
]
INTERACTIVE = Case(name="interactive every 20 s", splits=400, interactive=20.0, target="wait 1 s, unused 5 %")
CASES = [
    Case(name="known, fixed", kind="fixed", target="1.03, 0, 2.2"),
    Case(name="known, sliding", target="1.03, 0, 2.2"),
    Case(name="bucket, declared", kind="bucket", declared=RateLimit(60, policy="bucket"), target="1.08, 4"),
    Case(
        name="bucket N/2, declared", kind="bucket", burst=30, declared=RateLimit(60, policy="bucket"), target="1.08, 4"
    ),
    Case(name="bucket, not declared", kind="bucket", target="1.30"),
    Case(name="bucket N/2, not declared", kind="bucket", burst=30, target="1.30"),
    Case(name="counter", kind="counter", target="1.15, 10"),
    Case(name="40 uploads, fixed", splits=40, kind="fixed", requests=3, uploading=2.0, target="1.12"),
    Case(name="40 uploads, sliding", splits=40, requests=3, uploading=2.0, target="1.12"),
    Case(name="1000 at 300 a minute", splits=1000, limit=300, declared=RateLimit(300), target="1.05"),
    *UNKNOWN,
    *HEADERS,
    INTERACTIVE,
    Case(name="one split", splits=1, target="lag 2 %, 4 %"),
    Case(name="ten at once, cold", splits=10, target="lag 10 %, 25 %"),
    Case(name="ten at once, after 30", splits=10, earlier=30, target="lag 6 %, 18 %"),
    Case(name="5 % of replies 500", failing=0.05, target="1.12"),
    Case(name="60 to 20 and back", splits=300, changes=((90, 20), (600, 60)), target="12 x 429"),
    Case(name="the same, unknown", splits=300, changes=((90, 20), (600, 60)), declared=None, target="12 x 429"),
    Case(name="slow server, cold", splits=10, median=400, target=""),
    Case(name="quick server, cold", splits=10, median=3, target=""),
]


def measure(case: Case, client: Callable[[World], Any], seeds: int) -> list[Outcome]:
    outcomes = []
    for seed in range(seeds):
        world = World(case, seed)
        side = client(world)
        outcome = world.run()
        outcome.believed = side.limiter.believed if isinstance(side, Ours) else None
        outcomes.append(outcome)
    return outcomes


def unused(case: Case, outcome: Outcome) -> float:
    """Return the share of the limit that was not used in the full windows during which the batch had work waiting."""
    windows = math.floor(2 * case.splits * 0.9 / case.limit)
    return 1 - sum(at < windows * WINDOW for at in outcome.sent) / (windows * case.limit)


def show(case: Case, outcomes: list[Outcome], label: str) -> None:
    ratio = statistics.median(outcome.makespan / outcome.bound for outcome in outcomes)
    requests = statistics.median(outcome.requests / case.splits for outcome in outcomes)
    refused = statistics.median(outcome.refused for outcome in outcomes)
    lags = sorted(lag for outcome in outcomes for lag in outcome.lags)
    p50, p95 = lags[len(lags) // 2], lags[int(len(lags) * 0.95)]
    print(
        f"{label:34} {ratio:6.3f} {requests:8.2f} {refused:5.0f} (max {max(o.refused for o in outcomes):3})"
        f"  lag {p50:6.1%} {p95:7.1%}   {case.target}",
        flush=True,
    )
    waits = sorted(wait for outcome in outcomes for wait in outcome.waits)
    if waits:
        kept = statistics.median(unused(case, outcome) for outcome in outcomes)
        print(f"{'':34} first slot after {waits[int(len(waits) * 0.95)]:.2f} s (p95), {kept:.1%} of the limit unused")


def plot(case: Case, outcomes: dict[str, Outcome], path: Path) -> None:
    """Write an SVG of the requests in the trailing window over time, a line a client, against the limit."""
    width, height, margin = 900, 320, 50
    last = max(outcome.makespan for outcome in outcomes.values())
    curves = {name: [trailing(outcome.sent, last * n / 600) for n in range(601)] for name, outcome in outcomes.items()}
    highest = 1.1 * max(case.limit, *(max(curve) for curve in curves.values()))

    def x(time: float) -> float:
        return margin + (width - 2 * margin) * time / last

    def y(requests: float) -> float:
        return height - margin - (height - 2 * margin) * requests / highest

    def text(at: tuple[float, float], what: str, color: str = "#444") -> str:
        return f'<text x="{at[0]:.1f}" y="{at[1]:.1f}" fill="{color}">{what}</text>'

    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
            ' font-family="sans-serif" font-size="12">'
        ),
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        text((margin, 24), f"{case.name}: requests in the trailing minute"),
        f'<path d="M{x(0)} {y(case.limit):.1f}H{x(last)}" stroke="#c33" stroke-dasharray="6 4"/>',
        text((x(last) + 4, y(case.limit) + 4), f"{case.limit}", "#c33"),
    ]
    parts += [text((x(minute * WINDOW), height - 30), f"{minute}") for minute in range(int(last / WINDOW) + 1)]
    for (name, curve), color in zip(curves.items(), ("#06c", "#999"), strict=False):
        points = " ".join(f"{x(last * n / 600):.1f},{y(requests):.1f}" for n, requests in enumerate(curve))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.5"/>')
        end = outcomes[name].makespan
        parts.append(f'<path d="M{x(end):.1f} {y(0)}v-12" stroke="{color}" stroke-width="3"/>')
    labels = [
        f"{name}: done after {outcome.makespan:.0f} s, {outcome.refused} refused" for name, outcome in outcomes.items()
    ]
    parts += [
        text((width / 2 + n * 200 - 30, 24), label, color)
        for n, (label, color) in enumerate(zip(labels, ("#06c", "#777"), strict=False))
    ]
    parts.append(text((width / 2 - 30, height - 10), "minutes"))
    path.write_text("\n".join([*parts, "</svg>", ""]), encoding="utf-8")


def trailing(sent: list[float], now: float) -> int:
    return sum(now - WINDOW < at <= now for at in sent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--case", default="")
    parser.add_argument("--usual", action="store_true")
    parser.add_argument("--plot", type=Path, metavar="SVG")
    options = parser.parse_args()
    if options.plot:
        case = next(case for case in CASES if options.case in case.name)
        outcomes = {"ours": measure(case, Ours, 1)[0]}
        if options.usual:
            outcomes["as usual"] = measure(case, Usual, 1)[0]
        plot(case, outcomes, options.plot)
        return
    print(f"{'case':34} {'ratio':>6} {'req/split':>8} {'429':>5} {'':9}  lag p50, p95   target")
    for case in CASES:
        if options.case in case.name:
            seeds = options.seeds * (12 if case.splits <= 10 else 1)
            show(case, measure(case, Ours, seeds), case.name)
            if options.usual:
                show(case, measure(case, Usual, 1), "   as usual")


if __name__ == "__main__":
    main()
