"""The state of a command's work on each of a few sources or splits, fed with events, for `live` to show."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from statistics import median

import attrs

from aistemsplitter_async._transfer.meter import Progress
from aistemsplitter_async.cli.screen.frame import Frame, Row
from aistemsplitter_async.cli.screen.render import clock, price, share, show, size, words
from aistemsplitter_async.errors import AIStemSplitterError
from aistemsplitter_async.events import Event, GateClosed, RetryPlanned, SplitCreated, StageStarted
from aistemsplitter_async.models import Split

WAITING, STARTING, UPLOADING, CREATING = "waiting", "starting", "uploading", "creating the split"
QUEUED, PROCESSING, DOWNLOADING, MIXING = "queued", "processing", "downloading", "mixing"
DONE, FAILED = "done", "failed"

HOST_STAGES = frozenset({"upload", "download"})  # their requests go to other hosts, so the key's limit does not count

_HEARTBEAT = 10.0  # s after which a line is due about an activity without one
_RATE_WINDOW = 5.0  # s: long enough to be steady, short enough to notice a change
_MIN_NOTICE = 1.0  # s that a notice stays after its cause has passed: a shorter one could not be read


@attrs.define(eq=False)
class Activity:
    """The work on one source, or on one split that exists already. Times are monotonic seconds.

    Attributes:
        label: its name on the screen.
        key: the idempotency key of its create.
        phase: what is being done: one of the constants above, or a split's status.
        since: when the phase began.
        logged_at: when a line about it was written.
        split_id: once a split exists.
        credits_used: of that split.
    """

    label: str
    key: str = ""
    phase: str = WAITING
    since: float = 0.0
    logged_at: float = 0.0
    split_id: str | None = None
    credits_used: float | None = None
    _moved: dict[str, Progress] = attrs.field(factory=dict[str, Progress], init=False)
    _history: deque[tuple[float, int]] = attrs.field(factory=deque, init=False)

    @property
    def is_over(self) -> bool:
        """Return whether it has ended."""
        return self.phase in (DONE, FAILED)

    @property
    def is_active(self) -> bool:
        """Return whether there is something to show."""
        return self.phase not in (WAITING, DONE, FAILED)

    @property
    def is_transfer(self) -> bool:
        """Return whether bytes are being moved."""
        return self.phase in (UPLOADING, DOWNLOADING)

    @property
    def may_be_created(self) -> bool:
        """Return whether its create may have been sent and is not answered."""
        return self.phase == CREATING and self.split_id is None

    @property
    def done_bytes(self) -> int:
        """Return how much of the present transfer is done."""
        return sum(progress.done_bytes for progress in self._moved.values())

    @property
    def total_bytes(self) -> int | None:
        """Return how much there is to transfer, `None` while that is not known."""
        totals = [progress.total_bytes for progress in self._moved.values()]
        return sum(total for total in totals if total) if totals and None not in totals else None

    @property
    def rate(self) -> float:
        """Return the bytes per second of the last few seconds."""
        if len(self._history) < 2:  # noqa: PLR2004  # a rate needs two points
            return 0.0
        (begin, first), (end, last) = self._history[0], self._history[-1]
        return max(0.0, (last - first) / (end - begin)) if end > begin else 0.0

    def note_bytes(self, progress: Progress, now: float) -> None:
        """Record the progress of a transfer."""
        self._moved[progress.name] = progress
        if self._history and self.done_bytes < self._history[-1][1]:
            self._history.clear()  # it started over
        self._history.append((now, self.done_bytes))
        while now - self._history[0][0] > _RATE_WINDOW:
            self._history.popleft()

    def enter(self, phase: str, now: float) -> None:
        """Begin a phase."""
        self.phase, self.since, self.logged_at = phase, now, now
        if self.is_transfer:
            self._moved.clear()
            self._history.clear()


class Board:
    """All activities of a command, and the reason why they are held up, if they are.

    Attributes:
        activities: in the order in which they are shown.
        follow_split: begins to follow the split of an activity; is given the time of its creation, if that is known.
        find_splits: records splits that existed before the command, if there may be any.
        queue_length: returns how many calls wait for a slot of the key's limit.
        trouble: returns why nothing at all is sent, if that is so.

    Args:
        activities: in the order in which to show them.
        now: monotonic seconds.
        log: writes a line where a phase begins or everything is held up.
    """

    def __init__(
        self, activities: Sequence[Activity], *, now: Callable[[], float], log: Callable[[str], None] = lambda _: None
    ) -> None:
        self.activities = activities
        self._now = now
        self.follow_split: Callable[[Activity, float | None], None] = lambda *_: None
        self.find_splits: Callable[[], None] = lambda: None
        self.queue_length: Callable[[], int] = lambda: 0
        self.trouble: Callable[[], str | None] = lambda: None
        self._log = log
        self._began = now()
        self._notice: tuple[str, float] | None = None
        self._paces: list[float] = []  # seconds of processing per credit, of finished splits

    def enter(self, activity: Activity, phase: str) -> None:
        """Begin a phase of an activity, if it is not in it already."""
        if activity.phase != phase:
            activity.enter(phase, self._now())
            self._announce(activity)

    def note_bytes(self, activity: Activity, progress: Progress) -> None:
        """Record the progress of an upload, if there is no split yet, or of a download."""
        if activity.split_id is None and activity.phase != UPLOADING:
            self.find_splits()
        phase = UPLOADING if activity.split_id is None else DOWNLOADING
        begins = activity.phase != phase
        if begins:
            activity.enter(phase, self._now())
        activity.note_bytes(progress, self._now())
        if begins:
            self._announce(activity)
        if phase == UPLOADING and progress.done_bytes == progress.total_bytes:
            self.enter(activity, CREATING)

    def note_split(self, activity: Activity, split: Split) -> None:
        """Record the state of a split."""
        activity.split_id, activity.credits_used = split.id, split.credits_used
        if not split.is_terminal:
            if activity.phase != DOWNLOADING:
                self.enter(activity, split.status)
        elif split.credits_used and (seconds := split.processing_seconds) is not None:
            self._paces.append(seconds / split.credits_used)

    async def follow(self, activity: Activity, updates: AsyncIterator[Split]) -> None:
        """Record the states of a split until it is terminal."""
        with suppress(AIStemSplitterError):  # the call that waits for the split raises it too, and reports it
            async for split in updates:
                self.note_split(activity, split)

    def on_event(self, event: Event) -> None:
        """Record an event of the client."""
        if isinstance(event, SplitCreated):
            activity = next((one for one in self.activities if one.key == event.idempotency_key), None)
            if activity is not None:
                activity.split_id, activity.credits_used = event.split_id, event.credits_used
                self.enter(activity, QUEUED)
                self.follow_split(activity, event.at)
        elif isinstance(event, StageStarted) and event.stage == "mix":
            activity = next((one for one in self.activities if one.split_id == event.split_id), None)
            if activity is not None:
                self.enter(activity, MIXING)
        elif isinstance(event, GateClosed):
            self._hold_up("the key's request limit is reached; continuing in", event.duration)
        # After a 429 of the API comes a `GateClosed`, which is enough; other hosts have no gate.
        elif isinstance(event, RetryPlanned) and ("HTTP 429" not in event.reason or event.stage in HOST_STAGES):
            self._hold_up(f"{show(event.reason)}; trying again in", event.delay)

    @property
    def notice(self) -> str | None:
        """Return the reason why everything is held up at the moment, if it is."""
        if (trouble := self.trouble()) is not None:
            return show(trouble)
        if self._notice is not None and self._now() < self._notice[1] + _MIN_NOTICE:
            return f"{self._notice[0]} {_soon(self._notice[1] - self._now())}"
        waiting = self.queue_length()
        return f"{waiting} request{'s' * (waiting > 1)} waiting for the key's limit" if waiting else None

    def describe(self, activity: Activity) -> str:
        """Return the activity in words, with figures."""
        elapsed = self._now() - activity.since
        if activity.is_transfer:
            moved = share(activity.done_bytes, activity.total_bytes)
            rate = f", {size(activity.rate)}/s" if activity.rate else ""
            return f"{activity.phase} {moved}{rate}"
        if activity.phase in (STARTING, CREATING):
            return activity.phase
        expected = self._expected(activity)
        of_about = f" of about {clock(expected)}" if expected is not None else ""
        return f"{show(activity.phase)} {clock(elapsed)}{of_about}"

    def frame(self) -> Frame:
        """Return the present content of a live terminal."""
        self.find_splits()
        over, total = sum(activity.is_over for activity in self.activities), len(self.activities)
        several = total > 1
        return Frame(
            title=f"{over} of {total} finished" if several else "",
            fraction=over / total,
            time=clock(self._now() - self._began) if several else "",
            rows=[Row(one.label, self.describe(one), self._fraction(one)) for one in self.activities if one.is_active],
            notices=[notice] if (notice := self.notice) else [],
        )

    def due_lines(self) -> list[str]:
        """Return a line for each activity that has been silent for a while."""
        self.find_splits()
        now, notice = self._now(), f" ({self.notice})" if self.notice else ""
        due = [one for one in self.activities if one.is_active and now - one.logged_at >= _HEARTBEAT]
        for activity in due:
            activity.logged_at = now
        return [f"{show(activity.label)}: {self.describe(activity)}{notice}" for activity in due]

    def _announce(self, activity: Activity) -> None:
        """Write that an activity entered its phase, unless the next phase follows at once."""
        text = show(activity.phase)
        if activity.phase == QUEUED and activity.split_id:
            cost = f", {price(activity.credits_used)}" if activity.credits_used is not None else ""
            text = f"queued as {activity.split_id}{cost}"
        elif activity.phase == UPLOADING and activity.total_bytes:
            text = f"uploading {size(activity.total_bytes)}"
        if activity.is_active and activity.phase != STARTING:
            self._log(f"{show(activity.label)}: {text}")

    def _hold_up(self, text: str, duration: float) -> None:
        self._notice = (text, self._now() + duration)
        self._log(f"{text} {_soon(duration)}")

    def _expected(self, activity: Activity) -> float | None:
        """Return how long the present processing should take, judged by the splits that finished before."""
        if activity.phase != PROCESSING or not self._paces or not activity.credits_used:
            return None
        return median(self._paces) * activity.credits_used

    def _fraction(self, activity: Activity) -> float | None:
        if activity.is_transfer:
            return min(1.0, activity.done_bytes / activity.total_bytes) if activity.total_bytes else None
        expected = self._expected(activity)
        return min(0.99, (self._now() - activity.since) / expected) if expected else None


def _soon(seconds: float) -> str:
    return words(seconds) if seconds >= 1 else "a moment"
