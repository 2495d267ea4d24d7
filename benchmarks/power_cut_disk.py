"""Cuts the power of a real disk while a batch writes to it; `power_cut.sh` runs it, and says what it is about."""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import attrs

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a script, it has parts all the same

from aistemsplitter_async._transfer.manifest import MANIFEST_NAME
from aistemsplitter_async._transfer.partfile import part_path
from benchmarks.kill import Ledger
from benchmarks.power_cuts.program import BROKEN, WORKING, Place, Service, command

SONGS = 8
STEMS = 4
STEM_BYTES = 1_200_000
CUT_AFTER = 300_000  # bytes of a stem until the connection breaks, in most answers
CHECKPOINT = 250_000  # bytes of a stem between two syncs
EVERY = 0.03  # s for 64 KiB: a stem takes most of a second
HURRIED = {"dirty_expire_centisecs": "40", "dirty_writeback_centisecs": "10"}
BUSY = 20.0  # s that a disk may be in use after a batch
PATIENCE = 120.0  # s for a batch
ZEROS = bytes(16)  # no stem has so many in a row


Files = dict[str, bytes]


@attrs.frozen
class FileSystem:
    """A kind of file system.

    Attributes:
        make: the command that makes one.
        options: to mount it with.
        check: what a boot does after a power cut, besides mounting it.
        hurried: whether the kernel writes pages back in a fraction of the usual 30 s, which is all that ever puts some
            of a file there and not the rest. With a journal every sync does.
        size: in bytes.
    """

    make: tuple[str, ...]
    options: str = "rw"
    check: tuple[str, ...] = ()
    hurried: bool = False
    size: int = 128 * 1024**2


FILE_SYSTEMS = {
    "ext2": FileSystem(("mkfs.ext2", "-q", "-F"), check=("e2fsck", "-f", "-y"), hurried=True),
    "ext4-writeback": FileSystem(("mkfs.ext4", "-q", "-F"), "data=writeback"),
    "ext4-ordered": FileSystem(("mkfs.ext4", "-q", "-F"), "data=ordered"),
    "xfs": FileSystem(("mkfs.xfs", "-q", "-f"), size=320 * 1024**2),
}


@attrs.frozen
class Disk:
    """An image in `folder`, mounted on a loop device. The image holds what the device was told to write.

    What only the kernel's memory has, the pages of files and of the block device, is not in it: that is what a power
    cut takes. Reading the block device instead would show it.
    """

    folder: Path
    kind: FileSystem

    @property
    def image(self) -> Path:
        return self.folder / "image"

    @property
    def root(self) -> Path:
        return self.folder / "mounted"

    def make(self) -> None:
        with self.image.open("wb") as file:
            file.truncate(self.kind.size)
        call(*self.kind.make, str(self.image))

    def mount(self, options: str = "") -> None:
        self.root.mkdir(exist_ok=True)
        call("mount", "-o", f"loop,{options or self.kind.options}", str(self.image), str(self.root))

    def unmount(self) -> None:
        until = time.monotonic() + BUSY
        while True:
            try:
                return call("umount", str(self.root))
            except RuntimeError:  # busy for a moment, while the kernel puts away a killed process's files
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)

    def copy(self) -> Path:
        """Return a copy of the image at one moment: if anything was written meanwhile, it is copied again."""
        copy = self.folder / "copy"
        while True:
            call("cp", "--sparse=always", str(self.image), str(copy))
            if filecmp.cmp(self.image, copy, shallow=False):
                return copy

    def boot(self, copy: Path) -> Files:
        """Mount the copy in the place of the image, as a boot does; return what was on it before it was checked."""
        copy.replace(self.image)
        if not self.kind.check:
            self.mount()
            return self.files()
        self.mount("ro")
        found = self.files()
        self.unmount()
        done = subprocess.run([*self.kind.check, str(self.image)], capture_output=True, text=True, check=False)
        if done.returncode > 1:  # 1: errors were corrected
            raise RuntimeError(f"{done.args}: {done.stdout}")
        self.mount()
        return found

    def files(self) -> Files:
        """Return every file. What an unchecked ext2 has may be unreadable, and is left out."""
        files: Files = {}
        for folder, _, names in os.walk(self.root):
            for path in (Path(folder, name) for name in names):
                with suppress(OSError):
                    files[str(path.relative_to(self.root))] = path.read_bytes()
        return files


