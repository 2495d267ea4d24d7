"""What the API is asked for, and why it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping


class RefusalError(Exception):
    """A request that is answered with an error envelope: HTTP status, code, message and extra headers."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})


def invalid(message: str) -> RefusalError:
    """Return the 422 for a body or an audio source that cannot be accepted."""
    return RefusalError(422, "VALIDATION_ERROR", message)


@attrs.frozen
class ReservationRequest:
    """Body of `POST /audio/uploads`."""

    filename: str
    content_type: str
    content_length: int


@attrs.frozen
class DirectURL:
    """An `input` that the service fetches itself."""

    url: str


@attrs.frozen
class UploadedFile:
    """An `input` that was uploaded before: reservation id and what the upload worker answered."""

    upload_id: str
    file_url: str
    storage_key: str


@attrs.frozen
class SplitRequest:
    """Body of `POST /audio/splits`, defaults filled in."""

    source: DirectURL | UploadedFile
    stem_model: str
    output_format: str
    webhook_url: str | None
