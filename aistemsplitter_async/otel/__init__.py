"""OpenTelemetry: spans and metrics of what clients do, made from their events. Needs the extra `otel`.

```python
async with AsyncAIStemSplitter(on_event=OTelListener()) as client:
    await client.split("song.wav", into="stems/")
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aistemsplitter_async.events import Event

try:
    from aistemsplitter_async.otel.metrics import Metrics
    from aistemsplitter_async.otel.spans import Spans
except ModuleNotFoundError as _error:
    raise ImportError(
        f"aistemsplitter_async.otel needs opentelemetry-api ({_error}); pip install 'aistemsplitter-async[otel]'"
    ) from None

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

__all__ = ["OTelListener"]


class OTelListener:
    """An `on_event` listener that makes spans and metrics. One serves all clients of a process; make no more.

    Spans are `aistemsplitter.batch`, `.split`, and for its stages `.prepare`, `.upload`, `.create`, `.wait`,
    `.download` and `.mix`, below the span that is current where the call is made. Each attempt of a request is a span
    of kind CLIENT.
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
        self._spans = Spans(tracer_provider, details=details, link_batches=link_batches)
        self._metrics = Metrics(meter_provider)

    def __call__(self, event: Event) -> None:
        """Take note of `event`."""
        try:
            self._metrics.note(event)  # first, while the span that it belongs to is current: it may be an exemplar
        finally:
            self._spans.note(event)
