"""The power is cut on a disk that keeps only what was synced. `benchmarks/power_cut.py` says how."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.power_cut import check_batch, cut_journals
from benchmarks.power_cuts.strace import can_trace

pytestmark = pytest.mark.skipif(not can_trace(), reason="needs strace (apt-get install strace), allowed to trace")


def test_nothing_is_sent_or_called_done_before_it_would_survive_a_power_cut(tmp_path: Path) -> None:
    report = check_batch(tmp_path)
    assert (report.creates, report.downloaded) == (2, 2)
    assert not report.broken


@pytest.mark.parametrize(
    ("broken", "found"),
    [
        ("journal", "a create left"),
        ("folders", "is downloaded, and a power cut would have taken music"),
        ("parts", "are not as durable as the manifest says"),
        ("size", "were kept, and a power cut would have taken some of them"),
    ],
)
def test_a_build_that_syncs_too_little_is_found(tmp_path: Path, broken: str, found: str) -> None:
    assert any(found in line for line in check_batch(tmp_path, broken).broken)


@pytest.mark.parametrize("broken", ["", "journal"])
def test_a_journal_knows_after_any_cut_what_was_written_if_it_is_synced(tmp_path: Path, broken: str) -> None:
    verdicts = cut_journals(40, random.Random(1), broken, tmp_path)  # noqa: S311
    assert verdicts.total() == 40
    assert (verdicts["good"] == 40) == (not broken), verdicts
