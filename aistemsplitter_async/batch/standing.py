"""The state of one source of a batch in this run, and its share of the common bounds."""

from __future__ import annotations

import attrs

from aistemsplitter_async._listeners import Listener, as_listener
from aistemsplitter_async._send.retry import Ambiguity
from aistemsplitter_async._transfer.meter import Progress
from aistemsplitter_async.batch.context import BatchContext
from aistemsplitter_async.batch.item import BatchItem
from aistemsplitter_async.batch.preflight import Price
from aistemsplitter_async.batch.progress import TrackProgress
from aistemsplitter_async.config import RESERVATIONS
from aistemsplitter_async.journal.record import Record, StageName, Step


@attrs.define(eq=False)
class Standing:
    """The state of one source in this run.

    Attributes:
        item: the source.
        position: its number among the sources, from 0.
        label: its name on the screen.
        stage: what is being done with it.
        since: when the stage began (monotonic seconds).
        done_bytes: of the upload, or of all stems being downloaded.
        total_bytes: what there will be, 0 if unknown.
        split_id: once there is one.
        cancellable: whether cancelling it loses nothing: it has begun, no create of it was sent, and it has not ended.
        has_worked: whether this run did anything for it.
        uploads: how often this run uploaded it.
        sure_until: until when the newest of them has surely not expired (monotonic seconds).
        key_is_used: whether an earlier create of it used up the idempotency key it was given, if any.
        created_at: when this run created its split (monotonic seconds), if it did.
        ambiguity: whether its create may have happened, once this run began to send it.
        price: what its split may cost, if that is known and matters.
        cost: credits that this run counted for its create, until the split is terminal.
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
    sure_until: float | None = None
    key_is_used: bool = False
    created_at: float | None = None
    ambiguity: Ambiguity | None = None
    price: Price | None = None
    cost: float | None = None
    _listener: Listener[Progress] | None = attrs.field(init=False)
    _transfers: dict[str, Progress] = attrs.field(factory=dict, init=False)
    _is_in_flight: bool = attrs.field(default=False, init=False)
    _expected: int = attrs.field(default=0, init=False)

    @_listener.default
    def _listen(self) -> Listener[Progress] | None:
        return as_listener(self.item.on_progress, "on_progress")

    @property
    def is_paid(self) -> bool:
        """Whether there is a split, or may be: its create was sent."""
        return self.split_id is not None or (self.stage == "create" and not self.cancellable)

    @property
    def may_upload_again(self) -> bool:
        """Whether this run may upload it once more."""
        return self.uploads <= RESERVATIONS

    def plan(self, record: Record) -> Step:
        """Return the step that `record` calls for now. What this run has uploaded is used, whatever a clock says."""
        step = self.context.plan(record)
        return Step.CREATE if step is Step.UPLOAD and self.uploads and record.input is not None else step

    def enter(self, stage: StageName, total_bytes: int = 0) -> None:
        """Note that another stage begins."""
        self.stage = stage
        self.since = self.context.clock.monotonic()
        self.done_bytes, self.total_bytes = 0, total_bytes
        self._transfers.clear()

    def note_progress(self, progress: Progress) -> None:
        """Note the progress of one file of the stage, and pass it on to the caller."""
        self._transfers[progress.name] = progress
        self.done_bytes = sum(part.done_bytes for part in self._transfers.values())
        self.total_bytes = sum(part.total_bytes or 0 for part in self._transfers.values())
        if self._listener is not None:
            self._listener(progress)

    def expect_requests(self, number: int) -> None:
        """Set how many requests this source needs before its split can be polled: other polls leave room for them."""
        self.context.gate.expected += number - self._expected
        self._expected = number

    async def acquire_in_flight(self) -> None:
        """Wait until this may be one of the splits in flight, unless it is one already."""
        if not self._is_in_flight:
            await self.context.in_flight.acquire()
            self._is_in_flight = True

    def release_in_flight(self) -> None:
        """Make room for another split in flight."""
        if self._is_in_flight:
            self._is_in_flight = False
            self.context.in_flight.release()

    def build_progress(self, now: float) -> TrackProgress:
        """Return its progress, to be shown."""
        return TrackProgress(
            label=self.label,
            stage=self.stage,
            seconds=now - self.since,
            done_bytes=self.done_bytes,
            total_bytes=self.total_bytes,
            split_id=self.split_id,
            position=self.position,
        )
