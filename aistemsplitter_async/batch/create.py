"""Creates the split of one source: the only module of a batch that sends a create, and so the only one that spends.

The order is: admission by the gate, the intent in the journal, the POST, its answer in the journal. A process killed
after the intent leaves a record from which the next run sends the same bytes under the same key.
"""

from __future__ import annotations

import uuid
from functools import partial

import attrs

from aistemsplitter_async._send.retry import Ambiguity
from aistemsplitter_async._transfer.lifetime import may_have_expired
from aistemsplitter_async.batch.bounds import CreatingStoppedError, OutdatedError, OverbookedError
from aistemsplitter_async.batch.context import BatchContext
from aistemsplitter_async.batch.item import BatchItem
from aistemsplitter_async.batch.standing import Standing
from aistemsplitter_async.clock import Deadline
from aistemsplitter_async.errors import (
    AIStemSplitterError,
    JournalError,
    LostLeaseError,
    SpendLimitError,
    SubmissionUncertainError,
)
from aistemsplitter_async.journal.record import Record, State, Step
from aistemsplitter_async.journal.store import JournalStore
from aistemsplitter_async.models import CreatedSplit, Submission, UploadedFile


@attrs.frozen
class SplitCreator:
    """Creates the split of one source, or finds out whether an earlier create of it happened."""

    _context: BatchContext
    _standing: Standing

    async def create(self, record: Record) -> Record:
        """Create the split; the intent is on disk before anything is sent.

        Raises:
            CreatingStoppedError: the batch creates no more splits.
            SpendLimitError: it may cost more than the run may still spend, or how much is not known.
            AIStemSplitterError: it was not created, or may not have been.
        """
        context, standing, item = self._context, self._standing, self._standing.item
        await context.check_target(record)
        standing.expect_requests(0)  # until it is in flight, it waits for polls, so they must not wait for it
        await standing.acquire_in_flight()
        standing.enter("create")
        await context.downloading.wait_until_over()  # no split is bought while stems cannot be downloaded
        assert record.input is not None  # noqa: S101  # checked by `plan_step`
        submission = context.engine.build_submission(
            record.input,
            idempotency_key=(None if standing.key_is_used else item.idempotency_key) or str(uuid.uuid4()),
            stem_model=context.options.stem_model,
            output_format=context.options.output_format,
            webhook_url=context.options.webhook_url,
        )
        return await self._buy(record, submission)

    async def replay(self, record: Record) -> Record:
        """Resend a create byte for byte: the only way to learn whether it happened.

        One that is only resent because a person has confirmed it may be paid for once more, as may a new one.

        Raises:
            CreatingStoppedError, SpendLimitError: as `create` raises them, for such a one.
            AIStemSplitterError: it is still not known.
        """
        assert record.submission is not None  # noqa: S101  # implied by the state
        self._standing.enter("create")
        send = self._buy if self._context.needs_confirmation(record) else self._send
        return await send(record, record.submission)

    async def _buy(self, record: Record, submission: Submission) -> Record:
        context, standing = self._context, self._standing
        while True:
            context.stop_switch.check()
            await context.budget.reserve(record.id, standing.price)
            is_ours = True
            try:
                context.stop_switch.check()
                if record.submission is not None:
                    await self._set_aside(record)
                return await self._send(record, submission)
            except LostLeaseError:  # what it may cost is set aside by the other worker
                is_ours = False
                raise
            except OverbookedError:
                pass
            finally:
                context.budget.settle(record.id, may_have_happened=is_ours and not standing.cancellable)
            await context.await_spending()

    async def _set_aside(self, record: Record) -> None:
        """Set aside in the journal what a create may cost that is sent again because a person says so."""
        context, price = self._context, self._standing.price
        if price is not None and context.spends_together:
            try:
                await context.write(JournalStore.reserve, record.id, price.credits)
            except SpendLimitError:
                raise OverbookedError from None

    async def _send(self, record: Record, submission: Submission) -> Record:
        self._standing.has_worked = True
        create = _JournaledCreate(self._context, self._standing, record, submission)
        self._standing.ambiguity = create.ambiguity
        suspect = record.state is State.UNCERTAIN  # an earlier run gave it up
        return await self._context.creating.retry_through_outage(create.attempt, suspect=suspect)


