"""Kills a batch (SIGKILL) at any point and runs it again: nothing lost or charged twice, no wrong or partial file.

    python benchmarks/kill.py [--points 200] [--tracks 50] [--only NAME,NAME] [--faults] [--broken] [--seed 1]

A sandbox with its ledger runs in a process of its own. Batches run in a child that is killed, and started again until
one reaches its end. First come the points that `points` enumerates: before and after each kind of journal write, POST,
fsync and rename, on a small batch each. Then `--points` kills at random moments of batches of `--tracks` sources.

Every stem that the sandbox serves proves itself (it ends with a digest of the rest, which names its split and stem), so
its content shows whether it is complete and where it belongs. Files with final names are checked all the time while a
batch runs, after every kill, and at the end, when journal, files and the sandbox's ledger are compared. Finally each
batch runs once more: that must not cost a request.

With `--faults`, 5 % of all replies are 500, 3 % are lost after the effect, uploads are dropped and downloads cut.

With `--broken` a mistake is built in that must be detected, the negative controls: `late`, the idempotency key is
journalled after the POST instead of before; `hasty`, the POST does not wait until the intent is on disk; `mixed-up`,
every file is split as the first one; `shared`, tracks take each other's splits; `copied`, stems are written under their
final names.

SIGKILL leaves what the system has not written yet, so this proves nothing about a power cut: `power_cut.py` and
`power_cut.sh` are about that.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import sqlite3
import stat
import sys
import tempfile
import time
import traceback
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs

from aistemsplitter_async import AsyncAIStemSplitter, PollPolicy, RateLimit, RetryPolicy
from aistemsplitter_async._send.transport import AiohttpTransport
from aistemsplitter_async._transfer.partfile import PartFile
from aistemsplitter_async.batch import runner  # noqa: F401  # the same
from aistemsplitter_async.batch.create import SplitCreator
from aistemsplitter_async.clock import Deadline
from aistemsplitter_async.journal.journal import Journal
from aistemsplitter_async.journal.record import State
from aistemsplitter_async.journal.store import JournalStore
from aistemsplitter_async.models import CreatedSplit, UploadedFile
from aistemsplitter_async.sandbox import Sandbox, Timed
from aistemsplitter_async.sandbox.separation.separate import STEMS
from aistemsplitter_async.sandbox.service import core
from aistemsplitter_async.sandbox.service.separator import SeparationError
from aistemsplitter_async.sandbox.service.state import Stem

API_KEY = "ast_sandbox_kill"
SPEED = 0.01  # of the usual waits between polls and retries
STEM_BYTES = 3000
BAD = b"no audio"
FAULTS = (
    "any:status:status=500,probability=0.05",
    "create:reset:effect=true,probability=0.03",
    "get:reset:effect=true,probability=0.03",
    "reserve:reset:effect=true,probability=0.03",
    "upload:stop_reading:how=reset,after_bytes=100,probability=0.05",
    "download:cut:after_bytes=1000,probability=0.05",
    "download:cut:after_bytes=2000,framing=close,probability=0.02",
)

WRITES = ("bind", "audio_of", "claim", "uploaded", "intend", "created", "succeeded", "downloaded")
POSTS = ("POST reserve", "POST upload", "POST create")
DISK = ("fsync file", "fsync folder", "link stem", "unlink part", "rename manifest", "rename status")


def points() -> Iterator[tuple[str, str]]:
    """Yield scenario and point: where the first run is killed."""
    for write, when in itertools.product(WRITES, ("before", "within", "after")):
        yield "plain", f"write {write}:{when}"
    for post, when in itertools.product(POSTS, ("before", "during", "after")):
        yield "plain", f"{post}:{when}"
    for act, when in itertools.product(DISK, ("before", "after")):
        yield "plain", f"{act}:{when}"
    for when in ("before", "after"):
        yield "no links", f"rename stem:{when}"
    for write, when in itertools.product(("refused", "fail"), ("before", "within", "after")):
        yield "bad file", f"write {write}:{when}"
    for when in ("before", "within", "after"):
        yield "retried", f"write reopen:{when}"
        yield "lost replies", f"write uncertain:{when}"
        yield "old key", f"write needs_review:{when}"


@attrs.frozen
class Run:
    """The orders for one child."""

    folder: Path
    base_url: str
    sources: tuple[str, ...]
    point: str = ""
    broken: str = ""
    links: bool = True
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def into(self) -> Path:
        return self.folder / "out"

    @property
    def journal(self) -> Path:
        return self.folder / "journal"


# ---------------------------------------------------------------------------------------------------- the sandbox


@attrs.frozen
class LabelledSeparator:
    """Stems that prove themselves: split, stem and source, `stem_bytes` of filler, and the SHA-256 of all that."""

    stem_bytes: int = STEM_BYTES

    async def probe(self, source: Path) -> float:
        if source.read_bytes().startswith(BAD):
            raise SeparationError("there is no audio in it")
        return 10.0

    async def separate(
        self, source: Path, into: Path, *, seconds: float, stem_model: str, output_format: str
    ) -> tuple[Stem, ...]:
        del seconds
        # A URL is not fetched here; its splits are identified by the file name in it.
        audio = hashlib.sha256(source.read_bytes()).hexdigest() if source.is_file() else ""
        into.mkdir(parents=True, exist_ok=True)
        stems = []
        for name in STEMS[stem_model]:
            body = build_stem(f"{into.name}/{name}/{audio}", self.stem_bytes)
            path = into / f"{name}.{output_format}"
            path.write_bytes(body)
            stems.append(Stem(name, path.name, len(body), hashlib.sha256(body).hexdigest()[:32]))
        return tuple(stems)


def build_stem(text: str, filler: int) -> bytes:
    label = f"{text}\n".encode()
    body = label + random.Random(label).randbytes(filler)
    return body + hashlib.sha256(body).digest()


def read_stem(data: bytes) -> str | None:
    """Return split, stem and source that a file holds, or `None` if it is not complete."""
    if hashlib.sha256(data[:-32]).digest() != data[-32:]:
        return None
    return data.partition(b"\n")[0].decode()


def serve(data: Path, seed: int, ready: int) -> None:
    async def run() -> None:
        core.SilentSeparator = LabelledSeparator  # type: ignore[attr-defined,assignment]
        progression = Timed(base=0.05, per_second=0.0, jitter=0.5, workers=100)
        async with Sandbox(
            api_key=API_KEY,
            separation="silent",
            requests_per_minute=None,
            credits=10**9,
            progression=progression,
            data=data,
            seed=seed,
        ) as sandbox:
            os.write(ready, sandbox.base_url.encode())
            os.close(ready)
            await asyncio.Event().wait()

    asyncio.run(run())


class Ledger:
    """The sandbox's ledger, through its control endpoint."""

    def __init__(self, base_url: str) -> None:
        self._url = base_url.removesuffix("v1") + "control/"

    def read(self, path: str) -> Any:
        with urllib.request.urlopen(self._url + path) as reply:  # noqa: S310  # on this machine
            body: bytes = reply.read()
        return body if "/stems/" in path else json.loads(body)

    def charges(self) -> list[Any]:
        return list(self.read("ledger?newest=100000")["charges"])

    def requests(self) -> int:
        return sum(sum(by_status.values()) for by_status in self.read("ledger?newest=1")["counts"].values())

    def set_faults(self, rules: Iterable[str]) -> None:
        self._send("DELETE", {})
        for rule in rules:
            self._send("POST", {"rule": rule})

    def _send(self, method: str, body: dict[str, str]) -> None:
        data, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
        with urllib.request.urlopen(  # noqa: S310
            urllib.request.Request(self._url + "faults", data, headers, method=method)  # noqa: S310
        ) as reply:
            reply.read()


