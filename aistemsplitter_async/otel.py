"""OpenTelemetry: spans and metrics of what clients do, made from their events. Needs the extra `otel`.

```python
async with AsyncAIStemSplitter(on_event=OTelListener()) as client:
    await client.split("song.wav", into="stems/")
```

A span that is open is the current one of the context that its work runs in, so that all that happens there is below it:
the client's requests, and the caller's own code in between. Nothing is kept anywhere else, so nothing can pile up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import attrs

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
    SlotGranted,
    SplitCreated,
    SplitFinished,
    SplitStarted,
    StageFinished,
    StageStarted,
    Throttled,
)

try:
    from opentelemetry.context import Context, attach, create_key, get_current, set_value
    from opentelemetry.metrics import CallbackOptions, Histogram, MeterProvider, Observation, get_meter
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
except ImportError as error:
    raise ImportError(
        "aistemsplitter_async.otel needs opentelemetry-api; pip install 'aistemsplitter-async[otel]'", name=error.name
    ) from None

if TYPE_CHECKING:
    from opentelemetry.util.types import AttributeValue

Attributes = dict[str, "AttributeValue"]

_SCOPE = "aistemsplitter_async"
_SCHEMA_URL = "https://opentelemetry.io/schemas/1.27.0"  # the names of HTTP used here are stable since 1.23
_OTHER = "_OTHER"  # the conventions' word for a value that is not told
_REDACTED = "REDACTED"  # the conventions' word for what may grant access
_FIRST_ERROR_STATUS = 400
_MOST_HOSTS = 20  # told apart in metrics: the API names the hosts of uploads and stems, and a metric lives on
_REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)  # the conventions'
_STAGE_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)
_TEMPLATES = {  # below the path of the base URL; those of upload workers and CDNs are theirs, and may grant access
    "get_credits": "/credits",
    "create_upload": "/audio/uploads",
    "create_split": "/audio/splits",
    "get_split": "/audio/splits/{id}",
}


class OTelListener:
    """An `on_event` listener that makes spans and metrics. One serves all clients of a process; make no more.

    Spans are `aistemsplitter.batch`, `.split`, and `.prepare`, `.upload`, `.create`, `.wait` and `.download` for its
    stages, below the span that is current where the call is made; each attempt of a request is a span of kind CLIENT.
    Requests carry no `traceparent`. `docs/tracing.md` lists all names.

    Args:
        tracer_provider: where spans go, by default where all of the process do.
        meter_provider: where metrics go, by default where all of the process do.
        details: whether spans have the names of sources and the messages of errors, in which names may be.
        link_batches: whether each source of a batch is a trace of its own, linked to the batch's span, instead of a
            part of its trace; for batches of more than about a hundred songs, whose traces become too large.
    """

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        *,
        details: bool = False,
        link_batches: bool = False,
    ) -> None:
        self._spans = _Spans(tracer_provider, details=details, link_batches=link_batches)
        self._metrics = _Metrics(meter_provider)

    def __call__(self, event: Event) -> None:
        """Take note of `event`."""
        self._metrics.note(event)  # first, while the span it belongs to is current: it may become an exemplar
        self._spans.note(event)


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


class _Spans:
    """Opens and ends spans. What begins and ends does so in the same context."""

    def __init__(self, provider: TracerProvider | None, *, details: bool, link_batches: bool) -> None:
        self._tracer = get_tracer(_SCOPE, __version__, provider, _SCHEMA_URL)
        self._key = create_key("aistemsplitter")
        self._details = details
        self._link_batches = link_batches

    def note(self, event: Event) -> None:  # noqa: C901  # one line a kind
        match event:
            case BatchStarted():
                self._open("batch", "aistemsplitter.batch", _present({"aistemsplitter.batch.name": None}))
            case SplitStarted():
                self._open("split", "aistemsplitter.split", self._describe_source(event))
            case StageStarted():
                self._open("stage", f"aistemsplitter.{event.stage}", _present({"aistemsplitter.split.id": event.split_id}))
            case AttemptStarted():
                self._open("attempt", *_describe_attempt(event), kind=SpanKind.CLIENT)
            case RequestSent():
                self._end("attempt", _describe_answer(event), _error_of(event))
            case StageFinished():
                self._end("stage", _present(_split_id(event) | {"aistemsplitter.error.code": event.code}), event.error)
            case SplitFinished():
                self._end("split", _describe_outcome(event), event.error, event.reason if self._details else None)
            case BatchFinished():
                self._end("batch", _present({"aistemsplitter.error.code": event.code}), event.error)
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
            self._set(of, _present(created))

    def _add_event(self, name: str, attributes: Mapping[str, AttributeValue | None]) -> None:
        newest = self._newest()
        if newest is not None and newest.is_open:
            newest.span.add_event(name, _present(attributes))

    def _describe_source(self, event: SplitStarted) -> Attributes:
        return _present(
            {
                "aistemsplitter.source.kind": event.kind,
                "aistemsplitter.source.name": event.source if self._details else None,
                "aistemsplitter.stem_model": event.stem_model,
                "aistemsplitter.output_format": event.output_format,
            }
        )


class _Metrics:
    """Counts and measures. No attribute has more than a few values."""

    def __init__(self, provider: MeterProvider | None) -> None:
        meter = get_meter(_SCOPE, __version__, provider, _SCHEMA_URL)

        def seconds(name: str, description: str, boundaries: Iterable[float]) -> Histogram:
            return meter.create_histogram(name, "s", description, explicit_bucket_boundaries_advisory=[*boundaries])

        self._requests = seconds("http.client.request.duration", "Duration of HTTP client requests.", _REQUEST_SECONDS)
        self._gate_wait = seconds("aistemsplitter.gate.wait", "Time an API request waited at the gate.", _STAGE_SECONDS)
        self._stages = seconds("aistemsplitter.stage.duration", "Duration of a stage of a split.", _STAGE_SECONDS)
        self._splits = seconds("aistemsplitter.split.duration", "Duration of a split, all of it.", _STAGE_SECONDS)
        self._throttled = meter.create_counter("aistemsplitter.throttled", "{request}", "Requests answered 429.")
        self._credits = meter.create_counter("aistemsplitter.credits", "{credit}", "Credits charged for creates.")
        self._io = meter.create_counter("aistemsplitter.io", "By", "Bytes of bodies that were moved.")
        gauges = {
            "used": "Requests that count against the key's limit.",
            "limit": "The key's limit, if it is known.",
            "waiting": "Calls that wait at the gate.",
        }
        for name, description in gauges.items():
            callback = _observe(self._read_gate, name)
            meter.create_observable_gauge(f"aistemsplitter.gate.{name}", [callback], "{request}", description)
        self._slot: tuple[SlotGranted, float] | None = None  # the newest, and when that was, in monotonic seconds
        self._hosts = set[str]()

    def note(self, event: Event) -> None:
        match event:
            case RequestSent():
                self._note_request(event)
            case SlotGranted():
                self._slot = event, time.monotonic()
                self._gate_wait.record(event.seconds, {"aistemsplitter.operation": event.operation})
            case StageFinished():
                stage = {"aistemsplitter.stage": event.stage, "error.type": event.error}
                self._stages.record(event.seconds, _present(stage))
            case SplitFinished():
                outcome = {"aistemsplitter.outcome": event.outcome, "error.type": event.error}
                self._splits.record(event.seconds, _present(outcome))
            case SplitCreated(credits_used=float() | int() as credits):
                self._credits.add(max(0, credits))
            case Throttled():
                self._throttled.add(1, {"aistemsplitter.operation": event.operation})

    def _note_request(self, event: RequestSent) -> None:
        server = _describe_server(event.url)
        if str(server.get("server.address")) not in self._hosts:
            if len(self._hosts) < _MOST_HOSTS:
                self._hosts.add(str(server.get("server.address")))
            else:
                server = {"server.address": _OTHER}
        told = {
            "http.request.method": event.method,
            "http.response.status_code": event.status,
            "error.type": _error_of(event),
            "aistemsplitter.operation": event.operation,
        }
        self._requests.record(event.duration, _present(server | told))
        for direction, count in (("transmit", event.bytes_sent), ("receive", event.bytes_received)):
            if count:
                self._io.add(
                    count, {"network.io.direction": direction, "aistemsplitter.operation": event.operation}
                )

    def _read_gate(self, name: str) -> int | None:
        """Return what to observe. Called in a thread of the exporter's, where the gate itself must not be read."""
        if self._slot is None:
            return None
        slot, noted = self._slot
        if name == "limit":
            return slot.limit
        if time.monotonic() - noted > slot.per:  # no request for a whole window
            return 0
        return slot.used if name == "used" else slot.waiting


