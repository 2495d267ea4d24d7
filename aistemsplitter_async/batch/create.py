"""Creates the split of one source: the only module of a batch that sends a create, and so the only one that spends.

The order is: admission by the gate, the intent in the journal, the POST, its answer in the journal. A process killed
after the intent leaves a record from which the next run sends the same bytes under the same key.
"""

from __future__ import annotations

import uuid

import attrs

from aistemsplitter_async._send.retry import Ambiguity
from aistemsplitter_async.batch.bounds import CreatingStoppedError, OutdatedError
from aistemsplitter_async.batch.context import BatchContext
from aistemsplitter_async.batch.item import BatchItem
from aistemsplitter_async.batch.standing import Standing
from aistemsplitter_async.clock import Deadline
from aistemsplitter_async.config import RESERVATIONS
from aistemsplitter_async.errors import AIStemSplitterError, JournalError, SubmissionUncertainError
from aistemsplitter_async.journal.record import Record, State, Step
from aistemsplitter_async.journal.store import JournalStore
from aistemsplitter_async.models import CreatedSplit, Submission


@attrs.frozen
class SplitCreator:
    """Creates the split of one source, or finds out whether an earlier create of it happened."""

    _context: BatchContext
    _standing: Standing

    async def create(self, record: Record) -> Record:
        """Create the split; the intent is on disk before anything is sent.

        Raises:
            CreatingStoppedError: the batch creates no more splits.
            SpendLimitError: it may cost more than the run may still spend.
            AIStemSplitterError: it was not created, or may not have been.
        """
        context, standing, item = self._context, self._standing, self._standing.item
        await context.check_target(record)
        standing.expect_requests(0)  # until it is in flight, polls are what it waits for
        await standing.acquire_in_flight()
        standing.enter("create")
        await context.downloading.wait_until_over()  # no split is bought while stems cannot be downloaded
        assert record.input is not None  # noqa: S101  # what `plan_step` checked
        submission = context.engine.build_submission(
            record.input,
            idempotency_key=(None if standing.key_is_used else item.idempotency_key) or str(uuid.uuid4()),
            stem_model=context.options.stem_model,
            output_format=context.options.output_format,
            webhook_url=context.options.webhook_url,
        )
        async with context.budget.lock(item.seconds):
            context.stop_switch.check()
            return await self._send(record, submission)

    async def replay(self, record: Record) -> Record:
        """Resend a create byte by byte, unless it is too old for that: the one way to learn whether it happened.

        Raises:
            AIStemSplitterError: that is still not known.
        """
        assert record.submission is not None  # noqa: S101  # what the state says
        self._standing.enter("create")
        return await self._send(record, record.submission)

    async def _send(self, record: Record, submission: Submission) -> Record:
        """Send a create until it is answered, or until time has made another step of it, such as an old key."""
        context, standing, held, ambiguity = self._context, self._standing, record, Ambiguity()

        async def before_send(_: Submission) -> None:
            """Check again, now that the gate has admitted it: that may have taken long."""
            nonlocal held
            if not ambiguity.open:
                context.stop_switch.check()
            if not self._is_due(held):
                raise OutdatedError
            if held.submission is None:
                context.budget.reserve(held.id, standing.item.seconds)
                standing.cancellable = False
                held = await context.journal.write(JournalStore.intend, held.id, submission, context.clock.now())

        async def on_created(created: CreatedSplit) -> None:
            nonlocal held
            held = await context.write(JournalStore.created, held.id, created, context.clock.now())
            context.budget.charge(held.id, created.credits_used)
            standing.created_at = context.clock.monotonic()

        async def attempt() -> Record:
            nonlocal held
            if not self._is_due(held):
                return held
            ambiguity.open = held.submission is not None
            try:
                await context.engine.create(
                    submission,
                    deadline=Deadline(context.clock, None),
                    priority=context.options.priority,
                    before_send=before_send,
                    on_created=on_created,
                    ambiguity=ambiguity,
                )
            except (AIStemSplitterError, CreatingStoppedError, OutdatedError) as error:
                held = await self._write_failure(held, error, is_ambiguous=ambiguity.open)
                if not isinstance(error, OutdatedError):
                    raise
            return held

        standing.has_worked = True
        return await context.creating.retry_through_outage(attempt)

    async def _write_failure(self, held: Record, error: Exception, *, is_ambiguous: bool) -> Record:
        """Write down what an attempt that failed leaves behind."""
        context = self._context
        if isinstance(error, SubmissionUncertainError):
            return await context.journal.write(JournalStore.uncertain, held.id)
        if held.state is not State.INTENT or is_ambiguous or isinstance(error, JournalError):
            return held
        context.budget.release(held.id)
        self._standing.cancellable = True
        return await context.journal.write(JournalStore.refused, held.id)  # or it never arrived: there is no split

    def _is_due(self, record: Record) -> bool:
        """Return whether its create still is the next step. An upload that keeps expiring is used all the same."""
        step = self._context.plan(record)
        if record.submission is not None:
            return step is Step.REPLAY
        return step is Step.CREATE or (step is Step.UPLOAD and self._standing.uploads > RESERVATIONS)


async def resolve_create(context: BatchContext, record: Record) -> None:
    """Find out whether a create that an earlier run left open happened, as long as its key can be trusted.

    Raises:
        JournalError: the answer cannot be written down.
    """
    standing = Standing(context, BatchItem(source=record.source), position=-1, since=context.clock.monotonic())
    try:
        await SplitCreator(context, standing).replay(record)
    except JournalError:
        raise
    except AIStemSplitterError as error:
        context.unresolved[record.id] = error  # its track fails with that, if its source is met
