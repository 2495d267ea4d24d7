"""A batch and the way of each source through it, as listeners hear of them."""

from __future__ import annotations

from collections import Counter
from types import TracebackType
from typing import Self

import attrs

from aistemsplitter_async._listeners import Emitter, describe_error
from aistemsplitter_async._send.course import Course
from aistemsplitter_async.batch.elsewhere import Elsewhere
from aistemsplitter_async.batch.options import BatchOptions
from aistemsplitter_async.batch.outcome import Failed, Outcome, Skipped
from aistemsplitter_async.batch.track import BatchTrack
from aistemsplitter_async.events import BatchFinished, BatchStarted


@attrs.define(eq=False)
class BatchCourse:
    """A batch: a context manager around it, which tells how it begins and ends.

    Args:
        emit: tells the listeners.
        counts: how many sources have which outcome, as they come.
    """

    emit: Emitter
    counts: Counter[str]
    _began: float = attrs.field(default=0.0, init=False)

    def __enter__(self) -> Self:
        self._began = self.emit.clock.monotonic()
        self.emit(BatchStarted, lambda: BatchStarted(at=self._began))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        now = self.emit.clock.monotonic()
        self.emit(
            BatchFinished,
            lambda: BatchFinished(
                done=self.counts["done"],
                failed=self.counts["failed"],
                skipped=self.counts["skipped"],
                seconds=now - self._began,
                **describe_error(error),
                at=now,
            ),
        )


async def run_track(track: BatchTrack, emit: Emitter, options: BatchOptions) -> Outcome | Elsewhere:
    """Return what becomes of a track, and tell how it begins and ends. Raises like `BatchTrack.run`."""
    item, asked = track.standing.item, (options.stem_model, options.output_format)
    with Course(item.source, emit, item.filename, *asked) as course:
        outcome = await track.run()
        if isinstance(outcome, Elsewhere):
            course.leave()
            return outcome
        if isinstance(outcome, Failed):
            course.fail(outcome.error)
            return outcome
        if outcome.split is not None:
            course.note(outcome.split)
        if isinstance(outcome, Skipped):
            course.skip()
        return outcome
