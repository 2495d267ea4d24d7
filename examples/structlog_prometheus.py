"""A service that logs JSON lines with structlog and is measured by Prometheus: a song in, the names of its stems out.

    pip install aistemsplitter-async structlog prometheus-client
    AISTEMSPLITTER_API_KEY=ast_... python examples/structlog_prometheus.py

`POST /songs?name=song.mp3` with the audio as body, `GET /metrics`. What is bound for a request is in every line that is
logged for it, the client's included: it logs, and calls `on_event`, in the context of the call.
"""

import logging
import os
import uuid
from collections.abc import AsyncIterator

import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, Histogram, generate_latest
from structlog.contextvars import bound_contextvars, merge_contextvars
from structlog.stdlib import ExtraAdder, ProcessorFormatter, add_log_level, add_logger_name
from structlog.typing import Processor

from aistemsplitter_async import AIStemSplitterError, AsyncAIStemSplitter
from aistemsplitter_async.events import Event, RequestSent, SplitCreated, StageFinished, Throttled

log = structlog.stdlib.get_logger("songs")
CLIENT = web.AppKey("client", AsyncAIStemSplitter)

# The id of a song or split is no label: Prometheus keeps a series for every value of one.
REQUESTS = Counter("stems_requests_total", "Attempts, by what came of them", ["operation", "status"])
SECONDS = Histogram("stems_stage_seconds", "Time in each stage", ["stage", "error"], buckets=(1, 5, 20, 60, 180, 600))
THROTTLED = Counter("stems_throttled_total", "Requests answered 429")
CREDITS = Counter("stems_credits_total", "Credits charged")
USED = Gauge("stems_gate_used", "Requests that count against the key's limit now")


def measure(event: Event) -> None:
    match event:
        case RequestSent():
            REQUESTS.labels(event.operation, event.status or event.error).inc()
        case StageFinished():
            SECONDS.labels(event.stage, event.error or "").observe(event.seconds)
        case SplitCreated():
            CREDITS.inc(event.credits_used or 0)
        case Throttled():
            THROTTLED.inc()


def configure_logging() -> None:
    """Write what is logged by structlog and by `logging`, the client's records among it, in the same way."""
    shared: list[Processor] = [merge_contextvars, add_logger_name, add_log_level]
    handler = logging.StreamHandler()
    as_json = structlog.processors.JSONRenderer()
    handler.setFormatter(ProcessorFormatter(as_json, foreign_pre_chain=[*shared, ExtraAdder()]))  # with their fields
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    logging.getLogger("aistemsplitter_async").setLevel(logging.DEBUG)  # without this line: no single requests
    to_logging = structlog.stdlib.LoggerFactory()
    structlog.configure([*shared, ProcessorFormatter.wrap_for_formatter], logger_factory=to_logging)


async def with_client(app: web.Application) -> AsyncIterator[None]:
    async with AsyncAIStemSplitter(on_event=measure) as client:
        app[CLIENT] = client
        USED.set_function(lambda: client.gate.snapshot().used)  # requests stop to count without an event
        yield


async def split(request: web.Request) -> web.Response:
    name = request.query.get("name", "song")
    with bound_contextvars(request=uuid.uuid4().hex, song=name):
        try:
            done = await request.app[CLIENT].split(await request.read(), filename=name, into="stems", overwrite=True)
        except AIStemSplitterError as error:
            log.warning("failed", error=str(error))
            return web.json_response({"error": str(error)}, status=502)
        log.info("done", split_id=done.split.id)
        return web.json_response({"stems": sorted(done.files)})


async def metrics(_: web.Request) -> web.Response:
    return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})


if __name__ == "__main__":
    configure_logging()
    app = web.Application(client_max_size=200 * 1024 * 1024)
    app.cleanup_ctx.append(with_client)
    app.add_routes([web.post("/songs", split), web.get("/metrics", metrics)])
    web.run_app(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8080")))
