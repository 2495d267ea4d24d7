"""What a batch promises of a power cut, checked on the strictest disk while a trace is followed.

- When the bytes of a create leave, its intent is durable: the journal that a power cut would leave has its key.
- When the journal says that a track is downloaded, its stems are durable: bytes, names, their entries in the manifest,
  and every folder above that is new. No name of an unfinished stem would come back.
- What a manifest calls durable is so at any moment, whichever manifest a power cut would leave.
- What a process keeps of a part that another one wrote is durable.
"""

from __future__ import annotations

import json
import re
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs

from aistemsplitter_async._transfer.manifest import MANIFEST_NAME, manifest_name
from aistemsplitter_async._transfer.partfile import part_path
from benchmarks.power_cuts.disk import Disk, File
from benchmarks.power_cuts.program import Place
from benchmarks.power_cuts.strace import Act

_CREATE = re.compile(rb"^POST /v1/audio/splits .*?^Idempotency-Key: ([^\r]+)", re.DOTALL | re.MULTILINE | re.IGNORECASE)
_SENT = ("intent", "created", "succeeded", "downloaded", "uncertain")  # states in which a key is remembered


@attrs.define
class Report:
    """What was seen, and which promises were broken.

    Attributes:
        creates: how many left.
        downloaded: how many tracks the journal says are downloaded.
        kept: how many parts of another process were continued.
        broken: a line each.
    """

    creates: int = 0
    downloaded: int = 0
    kept: int = 0
    broken: list[str] = attrs.field(factory=list[str])


class Watcher:
    """Follows the processes of a batch, one after the other.

    Args:
        disk: as it is before the first.
        place: where the batch has its files.
    """

    def __init__(self, disk: Disk, place: Place) -> None:
        self.report = Report()
        self._disk = disk
        self._place = place
        self._downloaded = set[int]()  # rows of the journal
        self._lines = 0  # of the traces before

    def follow(self, acts: list[Act]) -> None:
        """Follow one process from its begin to its end."""
        disk, place, report = self._disk, self._place, self.report
        inherited = {path: len(file.now) for path, file in disk.files(place.stems) if path.suffix == ".part"}
        before, self._lines = self._lines, self._lines + 1 + max((act.ended for act in acts), default=0)
        for act in (attrs.evolve(act, began=before + act.began, ended=before + act.ended) for act in acts):
            if act.what == "send":
                if (match := _CREATE.search(act.data)) is not None:
                    report.creates += 1
                    report.broken += _check_create(disk, place, match[1].decode())
                continue
            if act.what == "truncate" and (kept := min(inherited.pop(act.path, 0), act.offset)):
                report.kept += 1
                report.broken += _check_kept(disk, act.path, kept)
            disk.do(act)
            if act.path == undo_path(place.journal) and act.offset == 0:  # its first bytes are what commits
                self._look_into_journal()
            if act.path.is_relative_to(place.stems):
                report.broken += (line for line in _check_manifests(disk, act.path.parent) if line not in report.broken)

    def _look_into_journal(self) -> None:
        for row in read_journal(self._disk, self._place.journal):
            if row["state"] == "downloaded" and row["id"] not in self._downloaded:
                self._downloaded.add(row["id"])
                self.report.downloaded += 1
                self.report.broken += _check_downloaded(self._disk, self._place, row)


def _check_create(disk: Disk, place: Place, key: str) -> Iterator[str]:
    if (lost := disk.first_lost(place.journal)) is not None:
        yield f"a create left while a power cut would have taken {lost.relative_to(disk.root)}"
    elif not any(
        row["idempotency_key"] == key and row["state"] in _SENT
        for row in read_journal(disk, place.journal, synced=True)
    ):
        yield "a create left while a power cut would have taken its intent from the journal"


def _check_kept(disk: Disk, path: Path, kept: int) -> Iterator[str]:
    part = disk.find(path)
    if not isinstance(part, File) or not part.survives(kept):
        yield f"{kept} bytes of {path.relative_to(disk.root)} were kept, and a power cut would have taken some of them"


def _check_manifests(disk: Disk, folder: Path) -> Iterator[str]:
    """Compare the manifest that is there, and the one that would survive, with what it says is durable."""
    path = folder / MANIFEST_NAME
    for manifest in (disk.find(path), disk.find(path, synced=True)):
        if not isinstance(manifest, File):
            continue
        stems = json.loads(manifest.now)["stems"]
        for entry in stems.values():
            durable = entry.get("durable") or 0
            part = part_path(folder, entry["file"].rpartition(".")[0])
            for file in {disk.find(part), disk.find(part, synced=True), disk.find(folder / entry["file"])}:
                if isinstance(file, File) and not file.survives(durable):
                    yield f"{durable} bytes of {part.relative_to(disk.root)} are not as durable as the manifest says"


def _check_downloaded(disk: Disk, place: Place, row: sqlite3.Row) -> Iterator[str]:
    for stem, file in json.loads(row["files"]).items():
        path = place.stems / file["path"]
        says = f"the journal says that {path.relative_to(disk.root)} is downloaded, and a power cut would have"
        found, lost = disk.find(path), disk.first_lost(path)
        if lost is not None:
            yield f"{says} taken {lost.relative_to(disk.root)}"
        if not isinstance(found, File) or not found.survives(file["size"]):
            yield f"{says} taken its bytes"
        if not _is_in_manifest(disk.find(path.with_name(manifest_name(row["pattern"])), synced=True), stem, file):
            yield f"{says} taken what the manifest says of it"
        part = part_path(path.parent, path.stem)
        if disk.find(part, synced=True) is not None:
            yield f"{says} brought back {part.name}"


def _is_in_manifest(manifest: Any, stem: str, file: dict[str, Any]) -> bool:
    try:
        entry = json.loads(manifest.content)["stems"][stem]
    except (AttributeError, ValueError, KeyError):
        return False
    return bool(entry["file"] == Path(file["path"]).name and entry["total"] == file["size"])


def undo_path(journal: Path) -> Path:
    return journal.with_name(f"{journal.name}-journal")


def read_journal(disk: Disk, path: Path, *, synced: bool = False) -> list[sqlite3.Row]:
    """Return the tracks of the journal as it is, or, with `synced`, as it survives a power cut."""
    with tempfile.TemporaryDirectory(prefix="power-cut-") as folder:
        for place in (path, undo_path(path)):
            file = disk.find(place, synced=synced)
            if isinstance(file, File):
                Path(folder, place.name).write_bytes(file.content if synced else file.now)
        with closing(sqlite3.connect(Path(folder, path.name))) as db:
            db.row_factory = sqlite3.Row
            try:
                return db.execute("SELECT * FROM tracks").fetchall()
            except sqlite3.Error:  # it is new, or damaged
                return []
