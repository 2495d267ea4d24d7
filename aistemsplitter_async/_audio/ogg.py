"""Ogg: the packets of Vorbis, Opus, FLAC and Speex, whatever pages they are on, without the comment packet."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterator

import attrs

from aistemsplitter_async._audio.blocks import Blocks, Range
from aistemsplitter_async._audio.description import UNKNOWN_LENGTH, Format, InconsistentError, Length, Part
from aistemsplitter_async._audio.flac import HEADER_BYTES
from aistemsplitter_async._audio.ogg_codecs import FIRST_BYTES, Codec, codec_of
from aistemsplitter_async._audio.ogg_pages import (
    CONTINUED,
    FIRST,
    LAST,
    LATER,
    Packet,
    Page,
    in_order,
    packets_on,
    pages_in,
)
from aistemsplitter_async._audio.tags import without_tags

_SIZES = 4096  # that are hashed at once
_SETUP_CAP_BYTES = 1024 * 1024  # the setup of Vorbis has about 4 KiB
_LATE_SECONDS = 0.1  # a stream that begins later than this was cut out of another, and decoders disagree about it
_PROBES = 4  # places between the ends that a glance looks at
_PROBE_BYTES = 196_608  # at each, at most: three of the largest pages
_END_BYTES = (8192, 32_768, _PROBE_BYTES)  # that have the last two pages


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
    def cut(self) -> int:
        """What was decoded and the granule positions do not count."""
        return self.decoded - (self.end - (self.start or 0))

    @property
    def seconds(self) -> float | None:
        """What the granule positions say, if the packets do too: of the last page, some may be cut off."""
        start = self.start or 0
        delivered = self.end - max(start, 0) - self.codec.skipped
        if not 0 <= self.cut <= self.page or start > _LATE_SECONDS * self.codec.rate or delivered < 0:
            return None
        return delivered / self.codec.rate

    @property
    def at_most(self) -> float:
        """What either says."""
        return max(self.decoded, self.end) / self.codec.rate


@attrs.frozen
class _Stretch:
    """Some pages that follow one another: the last, and what was counted from the end of the first one on."""

    last: Page
    counted: _Stream

    @property
    def fits(self) -> bool:
        """Whether granule positions and packets agree: only where a stream ends, some of a page may be cut off."""
        return 0 <= self.counted.cut <= (self.counted.page if self.last.flags & LAST else 0)


def _recognise(blocks: Blocks) -> str | None:
    return "ogg" if blocks.read(without_tags(blocks).start, 5) == b"OggS\0" else None


@attrs.define
class _Sound:
    """The packets of a stream behind the headers, as one: tables of sizes and bytes that were not hashed yet.

    One after another, the tables are the same on whatever pages the packets are, and so is every 4096 sizes of them.
    """

    table: bytes = b""
    pieces: collections.deque[Range] = attrs.field(factory=collections.deque)

    def add(self, table: bytes, body: Range) -> None:
        """Add those of a page."""
        self.table += table
        if body.length:
            self.pieces.append(body)

    def parts(self, least: int) -> Iterator[Part]:
        """Yield sizes and then the bytes that have them, until there are fewer sizes than `least`."""
        while len(self.table) >= least:
            sizes, self.table = self.table[:_SIZES], self.table[_SIZES:]
            yield (b"sizes", sizes)
            left, taken = sum(sizes), list[Range]()
            while left:
                piece = self.pieces.popleft()
                taken.append(Range(piece.start, min(piece.stop, piece.start + left)))
                left -= taken[-1].length
                if taken[-1].stop < piece.stop:
                    self.pieces.appendleft(Range(taken[-1].stop, piece.stop))
            yield taken


@attrs.define
class _Hashed:
    """What is hashed of a stream: headers, sizes and the end are marked, so that none can be taken for the other."""

    blocks: Blocks
    codec: Codec | None = None
    number: int = 0  # of packets among the headers
    pending: list[Range] = attrs.field(factory=list)
    sound: _Sound = attrs.field(factory=_Sound)
    granule: int = 0

    def add(self, page: Page) -> Iterator[Part]:
        """Yield what a page adds."""
        if self._has_headers:
            yield from self._headers(page)
        else:
            self.sound.add(page.table, page.body)
            yield from self.sound.parts(least=_SIZES)
        if page.complete and page.granule >= 0:
            self.granule = page.granule

    def end(self) -> Iterator[Part]:
        """Yield the rest, and how much of the last packet is cut off; other granule positions depend on the pages."""
        if self.codec is None:
            raise InconsistentError
        yield from self.sound.parts(least=1)
        yield (b"end", self.granule.to_bytes(8, "big"))

    @property
    def _has_headers(self) -> bool:
        return self.codec is None or self.number < self.codec.headers

    def _headers(self, page: Page) -> Iterator[Part]:
        complete, ended = page.complete, 0
        for piece in page.pieces:
            self.pending.append(piece)
            if ended == complete:
                return
            packet, self.pending = Packet(self.number, tuple(self.pending), None), []
            self.number, ended = self.number + 1, ended + 1
            if self.codec is None:
                self.codec = codec_of(packet.read(self.blocks, FIRST_BYTES))
                if self.codec is None:
                    raise InconsistentError
                yield (b"first", self.codec.first)
            elif not self.codec.is_comment(packet.number, packet.read(self.blocks, 8)):
                yield (b"header", *packet.pieces)
            if not self._has_headers:
                self.sound.add(*page.behind(ended))
                return


def _parts(blocks: Blocks) -> Iterator[Part]:
    stream: _Hashed | None = None
    for page in in_order(pages_in(blocks, without_tags(blocks))):
        if page is None:
            raise InconsistentError
        if stream is None or page.flags & FIRST:
            if stream is not None:
                yield from stream.end()
            stream = _Hashed(blocks)
        yield from stream.add(page)
    if stream is not None:
        yield from stream.end()


def _length(blocks: Blocks) -> Length:
    streams: list[_Stream] = []
    agreed = True
    try:
        for packet in packets_on(pages_in(blocks, without_tags(blocks))):
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
    codecs = {type(stream.codec) for stream in streams}  # where it changes, some decoders stop
    agreed = agreed and len(known) == len(seconds) and len(codecs) == 1
    return Length(sum(known) if agreed else None, sum(stream.at_most for stream in streams))


def _glance(blocks: Blocks) -> Length | None:
    """Return where the last page says the stream ends, `None` unless it is of the stream that the file begins with.

    At the beginning, at the end and at a few places in between, the granule positions must be what the packets of two
    neighbouring pages decode to, and pages come ever later. Where all that holds, it is not seen that granule positions
    leap somewhere else, nor that another stream of the same serial number is in front, in less than a fifth of the
    bytes. A picture among the comments, which are at the beginning, is read with them.
    """
    sound = without_tags(blocks)
    try:
        begun = _begin(blocks, sound)
        if begun is None:
            return None
        stream, heard = begun
        places = (heard, *Range(heard, sound.stop).places(_PROBES))
        parts = [Range(place, min(place + _PROBE_BYTES, sound.stop)) for place in places]
        found = [_stretch(blocks, part, stream.codec) for part in parts]
        found.append(_end(blocks, Range(heard, sound.stop), stream.codec))
    except InconsistentError:
        return None
    stretches = [each for each in found if each is not None and each.fits]
    marks = [(each.last.sequence, each.last.granule) for each in stretches]
    serials = {int.from_bytes(blocks.read(sound.start + 14, 4), "little"), *(each.last.serial for each in stretches)}
    if len(stretches) < len(found) or len(serials) > 1 or not _increase(marks):
        return None
    end = stretches[-1].counted
    stream.decoded, stream.end, stream.page = end.end - (stream.start or 0) + end.cut, end.end, end.page
    return None if stream.seconds is None else Length(stream.seconds, stream.at_most)


def _increase(marks: list[tuple[int, int]]) -> bool:
    return all(before[0] < mark[0] and before[1] < mark[1] for before, mark in itertools.pairwise(marks))


def _begin(blocks: Blocks, sound: Range) -> tuple[_Stream, int] | None:
    """Return the stream as it is after the first page with sound, and where that page ends."""
    stream: _Stream | None = None
    for packet in packets_on(pages_in(blocks, sound)):
        if packet is None or (packet.number == 0) != (stream is None):
            return None
        if stream is None:
            codec = codec_of(packet.read(blocks, FIRST_BYTES))
            if codec is None:
                return None
            stream = _Stream(codec)
        else:
            _count(stream, packet, blocks)
            if stream.start is not None:
                return stream, packet.pieces[-1].stop
    return None


def _end(blocks: Blocks, rest: Range, codec: Codec) -> _Stretch | None:
    """Return the last pages, `None` unless they are at the very end and are marked as the last."""
    for size in _END_BYTES:
        stretch = _stretch(blocks, Range(max(rest.start, rest.stop - size), rest.stop), codec, to_end=True)
        if stretch is not None:
            return stretch if stretch.last.flags & LAST else None
    return None


def _stretch(blocks: Blocks, part: Range, codec: Codec, *, to_end: bool = False) -> _Stretch | None:
    """Count from the first page in `part` to the next one on which a packet ends, or to the end of `part`."""
    pages: list[Page] = []
    for page in pages_in(blocks, part):
        if page is None and pages:
            return None
        if page is None or not (pages or page.complete > (page.flags & CONTINUED)):  # where a packet begins and ends
            continue
        pages.append(page)
        if page.complete and len(pages) > 1 and not to_end:
            break
    if len(pages) < 2:  # noqa: PLR2004
        return None
    first = pages[0]
    counted = _Stream(codec)
    _count(counted, Packet(LATER, (first.pieces[first.complete - 1],), first.granule), blocks)
    if counted.start is None:
        return None
    for packet in packets_on(pages[1:], first):
        if packet is None or packet.number < LATER:
            return None
        _count(counted, packet, blocks)
        if packet.granule is not None and not to_end:  # what goes on on the next page is not a packet yet
            break
    return _Stretch(pages[-1], counted)


def _count(stream: _Stream, packet: Packet, blocks: Blocks) -> None:
    head = packet.read(blocks, HEADER_BYTES)
    if not stream.codec.is_header(packet.number, head):
        stream.add(stream.codec.samples(head), packet.granule)
    elif stream.start is not None:
        stream.add(0, packet.granule)  # an empty packet at the end has the last granule position
    elif packet.number == 2:  # noqa: PLR2004  # the third one of Vorbis
        stream.codec.setup(packet.read(blocks, _SETUP_CAP_BYTES))


FORMATS = (Format(_recognise, _parts, _length, _glance),)
