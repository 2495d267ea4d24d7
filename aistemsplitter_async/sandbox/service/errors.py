"""The service's reasons to refuse a request. Statuses, codes and headers are HTTP: `http/refusals.py` adds them.

ServiceError
├── InvalidRequestError
├── InsufficientCreditsError
├── NotFoundError
├── ReservationExpiredError
├── UploadInUseError
└── StorageFullError
"""

from __future__ import annotations


class ServiceError(Exception):
    """A refusal. The message is for people and contains no secret."""


class InvalidRequestError(ServiceError):
    """A value or an audio source cannot be accepted; the message names it."""


class InsufficientCreditsError(ServiceError):
    """The balance does not cover the split."""


class NotFoundError(ServiceError):
    """This account has no such split."""


class ReservationExpiredError(ServiceError):
    """The file came too late for its reservation."""


class UploadInUseError(ServiceError):
    """A split uses this upload, so its bytes are final."""


class StorageFullError(ServiceError):
    """A cap on disk space, files or reservations would be exceeded."""
