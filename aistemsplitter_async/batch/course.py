"""The way of one source through a batch, as listeners hear of it."""

from __future__ import annotations

from aistemsplitter_async._listeners import Emitter
from aistemsplitter_async._send.course import Course, name_source
from aistemsplitter_async.batch.outcome import Failed, Outcome, Skipped
from aistemsplitter_async.batch.track import BatchTrack


async def run_track(track: BatchTrack, emit: Emitter) -> Outcome:
    """Return the outcome of a track, and tell how it begins and ends. Raises like `BatchTrack.run`."""
    with Course(name_source(track.standing.item.source), emit) as course:
        outcome = await track.run()
        if isinstance(outcome, Failed):
            course.fail(outcome.error)
            return outcome
        if outcome.split is not None:
            course.note(outcome.split)
        if isinstance(outcome, Skipped):
            course.skip()
        return outcome
