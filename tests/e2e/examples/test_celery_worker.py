"""The Celery worker: its threads ask one station. What becomes of a killed one needs a broker and minutes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from aistemsplitter_async.sandbox import Sandbox
from tests.e2e.examples.conftest import Load
from tests.e2e.harness import MakeWav


async def test_a_song_that_is_ordered_twice_is_paid_for_once(
    *,
    sandbox: Sandbox,
    load: Load,
    postgres_dsn: str,
    tmp_path: Path,
    make_wav: MakeWav,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from celery import signals
    from celery.contrib.testing.worker import start_worker

    monkeypatch.setenv("DATABASE_URL", postgres_dsn)
    for name in ("one", "other"):
        (tmp_path / f"{name}.wav").write_bytes(make_wav(0.1 + len(name) / 10))
    example = load("celery_worker")
    assert (
        example.split.name == f"{example.app.main}.split"
    )  # as it is called where the file orders, and where it works
    example.app.conf.result_backend = "cache+memory://"

    def leave_logging(**_: object) -> None:
        """Whatever handles this signal is in charge; else Celery changes the root logger for all later tests."""

    def work() -> list[dict[str, str]]:
        signals.setup_logging.connect(leave_logging)
        signals.worker_init.send(None)  # as the command does
        try:
            with start_worker(
                example.app, pool="threads", concurrency=4, perform_ping_check=False, shutdown_timeout=60
            ):
                orders = [example.split.delay(f"{name}.wav") for name in ("one", "other", "one")]
                return [order.get(timeout=60, interval=0.02) for order in orders]
        finally:
            signals.worker_shutting_down.send(None)
            signals.worker_shutdown.send(None)
            signals.setup_logging.disconnect(leave_logging)

    one, other, again = await asyncio.to_thread(work)
    assert one == again
    assert {Path(file).parent.as_posix() for file in (*one.values(), *other.values())} == {"stems/one", "stems/other"}
    assert len(sandbox.ledger.charges) == 2
