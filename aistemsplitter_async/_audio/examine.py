"""Whether a file changed, which song it is, and how long that is. Blocking: reads the whole file."""

from __future__ import annotations

import hashlib
from typing import BinaryIO

import attrs

from aistemsplitter_async._audio import aiff, wave
from aistemsplitter_async._audio.blocks import Blocks, Range
from aistemsplitter_async._audio.description import UNKNOWN_LENGTH, Format, InconsistentError, Length

__all__ = ["Examined", "Length", "examine", "measure"]

FORMATS: tuple[Format, ...] = (*wave.FORMATS, *aiff.FORMATS)


@attrs.frozen
class Examined:
    """What a file is.

    `content` is `sha256:<hex>` of all its bytes: it says whether the file changed. `identity` is `<format>:<hex>` of
    its audio alone, whatever its tags: it says which song was bought. Where the format is unknown or the file
    contradicts itself, `identity` is `content`.
    """

    content: str
    identity: str


def examine(file: BinaryIO) -> Examined:
    """Read all of a seekable file. Raises only what reading raises (`OSError`), whatever is in the file."""
    blocks = Blocks(file)
    whole = hashlib.sha256()
    for block in blocks.stream(Range(0, blocks.size)):
        whole.update(block)
    content = f"sha256:{whole.hexdigest()}"
    found = _format_of(blocks)
    if found is None:
        return Examined(content, content)
    try:
        return Examined(content, f"{found.name}:{_digest(found, blocks)}")
    except InconsistentError:
        return Examined(content, content)


def measure(file: BinaryIO) -> Length:
    """Return how long the audio of a seekable file is, from as much of it as that takes.

    Raises only what reading raises (`OSError`), whatever is in the file.
    """
    blocks = Blocks(file)
    found = _format_of(blocks)
    return UNKNOWN_LENGTH if found is None else found.length(blocks)


def _format_of(blocks: Blocks) -> Format | None:
    return next((known for known in FORMATS if known.recognises(blocks)), None)


def _digest(found: Format, blocks: Blocks) -> str:
    """Hash each part and then its length: read from the end, the lengths say where each part begins."""
    digest = hashlib.sha256()
    for part in found.parts(blocks):
        length = 0
        for piece in part:
            for block in (piece,) if isinstance(piece, bytes) else blocks.stream(piece):
                digest.update(block)
                length += len(block)
        digest.update(length.to_bytes(8, "big"))
    return digest.hexdigest()
