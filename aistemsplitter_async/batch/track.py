"""Takes one source through a batch: read its record, do the step it calls for, record the result, repeat.

A track found after a crash is treated like a new one, only its record says more from the start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import attrs

from aistemsplitter_async._send.course import stage
from aistemsplitter_async.batch.bounds import SPEND_LIMIT, CreatingStoppedError
from aistemsplitter_async.batch.call import Call
from aistemsplitter_async.batch.context import BatchContext
from aistemsplitter_async.batch.create import SplitCreator
from aistemsplitter_async.batch.elsewhere import Elsewhere
from aistemsplitter_async.batch.identifier import Identifier
from aistemsplitter_async.batch.item import BatchItem, OpenedItem, open_item
from aistemsplitter_async.batch.outcome import Done, Failed, Outcome, Skipped, SkipReason
from aistemsplitter_async.batch.patience import concerns_all
from aistemsplitter_async.batch.preflight import plan_price
from aistemsplitter_async.batch.refusals import build_changed, build_timeout, build_unconfirmed
from aistemsplitter_async.batch.standing import Standing
from aistemsplitter_async.batch.steps import Steps, list_files, list_gains
from aistemsplitter_async.clock import Deadline
from aistemsplitter_async.errors import AIStemSplitterError, JournalError, LostLeaseError
from aistemsplitter_async.journal.claims import Claim
from aistemsplitter_async.journal.file import MOVED
from aistemsplitter_async.journal.matching import Fit, fit
from aistemsplitter_async.journal.record import AudioId, Record, StageName, State, Step, build_failure
from aistemsplitter_async.journal.store import JournalStore
from aistemsplitter_async.models import DirectURL

_BEFORE_CREATE: frozenset[StageName] = frozenset({"prepare", "upload"})
_OPEN = frozenset({State.INTENT, State.UNCERTAIN, State.NEEDS_REVIEW})  # a create may have happened


class BatchTrack:
    """One source of a running batch.

    Attributes:
        standing: its state in this run.
        has_claimed: set when the sources after it may claim their journal rows.

    Args:
        context: shared by all tracks.
        item: the source.
        position: its number among the sources, from 0.
        after: `has_claimed` of the source before. Of two files with the same audio the first is split, however long
            it takes to read.
        again: what is known of a source whose song another worker had in hand.
    """

    def __init__(
        self,
        context: BatchContext,
        item: BatchItem,
        position: int,
        after: asyncio.Event | None = None,
        *,
        again: Elsewhere | None = None,
    ) -> None:
        self.standing: Standing = Standing(context, item, position, since=context.clock.monotonic())
        self.has_claimed: asyncio.Event = asyncio.Event()
        self._context = context
        self._item = item
        self._after = after
        self._row: int | None = None  # of the journal, once this track owns it
        self._was_elsewhere = again is not None
        self._identifier = Identifier(context, audio=None if again is None else again.audio)
        self._opened = None if again is None else again.opened
        self._creator = SplitCreator(context, self.standing)
        self._steps = Steps(context, self.standing)

    @property
    def is_withdrawn(self) -> bool:
        """Whether nobody waits for its outcome any more."""
        return isinstance(self._item, Call) and self._item.is_withdrawn

    async def run(self) -> Outcome | Elsewhere:
        """Work on the source until it has its outcome, or another worker has its song in hand.

        Raises:
            JournalError: nothing can be recorded, so nothing more may be done.
        """
        try:
            return await self._reach_outcome()
        except LostLeaseError:  # it was taken for dead: what it was about to note, the other worker finds out
            return self._leave(self._row)
        finally:
            self.has_claimed.set()
            self._identifier.end()
            self._give_up_ownership()

    async def _reach_outcome(self) -> Outcome | Elsewhere:
        standing = self.standing
        error: AIStemSplitterError
        standing.cancellable = True
        try:
            async with Deadline.after(self._context.clock, self._item.timeout).scope():
                return await self._begin()
        except CreatingStoppedError:
            return self._skip("not begun")
        except JournalError as failure:
            if failure.code != MOVED:
                raise
            error = failure
        except TimeoutError:
            error = await self._build_timeout()
        except AIStemSplitterError as failure:
            error = failure
        finally:
            standing.cancellable = False
            standing.expect_requests(0)
            standing.release_in_flight()
        return await self._fail(error)

    async def _begin(self) -> Outcome | Elsewhere:
        """Find the source's record, and continue from there."""
        context = self._context
        pipeline = context.engine.pipeline
        with stage(pipeline.emit, "prepare"):
            opened = self._opened or await open_item(
                self._item, context.own_files, clock=context.clock, stall=pipeline.timeouts.stall
            )
            self.standing.label = opened.label
            if isinstance(opened.audio, DirectURL):
                context.engine.uploader.vet_source(opened.audio)
            if opened.path is None:
                self._opened = opened
                self.has_claimed.set()  # a stream may be slow; the sources after it need not wait for it
            audio = await self._identifier.identify(opened)
            if audio is None:
                return self._leave(None)
            opened = opened.pinned(audio.content)
            claim = await self._claim(opened, audio)
        while claim.met == "unsettled":
            if (outcome := await self._settle(claim.record, opened)) is not None:
                return outcome
            claim = await self._claim(opened, audio)
        return await self._continue(claim, opened)

    async def _continue(self, claim: Claim, opened: OpenedItem) -> Outcome | Elsewhere:
        context, record = self._context, claim.record
        if claim.met == "elsewhere":
            return self._leave(record.id or None)
        if claim.met == "changed":
            raise build_changed(opened.label, record)
        if claim.met == "again" and not (isinstance(self._item, Call) and record.id not in context.running):
            return await self._follow(record, opened)
        if claim.besides is not None:
            self._steps.announce(claim.besides)
        record = await self._take_ownership(record, is_claimed=claim.met != "again")
        self._raise_unresolved(record)
        if record.failure is not None and self._retries(attrs.evolve(claim, record=record)):
            self.standing.key_is_used = record.failure.stage not in _BEFORE_CREATE
            record = await context.write(JournalStore.reopen, record.id, context.options.variant)
        return await self._take_steps(record, opened)

    async def _settle(self, record: Record, opened: OpenedItem) -> Outcome | None:
        """Wait until it is known as what a split is delivered; return the outcome if that cannot be found out.

        It was left to the service what is asked for now, so nothing may be bought before.
        """
        context, wanted = self._context, self._context.options.variant
        self.standing.cancellable = False  # it is paid for, perhaps as what is asked for
        if (first := context.running.get(record.id)) is not None:
            await first.wait()
            self.standing.cancellable = True
            return None
        self._own(record)
        self._raise_unresolved(record)
        record = await context.take(record.id)
        if record.failure is not None and context.retries(record.failure):
            record = await context.write(JournalStore.reopen, record.id, wanted)
        while fit(record, wanted) is Fit.UNSETTLED:
            self.standing.split_id = record.split_id
            step = context.plan(record)
            if step is Step.REPLAY:
                await self._plan_price(opened, record)
                record = await self._creator.replay(record)
            elif step is Step.WAIT:
                record = await self._steps.wait(record)
            elif step is Step.REVIEW:
                return await self._leave_for_review(record)
            else:
                assert record.failure is not None and record.error is not None  # noqa: S101, PT018  # it has a step
                return self._failed(record.failure.stage, record.error)
        self.standing.split_id, self.standing.cancellable = None, True
        self._give_up_ownership()
        return None

    def _raise_unresolved(self, record: Record) -> None:
        unresolved = self._context.unresolved.pop(record.id, None)
        if unresolved is not None and record.state in _OPEN:  # else another worker has found out since then
            self.standing.enter("create")
            raise unresolved

    async def _follow(self, record: Record, opened: OpenedItem) -> Outcome:
        """Wait for the track of the same audio and share its outcome; if it failed because of its file, take over."""
        context, switch = self._context, self._context.stop_switch
        self.standing.cancellable = False  # if the other one is cancelled, this one ends too
        self.standing.enter("wait")
        while (first := context.running.get(record.id)) is not None:
            await first.wait()
        self._own(record)  # further duplicates wait for this one
        record = await context.take(record.id)
        failure = record.failure
        if failure is not None and failure.stage in _BEFORE_CREATE and failure.passing and not switch.is_on:
            record = await context.write(JournalStore.reopen, record.id, context.options.variant)
        if record.failure is not None and record.error is not None:
            return self._failed(record.failure.stage, record.error)
        step = context.plan(record)
        if step is Step.REVIEW:
            return await self._leave_for_review(record)
        if step in (Step.CHECK, Step.NOTHING):
            return self._skip("duplicate", record, same_as=record.source)
        return self._skip("not begun") if switch.is_on else await self._take_steps(record, opened)

    async def _take_ownership(self, record: Record, *, is_claimed: bool) -> Record:
        """Take ownership of this journal row and return it.

        What a worker that died has left open may be resolved for this one at the moment.
        """
        was_held = not is_claimed
        while (first := self._context.running.get(record.id)) is not None:
            was_held = True
            await first.wait()
        self._own(record)
        return await self._context.take(record.id) if was_held else record

    def _retries(self, claim: Claim) -> bool:
        """Return whether to try again what failed; not for good, and in this very run, by another worker."""
        failure = claim.record.failure
        assert failure is not None  # noqa: S101  # asked only then
        return failure.passing if claim.is_fresh else self._context.retries(failure)

    def _own(self, record: Record) -> None:
        self._row = record.id
        self._context.hold(record.id)

    def _give_up_ownership(self) -> None:
        if self._row is not None:
            self._context.let_go(self._row)
            self._row = None

    def _leave(self, row: int | None) -> Elsewhere:
        """Leave the song to the worker that has it in hand, until that lets go of it."""
        return Elsewhere(self._item, self.standing.position, row, self._identifier.audio, self._opened)

    async def _claim(self, opened: OpenedItem, audio: AudioId) -> Claim:
        """Claim the journal row of this audio, in the order of the sources."""
        context = self._context
        if self._after is not None:
            await self._after.wait()
        self.has_claimed.set()  # the next source runs only once this claim is in the journal's queue
        claim = await context.claim(opened.sighted(audio, self._item.pattern), resplit=self._item.anew)
        self._identifier.end()
        return claim

    async def _take_steps(self, record: Record, opened: OpenedItem) -> Outcome:
        """Take steps until there is none left."""
        standing, steps = self.standing, self._steps
        do: dict[Step, Callable[[Record], Awaitable[Record]]] = {
            Step.UPLOAD: partial(steps.upload, opened),
            Step.CREATE: self._creator.create,
            Step.REPLAY: self._creator.replay,
            Step.WAIT: steps.wait,
            Step.DOWNLOAD: steps.download,
        }
        while True:
            standing.split_id = record.split_id
            standing.cancellable = record.state in (State.FOUND, State.UPLOADED)
            if standing.cancellable and self.is_withdrawn:
                raise CreatingStoppedError
            step = standing.plan(record)
            if step in (Step.UPLOAD, Step.CREATE, Step.REPLAY):
                await self._plan_price(opened, record)
            if step in do:
                record = await do[step](record)
            elif step is Step.CHECK and not standing.has_worked and not (await steps.find_missing(record)).is_nothing:
                record = await steps.refresh(record)
            elif step is Step.REVIEW:
                return await self._leave_for_review(record)
            elif step is Step.FAILED and record.failure is not None and record.error is not None:
                return self._failed(record.failure.stage, record.error)
            else:
                return self._finish(record)

    async def _plan_price(self, opened: OpenedItem, record: Record) -> None:
        """Find out, under a limit, what the split may cost.

        Raises:
            SpendLimitError: that is not known, so it must not be created.
        """
        context, standing = self._context, self.standing
        may_cost = record.submission is None or context.needs_confirmation(record)
        if context.budget.is_limited and standing.price is None and may_cost:
            async with context.hashing:
                length = await opened.measure()
            standing.price = plan_price(length, self._item.seconds)
            context.budget.check(standing.price)

    async def _leave_for_review(self, record: Record) -> Failed:
        assert record.submission is not None  # noqa: S101  # implied by the state
        await self._context.write(JournalStore.needs_review, record.id)
        error = build_unconfirmed(record, self._context.engine.owner["key"])
        return self._failed("create", error)

    async def _build_timeout(self) -> AIStemSplitterError:
        """Return the error of a source that ran out of time; it depends on how far the source got."""
        holdup = self._context.engine.pipeline.holdup
        ambiguity = self.standing.ambiguity
        record = None if self._row is None else await self._context.write(JournalStore.get, self._row)
        if record is not None and record.state is State.INTENT and ambiguity is not None and not ambiguity.open:
            record = await self._context.write(JournalStore.refused, record.id)
        return build_timeout(record, holdup)

    async def _fail(self, error: AIStemSplitterError) -> Failed:
        """Record why the source failed, in the journal too if it has a row there."""
        context, standing = self._context, self.standing
        if concerns_all(error) or error.code in (SPEND_LIMIT, MOVED):
            context.stop_switch.stop(error)
        error.split_id = error.split_id or standing.split_id
        if self._row is not None:
            await context.write(JournalStore.fail, self._row, build_failure(standing.stage, error), None)
        return self._failed(standing.stage, error)

    def _failed(self, stage: StageName, error: AIStemSplitterError) -> Failed:
        return Failed(self._item.source, stage, error, self.standing.position)

    def _finish(self, record: Record) -> Outcome:
        if not self.standing.has_worked:
            return self._skip("elsewhere" if self._was_elsewhere else "finished", record)
        assert record.split is not None  # noqa: S101  # implied by the state
        files, gains = list_files(self._context.options, record), list_gains(self._context.options, record)
        return Done(self._item.source, record.split, files, self.standing.position, gains)

    def _skip(self, reason: SkipReason, record: Record | None = None, same_as: str | None = None) -> Skipped:
        source, position = self._item.source, self.standing.position
        if record is None:
            return Skipped(source, reason, position)
        files, gains = list_files(self._context.options, record), list_gains(self._context.options, record)
        return Skipped(source, reason, position, files, same_as, record.split, gains)
