"""The view of a running batch: honest figures from a value, no terminal needed."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import attrs
import pytest
from hypothesis import given, strategies as st

from aistemsplitter_async import (
    BatchProgress,
    BatchStatus,
    Done,
    Failed,
    GateSnapshot,
    Skipped,
    Split,
    SplitFailedError,
    TrackProgress,
)
from aistemsplitter_async._gate.snapshot import LimitUse
from aistemsplitter_async.cli.commands.forecast import Pace, plan_eta
from aistemsplitter_async.cli.commands.status import describe, is_running
from aistemsplitter_async.cli.library import Survey
from aistemsplitter_async.cli.screen.batch_view import (
    BatchView,
    describe_budget,
    describe_count,
    describe_stages,
    describe_track,
)

GATE = GateSnapshot(limit=60, used=38, waiting={"interactive": 0, "bulk": 0}, closed_for=0.0, per=60.0)
PROGRESS = BatchProgress(
    seconds=125.0,
    taken=30,
    exhausted=False,
    done=10,
    failed=1,
    skipped=0,
    stages={"upload": 3, "wait": 16},
    credits_used=2140.0,
    active=(),
    notices=(),
    draining=False,
    gate=GATE,
    processing=60.0,
)
SPLIT = Split("split_1", "failed", "4s", 10.0, datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC))
SURVEY = Survey(files=100, complete=True)


def test_what_is_not_begun_is_not_progress_while_the_rest_is_finished() -> None:
    draining = attrs.evolve(PROGRESS, draining=True, skipped=70)
    assert describe_count(draining, SURVEY) == "10 split, 19 to finish, 1 failed"
    assert plan_eta(draining, SURVEY, 1.0) is None


def test_nobody_knows_the_time_left_while_the_batch_is_paused() -> None:
    paused = attrs.evolve(PROGRESS, notices=("paused for 9 s, trying again in 4 s: down",))
    assert plan_eta(PROGRESS, SURVEY, 1.0) is not None
    assert plan_eta(paused, SURVEY, 1.0) is None


def test_the_time_left_is_what_the_limit_allows_when_nothing_is_slower() -> None:
    # 70 uploads of three requests, three of two, sixteen polls, at one a second, and the last split's processing
    assert plan_eta(PROGRESS, SURVEY, None) == pytest.approx(70 * 3 + 3 * 2 + 16 + 60)


def test_the_time_left_follows_the_tracks_when_they_are_slower_than_the_limit() -> None:
    assert plan_eta(PROGRESS, SURVEY, 0.1) == pytest.approx(89 / 0.1)


def test_nothing_is_promised_while_the_library_is_being_counted() -> None:
    assert plan_eta(PROGRESS, Survey(files=100), 1.0) is None
    assert describe_count(PROGRESS, Survey(files=20)) == "11 of 30+, 1 failed"


def test_nothing_is_promised_for_an_unknown_limit_before_tracks_finish() -> None:
    unknown = attrs.evolve(PROGRESS, gate=attrs.evolve(GATE, limit=None))
    assert plan_eta(unknown, SURVEY, None) is None
    assert plan_eta(unknown, SURVEY, 2.0) == pytest.approx(44.5)


@given(done=st.integers(0, 100), pace=st.none() | st.floats(1e-3, 1e3))
def test_the_time_left_never_grows_as_tracks_finish(done: int, pace: float | None) -> None:
    later = attrs.evolve(PROGRESS, taken=100, stages={}, failed=0, done=done)
    latest = attrs.evolve(later, done=min(100, done + 1))
    assert (plan_eta(latest, SURVEY, pace) or 0.0) <= (plan_eta(later, SURVEY, pace) or 0.0)


def test_a_line_says_what_is_going_on_and_what_it_costs() -> None:
    assert describe_count(attrs.evolve(PROGRESS, total=100), SURVEY) == "11 of 100, 1 failed"
    assert describe_stages(PROGRESS) == "3 uploading, 16 waiting"
    assert describe_stages(attrs.evolve(PROGRESS, stages={}, elsewhere=59)) == "59 with other workers"
    assert describe_budget(PROGRESS) == "38 of 60 requests in the last 1 min, 2,140 credits charged"
    together = attrs.evolve(PROGRESS, credits_used_by_all=5000.0)
    assert describe_budget(together).endswith("2,140 credits charged (5,000 to all workers)")
    closed = attrs.evolve(PROGRESS, gate=attrs.evolve(GATE, closed_for=7.2))
    assert "gate closed for 7 s" in describe_budget(closed)


def test_a_limit_of_a_day_is_shown_and_counts_for_the_time_left() -> None:
    day = attrs.evolve(GATE, further=(LimitUse(1000, 940, 86_400.0),))
    both = attrs.evolve(PROGRESS, gate=day)
    assert describe_budget(both).startswith("38 of 60 requests in the last 1 min, 940 of 1,000 in the last ")
    requests = 70 * 3 + 3 * 2 + 16
    assert plan_eta(both, SURVEY, None) == pytest.approx((requests - 60) / 1000 * 86_400 + 60)
    plenty = attrs.evolve(PROGRESS, gate=attrs.evolve(GATE, further=(LimitUse(1000, 0, 86_400.0),)))
    assert plan_eta(plenty, SURVEY, None) == plan_eta(PROGRESS, SURVEY, None)
    times = iter([0.0, 14.0, 15.0, 15.0])
    view = BatchView(lambda: PROGRESS, SURVEY, now=lambda: next(times))
    assert view.due_lines() == []
    (line,) = view.due_lines()
    assert line.startswith("11 of 100+, 1 failed; 3 uploading, 16 waiting; 38 of 60 requests")


def test_a_track_shows_its_bytes_while_they_move_and_its_time_otherwise() -> None:
    track = TrackProgress(label="a/song.wav", stage="upload", seconds=9.0, done_bytes=3_400_000, total_bytes=12_000_000)
    assert describe_track(track) == "uploading 3.4 of 12.0 MB"
    assert describe_track(attrs.evolve(track, stage="wait", seconds=62.0)) == "waiting 1:02"


def test_the_pace_is_that_of_the_last_minutes() -> None:
    now = 0.0
    pace = Pace(lambda: now)
    for position in range(11):
        pace.note(Done("song.mp3", SPLIT, {}, position))
        now += 2.0
    assert pace.per_second == pytest.approx(10 / 22)
    now += 600.0
    assert (pace.per_second or 1.0) < 0.02, "a stall is not hidden by what was fast before it"


def test_what_was_finished_earlier_says_nothing_about_the_pace() -> None:
    pace = Pace(lambda: 0.0)
    for position in range(100):
        pace.note(Skipped("song.mp3", "finished", position))
        pace.note(Failed("song.mp3", "wait", SplitFailedError(SPLIT), position))
    assert pace.per_second is None
    for position in range(10):
        pace.note(Done("song.mp3", SPLIT, {}, position))
    assert pace.per_second is not None


def test_a_status_knows_a_batch_that_runs_from_one_that_was_killed() -> None:
    status = BatchStatus(
        at=1000.0, pid=2**22 + 1, ended=False, tracks={"created": 3, "downloaded": 7}, progress=PROGRESS
    )
    assert not is_running(status, 1001.0, locked=True)  # there is no such process
    assert not is_running(attrs.evolve(status, ended=True), 1001.0, locked=None)
    lines = describe(status, 1060.0, running=False)
    assert "run the same command again to continue" in lines[0]
    assert lines[1:] == ["being split  3", "finished     7"]


def test_an_old_status_of_a_process_that_holds_the_journal_does_not_mean_it_died() -> None:
    mine = BatchStatus(at=1000.0, pid=os.getpid(), ended=False, tracks={}, progress=PROGRESS)
    assert is_running(mine, 1001.0, locked=None)
    assert is_running(mine, 9000.0, locked=True)
    assert not is_running(mine, 9000.0, locked=False), "its number belongs to another process by now"
    assert "perhaps because the disk is full" in describe(mine, 9000.0, running=True)[0]


def test_a_status_shows_how_far_it_is_and_that_it_only_finishes() -> None:
    progress = attrs.evolve(PROGRESS, total=100, seconds_left=95.0, draining=True, notices=("paused: no network",))
    status = BatchStatus(at=1000.0, pid=os.getpid(), ended=False, tracks={}, progress=progress)
    lines = describe(status, 1001.0, running=True)
    assert lines[0].endswith("finishing what is paid for")
    assert lines[1].split(maxsplit=1)[1] == "11 of 100 (11 %), about 1 min 35 s left"
    assert lines[-1].strip() == "paused: no network"
