"""The faults of one request."""

from __future__ import annotations

from typing import Any, Final, Literal, get_args

import attrs
from attrs.validators import deep_iterable, ge, gt, le, optional

from aistemsplitter_async.sandbox.faults.base import (
    Fault,
    is_flag,
    is_header_text,
    is_number,
    is_one_of,
    is_retry_after,
    is_text,
    is_whole,
    to_tuple,
)
from aistemsplitter_async.sandbox.faults.webhooks import OF_WEBHOOKS

CutKind = Literal["reset", "close"]
Framing = Literal["length", "chunked", "close"]
BodyKind = Literal["html", "garbage", "huge", "deep", "empty", "truncated", "big_integer", "nan", "surrogate", "list"]


@attrs.frozen
class Status(Fault):
    """Answer with an error status instead.

    Attributes:
        status: HTTP status, 300 to 599.
        code: Code in the envelope; if empty, the usual one of the status.
        retry_after: `Retry-After` header: seconds, `date` (30 s ahead), `past` (an hour ago), `absurd` (300 years), or
            any other text unchanged; `None` for no such header.
        effect: Whether the operation is carried out first.
    """

    status: int = attrs.field(default=500, validator=[is_whole, ge(300), le(599)])
    code: str = attrs.field(default="", validator=is_text)
    retry_after: float | str | None = attrs.field(default=None, validator=optional(is_retry_after))
    effect: bool = attrs.field(default=False, validator=is_flag)


@attrs.frozen
class Body(Fault):
    """Answer with another body.

    Attributes:
        body: `html` page of a proxy, `garbage` bytes, `huge` valid JSON, `deep` nesting, `empty`, the real one
            `truncated` in the middle, JSON with a `big_integer`, `nan` or a lone `surrogate`, or a JSON `list`.
        status: HTTP status to send with it, 200 to 599; the real one if `None`.
        size_bytes: Size of a `huge` body.
        effect: Whether the operation is carried out first.
    """

    body: BodyKind = attrs.field(default="html", validator=is_one_of(*get_args(BodyKind)))
    status: int | None = attrs.field(default=None, validator=optional([is_whole, ge(200), le(599)]))
    size_bytes: int = attrs.field(default=8 * 1024**2, validator=[is_whole, gt(0)])
    effect: bool = attrs.field(default=True, validator=is_flag)


@attrs.frozen
class ContentType(Fault):
    """Answer with another `Content-Type`; the body stays the same."""

    content_type: str = attrs.field(default="text/html", validator=is_header_text)


@attrs.frozen
class Header(Fault):
    """Answer with one header set; with `Status(302)` and `Location` it is a redirect."""

    name: str = attrs.field(default="X-Injected", validator=is_header_text)
    value: str = attrs.field(default="1", validator=is_header_text)


@attrs.frozen
class MissingField(Fault):
    """Answer without one field of the JSON body, named by its path, such as `data.id`."""

    path: str = attrs.field(default="data", validator=is_text)


@attrs.frozen
class ChangedField(Fault):
    """Answer with another value in one field: a wrong type, an unknown enum value, another split's id."""

    path: str = attrs.field(default="data.status", validator=is_text)
    value: Any = "paused"


@attrs.frozen
class ExtraFields(Fault):
    """Answer with unknown fields on every level."""


@attrs.frozen
class Latency(Fault):
    """Take `seconds` longer before anything happens."""

    seconds: float = attrs.field(default=1.0, validator=[is_number, ge(0)])


@attrs.frozen
class Drip(Fault):
    """Send the body in pieces of `piece_bytes`, one `every` seconds."""

    piece_bytes: int = attrs.field(default=1, validator=[is_whole, gt(0)])
    every: float = attrs.field(default=0.1, validator=[is_number, ge(0)])


@attrs.frozen
class Stall(Fault):
    """Send `after_bytes` of the body, then nothing more, and keep the connection open."""

    after_bytes: int = attrs.field(default=0, validator=[is_whole, ge(0)])


@attrs.frozen
class Reset(Fault):
    """Cut the connection without an answer, before (`effect=False`) or after the operation is carried out."""

    effect: bool = attrs.field(default=False, validator=is_flag)
    how: CutKind = attrs.field(default="reset", validator=is_one_of(*get_args(CutKind)))


