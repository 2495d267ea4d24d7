"""What the body of an answer is: the bytes of a stem, those bytes encoded, or no stem at all.

`Content-Encoding` is often wrong: stores keep what an upload said (`aws-chunked`), frameworks put a charset there,
proxies decode and leave the header. So it only says what may have to be decoded, and the first bytes decide.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterable, Iterator

from aistemsplitter_async.config import STEM_BYTES_PER_SECOND, STEM_CAP_BYTES, STEM_LONGEST, STEM_SLACK_BYTES
from aistemsplitter_async.errors import DownloadError, IncompleteDownloadError

_PIECE_BYTES = 1024 * 1024  # decoded at a time: a few bytes may stand for gigabytes
_SLICE_BYTES = 64 * 1024  # given to zlib at a time, which copies the rest of it after every piece and member
_HEAD_BYTES = 16  # enough to tell what begins here
_MOST_CODINGS = 4  # one inside another; real answers have one, two where a proxy adds its own
_GZIP_MAGIC = b"\x1f\x8b"
# The codings of bytes, registered (RFC 9110 section 16.6.1) or in use, and how each begins if it always does so.
# Every other name is a charset, a transfer encoding of mail, or a mistake, and leaves the bytes as they are.
_CODINGS: dict[str, bytes | None] = {
    "gzip": _GZIP_MAGIC,
    "x-gzip": _GZIP_MAGIC,
    "deflate": None,
    "br": None,
    "zstd": b"\x28\xb5\x2f\xfd",
    "compress": b"\x1f\x9d",
    "x-compress": b"\x1f\x9d",
    "bzip2": b"BZh",
    "xz": b"\xfd7zXZ",
    **dict.fromkeys(("aes128gcm", "dcb", "dcz", "exi", "lzma", "pack200-gzip")),
}
_GZIP, _ZLIB, _RAW = 31, 15, -15  # zlib's `wbits`
# How audio begins: WAV, AIFF, ID3, FLAC, Ogg, CAF, MP4, Matroska, WMA, APE, WavPack, and frames of MPEG and ADTS, whose
# first byte begins nothing in deflate or brotli.
_AUDIO = re.compile(
    rb"RIFF|RF64|FORM|ID3|fLaC|OggS|caff|....ftyp|\x1aE\xdf\xa3|0&\xb2u|MAC |wvpk|\xff[\xe2-\xff]", re.DOTALL
)
_PAGE = re.compile(rb"(\xef\xbb\xbf)?\s*(<|\{\s*\")")  # HTML, XML or JSON; no audio begins like that


def read_codings(header: str) -> tuple[str, ...]:
    """Return what a `Content-Encoding` says may have to be decoded, in the order in which it was applied.

    Raises:
        IncompleteDownloadError: more codings than anybody applies.
    """
    names = (name.strip() for name in header.lower().split(","))
    codings = tuple(name for name in names if name in _CODINGS)
    if len(codings) > _MOST_CODINGS:
        raise IncompleteDownloadError(f"the server says that it encoded the file {len(codings)} times")
    return codings


def check_stem(stem: str, head: bytes | bytearray) -> None:
    """Check that a body that begins with `head` can be a stem's.

    Raises:
        IncompleteDownloadError: it is a page, as gateways and stores send it while a file is not there yet.
    """
    if _PAGE.match(head):
        raise IncompleteDownloadError(f"the server sent a page of text instead of the stem {stem!r}")


def longest_stem(duration_seconds: float | None) -> int:
    """Return how many bytes a stem of a split of this duration can have at most."""
    if duration_seconds is None or not 0 < duration_seconds <= STEM_LONGEST:
        return STEM_CAP_BYTES
    return math.ceil(duration_seconds * STEM_BYTES_PER_SECOND) + STEM_SLACK_BYTES


def build_too_long(stem: str, cap: int) -> DownloadError:
    """Return the error for a stem that has more than `cap` bytes."""
    return DownloadError(
        f"the stem {stem!r} is longer than {cap} bytes, which is more than audio of the split's length can have, so it "
        "was not kept. Its URL is in the split's stems, if you want it nonetheless",
        code="TOO_LONG",
    )


class Body:
    """Decodes one body as it comes."""

    def __init__(self, codings: Iterable[str] = ()) -> None:
        self._layers = [_Layer(coding) for coding in reversed(tuple(codings))]

    def decode(self, data: bytes | bytearray, *, last: bool = False) -> Iterator[bytes | bytearray]:
        """Yield the bytes that `data`, the next bytes of the body, stand for, in pieces of about a megabyte.

        Args:
            data: may be empty.
            last: whether the body ends with them.

        Raises:
            IncompleteDownloadError: it is encoded wrongly, or ends before its coding does.
            DownloadError: it is encoded in a way that cannot be decoded here (`code` is `ENCODED`).
        """
        pieces: Iterator[bytes | bytearray] = iter((data,) if data else ())
        for layer in self._layers:
            pieces = layer.decode(pieces, last=last)
        return pieces


class _Layer:
    """One coding, if that is what the first bytes are."""

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._head: bytearray | None = bytearray()  # until it is known what it is
        self._inflate: _Inflate | None = None

    def decode(self, pieces: Iterator[bytes | bytearray], *, last: bool) -> Iterator[bytes | bytearray]:
        for piece in pieces:
            if self._head is None:
                yield from self._pass_on(piece)
            else:
                self._head += piece
                if len(self._head) >= _HEAD_BYTES:
                    yield from self._begin(self._head)
        if last:
            if self._head:
                yield from self._begin(self._head)
            if self._inflate is not None and not self._inflate.is_complete:
                raise IncompleteDownloadError(f"the file ended in the middle of its encoding {self._coding!r}")

    def _begin(self, head: bytearray) -> Iterator[bytes | bytearray]:
        self._inflate, self._head = _find_decoder(self._coding, head), None
        return self._pass_on(head)

    def _pass_on(self, piece: bytes | bytearray) -> Iterator[bytes | bytearray]:
        return iter((piece,)) if self._inflate is None else self._inflate.decode(piece)


def _find_decoder(coding: str, head: bytearray) -> _Inflate | None:
    """Return what decodes a body that begins with `head`, `None` if it is not encoded."""
    magic = _CODINGS[coding]
    if _AUDIO.match(head) or (magic is not None and not head.startswith(magic)):
        return None
    if coding in ("gzip", "x-gzip"):
        return _Inflate(_GZIP, coding)
    if coding == "deflate":  # zlib's format, or without its header, as some servers send it
        has_header = head[0] & 0x0F == zlib.DEFLATED and int.from_bytes(head[:2]) % 31 == 0
        return _Inflate(_ZLIB if has_header else _RAW, coding)
    raise DownloadError(
        f"the server sent the stem encoded as {coding!r}, though it was asked not to, and that cannot be decoded here. "
        "Its URL is in the split's stems: download it with a program that decodes it, or ask the service to send it "
        "without Content-Encoding",
        code="ENCODED",
    )


class _Inflate:
    """Decodes gzip or deflate, in bounded pieces."""

    def __init__(self, wbits: int, coding: str) -> None:
        self._wbits = wbits
        self._coding = coding
        self._stream = zlib.decompressobj(wbits)

    @property
    def is_complete(self) -> bool:
        return self._stream.eof

    def decode(self, data: bytes | bytearray) -> Iterator[bytes]:
        for start in range(0, len(data), _SLICE_BYTES):
            yield from self._decode(bytes(data[start : start + _SLICE_BYTES]))

    def _decode(self, left: bytes) -> Iterator[bytes]:
        piece = b""
        while left or len(piece) == _PIECE_BYTES:  # a full piece: more may wait inside
            if self._stream.eof and left:
                left = self._begin_member(left)
                if not left:
                    return
            try:
                piece = self._stream.decompress(left, _PIECE_BYTES)
            except zlib.error as error:
                raise self._wrong(str(error)) from None
            left = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail
            if piece:
                yield piece

    def _begin_member(self, left: bytes) -> bytes:
        """Begin the next member of a gzip file. Other bytes after its end, which a checksum confirms, are not of it."""
        if self._wbits != _GZIP:
            raise self._wrong("bytes after its end")
        left = left.lstrip(b"\0")
        if not left or not _GZIP_MAGIC.startswith(left[:2]):
            return b""
        self._stream = zlib.decompressobj(self._wbits)
        return left

    def _wrong(self, problem: str) -> IncompleteDownloadError:
        return IncompleteDownloadError(f"the file is encoded wrongly as {self._coding!r}: {problem[:200]}")
