"""The sections of a file: what a decoder takes as one stream. It stops where another one begins, and says nothing.

Chained Ogg files have a section for each link, and joined files one for each of the files. An MP3 has another where the
kind of its frames changes, and where a frame counts those behind it. Nothing is decoded.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator

import attrs

from aistemsplitter_async.sandbox.separation.mpeg import find_streams, skip_id3

Data = bytes | mmap.mmap

MOST_SECTIONS = 10_000  # a day of a radio's songs; each is opened by itself

# The first bytes of a file, long enough that no sound has them by chance.
_BEGINNINGS = tuple(
    re.compile(beginning, re.DOTALL)
    for beginning in (
        rb"(?:RIFF|RF64|BW64).{4}WAVE",
        rb"RIFX.{4}WAVE",
        rb"FORM.{4}AIF[FC]",
        rb"fLaC[\x00\x80]\x00\x00\x22",
        rb"caff\x00\x01..desc",
        rb"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00",  # Sony Wave64
        rb"\.snd\x00\x00..[\x00-\xff]{4}\x00\x00\x00[\x01-\x1b]\x00[\x00-\x03]..",
        rb"Creative Voice File\x1a\x1a\x00",
    )
)
_PAGE = re.compile(rb"OggS\x00")
_PAGE_BYTES = 27  # of a page's header, before the table of sizes
_FIRST_PAGE = 2  # a flag: a stream begins here
_TOTAL_AT = 21  # in a FLAC file: a byte whose lower half, and the four bytes behind it, say how many samples there are


class TooManySectionsError(ValueError):
    """The file is made of more streams than any recording."""


@attrs.frozen
class Section:
    """A stream of audio, from `start` up to, not including, `stop`.

    Attributes:
        patches: offsets in the file and the bytes that a decoder is to find there.
        announced: samples of a channel by its header, where the decoder is not to see that.
        there: samples of a channel that its frames hold, where they were counted; 0 otherwise.
        endless: whether the decoder would estimate its length, and stop there.
    """

    start: int
    stop: int
    patches: tuple[tuple[int, bytes], ...] = ()
    announced: int | None = None
    there: int = 0
    endless: bool = False


def find_sections(data: Data) -> tuple[Section, ...]:
    """Return the sections of a file, in their order; all of it as one if its format is not known here.

    Raises `TooManySectionsError`.
    """
    sections = []
    for section in _sections(data):
        sections.append(section)
        if len(sections) > MOST_SECTIONS:
            raise TooManySectionsError("the file is made of too many parts")
    return tuple(sections) or (Section(0, len(data)),)


def _sections(data: Data) -> Iterator[Section]:
    start = skip_id3(data, 0)
    if _PAGE.match(data, start):
        begins = _links(data, start)
    elif beginning := next((known for known in _BEGINNINGS if known.match(data, start)), None):
        begins = (found.start() for found in beginning.finditer(data, start))
    else:
        for stream in find_streams(data, start):
            yield Section(stream.start, stream.stop, there=stream.samples, endless=not stream.counted)
        return
    here = next(begins, start)
    for following in begins:
        yield _section(data, here, following)
        here = following
    yield _section(data, here, len(data))


def _section(data: Data, start: int, stop: int) -> Section:
    """Hide the number of samples that a FLAC file announces: a decoder reads on behind them, or stops before them."""
    at = start + _TOTAL_AT
    if data[start : start + 4] != b"fLaC" or stop < at + 5:
        return Section(start, stop)
    total = int.from_bytes(data[at : at + 5], "big") & (1 << 36) - 1
    unknown = bytes([data[at] & 0xF0, 0, 0, 0, 0])
    return Section(start, stop, ((at, unknown),), announced=total or None)


def _links(data: Data, start: int) -> Iterator[int]:
    """Yield where a stream of Ogg begins behind another one; several that begin together are one link."""
    begun = False
    position = start
    while page := _PAGE.search(data, position):
        at = page.start()
        header = data[at : at + _PAGE_BYTES]
        if len(header) < _PAGE_BYTES:
            return
        first = bool(header[5] & _FIRST_PAGE)
        if first and not begun:
            yield at
        begun = first
        sizes = data[at + _PAGE_BYTES : at + _PAGE_BYTES + header[-1]]
        end = at + _PAGE_BYTES + len(sizes) + sum(sizes)
        # A page that was cut short is followed by another one before its end.
        inside = _PAGE.search(data, at + 1, min(end, len(data)))
        whole = _PAGE.match(data, end) or end == len(data)
        position = inside.start() if inside and not whole else end
