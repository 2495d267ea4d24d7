"""The Taskiq worker: whatever happens to it, an order is paid for once."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from aistemsplitter_async import SourceUnreadableError
from aistemsplitter_async.sandbox import Sandbox, faults
from tests.e2e.examples.conftest import EXAMPLES, Load, until
from tests.e2e.harness import MakeWav


async def test_an_order_whose_worker_was_killed_is_paid_for_once_however_often_it_comes(
    sandbox: Sandbox, load: Load, tmp_path: Path, make_wav: MakeWav
) -> None:
    (tmp_path / "song.wav").write_bytes(make_wav(1.0))
    example = load("taskiq_worker")
    sandbox.faults.add("create", faults.Stall())
    worker = await asyncio.create_subprocess_exec(sys.executable, EXAMPLES / "taskiq_worker.py", "17", "song.wav")
    await until(lambda: sandbox.ledger.charges)  # the worker does not learn of this
    worker.kill()
    await worker.wait()

    example.BUSY = 0.05
    await example.broker.startup()
    orders = [("17", "song.wav"), ("17", "song.wav"), ("18", "gone.wav")]
    tasks = [await example.split_song.kiq(*order) for order in orders]
    first, again, gone = [await task.wait_result(check_interval=0.02, timeout=30) for task in tasks]
    await example.broker.shutdown()

    assert first.return_value == again.return_value
    assert {stem: Path(file).parent for stem, file in first.return_value.items()} == dict.fromkeys(
        ("vocals", "drums", "bass", "other"), Path("orders/17")
    )
    assert isinstance(gone.error, SourceUnreadableError)
    assert [charge.idempotency_key for charge in sandbox.ledger.charges] == ["order 17"]
