"""Where one source of a batch stands in this run, and what it occupies of the shared bounds."""

from __future__ import annotations

import attrs

from aistemsplitter_async._transfer.meter import Progress
from aistemsplitter_async.batch.context import BatchContext
from aistemsplitter_async.batch.item import BatchItem
from aistemsplitter_async.batch.progress import TrackProgress
from aistemsplitter_async.journal.record import StageName


@attrs.define(eq=False)
class Standing:
    """Where one source stands in this run.

    Attributes:
        item: the source.
        position: which one it is among the sources, from 0.
        label: what to call it, to be shown.
        stage: what is being done with it.
        since: since when (monotonic seconds).
        done_bytes: of the upload, or of all stems being downloaded.
        total_bytes: what there will be, 0 if unknown.
        split_id: once there is one.
        cancellable: whether cancelling it loses nothing: it has begun, no create of it was sent, and it has not ended.
        has_worked: whether this run did anything for it.
        uploads: how often this run uploaded it.
        key_is_used: whether an earlier create of it used up the idempotency key it was given, if any.
        created_at: when this run created its split (monotonic seconds), if it did.
    """

    context: BatchContext
    item: BatchItem
    position: int
    since: float
    label: str = ""
    stage: StageName = "prepare"
    done_bytes: int = 0
    total_bytes: int = 0
    split_id: str | None = None
    cancellable: bool = False
    has_worked: bool = False
    uploads: int = 0
    key_is_used: bool = False
    created_at: float | None = None
    _transfers: dict[str, Progress] = attrs.field(factory=dict, init=False)
    _is_in_flight: bool = attrs.field(default=False, init=False)
    _expected: int = attrs.field(default=0, init=False)

    @property
    def is_paid(self) -> bool:
        """Whether there is a split, or may be: its create was sent."""
        return self.split_id is not None or (self.stage == "create" and not self.cancellable)

    def enter(self, stage: StageName, total_bytes: int = 0) -> None:
        """Note that another stage begins."""
        self.stage = stage
        self.since = self.context.clock.monotonic()
        self.done_bytes, self.total_bytes = 0, total_bytes
        self._transfers.clear()

    def note_progress(self, progress: Progress) -> None:
        """Note how far one file of the stage is, and pass it on to the caller."""
        self._transfers[progress.name] = progress
        self.done_bytes = sum(part.done_bytes for part in self._transfers.values())
        self.total_bytes = sum(part.total_bytes or 0 for part in self._transfers.values())
        if self.item.on_progress is not None:
            self.item.on_progress(progress)

    def expect_requests(self, number: int) -> None:
        """Tell the gate how many requests come before this one's split can be waited for: polls leave room for them."""
        self.context.gate.expected += number - self._expected
        self._expected = number

    async def acquire_in_flight(self) -> None:
        """Become one of the splits in flight, if it is not one yet."""
        if not self._is_in_flight:
            await self.context.in_flight.acquire()
            self._is_in_flight = True

    def release_in_flight(self) -> None:
        """Let another split be in flight."""
        if self._is_in_flight:
            self._is_in_flight = False
            self.context.in_flight.release()

    def build_progress(self, now: float) -> TrackProgress:
        """Return what is shown of it."""
        return TrackProgress(
            label=self.label,
            stage=self.stage,
            seconds=now - self.since,
            done_bytes=self.done_bytes,
            total_bytes=self.total_bytes,
            split_id=self.split_id,
            position=self.position,
        )
