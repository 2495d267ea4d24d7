"""What is found in a library: tracks, and what is none."""

from __future__ import annotations

import os

import attrs

from aistemsplitter_async._wire.urls import filename_of_url
from aistemsplitter_async.library.playlists import is_url


@attrs.frozen
class Track:
    """Something to split.

    Attributes:
        source: an absolute path or a URL. A path may hold bytes that are no text (`os.fsencode` gives them back).
        root: the folder that was searched; `None` where the track was named by itself.
        title: what a playlist calls it.
        seconds: how long it is, if a playlist says so.
    """

    source: str
    root: str | None = None
    title: str | None = None
    seconds: float | None = None

    @property
    def filename(self) -> str:
        """The file's name, or the end of the URL's path."""
        return filename_of_url(self.source) if is_url(self.source) else self.source.rpartition(os.sep)[2]

    @property
    def folder(self) -> str:
        """Where below `root` the file is, with `/` between names; empty for the root itself, or without one."""
        above = "" if self.root is None else self.root.rstrip(os.sep) + os.sep
        if not above or not self.source.startswith(above):
            return ""
        return self.source.removeprefix(above).rpartition(os.sep)[0].replace(os.sep, "/")


@attrs.frozen
class Unusable:
    """Something that was named or found and cannot be split, and why."""

    source: str
    reason: str


@attrs.frozen
class Ignored:
    """How many files of a folder are no audio by their names, or stems that were brought there earlier."""

    folder: str
    files: int


Found = Track | Unusable | Ignored


def absolute(path: str | os.PathLike[str]) -> str:
    """Return the one spelling of a path that is kept: absolute, without `.` and `..`, links not followed."""
    return os.path.abspath(path)  # noqa: PTH100  # `Path.resolve` follows links, `Path.absolute` keeps `..`


def explain(error: OSError | ValueError) -> str:
    """Return why the system refused something, without its name."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
