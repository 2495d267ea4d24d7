"""The state of the service: splits, uploads, and the table of the statuses a split may pass through."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import attrs


class Status(StrEnum):
    """Status of a split, spelled as in the API."""

    QUEUED = "queued"
    PROCESSING = "processing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


TRANSITIONS: Final[dict[Status, frozenset[Status]]] = {
    Status.QUEUED: frozenset({Status.PROCESSING, Status.FAILED}),
    Status.PROCESSING: frozenset({Status.SUCCEEDED, Status.FAILED}),
    Status.SUCCEEDED: frozenset(),
    Status.FAILED: frozenset(),
}


@attrs.frozen
class SplitError:
    """Why a split failed: a code for programs and a message for people."""

    code: str
    message: str


@attrs.frozen
class Stem:
    """One finished stem. Its file is written once, so its validator `etag` never changes."""

    name: str
    filename: str
    size_bytes: int
    etag: str


@attrs.frozen
class Attempt:
    """One attempt to deliver a webhook."""

    at: float
    """POSIX seconds at its end."""
    status: int
    """HTTP status of the answer; 0 if none came."""
    note: str = ""
    """The fault that was injected, or why there was no answer."""


class DeliveryState(StrEnum):
    """The state of a webhook's delivery."""

    PENDING = "pending"
    DELIVERED = "delivered"
    LOST = "lost"
    GIVEN_UP = "given_up"


@attrs.define
class Delivery:
    """The webhook of one finished split."""

    state: DeliveryState = DeliveryState.PENDING
    attempts: tuple[Attempt, ...] = ()


@attrs.define
class Upload:
    """A reservation and, once its bytes have arrived, the uploaded file."""

    id: str
    account: str
    filename: str
    content_type: str
    content_length: int
    token: str
    storage_key: str
    created_at: float
    expires_at: float
    file_url: str | None = None
    """The address in the worker's answer; `None` until the file is complete."""
    sha256: str | None = None
    seconds: float | None = None
    """Length of the audio, measured by the first create that names it."""
    splits: int = 0
    """Creates that used it; after the first, its bytes are final."""
    running: int = 0
    """Unfinished splits of it; the file is kept as long as there are any."""
    kept_until: float | None = None


@attrs.define
class Split:
    """One split. Times are POSIX seconds of the sandbox's clock."""

    id: str
    account: str
    filename: str
    stem_model: str
    output_format: str
    seconds: float
    credits: int
    source: str
    """Name of the stored source file; empty if there is none (silent mode)."""
    created_at: float
    updated_at: float
    upload_id: str | None = None
    webhook_url: str | None = None
    delivery: Delivery | None = None
    """Delivery to `webhook_url`, once the split has ended."""
    idempotency_key: str | None = None
    key_scope: str = ""
    fingerprint: str | None = None
    status: Status = Status.QUEUED
    stems: tuple[Stem, ...] = ()
    error: SplitError | None = None
    polls: int = 0
    first_seen_at: float | None = None
    """When a poll first saw the end."""

    @property
    def finished(self) -> bool:
        """Whether its status is final."""
        return not TRANSITIONS[self.status]

    def find_stem(self, filename: str) -> Stem | None:
        """Return the stem with that file name."""
        return next((stem for stem in self.stems if stem.filename == filename), None)


def start(split: Split, at: float) -> None:
    """Move a queued split to processing at time `at`."""
    _move(split, Status.PROCESSING, at)


def succeed(split: Split, stems: tuple[Stem, ...], at: float) -> None:
    """Finish a split with its stems at time `at`."""
    _move(split, Status.SUCCEEDED, at)
    split.stems = stems


def fail(split: Split, error: SplitError, at: float) -> None:
    """Finish a split with an error at time `at`."""
    _move(split, Status.FAILED, at)
    split.error = error


def _move(split: Split, status: Status, at: float) -> None:
    if status not in TRANSITIONS[split.status]:
        raise ValueError(f"a {split.status} split cannot become {status}")
    split.status = status
    split.updated_at = max(at, split.created_at)
