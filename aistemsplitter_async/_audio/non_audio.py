"""What a file is that cannot be audio: a picture, a document, an archive, a program, text. By content, never by name.

A song that is refused here could not be split at all, so the marks are long, and what is not certain passes: samples
without a header can begin with any bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import BinaryIO

from aistemsplitter_async._audio.blocks import Blocks

_HEAD_BYTES = 65_536
_TAIL_BYTES = 4096
_FEWEST_LETTERS = 4  # different ones; digital silence in A-law is `U` for ever
_LEAST_PLAIN = 0.8  # of a text in an unknown code page; Latin letters with accents are less than a fifth
_CONTROLS = frozenset(range(0x20)) - frozenset(b"\t\n\r\f\x1a\x1b") | {0x7F}  # that no text has
_BYTE_ORDER_MARKS = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}

_MAGICS: tuple[tuple[str, str], ...] = (
    (r"%PDF-\d", "a PDF document"),
    (r"\x89PNG\r\n\x1a\n", "a picture (PNG)"),
    (r"\xff\xd8\xff(?:[\xe0-\xef]..(?:JF|Exif|http:|ICC_|Adobe|Photo)|\xdb\x00[\x43\x84]\x00)", "a picture (JPEG)"),
    (r"GIF8[79]a", "a picture (GIF)"),
    (r"RIFF.{4}WEBPVP8", "a picture (WebP)"),
    (r"(?:II\*\x00|MM\x00\*).{4}", "a picture (TIFF)"),
    (r"PK\x03\x04[\x0a-\x3f]\x00.{2}[\x00\x08\x09\x0c\x0e\x5d\x62\x63]\x00", "a ZIP archive"),
    (r"PK\x05\x06\x00{16}", "a ZIP archive"),
    (r"Rar!\x1a\x07[\x00\x01]", "a RAR archive"),
    (r"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (r"\x1f\x8b\x08[\x00-\x1f].{4}[\x00\x02\x04][\x00-\x0d\xff]", "a gzip archive"),
    (r"BZh[1-9]1AY&SY", "a bzip2 archive"),
    (r"\xfd7zXZ\x00", "an xz archive"),
    (r"\x7fELF[\x01\x02][\x01\x02]\x01", "a program"),
    (r"(?:\xfe\xed\xfa[\xce\xcf]\x00|[\xce\xcf]\xfa\xed\xfe.{3}[\x00\x01])", "a program"),
    (r"MThd\x00\x00\x00\x06", "MIDI, which is notes and not sound"),
    (r"SQLite format 3\x00", "a database"),
    (r"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Office document"),
)
_KINDS = tuple((re.compile(magic.encode("latin-1"), re.DOTALL), kind) for magic, kind in _MAGICS)
_TEXTS = tuple(
    (re.compile(beginning, re.DOTALL | re.IGNORECASE), kind)
    for beginning, kind in (
        (r"(?:<\?xml.{0,300}?\?>\s*)?(?:<!--.{0,300}?-->\s*)?<(?:!doctype html|html|head|body)\b", "a web page"),
        (r"#EXTM3U|#EXTINF:|\[playlist\]|<asx\b", "a playlist"),
        (
            r"(?:\s*(?:REM|PERFORMER|TITLE|CATALOG|CDTEXTFILE|SONGWRITER) [^\n]*\n)*\s*FILE [^\n]+\n\s*TRACK \d",
            "a cue sheet",
        ),
        (r"(?:\{\s*[\"}]|\[\s*[\[{\"\]]).*[}\]]\s*\Z", "text (JSON)"),
        (r"<[?!a-z]", "text (XML)"),
    )
)


def what_else(file: BinaryIO, *, named_audio: bool) -> str | None:
    """Return what a seekable file is, such as "a web page", if it is certain that it is no audio; otherwise `None`.

    With `named_audio`, its name says that it is audio. A text with no mark of any kind is refused only without that.
    Reads both ends. Raises only what reading raises (`OSError`), whatever is in the file.
    """
    blocks = Blocks(file, _HEAD_BYTES)
    head = blocks.read(0, _HEAD_BYTES)
    for pattern, kind in _KINDS:
        if pattern.match(head):
            return kind
    for is_kind, kind in _STRUCTURES:
        if is_kind(head, blocks.size):
            return kind
    text = _text(head, blocks.read(max(0, blocks.size - _TAIL_BYTES), _TAIL_BYTES))
    if text is None:
        return None
    beginning = text.lstrip()
    marked = next((kind for pattern, kind in _TEXTS if pattern.match(beginning)), None)
    return marked or (None if named_audio else "text")


def _is_bitmap(head: bytes, size: int) -> bool:
    return head[:2] == b"BM" and int.from_bytes(head[2:6], "little") == size and head[6:10] == bytes(4)


def _is_windows_program(head: bytes, size: int) -> bool:  # noqa: ARG001
    at = int.from_bytes(head[0x3C:0x40], "little")
    return head[:2] == b"MZ" and head[at : at + 4] == b"PE\0\0"


_STRUCTURES: tuple[tuple[Callable[[bytes, int], bool], str], ...] = (
    (_is_bitmap, "a picture (BMP)"),
    (_is_windows_program, "a program"),
)


def _text(head: bytes, tail: bytes) -> str | None:
    """Return the beginning of a text, `None` if it is none: sound has control characters, of every kind."""
    codec = _BYTE_ORDER_MARKS.get(head[:2])
    if codec is not None:
        text = head[2:].decode(codec, "replace")
        return text if all(map(_is_plain, text[:_TAIL_BYTES])) and len(set(text)) >= _FEWEST_LETTERS else None
    if len(set(head)) < _FEWEST_LETTERS or not _CONTROLS.isdisjoint(head) or not _CONTROLS.isdisjoint(tail):
        return None
    try:
        return head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data":  # in the middle of a letter
            return head[: error.start].decode("utf-8-sig")
    plain = sum(byte < 0x80 for byte in head)  # noqa: PLR2004
    return head.decode("latin-1") if b"\n" in head and plain >= _LEAST_PLAIN * len(head) else None


def _is_plain(character: str) -> bool:
    return character.isprintable() or character in "\t\n\r\f"
