"""How an MP3 is encoded, so that another one can be encoded like it."""

from __future__ import annotations

from typing import BinaryIO

import attrs

from aistemsplitter_async._audio.blocks import SMALL_BLOCK_BYTES, Blocks, Range
from aistemsplitter_async._audio.mpeg import find_stream, probe


@attrs.frozen
class Encoding:
    """How an MP3 is encoded: its `bitrate` in kbit/s if that is constant, or else LAME's `quality`, 0 (best) to 9."""

    bitrate: int | None
    quality: int = 0

    @property
    def rank(self) -> tuple[bool, int]:
        """The greater, the better."""
        return self.bitrate is None, -self.quality if self.bitrate is None else self.bitrate


def find_encoding(file: BinaryIO) -> Encoding:
    """Return how an MP3 is encoded, by a few of its frames. Raises only what reading raises."""
    blocks = Blocks(file, SMALL_BLOCK_BYTES)
    stream = find_stream(blocks)
    if stream is None:
        return Encoding(None)
    found = probe(blocks, Range(stream.start + (stream.first.size if stream.info else 0), stream.sound.stop))
    sizes = {frame.mean_size for _, frame in found or ()}
    if len(sizes) == 1:
        return Encoding(round(sizes.pop() * 8 * stream.first.rate / stream.first.samples / 1000))
    quality = stream.info.quality if stream.info else 0
    return Encoding(None, (100 - quality) // 10 if 0 < quality <= 100 else 0)  # noqa: PLR2004
