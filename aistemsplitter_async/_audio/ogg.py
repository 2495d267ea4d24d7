"""Ogg: the packets of Vorbis, Opus, FLAC and Speex, whatever pages they are on, without the comment packet."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator

import attrs

from aistemsplitter_async._audio.blocks import Blocks, Range
from aistemsplitter_async._audio.description import UNKNOWN_LENGTH, Format, InconsistentError, Length, Part
from aistemsplitter_async._audio.flac import HEADER_BYTES
from aistemsplitter_async._audio.ogg_codecs import FIRST_BYTES, Codec, codec_of
from aistemsplitter_async._audio.tags import without_tags

_MAGIC = b"OggS\0"
_PAGE = re.compile(re.escape(_MAGIC))
_PAGE_BYTES = 27  # of a page's header, before the table of sizes
_CONTINUED, _FIRST = 1, 2
_AMISS = 1000  # pages; what has more is not worth the time
_PACKETS = 5_000_000  # a day of Opus; a page of 282 bytes can have 255 that are empty, and each takes time
_SETUP_CAP_BYTES = 1024 * 1024  # the setup of Vorbis has about 4 KiB
_LATE_SECONDS = 0.1  # a stream that begins later than this was cut out of another, and decoders disagree about it
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@attrs.frozen
class _Page:
    """A page: its flags, and where in the file its packets are."""

    flags: int
    granule: int
    serial: int
    sequence: int
    pieces: tuple[Range, ...]
    complete: int  # packets that end on it; a last piece more goes on on the next page


@attrs.frozen
class _Packet:
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


@attrs.define
class _Stream:
    """What was counted in one stream of a file, in samples."""

    codec: Codec
    decoded: int = 0
    start: int | None = None  # the granule position where the first packet begins
    end: int = 0  # the last granule position
    page: int = 0  # decoded from the packets of the last page
    before_page: int = 0

    def add(self, samples: int, granule: int | None) -> None:
        """Count a packet."""
        self.decoded += samples
        if granule is not None:
            self.start = granule - self.decoded if self.start is None else self.start
            self.end = granule
            self.page, self.before_page = self.decoded - self.before_page, self.decoded

    @property
    def seconds(self) -> float | None:
        """What the granule positions say, if the packets do too: of the last page, some may be cut off."""
        start = self.start or 0
        cut = self.decoded - (self.end - start)
        delivered = self.end - max(start, 0) - self.codec.skipped
        if not 0 <= cut <= self.page or start > _LATE_SECONDS * self.codec.rate or delivered < 0:
            return None
        return delivered / self.codec.rate

    @property
    def at_most(self) -> float:
        """What either says."""
        return max(self.decoded, self.end) / self.codec.rate


def _recognise(blocks: Blocks) -> str | None:
    return "ogg" if blocks.read(without_tags(blocks).start, 5) == b"OggS\0" else None


def _parts(blocks: Blocks) -> Iterator[Part]:
    """Mark packets and ends of streams, so that none can be taken for the other.

    An end has the granule position, which says how much of the last packet is cut off; the others depend on the pages.
    """
    codec: Codec | None = None
    granule = 0
    for packet in _packets(blocks):
        if packet is None:
            raise InconsistentError
        if packet.number == 0:
            if codec is not None:
                yield (b"end", granule.to_bytes(8, "big"))
            codec = codec_of(packet.read(blocks, FIRST_BYTES))
            if codec is None:
                raise InconsistentError
            yield (b"first", codec.first)
        elif codec is None:
            raise InconsistentError
        elif packet.number >= codec.headers or not codec.is_comment(packet.number, packet.read(blocks, 8)):
            yield (b"packet", *packet.pieces)
        granule = granule if packet.granule is None else packet.granule
    yield (b"end", granule.to_bytes(8, "big"))


def _length(blocks: Blocks) -> Length:
    streams: list[_Stream] = []
    agreed = True
    try:
        for packet in _packets(blocks):
            if packet is None:
                agreed = False
            elif packet.number == 0:
                codec = codec_of(packet.read(blocks, FIRST_BYTES))
                if codec is None:
                    return UNKNOWN_LENGTH
                streams.append(_Stream(codec))
            else:
                _count(streams[-1], packet, blocks)
    except InconsistentError:
        return UNKNOWN_LENGTH
    seconds = [stream.seconds for stream in streams]
    known = [each for each in seconds if each is not None]
    agreed = agreed and len(known) == len(seconds)
    return Length(sum(known) if agreed else None, sum(stream.at_most for stream in streams))


def _count(stream: _Stream, packet: _Packet, blocks: Blocks) -> None:
    head = packet.read(blocks, HEADER_BYTES)
    if not stream.codec.is_header(packet.number, head):
        stream.add(stream.codec.samples(head), packet.granule)
    elif stream.start is not None:
        stream.add(0, packet.granule)  # an empty packet at the end has the last granule position
    elif packet.number == 2:  # noqa: PLR2004  # the third one of Vorbis
        stream.codec.setup(packet.read(blocks, _SETUP_CAP_BYTES))


def _packets(blocks: Blocks) -> Iterator[_Packet | None]:
    """Yield the packets of the streams that follow one another in the file, and `None` where something is wrong.

    Raises `InconsistentError` for streams side by side, and for a file that is more wrong than right.
    """
    number, total, previous, pending = 0, 0, None, list[Range]()
    for page in _pages(blocks):
        if page is None:
            yield None
            continue
        if page.flags & _FIRST:
            number, wrong = 0, False
        elif previous is None or page.serial != previous.serial:
            raise InconsistentError
        else:
            wrong = page.sequence != (previous.sequence + 1) & 0xFFFFFFFF
        if wrong or bool(page.flags & _CONTINUED) != bool(pending):
            yield None
            pending = []
        previous = page
        total += page.complete
        if total > _PACKETS:
            raise InconsistentError
        for place, piece in enumerate(page.pieces, 1):
            pending.append(piece)
            if place <= page.complete:
                yield _Packet(
                    number, tuple(pending), page.granule if place == page.complete and page.granule >= 0 else None
                )
                number, pending = number + 1, []
    if pending:
        yield None


def _pages(blocks: Blocks) -> Iterator[_Page | None]:
    """Yield the pages, and `None` before one that is damaged or that something else is in front of, and at a cut."""
    sound = without_tags(blocks)
    position, amiss = sound.start, 0
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
            yield _page(header, sizes, body)
        if whole or (is_page and (end >= sound.stop or blocks.read(end, len(_MAGIC)) == _MAGIC)):
            position = end
        else:
            position = blocks.find(_PAGE, position + 1, sound.stop)


def _page(header: bytes, sizes: bytes, body: int) -> _Page:
    pieces, start, size = [], body, 0
    for each in sizes:  # a packet ends with a size below 255
        size += each
        if each < 255:  # noqa: PLR2004
            pieces.append(Range(start, start + size))
            start, size = start + size, 0
    complete = len(pieces)
    if sizes and sizes[-1] == 255:  # noqa: PLR2004
        pieces.append(Range(start, start + size))
    granule, serial, sequence = struct.unpack_from("<qII", header, 6)
    return _Page(header[5], granule, serial, sequence, tuple(pieces), complete)


def _is_sound(blocks: Blocks, start: int, stop: int) -> bool:
    """Return whether a page's checksum is right: the one of zlib, with the bits of each byte the other way round."""
    page = blocks.read(start, stop - start)
    turned = (page[:22] + bytes(4) + page[26:]).translate(_REVERSED)
    crc = zlib.crc32(turned, 0xFFFFFFFF) ^ 0xFFFFFFFF
    return crc.to_bytes(4, "big").translate(_REVERSED) == page[22:26]


FORMATS = (Format(_recognise, _parts, _length),)
