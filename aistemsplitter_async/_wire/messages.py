"""HTTP requests and replies as values: the interface of `Transport` implementations."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from enum import StrEnum

import attrs

from aistemsplitter_async.models import redact_url


class Origin(StrEnum):
    """Who a request is for. The API key is sent to `API` only."""

    API = "api"
    WORKER = "worker"
    CDN = "cdn"


BodyStream = Callable[[], AsyncIterator[bytes]]
"""Opens the body at its start; called once per attempt."""


@attrs.frozen(kw_only=True)
class Request:
    """One attempt to be made. It contains no credentials: the transport adds them for the API's origin."""

    origin: Origin
    method: str
    url: str = attrs.field(repr=lambda url: repr(redact_url(url)))
    headers: Mapping[str, str] = attrs.field(factory=dict[str, str], repr=lambda headers: repr(sorted(headers)))
    body: bytes | BodyStream | None = attrs.field(default=None, repr=False)


def _lower_keys(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


@attrs.frozen(kw_only=True)
class Reply:
    """A reply with a capped body. Header names are lower case.

    Attributes:
        cut: whether the connection ended before the body did. What came of it may still say everything.
    """

    status: int
    headers: Mapping[str, str] = attrs.field(factory=dict[str, str], converter=_lower_keys, repr=False)
    body: bytes = attrs.field(default=b"", repr=False)
    cut: bool = False

    @property
    def ok(self) -> bool:
        """Return whether the status is 2xx."""
        return 200 <= self.status < 300  # noqa: PLR2004  # RFC 9110 section 15.3


class Stage(StrEnum):
    """The step of a split that an attempt belongs to."""

    CREDITS = "credits"
    RESERVE = "reserve"
    UPLOAD = "upload"
    CREATE = "create"
    GET = "get"
    DOWNLOAD = "download"
