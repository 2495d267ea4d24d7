"""What the service knows: uploads, splits and the ledger. Durable, so that it survives a kill of its process."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import attrs

from benchmarks.trials.songs import recognise

FORGETS_AFTER = 86400.0  # s (virtual) that an idempotency key is remembered


@attrs.frozen
class Charge:
    """One entry of the ledger: a split was created and paid for."""

    key: str
    song: int
    split_id: str
    credits: float
    body: str  # its digest
    at: float  # POSIX seconds of the service's clock


class Account:
    """The service's memory, in one file that is only appended to, before an answer leaves.

    Attributes:
        charges: the ledger.
        seen: digests of all bodies by key.
        creates: creates that arrived, replays included.
        problems: what no client should have sent.

    Args:
        path: of the file; what an earlier process wrote there is known.
        same_id: answer every create with the id of the first.
    """

    def __init__(self, path: Path, *, same_id: bool = False) -> None:
        self.charges: list[Charge] = []
        self.seen: dict[str, set[str]] = {}
        self.creates = 0
        self.problems: list[str] = []
        self._uploads: dict[str, tuple[int, float]] = {}
        self._reserved = 0
        self._polls: dict[str, int] = {}
        self._same_id = same_id
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._read = 0
        self.reload()

    def close(self) -> None:
        os.close(self._file)

    def reload(self) -> None:
        """Learn what another process has written."""
        data = os.pread(self._file, os.fstat(self._file).st_size - self._read, self._read)
        self._read += len(data)
        for line in data.splitlines():
            entry = json.loads(line)
            if "upload" in entry:
                self._uploads[entry["upload"]] = (entry["song"], entry["seconds"])
            else:
                self.charges.append(Charge(**entry))
                self.seen.setdefault(entry["key"], set()).add(entry["body"])

    def reserve(self) -> str:
        self._reserved += 1
        return f"upl_{os.getpid()}_{self._read}_{self._reserved}"

    def store(self, upload: str, audio: bytes) -> bool:
        """Keep the bytes of an upload; return whether there is a song in them."""
        found = recognise(audio)
        if found is not None:
            self._append({"upload": upload, "song": found[0], "seconds": found[1]})
        return found is not None

    def create(self, key: str, body: bytes, *, now: float) -> Charge | None:
        """Return the split that a create stands for, charged once; `None` if it refers to nothing known."""
        self.creates += 1
        digest = hashlib.sha256(body).hexdigest()[:16]
        self.seen.setdefault(key, set()).add(digest)
        for charge in self.charges:
            if charge.key == key and now - charge.at < FORGETS_AFTER:
                return charge
        source = json.loads(body)["input"]
        found = self._uploads.get(source.get("uploadId", "")) or recognise(source.get("url", "").encode())
        if found is None:
            return None
        song, seconds = found
        split_id = f"split_{hashlib.sha256(f'{key} {len(self.charges)}'.encode()).hexdigest()[:12]}"
        if self._same_id and self.charges:
            split_id = self.charges[0].split_id
        charge = Charge(key, song, split_id, max(1.0, seconds), digest, now)
        self._append(attrs.asdict(charge))
        return charge

    def find(self, split_id: str) -> Charge | None:
        return next((charge for charge in self.charges if charge.split_id == split_id), None)

    def count_poll(self, split_id: str) -> int:
        """Return how many polls of this split came before."""
        self._polls[split_id] = self._polls.get(split_id, 0) + 1
        return self._polls[split_id] - 1

    def _append(self, entry: dict[str, Any]) -> None:
        os.write(self._file, json.dumps(entry).encode() + b"\n")
        self.reload()
