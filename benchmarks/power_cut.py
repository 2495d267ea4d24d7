"""Cuts the power at any moment while a journal is written, and opens what the disk has: nothing written may be lost.

    python benchmarks/power_cut.py [--cuts 2000] [--seed 1] [--broken]

A child works on a journal under `strace` (Linux; it must be installed), which shows every write, truncation, sync and
new name. At each cut, what was synced is on the disk; of what was not, the disk has nothing, all, a beginning, or any
part, and of names that were not synced all or none. The journal is opened then, and must know all that the child was
told was written. It is done for a new journal, and for one with a run behind it.

With `--broken` SQLite does not sync, which must be detected.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs

from aistemsplitter_async import CreatedSplit, DirectURL, JournalError, Submission
from aistemsplitter_async.journal.record import AudioId, State, Variant
from aistemsplitter_async.journal.rows import Sighting
from aistemsplitter_async.journal.store import JournalStore

TRACKS = 3
CALLS = "openat,pwrite64,ftruncate,fsync,fdatasync,unlink,write"
LINE = re.compile(r"(\w+)\((.*)\)\s+= \d+")
TEXT = re.compile(r'"([^"]*)"')
ORDER = (State.FOUND, State.INTENT, State.CREATED)


@attrs.frozen
class Act:
    """What the child did: to which file, where, and with which bytes; or `said` a line."""

    what: str
    name: str = ""
    offset: int = 0
    data: bytes = b""


@attrs.define
class DiskFile:
    """A file as the disk has it for certain, and what was done to it since."""

    content: bytearray
    waiting: list[Act] = attrs.field(factory=list)

    def after(self, acts: list[Act]) -> bytearray:
        content = bytearray(self.content)
        for act in acts:
            content.extend(bytes(max(0, act.offset - len(content))))
            if act.what == "ftruncate":
                del content[act.offset :]
            content[act.offset : act.offset + len(act.data)] = act.data
        return content


class WithoutSync(sqlite3.Connection):
    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        return super().execute(statement.replace("synchronous = FULL", "synchronous = OFF"), *values)


def work(path: Path, *, broken: bool) -> None:
    """Write to a journal, and say what is written."""
    if broken:
        connect: Callable[..., sqlite3.Connection] = sqlite3.connect
        sqlite3.connect = lambda *args, **kwargs: connect(  # type: ignore[assignment]
            *args, **kwargs, factory=WithoutSync
        )
    with closing(JournalStore(path)) as store:
        for number in range(TRACKS):
            name, source = f"{store.run}-{number}", DirectURL("https://example.com")
            created = CreatedSplit(id=f"split_{name}", status="queued", credits_used=1, created_at=datetime.now(UTC))
            store.begin()
            found = Sighting(audio=AudioId(None, name), source=name, folder=name, pattern="{stem}", split_input=source)
            track = store.claim(found, Variant(), dedupe=True).record.id
            store.intend(track, Submission(f"key {name}", b"x" * 6000), 1.0)
            store.commit()
            os.write(1, f"{name} {State.INTENT}\n".encode())
            store.begin()
            store.created(track, created, 1.0)
            store.commit()
            os.write(1, f"{name} {State.CREATED}\n".encode())


def record(path: Path, *, broken: bool) -> list[Act]:
    """Return what a child does that works on the journal."""
    log = path.parent.with_name("log")
    command = [sys.executable, __file__, "--child", str(path), *["--broken"] * broken]
    watched = ["strace", "-qq", "-xx", "-y", "-s", "100000", "-o", str(log), "-e", f"trace={CALLS}"]
    subprocess.run([*watched, *command], check=True, stdout=subprocess.DEVNULL)
    matches = [match for line in log.read_text().splitlines() if (match := LINE.match(line))]
    return [act for match in matches if (act := read_call(match[1], match[2], path.parent)) is not None]


def read_call(call: str, arguments: str, folder: Path) -> Act | None:
    texts = [bytes.fromhex(text.replace("\\x", "")) for text in TEXT.findall(arguments)]
    target = re.match(r"(\d+|AT_FDCWD)<([^>]*)>", arguments)
    if target is not None and call != "openat":
        named = target[2]
        place = Path(bytes.fromhex(named.replace("\\x", "")).decode() if named.startswith("\\x") else named)
        if call == "write" and target[1] == "1":
            return Act("said", data=texts[0])
    elif call == "unlink" or "O_CREAT" in arguments:
        place = Path(os.fsdecode(texts[0]))
    else:
        return None
    last = arguments.rpartition(", ")[2]
    if call in ("fsync", "fdatasync"):
        return Act("sync names") if place == folder else Act("sync", place.name) if place.parent == folder else None
    if place.parent != folder:
        return None
    offset = int(last) if call in ("pwrite64", "ftruncate") else 0
    return Act(call, place.name, offset, texts[0] if call == "pwrite64" else b"")


def cut(acts: list[Act], before: dict[str, bytes], chance: random.Random, into: Path) -> list[str]:
    """Write what the disk has after a cut; return what the child had been told was written."""
    files = {name: DiskFile(bytearray(content)) for name, content in before.items()}
    synced, said = dict(files), list[str]()
    for act in acts[: chance.randrange(len(acts) + 1)]:
        if act.what == "said":
            said.append(act.data.decode().strip())
        elif act.what == "sync names":
            synced = dict(files)
        elif act.what == "openat":
            files.setdefault(act.name, DiskFile(bytearray()))
        elif act.what == "unlink":
            files.pop(act.name, None)
        elif act.what == "sync":
            file = files[act.name]
            file.content = file.after(file.waiting)
            file.waiting.clear()
        else:
            files[act.name].waiting.append(act)
    keep = chance.choice((0.0, 0.5, 1.0))
    for name, file in chance.choice((files, synced)).items():
        waiting = file.waiting[: chance.randrange(len(file.waiting) + 1)] if chance.random() < 0.3 else file.waiting
        (into / name).write_bytes(file.after([act for act in waiting if chance.random() < keep]))
    return said


def judge(path: Path, said: list[str]) -> str:
    """Return what became of a journal: `good`, `lost` or `refused`."""
    if not said and not path.exists():
        return "good"
    try:
        with closing(JournalStore(path)) as store:
            known = {one.source: one.state for one in store.page(0, 1000)}
    except JournalError:
        return "refused"
    written = [line.split() for line in said]
    held = all(name in known and ORDER.index(known[name]) >= ORDER.index(State(state)) for name, state in written)
    return "good" if held else "lost"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--broken", action="store_true", help="SQLite does not sync")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        work(options.child, broken=options.broken)
        return 0
    chance, verdicts = random.Random(options.seed), Counter[str]()
    with tempfile.TemporaryDirectory(prefix="power-") as name:
        path, disk = Path(name) / "live" / "journal", Path(name) / "disk"
        path.parent.mkdir()
        for _ in range(2):
            before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
            acts = record(path, broken=options.broken)
            for _ in range(options.cuts // 2):
                disk.mkdir()
                verdicts[judge(disk / "journal", cut(acts, before, chance, disk))] += 1
                shutil.rmtree(disk)
    print(f"{options.cuts} cuts: {verdicts['good']} good, {verdicts['lost']} lost, {verdicts['refused']} refused")
    return 0 if verdicts["good"] == verdicts.total() else 1


if __name__ == "__main__":
    sys.exit(main())
