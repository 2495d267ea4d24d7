"""Finds out what song a source is; of several workers on a journal, one reads the file."""

from __future__ import annotations

import attrs

from aistemsplitter_async.batch.context import BatchContext
from aistemsplitter_async.batch.item import OpenedItem
from aistemsplitter_async.journal.record import AudioId
from aistemsplitter_async.journal.store import JournalStore


@attrs.define
class Identifier:
    """Identifies the audio of one source.

    Attributes:
        audio: what identifies it, if it is not a file: to read it again would cost more than to keep that.
    """

    _context: BatchContext
    audio: AudioId | None = None
    _reads: str | None = attrs.field(default=None, init=False)  # the file that other workers leave to this one

    async def identify(self, opened: OpenedItem) -> AudioId | None:
        """Return what identifies the audio, `None` while another worker reads the file.

        A file that has not changed since it was read, by any worker, is not read again.

        Raises:
            SourceUnreadableError, SourceChangedError: as `OpenedItem.identify` raises them.
            JournalError: the journal cannot be used.
        """
        context = self._context
        if opened.path is None:
            self.audio = self.audio or await opened.identify()  # it keeps no file waiting, however slow it is
            return self.audio
        if opened.stamp is not None:
            known = await context.write(JournalStore.audio_of, opened.label, opened.stamp)
            if known is not None:
                return known
        async with context.hashing:
            if opened.stamp is not None and context.journal.is_shared:
                self._reads = opened.label
                reading = await context.write(JournalStore.begin_reading, opened.label, opened.stamp)
                if reading != "unread":
                    self._reads = None
                    return None if reading == "read elsewhere" else reading
            return await opened.identify()

    def end(self) -> None:
        """Let other workers read the file; by then the journal knows what it is, unless it could not be read."""
        if self._reads is not None:
            self._context.release({self._reads})
            self._reads = None
