"""A Taskiq worker: orders come from a queue, stems go to a folder. Retried or killed, an order is paid for once.

    pip install aistemsplitter-async taskiq-redis
    export AISTEMSPLITTER_API_KEY=ast_... REDIS_URL=redis://localhost:6379
    cd examples && taskiq worker taskiq_worker:broker --workers 1
    cd examples && python taskiq_worker.py 17 https://example.com/song.mp3

Each order has a journal of its own. A worker that takes up an order again, after `kill -9` too, sends the same create
under the same key, or waits for the split that is known already, or returns the stems that are there. So it costs
nothing to send an order twice. Tasks mostly wait, so one process serves many; several would share the key's limit. On
several machines, `ORDERS` is a shared disk that has locks.

A task that is not done after ten minutes is given to a second worker (when the next task comes: Redis is not asked for
such tasks before), and that one waits until the first has left the journal, alive or dead.
"""

import asyncio
import os
import sys
from pathlib import Path

from taskiq import AsyncBroker, Context, InMemoryBroker, SimpleRetryMiddleware, TaskiqDepends, TaskiqEvents, TaskiqState
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from aistemsplitter_async import AsyncAIStemSplitter, BatchItem, Failed, JournalLockedError

ORDERS = Path(os.environ.get("ORDERS", "orders"))
BUSY = 5.0  # seconds until an order is tried again that another worker has

broker: AsyncBroker = InMemoryBroker()  # for tests: tasks run in the process that sends them
if url := os.environ.get("REDIS_URL"):
    broker = RedisStreamBroker(url, xread_count=1, unacknowledged_lock_timeout=60)
    broker = broker.with_result_backend(RedisAsyncResultBackend(url, result_ex_time=24 * 3600))
# A batch waits out outages by itself. What fails for good fails again at once, without a request.
broker.add_middlewares(SimpleRetryMiddleware(default_retry_label=True))


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def open_client(state: TaskiqState) -> None:
    """Every worker process has one client: its tasks share the connections and the key's limit."""
    state.client = await AsyncAIStemSplitter().__aenter__()


@broker.on_event(TaskiqEvents.WORKER_SHUTDOWN)
async def close_client(state: TaskiqState) -> None:
    await state.client.aclose()


def get_client(context: Context = TaskiqDepends()) -> AsyncAIStemSplitter:
    client: AsyncAIStemSplitter = context.state.client
    return client


@broker.task
async def split_song(
    order: str,
    song: str,
    client: AsyncAIStemSplitter = TaskiqDepends(get_client),
    context: Context = TaskiqDepends(),
) -> dict[str, str]:
    """Return the files of the song's stems."""
    item = BatchItem(source=song, folder=order, idempotency_key=f"order {order}")
    try:
        async with client.split_many([item], into=ORDERS, journal=ORDERS / f"{order}.journal") as outcomes:
            outcome = await anext(outcomes)
    except JournalLockedError:
        await asyncio.sleep(BUSY)
        await context.requeue()  # which raises
        raise
    if isinstance(outcome, Failed):
        raise outcome.error
    return {stem: str(file) for stem, file in outcome.files.items()}


async def main(order: str, song: str) -> None:
    await broker.startup()
    task = await split_song.kiq(order, song)
    print((await task.wait_result(timeout=3600)).return_value)  # noqa: T201
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
