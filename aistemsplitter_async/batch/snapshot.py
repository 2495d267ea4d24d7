"""How far a running batch is, from what its parts know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from aistemsplitter_async.batch.context import BatchContext
from aistemsplitter_async.batch.outcome import BatchReport
from aistemsplitter_async.batch.progress import BatchProgress
from aistemsplitter_async.batch.standing import Standing
from aistemsplitter_async.journal.record import StageName

_SHOWN = 30  # tracks a snapshot names
_LIVELY_FIRST: tuple[StageName, ...] = ("upload", "download", "mix", "create", "prepare", "wait")


def take_snapshot(
    context: BatchContext,
    standings: Iterable[Standing],
    counts: Counter[str],
    *,
    now: float,
    seconds: float,
    exhausted: bool,
    elsewhere: int,
    expected: tuple[int | None, float | None],
) -> BatchProgress:
    """Return the progress of a batch.

    Args:
        context: of the batch.
        standings: of its running tracks.
        counts: of sources: taken, and by outcome.
        now: by the clock of the tracks.
        seconds: since the batch began.
        exhausted: whether there are no more sources.
        elsewhere: how many wait for another worker.
        expected: how many sources there are, and the seconds left for them.
    """
    active = sorted(standings, key=lambda standing: (_LIVELY_FIRST.index(standing.stage), standing.since))
    return BatchProgress(
        seconds=seconds,
        taken=counts["taken"],
        exhausted=exhausted,
        done=counts["done"],
        failed=counts["failed"],
        skipped=counts["skipped"],
        stages=dict(Counter(standing.stage for standing in active)),
        credits_used=context.budget.used,
        paid=sum(standing.is_paid for standing in active),
        active=tuple(standing.build_progress(now) for standing in active[:_SHOWN]),
        notices=tuple(context.notices),
        draining=context.stop_switch.is_on,
        gate=context.gate.snapshot(),
        processing=context.engine.poller.typical(),
        elsewhere=elsewhere,
        credits_used_by_all=context.budget.used_by_all if context.spends_together else None,
        total=expected[0],
        seconds_left=expected[1],
    )


def build_report(context: BatchContext, counts: Counter[str], seconds: float) -> BatchReport:
    """Return the totals of a batch that took so long."""
    return BatchReport(
        done=counts["done"],
        failed=counts["failed"],
        skipped=counts["skipped"],
        credits_used=context.budget.used,
        seconds=seconds,
        stopped_by=context.stop_switch.reason,
        credits_used_by_all=context.budget.used_by_all if context.spends_together else None,
    )
