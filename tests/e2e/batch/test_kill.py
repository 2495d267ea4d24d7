"""kill -9 a batch anywhere, run it again. `benchmarks/kill.py` does it at more points, and says how."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

KILL = Path(__file__).parents[3] / "benchmarks" / "kill.py"


def kill(*arguments: str) -> tuple[int, dict[str, int]]:
    """Return the exit code, and what was counted."""
    done = subprocess.run([sys.executable, KILL, *arguments], capture_output=True, text=True, timeout=300, check=False)
    counted = {
        name.strip(): int(number) for name, number in re.findall(r"^([a-z ]+?)  +(\d+)", done.stdout, re.MULTILINE)
    }
    assert counted, done.stdout + done.stderr
    return done.returncode, counted


@pytest.mark.parametrize(
    ("only", "enumerated"),
    [
        ("write audio_of,write claim,write bind,write uploaded,write intend", 15),
        ("write created,write succeeded,write downloaded,write refused,write fail", 15),
        ("write reopen,write uncertain,write needs_review,POST", 18),
        ("fsync,link,unlink,rename", 14),
    ],
)
def test_a_kill_at_any_write_post_fsync_or_rename_loses_nothing_and_charges_nothing_twice(
    only: str, enumerated: int
) -> None:
    code, counted = kill("--only", only, "--points", "0")
    assert counted["kills"] >= enumerated
    assert code == 0, counted


def test_a_kill_at_any_moment_loses_nothing_and_charges_nothing_twice() -> None:
    code, counted = kill("--only", "nothing", "--points", "4", "--tracks", "10")
    assert counted["kills"] == 4
    assert code == 0, counted


@pytest.mark.parametrize(
    ("broken", "only", "found"),
    [
        ("late", "POST create:after", "charged twice"),
        ("hasty", "write intend:within", "charged twice"),
        ("mixed-up", "POST create:before", "wrong hashes"),
        ("shared", "POST create:before", "lost"),
        ("copied", "POST create:before", "partial files"),
    ],
)
def test_a_build_with_a_mistake_in_it_is_detected(broken: str, only: str, found: str) -> None:
    code, counted = kill("--only", only, "--points", "0", "--broken", broken)
    assert code == 1
    assert counted[found] >= 1, counted


def test_with_faults_every_track_is_done_and_none_is_charged_twice() -> None:
    code, counted = kill("--faults", "--points", "0", "--batches", "1", "--tracks", "30")
    assert code == 0, counted
