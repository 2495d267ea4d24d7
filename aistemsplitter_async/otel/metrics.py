"""Metrics. No attribute of theirs has more than a few values."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from opentelemetry.metrics import CallbackOptions, Histogram, MeterProvider, Observation, get_meter

from aistemsplitter_async._version import __version__
from aistemsplitter_async.events import (
    Event,
    RequestSent,
    SlotGranted,
    SplitCreated,
    SplitFinished,
    StageFinished,
    Throttled,
)
from aistemsplitter_async.otel.attributes import SCHEMA_URL, SCOPE, describe_server, error_of, present

_OTHER = "_OTHER"  # the conventions' word for a value that is not told
_MOST_SERVERS = 20  # told apart: the API names the hosts of uploads and stems, and a metric lives on
_REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)  # the conventions'
_STAGE_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)


class Metrics:
    """Counts and measures. No attribute has more than a few values."""

    def __init__(self, provider: MeterProvider | None) -> None:
        meter = get_meter(SCOPE, __version__, provider, SCHEMA_URL)

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
        self._servers = set[tuple[object, ...]]()  # each address and port

    def note(self, event: Event) -> None:
        match event:
            case RequestSent():
                self._note_request(event)
            case SlotGranted():
                self._slot = event, time.monotonic()
                self._gate_wait.record(event.seconds, {"aistemsplitter.operation": event.operation})
            case StageFinished():
                stage = {"aistemsplitter.stage": event.stage, "error.type": event.error}
                self._stages.record(event.seconds, present(stage))
            case SplitFinished():
                outcome = {"aistemsplitter.outcome": event.outcome, "error.type": event.error}
                self._splits.record(event.seconds, present(outcome))
            case SplitCreated(credits_used=float() | int() as credits):
                self._credits.add(max(0, credits))
            case Throttled():
                self._throttled.add(1, {"aistemsplitter.operation": event.operation})

    def _note_request(self, event: RequestSent) -> None:
        server = describe_server(event.url)
        known = tuple(server.values())
        if len(self._servers) < _MOST_SERVERS:
            self._servers.add(known)
        elif known not in self._servers:
            server = {"server.address": _OTHER}
        told = {
            "http.request.method": event.method,
            "http.response.status_code": event.status,
            "error.type": error_of(event),
            "aistemsplitter.operation": event.operation,
        }
        self._requests.record(event.duration, present(server | told))
        for direction, count in (("transmit", event.bytes_sent), ("receive", event.bytes_received)):
            if count:
                self._io.add(count, {"network.io.direction": direction, "aistemsplitter.operation": event.operation})

    def _read_gate(self, name: str) -> int | None:
        """Return what to observe. Called in a thread of the exporter's, where the gate itself must not be read."""
        if self._slot is None:
            return None
        slot, noted = self._slot
        if name == "used":
            return slot.used if time.monotonic() - noted <= slot.per else 0  # no request for a whole window
        return slot.limit if name == "limit" else slot.waiting


def _observe(read: Callable[[str], int | None], name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def callback(_: CallbackOptions) -> Iterable[Observation]:
        value = read(name)
        return [] if value is None else [Observation(value)]

    return callback
