"""Spans and metrics of a real client, as the SDK of OpenTelemetry hands them to exporters."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from contextvars import copy_context
from importlib import import_module
from pathlib import Path
from typing import Any

import attrs
import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.trace import SpanKind, StatusCode

from aistemsplitter_async import AsyncAIStemSplitter, RateLimit, SplitFailedError
from aistemsplitter_async.events import (
    AttemptStarted,
    BatchFinished,
    BatchStarted,
    RequestSent,
    StageFinished,
    StageStarted,
)
from aistemsplitter_async.otel import OTelListener
from aistemsplitter_async.otel.metrics import Metrics
from aistemsplitter_async.otel.spans import _Open
from aistemsplitter_async.testing import error_reply
from tests.io.fakes import CDN, KEY, WORKER, World, hang, reset

pytestmark = pytest.mark.usefixtures("inline_threads")
SONG = bytes(range(256)) * 600
NEVER = ("token", "signature", KEY, "ast_", "Bearer", "secret-name", "upl_1", "/put/")


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


@attrs.define(eq=False)
class Spans(SpanProcessor):
    """Every span that was begun, and every one that was ended, in order."""

    begun: list[Span] = attrs.field(factory=list[Span])
    ended: list[ReadableSpan] = attrs.field(factory=list[ReadableSpan])

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:  # noqa: ARG002
        self.begun.append(span)

    def on_end(self, span: ReadableSpan) -> None:
        self.ended.append(span)

    @property
    def tree(self) -> list[str]:
        """One line a span, in the order in which they began, indented below its parent."""
        depths: dict[int, int] = {}
        lines = []
        for span in self.begun:
            depth = depths.get(span.parent.span_id, -1) + 1 if span.parent is not None else 0
            depths[span.get_span_context().span_id] = depth
            status = "!" * (span.status.status_code is StatusCode.ERROR)
            lines.append("  " * depth + span.name.removeprefix("aistemsplitter.") + status)
        return lines

    def of(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.ended if span.name == name]

    def told(self, name: str) -> dict[str, Any]:
        """The attributes of the only span of this name."""
        (span,) = self.of(name)
        return dict(span.attributes or {})

    def check_ended(self) -> None:
        assert Counter(id(span.get_span_context()) for span in self.begun) == Counter(
            id(span.get_span_context()) for span in self.ended
        )


@attrs.define(eq=False)
class Telemetry:
    """A listener with providers of its own."""

    spans: Spans
    reader: InMemoryMetricReader
    tracer: trace.Tracer
    tracers: TracerProvider
    meters: MeterProvider

    def listener(self, **options: Any) -> OTelListener:
        return OTelListener(self.tracers, self.meters, **options)

    def client(self, world: World, listener: OTelListener | None = None, **options: Any) -> AsyncAIStemSplitter:
        return world.client(on_event=listener or self.listener(), **options)

    def metrics(self) -> dict[str, list[Any]]:
        """The data points by the name of their metric."""
        data = self.reader.get_metrics_data()
        scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics] if data else []
        return {metric.name: list(metric.data.data_points) for scope in scopes for metric in scope.metrics}

    def everything(self) -> str:
        return "".join(span.to_json() for span in self.spans.ended) + repr(self.metrics())


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    spans, reader, tracers = Spans(), InMemoryMetricReader(), TracerProvider()
    tracers.add_span_processor(spans)
    meters = MeterProvider([reader])
    yield Telemetry(spans, reader, tracers.get_tracer("caller"), tracers, meters)
    spans.check_ended()
    meters.shutdown()


def by(points: list[Any], *names: str) -> dict[tuple[Any, ...], float]:
    """The sums or counts of data points, by some of their attributes."""
    found = Counter[tuple[Any, ...]]()
    for point in points:
        value = point.count if isinstance(point, HistogramDataPoint) else point.value
        found[tuple((point.attributes or {}).get(name) for name in names)] += value
    return dict(found)


async def test_a_split_is_a_tree_below_the_callers_span(world: World, telemetry: Telemetry, tmp_path: Path) -> None:
    song = tmp_path / "secret-name.wav"
    song.write_bytes(SONG)
    world.api.statuses["split_1"] = ["queued", "succeeded"]
    async with telemetry.client(world) as client:
        with telemetry.tracer.start_as_current_span("POST /songs") as handler:
            await client.split(song, into=tmp_path / "out", stem_model="4s", output_format="mp3")
            assert trace.get_current_span() is handler
    assert telemetry.spans.tree == [
        "POST /songs",
        "  split",
        "    prepare",
        "    upload",
        "      POST /v1/audio/uploads",
        "      POST",
        "    create",
        "      POST /v1/audio/splits",
        "    wait",
        "      GET /v1/audio/splits/{id}",
        "      GET /v1/audio/splits/{id}",
        "    download",
        *["      GET"] * 4,
    ]
    assert telemetry.spans.told("aistemsplitter.split") == {
        "aistemsplitter.source.kind": "file",
        "aistemsplitter.stem_model": "4s",
        "aistemsplitter.output_format": "mp3",
        "aistemsplitter.split.id": "split_1",
        "aistemsplitter.credits": 214,
        "aistemsplitter.outcome": "done",
    }
    create = telemetry.spans.of("POST /v1/audio/splits")[0]
    assert create.kind is SpanKind.CLIENT
    assert dict(create.attributes or {}) == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "server.address": "api.test",
        "server.port": 443,
        "url.full": "https://api.test/v1/audio/splits",
        "url.template": "/v1/audio/splits",
        "http.request.body.size": len(world.api.of("create")[0].body),
        "http.response.body.size": (create.attributes or {})["http.response.body.size"],
        "aistemsplitter.operation": "create_split",
    }
    stems = telemetry.spans.of("GET")
    assert {(span.attributes or {})["url.full"] for span in stems} == {f"{CDN}/REDACTED"}
    assert {(span.attributes or {})["aistemsplitter.stem"] for span in stems} == set(world.api.stem_names)
    upload = telemetry.spans.told("POST")
    assert (upload["url.full"], upload["http.request.body.size"]) == (f"{WORKER}/REDACTED", len(SONG))
    assert telemetry.spans.told("aistemsplitter.wait")["aistemsplitter.split.status"] == "succeeded"
    assert [word for word in NEVER if word in telemetry.everything()] == []


def test_attempts_that_begin_at_the_same_moment_are_told_apart(telemetry: Telemetry) -> None:
    """As they do where the clock is coarse."""
    listener, sizes = telemetry.listener(), {"vocals": 1, "drums": 2}
    call: dict[str, Any] = {"stage": "download", "operation": "download_stem", "method": "GET", "at": 5.0}
    for stem in sizes:
        listener(AttemptStarted(**call, stem=stem, url="https://cdn.test"))
    for stem, size in reversed(sizes.items()):
        end: dict[str, Any] = {"status": 200, "duration": 1.0, "bytes_received": size}
        listener(RequestSent(**call, **end, stem=stem, url="https://cdn.test"))
    told = [dict(span.attributes or {}) for span in telemetry.spans.of("GET")]
    assert {one["aistemsplitter.stem"]: one["http.response.body.size"] for one in told} == sizes


def test_an_id_is_replaced_at_the_end_of_a_path_only(telemetry: Telemetry) -> None:
    listener, url = telemetry.listener(), "https://api.test/v1/audio/splits/1"
    call: dict[str, Any] = {"stage": "get", "operation": "get_split", "split_id": "1", "method": "GET", "url": url}
    listener(AttemptStarted(**call, at=5.0))
    listener(RequestSent(**call, status=200, duration=1.0, at=5.0))
    assert telemetry.spans.told("GET /v1/audio/splits/{id}")["url.template"] == "/v1/audio/splits/{id}"


async def test_metrics_have_the_conventions_names_and_few_values(
    world: World, telemetry: Telemetry, tmp_path: Path
) -> None:
    world.api.script("create", error_reply(429, "RATE_LIMITED", headers={"retry-after": "3"}))
    async with telemetry.client(world, rate_limit=RateLimit(9)) as client:
        for name in ("one", "two"):
            await client.split(SONG, filename=f"{name}.wav", into=tmp_path)
        metrics = telemetry.metrics()
    requests = metrics["http.client.request.duration"]
    assert requests[0].explicit_bounds[:2] == (0.005, 0.01)
    assert by(requests, "http.request.method", "server.address", "http.response.status_code", "error.type") == {
        ("POST", "api.test", 200, None): 4,
        ("POST", "api.test", 429, "429"): 1,
        ("GET", "api.test", 200, None): 2,
        ("POST", "worker.test", 200, None): 2,
        ("GET", "cdn.test", 200, None): 8,
    }
    stages = by(metrics["aistemsplitter.stage.duration"], "aistemsplitter.stage")
    assert stages == {(stage,): 2 for stage in ("prepare", "upload", "create", "wait", "download")}
    assert by(metrics["aistemsplitter.split.duration"], "aistemsplitter.outcome") == {("done",): 2}
    assert by(metrics["aistemsplitter.credits"]) == {(): 428}
    assert by(metrics["aistemsplitter.throttled"], "aistemsplitter.operation") == {("create_split",): 1}
    moved = by(metrics["aistemsplitter.io"], "network.io.direction", "aistemsplitter.operation")
    assert moved["transmit", "upload"] == 2 * len(SONG)
    assert moved["receive", "download_stem"] == sum(len(path.read_bytes()) for path in tmp_path.rglob("*.mp3"))
    gate = {name: metrics[f"aistemsplitter.gate.{name}"][0].value for name in ("used", "limit", "waiting")}
    assert gate == {"used": gate["used"], "limit": 9, "waiting": 0}
    assert 0 < gate["used"] <= 9
    values = {value for points in metrics.values() for point in points for value in (point.attributes or {}).values()}
    assert not any("split_1" in str(value) or ".wav" in str(value) for value in values)


async def test_the_gauge_of_an_idle_gate_falls_to_zero(
    world: World, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 5.0
    monkeypatch.setattr("aistemsplitter_async.otel.metrics.time.monotonic", lambda: now)
    async with telemetry.client(world, rate_limit=RateLimit(9, per=60)) as client:
        await client.get_credits()
        assert telemetry.metrics()["aistemsplitter.gate.used"][0].value == 1
        now += 61
        metrics = telemetry.metrics()
    assert (metrics["aistemsplitter.gate.used"][0].value, metrics["aistemsplitter.gate.limit"][0].value) == (0, 9)


async def test_a_host_of_the_servers_choosing_does_not_make_endless_series(
    world: World, telemetry: Telemetry, tmp_path: Path
) -> None:
    world.api.stem_names = [f"s{n}" for n in range(40)]
    async with telemetry.client(world) as client:
        split = await client.get_split("split_1")
        stems = {name: f"https://host{n}.test/{name}.mp3" for n, name in enumerate(split.stems)}
        await client.download_stems(attrs.evolve(split, stems=stems), tmp_path)
    hosts = by(telemetry.metrics()["http.client.request.duration"], "server.address")
    assert len(hosts) == 21  # 20 and the rest
    assert ("_OTHER",) in hosts


async def test_each_retry_is_a_span_and_an_error_names_its_type(
    world: World, telemetry: Telemetry, tmp_path: Path
) -> None:
    world.api.script("reserve", error_reply(503, "BUSY"), reset())
    world.api.statuses["split_1"] = ["failed"]
    async with telemetry.client(world) as client:
        with pytest.raises(SplitFailedError):
            await client.split(SONG, filename="secret-name.wav", into=tmp_path)
    spans = telemetry.spans
    reserves = spans.of("POST /v1/audio/uploads")
    told = [
        ((span.attributes or {}).get("http.request.resend_count"), (span.attributes or {}).get("error.type"))
        for span in reserves
    ]
    assert told == [(None, "503"), (1, "APIConnectionError"), (2, None)]
    assert [span.status.status_code for span in reserves] == [StatusCode.ERROR, StatusCode.ERROR, StatusCode.UNSET]
    (upload,) = spans.of("aistemsplitter.upload")
    assert [event.name for event in upload.events] == ["retry", "retry"]
    assert upload.status.status_code is StatusCode.UNSET  # what was handled is no error of the whole
    (split,) = spans.of("aistemsplitter.split")
    assert split.status.status_code is StatusCode.ERROR
    assert (split.attributes or {})["error.type"] == "SplitFailedError"
    assert split.status.description is None
    assert [word for word in NEVER if word in telemetry.everything()] == []


async def test_with_details_spans_have_names_and_messages(world: World, telemetry: Telemetry, tmp_path: Path) -> None:
    error = {"code": "BAD_AUDIO", "message": "no sound in https://cdn.test/it?token=1"}
    world.api.script("get", world.api.split("split_1", "failed", error=error))
    async with telemetry.client(world, telemetry.listener(details=True)) as client:
        with pytest.raises(SplitFailedError):
            await client.split(SONG, filename="song.wav", into=tmp_path)
    (split,) = telemetry.spans.of("aistemsplitter.split")
    assert (split.attributes or {})["aistemsplitter.source.name"] == "song.wav"
    assert "no sound in https://cdn.test/it" in str(split.status.description)
    assert "token" not in telemetry.everything()


@pytest.mark.parametrize("what", ["reserve", "upload", "create", "get", "download"])
async def test_a_call_that_is_cancelled_ends_its_spans_and_leaves_its_context(
    world: World, telemetry: Telemetry, tmp_path: Path, what: str
) -> None:
    world.api.always(what, hang)
    async with telemetry.client(world) as client:

        async def call() -> trace.Span:
            with telemetry.tracer.start_as_current_span("caller"):
                with pytest.raises(TimeoutError):
                    async with world.clock.timeout_at(world.clock.monotonic() + 20):
                        await client.split(SONG, filename="song.wav", into=tmp_path)
                return trace.get_current_span()

        assert getattr(await call(), "name", "") == "caller"
    telemetry.spans.check_ended()
    (split,) = telemetry.spans.of("aistemsplitter.split")
    assert split.status.status_code is StatusCode.ERROR
    assert (split.attributes or {})["error.type"] == "CancelledError"
    assert telemetry.spans.tree[0] == "caller"


async def test_a_batch_is_a_tree_of_its_songs_each_with_its_own_requests(
    world: World, telemetry: Telemetry, tmp_path: Path
) -> None:
    world.api.statuses["split_2"] = ["failed"]
    songs = [f"https://a.example/{n}.wav" for n in range(3)]
    async with telemetry.client(world, rate_limit=RateLimit(2, per=1.0)) as client:
        with telemetry.tracer.start_as_current_span("nightly"):
            async with client.split_many(songs, into=tmp_path) as outcomes:
                assert [type(outcome).__name__ async for outcome in outcomes].count("Done") == 2
    spans = telemetry.spans
    (batch,), splits = spans.of("aistemsplitter.batch"), spans.of("aistemsplitter.split")
    assert len({span.context.trace_id for span in spans.begun}) == 1
    assert [split.parent == batch.context for split in splits] == [True] * 3
    failed = [split for split in splits if split.status.status_code is StatusCode.ERROR]
    assert [(split.attributes or {})["error.type"] for split in failed] == ["SplitFailedError"]
    for split in splits:  # a poll is sent when a slot is free, whoever freed it, and still belongs to its song
        name, below = (split.attributes or {})["aistemsplitter.split.id"], {split.context.span_id}
        for span in spans.begun:
            if span.parent is not None and span.parent.span_id in below:
                below.add(span.context.span_id)
                assert (span.attributes or {}).get("aistemsplitter.split.id", name) == name
        assert len(below) >= 5


async def test_songs_of_a_linked_batch_are_traces_of_their_own(
    world: World, telemetry: Telemetry, tmp_path: Path
) -> None:
    songs = [f"https://a.example/{n}.wav" for n in range(3)]
    listener = telemetry.listener(link_batches=True)
    async with telemetry.client(world, listener) as client, client.split_many(songs, into=tmp_path) as outcomes:
        assert len([outcome async for outcome in outcomes]) == 3
    (batch,), splits = telemetry.spans.of("aistemsplitter.batch"), telemetry.spans.of("aistemsplitter.split")
    assert len({span.context.trace_id for span in telemetry.spans.begun}) == 4
    assert [(split.parent, split.links[0].context) for split in splits] == [(None, batch.context)] * 3


async def test_a_batch_that_is_left_early_ends_every_span(world: World, telemetry: Telemetry) -> None:
    world.api.always("get", hang)
    async with telemetry.client(world) as client:
        async with client.split_many([f"https://a.example/{n}.wav" for n in range(5)]):
            while world.api.count("get") < 3:
                await world.clock.sleep(1.0)
        assert trace.get_current_span() is trace.INVALID_SPAN
    assert len(telemetry.spans.of("aistemsplitter.split")) == 5


async def test_a_service_that_runs_for_long_keeps_nothing(world: World, telemetry: Telemetry, tmp_path: Path) -> None:
    listener = telemetry.listener()
    async with telemetry.client(world, listener) as client:
        for n in range(3):
            await asyncio.gather(*(client.split(SONG, filename=f"{n}{m}.wav", into=tmp_path) for m in range(3)))
        gc.collect()
        assert [found for found in gc.get_objects() if isinstance(found, _Open)] == []
        assert listener._spans._opened == {}
    assert len(telemetry.spans.of("aistemsplitter.split")) == 9


async def test_a_lost_beginning_or_end_and_an_end_in_another_task_leave_no_span_open(telemetry: Telemetry) -> None:
    """Listeners can be called by other code, and a stream may be read by another task than the one that opened it."""
    listener = telemetry.listener()
    call: dict[str, Any] = {"stage": "download", "operation": "download_stem", "stem": "vocals", "at": 5.0}
    call |= {"method": "GET", "url": "https://cdn.test"}

    async def open_stem() -> None:
        listener(StageStarted(stage="download", split_id="split_1", at=4.0))
        listener(AttemptStarted(**call))

    await asyncio.create_task(open_stem())
    listener(RequestSent(**call, status=200, duration=1.0))
    listener(RequestSent(**call, status=200, duration=1.0))
    listener(StageFinished(stage="download", split_id="split_1", seconds=3.1, at=7.1))
    listener(StageStarted(stage="upload", at=9.0))
    listener(StageStarted(stage="wait", at=10.0))  # whose end is not heard of
    listener(StageFinished(stage="upload", seconds=2.0, at=11.0))
    assert trace.get_current_span() is trace.INVALID_SPAN
    assert [span.name for span in telemetry.spans.ended] == [
        *("GET", "aistemsplitter.download", "aistemsplitter.wait", "aistemsplitter.upload")
    ]
    assert telemetry.spans.ended[0].parent == telemetry.spans.ended[1].context


def test_what_always_ends_in_another_context_than_it_began_in_is_not_kept(telemetry: Telemetry) -> None:
    """As when one task enters batches, and others leave them."""
    listener, enters, leaves = telemetry.listener(), copy_context(), copy_context()
    for at in range(9):
        enters.run(listener, BatchStarted(at=at))
        leaves.run(listener, BatchFinished(done=0, failed=0, skipped=0, seconds=0.0, at=at))
    gc.collect()
    assert len([found for found in gc.get_objects() if isinstance(found, _Open)]) == 1


async def test_a_stream_that_another_task_reads_and_closes_is_a_span_of_its_opener(
    world: World, telemetry: Telemetry
) -> None:
    async with telemetry.client(world) as client:
        split = await client.get_split("split_1")
        exits = AsyncExitStack()
        with telemetry.tracer.start_as_current_span("opener") as opener:
            stem = await exits.enter_async_context(client.open_stem(split, "vocals"))

        async def pass_on() -> int:
            with telemetry.tracer.start_as_current_span("reader") as reader:
                received = len(await stem.read())
                await exits.aclose()
                assert trace.get_current_span() is reader
            return received

        received = await asyncio.create_task(pass_on())
    (fetched,) = telemetry.spans.of("GET")
    assert fetched.parent is not None
    assert fetched.parent.span_id == opener.get_span_context().span_id
    assert (fetched.attributes or {})["http.response.body.size"] == received
    assert trace.get_current_span() is trace.INVALID_SPAN


async def test_a_provider_that_raises_changes_nothing(world: World, tmp_path: Path) -> None:
    class Broken(SpanProcessor):
        def on_start(self, span: Span, parent_context: Context | None = None) -> None:  # noqa: ARG002
            raise RuntimeError("no room")

        def on_end(self, span: ReadableSpan) -> None:  # noqa: ARG002
            raise RuntimeError("no room")

    tracers = TracerProvider()
    tracers.add_span_processor(Broken())
    async with world.client(on_event=OTelListener(tracers)) as client:
        done = await client.split(SONG, filename="song.wav", into=tmp_path)
        assert trace.get_current_span() is trace.INVALID_SPAN
    assert len(done.files) == 4


async def test_a_meter_that_raises_leaves_no_span_open(
    world: World, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def note(*_: object) -> None:
        raise RuntimeError("no room")

    monkeypatch.setattr(Metrics, "note", note)
    async with telemetry.client(world) as client:
        await client.get_credits()
    assert [span.name for span in telemetry.spans.ended] == ["GET /v1/credits"]


async def test_without_an_sdk_nothing_is_recorded_and_everything_works(world: World, tmp_path: Path) -> None:
    async with world.client(on_event=OTelListener()) as client:
        assert len((await client.split(SONG, filename="song.wav", into=tmp_path)).files) == 4


def test_without_opentelemetry_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.context", None)
    for name in [name for name in sys.modules if name.startswith("aistemsplitter_async.otel")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match=r"pip install 'aistemsplitter-async\[otel\]'"):
        import_module("aistemsplitter_async.otel")
