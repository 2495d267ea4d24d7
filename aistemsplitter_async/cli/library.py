"""Turns the paths of a command into what it splits: reads the library in threads, plans a target for each track."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Callable, Container, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import attrs

from aistemsplitter_async._tasks import run_in_thread
from aistemsplitter_async._wire.urls import is_url
from aistemsplitter_async.batch.item import BatchItem
from aistemsplitter_async.batch.preflight import charged_credits
from aistemsplitter_async.cli.options import Batching
from aistemsplitter_async.journal.file import own_files
from aistemsplitter_async.library.found import Found, Ignored, Track, Unusable
from aistemsplitter_async.library.search import find_tracks, is_stream
from aistemsplitter_async.library.tags import read_tags
from aistemsplitter_async.library.template import Tags, Template, parse_template

Note = Callable[[Unusable | Ignored], None]
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
        async for track, tags in self.tracks(found, note):
            yield self.item(track, tags)

    @staticmethod
    async def tracks(found: AsyncGenerator[Found, None], note: Note) -> AsyncGenerator[tuple[Track, Tags], None]:
        """Iterate over the tracks and their tags; `note` is called with everything else."""
        async for one in found:
            if isinstance(one, Track):
                yield one, await _tags_of(one)
            else:
                note(one)

    def item(self, track: Track, tags: Tags) -> BatchItem:
        """Return the batch item of a track, with the folder and the file names made from its tags."""
        price = None if tags.seconds is None else float(charged_credits(tags.seconds))
        if self.template is None:
            return BatchItem(source=track.source, seconds=price)
        target = self.template.fill(tags, filename=track.filename, folder=track.folder, id=_id_of(track))
        return BatchItem(source=track.source, folder=target.folder, pattern=target.pattern, seconds=price)

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


async def _tags_of(track: Track) -> Tags:
    """Return the tags of a track; for a URL, those in its playlist."""
    tags = Tags() if is_url(track.source) else await run_in_thread(read_tags, track.source)
    return attrs.evolve(tags, title=tags.title or track.title, seconds=tags.seconds or track.seconds)


@attrs.define
class Survey:
    """The size of a library.

    Attributes:
        files: to be uploaded.
        urls: that the API fetches.
        seconds: of audio, as far as it is known.
        credits_needed: the price of all that.
        credits_to_buy: the part of it that is not paid for.
        unknown: tracks of unknown length.
        unusable: what was found and cannot be split; not among the tracks.
        complete: whether everything is counted.
    """

    files: int = 0
    urls: int = 0
    seconds: float = 0.0
    credits_needed: int = 0
    credits_to_buy: int = 0
    unknown: int = 0
    unusable: int = 0
    complete: bool = False

    @property
    def tracks(self) -> int:
        """Return how many were counted."""
        return self.files + self.urls

    async def count(self, library: Library, paid: Container[str] = ()) -> None:
        """Count a library that can be read twice; for the sources in `paid`, no more credits are needed."""
        async for track, tags in library.tracks(await library.search(), lambda _: None):
            self.add(track, tags.seconds, paid=track.source in paid)
        self.complete = True

    def add(self, track: Track, seconds: float | None, *, paid: bool = False) -> None:
        """Count one track."""
        if is_url(track.source):
            self.urls += 1
        else:
            self.files += 1
        if seconds is None:
            self.unknown += 1
        else:
            self.seconds += seconds
            self.credits_needed += charged_credits(seconds)
            self.credits_to_buy += 0 if paid else charged_credits(seconds)


def _id_of(track: Track) -> str:
    """Return an id that distinguishes a track from others of the same name, the same in every run."""
    return hashlib.sha256(track.source.encode("utf-8", "surrogateescape")).hexdigest()[:12]
