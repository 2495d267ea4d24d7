"""Measures a decision of the poll plan while very many splits wait: its time, its memory, and the note after it.

A decision is `best` and `next_due`, as the gate asks for them when a slot comes free. Virtual time advances from poll
to poll; most polls find the split still running, one in four finds it done and a new one takes its place, so the
model changes all the time. Times are the thread's own, so that a busy machine does not count.

    python benchmarks/decisions.py [--splits 100000] [--decisions 20000]
"""

from __future__ import annotations

import argparse
import gc
import random
import time
import tracemalloc
from collections.abc import Callable

from aistemsplitter_async._gate.budget import Budget
from aistemsplitter_async._gate.lanes import Lane
from aistemsplitter_async._poll.entry import PlanEntry
from aistemsplitter_async._poll.plan import PollPlan
from aistemsplitter_async.config import PollPolicy

BUDGET = Budget(limit=60, per=60.0, wanted=1000, free=lambda within: within)


def build(splits: int, rng: random.Random) -> PollPlan:
    """Return a plan of splits that were created over ten minutes, with a model that has seen some."""
    plan = PollPlan(PollPolicy(), random=rng.random)
    for _ in range(64):
        plan.model.learn(rng.uniform(60, 400), 60 * rng.lognormvariate(0, 0.25))
    for number in range(splits):
        plan.add(f"split_{number:08}", since=rng.uniform(0, 600), credits_used=rng.uniform(60, 400), lane=Lane.BULK)
    return plan


def timed(what: Callable[[], PlanEntry | None], times: list[float]) -> PlanEntry | None:
    begun = time.thread_time()
    result = what()
    times.append(time.thread_time() - begun)
    return result


def report(label: str, times: list[float], target: str = "") -> None:
    ordered = sorted(times)
    p50, p99 = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)]
    print(
        f"{label:28} p50 {p50 * 1e6:7.1f} us  p99 {p99 * 1e6:7.1f} us  max {ordered[-1] * 1e3:6.2f} ms  {target}",
        flush=True,
    )


def run(splits: int, decisions: int) -> None:
    rng = random.Random(1)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    plan = build(splits, rng)
    gc.collect()
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    print(f"{splits} waiting splits: {held / splits:.0f} bytes an entry (target 1,500)")
    now, number = 60.0, splits
    decided: list[float] = []
    noted: list[float] = []

    def decide() -> PlanEntry | None:
        entry = plan.best(now, BUDGET)
        plan.next_due()
        return entry

    def note(entry: PlanEntry) -> None:
        if rng.random() < 0.25:
            plan.note_done(entry.split_id, 60 * rng.lognormvariate(0, 0.25), polled_at=now)
            plan.add(f"split_{number:08}", since=now, credits_used=rng.uniform(60, 400), lane=Lane.BULK)
        else:
            plan.note_running(entry.split_id, polled_at=now)

    for _ in range(decisions):
        entry = timed(decide, decided)
        if entry is None:
            now = max(now, plan.next_due())
            continue
        plan.note_polling(entry)
        number += 1
        begun = time.thread_time()
        note(entry)
        noted.append(time.thread_time() - begun)
        now += 0.05
    report("deciding", decided, "target 20, 100")
    report("noting the result of a poll", noted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--splits", type=int, default=100_000)
    parser.add_argument("--decisions", type=int, default=20_000)
    options = parser.parse_args()
    for splits in sorted({200, options.splits}):
        run(splits, options.decisions if splits > 200 else options.decisions // 10)


if __name__ == "__main__":
    main()
