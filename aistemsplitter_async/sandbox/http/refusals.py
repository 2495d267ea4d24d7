"""Refusals with their HTTP status, code and headers: those of the origins themselves, and the service's translated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aistemsplitter_async.sandbox.service.errors import (
    InsufficientCreditsError,
    InvalidRequestError,
    NotFoundError,
    ReservationExpiredError,
    ServiceError,
    StorageFullError,
    UploadInUseError,
)


class RefusalError(Exception):
    """A request that is answered with an error envelope: HTTP status, code, message and extra headers."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers: Mapping[str, str] = headers or {}


_ANSWERS: Final[Mapping[type[ServiceError], tuple[int, str]]] = {
    InvalidRequestError: (422, "VALIDATION_ERROR"),
    InsufficientCreditsError: (402, "INSUFFICIENT_CREDITS"),
    NotFoundError: (404, "NOT_FOUND"),
    ReservationExpiredError: (410, "RESERVATION_EXPIRED"),
    UploadInUseError: (409, "UPLOAD_IN_USE"),
    StorageFullError: (500, "SERVER_ERROR"),  # the API documents no better code; the upload worker has 507
}


def translate(error: ServiceError) -> RefusalError:
    """Return the HTTP refusal for an error of the service."""
    status, code = _ANSWERS[type(error)]
    return RefusalError(status, code, str(error))


def not_found(what: str) -> RefusalError:
    """Return the 404 for a resource that is missing."""
    return RefusalError(404, "NOT_FOUND", f"There is no such {what}.")


def not_allowed(message: str, allowed: str) -> RefusalError:
    """Return the 405 for a method other than those in `allowed`, a list with commas."""
    return RefusalError(405, "METHOD_NOT_ALLOWED", message, {"Allow": allowed})
