"""A Celery worker: orders wait in Redis, stems go to a folder. Retried or killed, a song is paid for once.

    pip install "aistemsplitter-async[postgres]" "celery[redis]"
    export AISTEMSPLITTER_API_KEY=ast_... REDIS_URL=redis://localhost:6379 DATABASE_URL=postgresql://me@db.example.com/songs
    cd examples && celery -A celery_worker worker --pool threads --concurrency 50    # on as many machines as you like
    cd examples && python celery_worker.py https://example.com/song.mp3 /music/another.flac    # orders

Celery's tasks are functions, not coroutines, and here they mostly wait: so they are threads, and each process has one
event loop, in a thread of its own, with one station that all its tasks ask. What is paid for is in the journal, in
PostgreSQL, and so is the key's limit, which all workers keep together; `STEMS` is one folder for all. An order is
acknowledged once it is done. Those of a killed worker come to others, `visibility_timeout` later at the earliest, when
one of these looks for them. One that takes longer than that comes twice, which costs nothing: the second waits.

With the pool of processes (`prefork`, the default), each song needs a process. Use the signals `worker_process_init`
and `worker_process_shutdown` then: what a process opens before it forks, its children cannot use.
"""

import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from types import SimpleNamespace
from typing import Any

from anyio.from_thread import start_blocking_portal
from celery import Celery
from celery.signals import worker_init, worker_shutdown, worker_shutting_down

from aistemsplitter_async import AIStemSplitterError, AsyncAIStemSplitter, Failed, Station

DATABASE = os.environ.get("DATABASE_URL", "postgresql:///songs")
STEMS = os.environ.get("STEMS", "stems")

app = Celery("celery_worker", broker=os.environ.get("REDIS_URL", "memory://"))  # memory is for tests
app.conf.update(
    task_acks_late=True,
    worker_prefetch_multiplier=1,  # what waits in one worker, another could do
    broker_transport_options={"visibility_timeout": float(os.environ.get("VISIBILITY_TIMEOUT", "900"))},  # s
)
process, exits = SimpleNamespace(), ExitStack()


@asynccontextmanager
async def open_station() -> AsyncIterator[Station]:
    async with AsyncAIStemSplitter(shared=DATABASE) as client, Station(client, journal=DATABASE, into=STEMS) as station:
        yield station


@worker_init.connect
def start(**_: Any) -> None:
    process.loop = exits.enter_context(start_blocking_portal())
    process.station = exits.enter_context(process.loop.wrap_async_context_manager(open_station()))


@worker_shutting_down.connect
def drain(**_: Any) -> None:
    """Begin no more songs: those that wait here are ordered again, and those that are paid for are finished."""
    process.loop.start_task_soon(process.station.drain)


@worker_shutdown.connect
def stop(**_: Any) -> None:
    exits.close()


@app.task(autoretry_for=(AIStemSplitterError,), retry_backoff=True)
def split(song: str) -> dict[str, str]:
    """Return the files of the song's stems."""
    try:
        outcome = process.loop.call(process.station.split, song)
    finally:
        if process.station.stopped_by is not None:  # as by an empty account
            os.kill(os.getpid(), signal.SIGTERM)  # let whatever restarts this process open another station
    if isinstance(outcome, Failed):
        raise outcome.error
    return {stem: str(file) for stem, file in outcome.files.items()}


if __name__ == "__main__":
    for song in sys.argv[1:]:
        split.delay(song)