# ------------------------------------------------------------------------------------------------------ the child


class Trap:
    """Kills this process when it reaches `point`."""

    def __init__(self, point: str) -> None:
        self._point = point
        self._since_commit: list[str] = []

    def reach(self, name: str) -> None:
        if name == self._point:
            os.kill(os.getpid(), signal.SIGKILL)

    def linger(self, name: str) -> None:
        if name == self._point:
            time.sleep(0.05)

    def around(self, name: Callable[..., str | None], function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            called = name(*args)
            self.reach(f"{called}:before")
            result = function(*args, **kwargs)
            self.reach(f"{called}:after")
            return result

        return wrapped

    def set_up(self) -> None:
        for write in (*WRITES, "refused", "fail", "reopen", "uncertain", "needs_review"):
            setattr(JournalStore, write, self._around_write(write, getattr(JournalStore, write)))
        JournalStore.commit = self._around_commit(JournalStore.commit)  # type: ignore[method-assign,assignment]
        AiohttpTransport.send = self._around_send(AiohttpTransport.send)  # type: ignore[method-assign]
        os.fsync = self.around(_name_fsync, os.fsync)
        os.link = self.around(lambda *_: "link stem", os.link)
        os.replace = self.around(_name_rename, os.replace)
        os.unlink = self.around(lambda path, *_: "unlink part" if str(path).endswith(".part") else None, os.unlink)

    def _around_write(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.reach(f"write {name}:before")
            result = function(*args, **kwargs)
            self.linger(f"write {name}:within")  # code that does not wait for this write gets time to go wrong
            self.reach(f"write {name}:within")
            self._since_commit.append(name)
            return result

        return wrapped

    def _around_commit(self, function: Callable[[JournalStore], None]) -> Callable[[JournalStore], None]:
        def commit(store: JournalStore) -> None:
            function(store)
            written, self._since_commit = self._since_commit, []
            for name in written:
                self.reach(f"write {name}:after")

        return commit

    def _around_send(self, function: Callable[..., Any]) -> Callable[..., Any]:
        async def send(transport: AiohttpTransport, request: Any, /) -> Any:
            name = f"POST {_POSTS.get(request.url.rpartition('/audio/')[2], 'upload')}"
            if request.method != "POST":
                return await function(transport, request)
            self.reach(f"{name}:before")
            sending = asyncio.ensure_future(function(transport, request))
            await asyncio.wait([sending], timeout=0.002)
            self.reach(f"{name}:during")
            reply = await sending
            self.reach(f"{name}:after")
            return reply

        return send


_POSTS = {"uploads": "reserve", "splits": "create"}


def _name_fsync(descriptor: int) -> str:
    return "fsync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "fsync file"


def _name_rename(source: Any, _: Any) -> str:
    name = Path(source).name
    if name.endswith(".status.json.new"):
        return "rename status"
    return "rename manifest" if name.endswith(".json.new") else "rename stem"


def no_links(*_: Any, **__: Any) -> None:
    raise OSError(errno.EPERM, "no hard links here")


def journal_late() -> None:
    """Journal the key after the POST."""

    async def send(creator: Any, record: Any, submission: Any) -> Any:
        del submission
        context, held = creator._context, record
        fresh = context.engine.build_submission(record.input, idempotency_key=str(uuid.uuid4()))

        async def note(created: Any) -> None:
            nonlocal held
            if held.state is not State.INTENT:
                held = await context.journal.write(JournalStore.intend, held.id, fresh, context.clock.now())
            held = await context.journal.write(JournalStore.created, held.id, created, context.clock.now())

        async def attempt() -> Any:
            await context.engine.create(
                fresh, deadline=Deadline.after(context.clock, None), priority="bulk", on_created=note
            )
            return held

        creator._standing.has_worked = True
        return await context.creating.retry_through_outage(attempt)

    SplitCreator._send = send  # type: ignore[method-assign,assignment]


def post_hastily() -> None:
    """Do not wait until the intent is on disk."""
    write = Journal.write

    async def hasty(journal: Any, change: Any, *args: Any, **kwargs: Any) -> Any:
        if change is not JournalStore.intend:
            return await write(journal, change, *args, **kwargs)
        track, submission, at = args
        record = await write(journal, JournalStore.get, track)
        journal.later = asyncio.ensure_future(write(journal, change, *args))
        return attrs.evolve(record, state=State.INTENT, submission=submission, intended_at=at)

    Journal.write = hasty  # type: ignore[method-assign,assignment]


def mix_up_sources() -> None:
    """Split the first upload for all the others too."""
    create, first = SplitCreator.create, list[Any]()

    async def mixed_up(creator: Any, record: Any) -> Any:
        if isinstance(record.input, UploadedFile):
            first.append(record.input)
            record = attrs.evolve(record, input=first[0])
        return await create(creator, record)

    SplitCreator.create = mixed_up  # type: ignore[method-assign,assignment]


def share_splits() -> None:
    """Let every second track take the split of the one before."""
    send, made = SplitCreator._send, list[Any]()

    async def shared(creator: Any, record: Any, submission: Any) -> Any:
        context = creator._context
        if len(made) % 2:
            made.append(None)
            creator._standing.has_worked = True
            held = await context.write(JournalStore.intend, record.id, submission, context.clock.now())
            return await context.write(JournalStore.created, held.id, made[-2], context.clock.now())
        sent: Any = await send(creator, record, submission)
        made.append(CreatedSplit(sent.split_id, "queued", sent.credits_used, datetime.now(UTC)))
        return sent

    SplitCreator._send = shared  # type: ignore[method-assign,assignment]


def copy_stems() -> None:
    """Write stems under their final names piece by piece."""

    def publish(part: Any, target: Path, *, overwrite: bool) -> None:
        del overwrite
        data = part.path.read_bytes()
        with target.open("wb", buffering=0) as file:
            for start in range(0, len(data), 200):
                file.write(data[start : start + 200])
                time.sleep(0.001)
        part.path.unlink()

    PartFile.publish = publish  # type: ignore[method-assign,assignment]


BROKEN = {
    "late": journal_late,
    "hasty": post_hastily,
    "mixed-up": mix_up_sources,
    "shared": share_splits,
    "copied": copy_stems,
}


async def batch(run: Run) -> dict[str, int]:
    counts: Counter[str] = Counter()
    client = AsyncAIStemSplitter(
        API_KEY,
        base_url=run.base_url,
        rate_limit=RateLimit(6000),
        poll=PollPolicy().scaled(SPEED),
        retry=RetryPolicy().scaled(SPEED),
    )
    async with (
        client,
        client.split_many(
            run.sources, into=run.into, journal=run.journal, in_flight=40, **dict(run.options)
        ) as outcomes,
    ):
        async for outcome in outcomes:
            counts[type(outcome).__name__] += 1
            if type(outcome).__name__ == "Failed":
                print(outcome, flush=True)
    return counts


def start(run: Run) -> int:
    """Fork a child that runs the batch; return its process id. It exits with 0 if the batch reached its end."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        with (run.folder / "log").open("a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        if not run.links:
            os.link = no_links
        if run.broken:
            BROKEN[run.broken]()
        Trap(run.point).set_up()
        counts = asyncio.run(batch(run))
        print(dict(counts))
        status = 0
    except BaseException:  # noqa: BLE001  # nothing may get out of a forked child
        traceback.print_exc()
    finally:
        os._exit(status)


# ----------------------------------------------------------------------------------------------------- the driver


@attrs.define
class Verdict:
    """The mistakes that were found, and how much was checked."""

    batches: int = 0
    kills: int = 0
    tracks: int = 0
    lost: int = 0
    charged_twice: int = 0
    other_bytes: int = 0
    wrong_hashes: int = 0
    partial_files: int = 0
    requests_when_finished: int = 0
    missed_points: list[str] = attrs.field(factory=list[str])
    crashes: list[str] = attrs.field(factory=list[str])

    @property
    def good(self) -> bool:
        wrong = self.lost + self.charged_twice + self.other_bytes + self.wrong_hashes + self.partial_files
        return not (wrong or self.requests_when_finished or self.missed_points or self.crashes)


class Driver:
    """Kills batches and checks their remains."""

    def __init__(self, base_url: str, folder: Path, *, seed: int, broken: str) -> None:
        self.verdict = Verdict()
        self.ledger = Ledger(base_url)
        self._base_url = base_url
        self._folder = folder
        self._broken = broken
        self._random = random.Random(seed)
        self._numbers = itertools.count(1)

    def prepare(self, tracks: int, *, bad: bool = False) -> Run:
        """Return a run over so many sources of its own, two in three of them files, and one in ten given twice."""
        folder = self._folder / f"batch{next(self._numbers)}"
        (folder / "music").mkdir(parents=True)
        sources = []
        for number in range(tracks):
            if number % 3 == 2:
                sources.append(f"https://music.example/{folder.name}-{number}.mp3")
                continue
            path = folder / "music" / f"{number}.wav"
            path.write_bytes(f"{folder.name}/{number}".encode() * self._random.choice((1, 10, 20_000)))
            sources.append(str(path))
        for number in range(0, tracks, 10):
            copy = folder / "music" / f"copy{number}.wav"
            copy.write_bytes(Path(sources[number]).read_bytes() if number % 3 != 2 else b"")
            sources.append(str(copy) if copy.stat().st_size else sources[number])
        if bad:
            (folder / "music" / "bad.wav").write_bytes(BAD)
            sources.append(str(folder / "music" / "bad.wav"))
        self.verdict.batches += 1
        self.verdict.tracks += tracks
        return Run(folder, self._base_url, tuple(sources), broken=self._broken)

    def go(self, run: Run, *, kill_after: float | None = None) -> bool:
        """Run a child until its end, or kill it; return whether the batch reached its end."""
        seen: set[Path] = set()
        pid, began = start(run), time.monotonic()
        while True:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                break
            if kill_after is not None and time.monotonic() - began > kill_after:
                os.kill(pid, signal.SIGKILL)
                _, status = os.waitpid(pid, 0)
                break
            self.check_files(run, seen)
            time.sleep(0.004)
        self.check_files(run, set())
        if os.WIFSIGNALED(status):
            self.verdict.kills += 1
        elif os.WEXITSTATUS(status):
            self.verdict.crashes.append((run.folder / "log").read_text()[-2000:])
        return not os.WIFSIGNALED(status)

    def check_files(self, run: Run, seen: set[Path]) -> None:
        """Count the files under final names that are not complete."""
        for path in run.into.rglob("*"):
            if path.name.startswith(".") or path in seen or not path.is_file():
                continue
            seen.add(path)
            self.verdict.partial_files += read_stem(path.read_bytes()) is None

    def judge(self, run: Run, tracks: int, before: int) -> None:
        """Compare journal, files and ledger."""
        verdict = self.verdict
        db = sqlite3.connect(run.journal)
        rows = db.execute(
            "SELECT state, split_id, files, coalesce(content, identity), split FROM tracks WHERE failure IS NULL"
        ).fetchall()
        (open_creates,) = db.execute("SELECT count(*) FROM tracks WHERE state = ?", (State.UNCERTAIN,)).fetchone()
        db.close()
        done = [
            (split_id, json.loads(files), audio.removeprefix("sha256:"), json.loads(split)["filename"])
            for state, split_id, files, audio, split in rows
            if state == State.DOWNLOADED
        ]
        charges = [charge for charge in self.ledger.charges()[before:] if not charge["refunded"]]
        splits = {split_id for split_id, *_ in done}  # each source has one of its own
        verdict.lost += abs(tracks - len(splits)) + len(splits - {charge["split_id"] for charge in charges})
        verdict.charged_twice += max(0, len(charges) - tracks)
        verdict.other_bytes += sum(len(charge["bodies"]) != 1 for charge in charges)
        for split_id, files, audio, filename in done:
            verdict.lost += len(files) != 4
            if audio.startswith("url:"):
                verdict.wrong_hashes += audio.rpartition("/")[2] != filename
            proof = "" if audio.startswith("url:") else audio
            for stem, file in files.items():
                data = (run.into / file["path"]).read_bytes()
                served = self.ledger.read(f"splits/{split_id}/stems/{Path(file['path']).name}")
                right = read_stem(data) == f"{split_id}/{stem}/{proof}" and served == data
                verdict.wrong_hashes += not right or hashlib.sha256(data).hexdigest() != file["sha256"]
        named = [path for path in run.into.rglob("*") if path.is_file() and not path.name.endswith(".json")]
        verdict.partial_files += abs(len(named) - 4 * len(done))
        requests = self.ledger.requests()
        self.go(run)
        # A create whose replay was refused stays open, and is replayed in every run.
        verdict.requests_when_finished += self.ledger.requests() - requests - open_creates

    def enumerate(self, tracks: int, only: str) -> None:
        """Kill a small batch once at each enumerated point whose name contains one of those in `only`."""
        for scenario, point in points():
            if not any(name in point for name in only.split(",")):
                continue
            run = self.prepare(tracks, bad=scenario in ("bad file", "retried"))
            run = attrs.evolve(run, links=scenario != "no links")
            before, kills = len(self.ledger.charges()), self.verdict.kills
            deadly = attrs.evolve(run, point=point)
            if scenario == "lost replies":
                self.ledger.set_faults(["create:reset:effect=true,times=40"])
            if scenario == "retried":
                self.go(run)
                deadly = attrs.evolve(deadly, options=(("retry_failed", True),))
            if scenario == "old key":
                self.go(attrs.evolve(run, point="POST create:after"))
                kills += 1
                deadly = attrs.evolve(deadly, options=(("key_age", 1e-9),))
            if self.go(deadly) or self.verdict.kills == kills:
                self.verdict.missed_points.append(point)
            self.ledger.set_faults([])
            while not self.go(run):
                pass
            self.judge(run, tracks, before)

    def shoot(self, kills: int, tracks: int, longest: float, batches: int) -> None:
        """Kill batches at random moments until there were so many kills, and so many batches."""
        wanted, least = self.verdict.kills + kills, self.verdict.batches + batches
        while self.verdict.kills < wanted or self.verdict.batches < least:
            run, before = self.prepare(tracks), len(self.ledger.charges())
            while not self.go(
                run, kill_after=self._random.uniform(0, longest) if self.verdict.kills < wanted else None
            ):
                pass
            self.judge(run, tracks, before)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--tracks", type=int, default=50)
    parser.add_argument("--batches", type=int, default=0, help="run at least so many, some without a kill if necessary")
    parser.add_argument("--longest", type=float, default=1.0, help="seconds a child lives at most")
    parser.add_argument("--only", default="", help="of the enumerated points, those whose name contains one of these")
    parser.add_argument("--faults", action="store_true")
    parser.add_argument("--broken", choices=BROKEN, default="", help="a build with this mistake in it")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kill-"))
    reading, writing = os.pipe()
    sandbox = os.fork()
    if not sandbox:
        os.close(reading)
        serve(folder / "sandbox", options.seed, writing)
        os._exit(0)
    os.close(writing)
    base_url = os.read(reading, 1000).decode()
    driver = Driver(base_url, folder, seed=options.seed, broken=options.broken)
    began = time.monotonic()
    try:
        if options.faults:
            driver.ledger.set_faults(FAULTS)
        else:
            driver.enumerate(3, options.only)
        enumerated = driver.verdict.kills
        driver.shoot(options.points, options.tracks, options.longest, options.batches)
    finally:
        os.kill(sandbox, signal.SIGKILL)
        os.waitpid(sandbox, 0)
    verdict = driver.verdict
    print(f"{verdict.batches} batches, {verdict.tracks} tracks, {time.monotonic() - began:.0f} s")
    rows = attrs.asdict(verdict) | {"kills": f"{verdict.kills} ({enumerated} at enumerated points)"}
    for name in ("kills", "lost", "charged_twice", "other_bytes", "wrong_hashes", "partial_files"):
        print(f"{name.replace('_', ' '):24} {rows[name]}")
    print(f"{'requests when finished':24} {verdict.requests_when_finished}")
    for name, found in (("points never reached", verdict.missed_points), ("crashes", verdict.crashes)):
        if found:
            print(f"{name}: {', '.join(found)}")
    if verdict.good:
        shutil.rmtree(folder)
    else:
        print(f"what is left is in {folder}")
    return 0 if verdict.good else 1


if __name__ == "__main__":
    sys.exit(main())
