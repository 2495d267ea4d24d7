"""Real servers for the tests of what is shared through one. Where none can be had, those are skipped."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.stores.servers import Kind, Servers

REQUIRED = "REQUIRE_TEST_SERVERS"  # set where a skip would hide that nothing was tested

StartServer = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    folder = tmp_path_factory.getbasetemp()
    started = Servers(folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder)
    yield started
    started.close()


@pytest.fixture
def start_server(servers: Servers) -> StartServer:
    """Start a server by its kind, "valkey" or "postgres": that of the run, or with `own="name"` one of the test's."""

    def start(kind: Kind, *, own: str | None = None) -> dict[str, Any]:
        server = servers.start(kind, own=own)
        if "missing" in server:
            (pytest.fail if os.environ.get(REQUIRED) else pytest.skip)(server["missing"])
        return server

    return start


@pytest.fixture
def valkey_url(start_server: StartServer) -> str:
    """The URL of the run's Valkey, with a prefix of the test's own."""
    pytest.importorskip("redis")
    return f"{start_server('valkey')['url']}?prefix=test-{uuid.uuid4().hex}:"


@pytest.fixture
def postgres_dsn(start_server: StartServer) -> str:
    """The URL of the run's PostgreSQL, with a schema of the test's own, which does not exist yet."""
    pytest.importorskip("psycopg")
    return f"{start_server('postgres')['url']}&schema=test_{uuid.uuid4().hex}"
