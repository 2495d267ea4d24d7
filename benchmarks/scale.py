"""Measures what several processes make of one key, beside what one process makes of it.

An independent judge (`scaling/judge.py`) counts every request on a sliding log of its own and answers 429 above the
limit; it and every worker are processes. The ways to share the key are tried in turns, round after round: `one` process
alone; processes that are told a part of the limit each (`divided`), or all of it and nothing of each other (`private`);
gates shared through this `host`, a `valkey` and a `postgres`, which are started from wheels. A minute is shrunk to
`--per` seconds, with every policy of the client.

    python -m benchmarks.scale gate [CASE ...] [--modes one,private,host] [--rounds 1] [--per 3] [--workers 4]

| case | what it is |
|---|---|
| steady | more songs than the limit lets in: how much of each window is used, by whom |
| shares | the same for 20 windows, in which unequal shares should even out |
| unknown | the same with a limit that nobody was told |
| kill | two workers are killed after a window and a half |
| pause | one is stopped for one window and two thirds |
| clocks | the clocks of half of the workers are 4 s ahead |
| stop | the store answers nothing for 4 s |
| empty | the store forgets all, and a fresh worker comes |
| interactive | interactive songs come in between, in windows twice as long, and answers take 20 ms |
| minute | a number of songs, against the bound that no client can beat: `--per 60 --limit 1200 --songs 1500` |

What a row says: of how many whole windows the least used and all were used; how many 429, and how many of them at
each moment; the most in any window; the longest silence; the smallest and the largest share of a worker over the mean;
conversations with the store per request, and how many of those were lost to another worker's; processor time of the
workers per request, and for each conversation beyond what `divided` needs, in ms. Of interactive songs: how long the
first of each worker waited for its slot, and how long those after the second window waited for a slot and an answer.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
from collections.abc import Mapping

import attrs

from benchmarks.scaling.servers import open_place
from benchmarks.scaling.trial import MODES, Result, Setting, Trial, empty_store, kill, pause, stop_store

FAULTS = ("kill", "pause", "clocks", "stop", "empty")
SHARED = MODES[3:]


def build_cases(options: argparse.Namespace) -> dict[str, Setting]:
    per = options.per
    steady = Setting(
        workers=options.workers,
        limit=options.limit,
        per=per,
        windows=options.windows,
        at_once=2 * options.limit,
        processing=per / 3,
        lease=per / 2 if per < 30 else 15.0,
        says=options.retry_after,
        seed=options.seed,
    )
    longer = attrs.evolve(steady, windows=options.windows + 3)
    return {
        "steady": steady,
        "shares": attrs.evolve(steady, windows=20.0),
        "unknown": attrs.evolve(longer, told=False),
        "kill": attrs.evolve(longer, actions=((1.5, "kill", kill("w0", "w1")),)),
        "pause": attrs.evolve(longer, actions=((1.2, "pause", pause("w0", 5 / 3)),)),
        "clocks": attrs.evolve(steady, ahead=4.0),
        "stop": attrs.evolve(longer, actions=((1.2, "stop", stop_store(4.0)),)),
        "empty": attrs.evolve(longer, actions=((2.5, "empty", empty_store(comes=options.workers)),)),
        "interactive": attrs.evolve(
            steady,
            limit=2 * options.limit,
            per=2 * per,
            at_once=4 * options.limit,
            latency=0.02,
            interactive=per / (options.limit / 30),
            windows=options.windows + 12,
        ),
        "minute": attrs.evolve(
            steady, songs=options.songs or 2 * options.limit, at_once=options.songs or 2 * options.limit, windows=0.0
        ),
    }


async def measure(cases: Mapping[str, Setting], modes: list[str], rounds: int) -> None:
    for case, setting in cases.items():
        tried = [
            mode for mode in modes if case not in FAULTS or mode in SHARED or (case == "clocks" and mode == "private")
        ]
        found: dict[str, list[Result]] = {mode: [] for mode in tried}
        print(f"\n{case}: {describe(setting)}")
        for index in range(rounds):
            for mode in tried if index % 2 == 0 else reversed(tried):
                place = open_place(mode)
                try:
                    seeded = attrs.evolve(setting, seed=setting.seed + index)
                    found[mode].append(await Trial(seeded, mode, place).run())
                finally:
                    place.close()
                if place.version and not index:
                    print(f"  {mode}: {place.version}")
                print(f"  {mode:9} {show(found[mode][-1], found.get('divided', []))}", flush=True)


def describe(setting: Setting) -> str:
    told = "told" if setting.told else "not told"
    songs = f"{setting.songs} songs" if setting.songs else f"{setting.windows:g} windows"
    return (
        f"{setting.workers} workers, {setting.limit} in {setting.per:g} s ({told}), {songs}, answers after "
        f"{1000 * setting.latency:g} ms{' with' if setting.says else ' without'} Retry-After, "
        f"lease {setting.lease:g} s, seeds from {setting.seed}; load {load()}"
    )


def show(result: Result, divided: list[Result]) -> str:
    """Return what came of a trial in one line."""
    setting, requests = result.setting, len(result.times)
    parts = []
    if setting.songs:
        bound = setting.per * ((2 * setting.songs - 1) // setting.limit)
        bound = max(bound, setting.per * ((setting.songs - 1) // setting.limit) + setting.processing)
        parts.append(f"{result.last:.2f} s, {bound / result.last:.1%} of the bound {bound:.1f}, {result.done} done")
    elif result.windows:
        used = [count / setting.limit for count in result.windows]
        parts.append(f"windows {min(used):.1%} {statistics.mean(used):.1%} {' '.join(map(str, result.windows))}")
    bursts = f" ({'+'.join(map(str, result.bursts))})" if len(result.bursts) > 1 else ""
    parts.append(f"429: {len(result.refused)}{bursts}, most {result.most}")
    parts.append(f"silence {result.silence:.2f} s")
    if len(result.shares) > 1:
        mean = requests / len(result.shares)
        parts.append(f"shares {min(result.shares.values()) / mean:.2f}-{max(result.shares.values()) / mean:.2f}")
    if conversations := result.total("conversations"):
        parts.append(f"{conversations / requests:.2f} conv, {result.total('lost') / conversations:.0%} lost")
    each = 1000 * result.total("cpu") / requests
    parts.append(f"cpu {each:.2f}")
    if conversations and divided:
        before = statistics.median(1000 * one.total("cpu") / len(one.times) for one in divided)
        parts.append(f"{(each - before) * requests / conversations:+.2f} a conv")
    if setting.interactive:
        slot, answer = (spread(result.later(name)) for name in ("admitted", "answered"))
        parts.append(f"interactive: first {1000 * max(result.first()):.0f}, slot {slot}, answer {answer} ms")
    if result.polls and result.done:
        parts.append(f"{result.polls / max(1, result.done):.2f} polls")
    if result.failures:
        parts.append(f"FAILED {len(result.failures)}: {result.failures[0]}")
    return "; ".join(parts)


def spread(values: list[float]) -> str:
    ordered = sorted(1000 * value for value in values)
    if not ordered:
        return "-"
    p50, p90, p99 = (ordered[min(len(ordered) - 1, int(len(ordered) * part))] for part in (0.5, 0.9, 0.99))
    return f"p50 {p50:.0f} p90 {p90:.0f} p99 {p99:.0f} max {ordered[-1]:.0f} of {len(ordered)}"


def load() -> str:
    return " ".join(f"{value:.1f}" for value in os.getloadavg())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    gate = commands.add_parser("gate", help="one key's limit")
    gate.add_argument("cases", nargs="*", metavar="CASE")
    gate.add_argument("--modes", default=",".join(MODES))
    gate.add_argument("--workers", type=int, default=4)
    gate.add_argument("--limit", type=int, default=60)
    gate.add_argument("--per", type=float, default=3.0)
    gate.add_argument("--windows", type=float, default=4.0)
    gate.add_argument("--songs", type=int, default=0)
    gate.add_argument("--rounds", type=int, default=1)
    gate.add_argument("--seed", type=int, default=1)
    gate.add_argument("--retry-after", action="store_true", help="a 429 says how long to wait, in whole seconds")
    options = parser.parse_args()
    cases = build_cases(options)
    if unknown := set(options.cases) - set(cases):
        parser.error(f"no such case: {', '.join(unknown)}")
    print(f"{sys.version.split()[0]} on {os.cpu_count()} cores, load {load()}")
    chosen = {name: setting for name, setting in cases.items() if not options.cases or name in options.cases}
    asyncio.run(measure(chosen, options.modes.split(","), options.rounds))


if __name__ == "__main__":
    main()
