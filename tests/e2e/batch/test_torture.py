"""A hostile service, network, disk and user. `benchmarks/torture.py` tries more of them, and says how."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from benchmarks.trials.kinds import KINDS, draw
from benchmarks.trials.mistakes import MISTAKES

TORTURE = Path(__file__).parents[3] / "benchmarks" / "torture.py"


def torture(*arguments: str) -> tuple[int, str]:
    """Return the exit code, and what was printed."""
    done = subprocess.run(
        [sys.executable, TORTURE, *arguments], capture_output=True, text=True, timeout=300, check=False
    )
    assert "\ntorture: " in done.stdout, done.stdout + done.stderr
    return done.returncode, done.stdout


def test_no_trial_breaks_a_promise() -> None:
    code, printed = torture("--seeds", f"1-{len(KINDS)}", "--replays", "3")
    assert code == 0, printed


def test_every_mistake_is_found() -> None:
    code, printed = torture("--broken", "all")
    found = re.findall(r"^(\S+) +(\S+) +seed +\d+: ", printed, re.MULTILINE)
    assert dict(found) == {name: mistake.kind for name, mistake in MISTAKES.items()}, printed
    assert code == 0


def test_every_kind_of_trouble_has_a_mistake_that_it_finds() -> None:
    assert {mistake.kind for mistake in MISTAKES.values()} == set(KINDS)


def test_a_seed_draws_the_same_trial_again() -> None:
    for seed in range(200):
        assert draw(seed) == draw(seed)
    assert len({draw(seed, "cut") for seed in range(50)}) > 45