def _observe(
    read: Callable[[str], int | None], name: str
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def callback(_: CallbackOptions) -> Iterable[Observation]:
        value = read(name)
        return [] if value is None else [Observation(value)]

    return callback


def _describe_server(url: str) -> Attributes:
    """Return what the conventions say of the server at `url`."""
    parts = urlsplit(url)
    port = parts.port or {"https": 443, "http": 80}.get(parts.scheme)
    return _present({"server.address": parts.hostname, "server.port": port})


def _describe_attempt(event: AttemptStarted) -> tuple[str, Attributes]:
    """Return the name and the attributes of an attempt's span."""
    template = _TEMPLATES.get(event.operation)
    told = {
        "http.request.method": event.method,
        "url.full": event.url + (template or f"/{_REDACTED}"),
        "url.template": template,
        "http.request.resend_count": event.attempt - 1 or None,
        "aistemsplitter.operation": event.operation,
        "aistemsplitter.split.id": event.split_id,
        "aistemsplitter.stem": event.stem,
        "aistemsplitter.gate.wait": event.gate_wait or None,
    }
    return event.method if template is None else f"{event.method} {template}", _describe_server(event.url) | _present(told)


def _describe_answer(event: RequestSent) -> Attributes:
    told = {
        "http.response.status_code": event.status,
        "http.request.body.size": event.bytes_sent or None,
        "http.response.body.size": event.bytes_received or None,
        "aistemsplitter.request.id": event.request_id,
        "aistemsplitter.error.code": event.code,
    }
    return _present(told)


def _describe_outcome(event: SplitFinished) -> Attributes:
    told = {
        "aistemsplitter.outcome": event.outcome,
        "aistemsplitter.split.id": event.split_id,
        "aistemsplitter.credits": event.credits_used,
        "aistemsplitter.error.code": event.code,
    }
    return _present(told)


def _error_of(event: RequestSent) -> str | None:
    """Return the `error.type` of an attempt: by the conventions, its status if there is one that is an error."""
    if event.status is not None and event.status >= _FIRST_ERROR_STATUS:
        return str(event.status)
    return event.error


def _present(attributes: Mapping[str, AttributeValue | None]) -> Attributes:
    return {name: value for name, value in attributes.items() if value is not None}
