"""What is said of a file: which of its bytes are audio, and how long it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import attrs

from aistemsplitter_async._audio.blocks import Blocks, Range

Part = Iterable[Range | bytes]  # hashed with its length, so that no two sequences of parts are the same bytes


class InconsistentError(Exception):
    """The file contradicts itself, or is more than one thing: only the whole of it says what it is."""


@attrs.frozen
class Length:
    """How long the audio of a file is, in seconds.

    `seconds` is what the header says, where the size and the frames say so too; otherwise `None`.
    `at_most` is an upper bound for whatever decodes the file, by its header or to its end; `None` if there is none.
    """

    seconds: float | None
    at_most: float | None


UNKNOWN_LENGTH = Length(None, None)


@attrs.frozen
class Format:
    """A format of audio files.

    `recognise` looks at the beginning and returns the name of the format. `parts` yields what a decoder needs and no
    tags, in order, or raises `InconsistentError`. Both it and `length` take time in proportion to the size of the file,
    whatever is in it. `glance` is `length` by both ends and some places in between: `None` where only all of the file
    tells.
    """

    recognise: Callable[[Blocks], str | None]
    parts: Callable[[Blocks], Iterator[Part]]
    length: Callable[[Blocks], Length]
    glance: Callable[[Blocks], Length | None]
