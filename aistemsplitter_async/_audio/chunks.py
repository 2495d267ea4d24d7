"""Chunks, as in RIFF and AIFF: four letters, a size, and that many bytes."""

from __future__ import annotations

from typing import Literal

import attrs

from aistemsplitter_async._audio.blocks import Blocks, Range

_HEADER_BYTES = 8
_CHUNKS = 10_000  # real files have about ten; the walk must end


@attrs.frozen
class Chunk:
    """A chunk: its letters, the size its header claims, and the bytes that are there for it."""

    name: bytes
    claimed: int
    body: Range


@attrs.frozen
class Chunks:
    """The chunks of a file, and whether they fill it to its end."""

    chunks: tuple[Chunk, ...]
    tidy: bool

    def named(self, name: bytes) -> tuple[Chunk, ...]:
        """Return the chunks of that name."""
        return tuple(chunk for chunk in self.chunks if chunk.name == name)


def is_name(name: bytes) -> bool:
    """Return whether four bytes could be the name of a chunk."""
    return len(name) == 4 and all(0x20 <= byte < 0x7F for byte in name)  # noqa: PLR2004


def walk(
    blocks: Blocks, start: int, order: Literal["little", "big"], sizes: dict[bytes, int], endless: bytes
) -> Chunks:
    """Follow the chunks from `start` to the end of the file.

    `sizes` has the true sizes of chunks whose own field is all ones, and `endless` names the chunk that takes the rest
    of the file if its size is not given (zero, all ones) or goes beyond the end.
    """
    chunks: list[Chunk] = []
    position = start
    while position + _HEADER_BYTES <= blocks.size and len(chunks) < _CHUNKS:
        header = blocks.read(position, _HEADER_BYTES)
        name, claimed = header[:4], int.from_bytes(header[4:], order)
        if not is_name(name):
            return Chunks(tuple(chunks), tidy=False)
        if claimed == 0xFFFFFFFF:  # noqa: PLR2004
            claimed = sizes.get(name, claimed)
        position += _HEADER_BYTES
        end = position + claimed
        if name == endless and claimed == 0 and not _is_chunk(blocks, position, order):
            end = blocks.size
        chunks.append(Chunk(name, claimed, Range(position, min(end, blocks.size))))
        if end > blocks.size:
            return Chunks(tuple(chunks), tidy=name == endless)
        position = end
        if claimed % 2 and blocks.read(end, 1) == b"\0":  # some writers leave the padding out
            position += 1
    return Chunks(tuple(chunks), tidy=position == blocks.size)


def _is_chunk(blocks: Blocks, position: int, order: Literal["little", "big"]) -> bool:
    """Return whether a whole chunk is at this position."""
    header = blocks.read(position, _HEADER_BYTES)
    return is_name(header[:4]) and position + _HEADER_BYTES + int.from_bytes(header[4:], order) <= blocks.size
