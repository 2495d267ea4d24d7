"""The results of searching a library: tracks, what cannot be split, what was named before."""

from __future__ import annotations

from os import sep

import attrs

from aistemsplitter_async._wire.urls import filename_of_url, is_url


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
    """How many files of a folder were skipped: not audio by their names, or stems of an earlier download."""

    folder: str
    files: int


@attrs.frozen
class Repeated:
    """A song or list that was named before in the same search, perhaps spelled otherwise. It is not an error."""

    source: str


Found = Track | Unusable | Ignored | Repeated
