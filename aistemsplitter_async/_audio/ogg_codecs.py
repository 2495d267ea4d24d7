"""What is in the packets of an Ogg stream: which are headers, and how many samples each of the others decodes to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from aistemsplitter_async._audio.flac import HEADER_BYTES, STREAMINFO_BYTES, frame_header, stream_info

FIRST_BYTES = 80  # the longest first packet; that of Speex
_OPUS_RATE = 48000
_OPUS_PACKET_SAMPLES = 5760  # 120 ms, the most
_MODE_BITS = 41
_MODES = 64


class Codec(Protocol):
    """One stream's decoder, as far as lengths go. Packets come in order."""

    first: bytes  # what of the first packet is more than a count of tags
    rate: int  # of the granule positions, which count samples
    skipped: int  # samples at the beginning that are decoded and thrown away
    headers: int  # packets before those with audio

    def is_header(self, number: int, head: bytes) -> bool:
        """Return whether a packet holds no audio."""

    def is_comment(self, number: int, head: bytes) -> bool:
        """Return whether a packet holds nothing but tags."""

    def setup(self, packet: bytes) -> None:
        """Take the header packet that says how to read the others."""

    def samples(self, head: bytes) -> int:
        """Return how many samples a packet that begins with `head` decodes to, or an upper bound."""


class _Vorbis:
    skipped = 0
    headers = 3

    def __init__(self, first: bytes) -> None:
        self.first = first
        self.rate = int.from_bytes(first[12:16], "little")
        self._sizes = 1 << (first[28] & 15), 1 << (first[28] >> 4)
        self._modes: tuple[int, ...] = ()  # the block size of each
        self._previous = 0

    def is_header(self, number: int, head: bytes) -> bool:
        return number < self.headers or not head or bool(head[0] & 1)

    def is_comment(self, number: int, head: bytes) -> bool:
        return number == 1 and head.startswith(b"\x03vorbis")

    def setup(self, packet: bytes) -> None:
        """Read the table of modes, which is last: only its end can be found without decoding all before it."""
        tail = packet[-_MODES * _MODE_BITS // 8 - 8 :] if packet.startswith(b"\x05vorbis") else b""
        bits = int.from_bytes(tail, "little")
        end = bits.bit_length() - 1  # the last bit that is set ends the packet
        flags: list[int] = []
        while len(flags) < _MODES and end - _MODE_BITS * (len(flags) + 1) >= 6:  # noqa: PLR2004
            at = end - _MODE_BITS * (len(flags) + 1)
            mode = bits >> at & (1 << _MODE_BITS) - 1
            if mode >> 1 & 0xFFFFFFFF or mode >> 33 > 63:  # noqa: PLR2004
                break
            flags.append(mode & 1)
            if (bits >> at - 6 & 63) + 1 == len(flags):
                self._modes = tuple(self._sizes[flag] for flag in reversed(flags))

    def samples(self, head: bytes) -> int:
        mode = head[0] >> 1 & (1 << max(0, len(self._modes) - 1).bit_length()) - 1
        size = self._modes[mode] if mode < len(self._modes) else max(self._sizes)
        samples = (self._previous + size) // 4 if self._previous else 0
        self._previous = size
        return samples


class _Opus:
    rate = _OPUS_RATE
    headers = 2

    def __init__(self, first: bytes) -> None:
        self.first = first
        self.skipped = int.from_bytes(first[10:12], "little")

    def is_header(self, number: int, head: bytes) -> bool:
        return number < self.headers or not head

    def is_comment(self, number: int, head: bytes) -> bool:
        return number == 1 and head.startswith(b"OpusTags")

    def setup(self, packet: bytes) -> None:
        pass

    def samples(self, head: bytes) -> int:
        return opus_samples(head)


class _Speex:
    skipped = 0

    def __init__(self, first: bytes) -> None:
        self.first = first
        self.rate, frame, frames, extra = (int.from_bytes(first[at : at + 4], "little") for at in (36, 56, 64, 68))
        self._packet_samples, self.headers = frame * frames, 2 + extra

    def is_header(self, number: int, head: bytes) -> bool:
        return number < self.headers or not head

    def is_comment(self, number: int, head: bytes) -> bool:  # noqa: ARG002  # it has no mark
        return number == 1

    def setup(self, packet: bytes) -> None:
        pass

    def samples(self, head: bytes) -> int:  # noqa: ARG002  # all are alike
        return self._packet_samples


class _Flac:
    skipped = 0

    def __init__(self, first: bytes) -> None:
        self.first = first[17 : 17 + STREAMINFO_BYTES]  # without the number of header packets, which are tags
        self.rate = stream_info(self.first).rate
        self.headers = 1 + int.from_bytes(first[7:9], "big")

    def is_header(self, number: int, head: bytes) -> bool:
        return not head or self.is_comment(number, head)

    def is_comment(self, number: int, head: bytes) -> bool:
        return number < self.headers and head[:1] != b"\xff"

    def setup(self, packet: bytes) -> None:
        pass

    def samples(self, head: bytes) -> int:
        frame = frame_header(head[:HEADER_BYTES])
        return frame.samples if frame else 65_536


def opus_samples(head: bytes) -> int:
    """Return how many samples, of 48,000 a second, an Opus packet decodes to."""
    if not head:
        return 0
    config, code = head[0] >> 3, head[0] & 3
    if config < 12:  # noqa: PLR2004
        frame = (480, 960, 1920, 2880)[config & 3]
    elif config < 16:  # noqa: PLR2004
        frame = (480, 960)[config & 1]
    else:
        frame = (120, 240, 480, 960)[config & 3]
    frames = (1, 2, 2, head[1] & 63 if len(head) > 1 else 0)[code]
    return min(frame * frames, _OPUS_PACKET_SAMPLES)


def codec_of(first: bytes) -> Codec | None:
    """Return the codec of a stream by its first packet, `None` if it is none of ours."""
    kinds: tuple[tuple[bytes, int, Callable[[bytes], Codec]], ...] = (
        (b"\x01vorbis", 30, _Vorbis),
        (b"OpusHead", 19, _Opus),
        (b"Speex   ", 80, _Speex),
        (b"\x7fFLAC\x01", 51, _Flac),
    )
    for magic, length, kind in kinds:
        if first.startswith(magic) and len(first) >= length:
            codec = kind(first)
            return codec if codec.rate else None
    return None
