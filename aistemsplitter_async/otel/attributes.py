"""What spans and metrics say of an event, in the words of OpenTelemetry's conventions, and nothing that is secret."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote, urlsplit

from opentelemetry.util.types import AttributeValue

from aistemsplitter_async._plain import to_plain
from aistemsplitter_async.events import AttemptStarted, BatchFinished, RequestSent, SplitFinished, StageFinished

Attributes = dict[str, AttributeValue]

SCOPE = "aistemsplitter_async"
SCHEMA_URL = "https://opentelemetry.io/schemas/1.27.0"  # the names of HTTP used here are stable since 1.23
_REDACTED = "REDACTED"  # the conventions' word for what may grant access
_FIRST_ERROR_STATUS = 400
_PAID_BEFORE = frozenset({"skipped", "elsewhere"})  # or counted by the worker that pays


def describe_server(url: str) -> Attributes:
    """Return what the conventions say of the server at `url`."""
    parts = urlsplit(url)
    port = parts.port or {"https": 443, "http": 80}.get(parts.scheme)
    return present({"server.address": parts.hostname, "server.port": port})


def name_attempt(event: AttemptStarted | RequestSent) -> str:
    """Return the name of an attempt's span: the method, and the path if it is not secret."""
    template = _template(event)
    return event.method if template is None else f"{event.method} {template}"


def describe_attempt(event: AttemptStarted) -> Attributes:
    """Return the attributes that an attempt has from its beginning."""
    template = _template(event)
    told = {
        "http.request.method": event.method,
        "url.full": f"{event.url}/{_REDACTED}" if template is None else event.url,
        "url.template": template,
        "http.request.resend_count": event.attempt - 1 or None,
        "aistemsplitter.operation": event.operation,
        "aistemsplitter.split.id": event.split_id,
        "aistemsplitter.stem": event.stem,
        "aistemsplitter.gate.wait": event.gate_wait or None,
    }
    return describe_server(event.url) | present(told)


def _template(event: AttemptStarted | RequestSent) -> str | None:
    """Return the path of a request, without the id in it; `None` for those whose paths may grant access."""
    path, id_ = urlsplit(event.url).path, quote(event.split_id or "", safe="")
    return (path.removesuffix(id_) + "{id}" if id_ and path.endswith(id_) else path) or None


def describe_answer(event: RequestSent) -> Attributes:
    """Return the attributes that an attempt has at its end."""
    told = {
        "http.response.status_code": event.status,
        "http.request.body.size": event.bytes_sent or None,
        "http.response.body.size": event.bytes_received or None,
        "aistemsplitter.request.id": event.request_id,
        "aistemsplitter.error.code": event.code,
    }
    return present(told)


def describe_stage(event: StageFinished) -> Attributes:
    """Return the attributes that a stage's span has at its end."""
    return present({"aistemsplitter.split.id": event.split_id, "aistemsplitter.error.code": event.code})


def describe_outcome(event: SplitFinished) -> Attributes:
    """Return the attributes that a split's span has at its end."""
    told = {
        "aistemsplitter.outcome": event.outcome,
        "aistemsplitter.split.id": event.split_id,
        "aistemsplitter.credits": None if event.outcome in _PAID_BEFORE else event.credits_used,
        "aistemsplitter.error.code": event.code,
    }
    return present(told)


def describe_batch(event: BatchFinished) -> Attributes:
    """Return the attributes that a batch's span has at its end."""
    told = {
        "aistemsplitter.batch.done": event.done,
        "aistemsplitter.batch.failed": event.failed,
        "aistemsplitter.batch.skipped": event.skipped,
        "aistemsplitter.error.code": event.code,
    }
    return present(told)


def error_of(event: RequestSent) -> str | None:
    """Return the `error.type` of an attempt: by the conventions, its status if there is one that is an error."""
    if event.status is not None and event.status >= _FIRST_ERROR_STATUS:
        return str(event.status)
    return event.error


def present(attributes: Mapping[str, AttributeValue | None]) -> Attributes:
    """Return the attributes that have a value, each as it may be shown, also where a server chose it."""
    return {name: to_plain(value, shown=True) for name, value in attributes.items() if value is not None}
