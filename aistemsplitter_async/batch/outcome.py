"""The outcomes of a batch's sources, one by one and all together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import attrs

from aistemsplitter_async._plain import PlainValue
from aistemsplitter_async.errors import AIStemSplitterError
from aistemsplitter_async.models import Split

if TYPE_CHECKING:
    from aistemsplitter_async._transfer.audio import Source
    from aistemsplitter_async.journal.record import StageName

SkipReason = Literal["finished", "duplicate", "elsewhere", "not begun"]


class _Outcome(PlainValue):
    """An outcome says in its `to_dict()` which of the three it is."""

    __slots__ = ()
    _kind: ClassVar[bool] = True


@attrs.frozen
class Done(_Outcome):
    """The source is split.

    Attributes:
        source: as it was given.
        split: its terminal state.
        files: by the names of stems and mixes; empty if nothing was to be downloaded.
        position: its number among the sources, from 0.
        gain_db: of each mix, what kept the sum of its stems from clipping: 0, or less if it is that many decibels
            quieter than the sum.
    """

    source: Source
    split: Split
    files: Mapping[str, Path]
    position: int = 0
    gain_db: Mapping[str, float] = attrs.field(factory=dict[str, float])


@attrs.frozen
class Failed(_Outcome):
    """The source has no stems. The journal has how far it got.

    Attributes:
        source: as it was given.
        stage: where it failed: `prepare` (it cannot be read, or has no price under `max_credits`), `upload`, `create`,
            `wait` or `download`.
        error: why. With a `split_id` or an `idempotency_key` if a split exists or may exist.
        position: its number among the sources, from 0.
    """

    source: Source
    stage: StageName
    error: AIStemSplitterError
    position: int = 0


@attrs.frozen
class Skipped(_Outcome):
    """There was nothing to do for the source, or it was not started.

    Attributes:
        source: as it was given.
        reason: `finished` (before this batch came to it), `duplicate` (the same audio or URL as an earlier source of
            this batch, which is done; had that failed, so would this one), `elsewhere` (another worker on the same
            journal had it in hand and has finished it; without a `split`, that worker still has it, and this batch
            stopped before the end), or `not begun` (the batch stopped creating splits first; running it again begins
            with it).
        position: its number among the sources, from 0.
        files: the stems and mixes, if they are on disk.
        same_as: for a duplicate, the source whose stems it shares.
        split: the finished one, without the URLs of its stems.
        gain_db: of each mix; see `Done`.
    """

    source: Source
    reason: SkipReason
    position: int = 0
    files: Mapping[str, Path] = attrs.field(factory=dict[str, Path])
    same_as: str | None = None
    split: Split | None = None
    gain_db: Mapping[str, float] = attrs.field(factory=dict[str, float])


Outcome = Done | Failed | Skipped


def kind_of(outcome: Outcome) -> Literal["done", "failed", "skipped"]:
    """Return as what a report counts an outcome."""
    return "done" if isinstance(outcome, Done) else "failed" if isinstance(outcome, Failed) else "skipped"


@attrs.frozen(kw_only=True)
class BatchReport(PlainValue):
    """The totals of a batch.

    Attributes:
        done: sources split in this run.
        failed: sources that failed.
        skipped: sources skipped, finished ones included.
        credits_used: credits of the splits created in this run.
        seconds: how long it took.
        stopped_by: the error because of which no more splits were created, if that happened.
        credits_used_by_all: credits of the splits created by all workers on the journal, this one among them; `None`
            unless they may spend no more than `max_credits` together.
    """

    done: int
    failed: int
    skipped: int
    credits_used: float
    seconds: float
    stopped_by: AIStemSplitterError | None = None
    credits_used_by_all: float | None = None
