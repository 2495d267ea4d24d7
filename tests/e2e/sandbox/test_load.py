"""Many splits: memory is bounded by the caps, not by the number of requests."""

from __future__ import annotations

import asyncio
import gc
import json
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from aistemsplitter_async.sandbox import Limits
from aistemsplitter_async.sandbox.faults.rules import Injection
from aistemsplitter_async.sandbox.http.decode import parse_create
from aistemsplitter_async.sandbox.service.ledger import RequestRecord

if TYPE_CHECKING:
    from aistemsplitter_async.sandbox import Sandbox
    from tests.e2e.harness import Connect


async def create_and_look(sandbox: Sandbox, count: int) -> None:
    """What two requests leave in the sandbox, without the HTTP around them (aiohttp's caches would blur the figure)."""
    service = sandbox._running.service
    (access,) = service.accesses.values()
    for number in range(count):
        source = {"type": "direct_url", "url": f"https://example.com/{number}.mp3?seconds=1"}
        key = f"{len(sandbox.ledger.requests)}-{sandbox.clock.monotonic()}"
        request = parse_create(json.dumps({"input": source}).encode(), key)
        created = await service.splits.create(access, request, Injection())
        await asyncio.sleep(0)
        assert service.splits.poll(access.account, created.id).status == "succeeded"
        for operation in ("create", "get"):
            sandbox.ledger.add_request(RequestRecord(0.0, operation, 200, access.account.label, created.id))


@pytest.mark.parametrize(("limits", "flat"), [(Limits(max_splits=100, ledger_requests=100), True), (Limits(), False)])
async def test_memory_is_flat_once_the_caps_are_reached_and_only_then(
    connect: Connect, limits: Limits, flat: bool
) -> None:
    """The second case is the control: without reaching a cap the same measure does see the growth."""
    async with connect(limits=limits) as api:
        tracemalloc.start()
        try:
            await create_and_look(api.sandbox, 300)
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            await create_and_look(api.sandbox, 500)
            gc.collect()
            per_split = (tracemalloc.get_traced_memory()[0] - before) / 500
        finally:
            tracemalloc.stop()
    assert (per_split < 150) == flat, per_split
