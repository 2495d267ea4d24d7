"""Tries the client on a hostile service, network, disk and user, and checks that nothing is bought twice or lost.

    python benchmarks/torture.py [--seeds 1-400 | --seconds 600 | --seed N] [--kind NAME] [--broken NAME] [--replays 20]

A seed draws a trial: a batch or a single call, and what goes wrong in it, as `trials/kinds.py` lists by kind. The
service is written on bare sockets and keeps a ledger; time is virtual, and every draw is a position (the n-th request,
byte, turn of the loop, write or call), so that a seed replays. After the trouble the same program runs again without
it. Then the promises are checked: nothing charged twice, nothing paid and lost, every song finished with one charge, no
partial or wrong file under a final name, no more spent than allowed, nothing left behind, no error of a type that is
not ours, no secret in a message; and nothing may hang or spin, as `trials/watchdog.py` defines it. What a kind of
trouble requires besides is in `trials/duties.py`. A failure is printed with its seed and its rate over some replays.

With `--broken` a mistake is built in that must be found, one per kind: the negative controls
(`trials/mistakes.py` and `oversights.py`).
`--broken all` looks for each of them, in the seeds of its kind, until it is found.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a script, it has parts all the same

from benchmarks.trials import mistakes, oversights  # noqa: F401  # fill the list
from benchmarks.trials.breaking import MISTAKES
from benchmarks.trials.checks import Broken, check
from benchmarks.trials.kinds import KINDS, draw
from benchmarks.trials.runner import Player
from benchmarks.trials.scenario import Trial

_SHOWN = 4  # broken promises of one trial


def play(trial: Trial) -> list[Broken]:
    """Play a trial in a folder that is removed; return what it broke."""
    memory = Path("/dev/shm")  # noqa: S108  # nothing here is about power cuts
    folder = Path(tempfile.mkdtemp(prefix="torture-", dir=memory if memory.is_dir() else None))
    try:
        return check(Player(trial, folder).play())
    finally:
        shutil.rmtree(folder)


def seeds(first: int, last: int, seconds: float) -> Iterator[int]:
    """Yield the seeds to try, from the first to the last, or for so many seconds."""
    until = time.monotonic() + seconds
    seed = first
    while seed <= last if not seconds else time.monotonic() < until:
        yield seed
        seed += 1


def report(seed: int, trial: Trial, broken: list[Broken], replays: int, kind: str) -> None:
    failed = sum(bool(play(trial)) for _ in range(replays))
    print(f"seed {seed} ({trial.kind}, {trial.call}) failed, and {failed} of {replays} replays:")
    for one in broken[:_SHOWN]:
        print(f"    {one.promise}: {one.how[:300]}")
    print(f"    again: python benchmarks/torture.py --seed {seed}{f' --kind {kind}' * bool(kind)}", flush=True)


def try_seeds(options: argparse.Namespace) -> int:
    first, last = (options.seed, options.seed) if options.seed else map(int, options.seeds.split("-"))
    tried, failed = Counter[str](), Counter[str]()
    began = time.monotonic()
    for seed in seeds(first, last, options.seconds):
        trial = draw(seed, options.kind)
        tried[trial.kind] += 1
        if broken := play(trial):
            failed[trial.kind] += 1
            report(seed, trial, broken, options.replays, options.kind)
    for kind in sorted(tried):
        print(f"{kind:12} {tried[kind]:5} trials {failed[kind]:5} failed")
    total = sum(failed.values())
    print(f"torture: {sum(tried.values())} trials in {time.monotonic() - began:.0f} s, {total} failed")
    return 1 if total else 0


def find_mistakes(names: list[str], last: int) -> int:
    """Build each mistake into a process of its own, one per core, and look for it in the seeds of its kind."""
    missed, running = 0, 0
    for name in names:
        if running == (os.cpu_count() or 1):
            missed += os.wait()[1] != 0
            running -= 1
        running += 1
        if not os.fork():
            code = 1
            try:
                code = find_mistake(name, last)
            except (LookupError, ImportError, AttributeError) as error:  # what it replaces is gone
                _say(f"{name}: {error}")
            finally:
                sys.stdout.flush()
                os._exit(code)
    missed += sum(os.wait()[1] != 0 for _ in range(running))
    print(f"torture: {len(names)} mistakes, {missed} not found")
    return 1 if missed else 0


def find_mistake(name: str, last: int) -> int:
    mistake = MISTAKES[name]
    mistake.build_in()
    for seed in (*range(mistake.first, last + 1), *range(1, mistake.first)):
        if broken := play(draw(seed, mistake.kind)):
            _say(f"{name:22} {mistake.kind:12} seed {seed:3}: {broken[0].promise}: {broken[0].how[:90]}")
            return 0
    _say(f"{name:22} {mistake.kind:12} NOT FOUND in {last} seeds: {mistake.does}")
    return 1


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")  # in one piece, where `print` may write two: other processes write there, too


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="1-400", help="the first and the last")
    parser.add_argument("--seed", type=int, default=0, help="only this one")
    parser.add_argument("--seconds", type=float, default=0.0, help="as many seeds as can be tried in this time")
    parser.add_argument("--replays", type=int, default=20, help="of a seed that failed")
    parser.add_argument("--kind", choices=KINDS, default="", help="only this kind of trouble")
    parser.add_argument("--broken", choices=(*MISTAKES, "all"), default="", help="a build with this mistake in it")
    options = parser.parse_args()
    if options.broken == "all":
        return find_mistakes(list(MISTAKES), 60)
    if options.broken:
        MISTAKES[options.broken].build_in()
        options.kind = options.kind or MISTAKES[options.broken].kind
    return try_seeds(options)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # a loop that hung cannot be closed, not even by the interpreter
