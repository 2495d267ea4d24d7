"""What the workers of a shared journal leave to each other: songs, files to read, notes. It blocks."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from aistemsplitter_async.errors import LostLeaseError
from aistemsplitter_async.journal.database import LOST_LEASE
from aistemsplitter_async.journal.record import AudioId, Record
from aistemsplitter_async.journal.rows import Stamp
from aistemsplitter_async.journal.spending import Spending


class Sharing(Spending):
    """What workers leave to each other: another layer of `JournalStore`. A file has one worker, who has it all."""

    def take(self, track: int) -> Record:
        """Return a track, which is this worker's from now on.

        Raises:
            LostLeaseError: it is another worker's.
        """
        if not self._db.is_shared:
            return self.get(track)
        if self._db.hold([track], self._has):
            raise LostLeaseError("another worker has the song in hand, and finishes it", code=LOST_LEASE)
        return self._own(self._db.take_track(track, {}))

    def busy_elsewhere(self, tracks: Collection[int]) -> set[int]:
        """Return those of these tracks that other workers have in hand."""
        return self._db.busy(tracks)

    def release(self, held: Collection[int | str]) -> None:
        """Let other workers have these tracks, and read these files."""
        tracks = [one for one in held if isinstance(one, int)]
        files = [self._db.dump_name(one) for one in held if isinstance(one, str)]
        if tracks:
            self._db.release(tracks)
            self._has.difference_update(tracks)
            self._takes.difference_update(tracks)
        if files:
            self._db.end_reading(files)

    def begin_reading(self, path: str, stamp: Stamp) -> AudioId | Literal["unread", "read elsewhere"]:
        """Return what identifies a file, or whether this worker is to read it; until it releases it, no other does."""
        known = self.audio_of(path, stamp)
        if known is not None:
            return known
        return "unread" if self._db.begin_reading(self._db.dump_name(path)) else "read elsewhere"