@attrs.define
class _JournaledCreate:
    """One create and its record, sent until it is answered, or until so much time has passed that another step is due.

    Attributes:
        record: as the journal has it now.
        ambiguity: whether a create of it may have happened.
    """

    _context: BatchContext
    _standing: Standing
    record: Record
    submission: Submission
    ambiguity: Ambiguity = attrs.field(factory=Ambiguity)

    async def attempt(self) -> Record:
        """Send the create once more, if it still is the next step, and return the record."""
        if not self._is_due():
            return self.record
        self.ambiguity.open = self.record.submission is not None
        try:
            await self._context.engine.create(
                self.submission,
                deadline=Deadline.after(self._context.clock, None),
                priority=self._context.options.priority,
                before_send=self._commit_intent,
                on_created=self._commit_answer,
                ambiguity=self.ambiguity,
            )
        except OutdatedError as error:
            await self._commit_failure(error)
        except (AIStemSplitterError, CreatingStoppedError) as error:
            await self._commit_failure(error)
            if self.record.input is not None:  # else it is uploaded once more
                raise
        return self.record

    async def _commit_intent(self, _: Submission) -> None:
        """Check again, since waiting for the gate may have taken long; then record what is about to be sent."""
        context = self._context
        if not self.ambiguity.open:
            context.stop_switch.check()
        if not self._is_due():
            raise OutdatedError
        if self.record.submission is None:
            await self._intend()
        elif self.record.sender not in (None, context.engine.owner["key"]):  # as a person has confirmed
            self.record = await context.journal.write(JournalStore.resent, self.record.id)
        elif not self.ambiguity.open:  # it never arrived, and perhaps waited for long
            await context.journal.write(JournalStore.check_in_place)

    async def _intend(self) -> None:
        context, standing = self._context, self._standing
        intend = JournalStore.intend
        if standing.price is not None and context.spends_together:
            intend = partial(intend, price=standing.price.credits)
        standing.cancellable = False
        try:
            self.record = await context.journal.write(intend, self.record.id, self.submission, context.now())
        except SpendLimitError:
            standing.cancellable = True
            raise OverbookedError from None

    async def _commit_answer(self, created: CreatedSplit) -> None:
        context = self._context
        self.record = await context.write(JournalStore.created, self.record.id, created, context.now())
        cost = context.budget.charge(self.record.id, self.record.credits_used)
        counted = self.record.credits_used == created.credits_used  # or else another row counts this split
        self._standing.cost = cost if counted else None
        self._standing.created_at = context.clock.monotonic()

    async def _commit_failure(self, error: Exception) -> None:
        """Record what a failed attempt leaves behind."""
        context, standing = self._context, self._standing
        if isinstance(error, SubmissionUncertainError):
            self.record = await context.journal.write(JournalStore.uncertain, self.record.id)
        elif self.record.state is State.INTENT and not self.ambiguity.open and not isinstance(error, JournalError):
            standing.cancellable = True
            expired = self._may_have_expired(error)
            standing.key_is_used = standing.key_is_used or expired  # what is sent then is another create
            self.record = await context.journal.write(
                partial(JournalStore.refused, upload_expired=expired), self.record.id
            )  # or it never arrived

    def _may_have_expired(self, refusal: Exception) -> bool:
        """Return whether the create was refused for an upload that may have expired, and may be made once more."""
        standing, now = self._standing, self._context.clock.monotonic()
        is_upload = isinstance(self.record.input, UploadedFile)
        return is_upload and standing.may_upload_again and may_have_expired(refusal, standing.sure_until, now=now)

    def _is_due(self) -> bool:
        """Return whether the create still is the next step."""
        step = self._standing.plan(self.record)
        return step is (Step.CREATE if self.record.submission is None else Step.REPLAY)


async def resolve_create(context: BatchContext, record: Record) -> None:
    """Find out whether a create that an earlier run left open happened, as long as its key can be trusted.

    What a person has to confirm first waits for its source, which may not be in this run, and so was not checked.

    Args:
        context: of the batch, which holds the record.
        record: let go of in the end.

    Raises:
        JournalError: the answer cannot be recorded.
    """
    standing = Standing(context, BatchItem(source=record.source), position=-1, since=context.clock.monotonic())
    try:
        if not context.needs_confirmation(record):
            await SplitCreator(context, standing).replay(record)
    except LostLeaseError:  # another worker finds out
        pass
    except JournalError:
        raise
    except AIStemSplitterError as error:
        context.unresolved[record.id] = error  # its track fails with that, if its source is in this run
    finally:
        context.let_go(record.id)
