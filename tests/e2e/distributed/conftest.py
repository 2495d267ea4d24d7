"""A cluster of Dask in this process and on its event loop, without sockets, and runs on it."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import attrs
import pytest

from aistemsplitter_async import PollPolicy
from aistemsplitter_async._version import __version__
from aistemsplitter_async._wire.credentials import fingerprint
from aistemsplitter_async.batch.options import BatchKeywords
from aistemsplitter_async.clock import SystemClock
from aistemsplitter_async.config import Secret
from aistemsplitter_async.sandbox import Sandbox

distributed = pytest.importorskip("distributed", reason="the extra dask is not installed")

import dask  # noqa: E402
from distributed import Scheduler, Worker  # noqa: E402

from aistemsplitter_async.distributed import ClusterBatch, driver as driver_module  # noqa: E402
from aistemsplitter_async.distributed.tasks import Identity, Terms  # noqa: E402

QUIET = {
    "distributed.admin.tick.interval": "1 hour",  # it would complain about a busy machine
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.terminate": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.target": False,
    "distributed.worker.profile.enabled": False,
    "distributed.worker.preload": [],
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
}
EAGER = PollPolicy(first=0.02, shortest=0.02)
Run = Callable[..., ClusterBatch]


@attrs.define
class Cluster:
    """A scheduler, and workers that come and go."""

    scheduler: Any
    workers: list[Any] = attrs.field(factory=list[Any])

    async def add_worker(self) -> Any:
        self.workers.append(await Worker(self.scheduler.address, nthreads=1, dashboard_address=":0"))
        return self.workers[-1]


@asynccontextmanager
async def starting(port: int | None = None) -> AsyncIterator[Cluster]:
    """Run a scheduler, at a port of this machine or without any, and its workers."""
    with dask.config.set(QUIET):
        place = {"protocol": "inproc"} if port is None else {"protocol": "tcp", "host": "127.0.0.1", "port": port}
        async with Scheduler(dashboard_address=":0", **place) as scheduler:
            running = Cluster(scheduler)
            try:
                yield running
            finally:
                for one in running.workers:
                    await one.close()


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with starting() as running:
        yield running


@pytest.fixture
def run(request: pytest.FixtureRequest, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Start a run as a `DaskLibrary` does, without a journal: workers in one process cannot share a file."""
    monkeypatch.setenv("AISTEMSPLITTER_API_KEY", sandbox.api_key)
    monkeypatch.setenv("AISTEMSPLITTER_BASE_URL", sandbox.base_url)
    monkeypatch.setattr(driver_module, "TASKS_PER_WORKER", 20)
    identity = Identity(__version__, sandbox.base_url, fingerprint(Secret(sandbox.api_key)))

    def start(
        sources: Any,
        *,
        driver: Identity = identity,
        into: str | None = None,
        address: str = "",
        patience: float = 1.0,
        **options: Any,
    ) -> ClusterBatch:
        asked = cast(BatchKeywords, options)
        terms = Terms(run=uuid.uuid4().hex, driver=driver, journal=None, into=into, options=asked, poll=EAGER)
        place = address or request.getfixturevalue("cluster").scheduler.address
        return ClusterBatch(place, sources, terms, journal=None, patience=patience, security=None, clock=SystemClock())

    return start
