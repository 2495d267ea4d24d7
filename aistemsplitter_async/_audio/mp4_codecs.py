"""The sample description of an MP4 track: how long what one packet decodes to is."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from aistemsplitter_async._audio.blocks import Blocks, Range
from aistemsplitter_async._audio.description import InconsistentError
from aistemsplitter_async._audio.mp4_boxes import Box, boxes, number

_ENTRY_BYTES = 28  # of a sample entry, before the boxes in it
_MORE_ENTRY_BYTES = {0: 0, 1: 16, 2: 36}  # by version; only QuickTime has 1 and 2
_CONFIG_CAP_BYTES = 1024
_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
_RATE_ESCAPE = 15
_AAC_OBJECTS = frozenset({0x40, 0x66, 0x67, 0x68})  # AAC as MPEG-4, and as MPEG-2
_LONG_FRAMES = frozenset({1, 2, 3, 4, 6, 7, 17, 19, 20, 22})  # kinds of AAC with 1024 samples, or 960
_SHORT_FRAMES = frozenset({23, 39})  # low delay: 512 samples, or 480
_SPECTRAL_BAND_REPLICATION = frozenset({5, 29})  # twice the samples at twice the rate: the same time
_OPUS_SECONDS = 0.12  # the longest packet


@attrs.frozen
class Packets:
    """What one packet decodes to: `seconds`, or at most that if not `exact`. The last one may be shorter."""

    seconds: float
    exact: bool = True


def packets_of(blocks: Blocks, description: Range) -> Packets | None:
    """Read the contents of an `stsd` box; `None` if the codec is none of ours. Raises `InconsistentError`."""
    entries = list(boxes(blocks, Range(description.start + 8, description.stop)))
    if number(blocks, description.start + 4) != 1 or len(entries) != 1:
        raise InconsistentError
    entry = entries[0]
    version = number(blocks, entry.body.start + 8, 2)
    if entry.kind not in _READERS or version not in _MORE_ENTRY_BYTES:
        return None
    inner = Range(entry.body.start + _ENTRY_BYTES + _MORE_ENTRY_BYTES[version], entry.body.stop)
    kind, read = _READERS[entry.kind]
    found = _find(blocks, inner, kind)
    return None if found is None else read(blocks.read(found.start, min(found.length, _CONFIG_CAP_BYTES)))


def _find(blocks: Blocks, within: Range, kind: bytes) -> Range | None:
    """Return the contents of a box in a sample entry, which QuickTime puts into one more, `wave`."""
    found: list[Box] = list(boxes(blocks, within))
    for box in found:
        if box.kind == kind:
            return box.body
    inner = next((box.body for box in found if box.kind == b"wave"), None)
    return None if inner is None else next((box.body for box in boxes(blocks, inner) if box.kind == kind), None)


def _aac(esds: bytes) -> Packets | None:
    """Read descriptors that lie in each other: of the stream (3), of its decoder (4), of what that must know (5)."""
    outer = _descriptor(esds[4:], 3)
    if len(outer) < 3 or outer[2] & 0xE0:  # noqa: PLR2004  # the stream depends on others
        return None
    decoder = _descriptor(outer[3:], 4)
    config = _descriptor(decoder[13:], 5)
    if not config or decoder[0] not in _AAC_OBJECTS:
        return None
    bits = _Bits(config)
    kind, rate = bits.object_type(), bits.rate()
    bits.take(4)  # channels
    if kind in _SPECTRAL_BAND_REPLICATION:
        bits.rate()
        kind = bits.object_type()
    shorter = bits.take(1)
    if not rate or kind not in _LONG_FRAMES | _SHORT_FRAMES:
        return None
    frame = (960 if shorter else 1024) if kind in _LONG_FRAMES else (480 if shorter else 512)
    return Packets(frame / rate)


def _descriptor(data: bytes, tag: int) -> bytes:
    """Return the contents of the descriptor at the beginning, empty if it is another or not all there."""
    if data[:1] != bytes([tag]):
        return b""
    size = 0
    for place, digit in enumerate(data[1:5], 2):
        size = size << 7 | digit & 0x7F
        if digit < 0x80:  # noqa: PLR2004
            return data[place : place + size] if place + size <= len(data) else b""
    return b""


class _Bits:
    """Bits from the front; zeros behind the end."""

    def __init__(self, data: bytes) -> None:
        self._bits, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def take(self, count: int) -> int:
        self._left -= count
        shifted = self._bits >> self._left if self._left >= 0 else self._bits << -self._left
        return shifted & (1 << count) - 1

    def object_type(self) -> int:
        kind = self.take(5)
        return 32 + self.take(6) if kind == 31 else kind  # noqa: PLR2004

    def rate(self) -> int:
        index = self.take(4)
        return self.take(24) if index == _RATE_ESCAPE else _RATES[index] if index < len(_RATES) else 0


def _alac(config: bytes) -> Packets | None:
    frame, rate = int.from_bytes(config[4:8], "big"), int.from_bytes(config[24:28], "big")
    return Packets(frame / rate) if frame and rate else None


def _flac(config: bytes) -> Packets | None:
    """Read version and flags, the header of a metadata block, and STREAMINFO."""
    least, most = int.from_bytes(config[8:10], "big"), int.from_bytes(config[10:12], "big")
    rate = int.from_bytes(config[18:21], "big") >> 4
    return Packets(most / rate, exact=least == most) if most and rate else None


def _opus(config: bytes) -> Packets | None:  # noqa: ARG001  # each packet says for itself
    return Packets(_OPUS_SECONDS, exact=False)


_READERS: dict[bytes, tuple[bytes, Callable[[bytes], Packets | None]]] = {
    b"mp4a": (b"esds", _aac),
    b"alac": (b"alac", _alac),
    b"fLaC": (b"dfLa", _flac),
    b"Opus": (b"dOps", _opus),
}
