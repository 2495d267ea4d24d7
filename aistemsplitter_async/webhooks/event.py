"""The event in the body of a webhook request, read once its signature has been verified."""

from __future__ import annotations

import attrs

from aistemsplitter_async._plain import PlainValue
from aistemsplitter_async._wire.codec import parse_json
from aistemsplitter_async.errors import ProtocolError, WebhookError
from aistemsplitter_async.models import TERMINAL, SplitStatus

_ABOUT_SPLITS = "audio.split."
_FINAL = ("audio.split.completed", "audio.split.failed")  # with any status, or none
_TEXT_CAP = 255  # characters; events are kept, so their size is bounded


@attrs.frozen(cache_hash=True)
class WebhookEvent(PlainValue):
    """Something happened to a split. It is only a hint: `get_split` returns the actual state and the stem URLs.

    Attributes:
        event: such as `"audio.split.completed"`, whether the split succeeded or failed.
        split_id: which split.
        status: its status, empty if the event does not have one.
        signed_at: when the sender signed it, in POSIX seconds; not compared, since each delivery is signed separately.
    """

    event: str
    split_id: str
    status: SplitStatus = ""
    signed_at: int = attrs.field(default=0, eq=False)

    @property
    def is_terminal(self) -> bool:
        """Whether the split is done."""
        return self.event in _FINAL or self.status in TERMINAL


def parse_event(body: bytes, signed_at: int) -> WebhookEvent | None:
    """Return the event in a verified body; `None` if it is not about a split.

    Raises:
        WebhookError: it is not an event; `code` is `EVENT_MALFORMED`.
    """
    try:
        payload = parse_json(body)
    except ProtocolError as error:
        raise _malformed(str(error).partition(": ")[2]) from None
    event = _text(payload, "event", "$.event")
    if not event.startswith(_ABOUT_SPLITS):
        return None
    data = payload.get("data")
    return WebhookEvent(event, _text(data, "id", "$.data.id"), _text(data, "status", "$.data.status", ""), signed_at)


def _text(parent: object, key: str, path: str, default: str | None = None) -> str:
    """Return the text at `key` of `parent`. `path` names it in the error."""
    value = parent.get(key) if isinstance(parent, dict) else None
    if isinstance(value, str) and 0 < len(value) <= _TEXT_CAP:
        return value
    if value is None and default is not None:
        return default
    raise _malformed(f"{path} should be a string of 1 to {_TEXT_CAP} characters")


def _malformed(problem: str) -> WebhookError:
    return WebhookError(f"the body is signed but is not an event: {problem}", code="EVENT_MALFORMED")
