"""Tags of audio files, read with tinytag where it is installed (extra `cli`), and their length.

The length is measured by content: a program that trusts a file's name or one of its headers can be 50 times off.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, BinaryIO

from aistemsplitter_async._audio.examine import Length, glance, measure
from aistemsplitter_async.library.template import Tags

if TYPE_CHECKING:
    from tinytag import TinyTag

_READ_CAP_BYTES = 32 * 1024 * 1024  # at once: a tag may claim any size, and Python would allocate it
_READS_CAP = 200_000  # some formats are read to the end of the file: one or two seconds of that, hours of music
_TEXT_CAP = 300  # characters of a tag


def measure_file(path: str | os.PathLike[str], *, thorough: bool = True) -> Length:
    """Return how long the audio of a file is. It blocks.

    Args:
        path: the file.
        thorough: whether to read as much as it takes to be sure, often all of it, as a limit needs it. An estimate
            does with a few places of the file: what is hidden between them can make it wrong, what its name and its
            header say cannot.

    Raises:
        OSError: it cannot be read, or is not a regular file.
    """
    with open(path, "rb", buffering=0, opener=_open_regular) as file:
        return measure(file) if thorough else glance(file)


def read_tags(path: str | os.PathLike[str]) -> Tags:
    """Return a file's tags. Never raises: what cannot be read is left out, all of it without tinytag. It blocks."""
    try:
        from tinytag import TinyTag  # noqa: PLC0415  # an extra

        known = TinyTag.is_supported(path)
    except (ImportError, ValueError):
        return Tags()
    if not known:
        return Tags()
    try:
        with open(path, "rb", opener=_open_regular) as file:
            return _tags_of(TinyTag.get(path, file_obj=_Capped(file), duration=False))  # type: ignore[arg-type]
    except Exception:  # noqa: BLE001  # a hostile file can make a parser raise anything
        return Tags()


def _tags_of(found: TinyTag) -> Tags:
    return Tags(
        artist=_text(found.artist),
        albumartist=_text(found.albumartist),
        album=_text(found.album),
        title=_text(found.title),
        track=found.track if isinstance(found.track, int) and 0 < found.track < 10_000 else None,  # noqa: PLR2004
        year=_text(found.year),
        genre=_text(found.genre),
    )


def _text(value: object) -> str | None:
    """Return a tag on one line, without characters that act on a terminal."""
    if not isinstance(value, str):
        return None
    shown = "".join(character if character.isprintable() else " " for character in value[: 2 * _TEXT_CAP])
    return " ".join(shown.split())[:_TEXT_CAP] or None


def _open_regular(path: str, flags: int) -> int:
    """Open a regular file; reading from anything else could block forever."""
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("not a regular file")
    return descriptor


class _Capped:
    """A file that limits the size and the number of reads."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left_reads = _READS_CAP
        self._size = os.fstat(file.fileno()).st_size
        self.seek = file.seek
        self.tell = file.tell

    def read(self, size: int = -1) -> bytes:
        self._left_reads -= 1
        left = max(0, self._size - self._file.tell())
        if self._left_reads < 0 or min(size if size >= 0 else left, left) > _READ_CAP_BYTES:
            raise ValueError("larger than any tag")
        return self._file.read(min(size, left) if size >= 0 else left)
