"""Decodes the bodies of replies: what compressed them, and how their text is written.

Nothing but plain UTF-8 is ever asked for, but proxies and frameworks send other forms, and a reply that cannot be read
may be the one that names a split. Where the content shows what it is, it decides, not the header: a transport or a
proxy may have decoded it already, or have forgotten to say that it did not.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from aistemsplitter_async.config import REPLY_AT_ONCE_BYTES, REPLY_CAP_BYTES
from aistemsplitter_async.errors import ProtocolError

_MOST_CODINGS = 4  # one inside another; real replies have one, two where a proxy adds its own
_MOST_MEMBERS = 16  # of a gzip file: each costs a copy of the rest
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP, _ZLIB, _RAW = 31, 15, -15  # zlib's `wbits`
# Charsets of one byte a character. Any other is a name that a server chose, and Python has codecs that are no charsets.
_CHARSETS = {"iso-8859-1": "latin-1", "latin1": "latin-1", "us-ascii": "latin-1", "windows-1252": "cp1252"}


def may_be_large(body: bytes, headers: Mapping[str, str]) -> bool:
    """Return whether a body may take long to be read: it is large, or it is compressed and may become so."""
    is_packed = headers.get("content-encoding", "identity") != "identity" or body.startswith(_GZIP_MAGIC)
    return is_packed or len(body) > REPLY_AT_ONCE_BYTES


def decode_text(body: bytes, headers: Mapping[str, str]) -> str:
    """Return the text of a body.

    Args:
        body: as it arrived.
        headers: of its reply, with names in lower case.

    Raises:
        ProtocolError: it is compressed in an unknown way or wrongly, larger than 1 MiB, or not text.
    """
    plain = _unpack(body, headers.get("content-encoding", ""))
    try:
        return plain.decode(json.detect_encoding(plain)).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        problem = str(error)
    charset = _CHARSETS.get(_charset(headers.get("content-type", "")))
    if charset is None:
        raise ProtocolError(f"the reply is not usable text: {problem[:200]}")
    return plain.decode(charset, "replace")


def _charset(content_type: str) -> str:
    parameters = (part.partition("=") for part in content_type.lower().split(";")[1:])
    return next((value.strip(" \"'") for name, _, value in parameters if name.strip() == "charset"), "")


def _unpack(body: bytes, header: str) -> bytes:
    codings = [coding for coding in header.lower().replace(" ", "").split(",") if coding not in ("", "identity")]
    if len(codings) > _MOST_CODINGS:
        raise ProtocolError(f"the reply is encoded {len(codings)} times")
    for coding in reversed(codings):
        if not _is_object(body):  # else it is decoded already, or was never encoded: some name a charset here
            body = _find_decoder(coding)(body)
    for _ in range(_MOST_CODINGS):
        body = _gunzip(body)
    if len(body) > REPLY_CAP_BYTES:
        raise ProtocolError(f"the reply is larger than {REPLY_CAP_BYTES} bytes")
    return body


def _find_decoder(coding: str) -> Callable[[bytes], bytes]:
    decoder = {"gzip": _gunzip, "x-gzip": _gunzip, "deflate": _undeflate, "br": _unbrotli}.get(coding)
    if decoder is None:
        raise ProtocolError(f"the reply is encoded as {coding[:40]!r}, which was not asked for")
    return decoder


def _gunzip(body: bytes) -> bytes:
    return _inflate(body, _GZIP) if body.startswith(_GZIP_MAGIC) else body


def _undeflate(body: bytes) -> bytes:
    """Decode what is called deflate: zlib's format, or without its header, as some servers send it."""
    has_header = len(body) > 1 and body[0] & 0x0F == zlib.DEFLATED and int.from_bytes(body[:2]) % 31 == 0
    return _inflate(body, _ZLIB if has_header else _RAW)


def _is_object(body: bytes) -> bool:
    # Neither a list nor after other white space than JSON's: brotli's output may begin with "[" or "\v{".
    return body.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n").startswith(b"{")


def _inflate(body: bytes, wbits: int) -> bytes:
    """Decompress up to a byte more than a reply may have. What ends early is returned: its reader will see."""
    plain = bytearray()
    for _ in range(_MOST_MEMBERS):
        stream = zlib.decompressobj(wbits)
        try:
            plain += stream.decompress(body, REPLY_CAP_BYTES + 1 - len(plain))
        except zlib.error as error:
            problem = str(error)
            break
        body = stream.unused_data
        if len(plain) > REPLY_CAP_BYTES or not (wbits == _GZIP and body.startswith(_GZIP_MAGIC)):
            return bytes(plain)
    else:
        problem = "too many parts"
    raise ProtocolError(f"the compressed reply is broken: {problem}")


def _unbrotli(body: bytes) -> bytes:
    try:
        brotli: Any = import_module("brotli")
    except ImportError:
        brotli = None
    if brotli is None:
        raise ProtocolError("the reply is encoded as 'br', which was not asked for; to read it, install brotli")
    try:
        return bytes(brotli.Decompressor().process(body, output_buffer_limit=REPLY_CAP_BYTES + 1))
    except (brotli.error, TypeError) as error:  # TypeError: before 1.2 it cannot be bounded
        problem = type(error).__name__
    raise ProtocolError(f"the compressed reply is broken: {problem}")
