"""Cuts the power on a disk that keeps only what was synced, at any moment of a trace: nothing may be lost.

    python benchmarks/power_cut.py [--cuts 2000] [--seed 1] [--broken NAME]

A child works under `strace` (Linux; it must be installed), which shows every write, truncation, sync and new name.

First it writes to a journal. At each cut, what was synced is on the disk; of what was not, the disk has nothing, all, a
beginning, or any part, and of names that were not synced all or none. The journal is opened then, and must know all
that the child was told was written. It is done for a new journal, and for one with a run behind it.

Then it is a batch whose downloads break off; it is killed once, and run again. At every moment the promises listed in
`power_cuts/promises.py` are compared with what the strictest disk would have.

With `--broken` a mistake is built in that must be detected: `journal`, `parts` (unfinished stems) or `folders` are not
synced; or the unfinished stems are continued where they end, whatever their `size` is. `power_cut.sh` cuts the power of
real file systems.
"""

from __future__ import annotations

import argparse
import copy
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a script, it has parts all the same

from aistemsplitter_async import CreatedSplit, DirectURL, JournalError, Submission
from aistemsplitter_async.journal.record import AudioId, State, Variant
from aistemsplitter_async.journal.rows import Sighting
from aistemsplitter_async.journal.store import JournalStore
from benchmarks.power_cuts.disk import Disk, File
from benchmarks.power_cuts.program import BROKEN, Place, Service, command, sync_no_journal
from benchmarks.power_cuts.promises import Report, Watcher
from benchmarks.power_cuts.strace import Act, record

TRACKS = 3
STEM_BYTES = 60_000
ORDER = (State.FOUND, State.INTENT, State.CREATED)


# --------------------------------------------------------------------------------------------- the journal by itself


def work(path: Path) -> None:
    """Write to a journal, and say what is written."""
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


def is_said(act: Act) -> bool:
    return act.what == "write" and str(act.path).startswith("pipe:")


def cut(acts: list[Act], disk: Disk, chance: random.Random, into: Path) -> list[str]:
    """Write what the disk has after a cut; return what the child had been told was written."""
    said = list[str]()
    for act in acts[: chance.randrange(len(acts) + 1)]:
        if is_said(act):
            said.append(act.data.decode().strip())
        else:
            disk.do(act)
    keep = chance.choice((0.0, 0.5, 1.0))
    for name, file in chance.choice((disk.top.names, disk.top.synced)).items():
        assert isinstance(file, File)
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


def cut_journals(cuts: int, chance: random.Random, broken: str, folder: Path) -> Counter[str]:
    """Cut the power while a child works on a journal; return the verdicts."""
    verdicts = Counter[str]()
    path, into = folder / "live" / "journal", folder / "disk"
    path.parent.mkdir()
    for _ in range(2):
        before = Disk(path.parent)
        child = [sys.executable, __file__, "--child", str(path), *(["--broken", broken] if broken else [])]
        seen = record(child, folder / "log")
        acts = [act for act in seen if is_said(act) or act.path.is_relative_to(before.root)]
        for _ in range(cuts // 2):
            into.mkdir()
            verdicts[judge(into / path.name, cut(acts, copy.deepcopy(before), chance, into))] += 1
            shutil.rmtree(into)
    return verdicts


# ------------------------------------------------------------------------------------------------------- a whole batch


def check_batch(folder: Path, broken: str = "", *, songs: int = 2) -> Report:
    """Run a batch on a disk in an empty `folder`, kill it, run it again, and return what it broke."""
    place = Place(folder / "live")
    place.disk.mkdir()
    audio = [folder / f"song {number}.wav" for number in range(songs)]
    for song in audio:
        song.write_bytes(song.name.encode() * 1000)
    watcher = Watcher(Disk(place.disk), place)
    options = ("--checkpoint", str(STEM_BYTES // 6), *(("--broken", broken) if broken else ()))
    with Service(folder / "sandbox", STEM_BYTES, STEM_BYTES // 3, every=0.0, seed=1).running() as base_url:
        run = command(place.disk, base_url, audio, *options)
        watcher.follow(record([*run, "--writes", str(6 * songs)], folder / "log", killed=True))
        watcher.follow(record(run, folder / "log"))
    return watcher.report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--broken", choices=BROKEN, default="", help="what is not synced")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        if options.broken == "journal":
            sync_no_journal()
        work(options.child)
        return 0
    with tempfile.TemporaryDirectory(prefix="power-") as name:
        verdicts = cut_journals(options.cuts, random.Random(options.seed), options.broken, Path(name))
    print(f"{options.cuts} cuts: {verdicts['good']} good, {verdicts['lost']} lost, {verdicts['refused']} refused")
    with tempfile.TemporaryDirectory(prefix="power-") as name:
        report = check_batch(Path(name), options.broken, songs=6)
    print(*report.broken, sep="\n", end="\n" * bool(report.broken))
    print(
        f"a batch: {report.creates} creates, {report.downloaded} tracks downloaded, {report.kept} parts continued, "
        f"{len(report.broken)} promises broken"
    )
    return 0 if verdicts["good"] == verdicts.total() and not report.broken else 1


if __name__ == "__main__":
    sys.exit(main())