def call(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")


@contextmanager
def hurried(kind: FileSystem) -> Iterator[None]:
    """Let the kernel write back sooner, on the whole machine. Each change makes it write everything back at once."""
    settings = [Path("/proc/sys/vm", name) for name in (HURRIED if kind.hurried else ())]
    before = [setting.read_text() for setting in settings]
    try:
        for setting in settings:
            setting.write_text(HURRIED[setting.name])
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.write_text(value)


@contextmanager
def batch(disk: Path, base_url: str, songs: list[Path], broken: str, log: Path) -> Iterator[subprocess.Popen[str]]:
    """Start the batch and wait until it works. What it says later is in `log`. At the end it is killed."""
    options = ("--checkpoint", str(CHECKPOINT), *(("--broken", broken) if broken else ()))
    with log.open("w") as errors:
        process = subprocess.Popen(
            command(disk, base_url, songs, *options), stdout=subprocess.PIPE, stderr=errors, text=True, process_group=0
        )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == WORKING, log.read_text()
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@attrs.define
class Findings:
    """What was wrong after a cut.

    Attributes:
        taken: files that were not as they had been when the disk was mounted again, or gone, or back.
        lost: songs or stems that are not there.
        charged_twice: songs.
        wrong: stems with other bytes than were served.
        zeros: those with zeros in them.
        ruined: stems whose synced bytes were right until the disk was checked: ext2 gives the blocks of a removed file
            to another before it notes the removal, and e2fsck may then damage the wrong one.
        parts: unfinished stems that were left.
        failed: the batch did not end well.
    """

    taken: int = 0
    lost: int = 0
    charged_twice: int = 0
    wrong: int = 0
    zeros: int = 0
    ruined: int = 0
    parts: int = 0
    failed: int = 0

    @property
    def good(self) -> bool:
        return not (self.lost or self.charged_twice or self.wrong or self.parts or self.failed)


@attrs.define
class Total:
    """What was wrong after all cuts on a file system. Cuts that took nothing at all prove nothing."""

    cuts: int = 0
    taking: int = 0
    bad: int = 0
    counts: Counter[str] = attrs.field(factory=Counter[str])

    @property
    def good(self) -> bool:
        return not self.bad and self.taking > 0

    def add(self, findings: Findings) -> None:
        self.cuts += 1
        self.taking += findings.taken > 0
        self.bad += not findings.good
        self.counts.update(attrs.asdict(findings))

    def __str__(self) -> str:
        wrong = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in self.counts.items() if name != "taken")
        return f"{self.cuts} cuts, {self.taking} took something ({self.counts['taken']} files); {self.bad} bad: {wrong}"


def judge(place: Place, ledger: Ledger, before: Files, left: Files, findings: Findings) -> None:
    """Compare journal, files and ledger.

    Args:
        place: of the batch, which has ended.
        ledger: of the sandbox.
        before: what was on the disk before it was checked.
        left: what was there after that.
        findings: are completed.
    """
    with closing(sqlite3.connect(place.journal)) as db:
        rows = db.execute("SELECT split_id, files FROM tracks WHERE state = 'downloaded'").fetchall()
    charged = {charge["split_id"] for charge in ledger.charges()}
    findings.charged_twice += max(0, len(ledger.charges()) - SONGS)
    findings.lost += SONGS - len({split_id for split_id, _ in rows} & charged)
    for split_id, files in rows:
        for stem, file in json.loads(files).items():
            path = place.stems / file["path"]
            held = path.read_bytes() if path.exists() else b""
            served = ledger.read(f"splits/{split_id}/stems/{path.name}")
            if held != served and is_ruined(str(path.relative_to(place.disk)), stem, served, before, left):
                findings.ruined += 1
            elif held != served:
                findings.wrong += 1
                findings.zeros += ZEROS in held
    names = [path.name for path in place.stems.rglob("*") if path.is_file() and not path.name.endswith(".json")]
    findings.parts += sum(name.endswith(".part") for name in names)
    findings.lost += max(0, SONGS * STEMS - len(names))


def is_ruined(path: str, stem: str, served: bytes, before: Files, left: Files) -> bool:
    """Return whether what the manifest called durable was so, until the disk was checked."""
    folder, name = Path(path).parent, Path(path).stem
    try:
        durable = json.loads(before[str(folder / MANIFEST_NAME)])["stems"][stem]["durable"]
    except (KeyError, ValueError):
        return False
    places = (path, str(part_path(folder, name)))
    return any(
        before.get(place, b"")[:durable] == served[:durable] != left.get(place, b"")[:durable] for place in places
    )


def cut(disk: Disk, service: Service, songs: list[Path], after: float, broken: str) -> Findings:
    """Cut the power so many seconds after a batch has begun, run it again, and return what was wrong."""
    findings, place, log = Findings(), Place(disk.root), disk.folder / "log"
    disk.make()
    with service.running() as base_url:
        ledger = Ledger(base_url)
        disk.mount()
        with batch(disk.root, base_url, songs, broken, log) as process:
            time.sleep(after)
            os.killpg(process.pid, signal.SIGSTOP)
            copy, live = disk.copy(), disk.files()
        disk.unmount()
        before, left = disk.boot(copy), disk.files()
        findings.taken += sum(left.get(name) != live.get(name) for name in {*left, *live})
        ledger.set_faults([])
        with batch(disk.root, base_url, songs, broken, log) as process:
            output, _ = process.communicate(timeout=PATIENCE)
        if process.returncode:
            findings.failed += 1
            print(output, log.read_text())
        judge(place, ledger, before, left, findings)
        disk.unmount()
    return findings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for everything; it is removed by the caller")
    parser.add_argument("--cuts", type=int, default=100, help="on each file system")
    parser.add_argument("--fs", choices=FILE_SYSTEMS, action="append", help="only this one; may be repeated")
    parser.add_argument("--longest", type=float, default=4.0, help="s from the begin of a batch to the cut, at most")
    parser.add_argument("--broken", choices=BROKEN, default="", help="a build with this mistake in it")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    songs = [options.folder / f"song {number}.wav" for number in range(SONGS)]
    for song in songs:
        song.write_bytes(song.name.encode() * 10_000)
    good = True
    for name in options.fs or FILE_SYSTEMS:
        disk, chance, total = Disk(options.folder, FILE_SYSTEMS[name]), random.Random(f"{options.seed} {name}"), Total()
        with hurried(disk.kind):
            for number in range(options.cuts):
                data = options.folder / "sandbox"
                service = Service(data, STEM_BYTES, CUT_AFTER, EVERY, seed=chance.randrange(2**32))
                after = chance.uniform(0, options.longest)
                findings = cut(disk, service, songs, after, options.broken)
                total.add(findings)
                shutil.rmtree(data)
                if not findings.good:
                    print(f"{name}, cut {number} after {after:.2f} s: {findings}", flush=True)
        good = good and total.good
        print(f"{name}: {total}", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
