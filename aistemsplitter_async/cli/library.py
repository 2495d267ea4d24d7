"""From what `batch` is given to what it splits: the library read in threads, each track with a place for its stems."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Callable, Container, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import attrs

from aistemsplitter_async._tasks import run_in_thread
from aistemsplitter_async.batch.item import BatchItem
from aistemsplitter_async.batch.preflight import charged_credits
from aistemsplitter_async.library.found import Found, Ignored, Track, Unusable
from aistemsplitter_async.library.playlists import is_url
from aistemsplitter_async.library.search import find_tracks, is_stream
from aistemsplitter_async.library.tags import load_tags
from aistemsplitter_async.library.template import Tags, Template

_AT_ONCE = 64  # findings a trip to a thread brings


@attrs.frozen(kw_only=True)
class Library:
    """What a command was given to split.

    Attributes:
        paths: as they were given.
        into: where the stems go; nothing in there is taken for music.
        template: where in there, and how they are called.
    """

    paths: Sequence[str]
    into: Path
    template: Template | None = None

    @property
    def is_repeatable(self) -> bool:
        """Whether it can be read a second time, to count it."""
        return not any(map(is_stream, self.paths))

    async def search(self) -> Iterator[Found]:
        """Return what is found, lazily; `each` reads it.

        Raises:
            SourceUnreadableError: a path does not exist.
        """
        return await run_in_thread(partial(find_tracks, self.paths, exclude=[self.into]))

    async def each(self, found: Iterator[Found]) -> AsyncGenerator[Found, None]:
        """Iterate without blocking the loop."""
        at_once = _AT_ONCE if self.is_repeatable else 1  # a line that was typed is not kept waiting for the next
        while batch := await run_in_thread(_take, found, at_once):
            for one in batch:
                yield one

    async def items(
        self, found: Iterator[Found], note: Callable[[Unusable | Ignored], None]
    ) -> AsyncGenerator[BatchItem, None]:
        """Iterate over what can be split; `note` is told of the rest."""
        async for one in self.each(found):
            if isinstance(one, Track):
                yield self.item(one, await read(one))
            else:
                note(one)

    def item(self, track: Track, tags: Tags) -> BatchItem:
        """Return what is to be split, with the place its tags lead to."""
        price = None if tags.seconds is None else float(charged_credits(tags.seconds))
        if self.template is None:
            return BatchItem(source=track.source, seconds=price)
        place = self.template.fill(tags, filename=track.filename, folder=track.folder, id=_id_of(track))
        return BatchItem(source=track.source, folder=place.folder, pattern=place.pattern, seconds=price)


async def read(track: Track) -> Tags:
    """Return what a track says about itself; of a URL, what its playlist says."""
    tags = Tags() if is_url(track.source) else await load_tags(track.source)
    return attrs.evolve(tags, title=tags.title or track.title, seconds=tags.seconds or track.seconds)


@attrs.define
class Survey:
    """How much there is, counted while the batch runs.

    Attributes:
        files: to be uploaded.
        urls: that the API fetches.
        seconds: of audio, as far as it says so.
        credits_needed: what that will cost.
        credits_to_buy: what of that is not paid for.
        unknown: tracks that do not say how long they are.
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

    async def count(self, library: Library, settled: Container[str] = ()) -> None:
        """Count a library that can be read twice; `settled` sources need not be bought any more."""
        async for one in library.each(await library.search()):
            if isinstance(one, Track):
                self.add(one, (await read(one)).seconds, settled=one.source in settled)
        self.complete = True

    def add(self, track: Track, seconds: float | None, *, settled: bool = False) -> None:
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
            self.credits_to_buy += 0 if settled else charged_credits(seconds)


def _id_of(track: Track) -> str:
    """Return what tells a track from others of the same name: the same at every run."""
    return hashlib.sha256(track.source.encode("utf-8", "surrogateescape")).hexdigest()[:12]


def _take(found: Iterator[Found], most: int) -> list[Found]:
    return list(islice(found, most))
