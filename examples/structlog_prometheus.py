"""A service that logs JSON lines with structlog and is measured by Prometheus: a song in, the names of its stems out.

    export AISTEMSPLITTER_API_KEY=ast_...
    python examples/structlog_prometheus.py

`POST /songs?name=song.mp3` with the audio as body, `GET /metrics`. What a request binds is in every line that is logged
for it, those of the client included: it logs, and calls `on_event`, in the context of the call.
"""

import logging
import os
import uuid
from collections.abc import AsyncIterator

import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, Histogram, generate_latest
from structlog.contextvars import bound_contextvars, merge_contextvars
from structlog.typing import Processor

from aistemsplitter_async import AIStemSplitterError, AsyncAIStemSplitter
from aistemsplitter_async.events import Event, RequestSent, SlotGranted, SplitCreated, StageFinished, Throttled

log = structlog.stdlib.get_logger("songs")
CLIENT = web.AppKey("client", AsyncAIStemSplitter)

# No song or split id is a label: every value of one is a series that Prometheus keeps.
REQUESTS = Counter("stems_requests_total", "Attempts, by what came of them", ["operation", "status"])
SECONDS = Histogram("stems_stage_seconds", "Time in each stage", ["stage", "error"], buckets=(1, 5, 20, 60, 180, 600))
THROTTLED = Counter("stems_throttled_total", "Requests answered 429")
CREDITS = Counter("stems_credits_total", "Credits charged")
GATE = Gauge("stems_gate_requests", "The key's budget", ["what"])


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
        case SlotGranted():
            GATE.labels("used").set(event.used)
            GATE.labels("limit").set(event.limit or float("nan"))


def configure_logging() -> None:
    """Write what is logged by structlog and by `logging`, the client's records among it, in the same way."""
    shared: list[Processor] = [
        merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
    ]
    finish = structlog.processors.JSONRenderer()
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(finish, foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()])
    )
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    logging.getLogger("aistemsplitter_async").setLevel(logging.DEBUG)  # INFO to leave out single requests
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


async def with_client(app: web.Application) -> AsyncIterator[None]:
    async with AsyncAIStemSplitter(on_event=measure) as client:
        app[CLIENT] = client
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
