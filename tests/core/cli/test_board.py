from __future__ import annotations

from datetime import UTC, datetime, timedelta

import attrs

from aistemsplitter_async import Progress, Split
from aistemsplitter_async.cli.screen.board import STARTING, Activity, Board
from aistemsplitter_async.events import GateClosed, RetryPlanned, SplitCreated, StageStarted


@attrs.define
class Time:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def make_board(*activities: Activity) -> tuple[Board, Time, list[str]]:
    time, lines = Time(), list[str]()
    return Board(activities, now=time, log=lines.append), time, lines


def make_split(status: str, *, used: float = 10.0, took: float = 5.0) -> Split:
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    return Split("split_1", status, "4s", used, begin, begin + timedelta(seconds=took))


def test_a_source_goes_from_upload_to_download_with_one_line_for_each_phase() -> None:
    activity = Activity("song.mp3", "key-1")
    board, _, lines = make_board(activity)
    for done in (0, 500, 1000):
        board.note_bytes(activity, Progress("song.mp3", done, 1000))
    board.on_event(SplitCreated(split_id="split_1", idempotency_key="key-1", credits_used=3, at=100.0))
    for _ in range(3):
        board.note_split(activity, make_split("processing"))
    for stem in ("vocals", "drums"):
        board.note_bytes(activity, Progress(stem, 10, 20))
    assert lines == [
        "song.mp3: uploading 1.0 kB",
        "song.mp3: creating the split",
        "song.mp3: queued as split_1, 3 credits",
        "song.mp3: processing",
        "song.mp3: downloading",
    ]
    assert board.describe(activity) == "downloading 20 of 40 B"
    board.on_event(StageStarted(stage="mix", split_id="split_2", at=100.0))
    assert board.describe(activity) == "downloading 20 of 40 B"
    board.on_event(StageStarted(stage="mix", split_id="split_1", at=100.0))
    assert (lines[-1], board.describe(activity)) == ("song.mp3: mixing", "mixing 0:00")


def test_bytes_of_a_split_that_was_there_before_are_a_download() -> None:
    activity = Activity("song.mp3", "key-1")
    board, _, lines = make_board(activity)
    board.find_splits = lambda: setattr(activity, "split_id", "split_1")
    for done in (0, 20):
        board.note_bytes(activity, Progress("vocals", done, 20))
    assert lines == ["song.mp3: downloading"]


def test_an_event_of_another_key_changes_nothing() -> None:
    activity = Activity("song.mp3", "key-1")
    board, _, lines = make_board(activity)
    board.on_event(SplitCreated(split_id="split_1", idempotency_key="key-2", credits_used=3, at=100.0))
    assert activity.split_id is None
    assert lines == []


def test_between_upload_and_answer_a_create_may_be_under_way() -> None:
    activity = Activity("song.mp3", "key-1")
    board, _, _ = make_board(activity)
    seen = []
    for done in (5, 10):
        board.note_bytes(activity, Progress("song.mp3", done, 10))
        seen.append(activity.may_be_created)
    board.on_event(SplitCreated(split_id="split_1", idempotency_key="key-1", credits_used=3, at=100.0))
    seen.append(activity.may_be_created)
    assert seen == [False, True, False]


def test_the_rate_is_that_of_the_last_seconds_and_starts_over_with_the_transfer() -> None:
    activity = Activity("song.mp3")
    board, time, _ = make_board(activity)
    for second in range(20):
        time.now = 100.0 + second
        board.note_bytes(activity, Progress("song.mp3", second * (1000 if second < 10 else 2000), 10**6))
    assert activity.rate == 2000
    board.note_bytes(activity, Progress("song.mp3", 0, 10**6))
    assert activity.rate == 0


def test_the_expected_time_comes_from_splits_that_finished() -> None:
    done, running = Activity("a"), Activity("b", split_id="split_2", credits_used=30)
    board, time, _ = make_board(done, running)
    running.enter("processing", 100.0)
    time.now = 107.0
    assert board.describe(running) == "processing 0:07"
    board.note_split(done, Split("split_1", "succeeded"))  # says neither its price nor its times
    assert board.describe(running) == "processing 0:07"
    board.note_split(done, make_split("succeeded", used=10, took=5))
    assert board.describe(running) == "processing 0:07 of about 0:15"


def test_an_unknown_status_is_shown_as_it_is() -> None:
    activity = Activity("a")
    board, _, lines = make_board(activity)
    board.note_split(activity, make_split("mastering"))
    assert lines == ["a: mastering"]
    assert board.describe(activity) == "mastering 0:00"


def test_a_closed_gate_is_logged_once_and_shown_until_it_opens() -> None:
    board, time, lines = make_board(Activity("a"))
    refused = "could not get the split: HTTP 429"
    board.on_event(RetryPlanned(stage="get", delay=12.0, reason=refused, at=100.0))
    board.on_event(GateClosed(duration=12.0, at=100.0))
    assert lines == ["the key's request limit is reached; continuing in 12 s"]
    time.now += 5
    assert board.notice == "the key's request limit is reached; continuing in 7 s"
    time.now += 8.5
    assert board.notice is None


def test_a_retry_is_logged_with_its_reason() -> None:
    board, _, lines = make_board(Activity("a"))
    board.on_event(RetryPlanned(stage="upload", delay=0.2, reason="the worker said HTTP 429", at=100.0))
    board.on_event(RetryPlanned(stage="create", delay=3.0, reason="connection \x1b[2J lost", at=100.0))
    assert lines == [
        "the worker said HTTP 429; trying again in a moment",
        r"connection \x1b[2J lost; trying again in 3 s",
    ]


def test_calls_that_wait_for_a_slot_are_shown() -> None:
    activity = Activity("a")
    board, time, lines = make_board(activity)
    board.enter(activity, STARTING)
    board.queue_length = lambda: 2
    assert board.notice == "2 requests waiting for the key's limit"
    assert (lines, board.due_lines()) == ([], [])
    time.now += 10
    assert board.due_lines() == ["a: starting (2 requests waiting for the key's limit)"]
    assert board.due_lines() == []
