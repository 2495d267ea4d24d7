"""A batch of a few songs on a disk whose power is cut: a process of its own, and the sandbox that it talks to.

    python benchmarks/power_cuts/program.py DISK BASE_URL SONG... [--checkpoint BYTES] [--broken NAME] [--writes 10]

Journal and stems are in new folders of the disk. The songs, the sandbox and its ledger are elsewhere. The stems are
small, so `--checkpoint` says how much of one comes between two syncs. With `--writes` the process is killed after so
many writes to unfinished stems.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sqlite3
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs

sys.path.insert(0, str(Path(__file__).parents[2]))  # run as a script, it has parts all the same

from aistemsplitter_async import AsyncAIStemSplitter, PollPolicy, RateLimit, RetryPolicy
from aistemsplitter_async._transfer import writer
from aistemsplitter_async._transfer.partfile import PartFile
from aistemsplitter_async.batch.outcome import Failed
from aistemsplitter_async.sandbox import Sandbox, Timed
from aistemsplitter_async.sandbox.faults.requests import Cut, Drip
from aistemsplitter_async.sandbox.service import core
from benchmarks.kill import API_KEY, LabelledSeparator

SPEED = 0.01  # of the usual waits between polls and retries
WORKING = "working"  # said once the batch has begun


@attrs.frozen
class Place:
    """Where a batch has its files on the disk."""

    disk: Path

    @property
    def journal(self) -> Path:
        return self.disk / "state" / "of songs" / "journal"

    @property
    def stems(self) -> Path:
        return self.disk / "music" / "stems"


# ---------------------------------------------------------------------------------------------------- the sandbox


@attrs.frozen
class Service:
    """How the sandbox serves its stems: `piece_bytes` every `every` seconds, and most answers break off.

    Attributes:
        data: the folder of its ledger and its stems.
        stem_bytes: how long a stem is.
        cut_after: bytes of a broken answer.
        every: seconds between pieces.
        seed: of its chances.
    """

    data: Path
    stem_bytes: int
    cut_after: int
    every: float
    seed: int
    piece_bytes: int = 64 * 1024

    @contextmanager
    def running(self) -> Iterator[str]:
        """Run it in a process of its own; yield its base URL."""
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(reading)
            try:
                asyncio.run(self._serve(writing))
            finally:
                os._exit(1)
        os.close(writing)
        try:
            yield os.read(reading, 1000).decode()
        finally:
            os.close(reading)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    async def _serve(self, ready: int) -> None:
        core.SilentSeparator = partial(LabelledSeparator, self.stem_bytes)  # type: ignore[attr-defined,assignment]
        progression = Timed(base=0.1, per_second=0.0, jitter=0.5, workers=100)
        async with Sandbox(
            api_key=API_KEY,
            separation="silent",
            requests_per_minute=None,
            credits=10**9,
            progression=progression,
            data=self.data,
            seed=self.seed,
        ) as sandbox:
            slow = Drip(piece_bytes=self.piece_bytes, every=self.every)
            sandbox.faults.add("download", slow, Cut(after_bytes=self.cut_after), probability=0.7)
            sandbox.faults.add("download", slow, times="always")
            os.write(ready, sandbox.base_url.encode())
            await asyncio.Event().wait()


# ---------------------------------------------------------------------------------------------- the broken builds


class WithoutSync(sqlite3.Connection):
    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        return super().execute(statement.replace("synchronous = FULL", "synchronous = OFF"), *values)


def sync_no_journal() -> None:
    """SQLite does not sync."""
    connect: Callable[..., sqlite3.Connection] = sqlite3.connect
    sqlite3.connect = partial(connect, factory=WithoutSync)  # type: ignore[assignment]


def sync_no_parts() -> None:
    """Unfinished stems are not synced."""
    _sync_unless(_is_part)


def sync_no_folders() -> None:
    """Folders are not synced, except by SQLite."""
    _sync_unless(lambda file: stat.S_ISDIR(os.fstat(file).st_mode))


def trust_size() -> None:
    """A download is continued where the unfinished stem ends, synced or not."""
    open_part: Any = PartFile.__init__

    def trusting(part: PartFile, path: Path, *, durable: int = 0) -> None:
        del durable
        open_part(part, path, durable=path.lstat().st_size if path.exists() else 0)

    setattr(PartFile, "__init__", trusting)  # noqa: B010  # mypy knows no type for it


def _sync_unless(skipped: Callable[[int], bool]) -> None:
    fsync = os.fsync

    def sync(file: Any) -> None:
        if not skipped(file):
            fsync(file)

    os.fsync = sync  # type: ignore[assignment]


def _is_part(file: int) -> bool:
    return Path(f"/proc/self/fd/{file}").readlink().suffix == ".part"


BROKEN = {"journal": sync_no_journal, "parts": sync_no_parts, "folders": sync_no_folders, "size": trust_size}


# ------------------------------------------------------------------------------------------------------ the batch


def command(disk: Path, base_url: str, songs: list[Path], *options: str) -> list[str]:
    """Return the command that runs the batch."""
    return [sys.executable, __file__, *map(str, (disk, base_url, *songs)), *options]


def kill_after(writes: int) -> None:
    """Kill this process once it has written to unfinished stems so often."""
    write, left = os.write, iter(range(writes - 1))

    def counted(file: int, data: Any) -> int:
        written = write(file, data)
        if _is_part(file) and next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return written

    os.write = counted


async def run(place: Place, base_url: str, songs: list[str]) -> bool:
    """Run the batch; return whether every song is done."""
    client = AsyncAIStemSplitter(
        API_KEY,
        base_url=base_url,
        rate_limit=RateLimit(6000),
        poll=PollPolicy().scaled(SPEED),
        retry=RetryPolicy().scaled(SPEED),
    )
    async with client, client.split_many(songs, into=place.stems, journal=place.journal) as outcomes:
        failed = [outcome async for outcome in outcomes if isinstance(outcome, Failed)]
        print(*failed, sep="\n", flush=True)
    return not failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("disk", type=Path)
    parser.add_argument("base_url")
    parser.add_argument("songs", nargs="+")
    parser.add_argument("--checkpoint", type=int, help="bytes of a stem between two syncs")
    parser.add_argument("--broken", choices=BROKEN, default="")
    parser.add_argument("--writes", type=int, default=0)
    options = parser.parse_args()
    if options.checkpoint:
        writer.CHECKPOINT_BYTES = options.checkpoint  # type: ignore[attr-defined]
    if options.broken:
        BROKEN[options.broken]()
    if options.writes:
        kill_after(options.writes)
    print(WORKING, flush=True)
    return 0 if asyncio.run(run(Place(options.disk), options.base_url, options.songs)) else 1


if __name__ == "__main__":
    sys.exit(main())
