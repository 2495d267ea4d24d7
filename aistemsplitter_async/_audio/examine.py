"""Whether a file changed, which song it is, and how long that is. Blocking: reads files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from typing import BinaryIO

import attrs

from aistemsplitter_async._audio import aiff, flac, mp4, mpeg, ogg, wave
from aistemsplitter_async._audio.blocks import SMALL_BLOCK_BYTES, Blocks, Range
from aistemsplitter_async._audio.description import UNKNOWN_LENGTH, Format, InconsistentError, Length, Part
from aistemsplitter_async._audio.tags import without_tags

__all__ = ["Examined", "Length", "examine", "glance", "measure"]

_TAGLESS = (*wave.FORMATS, *aiff.FORMATS)  # no place for tags in front or behind, where some programs write them
FORMATS: tuple[Format, ...] = (*_TAGLESS, *flac.FORMATS, *ogg.FORMATS, *mp4.FORMATS, *mpeg.FORMATS)


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
    identity = _identity(FORMATS, blocks)
    if identity is None:
        sound = Blocks(file, within=without_tags(blocks))
        # A tag that takes some of the samples for its own is none: header and size must agree without it.
        identity = _identity([known for known in _TAGLESS if known.length(sound).seconds is not None], sound)
    return Examined(content, identity or content)


def measure(file: BinaryIO) -> Length:
    """Return how long the audio of a seekable file is, from as much of it as that takes.

    Raises only what reading raises (`OSError`), whatever is in the file.
    """
    blocks = Blocks(file)
    return next((known.length(blocks) for known in FORMATS if known.recognise(blocks)), UNKNOWN_LENGTH)


def glance(file: BinaryIO) -> Length:
    """Return how long the audio of a seekable file is as far as a few of its bytes tell; for estimates, not for limits.

    The format is that of the content, and a header counts only where the size of the file, its end and some places in
    between agree with it; otherwise, and for AAC without a container, this is `measure`. What it does not see is damage
    and other audio between those places, as long as the end of the file is where the header says it is: `seconds` and
    `at_most` are wrong then. How far each format goes is said where it is read (`_glance`).

    Raises only what reading raises (`OSError`), whatever is in the file.
    """
    blocks = Blocks(file, SMALL_BLOCK_BYTES)
    for known in FORMATS:
        if known.recognise(blocks):
            return known.glance(blocks) or known.length(Blocks(file))
    return UNKNOWN_LENGTH


def _identity(formats: Iterable[Format], blocks: Blocks) -> str | None:
    """Return what the audio is, `None` if none of the formats is sure about it."""
    for known in formats:
        if name := known.recognise(blocks):
            with suppress(InconsistentError):
                return f"{name}:{_digest(known.parts(blocks), blocks)}"
            return None
    return None


def _digest(parts: Iterable[Part], blocks: Blocks) -> str:
    """Hash each part and then its length: read from the end, the lengths say where each part begins."""
    digest = hashlib.sha256()
    for part in parts:
        length = 0
        for piece in part:
            for block in (piece,) if isinstance(piece, bytes) else blocks.stream(piece):
                digest.update(block)
                length += len(block)
        digest.update(length.to_bytes(8, "big"))
    return digest.hexdigest()
