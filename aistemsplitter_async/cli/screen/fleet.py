"""All workers on a shared journal, in words and as JSON. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from aistemsplitter_async._plain import to_plain
from aistemsplitter_async.batch.progress import BatchProgress, parse_status
from aistemsplitter_async.cli.screen.batch_view import describe_stages
from aistemsplitter_async.cli.screen.render import clock, columns, number, show
from aistemsplitter_async.journal.workers import SharedCredits, Worker

_STATES: Final = (  # of the journal, in the order of a track's life
    ("found", "not begun"),
    ("uploaded", "uploaded"),
    ("intent", "being created"),
    ("uncertain", "perhaps created"),
    ("needs_review", "needs review"),
    ("created", "being split"),
    ("succeeded", "to be downloaded"),
    ("downloaded", "finished"),
    ("failed", "failed"),
)


@attrs.frozen
class Fleet:
    """Who is at work on a shared journal.

    Attributes:
        workers: those at work.
        tracks: number of tracks per state, all runs together.
        credits: what they may spend together; `None` if that is not limited.
    """

    workers: Sequence[Worker]
    tracks: Mapping[str, int]
    credits: SharedCredits | None = None

    def describe(self, now: float) -> list[str]:
        """Return lines about them, for a moment in POSIX seconds."""
        count = len(self.workers)
        rows = [("state", f"{count} worker{'s' * (count != 1)} running" if count else "no worker is running")]
        rows += describe_counts(self.tracks)
        if self.credits is not None:
            aside = f", {number(self.credits.reserved)} set aside" if self.credits.reserved else ""
            rows.append(
                ("credits", f"{number(self.credits.used)} of {number(self.credits.most)} spent together{aside}")
            )
        for worker in self.workers:
            who = (
                f"process {worker.process} for {clock(now - worker.began)}, lease {max(0.0, worker.seconds_left):.0f} s"
            )
            rows.append((show(worker.host), who))
            if (progress := find_progress(worker)) is not None:
                rows.append(("", _describe_progress(progress)))
        return columns(rows, indent="")

    def as_json(self) -> dict[str, Any]:
        """Return the object that scripts get."""
        spent = self.credits
        return {
            "running": bool(self.workers),
            "workers": [
                {
                    "host": worker.host,
                    "pid": worker.process,
                    "began": worker.began,
                    "lease_left": worker.seconds_left,
                    "progress": to_plain(find_progress(worker)),
                }
                for worker in self.workers
            ],
            "tracks": dict(self.tracks),
            "credits": None if spent is None else {"most": spent.most, "used": spent.used, "reserved": spent.reserved},
        }


def describe_counts(tracks: Mapping[str, int]) -> list[tuple[str, str]]:
    """Return how many tracks are in each state, those without any left out."""
    return [(name, f"{tracks[key]:,}") for key, name in _STATES if tracks.get(key)]


def find_progress(worker: Worker) -> BatchProgress | None:
    """Return the progress that a worker shows; `None` as long as it shows none, or is of another version."""
    try:
        return parse_status(worker.status).progress
    except ValueError:
        return None


def describe_others(workers: Sequence[Worker], host: str, process: int) -> list[str]:
    """Return what all workers do but that of a process on a host, each in words."""
    return [_describe_worker(worker) for worker in workers if (worker.host, worker.process) != (host, process)]


def _describe_worker(worker: Worker) -> str:
    progress = find_progress(worker)
    doing = "" if progress is None else f" ({_describe_progress(progress)})"
    return f"process {worker.process} on {worker.host}{doing}"


def _describe_progress(progress: BatchProgress) -> str:
    failed = f", {progress.failed:,} failed" if progress.failed else ""
    return f"{progress.done:,} split{failed}; {describe_stages(progress)}"
