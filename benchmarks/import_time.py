"""Measures importing the package and creating its first client, against importing its dependencies.

python benchmarks/import_time.py [--rounds 15]

What is measured is processor time, which other programs hardly disturb.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys

WAYS = {
    "aiohttp, attrs, cattrs": "import aiohttp, attrs, cattrs",
    "aistemsplitter_async": "import aistemsplitter_async",
    "first client": "from aistemsplitter_async import AsyncAIStemSplitter; AsyncAIStemSplitter('ast_x')",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    took: dict[str, list[float]] = {way: [] for way in WAYS}
    empty: list[float] = []
    for _ in range(rounds):  # the ways take turns, so that a busy moment hits all of them
        empty.append(measure("pass"))
        for way, code in WAYS.items():
            took[way].append(measure(code))
    base = statistics.median(took["aiohttp, attrs, cattrs"]) - statistics.median(empty)
    print(f"medians of {rounds} rounds, the interpreter's own start ({statistics.median(empty) * 1e3:.0f} ms) left out")
    for way, seconds in took.items():
        own = statistics.median(seconds) - statistics.median(empty)
        print(f"{way:24} {own * 1e3:6.0f} ms   {own / base:4.2f}")


def measure(code: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


if __name__ == "__main__":
    main()
