"""A PGQueuer worker: orders wait in PostgreSQL, stems go to a folder. Retried or killed, a song is paid for once.

    pip install "aistemsplitter-async[postgres]" "pgqueuer[asyncpg]"
    export AISTEMSPLITTER_API_KEY=ast_... PGDSN=postgresql://me@db.example.com/songs
    pgq install
    cd examples && python pgqueuer_worker.py        # on as many machines as you like; STEMS is one folder for all
    cd examples && python pgqueuer_worker.py https://example.com/song.mp3 /music/another.flac    # orders

One database has everything: the queue, the journal of what is paid for, and the key's limit, which all workers keep
together. A worker process has one station for all its jobs. If it is killed, its jobs come to others after half a
minute, and the journal knows how far each was: a create that may have been sent is sent again under its key, what is
processed is waited for, what is finished costs nothing. So it also costs nothing to order a song twice. A worker that
is told to stop takes no more jobs and ends those it has, which may take minutes: to kill it meanwhile is safe.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pgqueuer
from pgqueuer import DatabaseRetryEntrypointExecutor, Job, PgQueuer, Queries

from aistemsplitter_async import AsyncAIStemSplitter, Failed, Station

DATABASE = os.environ["PGDSN"]
STEMS = os.environ.get("STEMS", "stems")


@asynccontextmanager
async def work() -> AsyncIterator[PgQueuer]:
    """Open what a worker process has, and close it once its last job is done."""
    async with (
        asyncpg.create_pool(DATABASE, min_size=1, max_size=4) as pool,
        AsyncAIStemSplitter(shared=DATABASE) as client,
        Station(client, journal=DATABASE, into=STEMS) as station,
    ):
        queue = PgQueuer.from_asyncpg_pool(pool)

        @queue.entrypoint("split", executor_factory=DatabaseRetryEntrypointExecutor, on_failure="hold")
        async def split(job: Job) -> None:
            """Split what the job names. What fails is tried again with growing pauses, and costs nothing more."""
            try:
                outcome = await station.split((job.payload or b"").decode())
            finally:
                if station.stopped_by is not None:  # as by an empty account
                    queue.shutdown.set()  # let whatever restarts this process open another station
            if isinstance(outcome, Failed):
                raise outcome.error

        yield queue


async def order(*songs: str) -> None:
    async with asyncpg.create_pool(DATABASE, min_size=1, max_size=4) as pool:
        queries = Queries.from_asyncpg_pool(pool)
        await queries.enqueue(["split"] * len(songs), [song.encode() for song in songs], [0] * len(songs))


if __name__ == "__main__":
    asyncio.run(order(*sys.argv[1:]) if sys.argv[1:] else pgqueuer.run(work, max_concurrent_tasks=50))
