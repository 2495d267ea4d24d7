"""The API's objects as frozen values. Times are timezone-aware; one credit is one second of source audio."""

from __future__ import annotations

import json
from collections.abc import Mapping  # cattrs and `_plain` read the annotations at run time
from datetime import datetime  # same
from typing import Any, ClassVar, Literal

import attrs

from aistemsplitter_async._plain import Model, redact_url as redact_url, to_plain  # noqa: PLC0414  # a re-export

# Open enums: a string that the API adds later passes through unchanged.
StemModel = Literal["4s", "6s"] | str  # noqa: PYI051
OutputFormat = Literal["mp3", "wav"] | str  # noqa: PYI051
SplitStatus = Literal["queued", "processing", "succeeded", "failed"] | str  # noqa: PYI051

TERMINAL: frozenset[str] = frozenset({"succeeded", "failed"})


def _without_query(url: str) -> str:
    return repr(redact_url(url))


def _names_only(urls: Mapping[str, str]) -> str:
    return f"<{', '.join(urls)}>"


def _grants_access(body: bytes) -> bool:
    """Return whether a create's body has a URL with a query or credentials in it, or cannot be read."""
    try:
        found = to_plain(json.loads(body))
    except (ValueError, RecursionError):
        return True
    return bool(found != to_plain(found, shown=True))


@attrs.frozen
class Credits(Model):
    """The credits that the key may still spend."""

    balance: float
    unit: str = "seconds"


@attrs.frozen
class Reservation(Model):
    """Permission to upload one file, valid until `expires_at` by the server's clock.

    The headers grant access and stay out of `repr`.
    """

    upload_id: str
    upload_url: str = attrs.field(repr=_without_query)
    upload_headers: Mapping[str, str] = attrs.field(repr=_names_only)
    expires_at: datetime


@attrs.frozen
class WorkerReceipt(Model):
    """The upload worker's reply: where it keeps the bytes."""

    url: str = attrs.field(repr=_without_query)
    key: str


@attrs.frozen
class DirectURL(Model):
    """Audio that the API fetches itself."""

    _kind: ClassVar[str] = "direct_url"

    url: str = attrs.field(repr=_without_query)


@attrs.frozen
class UploadedFile(Model):
    """Audio already at the upload worker."""

    _kind: ClassVar[str] = "uploaded_file"

    upload_id: str
    file_url: str = attrs.field(repr=_without_query)
    storage_key: str


SplitInput = DirectURL | UploadedFile


@attrs.frozen
class Upload(Model):
    """A finished upload. Pass its `input` to `create_split` before `expires_at`, by this machine's clock."""

    input: UploadedFile
    filename: str
    content_type: str
    content_length: int
    expires_at: datetime


@attrs.frozen
class Submission(Model):
    """One create: its idempotency key and the exact bytes of its body.

    Store it before the POST is sent, and the split can be neither lost nor charged twice: the server answers the same
    bytes with the same key with the same split.
    """

    idempotency_key: str
    body: bytes = attrs.field(repr=False)

    def to_plain(self, *, shown: bool) -> dict[str, Any]:
        """Return it as a part of another value; the body, one character a byte, is left empty in what goes to logs.

        Unless nothing in it grants access: then it can still be resubmitted.
        """
        body = "" if shown and _grants_access(self.body) else self.body.decode("latin-1")
        return {"idempotency_key": self.idempotency_key, "body": body}


@attrs.frozen
class CreatedSplit(Model):
    """The reply to a create: the split exists, and is charged for.

    Attributes:
        id: of the split.
        status: usually `queued`, which it also is if the reply does not say it.
        credits_used: the price, in credits; `None` if the reply does not say it in a way that can be read.
        created_at: by the server's clock; `None` as above.
    """

    id: str
    status: SplitStatus = "queued"
    credits_used: float | None = None
    created_at: datetime | None = None


@attrs.frozen
class SplitErrorDetail(Model):
    """Why a split failed."""

    code: str = ""
    message: str = ""


@attrs.frozen
class Split(Model):
    """A split's state at the server.

    Everything but `id` and `status` is `None` where the reply does not say it, or not in a way that can be read.
    `stems` maps stem names to URLs, and is empty until the status is `succeeded`.
    """

    id: str
    status: SplitStatus
    stem_model: StemModel | None = None
    credits_used: float | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    filename: str | None = None
    duration_seconds: float | None = None
    stems: Mapping[str, str] = attrs.field(factory=dict[str, str], repr=_names_only)
    error: SplitErrorDetail | None = None

    @property
    def is_terminal(self) -> bool:
        """Return whether the status is final; an unknown status is not."""
        return self.status in TERMINAL

    @property
    def processing_seconds(self) -> float | None:
        """Return how long the server processed a terminal split, by its own clock; `None` if it does not say."""
        if self.created_at is None or self.updated_at is None:
            return None
        return (self.updated_at - self.created_at).total_seconds()
