"""A hostile service, network, disk and user. `benchmarks/torture.py` tries more of them, and says how."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.trials import mistakes, oversights  # noqa: F401  # fill the list
from benchmarks.trials.breaking import MISTAKES
from benchmarks.trials.disk import VirtualDisk, cut_power
from benchmarks.trials.kinds import KINDS, draw
from benchmarks.trials.scenario import Disk
from benchmarks.trials.watchdog import Watchdog

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


def draw_from(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311  # not a secret


class TestWatchdog:
    def test_an_hour_without_a_sign_of_life_is_a_hang(self) -> None:
        watchdog = Watchdog(lambda: 0.0, 1)
        watchdog.note_sign()
        watchdog.move_on(3600.0)
        assert not watchdog.broken
        watchdog.move_on(3800.0)
        assert "without a sign of life" in watchdog.broken[0]

    def test_a_notice_that_can_be_seen_is_a_reason(self) -> None:
        watchdog = Watchdog(lambda: 0.0, 1)
        watchdog.note_sign()
        watchdog.reasons = lambda: ["paused: the disk is full"]
        watchdog.move_on(3800.0)
        assert not watchdog.broken

    def test_requests_that_bring_no_song_further_are_a_hang_too(self) -> None:
        watchdog = Watchdog(lambda: 0.0, 1)
        for _ in range(16):
            watchdog.note_request("upload")
        assert not watchdog.broken
        watchdog.note_request("upload")
        assert watchdog.broken == ["17 uploads in 0 s brought no song any further"]

    def test_what_was_reached_before_is_no_progress(self) -> None:
        watchdog = Watchdog(lambda: 0.0, 1)
        for number in range(200):
            watchdog.note_request("poll")
            watchdog.note_progress(("bytes", number // 25))
        assert not watchdog.broken
        for _ in range(51):
            watchdog.note_request("poll")
            watchdog.note_progress(("bytes", 0))
        assert watchdog.broken


class TestPowerCut:
    def test_only_what_was_synced_is_certain(self, tmp_path: Path) -> None:
        folder = tmp_path / "trial"
        folder.mkdir()
        left = {self.cut(folder, draw_from(seed), sync_name=False) for seed in range(60)}
        assert left == {None, b"synced", b"synced and not", b"synced\0\0\0\0\0\0\0\0"}

    def test_a_name_that_was_synced_in_its_folder_is_certain(self, tmp_path: Path) -> None:
        folder = tmp_path / "trial"
        folder.mkdir()
        assert None not in {self.cut(folder, draw_from(seed), sync_name=True) for seed in range(60)}

    def test_a_sync_that_fails_loses_what_was_not_durable(self, tmp_path: Path) -> None:
        file = tmp_path / "stem"
        disk = VirtualDisk(tmp_path, Disk(fails=(2, 1)), lambda: True, tmp_path / "durable")
        with disk, file.open("w+b", buffering=0) as stem:
            stem.write(b"synced")
            os.fsync(stem.fileno())
            stem.write(b" and not")
            with pytest.raises(OSError, match="Input/output error"):
                os.fsync(stem.fileno())
            os.fsync(stem.fileno())
        assert file.read_bytes() == b"synced\0\0\0\0\0\0\0\0"

    @staticmethod
    def cut(folder: Path, chance: random.Random, *, sync_name: bool) -> bytes | None:
        """Write a file of which a half is synced, cut the power, and return what is left of it."""
        file, keep = folder / "stem", folder / "durable"
        file.unlink(missing_ok=True)
        with VirtualDisk(folder, Disk(power=True), lambda: True, keep), file.open("wb", buffering=0) as stem:
            stem.write(b"synced")
            os.fsync(stem.fileno())
            stem.write(b" and not")
            if sync_name:
                above = os.open(folder, os.O_RDONLY)
                os.fsync(above)
                os.close(above)
        cut_power(folder, keep, chance)
        return file.read_bytes() if file.exists() else None
