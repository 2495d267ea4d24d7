"""Tries the client on a hostile service, network, disk and user, and checks that nothing is bought twice or lost.

    python benchmarks/torture.py [--seeds 1-400 | --seconds 600 | --seed N --replays 20] [--kind NAME] [--broken NAME]

A seed draws a trial: a batch or a single call, and what goes wrong in it, as `trials/scenario.py` lists by kind. The
service is written on bare sockets and keeps a ledger; time is virtual, and every draw is a position (the n-th request,
byte, turn of the loop, write or call), so that a seed replays. After the trouble the same program runs again without
it. Then the promises are checked: nothing charged twice, nothing paid and lost, every song finished with one charge, no
partial or wrong file under a final name, no more spent than allowed, nothing left behind, no hang, no error of a type
that is not ours, no secret in a message. A failure is printed with its seed and its rate over 20 replays.

With `--broken` a mistake is built in that must be found, one per kind: the negative controls (`trials/mistakes.py`).
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

from trials.checks import Broken, check
from trials.runner import Player
from trials.scenario import KINDS, Trial, draw

_REPLAYS = 20


def play(trial: Trial) -> list[Broken]:
    memory = Path("/dev/shm")  # noqa: S108  # nothing here is about power cuts
    folder = Path(tempfile.mkdtemp(prefix="torture-", dir=memory if memory.is_dir() else None))
    try:
        return check(Player(trial, folder).play())
    finally:
        shutil.rmtree(folder)


def seeds(options: argparse.Namespace) -> Iterator[int]:
    if options.seconds:
        until, seed = time.monotonic() + options.seconds, 0
        while time.monotonic() < until:
            yield (seed := seed + 1)
        return
    first, _, last = options.seeds.partition("-")
    yield from range(int(first), int(last or first) + 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="1-400", help="the first and the last")
    parser.add_argument("--seconds", type=float, default=0.0, help="try seeds from 1 on for so long")
    parser.add_argument("--kind", choices=KINDS, default="", help="only this kind of trouble")
    options = parser.parse_args()
    tried, failed = Counter[str](), Counter[str]()
    began = time.monotonic()
    for seed in seeds(options):
        trial = draw(seed, options.kind)
        tried[trial.kind] += 1
        broken = play(trial)
        if broken:
            failed[trial.kind] += 1
            print(f"seed {seed} ({trial.kind}, {trial.call}):")
            for one in broken[:4]:
                print(f"    {one.promise}: {one.how[:300]}")
    for kind in tried:
        print(f"{kind:12} {failed[kind]:4} of {tried[kind]:4} failed")
    print(f"{sum(tried.values())} trials in {time.monotonic() - began:.0f} s, {sum(failed.values())} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # a loop that hung cannot be closed, not even by the interpreter
