"""Tags of audio files, read with tinytag where it is installed (extra `cli`), and their length.

The length is measured by content: a program that trusts a file's name or one of its headers can be 50 times off.
"""

from __future__ import annotations

import os
import re
import stat
import struct
from typing import TYPE_CHECKING, BinaryIO

import attrs

from aistemsplitter_async._audio.blocks import Blocks
from aistemsplitter_async._audio.chunks import walk
from aistemsplitter_async._audio.examine import Length, glance, measure
from aistemsplitter_async._transfer.names import unseen_in
from aistemsplitter_async.library.template import Tags

if TYPE_CHECKING:
    from tinytag import TinyTag

_READ_CAP_BYTES = 32 * 1024 * 1024  # at once: a tag may claim any size, and Python would allocate it
_READS_CAP = 200_000  # some formats are read to the end of the file: one or two seconds of that, hours of music
_TEXT_CAP = 300  # characters of a tag
_DIGITS = 4  # of a disc or track number
_OF = re.compile(r"\s*(\d+)\s*(?:/\s*(\d+)\s*)?", re.ASCII)
_INFO_CAP_BYTES = 65_536  # of a `LIST` chunk of RIFF, or of the header of ASF
_RIFF_TRACKS = (b"ITRK", b"IPRT", b"TRCK")
_ASF = bytes.fromhex("3026b275")
_ASF_TEXT, _ASF_HEADER_BYTES = b"\0\0", 4  # between a name and its value: the type, and the length
_ASF_NUMBERS = {
    "disc": "WM/PartOfSet\0".encode("utf-16-le"),
    "track": "WM/TrackNumber\0".encode("utf-16-le"),
}


def measure_file(path: str | os.PathLike[str], *, thorough: bool = True) -> Length:
    """Return how long the audio of a file is. It blocks.

    Args:
        path: the file.
        thorough: whether to read as much as it takes to be sure, often all of it, as a limit needs it. An estimate
            does with a few places of the file: what is hidden between them can make it wrong, what its name and its
            header say cannot.

    Raises:
        OSError: it cannot be read, or is not a regular file.
    """
    with open(path, "rb", buffering=0, opener=_open_regular) as file:
        return measure(file) if thorough else glance(file)


def read_tags(path: str | os.PathLike[str]) -> Tags:
    """Return a file's tags. Never raises: what cannot be read is left out, all of it without tinytag. It blocks."""
    try:
        from tinytag import TinyTag  # noqa: PLC0415  # an extra

        known = TinyTag.is_supported(path)
    except (ImportError, ValueError):
        return Tags()
    if not known:
        return Tags()
    try:
        with open(path, "rb", opener=_open_regular) as file:
            tags = _tags_of(TinyTag.get(path, file_obj=_Capped(file), duration=False))  # type: ignore[arg-type]
            return tags if tags.track and tags.disc else _complete(tags, Blocks(file))
    except Exception:  # noqa: BLE001  # a hostile file can make a parser raise anything
        return Tags()


def _tags_of(found: TinyTag) -> Tags:
    others = {name.removeprefix("_"): values[0] for name, values in found.other.items() if values}
    disc, discs = _numbers(found.disc or others.get("disc"), found.disc_total)
    track, tracks = _numbers(found.track or others.get("track"), found.track_total)
    return Tags(
        artist=_text(found.artist),
        albumartist=_text(found.albumartist or others.get("album artist") or others.get("album_artist")),
        album=_text(found.album),
        title=_text(found.title),
        disc=disc,
        discs=discs,
        track=track,
        tracks=tracks,
        year=_text(found.year or others.get("year") or others.get("date")),
        genre=_text(found.genre),
    )


def _numbers(number: object, total: object) -> tuple[int | None, int | None]:
    """Return a number and of how many it is one, from `3` or `3/12`, and a total that stands by itself."""
    digits = _OF.fullmatch(str(number))
    if digits is None:
        return None, _plausible(total)
    return _plausible(digits[1]), _plausible(digits[2]) or _plausible(total)


def _plausible(number: object) -> int | None:
    digits = str(number)
    return int(digits) or None if digits.isdecimal() and len(digits) <= _DIGITS else None


def _complete(tags: Tags, blocks: Blocks) -> Tags:
    """Return tags with the numbers in the form `3/12`, which tinytag leaves out in WAV and WMA files."""
    written: dict[str, str] = {}
    start = blocks.read(0, 4)
    if start == b"RIFF":
        written = _riff_numbers(blocks)
    elif start == _ASF:
        written = _asf_numbers(blocks.read(0, _INFO_CAP_BYTES))
    disc, discs = _numbers(tags.disc or written.get("disc"), tags.discs)
    track, tracks = _numbers(tags.track or written.get("track"), tags.tracks)
    return attrs.evolve(tags, disc=disc, discs=discs, track=track, tracks=tracks)


def _riff_numbers(blocks: Blocks) -> dict[str, str]:
    found = {}
    for chunk in walk(blocks, 12, "little", {}, b"data").named(b"LIST"):
        data = blocks.read(chunk.body.start, min(chunk.body.length, _INFO_CAP_BYTES))
        position = len(b"INFO")
        while data.startswith(b"INFO") and position + 8 <= len(data):
            name, size = struct.unpack_from("<4sI", data, position)
            if name in _RIFF_TRACKS:
                found["track"] = data[position + 8 : position + 8 + size].partition(b"\0")[0].decode("latin-1")
            position += 8 + size + size % 2
    return found


def _asf_numbers(header: bytes) -> dict[str, str]:
    """Find the text attributes by their names; their lengths are in front of them."""
    found = {}
    for field, name in _ASF_NUMBERS.items():
        _, there, rest = header.partition(name)
        if there and rest.startswith(_ASF_TEXT) and len(rest) > _ASF_HEADER_BYTES:
            size = int.from_bytes(rest[2:_ASF_HEADER_BYTES], "little")
            value = rest[_ASF_HEADER_BYTES : _ASF_HEADER_BYTES + size]
            found[field] = value.decode("utf-16-le", "replace").rstrip("\0")
    return found


def _text(value: object) -> str | None:
    """Return a tag on one line, without characters that act on a terminal."""
    if not isinstance(value, str):
        return None
    text = value[: 2 * _TEXT_CAP]
    unseen = unseen_in(text)
    shown = "".join(" " if place in unseen else character for place, character in enumerate(text))
    return " ".join(shown.split())[:_TEXT_CAP] or None


def _open_regular(path: str, flags: int) -> int:
    """Open a regular file; reading from anything else could block forever."""
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("not a regular file")
    return descriptor


class _Capped:
    """A file that limits the size and the number of reads."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left_reads = _READS_CAP
        self._size = os.fstat(file.fileno()).st_size
        self.seek = file.seek
        self.tell = file.tell

    def read(self, size: int = -1) -> bytes:
        self._left_reads -= 1
        left = max(0, self._size - self._file.tell())
        if self._left_reads < 0 or min(size if size >= 0 else left, left) > _READ_CAP_BYTES:
            raise ValueError("larger than any tag")
        return self._file.read(min(size, left) if size >= 0 else left)
