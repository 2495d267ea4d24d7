"""The progress of a batch: for the program that runs it, and through a small file for other processes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import attrs
import cattrs

from aistemsplitter_async._files import replacing
from aistemsplitter_async._gate.snapshot import GateSnapshot
from aistemsplitter_async._plain import PlainValue
from aistemsplitter_async.journal.record import StageName


@attrs.frozen(kw_only=True)
class TrackProgress(PlainValue):
    """One source that is being worked on.

    Attributes:
        label: its name on the screen.
        stage: what is being done with it.
        seconds: how long that has taken so far.
        done_bytes: of an upload or download.
        total_bytes: what there will be, 0 if unknown.
        split_id: once there is one.
        position: its number among the sources, from 0.
    """

    label: str
    stage: StageName
    seconds: float
    done_bytes: int = 0
    total_bytes: int = 0
    split_id: str | None = None
    position: int = 0


@attrs.frozen(kw_only=True)
class BatchProgress(PlainValue):
    """The progress of a batch at one moment.

    Attributes:
        seconds: since it started.
        taken: sources taken in so far.
        exhausted: whether those were all.
        done: split in this run.
        failed: failed in this run.
        skipped: finished earlier, duplicates, not begun.
        stages: how many are in each stage.
        credits_used: of splits created in this run.
        paid: how many of those under way are paid for, or may be: their create was sent.
        active: some of those being worked on, transfers first.
        elsewhere: sources whose songs other workers on the same journal have in hand now.
        credits_used_by_all: of splits created by all workers on the journal, as far as this one knows; `None` unless
            they may spend no more than `max_credits` together.
        notices: the outages that are being waited out.
        draining: whether no more splits are created.
        gate: the key's budget.
        processing: seconds a split usually takes, if that is known.
        total: number of sources, if `Batch.expect` was given it.
        seconds_left: how long it still takes, if `Batch.expect` was given it.
    """

    seconds: float
    taken: int
    exhausted: bool
    done: int
    failed: int
    skipped: int
    stages: Mapping[StageName, int]
    credits_used: float
    active: tuple[TrackProgress, ...]
    notices: tuple[str, ...]
    draining: bool
    gate: GateSnapshot
    processing: float | None
    paid: int = 0
    elsewhere: int = 0
    credits_used_by_all: float | None = None
    total: int | None = None
    seconds_left: float | None = None


@attrs.frozen(kw_only=True)
class BatchStatus(PlainValue):
    """The content of the status file.

    Attributes:
        at: when it was written (POSIX seconds).
        pid: the process that runs, or ran, the batch.
        ended: whether it ended by itself, rather than by a kill.
        tracks: number of tracks in the journal per state, all runs together.
        progress: of the newest run.
    """

    at: float
    pid: int
    ended: bool
    tracks: Mapping[str, int]
    progress: BatchProgress


def write_status(path: Path, status: BatchStatus) -> None:
    """Replace the status file; a reader sees the old one or the new one.

    Raises:
        OSError: it cannot be written.
    """
    with replacing(path) as file:
        file.write(dump_status(status))


def dump_status(status: BatchStatus) -> str:
    """Return a status as text."""
    return json.dumps(cattrs.unstructure(status))


def read_status(path: Path) -> BatchStatus:
    """Read the status file; the journal is not touched.

    Raises:
        OSError: there is none, or it cannot be read.
        ValueError: it is not a status.
    """
    saved = path.read_bytes()
    try:
        return parse_status(saved)
    except ValueError:
        raise ValueError(
            f"{path} is not the status of a batch, perhaps after a power cut; the journal has everything, and the next "
            "run writes the status anew"
        ) from None


def parse_status(text: str | bytes) -> BatchStatus:
    """Return the status that `dump_status` wrote.

    Raises:
        ValueError: it is none.
    """
    try:
        return cattrs.structure(json.loads(text), BatchStatus)
    except Exception as error:  # noqa: BLE001  # cattrs raises many kinds, and none of them says more
        raise ValueError(f"it is not the status of a batch: {error}") from None
