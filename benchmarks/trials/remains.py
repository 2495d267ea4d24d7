"""What is known of a trial: what each run saw and left behind, the ledger, the journal and the files after it."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sqlite3
from contextlib import suppress
from pathlib import Path

import attrs

from benchmarks.trials.account import Charge
from benchmarks.trials.scenario import Trial
from benchmarks.trials.seen import Seen


@attrs.define
class Remains:
    """Everything that is known once a run has ended.

    Attributes:
        seen: by the user.
        charges: the ledger.
        journal: ids and keys in the journal's rows.
        files: content of the files with final names, by path.
        parts: paths of what is unfinished.
        downloaded: paths of the files that the journal has as downloaded.
        recorded: paths of all files that it knows of, whatever it is about to do.
    """

    seen: Seen
    charges: list[Charge]
    journal: set[str]
    files: dict[str, bytes]
    parts: list[str] = attrs.field(factory=list[str])
    downloaded: list[str] = attrs.field(factory=list[str])
    recorded: list[str] = attrs.field(factory=list[str])


@attrs.define
class Played:
    """Everything that is known of a trial.

    Attributes:
        rounds: its runs, the one with the trouble first.
        other: what a second process did, if there was one.
        earlier: what a batch left that wanted fewer stems, before the trouble.
        late_creates: creates that were sent after the journal was gone.
        problems: what the service did not like.
        bodies: digests of the bodies that were sent, by key.
    """

    trial: Trial
    rounds: list[Remains] = attrs.field(factory=list[Remains])
    other: str = ""
    earlier: Remains | None = None
    late_creates: int = 0
    problems: list[str] = attrs.field(factory=list[str])
    bodies: dict[str, set[str]] = attrs.field(factory=dict[str, set[str]])


def read_journal(journal: Path, copy: Path) -> tuple[set[str], list[str], list[str]]:
    """Return ids and keys in a journal, the files that it has as downloaded, and all that it knows of.

    A copy of it is read, so that nothing in it changes.
    """
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for suffix in ("", "-wal", "-journal"):
        part = journal.with_name(f"{journal.name}{suffix}")
        if part.exists():
            shutil.copy(part, copy / f"journal{suffix}")
    db = sqlite3.connect(copy / "journal")
    try:
        rows = db.execute("SELECT split_id, idempotency_key FROM tracks").fetchall()
        files = db.execute("SELECT files, state = 'downloaded' FROM tracks WHERE files IS NOT NULL").fetchall()
    except sqlite3.Error:
        return set(), [], []
    finally:
        db.close()
    paths = [(file["path"], done) for text, done in files for file in json.loads(text).values()]
    downloaded = [path for path, done in paths if done]
    return {text for row in rows for text in row if text}, downloaded, [path for path, _ in paths]


def read_files(folder: Path) -> tuple[dict[str, bytes], list[str]]:
    """Return the files with final names below `folder`, and the paths of those that are unfinished."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    files = {name: path.read_bytes() for name, path in found.items() if not path.name.startswith(".")}
    return files, [name for name, path in found.items() if path.suffix == ".part"]


def open_descriptors() -> set[str]:
    """Return number and target of this process's descriptors."""
    found = set()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208  # of strings, not of paths
        with suppress(OSError):
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")  # noqa: PTH115
    return {target for target in found if "/fd" not in target}


class Log(logging.Handler):
    """Collects what is logged while it is entered."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))

    def __enter__(self) -> None:
        logging.getLogger().addHandler(self)

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self)
