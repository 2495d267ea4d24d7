from __future__ import annotations

from datetime import UTC, datetime, timedelta

import attrs

from aistemsplitter_async import Progress, Split
from aistemsplitter_async.cli.screen.board import Board, Track
from aistemsplitter_async.events import GateClosed, RetryPlanned, SplitCreated


@attrs.define
class Notes:
    """A view that writes down what it is told."""

    lines: list[str] = attrs.field(factory=list)
    board: Board | None = None

    def changed(self, track: Track) -> None:
        assert self.board is not None
        self.lines.append(f"{track.label}: {self.board.announce(track)}")

    def noticed(self, text: str) -> None:
        self.lines.append(text)


@attrs.define
class Time:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def make_board(*tracks: Track) -> tuple[Board, Time, Notes]:
    time, notes = Time(), Notes()
    board = Board(list(tracks), now=time)
    board.view, notes.board = notes, board
    return board, time, notes


def make_split(status: str, *, used: float = 10.0, took: float = 5.0) -> Split:
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    return Split("split_1", status, "4s", used, begin, begin + timedelta(seconds=took))


def test_a_track_goes_from_upload_to_download_and_tells_each_phase_once() -> None:
    track = Track("song.mp3", "key-1")
    board, _, notes = make_board(track)
    for done in (0, 500, 1000):
        board.note_bytes(track, Progress("song.mp3", done, 1000))
    board.on_event(SplitCreated(split_id="split_1", idempotency_key="key-1", credits_used=3, at=100.0))
    for _ in range(3):
        board.note_split(track, make_split("processing"))
    for stem in ("vocals", "drums"):
        board.note_bytes(track, Progress(stem, 10, 20))
    assert notes.lines == [
        "song.mp3: uploading 1.0 kB",
        "song.mp3: creating the split",
        "song.mp3: queued as split_1, 3 credits",
        "song.mp3: processing",
        "song.mp3: downloading",
    ]
    assert board.describe(track) == "downloading 20 of 40 B"


def test_bytes_of_a_split_that_was_there_before_are_a_download() -> None:
    track = Track("song.mp3", "key-1")
    board, _, notes = make_board(track)
    board.look = lambda: setattr(track, "split_id", "split_1")
    for done in (0, 20):
        board.note_bytes(track, Progress("vocals", done, 20))
    assert notes.lines == ["song.mp3: downloading"]


def test_an_event_of_another_key_changes_no_track() -> None:
    track = Track("song.mp3", "key-1")
    board, _, notes = make_board(track)
    board.on_event(SplitCreated(split_id="split_1", idempotency_key="key-2", credits_used=3, at=100.0))
    assert track.split_id is None
    assert notes.lines == []


def test_between_upload_and_answer_a_create_may_be_under_way() -> None:
    track = Track("song.mp3", "key-1")
    board, _, _ = make_board(track)
    seen = []
    for done in (5, 10):
        board.note_bytes(track, Progress("song.mp3", done, 10))
        seen.append(track.may_be_created)
    board.on_event(SplitCreated(split_id="split_1", idempotency_key="key-1", credits_used=3, at=100.0))
    seen.append(track.may_be_created)
    assert seen == [False, True, False]


def test_the_rate_is_that_of_the_last_seconds_and_starts_over_with_the_transfer() -> None:
    track = Track("song.mp3")
    board, time, _ = make_board(track)
    for second in range(20):
        time.now = 100.0 + second
        board.note_bytes(track, Progress("song.mp3", second * (1000 if second < 10 else 2000), 10**6))
    assert track.rate == 2000
    board.note_bytes(track, Progress("song.mp3", 0, 10**6))
    assert track.rate == 0


def test_the_expected_time_comes_from_splits_that_finished() -> None:
    done, running = Track("a"), Track("b", split_id="split_2", credits_used=30)
    board, time, _ = make_board(done, running)
    running.enter("processing", 100.0)
    time.now = 107.0
    assert board.describe(running) == "processing 0:07"
    board.note_split(done, make_split("succeeded", used=10, took=5))
    assert board.describe(running) == "processing 0:07 of about 0:15"


def test_a_status_nobody_knows_yet_is_shown_as_it_is() -> None:
    track = Track("a")
    board, _, notes = make_board(track)
    board.note_split(track, make_split("mastering"))
    assert notes.lines == ["a: mastering"]
    assert board.describe(track) == "mastering 0:00"


def test_a_closed_gate_is_told_once_and_shown_until_it_opens() -> None:
    board, time, notes = make_board(Track("a"))
    refused = "could not get the split: HTTP 429"
    board.on_event(RetryPlanned(stage="get", delay=12.0, reason=refused, at=100.0))
    board.on_event(GateClosed(duration=12.0, at=100.0))
    assert notes.lines == ["the key's request limit is reached; going on in 12 s"]
    time.now += 5
    assert board.notice == "the key's request limit is reached; going on in 7 s"
    time.now += 8.5
    assert board.notice is None


def test_a_retry_is_told_with_its_reason() -> None:
    board, _, notes = make_board(Track("a"))
    board.on_event(RetryPlanned(stage="upload", delay=0.2, reason="the worker said HTTP 429", at=100.0))
    board.on_event(RetryPlanned(stage="create", delay=3.0, reason="connection \x1b[2J lost", at=100.0))
    assert notes.lines == [
        "the worker said HTTP 429; trying again in a moment",
        r"connection \x1b[2J lost; trying again in 3 s",
    ]


def test_calls_that_wait_for_a_slot_are_no_silent_wait() -> None:
    board, _, _ = make_board(Track("a"))
    board.queue_length = lambda: 2
    assert board.notice == "2 requests waiting for the key's limit"
