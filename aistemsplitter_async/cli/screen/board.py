"""What is happening to each source right now: plain state. `live` shows it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from statistics import median
from typing import Protocol

import attrs

from aistemsplitter_async._transfer.meter import Progress
from aistemsplitter_async.cli.screen.render import clock, price, share, show, size, words
from aistemsplitter_async.events import Event, GateClosed, RetryPlanned, SplitCreated
from aistemsplitter_async.models import Split

WAITING, STARTING, UPLOADING, CREATING = "waiting", "starting", "uploading", "creating the split"
QUEUED, PROCESSING, DOWNLOADING = "queued", "processing", "downloading"
DONE, FAILED = "done", "failed"
OVER = frozenset({DONE, FAILED})

_RATE_WINDOW = 5.0  # s: long enough to be steady, short enough to notice a change
_WORTH_READING = 1.0  # s that a notice stays longer than what it tells of: a short one could not be read
_HOST_STAGES = frozenset({"upload", "download"})  # what is not sent to the API passes no gate


class View(Protocol):
    """Shows a board to somebody."""

    def changed(self, track: Track) -> None:
        """Take note that `track` entered a phase."""
        ...

    def noticed(self, text: str) -> None:
        """Take note of something that concerns all tracks."""
        ...


@attrs.define(eq=False)
class Track:
    """One source, or one split that exists already. Times are monotonic seconds."""

    label: str
    key: str = ""
    phase: str = WAITING
    since: float = 0.0  # when the phase began
    split_id: str | None = None
    credits_used: float | None = None
    moved: dict[str, Progress] = attrs.field(factory=dict)
    _history: deque[tuple[float, int]] = attrs.field(factory=deque, init=False)

    @property
    def is_active(self) -> bool:
        """Return whether there is something to see."""
        return self.phase not in OVER and self.phase != WAITING

    @property
    def may_be_created(self) -> bool:
        """Return whether a create may be under way whose answer is not here."""
        return self.phase == CREATING and self.split_id is None

    @property
    def done_bytes(self) -> int:
        """Return how much of the present transfer is done."""
        return sum(progress.done_bytes for progress in self.moved.values())

    @property
    def total_bytes(self) -> int | None:
        """Return how much there is to transfer, `None` while that is not known."""
        totals = [progress.total_bytes for progress in self.moved.values()]
        return sum(total for total in totals if total) if totals and None not in totals else None

    @property
    def rate(self) -> float:
        """Return the bytes per second of the last few seconds."""
        if len(self._history) < 2:  # noqa: PLR2004
            return 0.0
        (begin, first), (end, last) = self._history[0], self._history[-1]
        return max(0.0, (last - first) / (end - begin)) if end > begin else 0.0

    def note_bytes(self, progress: Progress, now: float) -> None:
        """Take note of a transfer's progress."""
        self.moved[progress.name] = progress
        if self._history and self.done_bytes < self._history[-1][1]:
            self._history.clear()  # it started over
        self._history.append((now, self.done_bytes))
        while now - self._history[0][0] > _RATE_WINDOW:
            self._history.popleft()

    def enter(self, phase: str, now: float) -> None:
        """Begin a phase."""
        self.phase, self.since = phase, now
        if phase in (UPLOADING, DOWNLOADING):
            self.moved.clear()
            self._history.clear()


