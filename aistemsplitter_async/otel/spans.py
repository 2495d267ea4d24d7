"""Spans. One that is open is the current one of the context that its work runs in, and nothing else keeps it.

So all that happens there is below it, the client's requests and the caller's own code in between, and nothing piles up.
"""

from __future__ import annotations

from collections.abc import Mapping

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
    error_of,
    present,
)


@attrs.define(eq=False)
class _Open:
    """A span that is open in a context.

    Attributes:
        of: what it is of: `batch`, `split`, `stage` or `attempt`.
        span: itself.
        before: the context that it was opened in.
        around: the span of the same listener that it is in.
    """

    of: str
    span: Span
    before: Context
    around: _Open | None
    is_open: bool = True

    def set(self, attributes: Attributes) -> None:
        if self.is_open:
            self.span.set_attributes(attributes)

    def end(self, attributes: Attributes, error: str | None, description: str | None = None) -> None:
        if self.is_open:
            self.is_open = False
            if error is not None:
                attributes |= {"error.type": error}
                self.span.set_status(StatusCode.ERROR, description)
            self.span.set_attributes(attributes)
            self.span.end()


class Spans:
    """Opens and ends spans. What begins and ends does so in the same context."""

    def __init__(self, provider: TracerProvider | None, *, details: bool, link_batches: bool) -> None:
        self._tracer = get_tracer(SCOPE, __version__, provider, SCHEMA_URL)
        self._key = create_key("aistemsplitter")
        self._details = details
        self._link_batches = link_batches

    def note(self, event: Event) -> None:  # noqa: C901, PLR0912  # one line a kind
        match event:
            case BatchStarted():
                self._open("batch", "aistemsplitter.batch", {})
            case SplitStarted():
                self._open("split", "aistemsplitter.split", self._describe_source(event))
            case StageStarted():
                self._open(
                    "stage", f"aistemsplitter.{event.stage}", present({"aistemsplitter.split.id": event.split_id})
                )
            case AttemptStarted():
                self._open("attempt", *describe_attempt(event), kind=SpanKind.CLIENT)
            case RequestSent():
                self._end("attempt", describe_answer(event), error_of(event))
            case StageFinished():
                self._end(
                    "stage",
                    present({"aistemsplitter.split.id": event.split_id, "aistemsplitter.error.code": event.code}),
                    event.error,
                )
            case SplitFinished():
                self._end("split", describe_outcome(event), event.error, event.reason if self._details else None)
            case BatchFinished():
                self._end("batch", describe_batch(event), event.error)
            case SplitCreated():
                self._set_created(event)
            case PollMade(status=str(status)):
                self._set("stage", {"aistemsplitter.split.status": status})
            case RetryPlanned():
                self._add_event("retry", {"aistemsplitter.delay": event.delay, "error.type": event.error})
            case Throttled():
                self._add_event("throttled", {"aistemsplitter.retry_after": event.retry_after})
            case CreateAbandoned():
                self._add_event("create abandoned", {})

    def _open(self, of: str, name: str, attributes: Attributes, kind: SpanKind = SpanKind.INTERNAL) -> None:
        before, around = get_current(), self._newest()
        parent, links = before, list[Link]()
        if of == "split" and self._link_batches and around is not None and around.of == "batch":
            parent, links = set_span_in_context(INVALID_SPAN, before), [Link(around.span.get_span_context())]
        span = self._tracer.start_span(name, parent, kind, attributes, links)
        opened = _Open(of, span, before, around)
        attach(set_value(self._key, opened, set_span_in_context(span, before)))

    def _end(self, of: str, attributes: Attributes, error: str | None, description: str | None = None) -> None:
        """End the newest span that is of this, and those in it, whose end was not seen."""
        ended = self._find(of)
        if ended is not None:
            inner = self._newest()
            while inner is not None and inner is not ended:
                inner.end({}, None)
                inner = inner.around
            ended.end(attributes, error, description)
            attach(ended.before)  # no token is kept: it would be of no use in another context

    def _newest(self) -> _Open | None:
        newest = get_current().get(self._key)
        return newest if isinstance(newest, _Open) else None

    def _find(self, of: str) -> _Open | None:
        found = self._newest()
        while found is not None and (found.of != of or not found.is_open):
            found = found.around
        return found

    def _set(self, of: str, attributes: Attributes) -> None:
        if (found := self._find(of)) is not None:
            found.set(attributes)

    def _set_created(self, event: SplitCreated) -> None:
        created = {"aistemsplitter.split.id": event.split_id, "aistemsplitter.credits": event.credits_used}
        for of in ("stage", "split"):
            self._set(of, present(created))

    def _add_event(self, name: str, attributes: Mapping[str, AttributeValue | None]) -> None:
        newest = self._newest()
        if newest is not None and newest.is_open:
            newest.span.add_event(name, present(attributes))

    def _describe_source(self, event: SplitStarted) -> Attributes:
        return present(
            {
                "aistemsplitter.source.kind": event.kind,
                "aistemsplitter.source.name": event.source if self._details else None,
                "aistemsplitter.stem_model": event.stem_model,
                "aistemsplitter.output_format": event.output_format,
            }
        )
