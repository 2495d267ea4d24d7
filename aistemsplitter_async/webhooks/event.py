"""What a webhook says, once its signature is known to be good."""

from __future__ import annotations

import attrs

from aistemsplitter_async._wire.codec import parse_json
from aistemsplitter_async.errors import ProtocolError, WebhookError
from aistemsplitter_async.models import TERMINAL, SplitStatus

_ABOUT_SPLITS = "audio.split."
_FINAL = ("audio.split.completed", "audio.split.failed")  # whatever status they come with, or none
_TEXT_CAP = 255  # characters; events are remembered, so their size is bounded


@attrs.frozen(cache_hash=True)
class WebhookEvent:
    """Something happened to a split. It is a hint: `get_split` tells the truth, and where the stems are.

    Attributes:
        event: such as `"audio.split.completed"`, whether the split succeeded or failed.
        split_id: which split.
        status: what became of it, empty if the event does not say.
        signed_at: when the sender signed it, in POSIX seconds; not compared, since every repetition is signed anew.
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
    """Return the event in a body that was verified; `None` for one that is not about a split.

    Raises:
        WebhookError: it is no event; `code` is `EVENT_MALFORMED`.
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
    """Return the text that `parent` holds as `key`; it is found at `path`."""
    value = parent.get(key) if isinstance(parent, dict) else None
    if isinstance(value, str) and 0 < len(value) <= _TEXT_CAP:
        return value
    if value is None and default is not None:
        return default
    raise _malformed(f"{path} should be text of 1 to {_TEXT_CAP} characters")


def _malformed(problem: str) -> WebhookError:
    return WebhookError(f"the body is signed, but no event: {problem}", code="EVENT_MALFORMED")
