"""Turns the paths of a command into what it splits: reads the library in threads, plans a target for each track."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Callable, Container, Iterator, Sequence
from functools import partial
from itertools import islice
from os import sep
from pathlib import Path

import attrs

from aistemsplitter_async._audio.examine import Length
from aistemsplitter_async._tasks import run_in_thread
from aistemsplitter_async._transfer.audio import build_source
from aistemsplitter_async._wire.urls import is_url
from aistemsplitter_async.batch.item import BatchItem
from aistemsplitter_async.batch.preflight import plan_price
from aistemsplitter_async.cli.batch_options import Batching
from aistemsplitter_async.cli.ignored import IgnoredFiles
from aistemsplitter_async.journal.file import own_files
from aistemsplitter_async.library.found import Found, Ignored, Repeated, Track, Unusable
from aistemsplitter_async.library.search import find_tracks, is_stream
from aistemsplitter_async.library.tags import measure_file, read_tags
from aistemsplitter_async.library.template import Tags, Template, disc_of_folder, parse_template
from aistemsplitter_async.models import DirectURL

Note = Callable[[Unusable | Ignored | Repeated], None]
_PAGE = 64  # findings that one call in a thread returns


@attrs.frozen(kw_only=True)
class Library:
    """The sources that a command was given.

    Attributes:
        paths: as they were given.
        into: where the stems go; its content is not taken for music.
        own: files and folders of the journal, which are no music either.
        template: folders and names of the stems in it.
    """

    paths: Sequence[str]
    into: Path
    template: Template | None = None
    own: Sequence[Path] = ()

    @property
    def is_repeatable(self) -> bool:
        """Whether it can be read a second time, to count it."""
        return not any(map(is_stream, self.paths))

    async def search(self) -> AsyncGenerator[Found, None]:
        """Return an iterator over what is found; the search continues in threads as it is read.

        Raises:
            SourceUnreadableError: a path does not exist.
        """
        return self._each(await run_in_thread(partial(find_tracks, self.paths, exclude=[self.into, *self.own])))

    async def items(self, found: AsyncGenerator[Found, None], note: Note) -> AsyncGenerator[BatchItem, None]:
        """Iterate over what can be split; `note` is called with everything else."""
        async for track in self.tracks(found, note):
            yield await self.item(track)

    @staticmethod
    async def tracks(found: AsyncGenerator[Found, None], note: Note) -> AsyncGenerator[Track, None]:
        """Iterate over the tracks; `note` is called with everything else."""
        async for one in found:
            if isinstance(one, Track):
                yield one
            else:
                note(one)

    async def item(self, track: Track) -> BatchItem:
        """Return the batch item of a track, with the folder and the file names made from its tags.

        It has no length: the batch measures files itself, and what a playlist says of a URL binds nobody.
        """
        if self.template is None:
            return BatchItem(source=track.source)
        tags = Tags() if is_url(track.source) else await run_in_thread(read_tags, track.source)
        disc = tags.disc or disc_of_folder(track.source.rpartition(sep)[0].rpartition(sep)[2])
        tags = attrs.evolve(tags, title=tags.title or track.title, disc=disc)
        target = self.template.fill(tags, filename=track.filename, folder=track.folder, id=_id_of(track))
        return BatchItem(source=track.source, folder=target.folder, pattern=target.pattern)

    async def _each(self, found: Iterator[Found]) -> AsyncGenerator[Found, None]:
        size = _PAGE if self.is_repeatable else 1  # a typed line must not wait for the next one
        while page := await run_in_thread(lambda: list(islice(found, size))):
            for one in page:
                yield one


def build_library(paths: Sequence[str], batching: Batching) -> Library:
    """Return the sources that `batch` was given.

    Raises:
        ConfigurationError: the template is invalid.
    """
    template = None if batching.template is None else parse_template(batching.template)
    own = (*own_files(batching.journal_path), batching.sandbox_path)
    return Library(paths=paths, into=batching.into, template=template, own=own)


async def check_track(track: Track) -> None:
    """Check that a track can be read and may be audio, as a run does before it spends anything.

    Raises:
        SourceUnreadableError: it cannot be read, or cannot be audio.
        SourceChangedError: it is being written.
    """
    source = await build_source(track.source)
    if not isinstance(source, DirectURL):
        async with source.opened():
            pass


async def measure_track(track: Track, *, thorough: bool) -> Length:
    """Return how long a track is: as a file says, or for a URL its playlist; unknown if the file cannot be read.

    `thorough` as for `measure_file`: to tell what a run under a limit would do.
    """
    if is_url(track.source):
        return Length(track.seconds, None)
    try:
        return await run_in_thread(partial(measure_file, track.source, thorough=thorough))
    except OSError:  # reported by those that split it
        return Length(None, None)


@attrs.define
class Survey:
    """The size of a library.

    Attributes:
        files: to be uploaded.
        urls: that the API fetches.
        seconds: of audio, as far as its length is certain.
        credits_needed: the price of all that.
        credits_to_buy: the part of it that is not paid for.
        credits_at_most: the price if every other track is as long as it can be.
        unknown: tracks whose length is not certain.
        unbounded: tracks that can have any length, such as URLs, whatever a playlist says of them.
        unusable: what was found and cannot be split; not among the tracks.
        ignored: what is no song.
        repeated: what was named again; not among the tracks.
        complete: whether everything is counted.
    """

    files: int = 0
    urls: int = 0
    seconds: float = 0.0
    credits_needed: int = 0
    credits_to_buy: int = 0
    credits_at_most: int = 0
    unknown: int = 0
    unbounded: int = 0
    unusable: int = 0
    ignored: IgnoredFiles = attrs.field(factory=IgnoredFiles)
    repeated: int = 0
    complete: bool = False

    @property
    def tracks(self) -> int:
        """Return how many were counted."""
        return self.files + self.urls

    async def count(self, library: Library, paid: Container[str] = ()) -> None:
        """Count a library that can be read twice; for the sources in `paid`, no more credits are needed."""
        async for track in library.tracks(await library.search(), lambda _: None):
            self.add(track, await measure_track(track, thorough=False), paid=track.source in paid)
        self.complete = True

    def add(self, track: Track, length: Length, *, paid: bool = False) -> None:
        """Count one track."""
        if is_url(track.source):
            self.urls += 1
        else:
            self.files += 1
        price = plan_price(length, None)
        if length.at_most is None:
            self.unbounded += 1
        elif price is not None:
            self.credits_at_most += price.credits
        if length.seconds is None or price is None:
            self.unknown += 1
        else:
            self.seconds += length.seconds
            self.credits_needed += price.credits
            self.credits_to_buy += 0 if paid else price.credits


def _id_of(track: Track) -> str:
    """Return an id that distinguishes a track from others of the same name, the same in every run."""
    return hashlib.sha256(track.source.encode("utf-8", "surrogateescape")).hexdigest()[:12]
