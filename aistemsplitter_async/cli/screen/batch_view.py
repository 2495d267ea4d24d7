"""The progress of a batch in words and figures, from its `BatchProgress`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from aistemsplitter_async.batch.progress import BatchProgress, TrackProgress
from aistemsplitter_async.cli.screen.frame import Frame, Row
from aistemsplitter_async.cli.screen.render import charged, clock, share, show, shown_source, words
from aistemsplitter_async.journal.record import StageName

_HEARTBEAT = 15.0  # s between two lines where nothing can be redrawn
_VERBS: dict[StageName, str] = {
    "prepare": "preparing",
    "upload": "uploading",
    "create": "creating",
    "wait": "waiting",
    "download": "downloading",
    "mix": "mixing",
}


class Counted(Protocol):
    """The size of a library, as far as it has been counted."""

    @property
    def tracks(self) -> int:
        """Tracks that can be split."""
        ...

    @property
    def unusable(self) -> int:
        """Files that were found and cannot be split."""
        ...


def describe_stages(progress: BatchProgress) -> str:
    """Return how many tracks are in each stage, such as `3 uploading, 96 waiting`."""
    parts = [f"{progress.stages[stage]} {verb}" for stage, verb in _VERBS.items() if progress.stages.get(stage)]
    if progress.elsewhere:
        parts.append(f"{progress.elsewhere} with other workers")
    return ", ".join(parts) or "nothing in progress"


def describe_budget(progress: BatchProgress) -> str:
    """Return the requests used and the credits spent."""
    gate = progress.gate
    used = f"{gate.used} of {gate.limit}" if gate.limit is not None else f"{gate.used}"
    closed = f", gate closed for {gate.closed_for:.0f} s" if gate.closed_for >= 1 else ""
    further = "".join(f", {one.used:,} of {one.limit:,} in the last {words(one.per)}" for one in gate.further)
    spent = charged(progress.credits_used, 0, progress.credits_used_by_all)
    return f"{used} requests in the last {words(gate.per)}{further}{closed}, {spent}"


def describe_count(progress: BatchProgress, counted: Counted) -> str:
    """Return the progress in numbers, such as `12 of 40, 1 failed`."""
    failures = progress.failed + counted.unusable
    failed = f", {failures:,} failed" if failures else ""
    if progress.draining:  # tracks that are not begun count as skipped, which is not progress
        return f"{progress.done:,} split, {sum(progress.stages.values()):,} to finish{failed}"
    total = f"{max(counted.tracks, progress.taken):,}+" if progress.total is None else f"{progress.total:,}"
    return f"{over(progress):,} of {total}{failed}"


def describe_track(track: TrackProgress) -> str:
    """Return the stage of one track in words, with figures."""
    verb = _VERBS[track.stage]
    if track.stage in ("upload", "download") and track.done_bytes:
        return f"{verb} {share(track.done_bytes, track.total_bytes or None)}"
    return f"{verb} {clock(track.seconds)}"


def over(progress: BatchProgress) -> int:
    """Return how many tracks have ended: done, failed or skipped."""
    return progress.done + progress.failed + progress.skipped


class BatchView:
    """Shows a running batch.

    Args:
        progress: returns the batch's progress.
        counted: the size of the library.
        now: monotonic seconds.
    """

    def __init__(self, progress: Callable[[], BatchProgress], counted: Counted, *, now: Callable[[], float]) -> None:
        self._progress = progress
        self._counted = counted
        self._now = now
        self._logged_at = now()

    def due_lines(self) -> list[str]:
        """Return everything on one line, now and then."""
        if self._now() - self._logged_at < _HEARTBEAT:
            return []
        self._logged_at = self._now()
        progress = self._progress()
        parts = [
            describe_count(progress, self._counted),
            describe_stages(progress),
            describe_budget(progress),
            _ending(progress),
            *progress.notices,
        ]
        return [show("; ".join(part for part in parts if part))]

    def frame(self) -> Frame:
        """Return the present content of a live terminal."""
        progress = self._progress()
        ended, total = over(progress), progress.total
        if progress.draining:
            ended, total = progress.done, progress.done + sum(progress.stages.values())
        return Frame(
            title=describe_count(progress, self._counted),
            fraction=None if total is None else min(1.0, ended / max(1, total)),
            time=f"{clock(progress.seconds)}  {_ending(progress)}".rstrip(),
            facts=[describe_stages(progress), describe_budget(progress)],
            rows=[
                Row(_short_name(track.label), describe_track(track), _fraction(track))
                for track in progress.active
                if track.label
            ],
            notices=progress.notices,
        )


def _ending(progress: BatchProgress) -> str:
    if progress.draining:
        return "finishing what is paid for"
    return f"about {words(progress.seconds_left)} left" if progress.seconds_left else ""


def _short_name(label: str) -> str:
    return "/".join(shown_source(label).rsplit("/", 2)[-2:])  # many songs are named by their folder


def _fraction(track: TrackProgress) -> float | None:
    is_transfer = track.stage in ("upload", "download") and track.total_bytes
    return min(1.0, track.done_bytes / track.total_bytes) if is_transfer else None