@attrs.frozen
class Cut(Fault):
    """Carry out the operation, send the headers and `after_bytes` of the body, then cut the connection.

    Attributes:
        after_bytes: Bytes of the body to send; all of it if it has fewer.
        how: `reset` (RST) or `close` (FIN, clean).
        framing: How the body is delimited: by `length`, `chunked`, or by the `close` of the connection, in which case
            only the missing end shows that it was cut.
    """

    after_bytes: int = attrs.field(default=0, validator=[is_whole, ge(0)])
    how: CutKind = attrs.field(default="close", validator=is_one_of(*get_args(CutKind)))
    framing: Framing = attrs.field(default="length", validator=is_one_of(*get_args(Framing)))


@attrs.frozen
class StopReading(Fault):
    """Upload: read `after_bytes` of the file, then read no more (`stall`) or cut the connection (`reset`)."""

    after_bytes: int = attrs.field(default=0, validator=[is_whole, ge(0)])
    how: Literal["stall", "reset"] = attrs.field(default="stall", validator=is_one_of("stall", "reset"))


@attrs.frozen
class WrongContentRange(Fault):
    """Download: send a part under a `Content-Range` that is one byte off, or under the given value."""

    value: str = attrs.field(default="", validator=is_header_text)


@attrs.frozen
class ChangedETag(Fault):
    """Download: the file seems to have changed, so its `ETag` differs and no `If-Range` matches."""

    etag: str = attrs.field(default="changed", validator=is_header_text)


@attrs.frozen
class ExpiredReservation(Fault):
    """Upload: the reservation has expired, 410."""


@attrs.frozen
class ExpiredURL(Fault):
    """Download: the stem's address has expired, 403."""


HOSTILE_NAMES: Final = (
    "../../escaped",
    "/etc/cron.d/stem",
    "..\\windows",
    "CON",
    "nul\x00byte",
    "trailing. ",
    "right\u202eto-left",
    "x" * 300,
    "",
    "Vocals",
    "vocals",
)

HOSTILE_URLS: Final = (
    "file:///etc/passwd",
    "http://169.254.169.254/latest/meta-data",
    "https://10.0.0.1/vocals.mp3",
    "https://[::ffff:10.0.0.1]/vocals.mp3",
    "https://user:secret@example.com/vocals.mp3",
    "javascript:alert(1)",
    "//example.com/vocals.mp3",
    "",
)


@attrs.frozen
class HostileStems(Fault):
    """Get: answer with these names of stems, or these addresses, instead of the real ones.

    Attributes:
        names: Names; each gets a real address.
        urls: Addresses; each gets a real name, or `stem1`, `stem2` ... if there are more.
    """

    names: tuple[str, ...] = attrs.field(default=(), validator=deep_iterable(is_text), converter=to_tuple)
    urls: tuple[str, ...] = attrs.field(default=(), validator=deep_iterable(is_text), converter=to_tuple)


@attrs.frozen
class FailedSplit(Fault):
    """Create: the split will fail with this error, and then be refunded."""

    code: str = attrs.field(default="PROCESSING_FAILED", validator=is_text)
    message: str = attrs.field(default="The separation failed.", validator=is_text)


@attrs.frozen
class NeverFinishing(Fault):
    """Create: the split will stay in processing forever."""


_OF_REQUESTS: Final[tuple[type[Fault], ...]] = (
    *(Status, Body, ContentType, Header, MissingField, ChangedField, ExtraFields),
    *(Latency, Drip, Stall, Reset, Cut, StopReading, WrongContentRange, ChangedETag),
    *(ExpiredReservation, ExpiredURL, HostileStems, FailedSplit, NeverFinishing),
)

KINDS: Final[dict[str, type[Fault]]] = {fault.kind: fault for fault in (*_OF_REQUESTS, *OF_WEBHOOKS)}


def build_fault(kind: str, **values: Any) -> Fault:
    """Return a fault from its kind and its attributes.

    Raises:
        ValueError: There is no such kind or attribute, or a value is of the wrong type or out of range.
    """
    if kind not in KINDS:
        raise ValueError(f"there is no fault {kind!r}; there are {', '.join(KINDS)}")
    names = attrs.fields_dict(KINDS[kind])
    unknown = sorted(set(values) - set(names))
    if unknown:
        raise ValueError(f"fault {kind} has no {', '.join(unknown)}; it has {', '.join(names) or 'nothing to set'}")
    try:
        return KINDS[kind](**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"fault {kind}: {error.args[0]}") from None
