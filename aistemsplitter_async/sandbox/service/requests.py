"""The requests to the service, as values. `http/decode.py` reads them from request bodies."""

from __future__ import annotations

import attrs


@attrs.frozen
class ReservationRequest:
    """An upload to reserve."""

    filename: str
    content_type: str
    content_length: int


@attrs.frozen
class DirectURL:
    """An `input` that the service fetches itself."""

    url: str


@attrs.frozen
class UploadedFile:
    """An `input` that was uploaded before: the reservation's id and what the upload worker answered."""

    upload_id: str
    file_url: str
    storage_key: str


@attrs.frozen
class SplitRequest:
    """A split to make, defaults filled in."""

    source: DirectURL | UploadedFile
    stem_model: str
    output_format: str
    webhook_url: str | None


@attrs.frozen
class CreateRequest:
    """A create: the split it asks for, and how a repetition of it is recognised."""

    split: SplitRequest
    idempotency_key: str | None
    fingerprint: str
    """Digest of the body's values: creates with the same key must agree on it."""
    digest: str
    """SHA-256 of the body's bytes, for the ledger."""
