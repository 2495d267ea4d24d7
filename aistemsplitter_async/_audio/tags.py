"""Tags before or behind any audio: ID3v2, ID3v1, APE, Lyrics3. What is not whole is not taken for a tag."""

from __future__ import annotations

from aistemsplitter_async._audio.blocks import Blocks, Range

_TAGS = 100  # a file has one or two at each end; the search must end
_ID3_BYTES = 10
_ID3V1_BYTES = 128
_ID3V1_EXTENDED_BYTES = 227
_APE_BYTES = 32
_APE_HAS_HEADER, _APE_IS_HEADER = 1 << 31, 1 << 29
_LYRICS3V1_BYTES = 5120
_LYRICS3V2_END = 15  # six digits and LYRICS200


def without_tags(blocks: Blocks) -> Range:
    """Return what is between the tags at the beginning and those at the end of a file."""
    start, stop = 0, blocks.size
    for _ in range(_TAGS):
        size = tag_at(blocks, start, stop)
        if not size:
            break
        start += size
    for _ in range(_TAGS):
        size = _tag_before(blocks, start, stop)
        if not size:
            break
        stop -= size
    return Range(start, stop)


def tag_at(blocks: Blocks, start: int, stop: int) -> int:
    """Return the size of the tag that begins at `start` and ends by `stop`, 0 if there is none."""
    header = blocks.read(start, _APE_BYTES)
    size = 0
    if header.startswith(b"ID3"):
        size = _id3_size(header)
    elif header.startswith(b"APETAGEX"):
        size = _ape_size(header, header=True)
    return size if size <= stop - start else 0


def _tag_before(blocks: Blocks, start: int, stop: int) -> int:
    room = stop - start
    if room >= _ID3V1_BYTES and blocks.read(stop - _ID3V1_BYTES, 3) == b"TAG":
        extended = _ID3V1_BYTES + _ID3V1_EXTENDED_BYTES
        return extended if room >= extended and blocks.read(stop - extended, 4) == b"TAG+" else _ID3V1_BYTES
    size = _size_before(blocks, start, stop)
    return size if size <= room else 0


def _size_before(blocks: Blocks, start: int, stop: int) -> int:
    footer = blocks.read(max(start, stop - _APE_BYTES), min(stop - start, _APE_BYTES))
    if footer.startswith(b"APETAGEX"):
        return _ape_size(footer, header=False)
    if footer[-_ID3_BYTES:].startswith(b"3DI"):
        size = _id3_size(footer[-_ID3_BYTES:])
        return size if blocks.read(max(start, stop - size), 3) == b"ID3" else 0
    if footer.endswith(b"LYRICS200") and footer[-_LYRICS3V2_END:-9].isdigit():
        size = int(footer[-_LYRICS3V2_END:-9]) + _LYRICS3V2_END
        return size if blocks.read(max(start, stop - size), 11) == b"LYRICSBEGIN" else 0
    if footer.endswith(b"LYRICSEND"):
        begin = max(start, stop - _LYRICS3V1_BYTES)
        found = blocks.read(begin, stop - begin).rfind(b"LYRICSBEGIN")
        return stop - begin - found if found >= 0 else 0
    return 0


def _id3_size(header: bytes) -> int:
    """Return the size of an ID3v2 tag by its header or its footer, both of which count; 0 if it is neither."""
    version, flags, digits = header[3:5], header[5:6], header[6:_ID3_BYTES]
    if len(digits) < 4 or b"\xff" in version or max(digits) > 0x7F:  # noqa: PLR2004
        return 0
    size = _ID3_BYTES
    for place, digit in enumerate(reversed(digits)):
        size += digit << 7 * place
    return size + _ID3_BYTES * bool(flags[0] & 0x10)


def _ape_size(end: bytes, *, header: bool) -> int:
    """Return the size of an APE tag by its header or its footer, 0 if it is the other one."""
    size, flags = int.from_bytes(end[12:16], "little"), int.from_bytes(end[20:24], "little")
    if len(end) < _APE_BYTES or bool(flags & _APE_IS_HEADER) != header or size < _APE_BYTES:
        return 0
    return size + _APE_BYTES * bool(header or flags & _APE_HAS_HEADER)
