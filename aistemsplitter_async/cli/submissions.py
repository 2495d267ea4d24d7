"""Creates whose answer is not known yet, kept on disk: sent again byte for byte, they find the split already paid."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

from aistemsplitter_async import Submission

_FOLDER = ".submissions"


class Submissions:
    """The unanswered creates of the splits that go into one folder. Each is gone as soon as its answer is known."""

    def __init__(self, into: str) -> None:
        self._folder = Path(into) / _FOLDER

    async def keep(self, submission: Submission) -> None:
        """Write a create down before it is sent; readable by its owner only, and synced."""
        self._folder.mkdir(parents=True, exist_ok=True)
        saved = {"key": submission.idempotency_key, "body": base64.b64encode(submission.body).decode()}
        descriptor = os.open(self._path(submission.idempotency_key), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(saved, file)
            file.flush()
            os.fsync(file.fileno())

    def find(self, key: str) -> Submission | None:
        """Return the create that was sent under `key` and not answered, if there is one."""
        try:
            saved = json.loads(self._path(key).read_text(encoding="utf-8"))
            return Submission(str(saved["key"]), base64.b64decode(saved["body"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def forget(self, key: str) -> None:
        """Remove a create whose answer is known."""
        with suppress(OSError):
            self._path(key).unlink(missing_ok=True)
            self._folder.rmdir()  # where it was the last

    def _path(self, key: str) -> Path:
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
