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
    sender: str = ""  # the API key; another one of the same account has idempotency keys of its own


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
        self._until: dict[str, float] = {}
        self._polls: dict[str, int] = {}
        self._done: dict[str, float] = {}  # when (POSIX seconds of the service's clock)
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
            if "done" in entry:
                self._done[entry["done"]] = entry["at"]
            elif "upload" in entry:
                self._uploads[entry["upload"]] = (entry["song"], entry["seconds"])
            else:
                self.charges.append(Charge(**entry))
                self.seen.setdefault(entry["key"], set()).add(entry["body"])

    def reserve(self, *, until: float) -> str:
        self._reserved += 1
        upload = f"upl_{os.getpid()}_{self._read}_{self._reserved}"
        self._until[upload] = until
        return upload

    def expires_at(self, upload: str) -> float:
        """Return when a reservation ends (POSIX seconds); one of another process never does."""
        return self._until.get(upload, float("inf"))

    def store(self, upload: str, audio: bytes) -> bool:
        """Keep the bytes of an upload; return whether there is a song in them."""
        found = recognise(audio)
        if found is not None:
            self._append({"upload": upload, "song": found[0], "seconds": found[1]})
        return found is not None

    def create(self, key: str, body: bytes, *, sender: str, now: float) -> Charge | None:
        """Return the split that a create stands for, charged once; `None` if it refers to nothing known."""
        self.creates += 1
        digest = hashlib.sha256(body).hexdigest()[:16]
        self.seen.setdefault(key, set()).add(digest)
        for charge in self.charges:
            if (charge.key, charge.sender) == (key, sender) and now - charge.at < FORGETS_AFTER:
                return charge
        found = self._source_of(body)
        if found is None:
            return None
        song, seconds = found
        split_id = f"split_{hashlib.sha256(f'{key} {len(self.charges)}'.encode()).hexdigest()[:12]}"
        if self._same_id and self.charges:
            split_id = self.charges[0].split_id
        charge = Charge(key, song, split_id, max(1.0, seconds), digest, now, sender)
        self._append(attrs.asdict(charge))
        return charge

    def upload_of(self, body: bytes) -> str:
        """Return the upload that a create refers to, empty for a URL."""
        return str(json.loads(body)["input"].get("uploadId", ""))

    def song_of_upload(self, upload: str) -> int | None:
        """Return the song that was uploaded."""
        found = self._uploads.get(upload)
        return None if found is None else found[0]

    def song_of(self, body: bytes) -> int | None:
        """Return the song that a create is about."""
        found = self._source_of(body)
        return None if found is None else found[0]

    def _source_of(self, body: bytes) -> tuple[int, float] | None:
        source = json.loads(body)["input"]
        return self._uploads.get(self.upload_of(body)) or recognise(source.get("url", "").encode())

    def find(self, split_id: str) -> Charge | None:
        return next((charge for charge in self.charges if charge.split_id == split_id), None)

    def done_at(self, split_id: str, polls: int, *, now: float) -> float | None:
        """Count a poll of this split, and return when it was done: after so many of them; `None` if it is not."""
        self._polls[split_id] = self._polls.get(split_id, 0) + 1
        if split_id not in self._done and self._polls[split_id] > polls:
            self._append({"done": split_id, "at": now})
        return self._done.get(split_id)

    def finish_all(self) -> None:
        """Finish every split there is, each after a few seconds: much time has passed."""
        for charge in self.charges:
            if charge.split_id not in self._done:
                self._append({"done": charge.split_id, "at": charge.at + charge.credits})

    def _append(self, entry: dict[str, Any]) -> None:
        os.write(self._file, json.dumps(entry).encode() + b"\n")
        self.reload()
