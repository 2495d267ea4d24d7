"""The results of searching a library: tracks, what cannot be split, what is no song, what was named before."""

from __future__ import annotations

from os import sep

import attrs

from aistemsplitter_async._wire.urls import filename_of_url, is_url
from aistemsplitter_async.library.kinds import Kind

EXAMPLES = 3  # names that are kept of what is left out


@attrs.frozen
class Track:
    """Something to split.

    Attributes:
        source: an absolute path or a URL. A path may contain bytes that are not text (`os.fsencode` restores them).
        root: the folder that was searched; `None` if the track itself was named.
        title: its title, if a playlist states one.
        seconds: its length, if a playlist states it.
    """

    source: str
    root: str | None = None
    title: str | None = None
    seconds: float | None = None

    @property
    def filename(self) -> str:
        """The file's name, or the last part of the URL's path."""
        return filename_of_url(self.source) if is_url(self.source) else self.source.rpartition(sep)[2]

    @property
    def folder(self) -> str:
        """The file's folder relative to `root`, with `/` between names; empty for the root itself, or without one."""
        above = "" if self.root is None else self.root.rstrip(sep) + sep
        if not above or not self.source.startswith(above):
            return ""
        return self.source.removeprefix(above).rpartition(sep)[0].replace(sep, "/")


@attrs.frozen
class Unusable:
    """Something that was named or found but cannot be split, and why."""

    source: str
    reason: str


@attrs.frozen
class Ignored:
    """What was left out of a folder for one reason; videos, for each extension.

    Attributes:
        folder: where it is.
        files: how many; of the kind `SYSTEM`, folders too. Below zero, it takes back what was said before: a glob names
            videos in a folder that had been searched.
        kind: the reason.
        examples: the names of the first of them.
        root: the folder that was searched; `None` if it was named itself.
    """

    folder: str
    files: int
    kind: Kind = Kind.OTHER
    examples: tuple[str, ...] = ()
    root: str | None = None


@attrs.frozen
class Repeated:
    """A song or list that was named before in the same search, perhaps spelled otherwise. It is not an error."""

    source: str


Found = Track | Unusable | Ignored | Repeated
