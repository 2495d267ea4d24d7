"""Spans: an open one of a batch, a split or a stage is the current one of the context that its work runs in.

So all that happens there is below it: the client's requests, and the caller's own code in between.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs
from opentelemetry.context import Context, attach, create_key, get_current, set_value
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    Span,
    SpanKind,
    StatusCode,
    TracerProvider,
    get_tracer,
    set_span_in_context,
)
from opentelemetry.util.types import AttributeValue

from aistemsplitter_async._version import __version__
from aistemsplitter_async.events import (
    AttemptStarted,
    BatchFinished,
    BatchStarted,
    CreateAbandoned,
    Event,
    MixMade,
    PollMade,
    RequestSent,
    RetryPlanned,
    SplitCreated,
    SplitFinished,
    SplitStarted,
    StageFinished,
    StageStarted,
    Throttled,
)
from aistemsplitter_async.otel.attributes import (
    SCHEMA_URL,
    SCOPE,
    Attributes,
    describe_answer,
    describe_attempt,
    describe_batch,
    describe_outcome,
    describe_stage,
    error_of,
    name_attempt,
    present,
)

_BATCH, _SPLIT, _STAGE = "aistemsplitter.batch", "aistemsplitter.split", "aistemsplitter."
_SAME = 1e-3  # s between two ways to say when something began


@attrs.define(eq=False)
class _Open:
    """A span that is open.

    Attributes:
        name: what it is of, by which its end is recognised.
        at: when it began, by the client's clock (monotonic seconds).
        span: itself.
        before: the context that it was opened in.
        around: the open span that it is in.
        is_open: whether it has not ended yet.
    """

    name: str
    at: float
    span: Span
    before: Context
    around: _Open | None
    is_open: bool = True

    def end(self, attributes: Attributes, error: str | None, description: str | None) -> None:
        self.is_open = False
        self.before = Context()  # or those that ended elsewhere would hold all that were before them
        if error is not None:
            self.span.set_status(StatusCode.ERROR, description)
        self.span.set_attributes(attributes if error is None else attributes | {"error.type": error})
        self.span.end()


class Spans:
    """Opens and ends the spans of events."""

    def __init__(self, provider: TracerProvider | None, *, details: bool, link_batches: bool) -> None:
        self._tracer = get_tracer(SCOPE, __version__, provider, SCHEMA_URL)
        self._key = create_key("aistemsplitter")
        self._opened: dict[tuple[str, float], list[_Open]] = {}  # by name and beginning
        self._details = details
        self._link_batches = link_batches

    def note(self, event: Event) -> None:  # noqa: C901, PLR0912  # one a kind
        """Open or end a span, or say more about one."""
        match event:
            case BatchStarted():
                self._enter(_BATCH, event.at, {})
            case SplitStarted():
                self._enter(_SPLIT, event.at, self._describe_source(event))
            case StageStarted():
                self._enter(_STAGE + event.stage, event.at, present({"aistemsplitter.split.id": event.split_id}))
            case AttemptStarted():  # is not made the current one: the reader of a stem's stream has others
                told, title = describe_attempt(event), name_attempt(event)
                self._open(_identify(event), event.at, told, SpanKind.CLIENT, title=title)
            case RequestSent():
                self._end(_identify(event), event.at, describe_answer(event), error_of(event))
            case StageFinished():
                self._end(_STAGE + event.stage, event.at - event.seconds, describe_stage(event), event.error)
            case SplitFinished():
                reason = event.to_dict()["reason"] if self._details else None  # as it may be shown
                self._end(_SPLIT, event.at - event.seconds, describe_outcome(event), event.error, reason)
            case BatchFinished():
                self._end(_BATCH, event.at - event.seconds, describe_batch(event), event.error)
            case SplitCreated():
                created = {"aistemsplitter.split.id": event.split_id, "aistemsplitter.credits": event.credits_used}
                self._say(_STAGE + "create", present(created))
                self._say(_SPLIT, present(created))
            case PollMade(status=str(status)):
                self._say(_STAGE + "wait", {"aistemsplitter.split.status": status})
            case MixMade():
                mixed = {"aistemsplitter.mix.gain": event.gain_db, "aistemsplitter.mix.duration": event.seconds}
                self._add_event("mixed", mixed)
            case RetryPlanned():
                self._add_event("retry", {"aistemsplitter.delay": event.delay, "error.type": event.error})
            case Throttled():
                self._add_event("throttled", {"aistemsplitter.retry_after": event.retry_after})
            case CreateAbandoned():
                self._add_event("create abandoned", {})

    def _open(
        self,
        name: str,
        at: float,
        attributes: Attributes,
        kind: SpanKind = SpanKind.INTERNAL,
        *,
        title: str | None = None,
    ) -> _Open:
        before, around = get_current(), next(self._around(), None)
        parent, links = before, list[Link]()
        if self._link_batches and name == _SPLIT and around is not None and around.name == _BATCH:
            parent, links = set_span_in_context(INVALID_SPAN, before), [Link(around.span.get_span_context())]
        span = self._tracer.start_span(title or name, parent, kind, attributes, links)
        opened = _Open(name, at, span, before, around)
        self._opened.setdefault((name, at), []).append(opened)
        return opened

    def _enter(self, name: str, at: float, attributes: Attributes) -> None:
        """Open a span, and make it the current one."""
        opened = self._open(name, at, attributes)
        attach(set_value(self._key, opened, set_span_in_context(opened.span, opened.before)))

    def _end(
        self, name: str, began: float, attributes: Attributes, error: str | None, description: str | None = None
    ) -> None:
        """End the span of this name that began then, and those inside of it whose end was not heard of."""
        inside = list[_Open]()
        for opened in self._around():
            if self._fits(opened, name, began):
                break
            inside.append(opened)
        else:
            self._end_elsewhere(name, began, attributes, error, description)
            return
        for lost in inside:
            self._close(lost, {}, None, None)
        attach(opened.before)  # with the token of the first `attach`, it would fail in a copy of that context
        self._close(opened, attributes, error, description)

    def _end_elsewhere(
        self, name: str, began: float, attributes: Attributes, error: str | None, description: str | None
    ) -> None:
        """End a span that is not around what runs now: an attempt's, or one that another task has opened."""
        found = self._opened.get((name, began)) or [
            opened for same in self._opened.values() for opened in same if self._fits(opened, name, began)
        ]
        around = next(self._around(), None)
        opened = next((one for one in found if one.around is around), found[0] if found else None)
        if opened is not None:
            self._close(opened, attributes, error, description)

    def _close(self, opened: _Open, attributes: Attributes, error: str | None, description: str | None) -> None:
        same = self._opened[opened.name, opened.at]
        same.remove(opened)
        if not same:
            del self._opened[opened.name, opened.at]
        opened.end(attributes, error, description)

    @staticmethod
    def _fits(opened: _Open, name: str, began: float) -> bool:
        return opened.name == name and abs(opened.at - began) < _SAME

    def _around(self) -> Iterator[_Open]:
        """Yield the open spans around what runs now, the innermost first."""
        opened = get_current().get(self._key)
        while isinstance(opened, _Open):
            if opened.is_open:
                yield opened
            opened = opened.around

    def _say(self, name: str, attributes: Attributes) -> None:
        """Add attributes to the innermost span of this name."""
        for opened in self._around():
            if opened.name == name:
                opened.span.set_attributes(attributes)
                return

    def _add_event(self, name: str, attributes: Mapping[str, AttributeValue | None]) -> None:
        innermost = next(self._around(), None)
        if innermost is not None:
            innermost.span.add_event(name, present(attributes))

    def _describe_source(self, event: SplitStarted) -> Attributes:
        source = {
            "aistemsplitter.source.kind": event.kind,
            "aistemsplitter.source.name": event.source if self._details else None,
            "aistemsplitter.stem_model": event.stem_model,
            "aistemsplitter.output_format": event.output_format,
        }
        return present(source)


def _identify(event: AttemptStarted | RequestSent) -> str:
    """Return what tells an attempt from others that begin at the same moment, which is 16 ms long on some systems."""
    return f"{event.method} {event.operation} {event.split_id} {event.stem} {event.attempt} {event.url}"
