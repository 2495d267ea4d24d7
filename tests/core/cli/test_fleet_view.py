"""All workers on a shared journal, as `--status` and the report tell them."""

from __future__ import annotations

import attrs

from aistemsplitter_async._gate.snapshot import GateSnapshot
from aistemsplitter_async.batch.progress import BatchProgress, BatchStatus, dump_status
from aistemsplitter_async.cli.screen.fleet import Fleet, describe_others
from aistemsplitter_async.journal.workers import SharedCredits, Worker

PROGRESS = BatchProgress(
    seconds=10.0,
    taken=9,
    exhausted=False,
    done=4,
    failed=1,
    skipped=0,
    stages={"upload": 2, "wait": 3},
    credits_used=8.0,
    active=(),
    notices=(),
    draining=False,
    gate=GateSnapshot(limit=60, used=3, waiting={}, closed_for=0.0, per=60.0),
    processing=None,
)
FIRST = Worker(
    "a",
    1,
    "web1",
    4711,
    1000.0,
    11.2,
    dump_status(BatchStatus(at=1.0, pid=4711, ended=False, tracks={}, progress=PROGRESS)),
)
SECOND = Worker("b", 2, "web\x1b2", 12, 4000.0, -0.5, "of another version")


def test_each_worker_is_told_with_what_it_does_and_all_with_what_they_spend() -> None:
    fleet = Fleet([FIRST, SECOND], {"found": 3, "downloaded": 1204}, SharedCredits(5000.0, 1204.5, 310.0))
    assert fleet.describe(now=4722.0) == [
        "state      2 workers running",
        "not begun  3",
        "finished   1,204",
        "credits    1,204.50 of 5,000 spent together, 310 set aside",
        "web1       process 4711 for 1:02:02, lease 11 s",
        "           4 split, 1 failed; 2 uploading, 3 waiting",
        "web\\x1b2   process 12 for 12:02, lease 0 s",
    ]
    assert all(len(line) < 80 for line in fleet.describe(4722.0))
    told = fleet.as_json()
    assert [worker["progress"] and worker["progress"]["done"] for worker in told["workers"]] == [4, None]
    assert Fleet([], {}).describe(0.0) == ["state  no worker is running"]


def test_a_report_names_the_other_workers() -> None:
    assert describe_others([FIRST, SECOND], "web\x1b2", 12) == [
        "process 4711 on web1 (4 split, 1 failed; 2 uploading, 3 waiting)"
    ]
    again = attrs.evolve(SECOND, host="web1")
    assert len(describe_others([FIRST, again], "web1", 4711)) == 1
