"""A source whose song another worker has in hand."""

from __future__ import annotations

import attrs

from aistemsplitter_async.batch.item import BatchItem, OpenedItem
from aistemsplitter_async.batch.outcome import Skipped
from aistemsplitter_async.journal.record import AudioId


@attrs.frozen
class Elsewhere:
    """A source whose song another worker has in hand: it has no outcome yet.

    Attributes:
        item: the source.
        position: its number among the sources, from 0.
        row: of the journal; `None` as long as another worker reads the file, or is adding its row.
        audio: what identifies it, where reading it again would cost more than to keep that: not of a file.
        opened: it, unless it is a file: a file object cannot be opened again, as it stands at its end by then.
    """

    item: BatchItem
    position: int
    row: int | None = None
    audio: AudioId | None = None
    opened: OpenedItem | None = None

    def skip(self) -> Skipped:
        """Return its outcome in a batch that stops before the other worker has finished it."""
        return Skipped(self.item.source, "elsewhere", self.position)
