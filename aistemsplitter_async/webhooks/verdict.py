"""Decides how to answer a webhook request, from its bytes alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, Self

import attrs

from aistemsplitter_async._wire.signature import SIGNATURE_HEADER, Body, Secrets, verify
from aistemsplitter_async.config import WEBHOOK_CAP_BYTES
from aistemsplitter_async.errors import WebhookError
from aistemsplitter_async.webhooks.event import WebhookEvent, parse_event

OK = 200
REFUSED = 400
NOT_ALLOWED = 405
TOO_LARGE = 413
TRY_AGAIN = 503

Text = str | bytes


class HasItems(Protocol):
    """A mapping, or another type that frameworks use: `email.message.Message`, multi-dictionaries."""

    def items(self) -> Iterable[tuple[Any, Any]]:
        """Return pairs of name and value."""
        ...


Headers = HasItems | Iterable[tuple[Text, Text]] | None

FIELDS = (SIGNATURE_HEADER, "Content-Encoding", "Content-Length")  # all other headers are ignored
_POSITIONS = {name.lower(): position for position, name in enumerate(FIELDS)}
# WSGI and Django's META call them so (PEP 3333). It is no harm that a stranger may, too: what counts is the signature.
_POSITIONS |= {f"http_{name}".replace("-", "_"): position for name, position in _POSITIONS.items()} | {
    "content_length": 2
}
_MOST_DIGITS = 20  # of a length; the first 20 digits are enough to see that it is too large


@attrs.frozen
class Sent:
    """The parts of a request's headers that matter."""

    signature: str | None
    encoded: bool
    length: int

    @classmethod
    def parse(cls, headers: Headers) -> Self:
        """Parse headers. Names may be in any case, and repeated.

        An item that cannot be a header is ignored, so that the request is answered as if it had none.

        Raises:
            TypeError: they are neither a mapping nor pairs.
        """
        found: tuple[list[str], list[str], list[str]] = ([], [], [])
        for field, value in _pairs(headers):
            for name in _texts(field):
                position = _POSITIONS.get(name.lower())
                if position is not None:
                    found[position].extend(_texts(value))
        return cls.build(*found)

    @classmethod
    def build(cls, signatures: Sequence[str], encodings: Sequence[str], lengths: Sequence[str]) -> Self:
        """Build from the fields that matter, each with all its values."""
        return cls(
            # A repeated field means the same as one with commas (RFC 9110, 5.3); `verify` splits it.
            ",".join(signatures) or None,
            bool(encodings) and any(value.strip().lower() not in ("", "identity") for value in encodings),
            max([int(value[:_MOST_DIGITS]) for value in lengths if value.isdecimal()], default=0),
        )


class Handler(Protocol):
    """The interface of a receiver for the adapters of web frameworks."""

    async def handle(self, body: Body, headers: Headers | Sent) -> int:
        """Handle a request and return the status to answer with."""
        ...

    def refuse_unread(self, headers: Headers | Sent, *, size: int | None = None) -> int | None:
        """Return the status to answer with before the body is read (any further), `None` if it must be read."""
        ...


def judge(body: bytes, sent: Sent, *, secrets: Secrets, now: float, tolerance: float) -> WebhookEvent | None:
    """Return the event in a request, `None` if it is not about a split.

    The body is parsed only after its signature has been verified.

    Raises:
        WebhookError: the request must be refused. `status_code` is the answer: 413 to a body of more than 64 KiB, 400
            to every other request that is not genuine.
    """
    judge_unread(sent, size=len(body))
    try:
        return parse_event(body, verify(body, sent.signature, secrets, now, tolerance))
    except WebhookError as error:
        error.status_code = REFUSED
        raise


def judge_unread(sent: Sent, *, size: int | None = None) -> None:
    """Check what can be known about a request before its body is read (any further).

    An encoded body need not be read: events are never compressed, and a stranger must not be able to make us decompress
    anything. The answer is not 415 because servers that decompress by themselves answer 400 to what they cannot read.

    Args:
        sent: its headers.
        size: bytes of the body read so far; by default what `Content-Length` says.

    Raises:
        WebhookError: as `judge`.
    """
    if sent.encoded:
        raise WebhookError("the body is compressed, but events never are", code="BODY_ENCODED", status_code=REFUSED)
    if (sent.length if size is None else size) > WEBHOOK_CAP_BYTES:
        raise WebhookError(
            f"the body is larger than {WEBHOOK_CAP_BYTES} bytes", code="BODY_TOO_LARGE", status_code=TOO_LARGE
        )


def _pairs(headers: Any) -> Iterator[tuple[Any, Any]]:
    items = headers.items() if hasattr(headers, "items") else () if headers is None else headers
    if not isinstance(items, Iterable) or isinstance(items, str | bytes | bytearray):
        raise TypeError(
            f"the headers of a webhook must be a mapping, or pairs of name and value, not {type(headers).__name__}"
        )
    for pair in items:
        if isinstance(pair, tuple | list) and len(pair) == 2:  # noqa: PLR2004
            yield pair[0], pair[1]


def _texts(value: object) -> Iterator[str]:
    """Return a header's value, or its values where a framework puts those of a repeated field into a list."""
    for one in value if isinstance(value, list | tuple) else (value,):
        if isinstance(one, str):
            yield one
        elif isinstance(one, bytes):
            yield one.decode("latin-1")  # HTTP's own encoding: it accepts every byte
        elif isinstance(one, int):  # `Content-Length` in some frameworks
            yield str(max(0, min(one, 10**_MOST_DIGITS)))
