"""The shared parts of a batch's tracks: the client's parts, the journal, and the bounds on what runs at a time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from aistemsplitter_async._engine import Engine
from aistemsplitter_async._gate.gate import Gate
from aistemsplitter_async._send.reactions import is_outage
from aistemsplitter_async._wire import operations
from aistemsplitter_async.batch.bounds import CHARGED_MORE, CreditBudget, SpentElsewhere, StopSwitch, plan_in_flight
from aistemsplitter_async.batch.capacity import Capacity
from aistemsplitter_async.batch.options import BatchOptions
from aistemsplitter_async.batch.patience import Patience, SignsOfLife
from aistemsplitter_async.clock import Clock
from aistemsplitter_async.config import FLEET_LOOK
from aistemsplitter_async.errors import AIStemSplitterError, APIStatusError, JournalError, SpendLimitError
from aistemsplitter_async.journal.binding import GATE
from aistemsplitter_async.journal.claims import Claim
from aistemsplitter_async.journal.journal import Journal
from aistemsplitter_async.journal.record import Record, Step, StoredFailure, is_retried, plan_step
from aistemsplitter_async.journal.rows import Sighting
from aistemsplitter_async.journal.store import JournalStore

P = ParamSpec("P")
T = TypeVar("T")

_SLOTS_KEPT = 5000  # with more, the slots in use are not worth writing down every second
_HASHING = 2  # files read at a time to identify them: more only makes a disk seek


class BatchContext:
    """The shared parts of one batch.

    Attributes:
        engine, journal, options, clock, own_files: as they were given.
        stop_switch: whether splits are still created.
        budget: the credits that the run may spend.
        gate: the key's request budget.
        running: an event per journal row that a track is working on, set when that track ends.
        unresolved: per journal row, why it is not known whether its create happened.
        hashing: bounds the files read at a time.
        in_flight: bounds the splits from their create to their download.
        sources: bounds the sources between being taken and their outcome, waiting for a transfer included.
        disk, uploading, creating, downloading: wait out the outages of each kind.

    Args:
        engine: the client's parts.
        journal: open.
        options: those of the batch.
        own_files: those of the journal, which are no sources.
        clock: where time comes from.
        on_stop: called once, when no more splits are to be created.
    """

    def __init__(
        self,
        engine: Engine,
        journal: Journal,
        options: BatchOptions,
        *,
        own_files: Sequence[Path] = (),
        clock: Clock,
        on_stop: Callable[[], None],
    ) -> None:
        self.engine = engine
        self.journal = journal
        self.options = options
        self.own_files = own_files
        self.clock = clock
        self.stop_switch: StopSwitch = StopSwitch(on_stop)
        self.budget: CreditBudget = CreditBudget(options.max_credits, on_overrun=self._stop_spending)
        self.gate: Gate = engine.pipeline.gate
        self.running: dict[int, asyncio.Event] = {}
        self.unresolved: dict[int, AIStemSplitterError] = {}
        self.hashing: asyncio.Semaphore = asyncio.Semaphore(_HASHING)
        self.in_flight: Capacity = Capacity(self._plan_in_flight())
        self.sources: Capacity = Capacity(self._plan_sources())
        self.disk: Patience = self._build_patience()
        self.creating: Patience = self._build_patience(signs=self._build_signs(same_origin=True))
        self.uploading: Patience = self._build_patience(options.uploads, signs=self._build_signs(same_origin=False))
        self.downloading: Patience = self._build_patience(options.downloads, signs=self._build_signs(same_origin=False))
        self._gate_saved = 0  # its `changes` then
        self._unreleased: set[int | str] = set()

    @property
    def notices(self) -> list[str]:
        """What is being waited out, to be shown."""
        parts = (self.disk, self.uploading, self.creating, self.downloading, self.engine.pipeline)
        return list(dict.fromkeys(part.notice for part in parts if part.notice is not None))

    def adapt_to_limit(self) -> None:
        """Keep as many splits in flight as the key's limit, as it is known now, can keep busy."""
        self.in_flight.resize(self._plan_in_flight())
        self.sources.resize(self._plan_sources())

    @property
    def ahead(self) -> float:
        """Seconds that the clock of the journal's times is ahead of this machine's, which is that of a file.

        The machines of a shared one need not agree on the time of day: a key would be trusted for too long.
        """
        now = self.journal.server_time()
        return 0.0 if now is None else now - self.clock.now()

    def now(self) -> float:
        """Return POSIX seconds by the clock of the journal's times."""
        return self.clock.now() + self.ahead

    def needs_confirmation(self, record: Record) -> bool:
        """Return whether its create is resent only if a person says so: it may be paid for once more."""
        return self.plan(record, resend=False) is Step.REVIEW

    def plan(self, record: Record, *, resend: bool | None = None) -> Step:
        """Return the step that `record` calls for now; `resend` in the place of that option."""
        options = self.options
        return plan_step(
            record,
            now=self.now(),
            key_age=options.key_age,
            wants_files=options.into is not None,
            key=self.engine.owner["key"],
            resend=options.resend if resend is None else resend,
        )

    def retries(self, failure: StoredFailure) -> bool:
        """Return whether this run tries again what failed in an earlier one."""
        return is_retried(failure, self.options.retry_failed, self.options.selection)

    async def write(self, change: Callable[Concatenate[JournalStore, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Write to the journal; while the disk is full, wait.

        Raises:
            JournalError: it cannot be written for another reason.
        """

        async def once() -> T:
            return await self.journal.write(change, *args, **kwargs)

        return await self.disk.retry_through_outage(once)

    async def claim(self, found: Sighting, *, resplit: bool) -> Claim:
        """Return the row of a source; see `JournalStore.claim`.

        It is claimed even if the caller is cancelled; then nobody works on it, and other workers may have it again.

        Raises:
            JournalError: the journal cannot be used.
        """
        options, taken = self.options, set[int | str]()

        def claim(store: JournalStore) -> Claim:
            claim = store.claim(found, options.variant, dedupe=options.dedupe, resplit=resplit, changed=options.changed)
            taken.clear()  # of an attempt that was undone
            taken.update({claim.record.id} if claim.met in ("new", "known", "unsettled") else ())
            return claim

        try:
            return await self.write(claim)
        except asyncio.CancelledError:
            if self.journal.is_shared:
                with suppress(JournalError):  # it is closed, and lets go of everything
                    self.journal.submit(lambda store: store.release(taken)).add_done_callback(_drop)
            raise

    def hold(self, row: int) -> None:
        """Note that a track works on this row of the journal."""
        self.running[row] = asyncio.Event()

    def let_go(self, row: int) -> None:
        """Note that it has ended, and let other workers have the row."""
        self.release({row})
        self.running.pop(row).set()

    def release(self, held: set[int | str]) -> None:
        """Let other workers have these rows of a shared journal, and read these files.

        It is in the journal's queue when this returns, and so before another track of this worker takes one again.
        """
        if not (held and self.journal.is_shared):
            return
        with suppress(JournalError):  # it is closed, and lets go of everything
            released = self.journal.submit(JournalStore.release, held)
            released.add_done_callback(lambda done: self._note_release(done, held))

    def _note_release(self, done: asyncio.Future[None], held: set[int | str]) -> None:
        if not done.cancelled() and done.exception() is not None:
            self._unreleased |= held

    def release_left(self) -> None:
        """Let other workers have what the journal could not release when their tracks ended."""
        held, self._unreleased = self._unreleased - self.running.keys(), set()
        self.release(held)

    async def take(self, row: int) -> Record:
        """Make a row of the journal this worker's, and return it.

        Raises:
            LostLeaseError: another worker has it in hand.
        """
        return await self.write(JournalStore.take, row)

    def is_resolved(self, record: Record) -> bool:
        """Return whether the next run, or another worker, need not resolve the create of this record."""
        return record.id not in self.unresolved and not self.needs_confirmation(record)

    @property
    def spends_together(self) -> bool:
        """Whether its credits are limited together with those of other workers."""
        return self.journal.is_shared and self.budget.is_limited

    async def note_spending(self) -> None:
        """Find out what other workers have of the credits that all may spend together.

        Raises:
            JournalError: the journal cannot be used.
        """
        if not self.spends_together or (shared := await self.journal.write(JournalStore.budget)) is None:
            return
        used = max(0.0, shared.used - self.budget.used)
        self.budget.note_elsewhere(SpentElsewhere(used, shared.reserved_elsewhere, shared.kept_elsewhere))
        if shared.stopped:
            self.stop_switch.stop(SpendLimitError(shared.stopped, code=CHARGED_MORE))

    async def await_spending(self) -> None:
        """Wait until what other workers have is known again, since it was not when a create was about to be sent."""
        with suppress(JournalError):  # it is known sooner or later
            await self.note_spending()
        await self.clock.sleep(FLEET_LOOK * self.engine.pipeline.random())

    def _stop_spending(self, reason: SpendLimitError) -> None:
        """Create no more splits, as the limit cannot be kept; nor do the other workers."""
        self.stop_switch.stop(reason)
        if self.journal.is_shared:
            with suppress(JournalError):  # they find out by themselves
                self.journal.submit(JournalStore.stop_spending, str(reason)).add_done_callback(_drop)

    async def check_target(self, record: Record) -> None:
        """Check that the stems of `record` can be written, before anything is spent.

        Raises:
            DownloadError: they cannot, or would overwrite files without permission.
        """
        if self.options.into is not None:
            folder, options = self.options.into / record.folder, self.options
            await self.engine.check_target(
                folder, overwrite=options.overwrite, selection=options.selection, pattern=record.pattern
            )

    @property
    def keeps_gate(self) -> bool:
        """Whether the journal keeps what is known of the key's limit: of several workers, each knows something else."""
        return not self.journal.is_shared

    async def restore_gate(self) -> None:
        """Count the requests of an earlier run: the server does too, whether or not the program was restarted."""
        if not self.keeps_gate:
            return
        saved = await self.journal.write(JournalStore.note, GATE)
        if saved is not None:
            self.gate.restore(json.loads(saved))

    async def save_gate(self) -> None:
        """Save what is known of the key's limit, and which of its slots are in use, for the next run."""
        changes = self.gate.changes
        if not self.keeps_gate or changes == self._gate_saved or self.gate.snapshot().used > _SLOTS_KEPT:
            return
        self._gate_saved = changes
        with suppress(JournalError):  # a track that needs the journal fails with it
            await self.journal.write(JournalStore.set_note, GATE, json.dumps(self.gate.export()))

    def _build_signs(self, *, same_origin: bool) -> SignsOfLife:
        return SignsOfLife(lambda: self.engine.pipeline.answers, self._is_answering, same_origin)

    async def _is_answering(self) -> bool:
        """Return whether the API answers one request, which costs nothing and is not repeated, be it with a refusal."""
        pipeline, operation = self.engine.pipeline, operations.get_credits(self.engine.base_url)
        try:
            await pipeline.exchange(operation, await pipeline.admit(operation, self.options.priority))
        except AIStemSplitterError as error:
            return isinstance(error, APIStatusError) and not is_outage(error)
        return True

    def _build_patience(self, concurrency: int | None = None, signs: SignsOfLife | None = None) -> Patience:
        return Patience(
            clock=self.clock,
            random=self.engine.pipeline.random,
            on_give_up=self.stop_switch.stop,
            longest=self.options.patience,
            concurrency=concurrency,
            signs=signs,
        )

    def _plan_in_flight(self) -> int:
        if self.options.in_flight is not None:
            return self.options.in_flight
        budget = self.gate.budget()
        in_flight = plan_in_flight(budget.limit, budget.per, self.engine.poller.typical())
        return -(-in_flight // budget.holders)  # each process its part, or the first one would take all songs

    def _plan_sources(self) -> int:
        return self._plan_in_flight() + 2 * (self.options.uploads + self.options.downloads)


def _drop(done: asyncio.Future[None]) -> None:
    if not done.cancelled():
        done.exception()  # retrieved, or asyncio would report it
