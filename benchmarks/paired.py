"""Compares ways of doing one thing, each in a process of its own, in turns: machines are shared and noisy.

The ways take turns, round after round, and what counts is the median of their ratios to the best plain way of the same
round. Used by `upload.py` and `download.py`.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

OURS = "ours"
OTHER = "other checkout"
MIB = 1024 * 1024
Results = dict[str, list[dict[str, float]]]


def run_rounds(script: str, ways: Sequence[str], arguments: Sequence[str], rounds: int, other: Path | None) -> Results:
    """Run `script --child WAY ARGUMENTS`, which prints a result of `measured`, for each way in each round.

    Args:
        script: its path.
        ways: what they are called; `ours` uses the package of this checkout.
        arguments: after the way.
        rounds: how many.
        other: another checkout, whose package is one way more.
    """
    found: Results = {way: [] for way in (*ways, *([OTHER] if other is not None else []))}
    for index in range(rounds):
        for way in found if index % 2 == 0 else reversed(found):
            package = other if way == OTHER and other is not None else Path(script).parents[1]
            environment = os.environ | {"PYTHONPATH": str(package)}
            child = [sys.executable, script, "--child", OURS if way == OTHER else way, *arguments]
            found[way].append(json.loads(subprocess.check_output(child, env=environment)))
    return found


async def print_measured(run: Callable[[], Awaitable[object]], size: int) -> None:
    """Run it, and print bytes a second and by how much the peak of the memory grew, for `run_rounds`."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    await run()
    took = time.perf_counter() - started
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024  # Linux counts KiB
    print(json.dumps({"speed": size / took, "memory": grown}))


def report(results: Results) -> None:
    """Print speed, ratio and memory of each way."""
    plain = [way for way in results if way not in (OURS, OTHER)]
    rounds = range(len(results[OURS]))
    best = [max(results[way][index]["speed"] for way in plain) for index in rounds]
    for way, found in results.items():
        speed = statistics.median(result["speed"] for result in found)
        memory = max(result["memory"] for result in found)
        ratio = _spread([found[index]["speed"] / best[index] for index in rounds])
        print(f"{way:18} {speed / MIB:7.0f} MiB/s   {ratio} of the best plain way   +{memory / MIB:6.1f} MiB peak")
    if OTHER in results:
        ratio = _spread([results[OURS][index]["speed"] / results[OTHER][index]["speed"] for index in rounds])
        print(f"this checkout has {ratio} of the other's speed")


def _spread(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):4.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
