"""What to answer to a webhook request, decided from nothing but its bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, Self

import attrs

from aistemsplitter_async._wire.signature import SIGNATURE_HEADER, Secrets, verify
from aistemsplitter_async.config import WEBHOOK_CAP_BYTES
from aistemsplitter_async.errors import WebhookError
from aistemsplitter_async.webhooks.event import WebhookEvent, parse_event

OK = 200
REFUSED = 400
TOO_LARGE = 413
TRY_AGAIN = 503

Text = str | bytes


class HasItems(Protocol):
    """A mapping, or what frameworks have instead: `email.message.Message` and multi-dictionaries."""

    def items(self) -> Iterable[tuple[Any, Any]]:
        """Return pairs of name and value."""
        ...


Headers = HasItems | Iterable[tuple[Text, Text]] | None

FIELDS = (SIGNATURE_HEADER, "Content-Encoding", "Content-Length")  # whatever else was sent makes no difference
_PLACES = {name.lower(): place for place, name in enumerate(FIELDS)}
_MOST_DIGITS = 20  # of a length; what is longer is too large all the same


@attrs.frozen
class Sent:
    """What a request's headers say, as far as it matters."""

    signature: str | None
    encoded: bool
    length: int

    @classmethod
    def parse(cls, headers: Headers) -> Self:
        """Return the meaning of headers, however their names are written and however often each comes.

        What is no header at all means nothing, so that the request gets the answer of one that lacks it.
        """
        found: tuple[list[str], list[str], list[str]] = ([], [], [])
        for field, value in _pairs(headers):
            for name in _texts(field):
                place = _PLACES.get(name.lower())
                if place is not None:
                    found[place].extend(_texts(value))
        return cls.build(*found)

    @classmethod
    def build(cls, signatures: Sequence[str], encodings: Sequence[str], lengths: Sequence[str]) -> Self:
        """Return the meaning of the fields that matter, each with all its values."""
        return cls(
            # A repeated field means the same as one with commas (RFC 9110, 5.3); `verify` takes it apart.
            ",".join(signatures) or None,
            bool(encodings) and any(value.strip().lower() not in ("", "identity") for value in encodings),
            max([int(value[:_MOST_DIGITS]) for value in lengths if value.isdecimal()], default=0),
        )


class Handler(Protocol):
    """What the adapters of web frameworks need of a receiver."""

    async def handle(self, body: bytes | bytearray, headers: Headers | Sent) -> int:
        """Return the status to answer to a request."""
        ...

    def refuse_unread(self, headers: Headers | Sent, *, size: int | None = None) -> int | None:
        """Return the status to answer without reading (more of) the body, `None` if it has to be read."""
        ...


def judge(body: bytes, sent: Sent, *, secrets: Secrets, now: float, tolerance: float) -> WebhookEvent | None:
    """Return the event in a request, `None` if it is about something else than a split.

    The body is parsed only once the signature is known to be good.

    Raises:
        WebhookError: the request is to be refused. `status_code` is what to answer: 413 to a body of more than 64 KiB,
            and 400 to everything else that is not genuine, whatever is wrong with it.
    """
    judge_unread(sent, size=len(body))
    try:
        return parse_event(body, verify(body, sent.signature, secrets, now, tolerance))
    except WebhookError as error:
        error.status_code = REFUSED
        raise


def judge_unread(sent: Sent, *, size: int | None = None) -> None:
    """Check what can be known of a request before its body is read (on).

    An encoded body need not be read: no event is, and unpacking is what a stranger must not make us do. (Not 415:
    servers that unpack by themselves refuse what they cannot read with 400.)

    Args:
        sent: its headers.
        size: bytes of the body as far as known; otherwise what `Content-Length` says.

    Raises:
        WebhookError: as `judge`.
    """
    if sent.encoded:
        raise WebhookError("the body is compressed, which no event is", code="BODY_ENCODED", status_code=REFUSED)
    if (sent.length if size is None else size) > WEBHOOK_CAP_BYTES:
        raise WebhookError(
            f"the body is larger than {WEBHOOK_CAP_BYTES} bytes", code="BODY_TOO_LARGE", status_code=TOO_LARGE
        )


def _pairs(headers: Any) -> Iterator[tuple[Any, Any]]:
    items = headers.items() if hasattr(headers, "items") else headers
    for pair in items if isinstance(items, Iterable) else ():
        if isinstance(pair, tuple | list) and len(pair) == 2:  # noqa: PLR2004
            yield pair[0], pair[1]


def _texts(value: object) -> Iterator[str]:
    """Return the texts in a header's value: one, but for frameworks that list those of a repeated field."""
    for one in value if isinstance(value, list | tuple) else (value,):
        if isinstance(one, str):
            yield one
        elif isinstance(one, bytes):
            yield one.decode("latin-1")  # as HTTP has it: no byte is refused here
        elif isinstance(one, int):  # a length
            yield str(max(0, min(one, 10**_MOST_DIGITS)))
