"""The pages of Ogg, and the packets on them."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable, Iterator

import attrs

from aistemsplitter_async._audio.blocks import Blocks, Range
from aistemsplitter_async._audio.description import InconsistentError

CONTINUED, FIRST, LAST = 1, 2, 4
LATER = 1 << 32  # the number of a packet that is not among the first ones, where it is not known
_MAGIC = b"OggS\0"
_PAGE = re.compile(re.escape(_MAGIC))
_PAGE_BYTES = 27  # of a page's header, before the table of sizes
_MORE = 255  # in a table of sizes: the packet goes on
_AMISS = 1000  # pages; what has more is not worth the time
_PACKETS = 5_000_000  # a day of Opus; a page of 282 bytes can have 255 that are empty, and each takes time
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@attrs.frozen
class Page:
    """A page: its flags, its table of sizes, and where in the file its packets are."""

    flags: int
    granule: int
    serial: int
    sequence: int
    table: bytes
    body: Range

    @property
    def complete(self) -> int:
        """How many packets end on it."""
        return len(self.table) - self.table.count(_MORE)

    @property
    def pieces(self) -> list[Range]:
        """The packets, of which the last may go on on the next page."""
        pieces, start, size = [], self.body.start, 0
        for each in self.table:
            size += each
            if each < _MORE:
                pieces.append(Range(start, start + size))
                start, size = start + size, 0
        if self.table.endswith(b"\xff"):
            pieces.append(Range(start, start + size))
        return pieces

    def behind(self, packets: int) -> tuple[bytes, Range]:
        """Return what is left of the table and of the body behind so many packets that end here."""
        ends = [place for place, size in enumerate(self.table, 1) if size < _MORE]
        at = ends[packets - 1]
        return self.table[at:], Range(self.body.start + sum(self.table[:at]), self.body.stop)


@attrs.frozen
class Packet:
    """A packet, `number` in its stream; `granule` is that of the page if it is the last one to end there."""

    number: int
    pieces: tuple[Range, ...]
    granule: int | None

    def read(self, blocks: Blocks, length: int) -> bytes:
        """Return the first bytes."""
        head = b""
        for piece in self.pieces:
            if len(head) == length:
                break
            head += blocks.read(piece.start, min(piece.length, length - len(head)))
        return head


def packets_on(pages: Iterable[Page | None], previous: Page | None = None) -> Iterator[Packet | None]:
    """Yield the packets of the streams that follow one another, and `None` where something is wrong.

    Arguments and errors are those of `in_order`.
    """
    number, pending = (0, list[Range]()) if previous is None else (LATER, previous.pieces[previous.complete :])
    for page in in_order(pages, previous):
        if page is None:
            yield None
            continue
        if bool(page.flags & CONTINUED) != bool(pending):
            pending = []
        if page.flags & FIRST:
            number = 0
        complete = page.complete
        for place, piece in enumerate(page.pieces, 1):
            pending.append(piece)
            if place <= complete:
                yield Packet(number, tuple(pending), page.granule if place == complete and page.granule >= 0 else None)
                number, pending = number + 1, []


def in_order(pages: Iterable[Page | None], previous: Page | None = None) -> Iterator[Page | None]:
    """Yield the pages, and `None` before one that does not go on where the one before ended, and at a cut.

    `previous` is the page before, if these are not the first of the file.
    Raises `InconsistentError` for streams side by side.
    """
    goes_on = previous is not None and previous.table.endswith(b"\xff")
    for page in pages:
        if page is None:
            yield None
            continue
        if not page.flags & FIRST and (previous is None or page.serial != previous.serial):
            raise InconsistentError
        skipped = previous is not None and page.sequence != (previous.sequence + 1) & 0xFFFFFFFF
        if (skipped and not page.flags & FIRST) or bool(page.flags & CONTINUED) != goes_on:
            yield None
        yield page
        previous, goes_on = page, page.table.endswith(b"\xff") if page.table else goes_on
    if goes_on:
        yield None


def pages_in(blocks: Blocks, sound: Range) -> Iterator[Page | None]:
    """Yield the pages, and `None` before one that is damaged or that something else is in front of, and at a cut.

    Raises `InconsistentError` for what is more wrong than right, or has more packets than any song.
    """
    position, amiss, packets = sound.start, 0, 0
    while position < sound.stop:
        header = blocks.read(position, _PAGE_BYTES)
        sizes = blocks.read(position + _PAGE_BYTES, header[-1]) if len(header) == _PAGE_BYTES else b""
        body = position + _PAGE_BYTES + len(sizes)
        end = body + sum(sizes)
        is_page = len(header) == _PAGE_BYTES and header.startswith(_MAGIC) and len(sizes) == header[-1]
        whole = is_page and end <= sound.stop and _is_sound(blocks, position, end)
        if not whole:
            yield None
            amiss += 1
            if amiss > _AMISS:
                raise InconsistentError
        if is_page:
            granule, serial, sequence = struct.unpack_from("<qII", header, 6)
            page = Page(header[5], granule, serial, sequence, sizes, Range(body, end))
            packets += page.complete
            if packets > _PACKETS:
                raise InconsistentError
            yield page
        if whole or (is_page and (end >= sound.stop or blocks.read(end, len(_MAGIC)) == _MAGIC)):
            position = end
        else:
            position = blocks.find(_PAGE, position + 1, sound.stop)


def _is_sound(blocks: Blocks, start: int, stop: int) -> bool:
    """Return whether a page's checksum is right: the one of zlib, with the bits of each byte the other way round."""
    page = blocks.read(start, stop - start)
    turned = (page[:22] + bytes(4) + page[26:]).translate(_REVERSED)
    crc = zlib.crc32(turned, 0xFFFFFFFF) ^ 0xFFFFFFFF
    return crc.to_bytes(4, "big").translate(_REVERSED) == page[22:26]