class Board:
    """All tracks of a command, and what holds them up.

    Args:
        tracks: in the order in which to show them.
        now: monotonic seconds.
    """

    def __init__(self, tracks: list[Track], *, now: Callable[[], float]) -> None:
        self.tracks = tracks
        self.now = now
        self.view: View | None = None
        self.on_created: Callable[[Track, float], None] | None = None
        self.look: Callable[[], None] = lambda: None  # takes note of splits that exist already, before they are shown
        self.queue_length: Callable[[], int] = lambda: 0  # calls waiting for a slot of the key's limit
        self._notice: tuple[str, float] | None = None
        self._paces: list[float] = []  # seconds of processing per credit, of finished splits

    def enter(self, track: Track, phase: str) -> None:
        """Let a track begin a phase, if it is not in it already."""
        if track.phase != phase:
            track.enter(phase, self.now())
            if self.view is not None:
                self.view.changed(track)

    def note_bytes(self, track: Track, progress: Progress) -> None:
        """Take note of an upload before the split exists, of a download afterwards."""
        if track.split_id is None and track.phase != UPLOADING:
            self.look()
        phase = UPLOADING if track.split_id is None else DOWNLOADING
        changed = track.phase != phase
        if changed:
            track.enter(phase, self.now())
        track.note_bytes(progress, self.now())
        if changed and self.view is not None:
            self.view.changed(track)
        if phase == UPLOADING and progress.done_bytes == progress.total_bytes:
            self.enter(track, CREATING)

    def note_split(self, track: Track, split: Split) -> None:
        """Take note of what a look at the split showed."""
        track.split_id, track.credits_used = split.id, split.credits_used
        if not split.is_terminal:
            if track.phase != DOWNLOADING:
                self.enter(track, split.status)
        elif split.credits_used > 0:
            self._paces.append((split.updated_at - split.created_at).total_seconds() / split.credits_used)

    def expected(self, track: Track) -> float | None:
        """Return how long a track's processing should take, judged by the splits that finished; `None` if none did."""
        return median(self._paces) * track.credits_used if self._paces and track.credits_used else None

    def on_event(self, event: Event) -> None:
        """Take note of what the client tells."""
        if isinstance(event, SplitCreated):
            track = next((track for track in self.tracks if track.key == event.idempotency_key), None)
            if track is not None:
                track.split_id, track.credits_used = event.split_id, event.credits_used
                self.enter(track, QUEUED)
                if self.on_created is not None:
                    self.on_created(track, event.at)
        elif isinstance(event, GateClosed):
            self._note("the key's request limit is reached; going on in", event.duration)
        # A refused API request closes the gate, which is told right after this; hosts have no gate.
        elif isinstance(event, RetryPlanned) and ("HTTP 429" not in event.reason or event.stage in _HOST_STAGES):
            self._note(f"{show(event.reason)}; trying again in", event.delay)

    def _note(self, text: str, duration: float) -> None:
        self._notice = (text, self.now() + duration)
        if self.view is not None:
            self.view.noticed(f"{text} {_soon(duration)}")

    @property
    def notice(self) -> str | None:
        """Return what holds everything up at the moment, if anything does."""
        if self._notice is not None and self.now() < self._notice[1] + _WORTH_READING:
            return f"{self._notice[0]} {_soon(self._notice[1] - self.now())}"
        waiting = self.queue_length()
        return f"{waiting} request{'s' * (waiting > 1)} waiting for the key's limit" if waiting else None

    def describe(self, track: Track) -> str:
        """Return what a track is doing, with figures."""
        elapsed = self.now() - track.since
        if track.phase in (UPLOADING, DOWNLOADING):
            moved = share(track.done_bytes, track.total_bytes) if track.moved else ""
            rate = f", {size(track.rate)}/s" if track.rate else ""
            return f"{track.phase} {moved}{rate}".rstrip()
        if track.phase in (STARTING, CREATING):
            return track.phase
        expected = self.expected(track) if track.phase in (QUEUED, PROCESSING) else None
        of_about = f" of about {clock(expected)}" if expected is not None and track.phase == PROCESSING else ""
        return f"{show(track.phase)} {clock(elapsed)}{of_about}"

    def announce(self, track: Track) -> str:
        """Return the line that tells that a track entered its phase."""
        if track.phase == QUEUED and track.split_id:
            cost = f", {price(track.credits_used)}" if track.credits_used is not None else ""
            return f"queued as {track.split_id}{cost}"
        if track.phase == UPLOADING and track.total_bytes:
            return f"uploading {size(track.total_bytes)}"
        return show(track.phase)


def _soon(seconds: float) -> str:
    return words(seconds) if seconds >= 1 else "a moment"
