"""What a list of songs consists of, whatever its format."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from aistemsplitter_async.library.records import Problem

_LONGEST = 7 * 86400.0  # s; anything longer is a mistake in the list


@attrs.frozen
class PlaylistEntry:
    """One song of a list.

    Attributes:
        names: what it is called, as written; further ones if it is not clear which of several counts.
        line: its line, counted from 1.
        title: its title, if the list states one.
        seconds: its length, if the list states it.
        may_be_comment: whether it is a comment unless there is a file of that name.
        hint: what may be wrong with the list if there is no such file.
    """

    names: tuple[bytes, ...]
    line: int
    title: bytes | None = None
    seconds: float | None = None
    may_be_comment: bool = False
    hint: str | None = None


Entries = Iterator[PlaylistEntry | Problem]


def parse_seconds(text: bytes | str | None, unit: float = 1.0) -> float | None:
    """Return a plausible length, `None` for any other; -1 and 0 mean unknown."""
    try:
        seconds = float(text or 0) * unit
    except ValueError:
        return None
    return seconds if 0 < seconds < _LONGEST else None
