"""Why a source of a batch has no stems, where the batch itself decides that."""

from __future__ import annotations

from aistemsplitter_async.batch.outcome import Failed, Skipped
from aistemsplitter_async.batch.standing import Standing
from aistemsplitter_async.errors import (
    AIStemSplitterError,
    APITimeoutError,
    SourceChangedError,
    SourceUnreadableError,
    SubmissionUncertainError,
    WaitTimeoutError,
)
from aistemsplitter_async.journal.record import NEEDS_REVIEW, SENT_BY_OTHER_KEY, Record


def build_changed(label: str, record: Record) -> SourceChangedError:
    """Return the error of a file that was bought with other bytes."""
    bought = "" if record.split_id is None else f" as {record.split_id}"
    return SourceChangedError(
        f"{label} was bought{bought} with other bytes; perhaps only its tags changed, so it is not bought again; "
        'changed="same" takes it for the same song, changed="new" buys it',
        code="CHANGED",
    )


def describe_cancelled(standing: Standing, *, by_batch: bool) -> Failed | Skipped:
    """Return the outcome of a track that was cancelled: by the batch, which was drained, or by its own source."""
    source, position = standing.item.source, standing.position
    if by_batch:
        return Skipped(source, "not begun", position)
    error = SourceUnreadableError(f"{standing.label or 'a source'} cancelled the task that read it")
    return Failed(source, standing.stage, error, position)


def build_timeout(record: Record | None, holdup: str) -> AIStemSplitterError:
    """Return the error of a source that ran out of time; it depends on how far the source got."""
    if record is not None and record.split_id is not None:
        return WaitTimeoutError(record.split_id, record.split, holdup)
    if record is not None and record.submission is not None:
        return SubmissionUncertainError(
            "the split may or may not have been created (time ran out); run the batch again to find out",
            submission=record.submission,
            code="TIMEOUT",
        )
    return APITimeoutError(f"no split was created within the timeout{holdup}", code="TIMEOUT")


def build_unconfirmed(record: Record, key: str) -> SubmissionUncertainError:
    """Return the error of a create that may have happened, and is not sent again until a person says so."""
    assert record.submission is not None  # noqa: S101  # implied by the state
    if record.sender in (None, key):
        return SubmissionUncertainError(
            "its create is too old to resend without confirmation: the service may have forgotten its idempotency key "
            "and charge twice. Check whether the split exists; if it does not, resend=True sends the create again",
            submission=record.submission,
            code=NEEDS_REVIEW,
        )
    return SubmissionUncertainError(
        "its create was sent with another API key, and the service may not know its idempotency key under this one and "
        "charge twice. Run the batch with that key, or check whether the split exists; if it does not, resend=True "
        "sends the create with this key",
        submission=record.submission,
        code=SENT_BY_OTHER_KEY,
    )
